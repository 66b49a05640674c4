package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/platform"
)

const (
	verifyTimeout = 3 * time.Second // for a real packet to a subnet to come back
	maxPeers      = 3               // who is asked in a subnet: one may be ending, another may not answer strangers
)

// Peer is an address that should answer in a subnet.
type Peer struct {
	Addr netip.Addr `json:"addr"`
	Of   string     `json:"of"`            // "container web" or "the VM", for people
	VM   bool       `json:"vm,omitempty"`  // the VM's own address: that it answers does not prove that containers are reached
	TCP  []uint16   `json:"tcp,omitempty"` // ports where it may listen
}

// Result is what became of a packet to a subnet.
type Result string

// The results of a Proof.
const (
	Answered Result = "answered" // a container answered
	Silent   Result = "silent"   // there are containers, and none answered
	Unproven Result = "unproven" // there is no container to ask, or this process may not ask
)

// Proof is what became of real packets to the peers of one subnet. The zero Proof: nobody was asked yet, or the subnet is
// not said to be reachable.
type Proof struct {
	Result Result        `json:"result,omitempty"`
	From   netip.Addr    `json:"from,omitzero"` // who answered, or who was asked first
	Of     string        `json:"of,omitempty"`  // whose address that is, as in Peer
	By     string        `json:"by,omitempty"`  // "icmp" or "tcp"
	RTT    time.Duration `json:"rtt,omitempty"` // in nanoseconds
	Why    string        `json:"why,omitempty"` // why it is not proven
	At     time.Time     `json:"at,omitzero"`
}

// String is the proof for people: "172.17.0.2 answered in 210µs".
func (p Proof) String() string {
	switch p.Result {
	case Answered:
		return fmt.Sprintf("%v answered in %v", p.From, p.RTT.Round(10*time.Microsecond))
	case "":
		return ""
	default:
		return p.Why
	}
}

// Verify proves by real packets, ICMP or TCP, which subnets are reachable from this process. It asks the Peers of every
// subnet that is said to be reachable, all at once, for at most 3 s, and returns the proofs in the order of the subnets. It
// takes the right to open ICMP sockets, where only TCP is to prove it; neither an agent nor an engine.
func Verify(ctx context.Context, subnets []Subnet) []Proof {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	proofs := make([]Proof, len(subnets))
	var wg sync.WaitGroup
	for i, s := range subnets {
		if s.Reachable() {
			wg.Go(func() { proofs[i] = prove(ctx, s.Peers) })
		}
	}
	wg.Wait()
	return proofs
}

// prove asks containers, and the VM only where there is none.
func prove(ctx context.Context, peers []Peer) Proof {
	at := time.Now()
	if len(peers) == 0 {
		return Proof{Result: Unproven, Why: "no container to ask yet", At: at}
	}
	containers := slices.DeleteFunc(slices.Clone(peers), func(p Peer) bool { return p.VM })
	if len(containers) == 0 {
		first := ask(ctx, peers)
		if first.Result == Answered {
			first.Why = fmt.Sprintf("the VM answered at %v in %v, no container to ask yet", first.From, first.RTT.Round(10*time.Microsecond))
		} else {
			first.Why = "no container to ask yet"
		}
		first.Result, first.At = Unproven, at
		return first
	}
	first := ask(ctx, containers)
	first.At = at
	return first
}

// ask asks all peers in every way, and returns the first answer, else the first complaint.
func ask(ctx context.Context, peers []Peer) Proof {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		Proof
		err error
	}
	answers := make(chan outcome)
	asked := 0
	try := func(p Peer, by string, f func() (time.Duration, error)) {
		asked++
		go func() {
			rtt, err := f()
			select {
			case answers <- outcome{Proof{Result: Answered, From: p.Addr, Of: p.Of, By: by, RTT: rtt}, err}:
			case <-ctx.Done(): // somebody else was first
			}
		}()
	}
	whose := map[netip.Addr]string{}
	for _, p := range peers {
		whose[p.Addr] = p.Of
		try(p, "icmp", func() (time.Duration, error) { return platform.Ping(ctx, p.Addr) })
		for _, port := range p.TCP {
			try(p, "tcp", func() (time.Duration, error) {
				// Only an open port proves anything: a firewall on the way refuses in the container's name.
				start := time.Now()
				conn, err := new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(p.Addr, port).String())
				if err != nil {
					return 0, err
				}
				conn.Close()
				return time.Since(start), nil
			})
		}
	}
	complaint := Proof{Result: Silent, From: peers[0].Addr, Of: peers[0].Of, Why: fmt.Sprintf("no answer from %v (%s)", peers[0].Addr, peers[0].Of)}
	for range asked {
		select {
		case o := <-answers:
			switch {
			case o.err == nil:
				return o.Proof
			case platform.MayNotPing(o.err):
				complaint.Result, complaint.Why = Unproven, "only root may ping: "+o.err.Error()
			case o.By == "icmp" && o.From == complaint.From && complaint.Result == Silent:
				complaint.Why = fmt.Sprintf("%v (%s)", o.err, o.Of)
			}
		case <-ctx.Done():
			return complaint
		}
	}
	return complaint
}

// Reachable tells whether a way leads to the subnet's containers, which Verify may prove.
func (s Subnet) Reachable() bool {
	return s.State == Installed || s.State == Foreign || s.State == Native || s.State == OnLink
}

