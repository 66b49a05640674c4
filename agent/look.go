package agent

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/fairlead-dev/fairlead/resolver"
	"github.com/fairlead-dev/fairlead/routes"
)

// Look is what an agent with these settings would find now, for when none runs: engines, subnets, and the state of the
// routes that an earlier run left. It takes no lock, changes nothing and needs no rights, but those to read what it is told to.
// The Agent never acts; only Status and Whois make sense. An engine that cannot be asked is in its Status.
func Look(ctx context.Context, cfg Config, log *slog.Logger, version string) (*Agent, error) {
	found, skipped := discover(cfg)
	if err := stray(cfg, found); err != nil {
		return nil, err
	}
	j, err := openJournal(cfg.StateDir)
	if errors.Is(err, fs.ErrPermission) {
		j, err = &journal{}, nil // root's; what others see is enough to look
	}
	if err != nil {
		return nil, err
	}
	a := newAgent(cfg, log, version, j)
	a.method, a.methodWhy = resolver.None, "the agent is not running"
	a.take(found, skipped)
	a.hearAll(ctx)

	a.mu.Lock()
	defer a.mu.Unlock()
	plan, host, err := a.planRoutes()
	if err != nil {
		return nil, err
	}
	for i := range a.subnets {
		s := &a.subnets[i]
		switch {
		case s.State != Wanted:
		case slices.Contains(plan.Keep, s.Route):
			s.State = Installed
		case slices.ContainsFunc(host.table, func(e routes.Entry) bool { return e.Marked && e.Route == s.Route }):
			s.State = Installed // the journal is not to be read, or lost
		case slices.Contains(plan.Foreign, s.Route):
			s.State, s.Why = Foreign, "made by somebody else"
		case slices.Contains(j.routes(), s.Route):
			s.State, s.Why = Failed, "setup-network made the route, and it is gone"
		}
	}
	for _, w := range a.engines {
		// Nobody reports of a pilot that is held: whether the VM is open only a packet tells.
		w.pilot.open = slices.ContainsFunc(j.doc.Pilots, func(e engine.Endpoint) bool { return e.Name == w.cfg.Name })
	}
	return a, nil
}

// hearAll asks all engines once, and forgets those that are others by another way.
func (a *Agent) hearAll(ctx context.Context) {
	var wg sync.WaitGroup
	for _, w := range a.engines {
		wg.Go(func() {
			u, err := w.eng.Snapshot(ctx)
			if err != nil {
				u = engine.Update{Down: err}
			}
			a.heard(w, u)
		})
	}
	wg.Wait()
	a.setEngines(slices.DeleteFunc(a.engines, func(w *watched) bool { return w.twin != "" }))
}

// Whois is all that the engines' pictures tell of one name, answered or not.
type Whois struct {
	Schema  int      `json:"schema"`
	Name    string   `json:"name"`    // as asked for, lower-case, without a final dot
	Domain  string   `json:"domain"`  // the served domain that it lies in; "" for none
	Matched string   `json:"matched"` // the name in Domain that somebody asks for: Name, or one above it; "" for none
	Bearers []Bearer `json:"bearers"` // who asks for Matched
	Near    []string `json:"near"`    // names like it, when nobody asks for Name
}

// Bearer is a container that asks for a name.
type Bearer struct {
	Engine      string `json:"engine"`
	Container   string `json:"container"`
	Has         bool   `json:"has"`           // the name answers its addresses
	Why         string `json:"why,omitempty"` // why not, where that is not for its addresses
	State       string `json:"state"`         // Docker's word
	HostNetwork bool   `json:"hostNetwork,omitempty"`
	Ports       []Port `json:"ports"`
	Addrs       []At   `json:"addrs"`
}

// Port is an exposed port.
type Port = engine.Port

// At is an address of a container.
type At struct {
	Addr    netip.Addr `json:"addr"`
	Network string     `json:"network"`
	Subnet  Subnet     `json:"subnet"` // the zero Subnet where no network of the engine holds the address
}

