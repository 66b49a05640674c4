package tunnel

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// A link with Inject needs no rule in the VM's firewall: the host's packets leave the pilot by a raw socket, as if the VM
// itself had sent them, and so meet none of the rules about forwarding. The answers are forwarded, as part of connections
// that the VM made; whether a firewall lets them is seen by asking containers (prover), not by reading rules.

const (
	protocolICMP   = 1
	protocolICMPv6 = 58
)

// errTooBig: the packet is larger than what the networks behind the VM take.
var errTooBig = errors.New("packet is too big")

// fragments cuts p, an IPv4 packet with the header h, into fragments of at most mtu bytes (RFC 791 3.2), ignoring its
// don't-fragment. Options are in each of them. Nothing is sent where mtu has no room for a header and 8 bytes.
func fragments(p []byte, h header, id uint16, mtu int, send func([]byte) error) error {
	room := (mtu - h.len) &^ 7
	if room < 8 {
		return errTooBig
	}
	flags := binary.BigEndian.Uint16(p[6:])
	if old := binary.BigEndian.Uint16(p[4:]); old != 0 {
		id = old
	}
	f := make([]byte, h.len, h.len+room)
	for rest, at := p[h.len:], int(flags&0x1fff); len(rest) > 0; at += room / 8 {
		n := min(room, len(rest))
		f = append(append(f[:0], p[:h.len]...), rest[:n]...)
		rest = rest[n:]
		place := uint16(at) | flags&0x2000
		if len(rest) > 0 {
			place |= 0x2000 // more
		}
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		binary.BigEndian.PutUint16(f[4:], id)
		binary.BigEndian.PutUint16(f[6:], place)
		sumHeader(f[:h.len])
		if err := send(f); err != nil {
			return err
		}
	}
	return nil
}

// tooBig makes the message from an address of ours that p is larger than mtu (RFC 792, RFC 4443 3.2).
func tooBig(p []byte, h header, from netip.Addr, mtu int) []byte {
	if h.src.Is4() {
		body := make([]byte, 8, 8+h.len+8)
		body[0], body[1] = 3, 4
		binary.BigEndian.PutUint16(body[6:], uint16(mtu))
		return message(from, h.src, append(body, p[:min(len(p), h.len+8)]...))
	}
	body := make([]byte, 8, minMTU)
	body[0] = 2
	binary.BigEndian.PutUint32(body[4:], uint32(mtu))
	return message(from, h.src, append(body, p[:min(len(p), minMTU-48)]...))
}

// message puts an IP header before an ICMP message, or an ICMPv6 one, and sums it.
func message(src, dst netip.Addr, icmp []byte) []byte {
	icmp[2], icmp[3] = 0, 0
	if src.Is4() {
		binary.BigEndian.PutUint16(icmp[2:], ^fold(sum(icmp, 0)))
		p := make([]byte, 20, 20+len(icmp))
		p[0], p[8], p[9] = 0x45, 64, protocolICMP
		binary.BigEndian.PutUint16(p[2:], uint16(20+len(icmp)))
		copy(p[12:], src.AsSlice())
		copy(p[16:], dst.AsSlice())
		sumHeader(p)
		return append(p, icmp...)
	}
	p := make([]byte, 40, 40+len(icmp))
	p[0], p[6], p[7] = 0x60, protocolICMPv6, 64
	binary.BigEndian.PutUint16(p[4:], uint16(len(icmp)))
	copy(p[8:], src.AsSlice())
	copy(p[24:], dst.AsSlice())
	p = append(p, icmp...)
	h, _ := parse(p)
	binary.BigEndian.PutUint16(p[42:], ^fold(sum(p[40:], h.pseudoSum(p))))
	return p
}

// sumHeader makes the checksum of an IPv4 header.
func sumHeader(head []byte) {
	head[10], head[11] = 0, 0
	binary.BigEndian.PutUint16(head[10:], ^fold(sum(head, 0)))
}

