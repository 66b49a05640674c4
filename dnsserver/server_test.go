package dnsserver

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// testZone has web.docker and the 200 replicas of many.docker: too many for any UDP reply.
func testZone() *Zone {
	z := NewZone(ZoneConfig{Domains: []string{"docker", "17.172.in-addr.arpa", "d.f.ip6.arpa"}, Server: loopback.Addr()})
	many := new(Record)
	for i := range 200 {
		many.Addrs = append(many.Addrs, netip.AddrFrom4([4]byte{172, 18, 0, byte(i)}))
	}
	z.Update(map[string]*Record{"web.docker": {Addrs: addrs("172.17.0.2 fd00::2"), TXT: []string{"v=1"}}, "many.docker": many})
	z.Update(map[string]*Record{
		"shop.docker":                               {Addrs: addrs("172.19.0.2"), Wildcard: true},
		"_http._tcp.shop.docker":                    {SRV: []SRV{{Priority: 1, Weight: 2, Port: 80, Target: "shop.docker"}}},
		"2.0.17.172.in-addr.arpa":                   {PTR: []string{"web.docker"}},
		ReverseName(netip.MustParseAddr("fd00::2")): {PTR: []string{"web.docker"}},
	})
	return z
}

// serve runs a server until the test ends, which also checks that Serve returns nil then.
func serve(t *testing.T, addr netip.AddrPort, change func(*Server)) netip.AddrPort {
	t.Helper()
	s, err := Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, testZone()) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("serve does not end")
		}
	})
	return s.Addr()
}

func TestServe(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		t.Run(ip, func(t *testing.T) {
			if l, err := net.Listen("tcp", net.JoinHostPort(ip, "0")); err != nil {
				t.Skipf("no %s on this host: %v", ip, err)
			} else {
				l.Close()
			}
			addr := serve(t, netip.AddrPortFrom(netip.MustParseAddr(ip), 0), nil)
			for _, network := range []string{"udp", "tcp"} {
				c := dns.Client{Net: network}
				m, _, err := c.Exchange(question("WEB.docker", dns.TypeA), addr.String())
				if err != nil {
					t.Fatal(err)
				}
				if len(m.Answer) != 1 || m.Answer[0].String() != "WEB.docker.\t1\tIN\tA\t172.17.0.2" || !m.Authoritative {
					t.Errorf("%s:\n%v", network, m)
				}
			}
		})
	}
}

func TestTruncation(t *testing.T) {
	addr := serve(t, loopback, nil)
	for _, c := range []struct {
		network  string
		size     uint16 // of EDNS0; 0: none
		min, max int    // answers
		tc       bool
	}{
		{"udp", 0, 28, 31, true}, // 512 bytes, 16 a record
		{"udp", 100, 25, 31, true},
		{"udp", 512, 25, 31, true},
		{"udp", 1232, 70, 76, true},
		{"udp", 65535, 70, 76, true},
		{"tcp", 0, 200, 200, false},
		{"tcp", 512, 200, 200, false},
	} {
		req := question("many.docker", dns.TypeA)
		if c.size > 0 {
			req.SetEdns0(c.size, false)
		}
		client := dns.Client{Net: c.network, UDPSize: 65535}
		m, _, err := client.Exchange(req, addr.String())
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		if n := len(m.Answer); m.Truncated != c.tc || n < c.min || n > c.max || (m.IsEdns0() != nil) != (c.size > 0) {
			t.Errorf("%+v: %d answers, tc %v", c, n, m.Truncated)
		}
	}
}

// TestPipelining sends many queries over one connection, the last in pieces, before it reads a reply.
func TestPipelining(t *testing.T) {
	addr := serve(t, loopback, nil)
	conn, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	const n = 500
	var out []byte
	for i := range n {
		req := question("web.docker", dns.TypeA)
		req.Id = uint16(i)
		packed, _ := req.Pack()
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(packed))), packed...)
	}
	for _, part := range [][]byte{out[:len(out)-20], out[len(out)-20 : len(out)-19], out[len(out)-19:]} {
		if _, err := conn.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	c := dns.Conn{Conn: conn}
	for i := range n {
		m, err := c.ReadMsg()
		if err != nil {
			t.Fatalf("reply %d: %v", i, err)
		}
		if m.Id != uint16(i) || len(m.Answer) != 1 {
			t.Fatalf("reply %d:\n%v", i, m)
		}
	}
}

