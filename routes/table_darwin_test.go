package routes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	xroute "golang.org/x/net/route"
	"golang.org/x/sys/unix"
)

// system lets a test change this system's routes. It wants the links bridge100 (192.168.64.1/24, fd00:64::1/64, fe80::1/64),
// en0 (198.51.100.1/24, fd00:98::1/64), both up, and down (down); internal/lab/darwin.sh makes such a world, with an `ip`
// that changes it from outside. Never set the variable on a Mac that somebody uses.
func system(t *testing.T) {
	t.Helper()
	if os.Getenv("FAIRLEAD_TEST_SYSTEM") != "darwin" {
		t.Skip("changes routes: runs where FAIRLEAD_TEST_SYSTEM is darwin, as in internal/lab/darwin.sh")
	}
	start := list(t)
	t.Cleanup(func() {
		if d := cmp.Diff(start, list(t), values); d != "" {
			t.Errorf("not as at the start: %s", d)
		}
	})
}

// The lab keeps a row's flags in Linux's protocol number.
const (
	marked   = " proto 197" // STATIC and PROTO2
	otherVPN = " proto 195" // STATIC and PROTO1
)

func TestSystemRoundTrip(t *testing.T) {
	for name, tt := range map[string]struct{ first, second, also string }{
		"IPv4 by gateway": {"10.1.0.0/16 via 192.168.64.2 dev bridge100", "10.1.0.0/16 via 192.168.64.3 dev bridge100", "10.1.0.0/24 via 192.168.64.2 dev bridge100"},
		"IPv4 by link":    {"10.1.0.0/16 dev bridge100", "10.1.0.0/16 dev en0", "10.1.2.3/32 dev bridge100"},
		"IPv4 both":       {"10.1.0.0/16 dev bridge100", "10.1.0.0/16 via 198.51.100.9 dev en0", "172.17.0.0/20 dev bridge100"},
		"IPv4 host":       {"10.1.0.9/32 via 192.168.64.2 dev bridge100", "10.1.0.9/32 via 192.168.64.3 dev bridge100", "10.1.0.0/24 via 192.168.64.2 dev bridge100"},
		"IPv6 by gateway": {"fd01::/64 via fd00:64::2 dev bridge100", "fd01::/64 via fd00:64::3 dev bridge100", "fd01::/48 via fd00:64::2 dev bridge100"},
		"IPv6 by link":    {"fd01::/60 dev bridge100", "fd01::/60 dev en0", "fd01::7/128 dev bridge100"},
		"IPv6 link-local": {"fd01::/64 via fe80::2 dev bridge100", "fd01::/64 via fe80::3 dev bridge100", "fd02::/64 dev bridge100"},
	} {
		t.Run(name, func(t *testing.T) {
			system(t)
			want := routes(tt.first, tt.also)
			if p := apply(t, want, nil); len(p.Add) != 2 {
				t.Fatalf("first plan: %+v", p)
			}
			for _, r := range want {
				if !slices.ContainsFunc(list(t), func(e Entry) bool { return e.Route == r && e.Marked }) {
					t.Errorf("%v is not in %+v", r, list(t))
				}
			}
			standing := list(t)
			if d := cmp.Diff(Plan{Keep: canonical(want)}, apply(t, want, want), values); d != "" {
				t.Errorf("second time: %s", d)
			}
			if d := cmp.Diff(standing, list(t), values); d != "" {
				t.Errorf("second time: %s", d)
			}
			moved := routes(tt.second, tt.also)
			p := apply(t, moved, want)
			if d := cmp.Diff(Plan{Delete: want[:1], Add: moved[:1], Keep: want[1:]}, p, values); d != "" {
				t.Errorf("moved: %s", d)
			}
			p = apply(t, nil, moved)
			if d := cmp.Diff(Plan{Delete: canonical(moved)}, p, values); d != "" {
				t.Errorf("teardown: %s", d)
			}
			for _, r := range Apply(p) {
				if r.Err != nil {
					t.Errorf("deleting the absent: %v", r.Err)
				}
			}
		})
	}
}

