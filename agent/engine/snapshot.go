package engine

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
)

// PilotLabel is on every pilot container and image; its value is the instance that started it. Containers with it are
// not shown to the rest of fairlead.
const PilotLabel = "fairlead.pilot"

// maxAliases bounds what one endpoint may claim: labels and aliases are written by strangers.
const maxAliases = 64

// maxEnv bounds how many of a container's variables are kept.
const maxEnv = 64

// Info is what an engine says of itself.
type Info struct {
	ID      string `json:"id"`
	Host    string `json:"host"`    // the VM's host name
	Kernel  string `json:"kernel"`  // its release: "6.1.0-18-amd64"
	Version string `json:"version"` // "20.10.24"
	API     string `json:"api"`     // the negotiated version, "1.41"
	OS      string `json:"os"`      // "linux" or "windows"
	Arch    string `json:"arch"`    // GOARCH words: "amd64", "arm64"
	System  string `json:"system"`  // "Docker Desktop", "Boot2Docker 18.09", "Debian GNU/Linux 12"
}

// Network is one network of an engine.
type Network struct {
	ID, Name, Driver string
	Scope            string         // "local" or "swarm"
	Subnets          []netip.Prefix // masked, sorted
	Gateways         []netip.Addr   // the bridge's own addresses, where the engine tells them
	Internal         bool
	Options          map[string]string
}

// Container is one live container: running, paused or being started.
type Container struct {
	ID       string // 64 hex digits
	Name     string // without the leading slash
	Image    string
	Hostname string
	Labels   map[string]string

	Domainname string
	Env        []string // NAME=VALUE: of the variables, those that can say something of names (namingEnv), as others may be secret

	State  string // Docker's word: "running", "paused", ...
	Health string // "", "starting", "healthy", "unhealthy"
	Ports  []Port
	// Endpoints are sorted by network name. A container that shares another's network shows that one's endpoints.
	Endpoints   []Attachment
	HostNetwork bool // in the VM's own network: reachable at the VM's address

	sharesWith string // id of the container whose network this one uses
}

// Port is an exposed port of a container.
type Port struct {
	Number uint16 `json:"number"`
	Proto  string `json:"proto"` // "tcp", "udp", "sctp"
}

// Attachment joins a container to a network.
type Attachment struct {
	NetworkID, Network string
	Addrs              []netip.Addr
	Aliases            []string
}

// Addrs are all addresses of the container, in the order of its endpoints.
func (c Container) Addrs() []netip.Addr {
	var all []netip.Addr
	for _, e := range c.Endpoints {
		all = append(all, e.Addrs...)
	}
	return all
}

func networkOf(n network.Inspect) Network {
	out := Network{ID: n.ID, Name: n.Name, Driver: n.Driver, Scope: n.Scope, Internal: n.Internal, Options: n.Options}
	for _, c := range n.IPAM.Config {
		if p, err := netip.ParsePrefix(c.Subnet); err == nil && !p.Addr().Is4In6() {
			out.Subnets = append(out.Subnets, p.Masked())
		}
		if a, ok := addrOf(c.Gateway); ok {
			out.Gateways = append(out.Gateways, a)
		}
	}
	slices.SortFunc(out.Subnets, comparePrefix)
	out.Subnets = slices.Compact(out.Subnets)
	return out
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// containerOf copies what we need out of an inspect answer; ok is false for answers that are no container.
func containerOf(in container.InspectResponse) (c Container, live, ok bool) {
	if in.ContainerJSONBase == nil || in.State == nil || in.ID == "" {
		return c, false, false
	}
	c = Container{ID: in.ID, Name: strings.TrimPrefix(in.Name, "/"), State: in.State.Status}
	if in.State.Health != nil && in.State.Health.Status != "none" {
		c.Health = in.State.Health.Status
	}
	if in.Config != nil {
		c.Image, c.Hostname, c.Labels = in.Config.Image, in.Config.Hostname, in.Config.Labels
		c.Domainname, c.Env = in.Config.Domainname, namingEnv(in.Config.Env)
		for p := range in.Config.ExposedPorts {
			if n := p.Int(); n > 0 && n < 1<<16 && slices.Contains([]string{"tcp", "udp", "sctp"}, p.Proto()) {
				c.Ports = append(c.Ports, Port{Number: uint16(n), Proto: p.Proto()})
			}
		}
		slices.SortFunc(c.Ports, func(a, b Port) int {
			if a.Number != b.Number {
				return int(a.Number) - int(b.Number)
			}
			return strings.Compare(a.Proto, b.Proto)
		})
	}
	if in.HostConfig != nil {
		c.setMode(in.HostConfig.NetworkMode)
	}
	if in.NetworkSettings != nil {
		c.Endpoints = attachmentsOf(in.NetworkSettings.Networks)
	}
	switch in.State.Status {
	case "running", "paused", "restarting":
		live = true
	}
	return c, live, true
}

// containerOfSummary is containerOf for a container that the engine lists but cannot tell about: without host name,
// variables, aliases and ports.
func containerOfSummary(in container.Summary) (c Container, ok bool) {
	c = Container{ID: in.ID, Image: in.Image, Labels: in.Labels, State: in.State}
	for _, name := range in.Names {
		if name = strings.TrimPrefix(name, "/"); !strings.Contains(name, "/") { // else a link: another's name for it
			c.Name = name
		}
	}
	c.setMode(container.NetworkMode(in.HostConfig.NetworkMode))
	if in.NetworkSettings != nil {
		c.Endpoints = attachmentsOf(in.NetworkSettings.Networks)
	}
	return c, c.ID != ""
}

// namingEnv keeps the variables that tools for container names read: DNSDOCK_*, SERVICE_* and HOSTNAMES. Of these too it
// keeps at most maxEnv, and none longer than 4096 bytes: they are written by strangers.
func namingEnv(env []string) []string {
	var out []string
	for _, v := range env {
		if len(out) < maxEnv && len(v) <= 4096 && (strings.HasPrefix(v, "DNSDOCK_") || strings.HasPrefix(v, "SERVICE_") || strings.HasPrefix(v, "HOSTNAMES=")) {
			out = append(out, v)
		}
	}
	return out
}

func (c *Container) setMode(m container.NetworkMode) {
	c.HostNetwork = m == network.NetworkHost // IsHost is about this machine's kind of engine: on Windows always false
	if m.IsContainer() {
		c.sharesWith = m.ConnectedContainer()
	}
}

// addrOf reads an address: IPv4 written as IPv6 is IPv4, and one with a zone means nothing on another machine.
func addrOf(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	return a.Unmap(), err == nil && a.Zone() == ""
}

func attachmentsOf(networks map[string]*network.EndpointSettings) []Attachment {
	var out []Attachment
	for name, e := range networks {
		if e == nil {
			continue
		}
		a := Attachment{NetworkID: e.NetworkID, Network: name, Aliases: e.Aliases}
		if len(a.Aliases) > maxAliases {
			a.Aliases = a.Aliases[:maxAliases]
		}
		for _, s := range []string{e.IPAddress, e.GlobalIPv6Address} {
			if ip, ok := addrOf(s); ok {
				a.Addrs = append(a.Addrs, ip)
			}
		}
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b Attachment) int { return strings.Compare(a.Network, b.Network) })
	return out
}
