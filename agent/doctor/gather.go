package doctor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/fairlead-dev/fairlead/resolver"
	"github.com/fairlead-dev/fairlead/routes"
)

const (
	agentTimeout  = 5 * time.Second  // for the agent to say its status
	engineTimeout = 12 * time.Second // for the engines, where no agent is to be asked
	packetTimeout = 3 * time.Second
	dnsTimeout    = 3 * time.Second
	osTimeout     = 8 * time.Second // glibc waits 5 s for a nameserver that is gone
)

// Gather looks at everything, and changes nothing. What cannot be seen is in the Facts as an error.
func Gather(ctx context.Context, cfg agent.Config, service Service, version string) Facts {
	f, _ := gather(ctx, cfg, service, version, "")
	return f
}

// GatherFor is Gather for one name, with what the engines tell of that.
func GatherFor(ctx context.Context, cfg agent.Config, service Service, version, name string) (Facts, agent.Whois) {
	return gather(ctx, cfg, service, version, name)
}

func gather(ctx context.Context, cfg agent.Config, service Service, version, name string) (f Facts, who agent.Whois) {
	f = Facts{OS: runtime.GOOS, Version: version, Config: cfg, Service: service, Rights: platform.Privileged(), Gateways: map[string]Answer{}}
	f.Links, _ = platform.Links()
	f.Nameservers = platform.Nameservers()
	f.Table, f.TableErr = routes.List()

	who = f.askAgent(ctx, cfg, version, name)
	f.choose(name)

	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := f // before others fill it in
	for _, e := range f.Status.Engines {
		if e.Reach.Kind == platform.Gateway {
			wg.Go(func() {
				a := ping(ctx, e.Reach.Via)
				mu.Lock()
				f.Gateways[e.Name] = a
				mu.Unlock()
			})
		}
	}
	wg.Go(func() { f.Packets = prove(ctx, f.Status.Subnets) })
	wg.Go(func() { f.Addrs = proveAddrs(ctx, who.Bearers) })
	wg.Go(func() { f.askServer(ctx) })
	wg.Go(func() { f.readResolver(ctx) })
	wg.Go(func() { f.Leftovers = leftovers(findTraces(seen)) })
	wg.Wait()
	// Last, as it may wait for long where something above is broken.
	f.askOS(ctx)
	return f, who
}

// askAgent fills in what the running agent knows, else what one would find.
func (f *Facts) askAgent(ctx context.Context, cfg agent.Config, version, name string) (who agent.Whois) {
	actx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	client, err := agent.Dial(actx, cfg.Control)
	if err == nil {
		if f.Status, err = client.Status(actx); err == nil {
			f.Running = true
			if f.Names, err = client.Names(actx); err == nil && name != "" {
				who, err = client.Whois(actx, name)
			}
			f.AgentErr = err
			return who
		}
	}
	if !errors.Is(err, agent.ErrNotRunning) {
		f.AgentErr = err
	}
	ectx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	looked, err := agent.Look(ectx, cfg, slog.New(slog.DiscardHandler), version)
	if err != nil {
		f.LookErr = err
		return who
	}
	f.Status = looked.Status()
	if name != "" {
		who = looked.Whois(name)
	}
	return who
}

// choose picks the name to ask for: the one that is followed, else the first with an IPv4 address.
func (f *Facts) choose(name string) {
	if f.Domain = "docker"; len(f.Config.Domains) > 0 {
		f.Domain = f.Config.Domains[0]
	}
	if len(f.Status.Resolver.Domains) > 0 {
		f.Domain = f.Status.Resolver.Domains[0]
	}
	if name != "" {
		f.Known = strings.ToLower(strings.TrimSuffix(name, "."))
		for at := f.Known; at != ""; _, at, _ = strings.Cut(at, ".") {
			if i := slices.IndexFunc(f.Names, func(n agent.Name) bool { return n.Name == at }); i >= 0 {
				f.Want = f.Names[i].Addrs
				break
			}
		}
		return
	}
	for _, n := range f.Names {
		if slices.ContainsFunc(n.Addrs, netip.Addr.Is4) {
			f.Known, f.Want = n.Name, n.Addrs
			return
		}
	}
}

// prove sends real packets to what should be reachable.
func prove(ctx context.Context, subnets []agent.Subnet) (answers []Answer) {
	for _, p := range agent.Verify(ctx, subnets) {
		answers = append(answers, Answer{Asked: p.Result == agent.Answered || p.Result == agent.Silent, OK: p.Result == agent.Answered, Says: p.String()})
	}
	return answers
}

