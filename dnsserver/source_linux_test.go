package dnsserver

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
)

// TestSources runs in a network namespace of its own, where the host has 10.9.8.7 (the server's) and 10.9.8.8 (somebody else's).
func TestSources(t *testing.T) {
	const inside = "FAIRLEAD_TEST_NETNS"
	if os.Getenv(inside) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestSources$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, syscall.EPERM) && os.Getenv("CI") != "true" {
			t.Skip("needs root for a network namespace")
		}
		if err != nil {
			t.Fatalf("in a network namespace: %v\n%s", err, out)
		}
		return
	}

	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"10.9.8.7/32", "10.9.8.8/32"} {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.AddrAdd(lo, addr); err != nil {
			t.Fatal(err)
		}
	}
	server := serve(t, netip.MustParseAddrPort("10.9.8.7:0"), nil)

	udp := func(from string) net.Conn {
		conn, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(from)}, net.UDPAddrFromAddrPort(server))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	tcp := func(from string) net.Conn {
		conn, err := net.DialTCP("tcp", &net.TCPAddr{IP: net.ParseIP(from)}, net.TCPAddrFromAddrPort(server))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		return conn
	}

	stranger := udp("10.9.8.8")
	packed, err := question("web.docker", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Write(packed); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"10.9.8.7", "127.0.0.1", "127.1.2.3"} {
		for _, conn := range []net.Conn{udp(from), tcp(from)} {
			m, _, err := new(dns.Client).ExchangeWithConn(question("web.docker", dns.TypeA), &dns.Conn{Conn: conn})
			if err != nil || len(m.Answer) != 1 {
				t.Errorf("from %s: %v\n%v", conn.LocalAddr(), err, m)
			}
		}
	}
	// One reader serves the UDP queries in turn, and loopback delivers at once: a reply to the stranger would be here by now.
	stranger.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if n, err := stranger.Read(make([]byte, 512)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("from 10.9.8.8 over UDP: %d bytes, %v", n, err)
	}
	if got, err := io.ReadAll(tcp("10.9.8.8")); len(got) > 0 || err != nil {
		t.Errorf("from 10.9.8.8 over TCP: %x, %v", got, err)
	}
}
