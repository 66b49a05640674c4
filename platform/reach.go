package platform

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Kind is a way for packets to get to an engine's containers.
type Kind string

// The kinds of reach.
const (
	Native  Kind = "native"  // the containers' networks are on this host already, or the VM's product routes them
	Gateway Kind = "gateway" // routes by way of the VM's address
	Tunnel  Kind = "tunnel"  // through the engine's own API stream
	None    Kind = "none"
)

// Reach is how packets get to one engine's containers.
type Reach struct {
	Kind    Kind       `json:"kind"`
	Via     netip.Addr `json:"via,omitzero"`     // the VM's address: its end of the tunnel, if there is one
	Dev     string     `json:"dev,omitempty"`    // the interface that leads there; empty while a tunnel is not up, and where there is none in between
	Source  netip.Addr `json:"source,omitzero"`  // this host's address on Dev, as the VM sees it
	Source6 netip.Addr `json:"source6,omitzero"` // likewise, the IPv6 one of a tunnel
	Other   Path       `json:"other,omitzero"`   // of a gateway: for the IP version that Via is not of; zero where no network has it
	Why     string     `json:"why"`
}

// Path is the part of a reach that is about one IP version.
type Path struct {
	Kind   Kind       `json:"kind"`
	Via    netip.Addr `json:"via,omitzero"`  // as in Reach; of a gateway, zero while it is not known
	Dev    string     `json:"dev,omitempty"` // empty while a tunnel is not up
	Source netip.Addr `json:"source,omitzero"`
	Why    string     `json:"why"`
}

// LogValue is the path as log/slog writes it.
func (p Path) LogValue() slog.Value {
	return slog.GroupValue(slog.String("kind", string(p.Kind)), slog.Any("via", p.Via), slog.String("dev", p.Dev), slog.String("why", p.Why))
}

// To is the way to a subnet.
func (r Reach) To(subnet netip.Prefix) Path {
	p := Path{r.Kind, r.Via, r.Dev, r.Source, r.Why}
	four := subnet.Addr().Is4()
	switch {
	case r.Kind == Tunnel && !four:
		p.Source = r.Source6
	case r.Kind != Gateway || four == r.Via.Is4():
	case r.Other.Kind != "":
		return r.Other
	default:
		return Path{Kind: None, Why: fmt.Sprintf("the VM's address %v is of the other IP version", r.Via)}
	}
	return p
}

// Beside is how packets of the other IP version than a gateway's get to its engine: by an address of that version which the
// VM has on the same link, else by a tunnel. vm is what the VM says of its addresses there; nil while it was not asked.
func (r Reach) Beside(vm []netip.Addr, links []Link) Path {
	version := "IPv6"
	if r.Via.Is6() {
		version = "IPv4"
	}
	usable := func(a netip.Addr) bool { return a.Is4() != r.Via.Is4() && a.IsGlobalUnicast() }
	rank := func(a netip.Addr) int { // private ones first, as the containers' are: the OS then chooses a source of that kind too
		if a.IsPrivate() {
			return 0
		}
		return 1
	}
	asked := vm != nil
	vm = slices.DeleteFunc(slices.Clone(vm), func(a netip.Addr) bool { return !usable(a) })
	slices.SortStableFunc(vm, func(a, b netip.Addr) int { return rank(a) - rank(b) })
	for _, a := range vm {
		if l, ok := OnLink(a, links); ok && l.Dev == r.Dev {
			return Path{Gateway, a, r.Dev, l.Prefix.Addr(), "the VM has that address on the same link"}
		}
	}
	here := slices.ContainsFunc(links, func(l Link) bool { return l.Dev == r.Dev && usable(l.Prefix.Addr()) })
	switch {
	case !here:
		return Path{Kind: Tunnel, Why: fmt.Sprintf("this host has no %s address on %s", version, r.Dev)}
	case !asked:
		return Path{Kind: Gateway, Dev: r.Dev, Why: fmt.Sprintf("the VM was not asked for its %s address yet", version)}
	default:
		return Path{Kind: Tunnel, Why: fmt.Sprintf("the VM has no %s address on %s that this host reaches", version, r.Dev)}
	}
}

// Link is an address of this host on one of its interfaces that are up.
type Link struct {
	Dev    string
	Prefix netip.Prefix // the address with its on-link prefix, not masked
}

// Links are this host's addresses.
func Links() ([]Link, error) {
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	var links []Link
	for _, i := range ifaces {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away between the two calls
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok {
					ones, _ := n.Mask.Size()
					links = append(links, Link{Dev: i.Name, Prefix: netip.PrefixFrom(ip.Unmap(), ones)})
				}
			}
		}
	}
	return links, nil
}

// OnLink finds the interface on which addr is a neighbour: the one with the longest prefix around it. This host is no
// neighbour of its own.
func OnLink(addr netip.Addr, links []Link) (best Link, ok bool) {
	if isOwn(addr, links) {
		return Link{}, false
	}
	for _, l := range links {
		if l.Prefix.Masked().Contains(addr) && !l.Prefix.Addr().IsLoopback() && (!ok || l.Prefix.Bits() > best.Prefix.Bits()) {
			best, ok = l, true
		}
	}
	return best, ok
}

