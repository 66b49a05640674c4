package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/fairlead-dev/fairlead/platform/tunnel"
)

// pilotState is what an engine's pilot last reported.
type pilotState struct {
	open   bool             // this host's packets get through the VM's firewall
	asked  tunnel.Admission // what the report is about
	report tunnel.Report
	err    error
}

// shuts says why packets do not get to a subnet although the VM is open for others, and what to do; "" where they do, as
// far as is known.
func (s pilotState) shuts(n Subnet, way platform.Path) (why, hint string) {
	for _, c := range s.report.Closed {
		if c.IPv6 == n.Prefix.Addr().Is6() {
			return oneLine(c.Error), c.Hint
		}
	}
	if slices.Contains(s.report.Deaf, n.Prefix) {
		return "the VM forwards nothing that this network's containers send, not even answers: it is internal", ""
	}
	switch asked := len(s.asked.Sources) > 0; {
	case asked && way.Source.IsValid() && !slices.Contains(s.asked.Sources, way.Source):
		return fmt.Sprintf("the VM was not asked yet to let %v through", way.Source), ""
	case asked && !slices.Contains(s.asked.Subnets, n.Prefix): // it may forward already, but a connection that begins now is not masked, for good
		return fmt.Sprintf("the VM was not asked yet to let packets to %v through", n.Prefix), ""
	}
	if s.report.Backend != "inject" {
		return "", ""
	}
	asked := slices.DeleteFunc(slices.Clone(s.asked.Probe), func(a netip.Addr) bool { return !n.Prefix.Contains(a) })
	silent := !slices.ContainsFunc(asked, func(a netip.Addr) bool { return !slices.Contains(s.report.Silent, a) })
	const around = "going around the VM's firewall leads to no internal network, as its containers cannot answer"
	switch {
	case silent && n.Internal: // until one has answered
		return around, ""
	case silent && len(asked) > 0:
		return fmt.Sprintf("no answer from %v: the VM's firewall drops what they send", asked), s.report.Hint
	}
	return "", ""
}

const (
	pilotTimeout    = 30 * time.Second // to load its image, start it and hear it
	askAgainMin     = time.Second      // containers that were silent on the way around a firewall
	askAgainMax     = 30 * time.Second
	pilotLinger     = 5 * time.Second // how long one that is not needed is kept
	pilotBackoffMin = 250 * time.Millisecond
	pilotBackoffMax = 15 * time.Second
	tunnelPauseMin  = 15 * time.Second // without a tunnel beside a gateway
	tunnelPauseMax  = 15 * time.Minute
)

// admission is what the VM of w is to let through; needed is false where the VM has nothing to open and no tunnel to hold.
func (a *Agent) admission(w *watched) (adm tunnel.Admission, needed bool) {
	adm = tunnel.Admission{Tag: a.journal.doc.Instance}
	if a.paused || w.reach.Kind != platform.Gateway && w.reach.Kind != platform.Tunnel {
		return adm, false
	}
	for _, s := range a.subnets {
		if s.Engine == w.cfg.Name && (s.State == Wanted || s.State == Installed || s.State == Foreign) {
			adm.Subnets = append(adm.Subnets, s.Prefix)
		}
	}
	other := w.reach.Other
	for _, source := range []netip.Addr{w.reach.Source, w.reach.Source6, other.Source} {
		// A VM need not forward an IP version that none of its subnets has. Without any it is only asked who it is.
		asking := other.Kind == platform.Gateway && len(adm.Subnets) == 0 && source == w.reach.Source
		if source.IsValid() && (asking || slices.ContainsFunc(adm.Subnets, func(p netip.Prefix) bool { return p.Addr().Is4() == source.Is4() })) {
			adm.Sources = append(adm.Sources, source)
		}
	}
	return adm, len(adm.Sources) > 0 || w.reach.Kind == platform.Tunnel || other.Kind == platform.Tunnel
}

