package routes

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const inNamespace = "FAIRLEAD_TEST_IN_NAMESPACE"

// TestMain runs the tests again inside a fresh network namespace, so that they never touch the real one.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv(inNamespace) != "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // the death signal is tied to the thread that starts the child
	again := exec.Command("/proc/self/exe", os.Args[1:]...)
	again.Args[0] = os.Args[0]
	again.Env = append(os.Environ(), inNamespace+"=1")
	again.Stdin, again.Stdout, again.Stderr = os.Stdin, os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := again.Run()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		fmt.Fprintln(os.Stderr, "start in a network namespace:", err)
		os.Exit(1)
	}
	os.Exit(again.ProcessState.ExitCode())
}

// kernel makes the links a (192.0.2.1/24, 2001:db8::1/64) and b (198.51.100.1/24), both up, for one test.
func kernel(t *testing.T) {
	t.Helper()
	if os.Getenv(inNamespace) == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root, and CI is set")
		}
		t.Skip("needs root: run as root to test against the real kernel")
	}
	ip(t, "link add name a type veth peer name b")
	t.Cleanup(func() { ip(t, "link del dev a") })
	for _, l := range []string{"a", "b"} {
		ip(t, "link set dev "+l+" addrgenmode none") // no link-local address that comes some time later
		ip(t, "link set dev "+l+" up")
	}
	ip(t, "addr add 192.0.2.1/24 dev a")
	ip(t, "addr add 2001:db8::1/64 dev a nodad")
	ip(t, "addr add 198.51.100.1/24 dev b")
	// The kernel makes an IPv6 address's local row in a worker, some time later.
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(shown(t), "local 2001:db8::1 "); {
		if time.Now().After(deadline) {
			t.Fatal("2001:db8::1 has no local row")
		}
	}
}

// shown is both tables as `ip route` prints them.
func shown(t *testing.T) string {
	t.Helper()
	return ip(t, "-4 -d route show table all") + ip(t, "-6 -d route show table all")
}

