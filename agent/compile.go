package agent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/fairlead-dev/fairlead/routes"
)

// State is what became of a subnet. Containers in it are reachable in the states Installed, Foreign and Native,
// and in OnLink once one has answered.
type State string

// The states of a subnet.
const (
	Wanted      State = "wanted"      // its route is to be made
	Installed   State = "installed"   // its route is in the OS's table, and ours
	Foreign     State = "foreign"     // somebody else made exactly the route that we want
	Native      State = "native"      // reachable without a route
	OnLink      State = "on-link"     // its containers are this host's neighbours: if one answers, it is reachable without a route
	Refused     State = "refused"     // policy forbids the route, Why says which
	Closed      State = "closed"      // its route is there, and the VM lets nothing through to it; Why says why
	Failed      State = "failed"      // the OS did not take the route
	NoWay       State = "no way"      // what leads to it is missing now, such as a tunnel that is not up; Why says what
	Unreachable State = "unreachable" // by its nature: nothing leads to this kind of network, and nothing is to be mended
)

// Subnet is the decision about one subnet of one engine's network.
type Subnet struct {
	Engine    string       `json:"engine"`
	Network   string       `json:"network"` // empty for a route that an earlier run made for an engine that was not heard yet
	NetworkID string       `json:"networkID,omitempty"`
	Prefix    netip.Prefix `json:"subnet"`
	State     State        `json:"state"`
	Route     routes.Route `json:"route,omitzero"`
	Why       string       `json:"why,omitempty"`
	Hint      string       `json:"hint,omitempty"`
	Internal  bool         `json:"internal,omitempty"` // made by: docker network create --internal
	Verified  Proof        `json:"verified,omitzero"`  // what became of the last real packet that went this way
	Peers     []Peer       `json:"peers,omitempty"`    // who can be asked, where it should be reachable

	// Routes that somebody made by hand for containers, to the same VM: those that stay, and those that this one takes the
	// place of now (Config.ReplaceRoutes).
	ByHand   []routes.Route `json:"byHand,omitempty"`
	Replaces []routes.Route `json:"replaces,omitempty"`
}

// String says whose the subnet is: "172.17.0.0/16 of network bridge of engine dev".
func (s Subnet) String() string {
	if s.Network == "" {
		return fmt.Sprintf("%v of engine %s", s.Prefix, s.Engine)
	}
	return fmt.Sprintf("%v of network %s of engine %s", s.Prefix, s.Network, s.Engine)
}

// hostFacts is this host as compile sees it.
type hostFacts struct {
	links       []platform.Link
	nameservers []netip.Addr
	table       []routes.Entry
	owned       []routes.Route // what the journal says is ours
	replace     bool           // rows that somebody made by hand to an engine's own VM may be taken out (Config.ReplaceRoutes)
	takenOut    []routes.Route // these were: whoever makes one again keeps it
}

// view is one engine as compile sees it.
type view struct {
	name     string
	listed   bool // networks are known
	networks []engine.Network
	reach    platform.Reach
	carried  []routes.Route // for an engine that was not heard yet: what the journal says an earlier run made for it
}

// compile decides, for every subnet of every engine, how it is reached or why it is not. It is pure. Engines come in the
// order of their priority; among equals the first to name a subnet has it. The routes to be made or kept are those of
// the subnets in state Wanted. Of the carried routes it returns those alone that are still there and may stay.
func compile(allow []netip.Prefix, host hostFacts, views []view) []Subnet {
	var out, taken []Subnet
	otherwise := map[int]string{} // by the place in out
	for _, v := range views {
		for _, r := range v.carried {
			s := Subnet{Engine: v.name, Prefix: r.Dst}
			decide(&s, engine.Network{Driver: "bridge"}, platform.Reach{Kind: platform.Gateway, Via: r.Via, Dev: r.Dev}, allow, host, taken)
			there := slices.ContainsFunc(host.table, func(e routes.Entry) bool { return e.Marked && e.Route == r })
			if s.State == Wanted && there {
				s.Why = "kept from an earlier run until the engine is heard"
				taken, out = append(taken, s), append(out, s)
			}
		}
		if !v.listed {
			continue
		}
		nets := slices.Clone(v.networks)
		slices.SortFunc(nets, func(a, b engine.Network) int {
			return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
		})
		for _, n := range nets {
			for _, p := range n.Subnets {
				s := Subnet{Engine: v.name, Network: shown(n.Name), NetworkID: n.ID, Prefix: p, Internal: n.Internal}
				otherwise[len(out)] = decide(&s, n, v.reach, allow, host, taken)
				if s.State == Wanted || s.State == Native {
					taken = append(taken, s)
				}
				out = append(out, s)
			}
		}
	}
	p, found := free(24, host, out)
	for i := range out {
		if s := &out[i]; s.State == Refused && s.Hint == "" {
			s.Hint = "give network " + s.Network + " a range that this host does not use"
			if found && s.Prefix.Addr().Is4() {
				s.Hint = fmt.Sprintf("give network %s another range, %v is free here: %s", s.Network, p, remedy(s.Network, p))
			}
			if otherwise[i] != "" {
				s.Hint += "; or, " + otherwise[i]
			}
		}
	}
	return out
}

