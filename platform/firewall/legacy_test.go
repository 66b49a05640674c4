package firewall

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

// golden are tables as a kernel gave them, after iptables-legacy had made them of testdata/legacy.*tables; a test on Linux
// holds that they still are what a kernel gives.
var golden = []struct{ family, name string }{{"ip", "filter"}, {"ip", "nat"}, {"ip6", "filter"}, {"ip6", "nat"}}

func goldenFile(family, name string) string {
	return fmt.Sprintf("testdata/legacy.%s.%s", family, name)
}

// goldenTable is the file's content: what IPT_SO_GET_INFO answers, then what IPT_SO_GET_ENTRIES does.
func goldenTable(t testing.TB, family, name string) (info, entries []byte) {
	t.Helper()
	b, err := os.ReadFile(goldenFile(family, name))
	if err != nil {
		t.Fatal(err)
	}
	return b[:infoSize], b[infoSize:]
}

func TestGoldenTables(t *testing.T) {
	for _, g := range golden {
		t.Run(g.family+" "+g.name, func(t *testing.T) {
			info, entries := goldenTable(t, g.family, g.name)
			x, err := parseTable(g.family, info, entries)
			if err != nil {
				t.Fatal(err)
			}
			if built := x.build(); !bytes.Equal(built[replaceSize:], entries) {
				t.Error("built again, the entries are others")
			} else if !bytes.Equal(built[:36], info[:36]) || !bytes.Equal(built[36:44], info[76:84]) || !bytes.Equal(built[84:88], info[76:80]) {
				t.Errorf("built again, the head is %x", built[:replaceSize])
			} else {
				for h := range hookCount {
					if x.has(h) && (!bytes.Equal(built[44+4*h:][:4], info[36+4*h:][:4]) || !bytes.Equal(built[64+4*h:][:4], info[56+4*h:][:4])) {
						t.Errorf("built again, hook %d is another", h)
					}
				}
			}
			var ours []string
			for _, at := range places("0123abcd") {
				if !x.holds(at) {
					continue
				}
				c, _ := x.read(at.chain)
				for _, l := range c.lines {
					if l.comment != comment("0123abcd") {
						continue
					}
					ours = append(ours, l.rule.String())
					raw := bytes.Clone(x.entries[l.handle].raw)
					clear(raw[shapes[g.family].target+4:][:4]) // comefrom: the kernel's own note
					if want := encodeEntry(l.rule, "0123abcd"); !bytes.Equal(raw, want) {
						t.Errorf("iptables writes %v as\n%x, not as\n%x", l.rule, raw, want)
					}
				}
			}
			want := map[string][]string{
				"ip filter": {
					`legacy ip filter DOCKER-USER: iifname "eth1" ip saddr 192.168.93.1 accept`,
					`legacy ip filter DOCKER-USER: oifname "eth1" ip daddr 192.168.93.1 accept`,
				},
				"ip nat": {`legacy ip nat POSTROUTING: ip saddr 192.168.93.1 ip daddr 172.17.0.0/16 masquerade`},
				"ip6 filter": {
					`legacy ip6 filter DOCKER-USER: iifname "eth1" ip6 saddr fd00:93::1 accept`,
					`legacy ip6 filter DOCKER-USER: oifname "eth1" ip6 daddr fd00:93::1 accept`,
				},
				"ip6 nat": {`legacy ip6 nat POSTROUTING: ip6 saddr fd00:93::1 ip6 daddr fd00:17::/64 masquerade`},
			}[g.family+" "+g.name]
			if !slices.Equal(ours, want) {
				t.Errorf("ours are\n%s\nwant\n%s", strings.Join(ours, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// TestTableChanges adds and removes rules at random. However it was reached, a table must be one that the kernel would
// give: readable, its chains those of others with ours at the head; and without ours it must be the first one again.
func TestTableChanges(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		g := golden[rnd.IntN(len(golden))]
		info, entries := goldenTable(t, g.family, g.name)
		x, err := parseTable(g.family, info, entries)
		if err != nil {
			t.Fatal(err)
		}
		chains := []string{"FORWARD", dockerUser, dockerChain}
		if g.name == "nat" {
			chains = []string{"PREROUTING", "POSTROUTING", dockerChain}
		}
		start := x.build()[replaceSize:]
		for range 5 {
			var remove []int
			var add []rule
			for _, name := range chains {
				c, ok := x.read(name)
				if !ok {
					t.Fatalf("no chain %s", name)
				}
				for _, l := range c.lines {
					if l.comment == comment("89abcdef") && rnd.IntN(2) == 0 {
						remove = append(remove, int(l.handle))
					}
				}
				for range rnd.IntN(3) {
					add = append(add, rule{at: place{g.family, g.name, name, true}, in: fmt.Sprint("eth", rnd.IntN(9))})
				}
			}
			before := x
			if x, err = x.with(remove, add, "89abcdef"); err != nil {
				t.Fatal(err)
			}
			x = reread(t, x)
			for _, name := range chains {
				was, _ := before.read(name)
				is, _ := x.read(name)
				var want []rule
				for _, r := range add {
					if r.at.chain == name {
						want = append(want, r)
					}
				}
				for _, l := range was.lines {
					if !slices.Contains(remove, int(l.handle)) {
						want = append(want, l.rule)
					}
				}
				if got := rulesOf(is); !slices.Equal(got, want) {
					t.Fatalf("seed %d: %s is %v, want %v", seed, name, got, want)
				}
				if got, want := x.leadingTo(name), before.leadingTo(name); got != want {
					t.Fatalf("seed %d: %d lead to the head of %s, of %d", seed, got, name, want)
				}
			}
		}
		var remove []int
		for _, name := range chains {
			c, _ := x.read(name)
			for _, l := range c.lines {
				if l.comment == comment("89abcdef") {
					remove = append(remove, int(l.handle))
				}
			}
		}
		if x, err = x.with(remove, nil, "89abcdef"); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(x.build()[replaceSize:], start) {
			t.Fatalf("seed %d: with all of ours gone it is another table", seed)
		}
	}
}

// TestLegacySettles lets a host come, change its wish and go again, on the golden tables.
func TestLegacySettles(t *testing.T) {
	p := picture{chains: make(map[place]chain), oneNAT: true}
	for _, g := range golden {
		info, entries := goldenTable(t, g.family, g.name)
		x, err := parseTable(g.family, info, entries)
		if err != nil {
			t.Fatal(err)
		}
		p.see([]table{x}, "89abcdef")
	}
	if p.backend() != IPTablesLegacy {
		t.Fatalf("backend %q", p.backend())
	}
	start := p
	a := Admission{Tag: "89abcdef", Sources: addrs("192.168.93.2", "fd00:93::2"), Subnets: nets("172.17.0.0/16", "172.18.0.0/16", "fd00:17::/64")}
	for _, wish := range []struct {
		dev     string
		sources int
		rules   int
		tables  int // that have to be replaced
	}{{"eth1", 2, 7, 4}, {"eth1", 2, 7, 0}, {"eth2", 2, 7, 2}, {"eth2", 1, 4, 2}, {"", 0, 0, 2}} {
		devs := make(map[netip.Addr]string)
		for _, s := range a.Sources[:wish.sources] {
			devs[s] = wish.dev
		}
		want := p.plan(a, devs, nil)
		rewrites, err := p.rewrites(p.diff(want, a.Tag), a.Tag)
		if err != nil || len(rewrites) != wish.tables || len(want) != wish.rules {
			t.Fatalf("%+v: %d rules, %d tables, %v", wish, len(want), len(rewrites), err)
		}
		next := picture{chains: make(map[place]chain), oneNAT: true}
		for _, x := range p.tables {
			for _, r := range rewrites {
				if r.was.family == x.family && r.was.name == x.name {
					x = reread(t, r.next)
				}
			}
			next.see([]table{x}, a.Tag)
		}
		if c := next.diff(want, a.Tag); !c.empty() {
			t.Fatalf("%+v: not settled, %+v remains", wish, c)
		}
		p = next
	}
	for i, x := range p.tables {
		if !bytes.Equal(x.build(), start.tables[i].build()) {
			t.Errorf("%s %s is not as before", x.family, x.name)
		}
	}
}

// leadingTo counts the jumps and hooks that lead to the head of a chain.
func (t table) leadingTo(name string) (n int) {
	first, _, _ := t.chain(name)
	for _, e := range t.entries {
		if e.jump == first {
			n++
		}
	}
	for h := range hookCount {
		if t.has(h) && t.entry[h] == first {
			n++
		}
	}
	return n
}

// TestEveryBitCounts holds that an entry which differs from ours by one bit that means something is not taken for ours.
func TestEveryBitCounts(t *testing.T) {
	for _, r := range []rule{
		{at: place{"ip", "filter", dockerUser, true}, in: "eth1", from: nets("192.168.93.1/32")[0]},
		{at: place{"ip6", "filter", dockerUser, true}, out: "eth1", to: nets("fd00:93::1/128")[0]},
		{at: legacyNAT("ip"), from: nets("192.168.93.1/32")[0], to: nets("172.17.0.0/16")[0], masquerade: true},
		{at: legacyNAT("ip6"), from: nets("fd00:93::1/128")[0], to: nets("fd00:17::/64")[0], masquerade: true},
	} {
		s := shapes[r.at.family]
		raw := encodeEntry(r, "0123abcd")
		target, _ := s.offsets(raw)
		for i := range raw {
			switch name := s.size + headerName; {
			case i >= s.target-4 && i < name: // nfcache, offsets and sizes, the kernel's note, counters
				continue
			case i >= name+len(commentMatch)+1 && i < s.size+headerSize: // behind the match's name
				continue
			case i >= s.size+headerSize+len(comment("0123abcd"))+1 && i < target: // behind the comment
				continue
			}
			for bit := range 8 {
				bent := bytes.Clone(raw)
				bent[i] ^= 1 << bit
				if l := decodeEntry(r.at, bent); l.rule == r && l.comment == comment("0123abcd") {
					t.Errorf("%v with bit %d of byte %d turned is taken for it", r, bit, i)
				}
			}
		}
	}
}

func rulesOf(c chain) (all []rule) {
	for _, l := range c.lines {
		all = append(all, l.rule)
	}
	return all
}

// reread is the table as the kernel would give it, once it was told to keep it.
func reread(t *testing.T, x table) table {
	t.Helper()
	b := x.build()
	info := slices.Concat(b[:36], b[44:84], b[36:44])
	again, err := parseTable(x.family, info, b[replaceSize:])
	if err != nil {
		t.Fatal("what was built cannot be read:", err)
	}
	return again
}

func TestCountersFollowTheirRules(t *testing.T) {
	info, entries := goldenTable(t, "ip", "filter")
	x, err := parseTable("ip", info, entries)
	if err != nil {
		t.Fatal(err)
	}
	old := make([]byte, len(x.entries)*countersSize)
	for i := range x.entries {
		old[i*countersSize] = byte(i + 1)
	}
	c, _ := x.read(dockerUser)
	next, err := x.with([]int{int(c.lines[0].handle)}, []rule{{at: place{"ip", "filter", "FORWARD", true}}}, "89abcdef")
	if err != nil {
		t.Fatal(err)
	}
	restored := next.restore(old)[tableNameSize+8:]
	if len(restored) != len(next.entries)*countersSize {
		t.Fatalf("%d bytes of counters for %d entries", len(restored), len(next.entries))
	}
	for i, e := range next.entries {
		want := byte(0) // ours is new
		for j := range x.entries {
			if &x.entries[j].raw[0] == &e.raw[0] {
				want = byte(j + 1)
			}
		}
		if got := restored[i*countersSize]; got != want {
			t.Errorf("entry %d is given the counter %d, want %d", i, got, want)
		}
	}
}

// FuzzParseTable holds that no table brings the parser down, and that what it takes is built again as it was, with and
// without rules of ours in between.
func FuzzParseTable(f *testing.F) {
	for _, g := range golden {
		info, entries := goldenTable(f, g.family, g.name)
		f.Add(g.family == "ip6", info, entries)
	}
	f.Fuzz(func(t *testing.T, six bool, info, entries []byte) {
		family := families[0]
		if six {
			family = families[1]
		}
		x, err := parseTable(family, info, entries)
		if err != nil {
			return
		}
		if !bytes.Equal(x.build()[replaceSize:], entries) {
			t.Fatal("built again it is another")
		}
		x.bare()
		x.restore(entries)
		for _, name := range []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING", dockerUser, dockerChain, ""} {
			c, ok := x.read(name)
			if !ok {
				continue
			}
			r := rule{at: place{family, x.name, name, true}, in: "eth1"}
			more, err := x.with(nil, []rule{r, r}, "0123abcd")
			if err != nil {
				t.Fatal(err)
			}
			now, ok := more.read(name)
			if !ok || len(now.lines) != len(c.lines)+2 || now.lines[0].rule != r || now.lines[1].rule != r || now.drops != c.drops {
				t.Fatalf("%q was %+v and is %+v", name, c, now)
			}
			less, err := more.with([]int{int(now.lines[0].handle), int(now.lines[1].handle)}, nil, "0123abcd")
			if err != nil || !bytes.Equal(less.build()[replaceSize:], entries) {
				t.Fatalf("without ours it is another: %v", err)
			}
		}
	})
}
