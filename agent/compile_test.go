package agent

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/fairlead-dev/fairlead/routes"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "rewrite the golden parts of testdata")

// TestCompile replays testdata/compile. A case is a host, its engines in the order of priority, and what is decided: a line
// a subnet. Words that are no plain ones are written as Go strings.
//
//	-- host --
//	link DEV ADDR/BITS | nameserver ADDR | allow PREFIX
//	route [marked] PREFIX|default [via ADDR] dev DEV by OWNER      a row of the table
//	owned PREFIX via ADDR dev DEV                                  a route of the journal
//	replace                                                        rows made by hand may be taken out; not those
//	taken PREFIX via ADDR dev DEV                                  that were already
//	-- engines --
//	engine NAME native|none|gateway|tunnel [via ADDR] [dev DEV] [source ADDR]...
//	other native|none|gateway|tunnel [via ADDR] [dev DEV] [source ADDR]   of the engine above: for the other IP version
//	network NAME DRIVER PREFIX... [OPTION=VALUE...]                of the engine above, as are
//	carried PREFIX via ADDR dev DEV                                which means that it was not heard yet
func TestCompile(t *testing.T) {
	files, err := filepath.Glob("testdata/compile/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("glob testdata: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil || len(archive.Files) != 3 {
				t.Fatalf("want the sections host, engines, subnets: %v", err)
			}
			allow, host := parseHost(t, string(archive.Files[0].Data))
			views := parseViews(t, string(archive.Files[1].Data))
			golden := &archive.Files[2]

			compiled := func() string {
				s := lines(compile(allow, host, views))
				if platform.Sudo == "" { // the golden files are those of the other OSes
					s = strings.ReplaceAll(s, ": fairlead run", ": sudo fairlead run")
				}
				return s
			}
			got := compiled()
			if *update {
				golden.Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(strings.ReplaceAll(string(golden.Data), "\r", ""), got); d != "" {
				t.Errorf("-want +got (go test ./agent -update rewrites):\n%s", d)
			}
			for range 20 { // what an engine lists first does not matter
				for _, v := range views {
					rand.Shuffle(len(v.networks), func(i, j int) { v.networks[i], v.networks[j] = v.networks[j], v.networks[i] })
				}
				if d := cmp.Diff(got, compiled()); d != "" {
					t.Fatalf("networks in another order are decided otherwise:\n%s", d)
				}
			}
		})
	}
}