// behind tells whether w's VM is open, but was not asked yet for all that it is to let through.
func (a *Agent) behind(w *watched) bool {
	adm, needed := a.admission(w)
	asked := w.pilot.asked
	return needed && w.up && w.pilot.open && len(adm.Sources) > 0 && !(slices.Equal(adm.Sources, asked.Sources) && slices.Equal(adm.Subnets, asked.Subnets))
}

// keepPilot holds the VM open for as long as it is wanted: it starts the pilot, has it hold the other end of a tunnel where
// one is needed, tells it what to admit, and starts it again when its stream ends.
func (a *Agent) keepPilot(ctx context.Context, w *watched) {
	var p pilot
	var around detour
	var idle time.Time  // when a pilot was last needed
	var asked time.Time // when it was last told what to admit
	pause, again := pilotBackoffMin, askAgainMin
	said := "" // what went wrong last
	defer func() {
		if p.kind == platform.Gateway && p.admitted.Sources != nil && a.succeeded() {
			a.leavePilot(w, p.admitted)
		}
		p.close()
	}()
	for tries := 0; ctx.Err() == nil; {
		a.piloting.RLock()
		a.mu.Lock()
		want, needed := a.admission(w)
		kind, beside, up, paused := w.reach.Kind, w.reach.Other.Kind == platform.Tunnel, w.up, a.paused
		if around.taken() {
			want.Probe = w.probes(want.Subnets)
		}
		a.mu.Unlock()

		var err error
		var retry <-chan time.Time
		if needed {
			idle = time.Now()
		}
		linger := pilotLinger - time.Since(idle)
		switch {
		case p.lease != nil && !needed && !paused && linger > 0:
			retry = time.After(linger) // a link that bounced is back by then
		case p.lease != nil && (!needed || kind != p.kind):
			a.reported(w, pilotState{})
			p.close()
			p, around = pilot{}, detour{}
			err = a.dropPilot(ctx, w)
			a.reported(w, pilotState{err: err})
			poke(w.kick)
		case !needed || !up && p.lease == nil:
		case p.lease == nil || up && beside != p.beside:
			old := p
			if old.tunnel != nil {
				a.tunnelled(w, nil, netip.Addr{})
			}
			p, err = a.startPilot(ctx, w, pilot{kind: kind, beside: beside}, around.taken(), tries)
			old.close() // not before: what it opened is the new one's now
			tries++
			if err == nil {
				tries = 0
			} else if ctx.Err() == nil {
				around = around.failed(err)
			}
			poke(w.kick)
		case len(want.Sources) > 0 && (!reflect.DeepEqual(want, p.admitted) || around.taken() && time.Since(asked) >= again && !a.allOpen(w)):
			if again = min(2*again, askAgainMax); !reflect.DeepEqual(want, p.admitted) {
				again = askAgainMin
			}
			asked = time.Now()
			var r tunnel.Report
			if r, err = a.admit(ctx, w, p.lease, want, around); err == nil {
				p.admitted, pause, said = want, pilotBackoffMin, ""
				p, around = a.avoid(w, p, around, r)
			}
		}
		a.piloting.RUnlock()

		if err != nil && ctx.Err() == nil {
			if news := err.Error(); news != said {
				a.log.Warn("pilot", "engine", w.cfg.Name, "err", err)
				said = news
			}
			retry = time.After(pause)
			pause = min(2*pause, pilotBackoffMax)
			select { // what was poked above waits for the pause, too
			case <-w.kick:
			default:
			}
		}
		if p.lease != nil && around.taken() && !a.allOpen(w) {
			retry = time.After(again) // what drops the containers' answers may be gone by then
		}
		var done <-chan struct{}
		var reports <-chan tunnel.Report
		if p.lease != nil {
			done, reports = p.lease.Done(), p.lease.Reports()
		}
		select {
		case <-ctx.Done():
		case <-w.kick:
		case <-retry:
		case r := <-reports:
			a.reported(w, pilotState{open: r.Open, asked: p.admitted, report: around.told(r)})
			p, around = a.avoid(w, p, around, r)
		case <-done:
			// Without a tunnel the names stay for now: a new pilot is a moment away, or the engine is lost as a whole.
			err := p.lease.Err()
			a.log.Warn("pilot lost", "engine", w.cfg.Name, "err", err)
			if p.admitted.Sources == nil { // it was of no use, and the next one may be of none either
				a.reported(w, pilotState{err: fmt.Errorf("the pilot's stream ended: %w", err)})
				select {
				case <-ctx.Done():
				case <-time.After(pause):
				}
				pause = min(2*pause, pilotBackoffMax)
			}
			p.close()
			p, around = pilot{}, detour{}
			a.tunnelled(w, nil, netip.Addr{})
			poke(w.kick)
		}
	}
	a.tunnelled(w, nil, netip.Addr{})
}