// TestTCPNonsense: a client that says nothing, half a message, or no message is hung up on without a byte.
func TestTCPNonsense(t *testing.T) {
	addr := serve(t, loopback, func(s *Server) { s.idle = 50 * time.Millisecond })
	reply, _ := new(dns.Msg).SetReply(question("web.docker", dns.TypeA)).Pack()
	for name, bytes := range map[string][]byte{
		"silence":      nil,
		"half length":  {0},
		"half message": {0, 40, 1, 2, 3},
		"too short":    {0, 4, 1, 2, 3, 4},
		"empty":        {0, 0},
		"a reply":      append([]byte{0, byte(len(reply))}, reply...),
	} {
		conn, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		conn.Write(bytes)
		if got, err := io.ReadAll(conn); len(got) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: got %x, %v", name, got, err)
		}
		conn.Close()
	}
}

// TestUDPSilence: what deserves no reply gets none; the reply to the query after it comes first.
func TestUDPSilence(t *testing.T) {
	addr := serve(t, loopback, nil)
	conn, err := net.Dial("udp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	reply, _ := new(dns.Msg).SetReply(question("web.docker", dns.TypeA)).Pack()
	for _, msg := range [][]byte{{}, {1, 2, 3}, reply} {
		if _, err := conn.Write(msg); err != nil {
			t.Fatal(err)
		}
	}
	req := question("web.docker", dns.TypeAAAA)
	m, _, err := new(dns.Client).ExchangeWithConn(req, &dns.Conn{Conn: conn})
	if err != nil || m.Id != req.Id {
		t.Fatalf("%v\n%v", err, m)
	}
}

// TestBursts: queries that come singly, in floods and after silence are all answered, each to its own sender.
func TestBursts(t *testing.T) {
	addr := serve(t, loopback, nil)
	var clients sync.WaitGroup
	for client := range 4 {
		clients.Go(func() {
			conn, err := dns.DialTimeout("udp", addr.String(), time.Second)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			rnd := rand.New(rand.NewPCG(uint64(client), 4))
			for burst := range 200 {
				conn.SetDeadline(time.Now().Add(20 * time.Second))
				ids := make(map[uint16]bool)
				for range 1 + rnd.IntN(1+rnd.IntN(40)) {
					req := question("web.docker", dns.TypeA)
					req.Id = uint16(client<<14 | burst<<6 | len(ids))
					ids[req.Id] = true
					if err := conn.WriteMsg(req); err != nil {
						t.Error(err)
						return
					}
				}
				for len(ids) > 0 {
					m, err := conn.ReadMsg()
					if err != nil || !ids[m.Id] || len(m.Answer) != 1 {
						t.Errorf("client %d, burst %d: %d replies missing: %v\n%v", client, burst, len(ids), err, m)
						return
					}
					delete(ids, m.Id)
				}
			}
		})
	}
	clients.Wait()
}

// TestServeEnds with clients of every mood connected: idle, in the midst of a query, not reading its replies.
func TestServeEnds(t *testing.T) {
	s, err := Listen(loopback)
	if err != nil {
		t.Fatal(err)
	}
	s.idle = time.Hour // so that only the end of ctx ends them
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, testZone()) }()

	dial := func() net.Conn {
		conn, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		return conn
	}
	idle, half, deaf := dial(), dial(), dial()
	half.Write([]byte{0, 40, 1, 2, 3})
	packed, _ := question("many.docker", dns.TypeA).Pack()
	query := append([]byte{0, byte(len(packed))}, packed...)
	deaf.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)) // until the buffers both ways are full
	for {
		if _, err := deaf.Write(query); err != nil {
			break
		}
	}
	idle.Write(query)
	if _, err := (&dns.Conn{Conn: idle}).ReadMsg(); err != nil {
		t.Fatalf("a deaf client stops the others: %v", err)
	}

	cancel()
	select {
	case err := <-served:
		if err != nil {
			t.Errorf("serve: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("serve does not end")
	}
	if got, err := io.ReadAll(idle); len(got) > 0 || err != nil {
		t.Errorf("idle client: %x, %v", got, err)
	}
	again, err := Listen(s.Addr()) // both ports are free again
	if err != nil {
		t.Fatal(err)
	}
	done, cancel := context.WithCancel(context.Background())
	cancel()
	if err := again.Serve(done, testZone()); err != nil {
		t.Errorf("serve with a done context: %v", err)
	}
	if err := again.Serve(t.Context(), testZone()); !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), again.Addr().String()) {
		t.Errorf("serve on closed sockets: %v", err)
	}
}

