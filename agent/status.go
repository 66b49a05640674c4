package agent

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/fairlead-dev/fairlead/platform/tunnel"
	"github.com/fairlead-dev/fairlead/resolver"
)

// statusSchema grows when a reader of the JSON would misunderstand it.
const statusSchema = 1

// Status is what is true now, and what was refused and why.
type Status struct {
	Schema   int            `json:"schema"`
	Version  string         `json:"version"`
	Paused   bool           `json:"paused,omitempty"` // by teardown-network
	Engines  []EngineStatus `json:"engines"`
	Skipped  []Skipped      `json:"skipped"` // what looks like an engine and cannot be used
	Subnets  []Subnet       `json:"subnets"`
	Resolver ResolverStatus `json:"resolver"`
	DNS      DNSStatus      `json:"dns"`
	// Unreached are the containers without an address that is reachable from here; they have no names.
	Unreached []Unreached `json:"unreached"`
	Losers    []Loser     `json:"losers"`   // names that a container asked for and does not have
	Replaced  []string    `json:"replaced"` // files and routes of others that are aside until a teardown (Config.Replace)
	Problems  []string    `json:"problems"` // what failed when it was last tried
}

// EngineStatus is one engine.
type EngineStatus struct {
	Name       string         `json:"name"`
	URL        string         `json:"url"`
	Found      string         `json:"found,omitempty"` // how, for one that nobody named
	Expected   bool           `json:"expected"`        // it was named, or docker's own settings choose it
	Off        bool           `json:"off,omitempty"`   // not expected, and nobody answers: its VM is off, as a rule
	Also       []string       `json:"also,omitempty"`  // other endpoints that lead to it
	Up         bool           `json:"up"`
	Error      string         `json:"error,omitempty"`
	Hint       string         `json:"hint,omitempty"`
	Stale      bool           `json:"stale,omitempty"` // not up; what is shown of it is the last known picture
	Info       engine.Info    `json:"info"`
	Reach      platform.Reach `json:"reach"`
	Pilot      *PilotStatus   `json:"pilot,omitempty"` // where the VM has something to open
	Tunnel     *TunnelStatus  `json:"tunnel,omitempty"`
	Networks   int            `json:"networks"`
	Containers int            `json:"containers"`
}

// PilotStatus is what an engine's pilot reports of the VM's firewall.
type PilotStatus struct {
	tunnel.Report
	Error string `json:"error,omitempty"` // of the pilot itself, or else what it reports
}

// TunnelStatus is what went through an engine's tunnel.
type TunnelStatus struct {
	Dev   string       `json:"dev"`
	Stats tunnel.Stats `json:"stats"`
}

// ResolverStatus is how the OS is told to ask us.
type ResolverStatus struct {
	Method  resolver.Method    `json:"method"`
	Why     string             `json:"why"`
	Domains []string           `json:"domains"`
	Entries []resolver.Item    `json:"entries"`
	Blocked []resolver.Blocked `json:"blocked"`
	Problem string             `json:"problem,omitempty"` // why the OS does not go by the entries
}

// DNSStatus is our DNS server.
type DNSStatus struct {
	Listen    netip.AddrPort `json:"listen"`
	Names     int            `json:"names"`
	NoReverse []netip.Prefix `json:"noReverse,omitempty"` // reachable subnets whose addresses have no names: they would need too many domains
}

// Unreached is a container that has no address reachable from here.
type Unreached struct {
	Container string   `json:"container"`
	Engine    string   `json:"engine"`
	Networks  []string `json:"networks"`
	Why       string   `json:"why"`
}

// Loser is a name that containers asked for and do not have.
type Loser struct {
	Name       string   `json:"name"`
	Containers []string `json:"containers"`
	Why        string   `json:"why"`
}

// Name is one name with what is behind it.
type Name struct {
	Name       string       `json:"name"`
	Rule       string       `json:"rule"` // by which it is one: "name", "service", "label", ...
	Addrs      []netip.Addr `json:"addrs"`
	Engine     string       `json:"engine"`
	Containers []string     `json:"containers"` // their Docker names
	Networks   []string     `json:"networks"`
	Ports      []string     `json:"ports"` // "80/tcp"
}

// Status is a copy of what is known now.
func (a *Agent) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status(nil)
}