// detour is the way around a firewall that cannot be opened: the pilot sends this host's packets as the VM's own. It is
// tried once, and forgotten with the pilot's stream.
type detour struct {
	why    string // the firewall cannot be opened; "" while that is not known
	closed string // why it cannot be taken
}

func (d detour) taken() bool { return d.why != "" && d.closed == "" }

// failed gives it up, if it was being taken.
func (d detour) failed(err error) detour {
	if d.taken() {
		d.closed = oneLine(err.Error())
	}
	return d
}

// told completes what the pilot reports by what it was asked to go around, or by why it could not.
func (d detour) told(r tunnel.Report) tunnel.Report {
	switch {
	case r.Error == "":
	case d.taken():
		r.Error += "; rules do not open it either: " + d.why
	case d.closed != "":
		r.Error += "; nor is there a way around: " + d.closed
	}
	return r
}

// avoid ends a tunnel's pilot that cannot open the VM's firewall, for the next to go around that.
func (a *Agent) avoid(w *watched, p pilot, d detour, r tunnel.Report) (pilot, detour) {
	if p.kind != platform.Tunnel || d.why != "" || r.Open || r.Error == "" {
		return p, d
	}
	a.log.Warn("going around the VM's firewall", "engine", w.cfg.Name, "err", r.Error)
	a.tunnelled(w, nil, netip.Addr{})
	p.close()
	poke(w.kick)
	return pilot{}, detour{why: oneLine(r.Error)}
}

// allOpen tells whether packets get to every subnet of w to which a way leads.
func (a *Agent) allOpen(w *watched) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !slices.ContainsFunc(a.subnets, func(s Subnet) bool {
		return s.Engine == w.cfg.Name && s.Reachable() && !a.isOpen(w, s)
	})
}

// probes are containers that may tell whether subnets are reached: two in each, as one may be ending.
func (w *watched) probes(subnets []netip.Prefix) (probes []netip.Addr) {
	const most = 32
	var addrs []netip.Addr
	for _, c := range w.containers.All() {
		addrs = append(addrs, c.Addrs()...)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	for _, s := range subnets {
		n := 0
		for _, a := range addrs {
			if n < 2 && len(probes) < most && s.Contains(a) {
				probes = append(probes, a)
				n++
			}
		}
	}
	return probes
}

// pilot is one that runs, as its keeper sees it.
type pilot struct {
	kind     platform.Kind
	beside   bool // a gateway's has a tunnel too, for the IP version that the VM's address is not of
	lease    *tunnel.Lease
	tunnel   *tunnel.Tunnel
	admitted tunnel.Admission
}

func (p pilot) close() {
	if p.tunnel != nil {
		p.tunnel.Close()
	}
	if p.lease != nil {
		p.lease.Close()
	}
}

// doWithout has a gateway go without a tunnel beside it, which failed, where that was tried often enough or the gateway works
// meanwhile. It is tried again later, less and less often, and when the engine is connected to anew or this host wakes.
func (a *Agent) doWithout(w *watched, tries int, err error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if tries < 2 && !w.pilot.open && !errors.Is(err, engine.ErrRefused) {
		return false
	}
	w.noTunnel = oneLine(err.Error())
	w.tunnelPause = min(max(2*w.tunnelPause, tunnelPauseMin), tunnelPauseMax)
	time.AfterFunc(w.tunnelPause, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		w.noTunnel = ""
		a.markLocked(dirty{routes: true})
	})
	a.markLocked(dirty{routes: true})
	return true
}