func TestKernelRoundTrip(t *testing.T) {
	kernel(t)
	for name, tt := range map[string]struct{ first, second, also string }{
		"IPv4 by gateway": {"10.1.0.0/16 via 192.0.2.2 dev a", "10.1.0.0/16 via 192.0.2.3 dev a", "10.1.0.0/24 via 192.0.2.2 dev a"},
		"IPv4 by link":    {"10.1.0.0/16 dev a", "10.1.0.0/16 dev b", "10.1.2.3/32 dev a"},
		"IPv4 both":       {"10.1.0.0/16 dev a", "10.1.0.0/16 via 198.51.100.9 dev b", "172.17.0.0/16 dev a"},
		"IPv6 by gateway": {"fd01::/64 via 2001:db8::2 dev a", "fd01::/64 via 2001:db8::3 dev a", "fd01::/48 via 2001:db8::2 dev a"},
		"IPv6 by link":    {"fd01::/64 dev a", "fd01::/64 dev b", "fd01::7/128 dev a"},
		"IPv6 link-local": {"fd01::/64 via fe80::2 dev a", "fd01::/64 via fe80::2 dev b", "fd02::/64 dev a"},
	} {
		t.Run(name, func(t *testing.T) {
			start := shown(t)
			want := routes(tt.first, tt.also)

			if p := apply(t, want, nil); len(p.Add) != 2 {
				t.Fatalf("first plan: %+v", p)
			}
			for _, r := range want {
				if !slices.ContainsFunc(list(t), func(e Entry) bool { return e.Route == r && e.Marked }) {
					t.Errorf("%v is not in %+v", r, list(t))
				}
			}
			standing := shown(t)
			if d := cmp.Diff(Plan{Keep: canonical(want)}, apply(t, want, want), values); d != "" {
				t.Errorf("second time: %s", d)
			}
			if d := cmp.Diff(standing, shown(t)); d != "" {
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
			if d := cmp.Diff(start, shown(t)); d != "" {
				t.Errorf("not as at the start: %s", d)
			}
			for _, r := range Apply(p) {
				if r.Err != nil {
					t.Errorf("deleting the absent: %v", r.Err)
				}
			}
		})
	}
}

func TestKernelForeignRowsStay(t *testing.T) {
	kernel(t)
	const four, six = "10.1.0.0/16 via 192.0.2.2 dev a", "fd01::/64 via 2001:db8::2 dev a"
	for _, tt := range []struct{ name, foreign, want, plan string }{
		{"exactly equal", "-4 route add " + four, four, "foreign"},
		{"exactly equal, proto static", "-4 route add " + four + " proto static", four, "foreign"},
		{"exactly equal, other metric", "-4 route add " + four + " metric 77", four, "foreign"},
		{"exactly equal but for our mark on another metric", "-4 route add " + four + " metric 77 proto 208", four, "foreign"},
		{"other gateway", "-4 route add 10.1.0.0/16 via 192.0.2.9 dev a", four, "blocked"},
		{"other gateway, our mark", "-4 route add 10.1.0.0/16 via 192.0.2.9 dev a proto 208", four, "blocked"},
		{"other gateway, other metric", "-4 route add 10.1.0.0/16 via 192.0.2.9 dev a metric 5", four, "blocked"},
		{"no gateway", "-4 route add 10.1.0.0/16 dev a", four, "blocked"},
		{"gateway where we want none", "-4 route add " + four + " proto 208", "10.1.0.0/16 dev a", "blocked"},
		{"blackhole", "-4 route add blackhole 10.1.0.0/16", four, "blocked"},
		{"unreachable, our mark", "-4 route add unreachable 10.1.0.0/16 proto 208", four, "blocked"},
		{"multipath", "-4 route add 10.1.0.0/16 nexthop via 192.0.2.2 dev a nexthop via 198.51.100.2 dev b", four, "blocked"},
		{"local, our mark", "-4 route add local 10.1.0.0/16 dev a table main proto 208", "10.1.0.0/16 dev a", "blocked"},
		{"tos", "-4 route add 10.1.0.0/16 tos 0x10 via 192.0.2.2 dev a", four, "blocked"},
		{"IPv6 next hop", "-4 route add 10.1.0.0/16 via inet6 2001:db8::2 dev a", four, "blocked"},
		{"IPv6 exactly equal", "-6 route add " + six, six, "foreign"},
		{"IPv6 other metric", "-6 route add " + six + " metric 9", six, "foreign"},
		{"IPv6 other gateway", "-6 route add fd01::/64 via 2001:db8::9 dev a", six, "blocked"},
		{"IPv6 gateway where we want none", "-6 route add " + six + " proto 208", "fd01::/64 dev a", "blocked"},
		{"IPv6 no gateway", "-6 route add fd01::/64 dev a proto 208", six, "blocked"},
		{"IPv6 blackhole", "-6 route add blackhole fd01::/64", six, "blocked"},
		{"IPv6 multipath", "-6 route add fd01::/64 nexthop via 2001:db8::2 dev a nexthop via 2001:db8::3 dev a", six, "blocked"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ip(t, tt.foreign)
			defer ip(t, strings.Replace(tt.foreign, "route add", "route del", 1))
			start, want := shown(t), routes(tt.want)

			// A journal that lies is the hardest case: it says that everything wanted was ours.
			p := apply(t, want, want)
			if got := map[bool]string{true: "foreign"}[len(p.Foreign) == 1] + map[bool]string{true: "blocked"}[len(p.Blocked) == 1]; got != tt.plan || len(p.Add)+len(p.Delete)+len(p.Keep) > 0 {
				t.Errorf("plan %+v, want it %s", p, tt.plan)
			}
			apply(t, nil, want)
			if d := cmp.Diff(start, shown(t)); d != "" {
				t.Errorf("after Diff and Apply: %s", d)
			}

			// Even a plan that should never be made does no harm: the kernel itself matches our rows only.
			if strings.HasSuffix(tt.foreign, "metric 77 proto 208") {
				return // but for the metric: IPv4 deletions cannot ask for metric 0
			}
			for _, r := range Apply(Plan{Delete: want}) {
				if r.Err != nil {
					t.Error(r.Err)
				}
			}
			if d := cmp.Diff(start, shown(t)); d != "" {
				t.Errorf("after a forced delete: %s", d)
			}
		})
	}
}

