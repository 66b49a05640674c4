package dnsserver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// serveZone runs a server for z until the test ends, and gives a way to ask it that opens a connection for each question.
func serveZone(t *testing.T, z *Zone) (ask func(network, name string, qtype uint16) *dns.Msg) {
	t.Helper()
	s, err := Listen(loopback)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, z) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return func(network, name string, qtype uint16) *dns.Msg {
		c := dns.Client{Net: network, Timeout: 20 * time.Second}
		m, _, err := c.Exchange(question(name, qtype), s.Addr().String())
		if err != nil {
			t.Errorf("%s %s: %v", network, name, err)
			return new(dns.Msg)
		}
		return m
	}
}

// eventually waits for what no event tells.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// waiting is how many queries wait.
func waiting(z *Zone) int {
	z.unknown.mu.Lock()
	defer z.unknown.mu.Unlock()
	return z.unknown.waiting
}

// TestUnknown: the first query for a name gets what Unknown finds, over UDP and TCP, for every type, and leaves no denial.
func TestUnknown(t *testing.T) {
	var z *Zone
	var mu sync.Mutex
	var asked []string
	z = NewZone(ZoneConfig{Domains: []string{"docker"}, Patience: time.Minute, Unknown: func(_ context.Context, name string) {
		mu.Lock()
		asked = append(asked, name)
		mu.Unlock()
		if strings.Contains(name, "new") {
			z.Update(map[string]*Record{name: {Addrs: addrs("172.17.0.9")}})
		}
	}})
	z.Update(map[string]*Record{"web.docker": {Addrs: addrs("172.17.0.2"), Wildcard: true}, "api.shop.docker": {}})
	ask := serveZone(t, z)
	var want []string
	for _, network := range []string{"udp", "tcp"} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeANY, dns.TypeSRV, dns.TypeTXT, dns.TypePTR, dns.TypeMX} {
			name := fmt.Sprintf("new%s%d.docker", network, qtype)
			m := ask(network, strings.ToUpper(name), qtype)
			answers := 0
			if qtype == dns.TypeA || qtype == dns.TypeANY {
				answers = 1
			}
			if m.Rcode != dns.RcodeSuccess || len(m.Answer) != answers {
				t.Errorf("%s: got\n%v", network, m)
			}
			if z.Denied(name) {
				t.Errorf("%s counts as denied", name)
			}
			want = append(want, name)
		}
		if m := ask(network, "nope.docker", dns.TypeA); m.Rcode != dns.RcodeNameError || len(m.Ns) != 1 {
			t.Errorf("%s: got\n%v", network, m)
		}
		want = append(want, "nope.docker")
		for name, rcode := range map[string]int{ // nobody needs to be asked about these
			"web.docker": 0, "any.web.docker": 0, "shop.docker": 0, "docker": 0, "ns.docker": 0,
			"new.com": dns.RcodeRefused, `new\.x.docker`: dns.RcodeNameError, "new*.docker": dns.RcodeNameError,
		} {
			if m := ask(network, name, dns.TypeTXT); m.Rcode != rcode {
				t.Errorf("%s %s: got\n%v", network, name, m)
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(asked, want) {
		t.Errorf("asked about %q, want %q", asked, want)
	}
}

// TestWorth: nobody is asked while nothing can be found out, a flood of denials allocates nothing, and afterwards names are found again.
func TestWorth(t *testing.T) {
	var worth, calls atomic.Int32
	var z *Zone
	z = NewZone(ZoneConfig{Domains: []string{"docker"}, Patience: time.Minute, Worth: func(bool) int { return int(worth.Load()) }, Unknown: func(_ context.Context, name string) {
		calls.Add(1)
		z.Update(map[string]*Record{name: {Addrs: addrs("172.17.0.9")}})
	}})
	ask := serveZone(t, z)
	for _, network := range []string{"udp", "tcp"} {
		if m := ask(network, "new.docker", dns.TypeA); m.Rcode != dns.RcodeNameError {
			t.Errorf("%s: got\n%v", network, m)
		}
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("%d calls", n)
	}
	if !z.Denied("new.docker") {
		t.Error("not denied")
	}
	msg, err := question("new.docker", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	var q query
	buf, w := make([]byte, ednsSize), &waiters{udp: true}
	if n := testing.AllocsPerRun(100, func() {
		q.parse(msg, true)
		z.settle(w, &q, msg, z.reply(&q, msg, buf, true), netip.AddrPort{})
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	worth.Store(1)
	if m := ask("udp", "new.docker", dns.TypeA); len(m.Answer) != 1 {
		t.Errorf("got\n%v", m)
	}
}

// TestWorthBounds: no more names are asked about at a time than it is worth it for, and whoever asks for one of them waits with the first.
func TestWorthBounds(t *testing.T) {
	release := make(chan struct{})
	z := NewZone(ZoneConfig{Domains: []string{"docker"}, Patience: time.Minute, Worth: func(bool) int { return 2 }, Unknown: func(context.Context, string) { <-release }})
	w := &waiters{udp: true, send: func([]byte, netip.AddrPort) {}}
	for _, of := range []struct {
		name  string
		waits bool
	}{{"a.docker", true}, {"b.docker", true}, {"c.docker", false}, {"a.docker", true}} {
		if got := asked(t, z, w, of.name) == nil; got != of.waits {
			t.Errorf("%s: waits %v", of.name, got)
		}
	}
	close(release)
	w.Wait()
	eventually(t, "more may be asked", func() bool { return asked(t, z, w, "c.docker") == nil })
	w.Wait()
}

// TestWorthIsFresh: what came between the look at the zone and Worth's word is answered.
func TestWorthIsFresh(t *testing.T) {
	var z *Zone
	z = NewZone(ZoneConfig{Domains: []string{"docker"}, Unknown: func(context.Context, string) {}, Worth: func(bool) int {
		z.Update(map[string]*Record{"new.docker": {Addrs: addrs("172.17.0.9")}})
		return 0
	}})
	if reply := asked(t, z, &waiters{udp: true}, "new.docker"); denies(reply) {
		t.Error("denied")
	}
}

// TestUnknownHoldsUpNobody: with as many queries waiting as may, others are answered, also on the same connection, and one too many is
// denied at once. The query that comes first has a call of its own, all that come while it runs share the next.
func TestUnknownHoldsUpNobody(t *testing.T) {
	var mu sync.Mutex
	calls := make(map[string]int)
	release := make(chan struct{})
	var z *Zone
	z = NewZone(ZoneConfig{Domains: []string{"docker"}, Patience: time.Minute, Unknown: func(_ context.Context, name string) {
		mu.Lock()
		calls[name]++
		mu.Unlock()
		<-release
		z.Update(map[string]*Record{"late.docker": {Addrs: addrs("172.17.0.9")}})
	}})
	z.Update(map[string]*Record{"web.docker": {Addrs: addrs("172.17.0.2")}})
	ask := serveZone(t, z)

	var queries sync.WaitGroup
	for i := range maxWaiting - 2 {
		network := []string{"udp", "tcp"}[i%2]
		queries.Go(func() {
			if m := ask(network, "late.docker", dns.TypeA); len(m.Answer) != 1 {
				t.Errorf("%s: got\n%v", network, m)
			}
		})
	}
	eventually(t, "all wait", func() bool { return waiting(z) == maxWaiting-2 })
	for _, network := range []string{"udp", "tcp"} {
		if m := ask(network, "web.docker", dns.TypeA); len(m.Answer) != 1 {
			t.Errorf("%s: got\n%v", network, m)
		}
	}
	// One connection: two queries that wait, then one that overtakes them.
	s, err := Listen(loopback)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, z) }()
	conn, err := dns.DialTimeout("tcp", s.Addr().String(), 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	for _, name := range []string{"late.docker", "never.docker", "web.docker", "toomany.docker"} {
		if err := conn.WriteMsg(question(name, dns.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	read := func() string {
		m, err := conn.ReadMsg()
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(m.Question[0].Name, " ", dns.RcodeToString[m.Rcode], " ", len(m.Answer))
	}
	for _, want := range []string{"web.docker. NOERROR 1", "toomany.docker. NXDOMAIN 0"} {
		if got := read(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	close(release)
	rest := []string{read(), read()}
	slices.Sort(rest)
	if want := []string{"late.docker. NOERROR 1", "never.docker. NXDOMAIN 0"}; !slices.Equal(rest, want) {
		t.Errorf("got %q, want %q", rest, want)
	}
	queries.Wait()
	cancel()
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(calls) != 2 || calls["late.docker"] != 2 || calls["never.docker"] != 1 || waiting(z) != 0 {
		t.Errorf("calls %v; %d still wait", calls, waiting(z))
	}
	if z.Denied("late.docker") || !z.Denied("never.docker") || !z.Denied("toomany.docker") {
		t.Error("denied: wrong names")
	}
}

// TestUnknownIsFresh: a query that comes while a call runs is not content with what that call has seen before.
func TestUnknownIsFresh(t *testing.T) {
	looked, release := make(chan bool), make(chan bool)
	var z *Zone
	engineHas := make(chan bool, 1)
	z = NewZone(ZoneConfig{Domains: []string{"docker"}, Patience: time.Minute, Unknown: func(_ context.Context, name string) {
		select {
		case <-engineHas:
			z.Update(map[string]*Record{name: {Addrs: addrs("172.17.0.9")}})
		default:
			looked <- true
			<-release
		}
	}})
	ask := serveZone(t, z)
	var first sync.WaitGroup
	first.Go(func() { ask("udp", "run.docker", dns.TypeA) })
	<-looked // and has seen nothing
	engineHas <- true
	var second *dns.Msg
	first.Go(func() { second = ask("tcp", "run.docker", dns.TypeA) })
	eventually(t, "both wait", func() bool { return waiting(z) == 2 })
	close(release)
	first.Wait()
	if len(second.Answer) != 1 {
		t.Errorf("got\n%v", second)
	}
}

// TestPatience: an Unknown that does not return is told to, and its query answered.
func TestPatience(t *testing.T) {
	release := make(chan struct{})
	told := make(chan struct{})
	z := NewZone(ZoneConfig{Domains: []string{"docker"}, Patience: 10 * time.Millisecond, Unknown: func(ctx context.Context, _ string) {
		<-ctx.Done()
		close(told)
		<-release
	}})
	ask := serveZone(t, z)
	if m := ask("udp", "nope.docker", dns.TypeA); m.Rcode != dns.RcodeNameError {
		t.Errorf("got\n%v", m)
	}
	<-told
	close(release)
	eventually(t, "the call is forgotten", func() bool {
		z.unknown.mu.Lock()
		defer z.unknown.mu.Unlock()
		return len(z.unknown.asked) == 0
	})
}

// TestExpected: names that may appear any moment, those below them, and their first label with others behind, wait though all is
// settled and a flood has filled the room; for other names nothing changes.
func TestExpected(t *testing.T) {
	var worth atomic.Int32
	worth.Store(2 * maxWaiting)
	release := make(chan struct{})
	z := NewZone(ZoneConfig{Domains: []string{"docker"}, Patience: time.Minute, Worth: func(bool) int { return int(worth.Load()) }, Unknown: func(context.Context, string) { <-release }})
	z.Expect([]string{"web.docker", "api.shop.docker", "NOT A NAME"}, 1)
	z.Expect([]string{"api.shop.docker"}, 1)
	w := &waiters{udp: true, send: func([]byte, netip.AddrPort) {}}
	waits := func(name string) bool { return asked(t, z, w, name) == nil }
	for i := range maxWaiting {
		if !waits(fmt.Sprintf("r%d.docker", i)) {
			t.Fatalf("the room is full with %d", i)
		}
	}
	for range 2 {
		for _, name := range []string{"web.docker", "any.WEB.docker", "web.backend.docker"} {
			if !waits(name) || !z.Expects(strings.ToLower(name)) {
				t.Errorf("%s does not wait", name)
			}
		}
		others := 0 // two names may share a place
		for i := range 100 {
			for _, name := range []string{"web%d.docker", "x%d.shop.docker", "a%d.b.docker"} {
				if waits(fmt.Sprintf(name, i)) {
					others++
				}
			}
		}
		if others > 30 {
			t.Errorf("%d others wait", others)
		}
		worth.Store(0)
	}
	close(release)
	w.Wait()
	z.Expect([]string{"web.docker", "api.shop.docker"}, -1)
	if z.Expects("web.docker") || !z.Expects("api.shop.docker") {
		t.Error("it does not count")
	}
}

// asked asks as a socket does. The reply is nil when the question waits.
func asked(t *testing.T, z *Zone, w *waiters, name string) (reply []byte) {
	t.Helper()
	msg, err := question(name, dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	var q query
	q.parse(msg, true)
	reply = z.reply(&q, msg, make([]byte, ednsSize), true)
	if denies(reply) {
		reply = z.settle(w, &q, msg, reply, netip.AddrPort{})
	}
	return reply
}

func TestDenied(t *testing.T) {
	z := NewZone(ZoneConfig{Domains: []string{"docker"}})
	z.Update(map[string]*Record{"web.docker": {Addrs: addrs("172.17.0.2")}})
	for _, name := range []string{"WEB.docker", "a.B.docker", "x.web.docker", `a\.b.docker`} {
		asked(t, z, &waiters{udp: true}, name)
	}
	for name, want := range map[string]bool{
		"web.docker": false, "docker": false, "other.docker": false, "": false, "A.b.docker": false,
		"a.b.docker": true, "b.docker": true, // its record may be a wildcard
		"below.b.docker": true, "x.web.docker": true, "y.web.docker": false,
	} {
		if got := z.Denied(name); got != want {
			t.Errorf("Denied(%q) = %v", name, got)
		}
	}
	z.Update(map[string]*Record{"a.b.docker": {}})
	if !z.Denied("a.b.docker") {
		t.Error("forgotten when the name gets a record")
	}
	for i := range z.denied { // a minute later
		const mask = 1<<24 - 1
		if v := z.denied[i].Load(); v != 0 {
			z.denied[i].Store(v&^mask | (v-61)&mask)
		}
	}
	if z.Denied("a.b.docker") {
		t.Error("never forgotten")
	}
}

// TestDeniedRaces: of a query and an Update side by side, either the query gets the record or Denied tells the updater.
func TestDeniedRaces(t *testing.T) {
	z := NewZone(ZoneConfig{Domains: []string{"docker"}})
	for i := range 2000 {
		name := fmt.Sprintf("n%d.docker", i)
		var query sync.WaitGroup
		var reply []byte
		query.Go(func() { reply = asked(t, z, &waiters{udp: true}, name) })
		z.Update(map[string]*Record{name: {Addrs: addrs("172.17.0.2")}})
		told := z.Denied(name)
		query.Wait()
		if denies(reply) && !told {
			t.Fatalf("%s was denied, and its updater not told", name)
		}
	}
}