// status takes for lost what is silent, which tells why.
func (a *Agent) status(silent map[*engine.Engine]error) Status {
	s := Status{
		Schema: statusSchema, Version: a.version, Paused: a.paused, Engines: []EngineStatus{}, Skipped: list(a.skipped), Subnets: a.asked(), Losers: []Loser{}, Problems: list(a.problems),
		Resolver: ResolverStatus{Method: a.method, Why: a.methodWhy, Domains: a.served(), Entries: list(a.entries), Blocked: list(a.blocked), Problem: a.ineffective},
	}
	for _, w := range a.engines {
		up, err := w.up, w.err
		if why := silent[w.eng]; up && why != nil {
			up, err = false, why
		}
		e := EngineStatus{Name: w.cfg.Name, URL: w.cfg.URL, Expected: w.found == nil || w.found.Chosen, Up: up, Stale: !up && w.listed, Info: w.info, Reach: w.reach, Networks: len(w.networks), Containers: w.containers.Len()}
		if w.found != nil {
			e.Found = w.found.Provider + ": " + oneLine(w.found.Why)
			e.Off = !e.Up && !e.Expected
		}
		for at, name := range a.twins {
			if name == w.cfg.Name {
				url, _, _ := strings.Cut(at, " ")
				e.Also = append(e.Also, url)
			}
		}
		slices.Sort(e.Also)
		if err != nil {
			p := Explain(err)
			e.Error, e.Hint = oneLine(p.Error()), p.Hint
			if e.Off = e.Off && errors.Is(err, engine.ErrNoAnswer) && !aboutTLS(err); aboutTLS(err) && w.found != nil && w.found.Renew != "" {
				e.Hint = w.found.Renew
			}
		}
		if _, needed := a.admission(w); needed {
			e.Pilot = &PilotStatus{Report: w.pilot.report, Error: w.pilot.report.Error}
			e.Pilot.Open = w.pilot.open
			if w.pilot.err != nil {
				p := Explain(w.pilot.err)
				if e.Pilot.Error = p.Error(); p.Hint != tellsMore {
					e.Pilot.Hint = p.Hint
				}
			}
		}
		if w.tunnel != nil {
			e.Tunnel = &TunnelStatus{Dev: w.tunnel.Dev(), Stats: w.tunnel.Stats()}
		}
		for i, n := range s.Subnets {
			if p := a.proofs[n.key()]; n.Engine == w.cfg.Name && p.about == w.way(n) {
				s.Subnets[i].Verified = p.Proof
			}
			if why, hint := w.pilot.shuts(n, w.reach.To(n.Prefix)); n.Engine == w.cfg.Name && (n.State == Installed || n.State == Foreign) && w.pilot.open && why != "" {
				s.Subnets[i].State, s.Subnets[i].Why, s.Subnets[i].Hint = Closed, why, hint
			}
		}
		s.Engines = append(s.Engines, e)
	}
	s.Unreached = a.unreached()
	s.DNS.Names = a.names.names * len(a.cfg.Domains)
	for n := range a.names.shared {
		h := a.names.holder(n)
		if strings.HasSuffix(n, ".") { // a reverse name: nobody asked for it
			continue
		}
		if len(h.has) > 0 {
			s.DNS.Names += len(a.cfg.Domains)
		}
		rest, lost := h.others()
		lost = slices.DeleteFunc(lost, func(o *held) bool { return o.rank.kind() == byImage && strings.HasSuffix(n, "."+skydockEnv) }) // likewise
		s.Losers = append(s.Losers, a.losers(n, lost, h.why)...)
		s.Losers = append(s.Losers, a.losers(n, rest, "others that share this name are in better health, or many enough")...)
	}
	for o, cs := range a.names.denied {
		for _, c := range cs {
			s.Losers = append(s.Losers, Loser{Name: c.name, Containers: []string{a.containerName(o)}, Why: c.deny})
		}
	}
	s.Replaced = a.replaced()
	if a.server != nil {
		s.DNS.Listen, s.DNS.NoReverse = a.server.Addr(), a.noReverse
	}
	slices.SortFunc(s.Losers, func(a, b Loser) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), slices.Compare(a.Containers, b.Containers), strings.Compare(a.Why, b.Why))
	})
	return s
}

// unreached are the containers that have networks and no address on any which packets get to, and why.
func (a *Agent) unreached() []Unreached {
	out := []Unreached{}
	if a.paused {
		return out
	}
	for _, w := range a.engines {
		at := a.place(w)
		for _, c := range w.containers.All() {
			if isTrue(c.Labels["fairlead.ignore"]) || slices.ContainsFunc(c.Addrs(), at.reachable) || c.HostNetwork && at.vm.IsValid() {
				continue
			}
			u := Unreached{Container: shown(c.Name), Engine: w.cfg.Name, Networks: []string{}}
			var whys []string
			for _, e := range c.Endpoints {
				u.Networks = append(u.Networks, shown(e.Network))
				for _, addr := range e.Addrs {
					whys = append(whys, a.whyNot(w, w.networkID(e), addr))
				}
			}
			switch {
			case c.HostNetwork && w.reach.Kind == platform.Native:
				whys = []string{"it has no address of its own: it uses its machine's"}
			case c.HostNetwork:
				whys = []string{"it uses the VM's network, which has no address here"}
			}
			if len(whys) > 0 { // else it has no network, or no address yet
				u.Why = strings.Join(unique(whys), "; ")
				out = append(out, u)
			}
		}
	}
	slices.SortFunc(out, func(a, b Unreached) int {
		return cmp.Or(strings.Compare(a.Engine, b.Engine), strings.Compare(a.Container, b.Container))
	})
	return out
}