// prover asks containers for an answer in the host's name, and keeps what they answer from the host.
type prover struct {
	link     Link
	send     func(packet []byte) error // as this machine's own; set before the first question
	token    [16]byte                  // in our questions and nobody else's
	answers  chan netip.Addr
	admitted atomic.Pointer[[]netip.Prefix]
}

func newProver(l Link) *prover {
	p := &prover{link: l, answers: make(chan netip.Addr, 64)}
	rand.Read(p.token[:])
	return p
}

// admits tells whether the host may send to an address: one of the link itself, or in what was admitted.
func (p *prover) admits(to netip.Addr) bool {
	nets := p.admitted.Load()
	return slices.Contains(p.link.Pilot, to) ||
		nets != nil && slices.ContainsFunc(*nets, func(n netip.Prefix) bool { return n.Contains(to) })
}

// report admits and tells what is reached: it is open once a container has answered. Of was, the firewall's report, the
// pilot's version and rules are kept.
func (p *prover) report(a Admission, was Report, done <-chan struct{}) Report {
	r := Report{Backend: "inject", Changed: was.Changed, Rules: was.Rules}
	nets := slices.Clone(a.Subnets)
	if len(a.Sources) == 0 {
		nets = nil
	}
	p.admitted.Store(&nets)
	probe := slices.DeleteFunc(slices.Clone(a.Probe), func(to netip.Addr) bool { return !p.admits(to) })
	if len(nets) == 0 {
		return r
	}
	if len(probe) == 0 {
		r.Hint = "open as soon as a container has answered; there is none to ask"
		return r
	}
	silent, refused := p.prove(probe, done)
	r.Silent = silent
	switch r.Open = len(silent) < len(probe); {
	case refused != nil && !r.Open:
		r.Error = fmt.Sprintf("the VM does not let the pilot send to %v: %v", probe[0], refused)
		r.Hint = "in the VM, look for a firewall rule about what it sends itself: nft list ruleset"
	case !r.Open:
		r.Error = fmt.Sprintf("no answer comes back from %v: the VM's firewall drops what containers send", probe)
		r.Hint = "in the VM, end the firewall that does so, or let it forward answers: nft ... ct state established,related accept"
	case len(silent) > 0:
		r.Hint = fmt.Sprintf("no answer from %v: internal networks give none this way", silent)
	}
	return r
}

// question is an echo request.
func (p *prover) question(from, to netip.Addr) []byte {
	icmp := append([]byte{8, 0, 0, 0, p.token[0], p.token[1], 0, 1}, p.token[:]...)
	if to.Is6() {
		icmp[0] = 128
	}
	return message(from, to, icmp)
}

// took tells whether a packet is the answer to one of our questions, and notes it.
func (p *prover) took(packet []byte) bool {
	h, ok := parse(packet)
	if !ok || len(packet)-h.len != 8+len(p.token) || !bytes.Equal(packet[h.len+8:], p.token[:]) {
		return false
	}
	if t := packet[h.len]; h.protocol == protocolICMP && t == 0 || h.protocol == protocolICMPv6 && t == 129 {
		select {
		case p.answers <- h.src:
		default:
		}
		return true
	}
	return false
}

// prove asks each of the addresses up to three times within a second, and returns those that did not answer. refused is
// why the last question that could not be sent was not.
func (p *prover) prove(to []netip.Addr, done <-chan struct{}) (silent []netip.Addr, refused error) {
	silent = slices.Clone(to)
	for len(p.answers) > 0 { // late ones to what was asked before
		<-p.answers
	}
	for range 3 {
		for _, a := range silent {
			if i := slices.IndexFunc(p.link.Host, func(h netip.Addr) bool { return h.Is4() == a.Is4() }); i >= 0 {
				if err := p.send(p.question(p.link.Host[i], a)); err != nil {
					refused = err
				}
			}
		}
		for again := time.After(time.Second / 3); again != nil && len(silent) > 0; {
			select {
			case a := <-p.answers:
				silent = slices.DeleteFunc(silent, func(s netip.Addr) bool { return s == a })
			case <-again:
				again = nil
			case <-done:
				return silent, refused
			}
		}
	}
	return silent, refused
}
