package agent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/fairlead-dev/fairlead/routes"
)

// State is what became of a subnet. Containers in it are reachable in the states Installed, Foreign and Native.
type State string

// The states of a subnet.
const (
	Wanted      State = "wanted"      // its route is to be made
	Installed   State = "installed"   // its route is in the OS's table, and ours
	Foreign     State = "foreign"     // somebody else made exactly the route that we want
	Native      State = "native"      // reachable without a route
	Refused     State = "refused"     // policy forbids the route, Why says which
	Failed      State = "failed"      // the OS did not take the route
	Unreachable State = "unreachable" // no way is known for this kind of network
)

// Subnet is the decision about one subnet of one engine's network.
type Subnet struct {
	Engine  string       `json:"engine"`
	Network string       `json:"network"`
	Prefix  netip.Prefix `json:"subnet"`
	State   State        `json:"state"`
	Route   routes.Route `json:"route,omitzero"`
	Why     string       `json:"why,omitempty"`
	Hint    string       `json:"hint,omitempty"`
	// Verified is set by setup-network: the round-trip time of a real packet, or what went wrong.
	Verified string `json:"verified,omitempty"`
}

// hostFacts is this host as compile sees it.
type hostFacts struct {
	links       []platform.Link
	nameservers []netip.Addr
	table       []routes.Entry
	owned       []routes.Route // what the journal says is ours
}

// view is one engine as compile sees it.
type view struct {
	name     string
	listed   bool // networks are known
	networks []engine.Network
	reach    platform.Reach
	carried  []routes.Route // for an engine that was not heard yet: what an earlier run made for it
}

// compile decides, for every subnet of every engine, how it is reached or why it is not. It is pure. Engines come in the
// order of their priority; among equals the first to name a subnet has it. The routes to be made are those of the
// subnets in state Wanted and the views' carried ones.
func compile(allow []netip.Prefix, host hostFacts, views []view) []Subnet {
	var out []Subnet
	taken := map[netip.Prefix]Subnet{}
	for _, v := range views {
		if !v.listed {
			continue
		}
		nets := slices.Clone(v.networks)
		slices.SortFunc(nets, func(a, b engine.Network) int {
			return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
		})
		for _, n := range nets {
			for _, p := range n.Subnets {
				s := Subnet{Engine: v.name, Network: n.Name, Prefix: p}
				decide(&s, n, v.reach, allow, host, taken)
				if s.State == Wanted || s.State == Native {
					taken[p] = s
				}
				out = append(out, s)
			}
		}
	}
	for i := range out {
		if s := &out[i]; s.State == Refused && s.Hint == "" {
			s.Hint = "give network " + s.Network + " a range that this host does not use"
			if p, ok := free(host, out); ok {
				s.Hint = fmt.Sprintf("give network %s another range, %v is free here: %s", s.Network, p, remedy(s.Network, p))
			}
		}
	}
	return out
}

func decide(s *Subnet, n engine.Network, reach platform.Reach, allow []netip.Prefix, host hostFacts, taken map[netip.Prefix]Subnet) {
	refuse := func(format string, args ...any) {
		s.State, s.Why = Refused, fmt.Sprintf(format, args...)
	}
	switch {
	case n.Driver != "bridge":
		s.State, s.Why = Unreachable, fmt.Sprintf("%s networks cannot be reached by a route", n.Driver)
		return
	case n.Options["com.docker.network.bridge.gateway_mode_ipv4"] == "isolated" && s.Prefix.Addr().Is4():
		s.State, s.Why = Unreachable, "an isolated network answers to nobody outside it, not even to its own VM"
		return
	case reach.Kind == platform.Native:
		s.State, s.Why = Native, reach.Why
		return
	case reach.Kind == platform.Tunnel:
		s.State, s.Why = Unreachable, "it needs the tunnel, which this build has not yet: "+reach.Why
		s.Hint = "where the VM has an address that this host reaches, name it: --gateway " + s.Engine + "=ADDR"
		return
	case reach.Kind != platform.Gateway:
		s.State, s.Why = Unreachable, reach.Why
		s.Hint = "name the VM's address: --gateway " + s.Engine + "=ADDR"
		return
	case s.Prefix.Addr().Is4() != reach.Via.Is4():
		s.State, s.Why = Unreachable, fmt.Sprintf("the VM's address %v is of the other IP version", reach.Via)
		return
	}
	s.Route = routes.Route{Dst: s.Prefix, Via: reach.Via, Dev: reach.Dev}
	if !private(s.Prefix) && !slices.ContainsFunc(allow, func(a netip.Prefix) bool { return within(s.Prefix, a) }) {
		refuse("%v is not a private range: a route would hide part of the Internet", s.Prefix)
		s.Hint = "if you mean it: --allow-subnet " + s.Prefix.String()
		return
	}
	if s.Prefix.Contains(reach.Via) {
		refuse("it holds the VM's own address %v", reach.Via)
		return
	}
	for _, l := range host.links {
		if s.Prefix.Contains(l.Prefix.Addr()) {
			refuse("it holds this host's address %v on %s", l.Prefix.Addr(), l.Dev)
			return
		}
	}
	for _, a := range host.nameservers {
		if s.Prefix.Contains(a) {
			refuse("it holds this host's DNS server %v", a)
			return
		}
	}
	for _, e := range host.table {
		if e.Dst.Bits() == 0 && e.Via.IsValid() && s.Prefix.Contains(e.Via) {
			refuse("it holds this host's default gateway %v", e.Via)
			return
		}
	}
	for p, t := range taken {
		if p.Overlaps(s.Prefix) {
			if p == s.Prefix && t.Route == s.Route {
				continue
			}
			refuse("%v of network %s of engine %s has it already", p, t.Network, t.Engine)
			return
		}
	}
	for _, e := range routes.Clashes(s.Prefix, host.table) {
		if e.Route == s.Route || e.Marked && slices.Contains(host.owned, e.Route) {
			continue
		}
		refuse("route %v (made by %s) is in its way", e.Route, e.Owner)
		return
	}
	s.State = Wanted
}

// private tells whether p lies in a range that nobody on the Internet has: RFC 1918, RFC 6598, RFC 4193.
func private(p netip.Prefix) bool {
	return slices.ContainsFunc(privateRanges, func(r netip.Prefix) bool { return within(p, r) })
}

var privateRanges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fc00::/7"),
}

func within(p, outer netip.Prefix) bool {
	return outer.Bits() <= p.Bits() && outer.Contains(p.Addr())
}

// free is a /24 that overlaps nothing that this host or its engines use. ok is false when no private range has room.
func free(host hostFacts, subnets []Subnet) (p netip.Prefix, ok bool) {
	for i := range 256 {
		for _, start := range [][2]byte{{10, 213}, {172, 31}, {192, 168}} {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{start[0], start[1], byte(i), 0}), 24)
			used := len(routes.Clashes(p, host.table)) > 0 ||
				slices.ContainsFunc(host.links, func(l platform.Link) bool { return l.Prefix.Masked().Overlaps(p) }) ||
				slices.ContainsFunc(host.nameservers, p.Contains) ||
				slices.ContainsFunc(subnets, func(s Subnet) bool { return s.Prefix.Overlaps(p) })
			if !used {
				return p, true
			}
		}
	}
	return p, false
}

// remedy is what to write where to move a network to another range.
func remedy(network string, p netip.Prefix) string {
	if network == "bridge" {
		return fmt.Sprintf("{\"bip\": \"%v/%d\"} in the engine's daemon.json", p.Addr().Next(), p.Bits())
	}
	return fmt.Sprintf("docker network create --subnet %v %s", p, network)
}