// whyNot says why packets do not get to an address on an engine's network.
func (a *Agent) whyNot(w *watched, network string, addr netip.Addr) string {
	for _, s := range a.subnets {
		if s.Engine != w.cfg.Name || s.NetworkID != network || !s.Prefix.Contains(addr) {
			continue
		}
		why, _ := w.pilot.shuts(s, w.reach.To(s.Prefix))
		switch {
		case w.unsure(s):
			why = cmp.Or(a.proofs[s.key()].Why, "not asked yet whether it answers")
		case !s.Reachable():
			why = s.Why
		case why == "":
			why = "the VM's forwarding is closed: " + cmp.Or(oneLine(w.pilot.report.Error), "not open yet")
		}
		return why
	}
	return "its network is not known yet"
}

// losers is the row about owners that do not have a name, if there are any.
func (a *Agent) losers(name string, list []*held, why string) []Loser {
	if len(list) == 0 {
		return nil
	}
	l := Loser{Name: name, Why: why}
	for _, o := range owners(list) {
		l.Containers = append(l.Containers, a.containerName(o))
	}
	return []Loser{l}
}

// Clean tells whether nothing was refused, failed or lost. A network that is unreachable by its nature is none of these:
// nothing can be mended about it.
func (s Status) Clean() bool {
	for _, e := range s.Engines {
		if !e.Up && e.Expected || e.Up && e.Pilot != nil && !e.Pilot.Open {
			return false
		}
	}
	for _, n := range s.Subnets {
		switch n.State {
		case Installed, Foreign, Native, OnLink:
			if n.Verified.Result == Silent {
				return false
			}
		case Unreachable:
		case NoWay: // its containers may be reached by the other IP version
			if !slices.ContainsFunc(s.Subnets, func(o Subnet) bool { return o.Engine == n.Engine && o.NetworkID == n.NetworkID && o.Reachable() }) {
				return false
			}
		default:
			return false
		}
	}
	return len(s.Problems) == 0 && len(s.Resolver.Blocked) == 0
}

// Names are all names that are answered, sorted by engine, container and importance.
func (a *Agent) Names() []Name {
	a.mu.Lock()
	defer a.mu.Unlock()
	type row struct {
		Name
		rank rank
	}
	var rows []row
	add := func(n string, h holder) {
		out := Name{Addrs: h.addrs(), Rule: h.has[0].rank.String()}
		r := h.has[0].rank
		if r.kind() == byID {
			r = byAddress // nobody looks for it first
		}
		for _, o := range owners(h.has) {
			c, w := a.container(o)
			out.Engine = w.cfg.Name
			out.Containers = append(out.Containers, shown(c.Name))
			for _, e := range c.Endpoints {
				out.Networks = append(out.Networks, shown(e.Network))
			}
			for _, p := range c.Ports {
				out.Ports = append(out.Ports, fmt.Sprintf("%d/%s", p.Number, shown(p.Proto)))
			}
		}
		out.Networks, out.Ports = unique(out.Networks), unique(out.Ports)
		for _, d := range a.cfg.Domains {
			out.Name = n + "." + d
			rows = append(rows, row{out, r})
		}
	}
	for _, w := range a.engines {
		for number := range w.containers.All() {
			o := ownerOf(w.slot, number)
			cs := a.names.of(o)
			for i, c := range cs {
				if _, twice := bestOn(c.name, cs[:i]); c.deny != "" || twice || strings.HasSuffix(c.name, ".") {
					continue
				}
				if h := a.names.holder(c.name); len(h.has) > 0 && h.has[0].owner == o { // the first shows it for all
					add(c.name, h)
				}
			}
		}
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(strings.Compare(a.Engine, b.Engine), slices.Compare(a.Containers, b.Containers), cmp.Compare(a.rank, b.rank),
			cmp.Compare(len(a.Name.Name), len(b.Name.Name)), strings.Compare(a.Name.Name, b.Name.Name))
	})
	names := make([]Name, 0, len(rows))
	for _, r := range rows {
		names = append(names, r.Name)
	}
	return names
}

func unique(s []string) []string {
	slices.Sort(s)
	return list(slices.Compact(s))
}

// list is a copy of s that JSON shows as a list even when it is empty.
func list[T any](s []T) []T { return append([]T{}, s...) }

// container finds the container behind an owner of names.
func (a *Agent) container(o owner) (engine.Container, *watched) {
	for _, w := range a.engines {
		if w.slot == o.slot() {
			return w.containers.Get(o.number()), w
		}
	}
	return engine.Container{}, &watched{}
}

func (a *Agent) containerName(o owner) string {
	c, w := a.container(o)
	if len(a.engines) > 1 {
		return shown(c.Name) + " (" + w.cfg.Name + ")"
	}
	return shown(c.Name)
}

// oneLine makes a text that holds strangers' words fit for one line of a terminal: no line breaks, no escapes.
func oneLine(s string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) && !unicode.IsSpace(r) {
			return -1
		}
		return r
	}, s)), " ")
}
