package firewall

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// place is a chain: where a rule stands.
type place struct {
	family string // "ip" or "ip6", as nft calls them
	table  string
	chain  string
}

// rule is the one shape that we write. iptables-nft must be able to print what stands in its tables, or every later
// iptables call in the VM fails ("table is incompatible, use 'nft' tool"): interface, address and accept it knows;
// masquerade stands in a table of our own.
type rule struct {
	at         place
	in, out    string       // interface; "" is any
	from, to   netip.Prefix // zero is any
	masquerade bool         // else accept
}

// String is the rule as nft prints it, after its place: `ip filter DOCKER-USER: iifname "eth1" ip saddr 192.168.99.1 accept`.
func (r rule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s:", r.at.family, r.at.table, r.at.chain)
	if r.in != "" {
		fmt.Fprintf(&b, " iifname %q", r.in)
	}
	if r.out != "" {
		fmt.Fprintf(&b, " oifname %q", r.out)
	}
	if r.from.IsValid() {
		fmt.Fprintf(&b, " %s saddr %s", r.at.family, short(r.from))
	}
	if r.to.IsValid() {
		fmt.Fprintf(&b, " %s daddr %s", r.at.family, short(r.to))
	}
	if r.masquerade {
		return b.String() + " masquerade"
	}
	return b.String() + " accept"
}