// startPilot starts a pilot of p's kind and brings its tunnel up, if it has one. inject has it go around the VM's firewall;
// tries tells how often it failed before.
func (a *Agent) startPilot(ctx context.Context, w *watched, p pilot, inject bool, tries int) (_ pilot, err error) {
	tunneled := p.beside || p.kind == platform.Tunnel
	defer func() {
		if err != nil && ctx.Err() == nil {
			if !p.beside || !a.doWithout(w, tries, err) {
				a.reported(w, pilotState{err: err})
			}
		}
	}()
	start, cancel := context.WithTimeout(ctx, pilotTimeout)
	defer cancel()
	instance := a.instance()
	stream, err := a.runPilot(start, w, engine.Pilot{Instance: instance, Args: []string{"lead"}, Tunnel: tunneled, Inject: inject, Succeeds: p.kind == platform.Gateway})
	if err != nil {
		return pilot{}, err
	}
	p.lease = tunnel.Lead(context.WithoutCancel(ctx), stream) // its keeper ends it, after a successor has got what it opened
	if !tunneled {
		return p, nil
	}
	link, err := a.link(w, instance, tries)
	if err == nil {
		link.Inject = inject
		if p.tunnel, err = p.lease.Tunnel(start, link); err != nil && ctx.Err() == nil {
			err = w.eng.Explain(ctx, err)
		}
	}
	if err != nil {
		p.close()
		return pilot{}, err
	}
	a.log.Info("tunnel", "engine", w.cfg.Name, "dev", p.tunnel.Dev(), "addrs", p.tunnel.Addrs(), "lacks", p.tunnel.Lacks())
	a.tunnelled(w, p.tunnel, link.Pilot[0])
	return p, nil
}

// link chooses addresses for a new tunnel: of both IP versions, or of that which a gateway lacks.
func (a *Agent) link(w *watched, instance string, tries int) (tunnel.Link, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	host, err := a.look()
	if err != nil {
		return tunnel.Link{}, err
	}
	here, there := freeLink(host, a.subnets, tries)
	if !here[0].IsValid() {
		return tunnel.Link{}, errors.New("no private range has room for a tunnel's addresses")
	}
	l := tunnel.Link{Tag: instance, Host: here[:], Pilot: there[:]}
	if w.reach.Kind == platform.Gateway {
		has := func(a netip.Addr) bool { return a.Is4() == w.reach.Via.Is4() }
		l.Host, l.Pilot = slices.DeleteFunc(l.Host, has), slices.DeleteFunc(l.Pilot, has)
	}
	return l, nil
}

// tunnelled notes the tunnel that is up, or that none is.
func (a *Agent) tunnelled(w *watched, t *tunnel.Tunnel, peer netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t != nil {
		w.tunnelPause = 0
	}
	if w.tunnel != t {
		w.tunnel, w.peer = t, peer
		a.markLocked(dirty{routes: true})
	}
}

func (a *Agent) instance() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.journal.doc.Instance
}

// runPilot starts a pilot. Before, it notes that the VM may have something of ours.
func (a *Agent) runPilot(ctx context.Context, w *watched, p engine.Pilot) (io.ReadWriteCloser, error) {
	if err := a.notePilot(func(d *journalDoc) {
		pilots := except(d.Pilots, w.cfg.Name)
		if len(pilots) == len(d.Pilots) {
			d.Untouched = append(slices.Clone(d.Untouched), w.cfg.Endpoint)
		}
		d.Pilots = append(pilots, w.cfg.Endpoint)
	}); err != nil {
		return nil, err
	}
	return w.eng.StartPilot(ctx, p)
}

func (a *Agent) notePilot(change func(*journalDoc)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.journal.change(change)
}