// proveAddrs is prove for the very addresses of who asks for a name.
func proveAddrs(ctx context.Context, bearers []agent.Bearer) map[netip.Addr]Answer {
	var each []agent.Subnet
	for _, b := range bearers[:min(len(bearers), maxBearers)] {
		peer := agent.Peer{Of: "container " + b.Container}
		for _, p := range b.Ports {
			if p.Proto == "tcp" && len(peer.TCP) < 2 {
				peer.TCP = append(peer.TCP, p.Number)
			}
		}
		for _, at := range b.Addrs {
			peer.Addr = at.Addr
			each = append(each, agent.Subnet{State: at.Subnet.State, Peers: []agent.Peer{peer}})
		}
	}
	out := map[netip.Addr]Answer{}
	for i, a := range prove(ctx, each) {
		out[each[i].Peers[0].Addr] = a
	}
	return out
}

func ping(ctx context.Context, addr netip.Addr) Answer {
	ctx, cancel := context.WithTimeout(ctx, packetTimeout)
	defer cancel()
	rtt, err := platform.Ping(ctx, addr)
	switch {
	case err == nil:
		return Answer{Asked: true, OK: true, Says: fmt.Sprintf("%v answered in %v", addr, rtt.Round(10*time.Microsecond))}
	case platform.Privileged() != nil:
		return Answer{Says: "only root may ping"}
	}
	return Answer{Asked: true, Says: err.Error()}
}

// askServer asks our DNS server, or finds out who is in its place.
func (f *Facts) askServer(ctx context.Context) {
	listen := f.Status.DNS.Listen
	if !f.Running {
		if listen = f.Config.DNSListen; !listen.IsValid() {
			method, _, err := resolver.Detect(ctx, f.Config.Resolver)
			if err != nil {
				method = resolver.None
			}
			listen = resolver.DefaultListen(method)
		}
		f.Status.DNS.Listen = listen
		for _, network := range []string{"udp", "tcp"} {
			if p, ok := platform.PortHolder(network, listen); ok && f.Holder == "" {
				f.Holder, f.HolderPID = p.String()+" has it over "+network, p.PID
			}
		}
		if f.Holder == "" && taken(listen) {
			f.Holder = "a process that only root may see has it"
		}
		return
	}
	name, qtype := f.Known, typeA
	switch {
	case name == "":
		name, qtype = f.Domain, typeSOA
	case len(f.Want) > 0 && !slices.ContainsFunc(f.Want, netip.Addr.Is4):
		qtype = typeAAAA
	}
	var wg sync.WaitGroup
	wg.Go(func() { f.UDP = ask(ctx, "udp", listen, name, qtype) })
	wg.Go(func() { f.TCP = ask(ctx, "tcp", listen, name, qtype) })
	wg.Wait()
	if f.UDP.Err != nil || f.TCP.Err != nil {
		if p, ok := platform.PortHolder("udp", listen); ok {
			f.Holder, f.HolderPID = p.String()+" has it", p.PID
		}
	}
}

// taken tells whether nobody can listen at addr now for the reason that somebody does.
func taken(addr netip.AddrPort) bool {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return inUse(err)
	}
	c.Close()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
	if err != nil {
		return inUse(err)
	}
	l.Close()
	return false
}

func inUse(err error) bool { return strings.Contains(agent.Explain(err).Hint, "another port") }

// readResolver finds what the OS lacks of what the agent wants it to have.
func (f *Facts) readResolver(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	if !f.Running {
		found, _ := resolver.Read(ctx)
		for _, e := range found {
			if e.Foreign == "" {
				f.Strays = append(f.Strays, e.Item)
			}
		}
		return
	}
	if f.Status.Paused {
		return
	}
	want, err := resolver.Render(f.Status.Resolver.Method, resolver.Want{Domains: f.Status.Resolver.Domains, Server: f.Status.DNS.Listen})
	if err != nil {
		f.EntriesErr = err
		return
	}
	found, err := resolver.Read(ctx)
	if err != nil {
		f.EntriesErr = err
		return
	}
	f.Entries = resolver.Diff(want, want, found)
}

// askOS asks as any program does: a name that nobody has asked for before, as an old answer may still be remembered, and then
// the known one.
func (f *Facts) askOS(ctx context.Context) {
	if !f.Running || f.Status.Paused || f.Status.Resolver.Method == resolver.None || len(f.Want) == 0 || f.UDP.Err != nil || len(f.Entries.Steps) > 0 || len(f.Entries.Blocked) > 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, osTimeout)
	defer cancel()
	var random [6]byte
	rand.Read(random[:])
	f.Fresh = lookUp(ctx, "x"+hex.EncodeToString(random[:])+"."+f.Known)
	f.Cached = lookUp(ctx, f.Known)
}
