package firewall

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func addrs(s ...string) (all []netip.Addr) {
	for _, a := range s {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

func nets(s ...string) (all []netip.Prefix) {
	for _, n := range s {
		all = append(all, netip.MustParsePrefix(n))
	}
	return all
}

// drawing is a picture in a few words: "ip filter FORWARD drops", "legacy ip raw PREROUTING guarded", "ip filter DOCKER-USER",
// "other inet firewalld forward", "one nat".
func drawing(words ...string) picture {
	p := picture{chains: make(map[place]chain)}
	for _, w := range words {
		f := strings.Fields(w)
		switch f[0] {
		case "one":
			p.oneNAT = true
			continue
		case "other":
			p.others = append(p.others, place{family: f[1], table: f[2], chain: f[3]})
			continue
		case "legacy":
			f = f[1:]
		}
		c := chain{lines: []line{{handle: 1}}}
		if len(f) == 4 {
			c.drops = f[3] == "drops"
			c.lines[0].guard = f[3] == "guarded"
			c.lines[0].bars = f[3] == "bars"
		}
		p.chains[place{f[0], f[1], f[2], strings.HasPrefix(w, "legacy")}] = c
	}
	return p
}

func TestPlanOpensWhatTheEngineCloses(t *testing.T) {
	host := Admission{Tag: "0123abcd", Sources: addrs("192.168.99.1"), Subnets: nets("172.17.0.0/16")}
	masquerade := "ip fairlead_0123abcd postrouting: ip saddr 192.168.99.1 ip daddr 172.17.0.0/16 masquerade"
	for _, c := range []struct {
		name    string
		picture picture
		ask     Admission
		backend Backend
		want    []string
	}{
		{"no engine", drawing(), host, None, []string{masquerade}},
		{"1.12: policy accept", drawing("ip filter FORWARD"), host, None, []string{masquerade}},
		{"17.05: policy drop", drawing("ip filter FORWARD drops", "ip filter DOCKER"), host, IPTablesNFT, []string{
			`ip filter FORWARD: iifname "eth1" ip saddr 192.168.99.1 accept`,
			`ip filter FORWARD: oifname "eth1" ip daddr 192.168.99.1 accept`,
			masquerade,
		}},
		{"20.10", drawing("ip filter FORWARD drops", "ip filter DOCKER-USER"), host, IPTablesNFT, []string{
			`ip filter DOCKER-USER: iifname "eth1" ip saddr 192.168.99.1 accept`,
			`ip filter DOCKER-USER: oifname "eth1" ip daddr 192.168.99.1 accept`,
			masquerade,
		}},
		{"somebody's raw table", drawing("ip filter DOCKER-USER", "ip raw PREROUTING"), host, IPTablesNFT, []string{
			`ip filter DOCKER-USER: iifname "eth1" ip saddr 192.168.99.1 accept`,
			`ip filter DOCKER-USER: oifname "eth1" ip daddr 192.168.99.1 accept`,
			masquerade,
		}},
		{"28", drawing("ip filter FORWARD drops", "ip filter DOCKER-USER", "ip raw PREROUTING guarded"), host, IPTablesNFT, []string{
			`ip filter DOCKER-USER: iifname "eth1" ip saddr 192.168.99.1 accept`,
			`ip filter DOCKER-USER: oifname "eth1" ip daddr 192.168.99.1 accept`,
			`ip raw PREROUTING: iifname "eth1" ip saddr 192.168.99.1 accept`,
			masquerade,
		}},
		{"29 nftables", drawing("ip docker-bridges filter-FORWARD", "ip docker-bridges raw-PREROUTING", "ip6 docker-bridges filter-FORWARD"), host, NFTables, []string{
			`ip docker-bridges filter-FORWARD: iifname "eth1" ip saddr 192.168.99.1 accept`,
			`ip docker-bridges filter-FORWARD: oifname "eth1" ip daddr 192.168.99.1 accept`,
			`ip docker-bridges raw-PREROUTING: iifname "eth1" ip saddr 192.168.99.1 accept`,
			masquerade,
		}},
		{"29 nftables after a change from iptables", drawing("ip docker-bridges filter-FORWARD", "ip filter FORWARD drops"), host, NFTables, []string{
			`ip docker-bridges filter-FORWARD: iifname "eth1" ip saddr 192.168.99.1 accept`,
			`ip docker-bridges filter-FORWARD: oifname "eth1" ip daddr 192.168.99.1 accept`,
			`ip filter FORWARD: iifname "eth1" ip saddr 192.168.99.1 accept`,
			`ip filter FORWARD: oifname "eth1" ip daddr 192.168.99.1 accept`,
			masquerade,
		}},
		{"two families, each to its own", drawing("ip filter DOCKER-USER", "ip6 filter DOCKER-USER"), Admission{
			Tag: "0123abcd", Sources: addrs("192.168.99.1", "fd00::1"), Subnets: nets("172.17.0.0/16", "172.18.0.0/16", "fd17::/64", "fd18::/64"),
		}, IPTablesNFT, []string{
			`ip filter DOCKER-USER: iifname "eth1" ip saddr 192.168.99.1 accept`,
			`ip filter DOCKER-USER: oifname "eth1" ip daddr 192.168.99.1 accept`,
			masquerade,
			`ip fairlead_0123abcd postrouting: ip saddr 192.168.99.1 ip daddr 172.18.0.0/16 masquerade`,
			`ip6 filter DOCKER-USER: iifname "eth1" ip6 saddr fd00::1 accept`,
			`ip6 filter DOCKER-USER: oifname "eth1" ip6 daddr fd00::1 accept`,
			`ip6 fairlead_0123abcd postrouting: ip6 saddr fd00::1 ip6 daddr fd17::/64 masquerade`,
			`ip6 fairlead_0123abcd postrouting: ip6 saddr fd00::1 ip6 daddr fd18::/64 snat to fd18::1`,
		}},
		{"20.10 legacy", drawing("legacy ip filter FORWARD drops", "legacy ip filter DOCKER-USER", "legacy ip nat POSTROUTING"), host, IPTablesLegacy, []string{
			`legacy ip filter DOCKER-USER: iifname "eth1" ip saddr 192.168.99.1 accept`,
			`legacy ip filter DOCKER-USER: oifname "eth1" ip daddr 192.168.99.1 accept`,
			masquerade,
		}},
		{"28 legacy, kernel 4.14", drawing("legacy ip filter DOCKER-USER", "legacy ip raw PREROUTING guarded", "legacy ip nat POSTROUTING", "one nat"), host, IPTablesLegacy, []string{
			`legacy ip filter DOCKER-USER: iifname "eth1" ip saddr 192.168.99.1 accept`,
			`legacy ip filter DOCKER-USER: oifname "eth1" ip daddr 192.168.99.1 accept`,
			`legacy ip raw PREROUTING: iifname "eth1" ip saddr 192.168.99.1 accept`,
			`legacy ip nat POSTROUTING: ip saddr 192.168.99.1 ip daddr 172.17.0.0/16 masquerade`,
		}},
		{"kernel 4.14 without legacy nat", drawing("ip filter DOCKER-USER", "one nat"), host, IPTablesNFT, []string{
			`ip filter DOCKER-USER: iifname "eth1" ip saddr 192.168.99.1 accept`,
			`ip filter DOCKER-USER: oifname "eth1" ip daddr 192.168.99.1 accept`,
			masquerade,
		}},
		{"17.05 legacy", drawing("legacy ip filter FORWARD drops", "legacy ip filter DOCKER"), host, IPTablesLegacy, []string{
			`legacy ip filter FORWARD: iifname "eth1" ip saddr 192.168.99.1 accept`,
			`legacy ip filter FORWARD: oifname "eth1" ip daddr 192.168.99.1 accept`,
			masquerade,
		}},
		{"nft after a change from legacy: both close", drawing("ip filter DOCKER-USER", "legacy ip filter FORWARD drops", "legacy ip filter DOCKER-USER"), host, IPTablesNFT, []string{
			`ip filter DOCKER-USER: iifname "eth1" ip saddr 192.168.99.1 accept`,
			`ip filter DOCKER-USER: oifname "eth1" ip daddr 192.168.99.1 accept`,
			`legacy ip filter DOCKER-USER: iifname "eth1" ip saddr 192.168.99.1 accept`,
			`legacy ip filter DOCKER-USER: oifname "eth1" ip daddr 192.168.99.1 accept`,
			masquerade,
		}},
		{"somebody's policy", drawing("ip filter FORWARD drops"), host, None, nil},
		{"somebody's legacy policy beside docker", drawing("ip filter DOCKER-USER", "legacy ip filter FORWARD drops"), host, IPTablesNFT, nil},
		{"somebody's last rule", drawing("ip filter FORWARD bars"), host, None, nil},
		{"firewalld", drawing("ip filter DOCKER-USER", "other inet firewalld filter_FORWARD"), host, IPTablesNFT, nil},
		{"somebody closes the other family", drawing("ip filter DOCKER-USER", "ip6 filter FORWARD drops", "other ip6 x forward"), host, IPTablesNFT, []string{
			`ip filter DOCKER-USER: iifname "eth1" ip saddr 192.168.99.1 accept`,
			`ip filter DOCKER-USER: oifname "eth1" ip daddr 192.168.99.1 accept`,
			masquerade,
		}},
		{"no subnet of the source's family", drawing("ip filter DOCKER-USER"), Admission{
			Tag: "0123abcd", Sources: addrs("192.168.99.1"), Subnets: nets("fd17::/64"),
		}, IPTablesNFT, nil},
		{"a source without a way", drawing("ip filter DOCKER-USER"), Admission{
			Tag: "0123abcd", Sources: addrs("10.9.9.9"), Subnets: nets("172.17.0.0/16"),
		}, IPTablesNFT, nil},
		{"nobody", drawing("ip filter DOCKER-USER"), Admission{Tag: "0123abcd", Subnets: nets("172.17.0.0/16")}, IPTablesNFT, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			devs := map[netip.Addr]string{netip.MustParseAddr("192.168.99.1"): "eth1", netip.MustParseAddr("fd00::1"): "eth1"}
			bridges := map[netip.Prefix]netip.Addr{netip.MustParsePrefix("fd18::/64"): netip.MustParseAddr("fd18::1")}
			var got []string
			for _, r := range c.picture.plan(c.ask, devs, bridges) {
				got = append(got, r.String())
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("plan:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			if got := c.picture.backend(); got != c.backend {
				t.Errorf("backend %q, want %q", got, c.backend)
			}
		})
	}
}

func TestBackend(t *testing.T) {
	if got := drawing("ip filter FORWARD drops", "legacy ip filter DOCKER-USER").backend(); got != IPTablesLegacy {
		t.Errorf("legacy beside a bare nft policy is %q, want %q", got, IPTablesLegacy)
	}
	if got := (picture{}).backend(); got != "" {
		t.Errorf("backend %q though nobody looked", got)
	}
}

func TestBefore418(t *testing.T) {
	for release, want := range map[string]bool{
		"4.14.154-boot2docker": true, "3.10.0-1160.el7": true, "4.18.0-553.el8": false, "4.19.130": false, "6.1": false, "": false, "x": false,
	} {
		if got := before418(release); got != want {
			t.Errorf("before418(%q) = %v", release, got)
		}
	}
}

func TestOpenIsSaidOfAcceptedPacketsOnly(t *testing.T) {
	a := Admission{Tag: "0123abcd", Sources: addrs("192.168.99.1"), Subnets: nets("172.17.0.0/16")}
	accept := rule{at: place{"ip", "filter", dockerUser, false}, in: "eth1", from: nets("192.168.99.1/32")[0]}
	masquerade := rule{at: place{"ip", ownTable(a.Tag), ownChain, false}, masquerade: true}
	for _, c := range []struct {
		name    string
		picture picture
		ask     Admission
		lacks   change
		want    bool
	}{
		{"all there", drawing("ip filter DOCKER-USER"), a, change{}, true},
		{"no masquerade", drawing("ip filter DOCKER-USER"), a, change{add: []rule{masquerade}}, true},
		{"one accept missing", drawing("ip filter DOCKER-USER"), a, change{add: []rule{masquerade, accept}}, false},
		{"nobody asked", drawing("ip filter DOCKER-USER"), Admission{Tag: a.Tag, Subnets: a.Subnets}, change{}, false},
		{"legacy", drawing("legacy ip filter DOCKER-USER"), a, change{}, true},
		{"closed by somebody", drawing("ip filter FORWARD drops"), a, change{}, false},
		{"closed by firewalld too", drawing("ip filter DOCKER-USER", "other inet firewalld forward"), a, change{}, false},
		{"not looked at", picture{}, a, change{}, false},
	} {
		if got := c.picture.state(c.ask, c.lacks, nil); got.Open != c.want || (len(got.Closed) == 0) != (c.want || len(c.ask.Sources) == 0) {
			t.Errorf("%s: open %v, want %v", c.name, got.Open, c.want)
		}
	}
}

// What closes one IP version does not close the other.
func TestFamiliesStandForThemselves(t *testing.T) {
	a := Admission{Tag: "0123abcd", Sources: addrs("10.213.0.1", "fdfa::1"), Subnets: nets("172.17.0.0/16", "fd17::/64")}
	devs := map[netip.Addr]string{a.Sources[0]: "flead0", a.Sources[1]: "flead0"}
	v4, v6 := "ip", "ip6"
	for _, c := range []struct {
		name         string
		stranger     string
		failed       map[string]Closed
		open, closed string
	}{
		{"IPv4 by a policy", "ip filter FORWARD drops", nil, v6, v4},
		{"IPv6 by a policy", "ip6 filter FORWARD drops", nil, v4, v6},
		{"IPv6 by a chain", "other ip6 firewall forward", nil, v4, v6},
		{"both by a chain", "other inet firewalld forward", nil, "", v4 + v6},
		{"IPv6 is not forwarded", "", map[string]Closed{v6: {Err: errors.New("off"), Hint: "switch it on"}}, v4, v6},
	} {
		words := []string{"ip raw PREROUTING guarded", "ip6 raw PREROUTING guarded"}
		if c.stranger != "" {
			words = append(words, c.stranger)
		}
		p := drawing(words...)
		var opened []string
		for _, r := range p.plan(a, devs, nil) {
			opened = append(opened, r.at.family)
		}
		if c.failed == nil && strings.Join(slices.Compact(opened), "") != c.open {
			t.Errorf("%s: rules for %v, want them for %q", c.name, opened, c.open)
		}
		s := p.state(a, change{}, c.failed)
		closed := ""
		for _, f := range s.Closed {
			closed += map[bool]string{false: v4, true: v6}[f.IPv6]
			if f.Err == nil || f.Hint == "" {
				t.Errorf("%s: %+v", c.name, f)
			}
		}
		if s.Open != (c.open != "") || closed != c.closed {
			t.Errorf("%s: open %v, closed %q", c.name, s.Open, closed)
		}
	}
}

// carryOut is the kernel's part: it changes the picture as apply changes the kernel.
func (p picture) carryOut(c change, tag string, handle func() uint64) picture {
	next := picture{chains: make(map[place]chain), oneNAT: p.oneNAT}
	for at, ch := range p.chains {
		if at.table == ownTable(tag) && slices.Contains(c.drop, at.family) {
			continue
		}
		ch.lines = slices.DeleteFunc(slices.Clone(ch.lines), func(l line) bool { return slices.Contains(c.remove, spot{at, l.handle}) })
		next.chains[at] = ch
	}
	for _, r := range c.add {
		ch := next.chains[r.at]
		ch.lines = slices.Insert(ch.lines, 0, line{handle: handle(), comment: comment(tag), rule: r})
		next.chains[r.at] = ch
	}
	return next
}

// seenBy is the picture that look takes for tag.
func (p picture) seenBy(tag string) picture {
	for _, f := range families {
		if _, ok := p.chains[place{f, ownTable(tag), ownChain, false}]; ok {
			p.own = append(p.own, f)
		}
	}
	return p
}

// TestDiffSettles plays changing wishes of two hosts, and accidents, on random engines: one change always settles a wish, the
// other host's rules and everybody else's stay, and after both have gone all is as before.
func TestDiffSettles(t *testing.T) {
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		last := uint64(100)
		handle := func() uint64 { last++; return last }
		var words []string
		for _, w := range []string{
			"ip filter DOCKER-USER", "ip filter FORWARD drops", "ip raw PREROUTING guarded", "ip docker-bridges filter-FORWARD",
			"ip docker-bridges raw-PREROUTING", "ip6 filter DOCKER-USER", "ip6 raw PREROUTING guarded",
			"legacy ip filter DOCKER-USER", "legacy ip raw PREROUTING guarded", "legacy ip nat POSTROUTING", "one nat",
		} {
			if rnd.IntN(2) == 0 {
				words = append(words, w)
			}
		}
		start := drawing(words...)
		now := start
		tags := []string{"0000000a", "0000000b"}
		devs := make(map[netip.Addr]string)
		bridges := make(map[netip.Prefix]netip.Addr)
		for step := range 12 {
			a := Admission{Tag: tags[rnd.IntN(2)]}
			for _, s := range addrs("192.168.99.1", "192.168.99.2", "fd00::1") {
				devs[s] = []string{"eth0", "eth1"}[rnd.IntN(2)]
				if rnd.IntN(2) == 0 {
					a.Sources = append(a.Sources, s)
				}
			}
			for _, n := range nets("172.17.0.0/16", "172.18.0.0/16", "fd17::/64") {
				if rnd.IntN(2) == 0 {
					a.Subnets = append(a.Subnets, n)
				}
			}
			bridges[netip.MustParsePrefix("fd17::/64")] = append(addrs("fd17::1", "fd17::2"), netip.Addr{})[rnd.IntN(3)]
			if rnd.IntN(3) == 0 { // somebody flushes a chain, or doubles its rules
				for at, c := range now.chains {
					if rnd.IntN(2) == 0 {
						c.lines = slices.DeleteFunc(slices.Clone(c.lines), func(l line) bool { return l.comment == comment(a.Tag) })
					} else {
						for _, l := range slices.Clone(c.lines) {
							if l.comment == comment(a.Tag) {
								l.handle = handle()
								c.lines = append(c.lines, l)
							}
						}
					}
					now.chains[at] = c
					break
				}
			}
			if step >= 10 {
				a = Admission{Tag: tags[step-10]}
			}
			want := now.plan(a, devs, bridges)
			next := now.carryOut(now.seenBy(a.Tag).diff(want, a.Tag), a.Tag, handle)
			if c := next.seenBy(a.Tag).diff(next.plan(a, devs, bridges), a.Tag); !c.empty() {
				t.Fatalf("seed %d: not settled, %+v remains", seed, c)
			}
			other := tags[0]
			if a.Tag == other {
				other = tags[1]
			}
			if got, was := next.text(other), now.text(other); !slices.Equal(got, was) {
				t.Fatalf("seed %d: the other host's rules changed from\n%s\nto\n%s", seed, was, got)
			}
			now = next
		}
		if len(now.chains) != len(start.chains) {
			t.Fatalf("seed %d: chains %v left", seed, now.chains)
		}
		for at, c := range now.chains {
			if !slices.Equal(c.lines, start.chains[at].lines) {
				t.Fatalf("seed %d: %v is %+v, was %+v", seed, at, c.lines, start.chains[at].lines)
			}
		}
	}
}

func (p picture) text(tag string) (all []string) {
	p.mine(tag, func(_ place, l line) { all = append(all, l.rule.String()) })
	return all
}

func TestAdmissionsThatOpenTooMuchAreRefused(t *testing.T) {
	good := Admission{Tag: "0123abcd", Sources: addrs("192.168.99.1"), Subnets: nets("172.17.0.0/16")}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		bad  func(*Admission)
	}{
		{"no tag", func(a *Admission) { a.Tag = "" }},
		{"a tag with quotes", func(a *Admission) { a.Tag = `012"abcd` }},
		{"no source address", func(a *Admission) { a.Sources = append(a.Sources, netip.Addr{}) }},
		{"any source", func(a *Admission) { a.Sources = addrs("0.0.0.0") }},
		{"loopback", func(a *Admission) { a.Sources = addrs("127.0.0.1") }},
		{"multicast", func(a *Admission) { a.Sources = addrs("224.0.0.1") }},
		{"link-local", func(a *Admission) { a.Sources = addrs("fe80::1%eth0") }},
		{"IPv4 in IPv6", func(a *Admission) { a.Sources = addrs("::ffff:192.168.99.1") }},
		{"everything", func(a *Admission) { a.Subnets = nets("0.0.0.0/0") }},
		{"no subnet", func(a *Admission) { a.Subnets = append(a.Subnets, netip.Prefix{}) }},
		{"host bits", func(a *Admission) { a.Subnets = nets("172.17.0.1/16") }},
		{"a source among the containers", func(a *Admission) { a.Sources = addrs("172.17.0.2") }},
		{"too many", func(a *Admission) { a.Subnets = slices.Repeat(a.Subnets, maxSubnets+1) }},
	} {
		a := good
		c.bad(&a)
		if err := a.check(); err == nil {
			t.Errorf("%s: %+v is not refused", c.name, a)
		}
	}
}

func FuzzParseComment(f *testing.F) {
	f.Add(formatComment("fairlead:0123abcd"))
	f.Add([]byte{1, 2, 0, 0, 0, 3, 'a', 'b', 0})
	f.Add([]byte{0, 255, 'x'})
	f.Fuzz(func(t *testing.T, data []byte) {
		got := parseComment(data)
		if len(got) < 254 && !strings.Contains(got, "\x00") && got != parseComment(formatComment(got)) {
			t.Fatalf("%q does not survive", got)
		}
	})
}