func TestKernelForeignRowBesideOurs(t *testing.T) {
	kernel(t)
	for ours, foreign := range map[string]string{
		"10.1.0.0/16 via 192.0.2.2 dev a": "-4 route add 10.1.0.0/16 via 192.0.2.2 dev a metric 77 proto 208",
		"fd01::/64 via 2001:db8::2 dev a": "-6 route add fd01::/64 via 2001:db8::2 dev a metric 9 proto 208",
	} {
		ip(t, foreign)
		start, r := shown(t), route(ours)
		if err := add(r); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(Plan{Delete: []Route{r}}, apply(t, nil, []Route{r}), values); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(start, shown(t)); d != "" {
			t.Errorf("beside %s: %s", foreign, d)
		}
		ip(t, strings.Replace(foreign, "route add", "route del", 1))
	}
}

// What is put back is what was there, to the last field that iproute2 shows.
func TestKernelTakenOut(t *testing.T) {
	kernel(t)
	for _, line := range []string{
		"10.1.0.0/16 via 192.0.2.2 dev a",
		"10.1.0.0/16 via 192.0.2.2 dev a proto static metric 50",
		"10.1.0.0/16 via 192.0.2.2 dev a proto static src 192.0.2.1 mtu lock 1300 advmss 1200 initcwnd 20",
		"10.1.0.0/16 via 203.0.113.9 dev a onlink",
	} {
		takenOut(t, line, "192.0.2.77")
	}
	takenOut(t, "fd01::/64 via 2001:db8::2 dev a metric 70 mtu 1400", "2001:db8::77")

	for _, line := range []string{
		"10.1.0.0/16 via 192.0.2.2 dev a proto dhcp", "10.1.0.0/16 via 192.0.2.2 dev a proto 208", "10.1.0.0/16 tos 0x10 via 192.0.2.2 dev a",
	} {
		ip(t, "-4 route add "+line)
		if s, err := Save(route("10.1.0.0/16 via 192.0.2.2 dev a")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was saved: %+v, %v", line, s, err)
		}
		ip(t, "-4 route del "+line)
	}

	// A link that was made anew has another number; one that is gone has taken the row with it.
	ip(t, "link add name c type veth peer name c-far")
	ip(t, "link set c-far up")
	ip(t, "link set c up")
	ip(t, "addr add 203.0.113.1/24 dev c")
	ip(t, "-4 route add 10.1.0.0/16 via 203.0.113.2 dev c")
	s, err := Save(route("10.1.0.0/16 via 203.0.113.2 dev c"))
	if err != nil {
		t.Fatal(err)
	}
	ip(t, "link del c")
	if back, err := s.PutBack(); back || err != nil {
		t.Errorf("without its link: %v, %v", back, err)
	}
	ip(t, "link add name other type veth peer name other-far") // takes the number
	ip(t, "link add name c type veth peer name c-far")
	ip(t, "link set c-far up")
	defer func() { ip(t, "link del c"); ip(t, "link del other") }()
	ip(t, "link set c up")
	if back, err := s.PutBack(); back || err == nil || !strings.Contains(err.Error(), "not on-link") {
		t.Errorf("without its link's address: %v, %v", back, err)
	}
	ip(t, "addr add 203.0.113.1/24 dev c")
	if back, err := s.PutBack(); !back || err != nil || !strings.Contains(shown(t), "10.1.0.0/16 via 203.0.113.2 dev c") {
		t.Errorf("on a link made anew: %v, %v", back, err)
	}
	s.Exact = s.Exact[:20]
	ip(t, "-4 route del 10.1.0.0/16")
	if back, err := s.PutBack(); back || err == nil {
		t.Errorf("a damaged row: %v, %v", back, err)
	}
}

