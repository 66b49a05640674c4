package firewall

import (
	"bytes"
	"errors"
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
	legacy bool // kept by x_tables, else by nf_tables
}

func (at place) String() string {
	s := at.family + " " + at.table + " " + at.chain
	if at.legacy {
		return "legacy " + s
	}
	return s
}

// rule is the one shape that we write. iptables-nft must be able to print what stands in its tables, or every later
// iptables call in the VM fails ("table is incompatible, use 'nft' tool"): interface, address and accept it knows;
// masquerade stands in a table of our own.
type rule struct {
	at         place
	in, out    string       // interface; "" is any
	from, to   netip.Prefix // zero is any
	masquerade bool         // else accept
	as         netip.Addr   // what it masquerades as; zero is what the kernel chooses
}

// String is the rule as nft prints it, after its place: `ip filter DOCKER-USER: iifname "eth1" ip saddr 192.168.99.1 accept`.
func (r rule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v:", r.at)
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
	switch {
	case r.as.IsValid():
		return fmt.Sprintf("%v snat to %v", &b, r.as)
	case r.masquerade:
		return b.String() + " masquerade"
	default:
		return b.String() + " accept"
	}
}

func short(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// line is one rule of the kernel, as far as we need to understand it.
type line struct {
	handle  uint64 // in x_tables: its index in the table
	comment string
	rule    rule // what it says; zero unless it is of our shape
	guard   bool // it drops what does not come in by one given interface: how Engine 28 and later close their containers
	bars    bool // it drops or rejects everything
}

type chain struct {
	drops bool // its policy
	lines []line
}

// closes tells whether the chain drops what none of its rules speaks of.
func (c chain) closes() bool { return c.drops || len(c.lines) > 0 && c.lines[len(c.lines)-1].bars }

// barred tells whether nothing gets past the chain's head, whatever stands below.
func (c chain) barred() bool { return len(c.lines) > 0 && c.lines[0].bars }

// picture is what planning needs to know of the kernel.
type picture struct {
	chains map[place]chain // those of places that exist
	own    []string        // families in which our table exists
	others []place         // forward chains of nf_tables that close, of neither the engine's nor iptables' making; family "inet" too
	tables []table         // x_tables' tables, from which the legacy chains were read
	noNFT  bool            // this kernel has no nf_tables
	oneNAT bool            // this kernel cannot translate by nf_tables and x_tables both
}

// An accept ends only the chain it stands in, so a packet needs one in each closed chain on its way.
const (
	dockerTable = "docker-bridges" // Engine 29 with firewall-backend nftables
	dockerUser  = "DOCKER-USER"    // Engine 17.06 and later with iptables: the chain meant for other people's rules
	dockerChain = "DOCKER"         // every engine with iptables
	ownChain    = "postrouting"
)

var families = []string{"ip", "ip6"}

func ownTable(tag string) string { return "fairlead_" + tag }
func comment(tag string) string  { return "fairlead:" + tag }

// places lists every chain that matters to planning, and so every chain in which a rule of ours may stand.
func places(tag string) (all []place) {
	for _, f := range families {
		all = append(all,
			place{f, dockerTable, "filter-FORWARD", false},
			place{f, dockerTable, "raw-PREROUTING", false})
		for _, legacy := range kinds {
			all = append(all,
				place{f, "filter", dockerUser, legacy},
				place{f, "filter", dockerChain, legacy},
				place{f, "filter", "FORWARD", legacy},
				place{f, "raw", "PREROUTING", legacy})
		}
		all = append(all, legacyNAT(f), place{f, ownTable(tag), ownChain, false})
	}
	return all
}

// kinds are the two of iptables: each closes by its own rules, whatever the other says.
var kinds = []bool{false, true} // legacy

func legacyNAT(family string) place { return place{family, "nat", "POSTROUTING", true} }

// gate is a closed chain. Answers pass forward chains too, prerouting only the way in matters.
type gate struct {
	place
	answers bool
}

func (p picture) gates(family string) (closed []gate) {
	for _, chain := range []string{"filter-FORWARD", "raw-PREROUTING"} {
		at := place{family, dockerTable, chain, false}
		if _, ok := p.chains[at]; ok {
			closed = append(closed, gate{at, chain == "filter-FORWARD"})
		}
	}
	for _, legacy := range kinds {
		user := place{family, "filter", dockerUser, legacy}
		forward := place{family, "filter", "FORWARD", legacy}
		raw := place{family, "raw", "PREROUTING", legacy}
		if _, ok := p.chains[user]; ok {
			closed = append(closed, gate{user, true})
		} else if p.chains[forward].closes() && p.engineClosed(family, legacy) { // Engine 1.13 to 17.05
			closed = append(closed, gate{forward, true})
		}
		if slices.ContainsFunc(p.chains[raw].lines, func(l line) bool { return l.guard }) { // Engine 28 and later
			closed = append(closed, gate{raw, false})
		}
	}
	return closed
}

// engineClosed tells whether an engine, and not somebody else, is known to have closed iptables' forward chain: it has a
// chain there, or had until it was given the nftables backend.
func (p picture) engineClosed(family string, legacy bool) bool {
	_, chain := p.chains[place{family, "filter", dockerChain, legacy}]
	_, bridges := p.chains[place{family, dockerTable, "filter-FORWARD", false}]
	return chain || bridges
}

// strangers are the chains that close a family's way and are not the engine's: an accept elsewhere does not help against
// them, and into them we do not write.
func (p picture) strangers(family string) (closed []place) {
	for _, legacy := range kinds {
		forward := place{family, "filter", "FORWARD", legacy}
		gated := slices.ContainsFunc(p.gates(family), func(g gate) bool {
			return g.legacy == legacy && g.table == "filter"
		})
		if p.chains[forward].barred() || p.chains[forward].closes() && !gated {
			closed = append(closed, forward)
		}
	}
	for _, at := range p.others {
		if at.family == family || at.family == "inet" {
			closed = append(closed, at)
		}
	}
	return closed
}

func (p picture) backend() Backend {
	if p.chains == nil {
		return "" // not looked at
	}
	var bridges, user, legacy, nft bool
	for _, f := range families {
		for _, g := range p.gates(f) {
			bridges = bridges || g.table == dockerTable
			user = user || g.chain == dockerUser && !g.legacy
			legacy = legacy || g.legacy
			nft = nft || !g.legacy
		}
	}
	switch {
	case bridges:
		return NFTables
	case user:
		return IPTablesNFT
	case legacy:
		return IPTablesLegacy
	case nft:
		return IPTablesNFT
	default:
		return None
	}
}

// plan returns the rules that make a true. devs names the interface by which this machine reaches each source; one without
// is left out. bridges are this machine's own addresses in IPv6 subnets.
//
// Masquerade lets containers on several networks and on --internal ones answer: they see their own bridge's address and
// need no route back. It goes by addresses alone, as kernels before 5.7 do not know a packet's iifname in postrouting. For a
// second or two after a network's first container has started its bridge's IPv6 address is tentative, and the kernel would
// choose another bridge's, for the flow's whole life: so nf_tables is told which.
func (p picture) plan(a Admission, devs map[netip.Addr]string, bridges map[netip.Prefix]netip.Addr) (want []rule) {
	for _, f := range families {
		asked := a.of(f)
		if asked.nothing() || p.strangers(f) != nil {
			continue
		}
		gates := p.gates(f)
		nat, translates := p.nat(f, a.Tag)
		for _, s := range asked.Sources {
			if devs[s] == "" {
				continue
			}
			host, _ := s.Prefix(s.BitLen())
			for _, g := range gates {
				want = append(want, rule{at: g.place, in: devs[s], from: host})
				if g.answers {
					want = append(want, rule{at: g.place, out: devs[s], to: host})
				}
			}
			for _, n := range asked.Subnets {
				r := rule{at: nat, from: host, to: n, masquerade: true}
				if !nat.legacy {
					r.as = bridges[n]
				}
				if translates {
					want = append(want, r)
				}
			}
		}
	}
	return want
}

// nat is where masquerade stands: in our own table, unless x_tables translates and the kernel has no room for both.
func (p picture) nat(family, tag string) (at place, ok bool) {
	if _, old := p.chains[legacyNAT(family)]; old && (p.noNFT || p.oneNAT) {
		return legacyNAT(family), true
	}
	return place{family, ownTable(tag), ownChain, false}, !p.noNFT
}

// before418 tells whether a kernel's release, such as "4.14.154-boot2docker", is older than 4.18, where nf_nat learnt to
// serve several translators (netfilter: nf_nat: add nat hook register functions to nf_nat).
func before418(release string) bool {
	var major, minor int
	n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor)
	return n == 2 && (major < 4 || major == 4 && minor < 18)
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

// state describes the picture to people, c being what it still lacks, and failed why other than by rules a family of a is
// closed.
func (p picture) state(a Admission, c change, failed map[string]Closed) State {
	s := State{Backend: p.backend()}
	p.mine(a.Tag, func(_ place, l line) { s.Rules = append(s.Rules, l.rule.String()) })
	for _, f := range families {
		if a.of(f).nothing() {
			continue
		}
		strangers := p.strangers(f)
		if s.Backend == None && strangers != nil {
			s.Backend = Unknown
		}
		closed, isClosed := failed[f]
		switch {
		case strangers != nil:
			closed = Closed{Err: fmt.Errorf("%w: %v", ErrForeign, strangers),
				Hint: "let fairlead go around the VM's firewall: --gateway tunnel; or, in the VM, end the firewall that made these chains"}
		case isClosed:
		case s.Backend == "":
			closed.Err = errors.New("the rules could not be read")
		case slices.ContainsFunc(c.add, func(r rule) bool { return !r.masquerade && r.at.family == f }):
			closed.Err = errors.New("the rules that open it are not there")
		default:
			s.Open = true
			continue
		}
		closed.IPv6 = f == "ip6"
		s.Closed = append(s.Closed, closed)
	}
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

// mask is a network mask of size bytes.
func mask(bits int, size uint32) []byte {
	m := make([]byte, size)
	for i := range bits {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

// ones counts the leading one bits of a mask; it is -1 when others follow.
func ones(m []byte) int {
	n := 0
	for n < len(m)*8 && m[n/8]&(0x80>>(n%8)) != 0 {
		n++
	}
	if !bytes.Equal(m, mask(n, uint32(len(m)))) {
		return -1
	}
	return n
}