func TestSystemForeignRowsStay(t *testing.T) {
	const four, six = "10.1.0.0/16 via 192.168.64.2 dev bridge100", "fd01::/64 via fd00:64::2 dev bridge100"
	for _, tt := range []struct{ name, foreign, want, plan string }{
		{"exactly equal", "-4 route add " + four, four, "foreign"},
		{"exactly equal, a VPN's mark", "-4 route add " + four + otherVPN, four, "foreign"},
		{"other gateway", "-4 route add 10.1.0.0/16 via 192.168.64.9 dev bridge100", four, "blocked"},
		{"other gateway, our mark", "-4 route add 10.1.0.0/16 via 192.168.64.9 dev bridge100" + marked, four, "blocked"},
		{"other link, our mark", "-4 route add 10.1.0.0/16 dev en0" + marked, "10.1.0.0/16 dev bridge100", "blocked"},
		{"no gateway", "-4 route add 10.1.0.0/16 dev bridge100", four, "blocked"},
		{"gateway where we want none", "-4 route add " + four + marked, "10.1.0.0/16 dev bridge100", "blocked"},
		{"blackhole, our mark", "-4 route add blackhole 10.1.0.0/16" + marked, four, "blocked"},
		{"reject", "-4 route add unreachable 10.1.0.0/16", four, "blocked"},
		{"IPv6 exactly equal", "-6 route add " + six, six, "foreign"},
		{"IPv6 other gateway, our mark", "-6 route add fd01::/64 via fd00:64::9 dev bridge100" + marked, six, "blocked"},
		{"IPv6 no gateway", "-6 route add fd01::/64 dev bridge100" + marked, six, "blocked"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			system(t)
			ip(t, tt.foreign)
			defer ip(t, strings.Replace(tt.foreign, "route add", "route del", 1))
			start, want := list(t), routes(tt.want)

			// A journal that lies is the hardest case: it says that everything wanted was ours.
			p := apply(t, want, want)
			if got := map[bool]string{true: "foreign"}[len(p.Foreign) == 1] + map[bool]string{true: "blocked"}[len(p.Blocked) == 1]; got != tt.plan || len(p.Add)+len(p.Delete)+len(p.Keep) > 0 {
				t.Errorf("plan %+v, want it %s", p, tt.plan)
			}
			apply(t, nil, want)

			// Even plans that should never be made do no harm.
			for _, r := range Apply(Plan{Delete: want}) {
				if r.Err != nil {
					t.Error(r.Err)
				}
			}
			for _, r := range Apply(Plan{Add: want}) {
				if !errors.Is(r.Err, fs.ErrExist) {
					t.Errorf("forced add: %v", r.Err)
				}
			}
			if d := cmp.Diff(start, list(t), values); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestSystemTakenOut(t *testing.T) {
	system(t)
	const byHand = " proto static" // STATIC alone
	takenOut(t, "10.1.0.0/16 via 192.168.64.2 dev bridge100"+byHand, "192.168.64.77")
	takenOut(t, "10.1.0.9/32 via 192.168.64.2 dev bridge100"+byHand, "192.168.64.77")
	takenOut(t, "fd01::/64 via fd00:64::2 dev bridge100"+byHand, "fd00:64::77")
	ip(t, "-4 route add 10.1.0.0/16 via 192.168.64.2 dev bridge100"+otherVPN)
	if s, err := Save(route("10.1.0.0/16 via 192.168.64.2 dev bridge100")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a VPN's row was saved: %+v, %v", s, err)
	}
	ip(t, "-4 route del 10.1.0.0/16")
}

// shown is the table as `ip route` prints it.
func shown(t *testing.T) string { return ip(t, "-4 route show") + ip(t, "-6 route show") }

func TestSystemList(t *testing.T) {
	system(t)
	for _, line := range []string{
		"-4 route add default via 198.51.100.254 dev en0",
		"-4 route add blackhole 10.66.0.0/16",
		"-4 route add 10.8.0.0/16 via 192.168.64.2 dev bridge100" + marked,
		"-4 route add 10.9.0.0/16 via 192.168.64.2 dev bridge100" + otherVPN,
		"-4 neigh replace 192.168.64.77 lladdr 02:00:00:00:00:07 dev bridge100",
	} {
		ip(t, line)
		defer ip(t, strings.NewReplacer("route add", "route del", "neigh replace", "neigh del", " lladdr 02:00:00:00:00:07", "").Replace(line))
	}
	var got []string
	for _, e := range list(t) {
		got = append(got, fmt.Sprintf("%v metric %d, %s, marked %v", e.Route, e.Metric, e.Owner, e.Marked))
	}
	slices.Sort(got)
	want := []string{
		"0.0.0.0/0 via 198.51.100.254 dev en0 metric 0, static, marked false",
		"10.66.0.0/16 metric 0, static (blackhole), marked false",
		"10.8.0.0/16 via 192.168.64.2 dev bridge100 metric 0, static, fairlead's mark, marked true",
		"10.9.0.0/16 via 192.168.64.2 dev bridge100 metric 0, protocol 1, marked false",
		"127.0.0.0/8 dev lo0 metric 0, kernel, marked false",
		"127.0.0.1/32 dev lo0 metric 0, static, marked false",
		"192.168.64.0/24 dev bridge100 metric 0, kernel, marked false",
		"198.51.100.0/24 dev en0 metric 0, kernel, marked false",
		"::1/128 dev lo0 metric 0, static, marked false",
		"fd00:64::/64 dev bridge100 metric 0, kernel, marked false",
		"fd00:98::/64 dev en0 metric 0, kernel, marked false",
		"fe80::/64 dev bridge100 metric 0, kernel, marked false",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestDecodeAgrees holds our reading of this system's own table against that of golang.org/x/net/route.
func TestDecodeAgrees(t *testing.T) {
	rib, err := xroute.FetchRIB(unix.AF_UNSPEC, xroute.RIBTypeRoute, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := xroute.ParseRIB(xroute.RIBTypeRoute, rib)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := decodeDump(rib)
	if err != nil {
		t.Fatal(err)
	}
	if len(ours) != len(theirs) {
		t.Fatalf("%d rows, theirs %d", len(ours), len(theirs))
	}
	plain := func(a xroute.Addr) (ip netip.Addr) {
		switch a := a.(type) {
		case *xroute.Inet4Addr:
			ip = netip.AddrFrom4(a.IP)
		case *xroute.Inet6Addr:
			ip = netip.AddrFrom16(a.IP)
		}
		return ip
	}
	for i, m := range theirs {
		m, ours := m.(*xroute.RouteMessage), ours[i]
		if ours.Link != m.Index || ours.Flags != uint32(m.Flags) || ours.Dst.Addr() != plain(m.Addrs[unix.RTAX_DST]) {
			t.Errorf("ours %+v, theirs %+v", ours, m)
		}
		if via := plain(m.Addrs[unix.RTAX_GATEWAY]); m.Flags&unix.RTF_GATEWAY != 0 && ours.Gateway != via {
			t.Errorf("gateway %v, theirs %v", ours.Gateway, via)
		}
	}
	if _, err := List(); err != nil {
		t.Error(err)
	}
}

// TestEncodeAgrees with the encoder of golang.org/x/net/route.
func TestEncodeAgrees(t *testing.T) {
	sockaddr := func(a netip.Addr) xroute.Addr {
		if a.Is4() {
			return &xroute.Inet4Addr{IP: a.As4()}
		}
		return &xroute.Inet6Addr{IP: a.As16()}
	}
	for _, tt := range requests {
		m := tt.msg
		if scoped(m.Gateway) {
			continue
		}
		theirs := xroute.RouteMessage{Version: rtmVersion, Type: int(m.Type), Flags: int(m.Flags), ID: uintptr(m.Pid), Seq: int(m.Seq), Addrs: []xroute.Addr{sockaddr(m.Dst.Addr())}}
		switch {
		case m.Type == rtmAdd && m.Gateway.IsValid():
			theirs.Flags |= rtfGateway
			theirs.Addrs = append(theirs.Addrs, sockaddr(m.Gateway))
		case m.Type == rtmAdd:
			theirs.Addrs = append(theirs.Addrs, &xroute.LinkAddr{Index: m.Link})
		case m.Type == rtmDelete:
			theirs.Addrs = append(theirs.Addrs, nil)
		}
		switch {
		case m.Type == rtmGet:
		case m.Dst.IsSingleIP():
			theirs.Flags |= rtfHost
		default:
			theirs.Addrs = append(theirs.Addrs, sockaddr(mask(m.Dst)))
		}
		b, err := theirs.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		ours := raw(tt.raw)
		if len(b) < len(ours) || !slices.Equal(b[2:len(ours)], ours[2:]) || len(bytes.Trim(b[len(ours):], "\x00")) > 0 { // the length counts their zeros
			t.Errorf("%s: theirs\n%x\nours\n%x", tt.name, b, ours)
		}
	}
}

func TestSystemErrors(t *testing.T) {
	system(t)
	ip(t, "-4 route add 10.1.0.0/16 via 192.168.64.9 dev bridge100")
	defer ip(t, "-4 route del 10.1.0.0/16")
	ip(t, "-4 route add 203.0.113.0/24 via 198.51.100.9 dev en0")
	defer ip(t, "-4 route del 203.0.113.0/24")
	start := list(t)
	for _, tt := range []struct {
		route string
		is    error
		text  string
	}{
		{"10.1.0.0/16 via 192.168.64.2 dev bridge100", fs.ErrExist, "somebody's row"},
		{"10.1.0.0/16 via 192.168.64.9 dev bridge100", fs.ErrExist, "somebody's row"},
		{"10.2.0.0/16 via 192.0.2.7 dev bridge100", unix.ENETUNREACH, "gateway 192.0.2.7 is not on-link at bridge100"},
		{"10.2.0.0/16 via 203.0.113.7 dev en0", unix.ENETUNREACH, "gateway 203.0.113.7 is not on-link at en0"},
		{"10.2.0.0/16 via 198.51.100.2 dev bridge100", unix.ENETUNREACH, "gateway 198.51.100.2 is not on-link at bridge100: packets for it leave by en0"},
		{"fd02::/64 via fd00:9::7 dev bridge100", unix.ENETUNREACH, "gateway fd00:9::7 is not on-link at bridge100"},
		{"10.2.0.0/16 via 192.168.64.1 dev bridge100", unix.ENETUNREACH, "packets for it leave by lo0"},
		{"10.2.0.0/16 via 192.168.64.2 dev gone", unix.ENODEV, "link gone is gone"},
		{"10.2.0.0/16 dev down", unix.ENETDOWN, "link down is down"},
		{"10.2.0.0/16 dev bare", unix.ENETUNREACH, "link bare has no address of that family"},
	} {
		err := Apply(Plan{Add: routes(tt.route)})[0].Err
		if err == nil || !errors.Is(err, tt.is) || !strings.HasPrefix(err.Error(), "add route "+tt.route+": ") || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v, want %q", tt.route, err, tt.text)
		}
	}
	if err := Apply(Plan{Add: []Route{{}}})[0].Err; err == nil {
		t.Error("the zero route was added")
	}
	for _, r := range Apply(Plan{Delete: routes("10.2.0.0/16 dev gone", "fd02::/64 dev gone", "10.2.0.0/16 dev en0")}) {
		if r.Err != nil {
			t.Errorf("delete of what is not there: %v", r.Err)
		}
	}
	if d := cmp.Diff(start, list(t), values); d != "" {
		t.Error(d)
	}
}

func TestSystemNotPermitted(t *testing.T) {
	system(t)
	gone, there := route("10.2.0.0/16 via 192.168.64.2 dev bridge100"), route("10.3.0.0/16 via 192.168.64.2 dev bridge100")
	apply(t, []Route{there}, nil)
	defer apply(t, nil, []Route{there})
	// What decides is the effective user at the time when the socket is opened.
	if err := syscall.Seteuid(-2 & 0xffff); err != nil {
		t.Fatal(err)
	}
	results := Apply(Plan{Add: []Route{gone}, Delete: []Route{there}})
	if err := syscall.Seteuid(0); err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if !errors.Is(r.Err, fs.ErrPermission) || !strings.Contains(r.Err.Error(), "needs root") {
			t.Errorf("%s: %v", r.Op, r.Err)
		}
	}
}

// TestSystemProperties holds the real table against the laws that hold for the model.
func TestSystemProperties(t *testing.T) {
	system(t)
	worlds := []world{{
		dsts:    []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("10.2.0.0/16")},
		vias:    []netip.Addr{{}, netip.MustParseAddr("192.168.64.2"), netip.MustParseAddr("192.168.64.3")},
		devs:    []string{"bridge100"},
		metrics: []int{0},
	}, {
		dsts:    []netip.Prefix{netip.MustParsePrefix("fd01::/64"), netip.MustParsePrefix("fd01::/48"), netip.MustParsePrefix("fd02::7/128")},
		vias:    []netip.Addr{{}, netip.MustParseAddr("fd00:64::2"), netip.MustParseAddr("fe80::3")},
		devs:    []string{"bridge100"},
		metrics: []int{0},
	}}
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		w := worlds[seed%2]
		m, near := w.table(rnd)
		var script, undo strings.Builder
		for _, e := range m {
			line := e.Route.String() + map[bool]string{true: marked, false: " proto static"}[e.Marked]
			fmt.Fprintln(&script, "route add", line)
			fmt.Fprintln(&undo, "route del", line)
		}
		start := list(t)
		batch(t, script.String())
		before := list(t)
		if len(before) != len(start)+len(m) {
			t.Fatalf("seed %d: %d rows of %d were made", seed, len(before)-len(start), len(m))
		}
		want, owned := w.some(rnd, near), w.some(rnd, near)
		p := apply(t, want, owned)
		after := list(t)
		check(t, want, owned, before, after, p)
		apply(t, nil, slices.Concat(p.Add, p.Keep, owned))
		if t.Failed() {
			t.Fatalf("seed %d\nwant %v\nowned %v\nbefore %+v\nplan %+v\nafter %+v", seed, want, owned, before, p, after)
		}
		batch(t, undo.String()) // without what was ours: -force
		if d := cmp.Diff(start, list(t), values); d != "" {
			t.Fatalf("seed %d: rows that were never there: %s", seed, d)
		}
	}
}

func TestSystemWatch(t *testing.T) {
	system(t)
	await := watching(t, watcher{lost: func(err error) { t.Errorf("lost: %v", err) }})
	await("start", func() bool { return true })
	four, six := route("10.1.0.0/16 via 192.168.64.2 dev bridge100"), route("fd01::/64 dev bridge100")
	want := []Route{four, six}
	there := func(r Route) bool {
		return slices.ContainsFunc(list(t), func(e Entry) bool { return e.Route == r })
	}
	apply(t, want, nil)
	await("our own routes", func() bool { return there(four) && there(six) })
	ip(t, "-4 route del 10.1.0.0/16")
	await("route removed behind our back", func() bool { return !there(four) })
	ip(t, "-6 route del fd01::/64")
	await("IPv6 route removed behind our back", func() bool { return !there(six) })

	ip(t, "addr add 203.0.113.1/32 dev en0 noprefixroute")
	has := func() bool {
		i, err := net.InterfaceByName("en0")
		if err != nil {
			t.Fatal(err)
		}
		addrs, err := i.Addrs()
		return err == nil && slices.ContainsFunc(addrs, func(a net.Addr) bool { return strings.HasPrefix(a.String(), "203.0.113.1/") })
	}
	await("address added", has)
	ip(t, "addr del 203.0.113.1/32 dev en0")
	await("address removed", func() bool { return !has() })

	// Rows of a link that goes are deleted without a word; the link's own message is the hint.
	ip(t, "link add name utun9 type bridge")
	defer ip(t, "link del dev utun9")
	ip(t, "link set dev utun9 addrgenmode none")
	ip(t, "addr add 10.33.33.1/24 dev utun9")
	ip(t, "link set dev utun9 up")
	tunnel := route("10.5.0.0/16 dev utun9")
	await("link up", func() bool { return there(route("10.33.33.0/24 dev utun9")) })
	if err := add(tunnel); err != nil {
		t.Fatal(err)
	}
	await("a tunnel's route", func() bool { return there(tunnel) })
	ip(t, "link set dev utun9 down")
	await("link down", func() bool { return !there(tunnel) })
}

// TestWatchLooksWhenItMayHaveLostMessages: the kernel does not say that it dropped some, so that a queue full of messages that
// say nothing is a reason to look, too.
func TestWatchLooksWhenItMayHaveLostMessages(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	subscribed, full, looked := make(chan struct{}), make(chan struct{}), make(chan struct{}, 100)
	ended, calls := make(chan error, 1), 0
	go func() {
		ended <- watcher{receiveBuffer: 8192}.subscription(ctx, func() {
			if calls++; calls == 1 {
				close(subscribed)
				<-full // does not read meanwhile
				return
			}
			looked <- struct{}{}
		})
	}()
	<-subscribed
	for range 40 { // whose answers go to every socket; a Mac has a row for it, the loopback's
		if _, err := lookUp(netip.MustParseAddr("127.0.0.1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	close(full)
	select {
	case <-looked:
	case <-time.After(30 * time.Second):
		t.Error("did not look")
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("the subscription ended without an error")
	}
}

func TestSystemWatchFlood(t *testing.T) {
	system(t)
	await := watching(t, watcher{receiveBuffer: 4096, lost: func(err error) { t.Logf("lost: %v", err) }})
	await("start", func() bool { return true })
	var flood, ebb strings.Builder
	const rowsMade = 3000
	for i := range rowsMade {
		dst := fmt.Sprintf("10.%d.%d.%d/32", 64+i>>14, i>>6&255, i&63)
		fmt.Fprintf(&flood, "route add %s dev bridge100\n", dst)
		fmt.Fprintf(&ebb, "route del %s dev bridge100\n", dst)
	}
	rows := func() int {
		return len(slices.DeleteFunc(list(t), func(e Entry) bool {
			return !strings.HasPrefix(e.Dst.String(), "10.64.") && e.Dst.Bits() == 32 || e.Dst.Bits() != 32
		}))
	}
	batch(t, flood.String())
	await("the end of the flood", func() bool { return rows() == rowsMade })
	batch(t, ebb.String())
	await("the end of the ebb", func() bool { return rows() == 0 })
	apply(t, routes("10.1.0.0/16 dev bridge100"), nil)
	await("a single change afterwards", func() bool {
		return slices.ContainsFunc(list(t), func(e Entry) bool { return e.Route == route("10.1.0.0/16 dev bridge100") })
	})
	apply(t, nil, routes("10.1.0.0/16 dev bridge100"))
}

// TestMadeIsReadBack: a kernel that says yes is not believed before its table shows the row.
func TestMadeIsReadBack(t *testing.T) {
	r := route("10.1.0.0/16 via 192.168.64.2 dev bridge100")
	row := func(text string, marked bool) Entry { return Entry{Route: route(text), Marked: marked} }
	for name, c := range map[string]struct {
		table  []Entry
		astray bool
		text   string
	}{
		"there":              {[]Entry{row("10.1.0.0/16 via 192.168.64.2 dev bridge100", true)}, false, ""},
		"an empty table":     {nil, false, "does not show it"},
		"somebody's instead": {[]Entry{row("10.1.0.0/16 via 192.168.64.2 dev bridge100", false)}, false, "does not show it"},
		"another gateway":    {[]Entry{row("10.1.0.0/16 via 192.168.64.3 dev bridge100", true)}, false, "does not show it"},
		"another link":       {[]Entry{row("10.1.0.0/16 via 192.168.64.2 dev en0", true)}, true, `on link "en0"`},
	} {
		astray, err := made(r, c.table)
		if astray != c.astray || (err == nil) != (c.text == "") || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: astray %v, %v", name, astray, err)
		}
	}
}

// TestExplainFull: what this kernel cannot be brought to say here.
func TestExplainFull(t *testing.T) {
	for _, errno := range []error{unix.ENOBUFS, unix.ENOMEM} {
		err := explain(Route{}, errno)
		if !errors.Is(err, errno) || !strings.Contains(err.Error(), "it is tried again") {
			t.Errorf("%v: %v", errno, err)
		}
	}
}