// decide decides about one subnet. otherwise is another way out of a refusal than to move the network.
func decide(s *Subnet, n engine.Network, reach platform.Reach, allow []netip.Prefix, host hostFacts, taken []Subnet) (otherwise string) {
	refuse := func(format string, args ...any) {
		s.State, s.Why, s.ByHand, s.Replaces = Refused, fmt.Sprintf(format, args...), nil, nil
	}
	mode := "com.docker.network.bridge.gateway_mode_ipv6"
	if s.Prefix.Addr().Is4() {
		mode = "com.docker.network.bridge.gateway_mode_ipv4"
	}
	way := reach.To(s.Prefix)
	switch neighbours := besides(n, s.Prefix, reach, host.links); {
	case neighbours != "":
		s.State, s.Why = OnLink, "its containers are neighbours of this host on "+neighbours
		return
	case n.Driver != "bridge":
		s.State, s.Why = Unreachable, apart(n.Driver)
		return
	case n.Options[mode] == "isolated":
		s.State, s.Why = Unreachable, "an isolated network answers to nobody outside it, not even to its own VM"
		return
	case way.Kind == platform.Native && way.Dev != "" && !leads(host.table, s.Prefix, way.Dev):
		s.State, s.Why = NoWay, fmt.Sprintf("no route leads to it by %s: %s", way.Dev, way.Why)
		s.Hint = "let fairlead do it: sudo brew services stop docker-mac-net-connect"
		return
	case way.Kind == platform.Native:
		for _, t := range taken {
			if t.State == Wanted && t.Prefix.Overlaps(s.Prefix) {
				refuse("%v has it already", t)
				return
			}
		}
		s.State, s.Why = Native, way.Why
		return
	case way.Kind == platform.Tunnel && way.Dev == "":
		s.State, s.Why = NoWay, "the tunnel is not up: "+way.Why
		s.Hint = "a tunnel lives as long as the agent: " + platform.Sudo + "fairlead run"
		return
	case way.Kind == platform.Tunnel && !way.Source.IsValid():
		s.State, s.Why = NoWay, "the tunnel does not carry this IP version"
		return
	case way.Kind == platform.Tunnel:
		s.Route = routes.Route{Dst: s.Prefix, Dev: way.Dev}
	case way.Kind == platform.Gateway && way.Via.IsValid():
		s.Route = routes.Route{Dst: s.Prefix, Via: way.Via, Dev: way.Dev}
	case reach.Kind == platform.Gateway:
		s.State, s.Why = NoWay, way.Why
		s.Hint = "a tunnel carries both IP versions: --gateway " + s.Engine + "=tunnel"
		return
	default:
		s.State, s.Why = NoWay, way.Why
		s.Hint = "name the VM's address: --gateway " + s.Engine + "=ADDR"
		return
	}
	allowed := allowed(s.Prefix, allow)
	if !private(s.Prefix) && !allowed {
		refuse("%v is not a private range: a route would hide part of the Internet", s.Prefix)
		s.Hint = "if you mean it: --allow-subnet " + s.Prefix.String()
		return
	}
	for _, vm := range []netip.Addr{reach.Via, way.Via} {
		if s.Prefix.Contains(vm) {
			refuse("it holds the VM's own address %v", vm)
			return
		}
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
		if e.Dst.Bits() <= 1 && e.Via.IsValid() && s.Prefix.Contains(e.Via) {
			refuse("it holds this host's default gateway %v", e.Via)
			return
		}
	}
	for _, t := range taken {
		if t.Prefix.Overlaps(s.Prefix) && t.Route != s.Route {
			refuse("%v has it already", t)
			return
		}
	}
	for _, e := range routes.Clashes(s.Prefix, host.table) {
		if e.Marked && slices.Contains(host.owned, e.Route) {
			continue
		}
		if e.Route == s.Route || e.Via.IsValid() && e.Via == s.Route.Via && e.Dev == s.Route.Dev { // packets go to our VM either way
			switch {
			case !forContainers(e, s.Prefix):
			case host.replace && !slices.Contains(host.takenOut, e.Route):
				s.Replaces = append(s.Replaces, e.Route)
			default:
				s.ByHand = append(s.ByHand, e.Route)
			}
			continue
		}
		if e.Dst.Bits() < s.Prefix.Bits() {
			if allowed { // a row beside that one takes only what is the containers'
				continue
			}
			otherwise = "if nobody behind that route has an address in it: --allow-subnet " + s.Prefix.String()
		}
		refuse("route %v (made by %s) is in its way", e.Route, e.Owner)
		return
	}
	s.State = Wanted
	return
}

// forContainers tells whether a row that leads to the VM of a container subnet was made by hand for containers: it lies in their
// subnet, or is one of those that recipes make for all of Docker's. A VM may be the way to somewhere else, too.
func forContainers(e routes.Entry, subnet netip.Prefix) bool {
	usual := within(e.Dst, netip.MustParsePrefix("172.16.0.0/12")) || e.Dst == netip.MustParsePrefix("172.0.0.0/8")
	return e.ByHand() && (usual || within(e.Dst, subnet))
}

