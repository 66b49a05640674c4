package platform

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

func TestPingLoopback(t *testing.T) {
	needWorld(t)
	for _, addr := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1"} {
		rtt, err := Ping(t.Context(), netip.MustParseAddr(addr))
		if err != nil || rtt <= 0 {
			t.Errorf("Ping(%s) = %v, %v", addr, rtt, err)
		}
	}
}

func TestPingNoRoute(t *testing.T) {
	needWorld(t)
	if rtt, err := Ping(t.Context(), netip.MustParseAddr("198.51.100.1")); !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("Ping = %v, %v, want ENETUNREACH", rtt, err)
	}
}

// far is the other end of a link: it sees what this host sends to 192.0.2.0/24 and may answer it.
type far struct{ *os.File }

var (
	near      = netip.MustParsePrefix("192.0.2.1/24")
	there     = netip.MustParseAddr("192.0.2.2")
	elsewhere = netip.MustParseAddr("192.0.2.3")
)

func newFar(t *testing.T) far {
	t.Helper()
	needWorld(t)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		lacking(t, "needs /dev/net/tun: "+err.Error())
	}
	ifr, err := unix.NewIfreq("far0")
	check(t, err)
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	check(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
	f := far{os.NewFile(uintptr(fd), "far0")}
	t.Cleanup(func() { f.Close() })
	link, err := netlink.LinkByName("far0")
	check(t, err)
	addr, err := netlink.ParseAddr(near.String())
	check(t, err)
	check(t, netlink.AddrAdd(link, addr))
	check(t, netlink.LinkSetUp(link))
	return f
}

// request waits for the next echo request.
func (f far) request(t *testing.T) *icmp.Echo {
	t.Helper()
	buf := make([]byte, 1500)
	f.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		n, err := f.Read(buf)
		if err != nil {
			t.Fatalf("waiting for an echo request: %v", err)
		}
		h, err := ipv4.ParseHeader(buf[:n])
		if err != nil || h.Version != 4 || h.Protocol != 1 {
			continue // neighbour discovery and the like
		}
		m, err := icmp.ParseMessage(1, buf[h.Len:n])
		if err == nil && m.Type == ipv4.ICMPTypeEcho {
			return m.Body.(*icmp.Echo)
		}
	}
}

// send gives this host an ICMP message from addr.
func (f far) send(t *testing.T, from netip.Addr, body []byte) {
	t.Helper()
	h := &ipv4.Header{Version: 4, Len: 20, TotalLen: 20 + len(body), TTL: 64, Protocol: 1, Src: from.AsSlice(), Dst: near.Addr().AsSlice()}
	b, err := h.Marshal()
	check(t, err)
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	b[10], b[11] = byte(^sum>>8), byte(^sum)
	_, err = f.Write(append(b, body...))
	check(t, err)
}

func reply(t *testing.T, id, seq int) []byte {
	t.Helper()
	b, err := (&icmp.Message{Type: ipv4.ICMPTypeEchoReply, Body: &icmp.Echo{ID: id, Seq: seq, Data: []byte("fairlead")}}).Marshal(nil)
	check(t, err)
	return b
}

type pong struct {
	rtt time.Duration
	err error
}

func ping(ctx context.Context) <-chan pong {
	done := make(chan pong, 1)
	go func() {
		rtt, err := Ping(ctx, there)
		done <- pong{rtt, err}
	}()
	return done
}

func TestPingNobody(t *testing.T) {
	f := newFar(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := ping(ctx)
	f.request(t)
	f.request(t) // it asks again
	cancel()
	if p := <-done; p.err == nil {
		t.Errorf("Ping = %v, want an error", p.rtt)
	}
	if rtt, err := Ping(ctx, there); err == nil {
		t.Errorf("Ping with an ended context = %v, want an error", rtt)
	}
}

// TestPingSlow: the reply to an earlier request counts, with its own time.
func TestPingSlow(t *testing.T) {
	f := newFar(t)
	done := ping(t.Context())
	first, begin := f.request(t), time.Now()
	second := f.request(t)
	if first.Seq == second.Seq {
		t.Errorf("two requests with number %d", first.Seq)
	}
	least := time.Since(begin)
	f.send(t, there, reply(t, first.ID, first.Seq))
	if p := <-done; p.err != nil || p.rtt < least {
		t.Errorf("Ping = %v, %v, want at least %v", p.rtt, p.err, least)
	}
}

// TestPingForeign: replies to others, from others, and nonsense are no answer.
func TestPingForeign(t *testing.T) {
	f := newFar(t)
	done := ping(t.Context())
	r := f.request(t)
	good := reply(t, r.ID, r.Seq)
	f.send(t, elsewhere, good)
	f.send(t, there, reply(t, r.ID+1, r.Seq))
	f.send(t, there, reply(t, r.ID, r.Seq+1000)) // never asked
	f.send(t, there, good[:3])
	f.send(t, there, nil)
	f.request(t) // none of them was taken
	select {
	case p := <-done:
		t.Fatalf("Ping took a foreign packet for its answer: %v, %v", p.rtt, p.err)
	default:
	}
	f.send(t, there, good)
	if p := <-done; p.err != nil {
		t.Error(p.err)
	}
}
