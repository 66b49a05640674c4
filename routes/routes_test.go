package routes

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// route reads "10.1.0.0/16 via 10.0.0.2 dev a": what Route.String prints.
func route(s string) Route {
	f := strings.Fields(s)
	r := Route{Dst: netip.MustParsePrefix(f[0])}
	for i := 1; i < len(f); i += 2 {
		switch f[i] {
		case "via":
			r.Via = netip.MustParseAddr(f[i+1])
		case "dev":
			r.Dev = f[i+1]
		}
	}
	return r
}

func routes(lines ...string) (rs []Route) {
	for _, l := range lines {
		rs = append(rs, route(l))
	}
	return rs
}

// table reads rows with a word in front: "ours ..." is Marked, any other word is the owner; "metric 5" may follow.
func table(lines ...string) (es []Entry) {
	for _, l := range lines {
		owner, row, _ := strings.Cut(l, " ")
		e := Entry{Route: route(row), Owner: owner, Marked: owner == "ours"}
		if _, m, ok := strings.Cut(row, " metric "); ok {
			fmt.Sscan(m, &e.Metric)
		}
		es = append(es, e)
	}
	return es
}

var values = cmp.Options{cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}), cmpopts.EquateEmpty(), cmpopts.EquateErrors()}

func TestRouteString(t *testing.T) {
	for _, s := range []string{"172.17.0.0/16 via 192.168.99.100 dev vboxnet0", "fd00::/64 dev utun4", "10.0.0.0/8"} {
		if got := route(s).String(); got != s {
			t.Errorf("got %q, want %q", got, s)
		}
	}
}