// Whois looks a name, or an address, up among all containers, whether they can be reached or not.
func (a *Agent) Whois(name string) Whois {
	out := Whois{Schema: statusSchema, Name: strings.ToLower(strings.TrimSuffix(name, ".")), Bearers: []Bearer{}, Near: []string{}}
	rest := ""
	for _, d := range a.cfg.Domains {
		if cut, ok := strings.CutSuffix("."+out.Name, "."+d); ok && len(d) > len(out.Domain) {
			out.Domain, rest = d, strings.TrimPrefix(cut, ".")
		}
	}
	addr, _ := netip.ParseAddr(out.Name)
	if rest == "" && !addr.IsValid() {
		return out
	}

	type asking struct {
		at place
		w  *watched
		c  engine.Container
	}
	var all []asking
	a.mu.Lock()
	subnets := slices.Clone(a.subnets)
	for _, w := range a.engines {
		at := a.place(w)
		at.vm = cmp.Or(w.reach.Via, netip.IPv6Loopback()) // any: who is in the VM's own network asks for names, too
		at.reachable = func(netip.Addr) bool { return true }
		for _, c := range w.containers.All() {
			all = append(all, asking{at, w, c})
		}
	}
	a.mu.Unlock()
	slices.SortFunc(all, func(x, y asking) int {
		return cmp.Or(cmp.Compare(x.at.priority, y.at.priority), strings.Compare(x.c.Name, y.c.Name), strings.Compare(x.c.ID, y.c.ID))
	})

	wanted := map[string][]asking{} // rest and the names above it
	for n := rest; n != ""; _, n, _ = strings.Cut(n, ".") {
		wanted[n] = nil
	}
	hidden := []asking{}
	names := map[string]bool{}
	for _, x := range all {
		if addr.IsValid() {
			if slices.Contains(x.c.Addrs(), addr) {
				out.Matched, out.Bearers = out.Name, append(out.Bearers, bearer(x.w.cfg.Name, x.c, subnets))
			}
			continue
		}
		cs := claims(x.at, x.c)
		if len(cs) == 0 && lower(x.c.Name) == rest {
			hidden = append(hidden, x)
		}
		for _, c := range cs {
			if c.deny != "" || strings.HasSuffix(c.name, ".") {
				continue
			}
			if c.rank.kind() != byID {
				names[c.name] = true
			}
			if list, ok := wanted[c.name]; ok && (len(list) == 0 || list[len(list)-1].c.ID != x.c.ID) {
				wanted[c.name] = append(list, x)
			}
		}
	}
	if addr.IsValid() {
		return out
	}
	matched := rest
	for matched != "" && len(wanted[matched]) == 0 {
		_, matched, _ = strings.Cut(matched, ".")
	}
	if matched != rest {
		for _, n := range closest(rest, slices.Sorted(maps.Keys(names))) {
			out.Near = append(out.Near, n+"."+out.Domain)
		}
	}
	if matched != "" {
		out.Matched = matched + "." + out.Domain
	}
	for _, x := range wanted[matched] {
		b := bearer(x.w.cfg.Name, x.c, subnets)
		a.mu.Lock()
		h := a.names.holder(matched)
		number, _ := x.w.containers.Find(x.c.ID)
		b.Has = slices.ContainsFunc(h.has, func(h *held) bool { return h.owner == ownerOf(x.w.slot, number) })
		if !b.Has && (len(h.has) > 0 || h.why != "") {
			b.Why = h.why
		}
		a.mu.Unlock()
		out.Bearers = append(out.Bearers, b)
	}
	if matched == "" {
		for _, x := range hidden {
			b := bearer(x.w.cfg.Name, x.c, subnets)
			switch {
			case x.c.HostNetwork || len(x.c.Addrs()) > 0:
				b.Why = "a label of its own hides it"
			default:
				b.Why = "it has no address: it is in no network"
			}
			out.Bearers = append(out.Bearers, b)
		}
	}
	return out
}

func bearer(engineName string, c engine.Container, subnets []Subnet) Bearer {
	b := Bearer{Engine: engineName, Container: shown(c.Name), State: shown(c.State), HostNetwork: c.HostNetwork, Ports: list(c.Ports), Addrs: []At{}}
	for _, e := range c.Endpoints {
		for _, addr := range e.Addrs {
			at := At{Addr: addr, Network: shown(e.Network)}
			for _, s := range subnets {
				if s.Engine == engineName && s.Prefix.Contains(addr) && (!at.Subnet.Prefix.IsValid() || s.Network == at.Network) {
					at.Subnet = s
				}
			}
			b.Addrs = append(b.Addrs, at)
		}
	}
	return b
}

// closest are the words that were probably meant, the best first, and at most five.
func closest(word string, words []string) []string {
	const most = 5
	near := func(w string) int {
		if len(w) > 2*len(word)+8 { // a stranger's long names need not be compared letter by letter
			return len(w)
		}
		d := distance(word, w)
		if strings.HasPrefix(w, word) || strings.HasPrefix(w, word+".") || strings.HasSuffix(word, "."+w) {
			d = min(d, 1)
		}
		return d
	}
	dist := map[string]int{}
	var out []string
	for _, w := range words {
		if d := near(w); d <= 1+len(word)/3 {
			dist[w] = d
			out = append(out, w)
		}
	}
	slices.SortStableFunc(out, func(a, b string) int { return cmp.Or(cmp.Compare(dist[a], dist[b]), cmp.Compare(len(a), len(b))) })
	return out[:min(len(out), most)]
}

// FreeRange is a private IPv4 range with this many bits that overlaps nothing of what is given, which is what this host and
// its engines use. ok is false when there is none.
func FreeRange(bits int, links []platform.Link, nameservers []netip.Addr, table []routes.Entry, subnets []Subnet) (p netip.Prefix, ok bool) {
	return free(bits, hostFacts{links: links, nameservers: nameservers, table: table}, subnets)
}