func TestKernelList(t *testing.T) {
	kernel(t)
	ip(t, "-4 route add default via 192.0.2.254 dev a proto dhcp metric 100")
	ip(t, "-4 route add blackhole 10.66.0.0/16")
	ip(t, "-4 route add 10.9.0.0/16 proto 77 nexthop via 192.0.2.2 nexthop via 198.51.100.2")
	ip(t, "-4 route add 10.7.0.0/16 dev b table 99")
	ip(t, "-4 route add 10.8.0.0/16 dev b proto 208 onlink via 203.0.113.1")
	ip(t, "-6 route add unreachable fd66::/16 proto 61")
	for _, undo := range []string{"-4 route del blackhole 10.66.0.0/16", "-6 route del unreachable fd66::/16"} {
		defer ip(t, undo)
	}
	var got []string
	for _, e := range list(t) {
		got = append(got, fmt.Sprintf("%v metric %d, %s, marked %v", e.Route, e.Metric, e.Owner, e.Marked))
	}
	slices.Sort(got)
	want := []string{
		"0.0.0.0/0 via 192.0.2.254 dev a metric 100, dhcp, marked false",
		"10.66.0.0/16 metric 0, boot (blackhole), marked false",
		"10.8.0.0/16 via 203.0.113.1 dev b metric 0, protocol 208, fairlead's mark, marked true",
		"10.9.0.0/16 metric 0, protocol 77 (multipath), marked false",
		"192.0.2.0/24 dev a metric 0, kernel, marked false",
		"198.51.100.0/24 dev b metric 0, kernel, marked false",
		"2001:db8::/64 dev a metric 256, kernel, marked false",
		"fd66::/16 metric 1024, protocol 61 (unreachable), marked false",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestKernelErrors(t *testing.T) {
	kernel(t)
	ip(t, "-4 route add 10.1.0.0/16 via 192.0.2.9 dev a")
	ip(t, "-6 route add fd01::/64 via 2001:db8::9 dev a")
	ip(t, "link add name down type bridge")
	defer ip(t, "link del dev down")
	ip(t, "link property add dev a altname another-name-of-a")
	start := shown(t)
	for _, tt := range []struct {
		route string
		is    error
		text  string
	}{
		{"10.1.0.0/16 via 192.0.2.2 dev a", fs.ErrExist, "somebody's row"},
		{"10.1.0.0/16 via 192.0.2.9 dev a", fs.ErrExist, "somebody's row"},
		{"fd01::/64 via 2001:db8::2 dev a", fs.ErrExist, "somebody's row"},
		{"10.2.0.0/16 via 203.0.113.7 dev a", unix.ENETUNREACH, "gateway 203.0.113.7 is not on-link at a"},
		{"10.2.0.0/16 via 198.51.100.2 dev a", unix.ENETUNREACH, "gateway 198.51.100.2 is not on-link at a"},
		{"fd02::/64 via 2001:db8:9::7 dev a", unix.EHOSTUNREACH, "gateway 2001:db8:9::7 is not on-link at a"},
		{"10.2.0.0/16 via 192.0.2.2 dev gone", unix.ENODEV, "link gone is gone"},
		{"10.2.0.0/16 dev down", unix.ENETDOWN, "link down is down"},
		{"fd02::/64 via 2001:db8::1 dev a", unix.EINVAL, "is the gateway this host itself?"},
		{"10.2.0.0/16 dev another-name-of-a", nil, "another name of link a"},
	} {
		err := Apply(Plan{Add: routes(tt.route)})[0].Err
		if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.HasPrefix(err.Error(), "add route "+tt.route+": ") || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v, want %q", tt.route, err, tt.text)
		}
	}
	if err := Apply(Plan{Add: []Route{{}}})[0].Err; err == nil {
		t.Error("the zero route was added")
	}
	for _, r := range Apply(Plan{Delete: routes("10.2.0.0/16 dev gone", "fd02::/64 dev gone")}) {
		if r.Err != nil {
			t.Errorf("delete on a link that is gone: %v", r.Err)
		}
	}
	if d := cmp.Diff(start, shown(t)); d != "" {
		t.Error(d)
	}
}

func TestKernelNotPermitted(t *testing.T) {
	kernel(t)
	start, r := shown(t), route("10.2.0.0/16 via 192.0.2.2 dev a")
	results := make(chan []Result)
	go func() {
		defer close(results)
		runtime.LockOSThread() // never unlocked: the thread that gives up its rights ends with this goroutine
		none := [2]unix.CapUserData{}
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
			t.Error(err)
			return
		}
		results <- Apply(Plan{Add: []Route{r}, Delete: []Route{r}})
	}()
	for _, r := range <-results {
		if !errors.Is(r.Err, fs.ErrPermission) || !strings.Contains(r.Err.Error(), "needs root") {
			t.Errorf("%s: %v", r.Op, r.Err)
		}
	}
	if d := cmp.Diff(start, shown(t)); d != "" {
		t.Error(d)
	}
}