// TestListenInUse: the error tells which protocol and address, and is EADDRINUSE; no half of a server stays behind.
func TestListenInUse(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		var taken net.Addr
		var release func() error
		if network == "tcp" {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			taken, release = l.Addr(), l.Close
		} else {
			c, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			taken, release = c.LocalAddr(), c.Close
		}
		addr := netip.MustParseAddrPort(taken.String())
		_, err := Listen(addr)
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), network+" "+addr.String()) {
			t.Errorf("%s taken: %v", network, err)
		}
		release()
		s, err := Listen(addr)
		if err != nil {
			t.Fatalf("after release: %v", err)
		}
		s.udp.Close()
		s.tcp.Close()
	}
	for _, addr := range []netip.AddrPort{{}, netip.MustParseAddrPort("0.0.0.0:0"), netip.MustParseAddrPort("[::]:0"), netip.MustParseAddrPort("[::ffff:0.0.0.0]:0")} {
		if s, err := Listen(addr); err == nil {
			t.Errorf("listens on %v", s.Addr())
		}
	}
}

func TestBindError(t *testing.T) {
	for errno, inUse := range map[syscall.Errno]bool{10048: true, 10013: true, 10049: false, syscall.EADDRINUSE: true, syscall.EACCES: false} {
		err := bindError(&net.OpError{Op: "listen", Net: "tcp", Err: os.NewSyscallError("bind", errno)})
		if errors.Is(err, syscall.EADDRINUSE) != inUse || !errors.Is(err, errno) || !strings.HasPrefix(err.Error(), "listen tcp: bind: ") {
			t.Errorf("%d: %v", errno, err)
		}
	}
}

func TestQuery(t *testing.T) {
	addr := serve(t, loopback, nil)
	for _, c := range []struct {
		name, qtype, rcode string
		answers, authority int
		first              string
	}{
		{"web.docker", "", "NOERROR", 1, 0, "web.docker.\t1\tIN\tA\t172.17.0.2"},
		{"web.docker.", "aaaa", "NOERROR", 1, 0, "web.docker.\t1\tIN\tAAAA\tfd00::2"},
		{"web.docker", "TYPE28", "NOERROR", 1, 0, "web.docker.\t1\tIN\tAAAA\tfd00::2"},
		{"web.docker", "MX", "NOERROR", 0, 1, ""},
		{"nope.docker", "A", "NXDOMAIN", 0, 1, ""},
		{"example.com", "A", "REFUSED", 0, 0, ""},
		{"many.docker", "A", "NOERROR", 200, 0, ""}, // by TCP
	} {
		r, err := Query(t.Context(), addr, c.name, c.qtype)
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		if r.Rcode != c.rcode || len(r.Answers) != c.answers || len(r.Authority) != c.authority || c.first != "" && r.Answers[0] != c.first || r.Elapsed <= 0 {
			t.Errorf("%+v: %+v", c, r)
		}
	}
	text, err := json.Marshal(Reply{Rcode: "NOERROR", Answers: recordTexts(nil), Authority: recordTexts(nil), Elapsed: 1})
	if want := `{"rcode":"NOERROR","answers":[],"authority":[],"elapsed_ns":1}`; err != nil || string(text) != want {
		t.Errorf("json: %s, %v", text, err)
	}
}