// lines is one line a subnet: engine/network, state, the route or else the prefix, and what is said to people.
func lines(subnets []Subnet) string {
	var b strings.Builder
	for _, s := range subnets {
		where := s.Route.String()
		if !s.Route.Dst.IsValid() {
			where = s.Prefix.String()
		}
		fmt.Fprintf(&b, "%s/%s %s: %s", s.Engine, s.Network, s.State, where)
		if s.Why != "" {
			b.WriteString(" | " + s.Why)
		}
		if s.Hint != "" {
			b.WriteString(" | hint: " + s.Hint)
		}
		for _, r := range s.ByHand {
			fmt.Fprintf(&b, " | by hand: %v", r)
		}
		for _, r := range s.Replaces {
			fmt.Fprintf(&b, " | replaces: %v", r)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func parseHost(t *testing.T, text string) (allow []netip.Prefix, h hostFacts) {
	t.Helper()
	for _, w := range words(t, text) {
		switch w[0] {
		case "link":
			h.links = append(h.links, platform.Link{Dev: w[1], Prefix: netip.MustParsePrefix(w[2])})
		case "nameserver":
			h.nameservers = append(h.nameservers, netip.MustParseAddr(w[1]))
		case "allow":
			allow = append(allow, netip.MustParsePrefix(w[1]))
		case "replace":
			h.replace = true
		case "taken":
			h.takenOut = append(h.takenOut, parseRoute(t, w[1:]))
		case "owned":
			h.owned = append(h.owned, parseRoute(t, w[1:]))
		case "route":
			var e routes.Entry
			if w[1] == "marked" {
				e.Marked, w = true, w[1:]
			}
			by := slices.Index(w, "by")
			if by < 0 {
				t.Fatalf("a row is by somebody: %q", w)
			}
			e.Route, e.Owner = parseRoute(t, w[1:by]), strings.Join(w[by+1:], " ")
			h.table = append(h.table, e)
		default:
			t.Fatalf("unknown line %q", w)
		}
	}
	return allow, h
}

func parseViews(t *testing.T, text string) (views []view) {
	t.Helper()
	for _, w := range words(t, text) {
		if w[0] == "engine" {
			v := view{name: w[1], listed: true, reach: platform.Reach{Kind: platform.Kind(w[2]), Why: "(why " + w[2] + ")"}}
			for i := 3; i+1 < len(w); i += 2 {
				switch w[i] {
				case "via":
					v.reach.Via = netip.MustParseAddr(w[i+1])
				case "dev":
					v.reach.Dev = w[i+1]
				case "source":
					if a := netip.MustParseAddr(w[i+1]); a.Is4() {
						v.reach.Source = a
					} else {
						v.reach.Source6 = a
					}
				default:
					t.Fatalf("no reach: %q", w)
				}
			}
			views = append(views, v)
			continue
		}
		v := &views[len(views)-1]
		switch w[0] {
		case "other":
			o := platform.Path{Kind: platform.Kind(w[1]), Why: "(why the other " + w[1] + ")"}
			for i := 2; i+1 < len(w); i += 2 {
				switch w[i] {
				case "via":
					o.Via = netip.MustParseAddr(w[i+1])
				case "dev":
					o.Dev = w[i+1]
				case "source":
					o.Source = netip.MustParseAddr(w[i+1])
				default:
					t.Fatalf("no path: %q", w)
				}
			}
			v.reach.Other = o
		case "network":
			n := engine.Network{ID: fmt.Sprintf("%064x", len(v.networks)), Name: w[1], Driver: w[2], Options: map[string]string{}}
			for _, f := range w[3:] {
				if key, value, ok := strings.Cut(f, "="); ok {
					n.Options[key] = value
				} else {
					n.Subnets = append(n.Subnets, netip.MustParsePrefix(f))
				}
			}
			v.networks = append(v.networks, n)
		case "carried":
			v.listed, v.carried = false, append(v.carried, parseRoute(t, w[1:]))
		default:
			t.Fatalf("unknown line %q", w)
		}
	}
	return views
}

// parseRoute reads what routes.Route.String writes.
func parseRoute(t *testing.T, w []string) (r routes.Route) {
	t.Helper()
	if w[0] == "default" {
		w[0] = "0.0.0.0/0"
	}
	r.Dst = netip.MustParsePrefix(w[0])
	for i := 1; i+1 < len(w); i += 2 {
		switch w[i] {
		case "via":
			r.Via = netip.MustParseAddr(w[i+1])
		case "dev":
			r.Dev = w[i+1]
		default:
			t.Fatalf("no route: %q", w)
		}
	}
	return r
}

// words are the words of each line; # begins a comment.
func words(t *testing.T, text string) (all [][]string) {
	t.Helper()
	for line := range strings.Lines(text) {
		var w []string
		for rest := strings.TrimSpace(line); rest != "" && rest[0] != '#'; rest = strings.TrimSpace(rest) {
			var word string
			if q, err := strconv.QuotedPrefix(rest); err == nil {
				word, _ = strconv.Unquote(q)
				rest = rest[len(q):]
			} else {
				word, rest, _ = strings.Cut(rest, " ")
			}
			w = append(w, word)
		}
		if w != nil {
			all = append(all, w)
		}
	}
	return all
}

// TestCompilePolicy checks the policy of docs/design.md ("How packets get there") on random hosts: a subnet of a bridge
// network behind a gateway is routed exactly when nothing forbids it. What forbids it is written down here a second time.
func TestCompilePolicy(t *testing.T) {
	wanted, replaced := 0, 0
	for seed := range uint64(4000) {
		allow, host, views := randomWorld(rand.New(rand.NewPCG(seed, 1)))
		out := compile(allow, host, views)
		fail := func(s Subnet, format string, args ...any) {
			t.Helper()
			t.Fatalf("seed %d: %s\nallow %v\nhost %+v\nviews %+v\n%s", seed, s.String()+": "+fmt.Sprintf(format, args...), allow, host, views, lines(out))
		}
		var accepted []Subnet
		var want []routes.Route
		for _, s := range out {
			i := slices.IndexFunc(views, func(v view) bool { return v.name == s.Engine })
			reach := views[i].reach
			if len(views[i].carried) > 0 {
				reach = platform.Reach{Kind: platform.Gateway, Via: s.Route.Via, Dev: s.Route.Dev}
			}
			forbidden := forbids(allow, host, accepted, s.Prefix, reach)
			switch {
			case s.State == Wanted && s.Route != by(reach, s.Prefix):
				fail(s, "route %v is not by reach %v", s.Route, reach)
			case s.State == Wanted && reach.Dev == "":
				fail(s, "is routed with reach %v", reach)
			case s.State == NoWay && carries(reach, s.Prefix):
				fail(s, "is out of reach (%s) with reach %v", s.Why, reach)
			case s.State == Wanted && forbidden != "":
				fail(s, "is routed though %s", forbidden)
			case s.State == Refused && forbidden == "":
				fail(s, "is refused (%s) without a reason", s.Why)
			case s.State == Refused && (s.Why == "" || s.Hint == ""):
				fail(s, "is refused without a word")
			case (s.State == Unreachable || s.State == NoWay) && s.Why == "":
				fail(s, "is out of reach without a word")
			case !slices.Contains([]State{Wanted, Native, Refused, Unreachable, NoWay}, s.State):
				fail(s, "state %q", s.State)
			}
			if s.State == Wanted || s.State == Native {
				accepted = append(accepted, s)
			}
			for _, r := range s.Replaces {
				e := host.table[slices.IndexFunc(host.table, func(e routes.Entry) bool { return e.Route == r })]
				if !host.replace || s.State != Wanted || e.Marked || e.Owner != "static" || e.Via != reach.Via || e.Dev != reach.Dev || !e.Dst.Overlaps(s.Prefix) || slices.Contains(host.takenOut, r) {
					fail(s, "row %v is taken out", e)
				}
				replaced++
			}
			if s.State == Wanted {
				want = append(want, s.Route)
				wanted++
			}
		}
		table := slices.DeleteFunc(slices.Clone(host.table), func(e routes.Entry) bool {
			return slices.ContainsFunc(out, func(s Subnet) bool { return !e.Marked && slices.Contains(s.Replaces, e.Route) })
		})
		if p := routes.Diff(want, host.owned, table); len(p.Blocked) > 0 {
			t.Fatalf("seed %d: wanted, and cannot be made: %+v\nhost %+v", seed, p.Blocked, host)
		}
	}
	if wanted < 500 || replaced < 5 {
		t.Errorf("only %d subnets were routed, %d rows replaced: the worlds are too hostile to prove anything", wanted, replaced)
	}
}

// by is the only route that may be made to p: into a tunnel, or by the gateway.
func by(reach platform.Reach, p netip.Prefix) routes.Route {
	r := routes.Route{Dst: p, Dev: reach.Dev}
	if reach.Kind == platform.Gateway {
		r.Via = reach.Via
	}
	return r
}

// carries tells whether packets of p's IP version get to the engine.
func carries(reach platform.Reach, p netip.Prefix) bool {
	switch reach.Kind {
	case platform.Native:
		return true
	case platform.Gateway:
		return p.Addr().Is4() == reach.Via.Is4()
	case platform.Tunnel:
		return reach.Dev != "" && (p.Addr().Is4() && reach.Source.IsValid() || p.Addr().Is6() && reach.Source6.IsValid())
	}
	return false
}

// forbids is what speaks against a route to p, "" for nothing.
func forbids(allow []netip.Prefix, host hostFacts, accepted []Subnet, p netip.Prefix, reach platform.Reach) string {
	for _, s := range accepted {
		if !s.Prefix.Overlaps(p) || reach.Kind == platform.Native && s.State == Native {
			continue
		}
		if s.State == Native || s.Route != by(reach, p) {
			return "it overlaps " + s.String()
		}
	}
	if reach.Kind == platform.Native {
		return ""
	}
	inside := false
	for _, r := range append([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fc00::/7")}, allow...) {
		inside = inside || r.Bits() <= p.Bits() && r.Overlaps(p)
	}
	if !inside {
		return "it is public"
	}
	protected := append([]netip.Addr{reach.Via}, host.nameservers...)
	for _, l := range host.links {
		protected = append(protected, l.Prefix.Addr())
	}
	for _, e := range host.table {
		if e.Dst.Bits() <= 1 && e.Via.IsValid() {
			protected = append(protected, e.Via)
		}
	}
	for _, a := range protected {
		if p.Contains(a) {
			return fmt.Sprintf("it holds %v", a)
		}
	}
	for _, e := range host.table {
		equal := reach.Kind == platform.Gateway && e.Via == reach.Via && e.Dev == reach.Dev || e.Route == by(reach, p) // packets go the same way
		ours := e.Marked && slices.Contains(host.owned, e.Route)
		meant := e.Dst.Bits() < p.Bits() && slices.ContainsFunc(allow, func(a netip.Prefix) bool { return a.Bits() <= p.Bits() && a.Overlaps(p) })
		if e.Dst.Bits() > 1 && e.Dst.Overlaps(p) && !equal && !ours && !meant {
			return fmt.Sprintf("row %v is foreign", e)
		}
	}
	return ""
}

// randomWorld draws from few networks, so that most things meet.
func randomWorld(r *rand.Rand) (allow []netip.Prefix, host hostFacts, views []view) {
	prefix := func() netip.Prefix {
		a := [4]byte{[]byte{10, 172, 192, 100, 11}[r.IntN(5)], 16 + byte(r.IntN(2)), byte(r.IntN(4)), byte(r.IntN(256))}
		switch a[0] {
		case 192:
			a[1] = 168
		case 100:
			a[1] = 64 + byte(r.IntN(2))*64
		}
		if r.IntN(8) == 0 {
			return netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfc, 1: byte(r.IntN(2)), 15: a[3]}), 8+r.IntN(113)).Masked()
		}
		return netip.PrefixFrom(netip.AddrFrom4(a), []int{8, 12, 16, 22, 24, 24, 24, 28, 32}[r.IntN(9)]).Masked()
	}
	dev := func() string { return []string{"en0", "vboxnet0"}[r.IntN(2)] }
	addr := func() netip.Addr {
		if r.IntN(8) == 0 {
			return netip.AddrFrom16([16]byte{0: 0xfc, 15: byte(r.IntN(4))})
		}
		return prefix().Addr().Unmap().Next()
	}
	gateways := []netip.Addr{netip.MustParseAddr("192.168.99.100"), netip.MustParseAddr("192.168.99.101"), netip.MustParseAddr("10.16.0.2"), netip.MustParseAddr("fc00::2")}
	gateway := func() netip.Addr { return gateways[r.IntN(len(gateways))] }
	var pool []netip.Prefix
	for range 6 {
		pool = append(pool, prefix())
	}
	some := func() netip.Prefix { return pool[r.IntN(len(pool))] }

	for range r.IntN(3) {
		p := prefix()
		host.links = append(host.links, platform.Link{Dev: dev(), Prefix: netip.PrefixFrom(p.Addr().Next(), p.Bits())})
	}
	for range r.IntN(2) {
		host.nameservers = append(host.nameservers, addr())
	}
	if r.IntN(4) == 0 {
		allow = append(allow, prefix())
	}
	if r.IntN(2) == 0 {
		dst := []string{"0.0.0.0/0", "128.0.0.0/1", "::/0", "8000::/1"}[r.IntN(4)]
		host.table = append(host.table, routes.Entry{Route: routes.Route{Dst: netip.MustParsePrefix(dst), Via: addr(), Dev: "en0"}, Owner: "dhcp"})
	}
	for range r.IntN(4) {
		e := routes.Entry{Route: routes.Route{Dst: some(), Dev: dev()}, Owner: "static", Marked: r.IntN(2) == 0}
		if e.Via = gateway(); e.Via.Is4() != e.Dst.Addr().Is4() {
			e.Via = netip.Addr{}
		}
		if r.IntN(2) == 0 {
			host.owned = append(host.owned, e.Route)
		}
		// A table has one row for a destination and a metric.
		if !slices.ContainsFunc(host.table, func(o routes.Entry) bool { return o.Dst == e.Dst }) {
			host.table = append(host.table, e)
			if len(host.table) == 3 {
				host.takenOut = append(host.takenOut, e.Route)
			}
		}
	}
	host.replace = len(host.links) > 0
	kinds := []platform.Kind{platform.Gateway, platform.Gateway, platform.Gateway, platform.Gateway, platform.Tunnel, platform.Tunnel, platform.Native, platform.None}
	for i := range 1 + r.IntN(3) {
		v := view{name: fmt.Sprint("e", i), listed: true}
		switch v.reach.Kind = kinds[r.IntN(len(kinds))]; {
		case v.reach.Kind == platform.Gateway:
			v.reach.Via, v.reach.Dev = gateway(), dev()
		case v.reach.Kind == platform.Tunnel && r.IntN(4) > 0: // else it is not up
			v.reach.Via, v.reach.Dev, v.reach.Source = netip.MustParseAddr("10.16.0.2"), fmt.Sprint("utun", i), netip.MustParseAddr("10.16.0.1")
			if r.IntN(2) == 0 {
				v.reach.Source6 = netip.MustParseAddr("fc00::1")
			}
		}
		v.reach.Why = "drawn"
		for j := range r.IntN(4) {
			n := engine.Network{ID: fmt.Sprint(j), Name: fmt.Sprint("n", r.IntN(3)), Driver: "bridge"}
			for range r.IntN(3) {
				n.Subnets = append(n.Subnets, some())
			}
			v.networks = append(v.networks, n)
		}
		if r.IntN(5) == 0 {
			v = view{name: v.name}
			for _, o := range host.owned {
				if r.IntN(2) == 0 {
					v.carried = append(v.carried, o)
				}
			}
		}
		views = append(views, v)
	}
	return allow, host, views
}

// TestFreeLink: a tunnel's ends lie side by side in a range that nobody uses, and every try gives others.
func TestFreeLink(t *testing.T) {
	seen := map[netip.Addr]bool{}
	for seed := range uint64(100) {
		_, host, views := randomWorld(rand.New(rand.NewPCG(seed, 3)))
		host.links = append(host.links, platform.Link{Dev: "br0", Prefix: netip.MustParsePrefix("10.213.0.1/22")})
		subnets := compile(nil, host, views)
		clear(seen)
		for nth := range 4 {
			here, there := freeLink(host, subnets, nth)
			if !here[0].IsValid() {
				t.Fatalf("seed %d: no link in\n%+v\n%s", seed, host, lines(subnets))
			}
			for _, a := range []netip.Addr{here[0], here[1], there[0], there[1]} {
				if seen[a] || !a.IsPrivate() || used(netip.PrefixFrom(a, a.BitLen()), host, subnets) && a.Is4() {
					t.Errorf("seed %d: %v is used", seed, a)
				}
				seen[a] = true
			}
			if here[0].Next() != there[0] || here[1].Next() != there[1] || !here[0].Is4() || !here[1].Is6() {
				t.Errorf("seed %d: %v and %v do not fit", seed, here, there)
			}
		}
	}
	_, host := parseHost(t, "route 10.0.0.0/8 dev tun0 by openvpn\nroute 172.16.0.0/12 dev tun0 by openvpn\nroute 192.168.0.0/16 dev tun0 by openvpn")
	if here, _ := freeLink(host, nil, 0); here[0].IsValid() {
		t.Errorf("%v is free where nothing is", here)
	}
	if here, _ := freeLink(hostFacts{table: host.table[:1]}, nil, 0); !here[0].IsValid() {
		t.Error("there is no room for a link beside a VPN that takes 10.0.0.0/8")
	}
}

// FuzzCompileNames: whatever an engine calls its networks and drivers, what is shown of it is one short line that no
// terminal obeys and that pastes into no shell as anything but a word.
func FuzzCompileNames(f *testing.F) {
	f.Add("web\nhint: run this", "bridge")
	f.Add("\x1b[31mred\x1b]0;title\a", "\x1b[2J")
	f.Add("$(rm -rf ~)`id`", "bri'dge")
	f.Add("--opt", "")
	f.Add(strings.Repeat("x", 100_000), strings.Repeat("\xff", 100_000))
	f.Add("\u202egnp.exe", "bridge")
	f.Fuzz(func(t *testing.T, name, driver string) {
		gw := platform.Reach{Kind: platform.Gateway, Via: netip.MustParseAddr("192.168.99.100"), Dev: "vboxnet0"}
		nets := []engine.Network{
			{Name: name, Driver: driver, Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}},
			{Name: name, Driver: "bridge", Subnets: []netip.Prefix{netip.MustParsePrefix("192.168.99.0/24"), netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.1.2.0/24")}},
		}
		for _, s := range compile(nil, hostFacts{}, []view{{name: "dev", listed: true, networks: nets, reach: gw}}) {
			for _, text := range []string{s.Network, s.Why, s.Hint} {
				if len(text) > 1200 || strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsPrint(r) }) {
					t.Errorf("%q is not fit to be shown", text)
				}
			}
			if _, command, ok := strings.Cut(s.Hint, "docker "); ok && !plain(name) && strings.Contains(command, name) && len(name) > 4 {
				t.Errorf("%q is to be pasted", s.Hint)
			}
		}
	})
}