// TestKernelProperties holds the real table against the laws that hold for the model.
func TestKernelProperties(t *testing.T) {
	kernel(t)
	worlds := []world{{
		dsts:    []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("10.2.0.0/16")},
		vias:    []netip.Addr{{}, netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")},
		devs:    []string{"a"},
		metrics: []int{0, 0, 100},
	}, {
		dsts:    []netip.Prefix{netip.MustParsePrefix("fd01::/64"), netip.MustParsePrefix("fd01::/48"), netip.MustParsePrefix("fd02::/64")},
		vias:    []netip.Addr{{}, netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("fe80::3")},
		devs:    []string{"a", "b"},
		metrics: []int{1024, 1024, 7, 2000},
	}}
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		w := worlds[seed%2]
		m, near := w.table(rnd)
		var script, undo strings.Builder
		for _, e := range m {
			if e.Via.Is6() && !e.Via.IsLinkLocalUnicast() {
				e.Dev = "a"
			}
			line := e.Route.String()
			if e.Metric > 0 {
				line += fmt.Sprint(" metric ", e.Metric)
			}
			line += map[bool]string{true: " proto 208", false: " proto static"}[e.Marked]
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
		for i := range want {
			if want[i].Via.Is6() && !want[i].Via.IsLinkLocalUnicast() {
				want[i].Dev = "a" // else not on-link
			}
		}
		p := apply(t, want, owned)
		after := list(t)
		check(t, want, owned, before, after, p)

		apply(t, nil, slices.Concat(p.Add, p.Keep, owned))
		end := list(t)
		for _, e := range before {
			if ours := e.Marked && slices.Contains(owned, e.Route); slices.Contains(end, e) == ours {
				t.Errorf("teardown: ours %v, there %v: %+v", ours, !ours, e)
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d\nwant %v\nowned %v\nbefore %+v\nplan %+v\nafter %+v\nend %+v", seed, want, owned, before, p, after, end)
		}
		batch(t, undo.String()) // without what was ours: -force
		if d := cmp.Diff(start, list(t), values); d != "" {
			t.Fatalf("seed %d: rows that were never there: %s", seed, d)
		}
	}
}

func TestKernelWatch(t *testing.T) {
	kernel(t)
	await := watching(t, watcher{lost: func(err error) { t.Errorf("lost: %v", err) }})
	await("start", func() bool { return true })

	four, six := route("10.1.0.0/16 via 192.0.2.2 dev a"), route("fd01::/64 dev a")
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
	if p := apply(t, want, want); len(p.Add) != 2 {
		t.Errorf("after removal: %+v", p)
	}
	await("routes again", func() bool { return there(four) && there(six) })

	ip(t, "link set dev a down") // the kernel tells no RTM_DELROUTE for IPv4
	await("link down", func() bool { return !there(four) && !there(six) })
	for _, r := range Apply(Diff(want, want, list(t))) {
		if !errors.Is(r.Err, unix.ENETUNREACH) && !errors.Is(r.Err, unix.ENETDOWN) && !errors.Is(r.Err, unix.EHOSTUNREACH) {
			t.Errorf("on a link that is down: %v", r.Err)
		}
	}
	ip(t, "link set dev a up")
	await("link up", func() bool {
		return strings.Contains(ip(t, "link show dev a"), ",UP") && there(route("192.0.2.0/24 dev a"))
	})
	if p := apply(t, want, want); len(p.Add) != 2 {
		t.Errorf("after a bounce: %+v", p)
	}
	await("routes after a bounce", func() bool { return there(four) && there(six) })

	ip(t, "addr add 203.0.113.1/32 dev a noprefixroute")
	await("address added", func() bool { return strings.Contains(ip(t, "addr show dev a"), "203.0.113.1") })
	ip(t, "addr del 203.0.113.1/32 dev a")
	await("address removed", func() bool { return !strings.Contains(ip(t, "addr show dev a"), "203.0.113.1") })

	ip(t, "-4 addr change 192.0.2.1/24 dev a valid_lft 5000 preferred_lft 4000")
	await("address changed", func() bool { return strings.Count(ip(t, "-4 addr show dev a"), "forever") == 0 })
	ip(t, "-6 addr add 2001:db8:7::1/128 dev a nodad noprefixroute")
	await("IPv6 address added", func() bool { return strings.Contains(ip(t, "-6 addr show dev a"), "2001:db8:7::1") })
	ip(t, "-6 addr change 2001:db8:7::1/128 dev a nodad noprefixroute valid_lft forever preferred_lft 0")
	await("IPv6 address deprecated", func() bool { return strings.Contains(ip(t, "-6 addr show dev a"), "deprecated") })

	ip(t, "link add name watched type bridge")
	await("link added", func() bool { return strings.Contains(ip(t, "link show"), "watched:") })
	ip(t, "link del dev watched")
	await("link removed", func() bool { return !strings.Contains(ip(t, "link show"), "watched:") })
}

func TestKernelWatchSurvivesLostMessages(t *testing.T) {
	kernel(t)
	lost := make(chan error, 1)
	await := watching(t, watcher{receiveBuffer: 1, lost: func(err error) { // 1: the kernel makes it the least it allows
		select {
		case lost <- err:
		default:
		}
	}})
	await("start", func() bool { return true })

	var flood, ebb strings.Builder
	for i := range 20_000 {
		dst := fmt.Sprintf("10.%d.%d.%d/32", 64+i>>14, i>>6&255, i&63)
		fmt.Fprintf(&flood, "route add %s dev a\n", dst)
		fmt.Fprintf(&ebb, "route del %s dev a\n", dst)
	}
	rows := func() int {
		return len(slices.DeleteFunc(list(t), func(e Entry) bool { return e.Dst.Bits() != 32 }))
	}
	batch(t, flood.String())
	await("the end of the flood", func() bool { return rows() == 20_000 })
	select {
	case err := <-lost:
		if !errors.Is(err, unix.ENOBUFS) {
			t.Errorf("lost: %v, want ENOBUFS", err)
		}
	default:
		t.Error("no message was lost: the flood was no test")
	}
	batch(t, ebb.String())
	await("the end of the ebb", func() bool { return rows() == 0 })

	ip(t, "-4 route add 10.1.0.0/16 dev a")
	await("a single change afterwards", func() bool {
		return slices.ContainsFunc(list(t), func(e Entry) bool { return e.Route == route("10.1.0.0/16 dev a") })
	})
}

func TestKernelWatchEnds(t *testing.T) {
	kernel(t)
	ctx, cancel := context.WithCancel(t.Context())
	if err := Watch(ctx, cancel); err != nil { // the first call ends it
		t.Error(err)
	}
	calls := 0
	if err := Watch(ctx, func() { calls++ }); err != nil || calls > 0 {
		t.Errorf("with a context that is done: %v, %d calls", err, calls)
	}
}

// message is an RTM_NEWROUTE body: struct rtmsg, then attributes of type, value.
func message(family, bits, table, protocol, kind byte, attrs ...any) []byte {
	b := []byte{family, bits, 0, 0, table, protocol, 0, kind, 0, 0, 0, 0}
	for i := 0; i < len(attrs); i += 2 {
		v := attrs[i+1].([]byte)
		b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(v)))
		b = binary.NativeEndian.AppendUint16(b, uint16(attrs[i].(int)))
		b = append(b, v...)
		b = append(b, make([]byte, -len(v)&3)...)
	}
	return b
}