// askable fills in who can be asked in each of an engine's subnets: up to maxPeers containers, and the VM.
func (w *watched) askable(subnets []Subnet) {
	in := map[string][]*Subnet{} // those that lack somebody to ask, by their network's id
	for i := range subnets {
		if s := &subnets[i]; s.Engine == w.cfg.Name && s.Reachable() {
			s.Peers = nil
			in[s.NetworkID] = append(in[s.NetworkID], s)
		}
	}
	lacking := len(in)
	for _, c := range w.containers.All() {
		if lacking == 0 {
			break
		}
		for _, e := range c.Endpoints {
			full := 0
			id := w.networkID(e)
			for _, s := range in[id] {
				i := slices.IndexFunc(e.Addrs, s.Prefix.Contains)
				if i >= 0 && len(s.Peers) < maxPeers {
					s.Peers = append(s.Peers, peerOf(c, e.Addrs[i]))
				}
				if len(s.Peers) == maxPeers {
					full++
				}
			}
			if n := len(in[id]); n > 0 && full == n {
				delete(in, id)
				lacking--
			}
		}
	}
	for i := range subnets {
		s := &subnets[i]
		if s.Engine != w.cfg.Name || !s.Reachable() {
			continue
		}
		slices.SortFunc(s.Peers, func(a, b Peer) int { return a.Addr.Compare(b.Addr) })
		for _, n := range w.networks {
			if n.ID != s.NetworkID {
				continue
			}
			for _, g := range n.Gateways {
				if s.Prefix.Contains(g) {
					s.Peers = append(s.Peers, Peer{Addr: g, Of: "the VM", VM: true})
				}
			}
		}
	}
}

// networkID is the id of the network that a container is attached to. Podman gives its name instead, and lists its network
// podman as bridge.
func (w *watched) networkID(e engine.Attachment) string {
	if e.NetworkID == e.Network {
		for _, n := range w.networks {
			if n.Name == e.Network || n.Name == "bridge" && e.Network == "podman" {
				return n.ID
			}
		}
	}
	return e.NetworkID
}

func peerOf(c engine.Container, addr netip.Addr) Peer {
	p := Peer{Addr: addr, Of: "container " + shown(c.Name)}
	for _, port := range c.Ports {
		if port.Proto == "tcp" && len(p.TCP) < 2 {
			p.TCP = append(p.TCP, port.Number)
		}
	}
	return p
}

// proven is a proof with what it was about: it holds for as long as that stays.
type proven struct {
	Proof
	about string
}

const (
	proveEvery = 2 * time.Second  // at most, however much changes
	silentFor  = 20 * time.Second // until a silent subnet is asked again
)

// keepProving proves every reachable subnet by a real packet, once for each way that leads there, and again while it is
// silent.
func (a *Agent) keepProving(ctx context.Context) {
	for ctx.Err() == nil {
		a.mu.Lock()
		passed := a.passed
		due, about := a.toProve()
		a.mu.Unlock()
		if len(due) > 0 {
			a.record(due, about, Verify(ctx, due))
		}
		select {
		case <-ctx.Done():
		case <-time.After(proveEvery):
		}
		select {
		case <-ctx.Done():
		case <-passed: // there is one every relookEvery at least while somebody looks
		}
	}
}

// toProve are the subnets whose proof is due, and what their proofs will be about.
func (a *Agent) toProve() (due []Subnet, about []string) {
	subnets := a.asked()
	for _, w := range a.engines {
		for _, s := range subnets {
			if s.Engine != w.cfg.Name || !w.unsure(s) && !a.isOpen(w, s) {
				continue
			}
			way := w.way(s)
			before := a.proofs[s.key()]
			switch container := len(s.Peers) > 0 && !s.Peers[0].VM; {
			case before.about != way, before.Result == Unproven && container, before.Result == Silent && time.Since(before.At) > silentFor:
				due, about = append(due, s), append(about, way)
			}
		}
	}
	return due, about
}

// asked are the subnets with who can be asked in them.
func (a *Agent) asked() []Subnet {
	subnets := list(a.subnets)
	for _, w := range a.engines {
		w.askable(subnets)
	}
	return subnets
}

// way says by which way packets get to a subnet now, for comparing.
func (w *watched) way(s Subnet) string { return fmt.Sprint(w.connects, w.reach, s.Route, s.State) }

func (s Subnet) key() string { return s.Engine + " " + s.Prefix.String() }

func (a *Agent) record(subnets []Subnet, about []string, proofs []Proof) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.reachability()
	defer func() {
		if a.reachability() != before {
			a.markLocked(dirty{names: true})
		}
	}()
	for i, s := range subnets {
		if p := proofs[i]; p.Result != "" {
			if p.Result == Silent && a.proofs[s.key()].Result != Silent {
				a.log.Warn("a subnet does not answer", "engine", s.Engine, "subnet", s.Prefix, "why", p.Why)
			}
			a.proofs[s.key()] = proven{p, about[i]}
		}
	}
	for k := range a.proofs {
		if !slices.ContainsFunc(a.subnets, func(s Subnet) bool { return s.key() == k }) {
			delete(a.proofs, k)
		}
	}
}

// verify proves all subnets now, and writes that into a status too.
func (a *Agent) verify(ctx context.Context, s *Status) {
	a.mu.Lock()
	subnets := a.asked()
	about := make([]string, len(subnets))
	for _, w := range a.engines {
		for i, n := range subnets {
			if n.Engine == w.cfg.Name {
				about[i] = w.way(n)
			}
		}
	}
	a.mu.Unlock()
	proofs := Verify(ctx, subnets)
	a.record(subnets, about, proofs)
	for i, n := range subnets {
		for j := range s.Subnets {
			if s.Subnets[j].key() == n.key() && proofs[i].Result != "" {
				s.Subnets[j].Verified = proofs[i]
			}
		}
	}
}
