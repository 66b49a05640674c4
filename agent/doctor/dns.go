package doctor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	typeA    = dnsmessage.TypeA
	typeAAAA = dnsmessage.TypeAAAA
	typeSOA  = dnsmessage.TypeSOA
)

// ask asks a DNS server one question over "udp" or "tcp". UDP is asked three times, as a packet may be lost.
func ask(ctx context.Context, network string, server netip.AddrPort, name string, qtype dnsmessage.Type) Reply {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	r := Reply{Asked: true}
	tries := 1
	if network == "udp" {
		tries = 3
	}
	for range tries {
		tctx, cancel := context.WithTimeout(ctx, dnsTimeout/time.Duration(tries))
		r.Rcode, r.Addrs, r.Err = exchange(tctx, network, server, name, qtype)
		cancel()
		if r.Err == nil {
			break
		}
	}
	return r
}

func exchange(ctx context.Context, network string, server netip.AddrPort, name string, qtype dnsmessage.Type) (string, []netip.Addr, error) {
	q, err := dnsmessage.NewName(strings.TrimSuffix(name, ".") + ".")
	if err != nil {
		return "", nil, fmt.Errorf("%.80q is no DNS name", name)
	}
	id := uint16(rand.Uint32())
	msg, err := (&dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: q, Type: qtype, Class: dnsmessage.ClassINET}},
	}).Pack()
	if err != nil {
		return "", nil, fmt.Errorf("%.80q is no DNS name", name)
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, server.String())
	if err != nil {
		return "", nil, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	var answer []byte
	if network == "tcp" { // RFC 1035, 4.2.2: the length goes first
		if _, err = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...)); err != nil {
			return "", nil, err
		}
		var size [2]byte
		if _, err = io.ReadFull(conn, size[:]); err != nil {
			return "", nil, err
		}
		answer = make([]byte, binary.BigEndian.Uint16(size[:]))
		_, err = io.ReadFull(conn, answer)
	} else {
		if _, err = conn.Write(msg); err != nil {
			return "", nil, err
		}
		answer = make([]byte, 1<<16)
		var n int
		n, err = conn.Read(answer)
		answer = answer[:n]
	}
	if err != nil {
		return "", nil, err
	}
	return readReply(answer, id)
}

// readReply takes the addresses out of a DNS message (RFC 1035, 4.1).
func readReply(answer []byte, id uint16) (rcode string, addrs []netip.Addr, err error) {
	var p dnsmessage.Parser
	h, err := p.Start(answer)
	if err != nil {
		return "", nil, fmt.Errorf("what answers there speaks no DNS: %w", err)
	}
	if h.ID != id || !h.Response {
		return "", nil, errors.New("what answers there did not answer our question")
	}
	rcode = map[dnsmessage.RCode]string{
		dnsmessage.RCodeSuccess: "NOERROR", dnsmessage.RCodeNameError: "NXDOMAIN", dnsmessage.RCodeRefused: "REFUSED", dnsmessage.RCodeServerFailure: "SERVFAIL",
	}[h.RCode]
	if rcode == "" {
		rcode = fmt.Sprintf("RCODE%d", h.RCode)
	}
	if err := p.SkipAllQuestions(); err != nil {
		return "", nil, fmt.Errorf("what answers there speaks no DNS: %w", err)
	}
	for {
		r, err := p.Answer()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil {
			return "", nil, fmt.Errorf("what answers there speaks no DNS: %w", err)
		}
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			addrs = append(addrs, netip.AddrFrom4(b.A))
		case *dnsmessage.AAAAResource:
			addrs = append(addrs, netip.AddrFrom16(b.AAAA))
		}
	}
	return rcode, sorted(addrs), nil
}

// lookUp asks the OS for a name's addresses, as any program does. On Linux that is the C library's way: Go's own knows less of
// nsswitch.conf.
func lookUp(ctx context.Context, name string) Reply {
	r := Reply{Asked: true}
	if getent, err := exec.LookPath("getent"); err == nil {
		out, err := exec.CommandContext(ctx, getent, "ahosts", name).Output()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
			r.Err = fmt.Errorf("no answer: %w", errors.Join(ctx.Err(), err))
			return r
		}
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); len(f) > 0 {
				if a, err := netip.ParseAddr(f[0]); err == nil {
					r.Addrs = append(r.Addrs, a.Unmap())
				}
			}
		}
	} else {
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name+".")
		var nothing *net.DNSError
		if err != nil && !(errors.As(err, &nothing) && nothing.IsNotFound) {
			r.Err = err
			return r
		}
		for _, a := range addrs {
			r.Addrs = append(r.Addrs, a.Unmap())
		}
	}
	r.Addrs = sorted(r.Addrs)
	return r
}

func sorted(addrs []netip.Addr) []netip.Addr {
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}