func TestParseRow(t *testing.T) {
	u32 := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	plain := []any{unix.RTA_DST, []byte{10, 1, 0, 0}, unix.RTA_GATEWAY, []byte{192, 0, 2, 2}, unix.RTA_OIF, u32(2)}
	with := func(attrs ...any) []byte {
		return message(unix.AF_INET, 16, unix.RT_TABLE_MAIN, mark, unix.RTN_UNICAST, append(plain[:6:6], attrs...)...)
	}
	set := func(at int, v byte) []byte {
		b := with()
		b[at] = v
		return b
	}
	for name, tt := range map[string]struct {
		message []byte
		want    string // empty: not shown
	}{
		"plain":               {with(), "10.1.0.0/16 via 192.0.2.2 dev a by protocol 208, fairlead's mark, marked true"},
		"metric":              {with(unix.RTA_PRIORITY, u32(7)), "10.1.0.0/16 via 192.0.2.2 dev a by protocol 208, fairlead's mark, marked false"},
		"nested flag":         {with(unix.RTA_ENCAP|unix.NLA_F_NESTED, []byte{}), "10.1.0.0/16 by protocol 208, fairlead's mark (encap), marked false"},
		"source-specific":     {set(2, 24), "10.1.0.0/16 by protocol 208, fairlead's mark (source-specific), marked false"},
		"type of tomorrow":    {set(7, 99), "10.1.0.0/16 by protocol 208, fairlead's mark (type 99), marked false"},
		"link that is gone":   {with(unix.RTA_OIF, u32(3)), "10.1.0.0/16 via 192.0.2.2 by protocol 208, fairlead's mark, marked true"},
		"other table":         {set(4, 99), ""},
		"table above 255":     {with(unix.RTA_TABLE, u32(1000)), ""},
		"other family":        {set(0, unix.AF_MPLS), ""},
		"cloned":              {binary.NativeEndian.AppendUint32(with()[:8], unix.RTM_F_CLONED), ""},
		"kernel's local":      {message(unix.AF_INET6, 128, unix.RT_TABLE_MAIN, unix.RTPROT_KERNEL, unix.RTN_LOCAL, unix.RTA_DST, make([]byte, 16)), ""},
		"default, no address": {message(unix.AF_INET6, 0, unix.RT_TABLE_MAIN, unix.RTPROT_RA, unix.RTN_UNICAST, unix.RTA_OIF, u32(2)), "::/0 dev a by ra, marked false"},
	} {
		e, ok, err := parseRow(tt.message, map[int]string{2: "a"})
		got := ""
		if ok {
			got = fmt.Sprintf("%v by %s, marked %v", e.Route, e.Owner, e.Marked)
		}
		if err != nil || got != tt.want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, tt.want)
		}
	}
	for name, b := range map[string][]byte{
		"empty":             nil,
		"half a header":     with()[:7],
		"attribute too big": append(with(), 9, 0, 1, 0),
		"attribute of none": append(with(), 0, 0, 0, 0),
		"too many bits":     set(1, 33),
		"IPv6 in IPv4":      with(unix.RTA_DST, make([]byte, 16)),
		"three bytes":       with(unix.RTA_DST, []byte{10, 1, 0}),
	} {
		if e, ok, err := parseRow(b, nil); err == nil || ok {
			t.Errorf("%s: got %+v, %v, want an error", name, e, ok)
		}
	}
}