// except is a list of engines without the one of that name.
func except(list []engine.Endpoint, name string) []engine.Endpoint {
	return slices.DeleteFunc(slices.Clone(list), func(e engine.Endpoint) bool { return e.Name == name })
}

func (a *Agent) admit(ctx context.Context, w *watched, lease *tunnel.Lease, want tunnel.Admission, around detour) (tunnel.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, pilotTimeout)
	defer cancel()
	r, err := lease.Admit(ctx, want)
	if err != nil {
		return r, err
	}
	a.log.Info("pilot", "engine", w.cfg.Name, "open", r.Open, "backend", r.Backend, "err", r.Error)
	a.reported(w, pilotState{open: r.Open, asked: want, report: around.told(r)})
	return r, nil
}

func (a *Agent) reported(w *watched, s pilotState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.reachability()
	w.pilot = s
	if s.open || s.report.Changed || len(s.report.Rules) > 0 {
		if err := a.journal.change(func(d *journalDoc) { d.Untouched = except(d.Untouched, w.cfg.Name) }); err != nil {
			a.problem("journal", err)
		}
	}
	if w.reach.Kind == platform.Gateway && s.report.Error != "" && !s.open {
		w.closed = oneLine(s.report.Error) // another way is tried until the engine is connected to anew
	}
	moved := s.report.Addrs != nil && !slices.Equal(s.report.Addrs, w.vmAddrs)
	if moved {
		w.vmAddrs = s.report.Addrs
	}
	a.markLocked(dirty{names: before != a.reachability(), routes: w.closed != "" || moved})
}

// dropPilot ends a pilot that is no longer wanted.
func (a *Agent) dropPilot(ctx context.Context, w *watched) error {
	if err := w.eng.RemovePilot(ctx, a.instance()); err != nil {
		return err
	}
	return a.notePilot(func(d *journalDoc) {
		d.Pilots, d.Untouched = except(d.Pilots, w.cfg.Name), except(d.Untouched, w.cfg.Name)
	})
}

// holdPilot opens the VM's forwarding and leaves it open when this process ends, until teardown-network.
func (a *Agent) holdPilot(ctx context.Context, w *watched, want tunnel.Admission) error {
	arg, err := json.Marshal(want)
	if err != nil {
		return err
	}
	// Always a new one: its report is the proof that the VM is open now.
	stream, err := a.runPilot(ctx, w, engine.Pilot{Instance: want.Tag, Args: []string{"hold", string(arg)}, Hold: true, Succeeds: true})
	if err != nil {
		return err
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { stream.Close() })
	defer stop()
	r, err := tunnel.ReadReport(stream)
	if err != nil {
		return fmt.Errorf("hearing the pilot: %w", err)
	}
	a.reported(w, pilotState{open: r.Open, asked: want, report: r})
	switch {
	case r.Error == "":
		return nil
	case r.Hint == "":
		return errors.New(r.Error)
	default:
		return fmt.Errorf("%s; hint: %s", r.Error, r.Hint)
	}
}

// leavePilot holds the VM open for an agent that follows at once.
func (a *Agent) leavePilot(w *watched, want tunnel.Admission) {
	ctx, cancel := context.WithTimeout(context.Background(), downTimeout/2)
	defer cancel()
	if err := a.holdPilot(ctx, w, want); err != nil {
		a.log.Warn("the VM may be closed until the next agent opens it", "engine", w.cfg.Name, "err", err)
	}
}

// releasePilot ends this host's pilot at ep and makes sure that nothing of it is left in the VM, even if it was killed.
func releasePilot(ctx context.Context, eng *engine.Engine, instance string) error {
	stream, err := eng.StartPilot(ctx, engine.Pilot{Instance: instance, Args: []string{"release", instance}})
	if err != nil {
		return err
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { stream.Close() })
	defer stop()
	r, err := tunnel.ReadReport(stream)
	if err != nil {
		return fmt.Errorf("hearing the pilot: %w", err)
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	return eng.RemovePilot(ctx, instance)
}