// leads tells whether somebody else's row leads packets for p straight to a link.
func leads(table []routes.Entry, p netip.Prefix, dev string) bool {
	return slices.ContainsFunc(table, func(e routes.Entry) bool {
		return !e.Marked && e.Route == routes.Route{Dst: p, Dev: dev}
	})
}

// besides is the interface of this host on which the containers of a macvlan or ipvlan network in the VM are its neighbours,
// if there is one: their VM does not reach them, and they need no route.
func besides(n engine.Network, p netip.Prefix, reach platform.Reach, links []platform.Link) string {
	if n.Driver == "macvlan" || n.Driver == "ipvlan" {
		for _, l := range links {
			if reach.Kind == platform.Gateway && l.Dev == reach.Dev && l.Prefix.Masked() == p {
				return l.Dev
			}
		}
	}
	return ""
}

// apart says why nothing leads to a driver's networks.
func apart(driver string) string {
	switch driver {
	case "overlay":
		return "an overlay network does not lead out of itself; its containers are reached at their addresses on docker_gwbridge"
	case "macvlan", "ipvlan":
		return driver + " keeps containers apart from their own machine"
	default:
		return fmt.Sprintf("%s networks do not lead by way of their machine", shown(driver))
	}
}

// private tells whether p lies in a range that nobody on the Internet has: RFC 1918, RFC 6598, RFC 4193.
func private(p netip.Prefix) bool {
	return slices.ContainsFunc(privateRanges, func(r netip.Prefix) bool { return within(p, r) })
}

var privateRanges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fc00::/7"),
}

// allowed tells whether the user's settings let a route to p be made although policy is against it.
func allowed(p netip.Prefix, allow []netip.Prefix) bool {
	return slices.ContainsFunc(allow, func(a netip.Prefix) bool { return within(p, a) })
}

func within(p, outer netip.Prefix) bool {
	return outer.Bits() <= p.Bits() && outer.Contains(p.Addr())
}

// freeLink are addresses for the two ends of a tunnel that overlap nothing that this host or its engines use: the nth of
// such, as the VM may use some that we do not see.
func freeLink(host hostFacts, subnets []Subnet, nth int) (here, there [2]netip.Addr) {
	for i := range 1 << 14 {
		for k, start := range spare {
			a := netip.AddrFrom4([4]byte{start[0], start[1], byte(i >> 6), byte(i << 2)})
			p := netip.PrefixFrom(a, 30)
			if used(p, host, subnets) {
				continue
			}
			if nth--; nth < 0 {
				here[0], there[0] = a.Next(), a.Next().Next()
				// RFC 4193, with "fairl" for the random part: only both ends of this link ever see it.
				b := [16]byte{0xfd, 'f', 'a', 'i', 'r', 'l', byte(i >> 8), byte(i), byte(k), 15: 1}
				here[1] = netip.AddrFrom16(b)
				there[1] = here[1].Next()
				return here, there
			}
		}
	}
	return here, there
}

// spare are the beginnings of ranges where we look for room: seldom used, and in each of RFC 1918's, as a VPN often takes
// one of these whole.
var spare = [][2]byte{{10, 213}, {172, 31}, {192, 168}}

// used tells whether p overlaps anything that this host or its engines use.
func used(p netip.Prefix, host hostFacts, subnets []Subnet) bool {
	return len(routes.Clashes(p, host.table)) > 0 ||
		slices.ContainsFunc(host.links, func(l platform.Link) bool { return l.Prefix.Masked().Overlaps(p) }) ||
		slices.ContainsFunc(host.nameservers, p.Contains) ||
		slices.ContainsFunc(subnets, func(s Subnet) bool { return s.Prefix.Overlaps(p) })
}

// free is an IPv4 range of this many bits, 16 to 24, that overlaps nothing that this host or its engines use. ok is false when
// no private range has room.
func free(bits int, host hostFacts, subnets []Subnet) (p netip.Prefix, ok bool) {
	for i := range 1 << (bits - 8) { // of each start's own /16 first, then of what is above it
		for _, start := range spare {
			a := netip.AddrFrom4([4]byte{start[0], start[1] + byte(i>>(bits-16)), byte(i << (24 - bits)), 0})
			p := netip.PrefixFrom(a, bits)
			if private(p) && !used(p, host, subnets) {
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
	if !plain(network) { // no quotes make a stranger's text safe in every shell
		network = "NAME"
	}
	return fmt.Sprintf("docker network create --subnet %v %s", p, network)
}

// shown is a name that a stranger chose, fit for a line of text: as it is where it is plain, else quoted and cut.
func shown(name string) string {
	if plain(name) {
		return name
	}
	if len(name) > 64 {
		name = name[:64] + "..."
	}
	return strconv.QuoteToASCII(name)
}

// plain tells whether a name is like those that Docker takes: harmless in a terminal and as a word in any shell.
func plain(name string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
	return name != "" && len(name) <= 128 && name[0] != '-' && strings.Trim(name, letters) == ""
}