func FuzzParseRow(f *testing.F) {
	two := binary.NativeEndian.AppendUint32(nil, 2)
	f.Add(message(unix.AF_INET, 16, unix.RT_TABLE_MAIN, mark, unix.RTN_UNICAST, unix.RTA_DST, []byte{10, 1, 0, 0}, unix.RTA_GATEWAY, []byte{192, 0, 2, 2}, unix.RTA_OIF, two))
	f.Add(message(unix.AF_INET6, 64, 0, mark, unix.RTN_UNICAST, unix.RTA_TABLE, binary.NativeEndian.AppendUint32(nil, unix.RT_TABLE_MAIN), unix.RTA_DST, make([]byte, 16), unix.RTA_PRIORITY, two))
	f.Add(message(unix.AF_INET, 0, unix.RT_TABLE_MAIN, 3, unix.RTN_BLACKHOLE))
	f.Add(message(unix.AF_INET, 33, unix.RT_TABLE_MAIN, 3, unix.RTN_UNICAST, unix.RTA_DST, []byte{10, 1, 0}))
	f.Add(message(unix.AF_INET6, 64, unix.RT_TABLE_MAIN, 3, unix.RTN_UNICAST, unix.RTA_DST, []byte{0xfd}))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.Clone(b)
		e, ok, err := parseRow(b, map[int]string{2: "a"})
		if !bytes.Equal(in, b) {
			t.Error("the input was changed")
		}
		switch {
		case err != nil && (ok || e != Entry{}):
			t.Errorf("both an error and a row: %+v", e)
		case ok && (!e.Dst.IsValid() || e.Dst != e.Dst.Masked() || e.Owner == ""):
			t.Errorf("no row: %+v", e)
		case e.Marked && !strings.Contains(e.Owner, "208"):
			t.Errorf("marked, and by somebody else: %+v", e)
		}
	})
}