func TestDiff(t *testing.T) {
	const (
		viaA  = "10.1.0.0/16 via 10.0.0.2 dev a"
		viaB  = "10.1.0.0/16 via 10.0.0.3 dev a"
		devB  = "10.1.0.0/16 dev b"
		other = "10.2.0.0/16 via 10.0.0.2 dev a"
		six   = "fd01::/64 via fd00::2 dev a"
	)
	blocked := func(want, by string) []Blocked { return []Blocked{{route(want), table(by)[0]}} }
	for _, tt := range []struct {
		name        string
		want, owned []Route
		table       []Entry
		plan        Plan
	}{
		{"nothing", nil, nil, nil, Plan{}},
		{"first time", routes(viaA, six), nil, table("kernel 10.0.0.0/24 dev a"), Plan{Add: routes(viaA, six)}},
		{"intent journaled, then a crash", routes(viaA), routes(viaA), nil, Plan{Add: routes(viaA)}},
		{"standing", routes(viaA), routes(viaA), table("ours " + viaA), Plan{Keep: routes(viaA)}},
		{"not wanted", nil, routes(viaA, six), table("ours "+viaA, "ours "+six), Plan{Delete: routes(viaA, six)}},
		{"owned and absent is forgotten", nil, routes(viaA), nil, Plan{}},
		{"gateway moved", routes(viaB), routes(viaA), table("ours " + viaA), Plan{Add: routes(viaB), Delete: routes(viaA)}},
		{"from gateway to tunnel", routes(devB), routes(viaA), table("ours " + viaA), Plan{Add: routes(devB), Delete: routes(viaA)}},
		{"somebody made it before us", routes(viaA), nil, table("static " + viaA), Plan{Foreign: routes(viaA)}},
		{"somebody made ours again", routes(viaA), routes(viaA), table("boot " + viaA), Plan{Foreign: routes(viaA)}},
		{"marked, but the journal knows nothing", routes(viaA), nil, table("ours " + viaA), Plan{Foreign: routes(viaA)}},
		{"marked and unwanted, but not in the journal", nil, nil, table("ours " + viaA), Plan{}},
		{"in the journal and unwanted, but not marked", nil, routes(viaA), table("boot " + viaA), Plan{}},
		{"changed by somebody", routes(viaA), routes(viaA), table("boot " + viaB), Plan{Blocked: blocked(viaA, "boot "+viaB)}},
		{"changed by somebody, mark kept", nil, routes(viaA), table("ours " + viaB), Plan{}},
		{"foreign gateway", routes(viaA), nil, table("static " + viaB), Plan{Blocked: blocked(viaA, "static "+viaB)}},
		{"blackhole", routes(viaA), nil, table("static 10.1.0.0/16"), Plan{Blocked: blocked(viaA, "static 10.1.0.0/16")}},
		{"foreign with a worse metric", routes(viaA), nil, table("dhcp " + viaB + " metric 100"), Plan{Blocked: blocked(viaA, "dhcp "+viaB+" metric 100")}},
		{"ours stands before a worse foreign row", routes(viaA), routes(viaA), table("dhcp "+viaB+" metric 100", "ours "+viaA), Plan{Keep: routes(viaA)}},
		{"ours stands behind a better foreign row", routes(six), routes(six), table("ours "+six+" metric 1024", "static fd01::/64 dev b metric 9"),
			Plan{Keep: routes(six), Blocked: blocked(six, "static fd01::/64 dev b metric 9")}},
		{"exactly ours, foreign, behind a better row", routes(viaA), nil, table("dhcp "+viaB, "static "+viaA+" metric 100"), Plan{Blocked: blocked(viaA, "dhcp "+viaB)}},
		{"gateway moved, and a foreign row waits behind", routes(viaB), routes(viaA), table("ours "+viaA, "dhcp "+devB+" metric 100"),
			Plan{Delete: routes(viaA), Blocked: blocked(viaB, "dhcp "+devB+" metric 100")}},
		{"wider and narrower rows are no matter of Diff", routes(viaA), nil, table("static 10.0.0.0/8 dev b", "static 10.1.1.0/24 dev b"), Plan{Add: routes(viaA)}},
		{"twice, unmasked", routes(viaA, "10.1.2.3/16 via 10.0.0.2 dev a", other), nil, nil, Plan{Add: routes(viaA, other)}},
		{"two gateways wanted", routes(viaB, viaA), nil, nil, Plan{Add: routes(viaA), Blocked: blocked(viaB, "fairlead "+viaA)}},
		{"two gateways wanted, the lesser is there", routes(viaB, viaA), routes(viaB), table("ours " + viaB),
			Plan{Add: routes(viaA), Delete: routes(viaB), Blocked: blocked(viaB, "fairlead "+viaA)}},
		{"zone and mapped gateway", routes("fd01::/64 via fe80::2%a dev a", "10.1.0.0/16 via ::ffff:10.0.0.2 dev a"), nil, nil,
			Plan{Add: routes(viaA, "fd01::/64 via fe80::2 dev a")}},
		{"invalid", []Route{{}, {Dev: "a"}, route("10.1.0.0/16 via 10.0.0.2"), route("10.1.0.0/16 via fd00::2 dev a"), route("fd01::/64 via 10.0.0.2 dev a"),
			route("10.1.0.0/16 via 0.0.0.0 dev a"), route("::ffff:10.1.0.0/112 dev a")}, []Route{{}}, []Entry{{}}, Plan{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for i := range tt.plan.Blocked { // the only entry that Diff makes up
				if by := &tt.plan.Blocked[i].By; by.Owner == "fairlead" {
					by.Marked = true
				}
			}
			if d := cmp.Diff(tt.plan, Diff(tt.want, tt.owned, tt.table), values); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestClashes(t *testing.T) {
	rows := table(
		"dhcp 0.0.0.0/0 via 10.0.0.1 dev a", "ra ::/0 via fe80::1 dev a",
		"vpn 0.0.0.0/1 dev tun0", "vpn 128.0.0.0/1 dev tun0", "vpn ::/1 dev tun0", "vpn 8000::/1 dev tun0",
		"vpn 172.16.0.0/12 dev tun0", "lan 172.17.5.0/24 dev b", "hole 172.17.9.9/32", "kernel 192.168.0.0/24 dev a",
		"kernel fd00::/8 dev a", "kernel fe80::/64 dev a")
	for dst, want := range map[string][]Entry{
		"172.17.0.0/16":     table("vpn 172.16.0.0/12 dev tun0", "lan 172.17.5.0/24 dev b", "hole 172.17.9.9/32"),
		"172.17.5.0/24":     table("vpn 172.16.0.0/12 dev tun0", "lan 172.17.5.0/24 dev b"),
		"192.168.0.77/24":   table("kernel 192.168.0.0/24 dev a"),
		"192.168.1.0/24":    nil,
		"fd12:3456::/64":    table("kernel fd00::/8 dev a"),
		"::ffff:0:0/96":     nil,
		"2001:db8:ffff::/4": nil,
	} {
		if d := cmp.Diff(want, Clashes(netip.MustParsePrefix(dst), rows), values); d != "" {
			t.Errorf("%s: %s", dst, d)
		}
	}
	if got := Clashes(netip.Prefix{}, append(rows, Entry{})); got != nil {
		t.Errorf("the invalid prefix clashes with %v", got)
	}
}

// model is a table with the kernel's rules: one row for one destination and metric, the mark only on rows of metric 0.
type model []Entry

func (m *model) add(r Route) error {
	for _, e := range *m {
		if e.Dst == r.Dst && e.Metric == 0 {
			return fs.ErrExist
		}
	}
	*m = append(*m, Entry{Route: r, Marked: true, Owner: "ours"})
	return nil
}

// remove takes the first row that matches what a deletion request says, as the kernel does; metric 0 says nothing.
func (m *model) remove(r Route) error {
	for i, e := range *m {
		if e.Route == r && e.Owner == "ours" {
			*m = slices.Delete(*m, i, i+1)
			break
		}
	}
	return nil
}

func (m model) find(keep func(Entry) bool) (es []Entry) {
	for _, e := range m {
		if keep(e) {
			es = append(es, e)
		}
	}
	return es
}

// world draws from few values, so that rows meet.
type world struct {
	dsts    []netip.Prefix
	vias    []netip.Addr // zero: none
	devs    []string
	metrics []int // the first is that of our rows
}

func (w world) route(rnd *rand.Rand) Route {
	return Route{w.dsts[rnd.IntN(len(w.dsts))], w.vias[rnd.IntN(len(w.vias))], w.devs[rnd.IntN(len(w.devs))]}
}

// some draws rows: with luck equal to one of near, else anything.
func (w world) some(rnd *rand.Rand, near []Route) []Route {
	var rs []Route
	for range rnd.IntN(5) {
		r := w.route(rnd)
		if len(near) > 0 && rnd.IntN(2) == 0 {
			r = near[rnd.IntN(len(near))]
		}
		rs = append(rs, r)
	}
	return rs
}

func (w world) table(rnd *rand.Rand) (m model, rs []Route) {
	for range rnd.IntN(7) {
		e := Entry{Route: w.route(rnd), Owner: "static", Metric: w.metrics[rnd.IntN(len(w.metrics))]}
		if e.Metric == w.metrics[0] && rnd.IntN(2) == 0 {
			e.Owner, e.Marked = "ours", true
		}
		if len(m.find(func(o Entry) bool { return o.Dst == e.Dst && o.Metric == e.Metric })) == 0 {
			m, rs = append(m, e), append(rs, e.Route)
		}
	}
	return m, rs
}

// check holds the laws of a plan that was made from before and has led to after.
func check(t *testing.T, want, owned []Route, before, after []Entry, p Plan) {
	t.Helper()
	ours := func(e Entry) bool { return e.Marked && slices.Contains(owned, e.Route) }
	for _, e := range before {
		if !slices.Contains(after, e) && (!ours(e) || slices.Contains(p.Keep, e.Route)) {
			t.Errorf("gone, and not ours to delete: %+v", e)
		}
		if slices.Contains(after, e) && ours(e) && !slices.Contains(want, e.Route) {
			t.Errorf("ours, not wanted and still there: %+v", e)
		}
	}
	for _, e := range after {
		if !slices.Contains(before, e) && (!e.Marked || !slices.Contains(want, e.Route)) {
			t.Errorf("came from nowhere: %+v", e)
		}
	}
	blocked := func(w Route) bool { return slices.ContainsFunc(p.Blocked, func(b Blocked) bool { return b.Want == w }) }
	there := func(w Route) bool { return slices.ContainsFunc(after, func(e Entry) bool { return e.Route == w }) }
	for _, w := range want {
		if !there(w) && !blocked(w) {
			t.Errorf("wanted, not there and not blocked: %v", w)
		}
	}
	for _, r := range slices.Concat(p.Add, p.Keep, p.Foreign) {
		if !there(r) {
			t.Errorf("promised and not there: %v", r)
		}
	}
	next := Diff(want, slices.Concat(p.Add, p.Keep), after)
	if len(next.Add)+len(next.Delete) > 0 {
		t.Errorf("not idempotent: then add %v, delete %v", next.Add, next.Delete)
	}
}

func TestDiffProperties(t *testing.T) {
	w := world{
		dsts:    []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("10.2.0.0/16")},
		vias:    []netip.Addr{{}, netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")},
		devs:    []string{"a", "b"},
		metrics: []int{0, 0, 100},
	}
	var moved, kept, foreign, blocked, deleted int
	for seed := range uint64(8_000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		m, near := w.table(rnd)
		want, owned := w.some(rnd, near), w.some(rnd, near)

		before := slices.Clone(m)
		p := Diff(want, owned, m)
		if !slices.Equal(before, m) {
			t.Fatalf("seed %d: Diff changed its input: %v to %v", seed, before, m)
		}
		shuffled := func(rs []Route) []Route {
			rs = slices.Clone(rs)
			rnd.Shuffle(len(rs), func(i, j int) { rs[i], rs[j] = rs[j], rs[i] })
			return rs
		}
		if q := Diff(shuffled(want), shuffled(owned), m); !reflect.DeepEqual(p, q) {
			t.Fatalf("seed %d: order matters: %+v, then %+v", seed, p, q)
		}
		for _, r := range p.apply(m.add, m.remove) {
			if r.Err != nil {
				t.Errorf("%v", r.Err)
			}
			if r.Op == Add && slices.ContainsFunc(p.Delete, func(d Route) bool { return d.Dst == r.Route.Dst }) {
				moved++
			}
		}
		check(t, want, owned, before, m, p)
		if t.Failed() {
			t.Fatalf("seed %d\nwant %v\nowned %v\nbefore %+v\nplan %+v\nafter %+v", seed, want, owned, before, p, m)
		}
		kept, foreign, blocked, deleted = kept+len(p.Keep), foreign+len(p.Foreign), blocked+len(p.Blocked), deleted+len(p.Delete)
	}
	// The laws hold for cases that never came, too: see that each kind did.
	for name, n := range map[string]int{"moved": moved, "kept": kept, "foreign": foreign, "blocked": blocked, "deleted": deleted} {
		if n < 100 {
			t.Errorf("only %d cases %s", n, name)
		}
	}
}

func TestApplyResults(t *testing.T) {
	p := Plan{Add: routes("10.1.0.0/16 dev b", "10.2.0.0/16 dev a"), Delete: routes("10.1.0.0/16 dev a", "10.3.0.0/16 dev a")}
	full := errors.New("full")
	var got []string
	note := func(word string, err error) func(Route) error {
		return func(r Route) error {
			got = append(got, fmt.Sprint(word, " ", r))
			return err
		}
	}
	results := p.apply(note("+", full), note("-", nil))
	if d := cmp.Diff([]string{"- 10.1.0.0/16 dev a", "+ 10.1.0.0/16 dev b", "+ 10.2.0.0/16 dev a", "- 10.3.0.0/16 dev a"}, got); d != "" {
		t.Error(d)
	}
	want := []Result{
		{route("10.1.0.0/16 dev a"), Delete, nil}, {route("10.1.0.0/16 dev b"), Add, full},
		{route("10.2.0.0/16 dev a"), Add, full}, {route("10.3.0.0/16 dev a"), Delete, nil},
	}
	if d := cmp.Diff(want, results, values); d != "" {
		t.Error(d)
	}
	if got, want := results[1].Err.Error(), "add route 10.1.0.0/16 dev b: full"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