// Neighbour is the first of a VM's own addresses at which this host reaches it; zero when there is none, as where the VM has this
// host's addresses itself (WSL's mirrored networking).
func Neighbour(locals []netip.Addr, links []Link) netip.Addr {
	for _, a := range locals {
		if _, ok := OnLink(a, links); ok {
			return a
		}
	}
	return netip.Addr{}
}

func isOwn(addr netip.Addr, links []Link) bool {
	return slices.ContainsFunc(links, func(l Link) bool { return l.Prefix.Addr() == addr })
}

// EngineFacts is what Decide needs to know of an engine.
type EngineFacts struct {
	Told    string         // "auto", "native", "tunnel" or the VM's address
	Socket  bool           // the API is a socket or pipe on this host
	SSH     bool           // the API is reached by ssh
	WSL     bool           // the API is reached by wsl
	Host    netip.Addr     // the API's address otherwise, or the WSL distribution's; zero when its name does not resolve, or it has none
	System  string         // Docker's OperatingSystem: "Docker Desktop", "OrbStack", ...
	Subnets []netip.Prefix // of its bridge networks
	Bridges []string       // those of its interfaces whose names nobody else has: they hold a network's random id
	Here    bool           // it says that it runs on a machine of this host's name and kernel
	Routed  []string       // interfaces to which somebody else's rows lead its Subnets
	Known   Endpoint       // where it was found, if nobody named it: its product may be known for one reach
}

// Decide chooses the reach for an engine. It is pure: links are this host's addresses.
func Decide(f EngineFacts, links []Link) Reach {
	switch f.Told {
	case "native":
		return Reach{Kind: Native, Why: "as told"}
	case "tunnel":
		return Reach{Kind: Tunnel, Why: "as told"}
	case "auto", "":
	default:
		via, err := netip.ParseAddr(f.Told)
		if err != nil {
			return Reach{Kind: None, Why: fmt.Sprintf("gateway %q is no address", f.Told)}
		}
		return gateway(via, "as told", links)
	}
	if f.System == "OrbStack" {
		return Reach{Kind: Native, Why: "OrbStack routes to its containers itself"}
	}
	if dev := macNetConnect(links); strings.HasPrefix(f.System, "Docker Desktop") && slices.Contains(f.Routed, dev) {
		return Reach{Kind: Native, Dev: dev, Why: "docker-mac-net-connect routes to its containers itself; fairlead does when that is stopped"}
	}
	if f.Known.Reach != "" {
		return Reach{Kind: f.Known.Reach, Why: f.Known.Why}
	}
	if f.SSH {
		return Reach{Kind: Tunnel, Why: "an engine that is spoken to by ssh may be anywhere"}
	}
	f.Host = f.Host.Unmap()
	if f.WSL && !f.Host.IsValid() {
		return Reach{Kind: Tunnel, Why: "the distribution has no address that this host reaches, as with mirrored networking"}
	}
	if f.Socket || f.Host.IsLoopback() || isOwn(f.Host, links) {
		if strings.HasPrefix(f.System, "Docker Desktop") {
			return Reach{Kind: Tunnel, Why: "Docker Desktop's VM has no address that this host reaches"}
		}
		why := "the engine's networks are not on this host, and its endpoint tells no address of its VM"
		for _, s := range f.Subnets {
			for _, l := range links {
				switch {
				case !s.Contains(l.Prefix.Addr()):
				case f.Here || slices.Contains(f.Bridges, l.Dev):
					return Reach{Kind: Native, Why: fmt.Sprintf("%s is on this host, at %s", s, l.Dev)}
				default: // every engine's first network is 172.17.0.0/16, at docker0
					why = fmt.Sprintf("the engine runs on another machine, though this host has an address in its %s too, at %s", s, l.Dev)
				}
			}
		}
		return Reach{Kind: Tunnel, Why: why}
	}
	if !f.Host.IsValid() {
		return Reach{Kind: None, Why: "the name in the engine's URL does not resolve"}
	}
	if r := gateway(f.Host, "the engine's address is on-link", links); r.Kind == Gateway {
		return r
	}
	return Reach{Kind: Tunnel, Why: fmt.Sprintf("%v is not on-link on any interface of this host", f.Host)}
}

// macNetConnect is the interface of docker-mac-net-connect, which takes this address for its own end of a tunnel; "" where
// there is none.
func macNetConnect(links []Link) string {
	for _, l := range links {
		if l.Prefix.Addr() == netip.AddrFrom4([4]byte{10, 33, 33, 1}) && strings.HasPrefix(l.Dev, "utun") {
			return l.Dev
		}
	}
	return ""
}

func gateway(via netip.Addr, why string, links []Link) Reach {
	via = via.Unmap()
	if isOwn(via, links) {
		return Reach{Kind: None, Why: fmt.Sprintf("gateway %v is this host itself", via)}
	}
	l, ok := OnLink(via, links)
	if !ok {
		return Reach{Kind: None, Why: fmt.Sprintf("gateway %v is not on-link on any interface of this host", via)}
	}
	return Reach{Kind: Gateway, Via: via, Dev: l.Dev, Source: l.Prefix.Addr(), Why: why}
}