func TestQueryFails(t *testing.T) {
	s, err := Listen(loopback)
	if err != nil {
		t.Fatal(err)
	}
	s.udp.Close()
	s.tcp.Close() // nobody listens there any more
	for _, c := range [][3]string{
		{"web.docker", "NOTYPE", `"NOTYPE"`}, {"web.docker", "TYPE65536", `"TYPE65536"`}, {"web.docker", "TYPE1x", `"TYPE1x"`},
		{"a..b", "A", "no domain name"}, {"", "A", "no domain name"}, {strings.Repeat("a", 64) + ".docker", "A", "no domain name"},
		{"web.docker", "a", "query web.docker A at " + s.Addr().String() + " over udp"},
	} {
		if r, err := Query(t.Context(), s.Addr(), c[0], c[1]); err == nil || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%q: %+v, %v", c, r, err)
		}
	}
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Query(ctx, netip.MustParseAddrPort(silent.LocalAddr().String()), "web.docker", "A"); err == nil {
		t.Error("a reply from a silent server")
	}
}

// TestConformance asks what the table in docs/naming.md says, with clients that share no code with us, and looks for what came.
func TestConformance(t *testing.T) {
	doc, err := os.ReadFile("../docs/naming.md")
	if err != nil {
		t.Fatal(err)
	}
	addr := serve(t, loopback, nil)
	port := strconv.Itoa(int(addr.Port()))
	tools := map[string][]string{
		"dig":   {"@" + addr.Addr().String(), "-p", port, "-r", "+tries=1", "+time=10", "+nocookie"},
		"kdig":  {"@" + addr.Addr().String(), "-p", port, "+timeout=10", "+retry=0"},
		"drill": {"@" + addr.Addr().String(), "-p", port},
	}
	asked := map[string]int{}
	for line := range strings.Lines(string(doc)) {
		cells := strings.Split(line, " | ")
		command := codes(cells[0])
		if len(command) != 1 || len(cells) != 4 {
			continue
		}
		words := strings.Fields(command[0])
		tool, ok := tools[words[0]]
		if !ok {
			continue
		}
		asked[words[0]]++
		t.Run(strings.ReplaceAll(command[0], " ", "_"), func(t *testing.T) {
			if _, err := exec.LookPath(words[0]); err != nil {
				if os.Getenv("CI") == "true" && runtime.GOOS == "linux" {
					t.Fatalf("%s is missing: install it with internal/lab/prepare.sh", words[0])
				}
				t.Skip(err)
			}
			said, _ := exec.CommandContext(t.Context(), words[0], slices.Concat(tool, words[1:])...).CombinedOutput() // exit codes differ between versions
			out := strings.Join(strings.Fields(string(said)), " ")
			for _, want := range codes(cells[1]) {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, said)
				}
			}
			for _, not := range append(codes(cells[2]), "WARNING: Message", "Malformed", "malformed") {
				if slices.Contains(strings.Fields(out), not) || strings.Contains(not, " ") && strings.Contains(out, not) {
					t.Errorf("%q in\n%s", not, said)
				}
			}
		})
	}
	if asked["dig"] < 20 || asked["kdig"] < 5 || asked["drill"] < 5 {
		t.Errorf("the table has %v questions", asked)
	}
}

// codes are the texts between backquotes.
func codes(cell string) (texts []string) {
	for i, part := range strings.Split(cell, "`") {
		if i%2 == 1 {
			texts = append(texts, part)
		}
	}
	return texts
}

func ExampleQuery() {
	s, err := Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	z := NewZone(ZoneConfig{Domains: []string{"docker"}})
	go s.Serve(ctx, z)

	z.Update(map[string]*Record{"web.docker": {Addrs: []netip.Addr{netip.MustParseAddr("172.17.0.2")}}})
	reply, err := Query(ctx, s.Addr(), "web.docker", "A")
	fmt.Printf("%s %q %v\n", reply.Rcode, reply.Answers, err)
	// Output: NOERROR ["web.docker.\t1\tIN\tA\t172.17.0.2"] <nil>
}
