package engine

import (
	"cmp"
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

// What is kept of one container at most.
const (
	maxEnv    = 64 // variables
	maxLabels = 64
	maxPorts  = 1024
)

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
	Labels   map[string]string // those that can say something of names (setLabel)

	Domainname string
	Env        []string // NAME=VALUE: of the variables, those that can say something of names (addEnv), as others may be secret

	State  string // Docker's word: "running", "paused", ...
	Health string // "", "starting", "healthy", "unhealthy"
	Ports  []Port
	// Endpoints are sorted by network name. A container that shares another's network shows that one's endpoints.
	Endpoints   []Attachment
	HostNetwork bool // in the VM's own network: reachable at the VM's address

	sharesWith string // id of the container whose network this one uses
	whole      bool   // it was inspected; else it lacks what a list does
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

func comparePort(a, b Port) int {
	return cmp.Or(cmp.Compare(a.Number, b.Number), strings.Compare(a.Proto, b.Proto))
}

// setLabel keeps a copy of a label if it is one that Fairlead reads: its own, compose's, or those of other tools for container names. Labels of
// other kinds are long and many. A flood of registrator's, which have numbers in them, leaves room for the rest.
func (c *Container) setLabel(key, value string) {
	service := strings.HasPrefix(key, "SERVICE_")
	reads := service && len(c.Labels) < maxLabels/2 || slices.Contains(labelsRead, key) ||
		slices.ContainsFunc(labelsRead, func(l string) bool { return strings.HasSuffix(l, ".") && strings.HasPrefix(key, l) })
	if !reads || len(c.Labels) == maxLabels || len(value) > 4096 {
		return
	}
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	c.Labels[strings.Clone(key)] = strings.Clone(value)
}

// labelsRead are labels, or with a dot at the end the beginnings of such.
var labelsRead = []string{
	"fairlead.", "com.docker.compose.service", "com.docker.compose.project", "com.docker.compose.container-number", "com.docker.compose.oneoff",
	"com.dnsdock.", "dev.orbstack.", "dps.",
}

// addEnv keeps a variable that tools for container names read: DNSDOCK_*, SERVICE_* and HOSTNAMES. Of these too it
// keeps at most maxEnv, and none longer than 4096 bytes: they are written by strangers.
func (c *Container) addEnv(v string) {
	if len(c.Env) < maxEnv && len(v) <= 4096 && (strings.HasPrefix(v, "DNSDOCK_") || strings.HasPrefix(v, "SERVICE_") || strings.HasPrefix(v, "HOSTNAMES=")) {
		c.Env = append(c.Env, v)
	}
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