func short(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// line is one rule of the kernel, as far as we need to understand it.
type line struct {
	handle  uint64
	comment string
	rule    rule // what it says; zero unless it is of our shape
	guard   bool // it drops what does not come in by one given interface: how Engine 28 and later close their containers
}

type chain struct {
	drops bool // its policy
	lines []line
}

// picture is what planning needs to know of the kernel.
type picture struct {
	chains map[place]chain // those of places that exist
	own    []string        // families in which our table exists
	legacy bool            // x_tables' iptables closes forwarding
	noNFT  bool            // this kernel has no nf_tables
}

// An accept ends only the chain it stands in, so a packet needs one in each closed chain on its way.
const (
	dockerTable = "docker-bridges" // Engine 29 with firewall-backend nftables
	dockerUser  = "DOCKER-USER"    // Engine 17.06 and later with iptables: the chain meant for other people's rules
	ownChain    = "postrouting"
)

var families = []string{"ip", "ip6"}

func ownTable(tag string) string { return "fairlead_" + tag }
func comment(tag string) string  { return "fairlead:" + tag }

// places lists every chain that matters to planning, and so every chain in which a rule of ours may stand.
func places(tag string) (all []place) {
	for _, f := range families {
		all = append(all,
			place{f, dockerTable, "filter-FORWARD"},
			place{f, dockerTable, "raw-PREROUTING"},
			place{f, "filter", dockerUser},
			place{f, "filter", "FORWARD"},
			place{f, "raw", "PREROUTING"},
			place{f, ownTable(tag), ownChain})
	}
	return all
}

// gate is a closed chain. Answers pass forward chains too, prerouting only the way in matters.
type gate struct {
	place
	answers bool
}

func (p picture) gates(family string) (closed []gate) {
	has := func(table, name string) bool {
		_, ok := p.chains[place{family, table, name}]
		return ok
	}
	guarded := slices.ContainsFunc(p.chains[place{family, "raw", "PREROUTING"}].lines, func(l line) bool { return l.guard })
	drops := p.chains[place{family, "filter", "FORWARD"}].drops
	for _, g := range []struct {
		closed      bool
		table, name string
		answers     bool
	}{
		{has(dockerTable, "filter-FORWARD"), dockerTable, "filter-FORWARD", true},
		{has(dockerTable, "raw-PREROUTING"), dockerTable, "raw-PREROUTING", false},
		{has("filter", dockerUser), "filter", dockerUser, true},
		{!has("filter", dockerUser) && drops, "filter", "FORWARD", true}, // Engine 1.13 to 17.05
		{guarded, "raw", "PREROUTING", false},                            // Engine 28 and later
	} {
		if g.closed {
			closed = append(closed, gate{place{family, g.table, g.name}, g.answers})
		}
	}
	return closed
}

func (p picture) backend() Backend {
	if p.chains == nil {
		return "" // not looked at
	}
	var bridges, user, gates bool
	for _, f := range families {
		for _, g := range p.gates(f) {
			gates = true
			bridges = bridges || g.table == dockerTable
			user = user || g.chain == dockerUser
		}
	}
	switch {
	case bridges:
		return NFTables
	case user:
		return IPTablesNFT
	case p.legacy:
		return IPTablesLegacy
	case gates:
		return IPTablesNFT
	default:
		return None
	}
}

// plan returns the rules that make a true. devs names the interface by which this machine reaches each source; one without
// is left out.
//
// Masquerade lets containers on several networks and on --internal ones answer: they see their own bridge's address and
// need no route back. It goes by addresses alone, as kernels before 5.7 do not know a packet's iifname in postrouting.
func (p picture) plan(a Admission, devs map[netip.Addr]string) (want []rule) {
	for _, f := range families {
		gates := p.gates(f)
		for _, s := range a.Sources {
			subnets := slices.DeleteFunc(slices.Clone(a.Subnets), func(n netip.Prefix) bool { return familyOf(n.Addr()) != f })
			if familyOf(s) != f || devs[s] == "" || len(subnets) == 0 {
				continue
			}
			host, _ := s.Prefix(s.BitLen())
			for _, g := range gates {
				want = append(want, rule{at: g.place, in: devs[s], from: host})
				if g.answers {
					want = append(want, rule{at: g.place, out: devs[s], to: host})
				}
			}
			for _, n := range subnets {
				if !p.noNFT {
					want = append(want, rule{at: place{f, ownTable(a.Tag), ownChain}, from: host, to: n, masquerade: true})
				}
			}
		}
	}
	return want
}

func familyOf(a netip.Addr) string {
	if a.Is4() {
		return "ip"
	}
	return "ip6"
}

// spot is one rule to remove.
type spot struct {
	at     place
	handle uint64
}

// change leads from a picture to what is wanted.
type change struct {
	remove []spot
	drop   []string // families whose own table goes
	add    []rule
}

func (c change) empty() bool { return len(c.remove)+len(c.drop)+len(c.add) == 0 }

// diff compares what stands under tag with what is wanted. Rules of others, also of other tags, are not looked at.
func (p picture) diff(want []rule, tag string) (c change) {
	missing := make(map[rule]bool)
	keep := make(map[string]bool)
	for _, r := range want {
		missing[r] = true
		keep[r.at.family] = keep[r.at.family] || r.at.table == ownTable(tag)
	}
	for _, f := range p.own {
		if !keep[f] {
			c.drop = append(c.drop, f)
		}
	}
	p.mine(tag, func(at place, l line) {
		switch {
		case missing[l.rule]:
			delete(missing, l.rule) // a second one like it is too many
		case at.table == ownTable(tag) && !keep[at.family]: // goes with its table
		default:
			c.remove = append(c.remove, spot{at, l.handle})
		}
	})
	for _, r := range want {
		if missing[r] {
			c.add = append(c.add, r)
			delete(missing, r)
		}
	}
	return c
}

// mine calls f with every rule that stands under tag, in the order of places.
func (p picture) mine(tag string, f func(place, line)) {
	for _, at := range places(tag) {
		for _, l := range p.chains[at].lines {
			if l.comment == comment(tag) || at.table == ownTable(tag) {
				f(at, l)
			}
		}
	}
}

// state describes the picture to people, c being what it still lacks.
func (p picture) state(a Admission, c change) State {
	s := State{Backend: p.backend()}
	p.mine(a.Tag, func(_ place, l line) { s.Rules = append(s.Rules, l.rule.String()) })
	s.Open = s.Backend != "" && s.Backend != IPTablesLegacy && len(a.Sources) > 0 && len(a.Subnets) > 0 &&
		!slices.ContainsFunc(c.add, func(r rule) bool { return !r.masquerade })
	return s
}

// parseComment finds the comment in a rule's user data: a list of type (u8; 0 is the comment), length (u8), value, as libnftnl
// writes it (include/libnftnl/udata.h). Others' data may hold anything.
func parseComment(data []byte) string {
	for len(data) >= 2 && len(data) >= 2+int(data[1]) {
		value := data[2 : 2+int(data[1])]
		if data[0] == 0 {
			return string(bytes.TrimRight(value, "\x00"))
		}
		data = data[2+len(value):]
	}
	return ""
}

// formatComment is the user data that parseComment reads, for comments of up to 254 bytes.
func formatComment(comment string) []byte {
	return append([]byte{0, byte(len(comment) + 1)}, comment+"\x00"...)
}
