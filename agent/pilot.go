package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	open   bool // this host's packets get through the VM's firewall
	report tunnel.Report
	err    error
}

const (
	pilotTimeout    = 30 * time.Second // to load its image, start it and hear it
	pilotBackoffMin = 250 * time.Millisecond
	pilotBackoffMax = 15 * time.Second
)

// admission is what the VM of w is to let through; needed is false where the VM has nothing to open.
func (a *Agent) admission(w *watched) (adm tunnel.Admission, needed bool) {
	adm = tunnel.Admission{Tag: a.journal.doc.Instance}
	if a.paused || w.reach.Kind != platform.Gateway {
		return adm, false
	}
	adm.Sources = []netip.Addr{w.reach.Source}
	for _, s := range a.subnets {
		if s.Engine == w.cfg.Name && (s.State == Wanted || s.State == Installed || s.State == Foreign) {
			adm.Subnets = append(adm.Subnets, s.Prefix)
		}
	}
	return adm, len(adm.Subnets) > 0
}

// keepPilot holds the VM's forwarding open for as long as it is wanted: it starts the pilot, tells it what to admit, and
// starts it again when its stream ends.
func (a *Agent) keepPilot(ctx context.Context, w *watched) {
	var lease *tunnel.Lease
	var admitted tunnel.Admission
	pause := pilotBackoffMin
	defer func() {
		if lease != nil {
			lease.Close()
		}
	}()
	for ctx.Err() == nil {
		a.piloting.RLock()
		a.mu.Lock()
		want, needed := a.admission(w)
		up := w.up
		a.mu.Unlock()

		var retry <-chan time.Time
		var err error
		switch {
		case !needed && lease != nil:
			lease.Close()
			lease, admitted = nil, tunnel.Admission{}
			err = a.dropPilot(ctx, w)
			a.reported(w, pilotState{err: err})
		case !needed || !up && lease == nil:
		case lease == nil:
			if lease, err = a.startPilot(ctx, w, want); err == nil {
				pause = pilotBackoffMin
				admitted = want
			}
		case !reflect.DeepEqual(want, admitted):
			if err = a.admit(ctx, w, lease, want); err == nil {
				admitted = want
			}
		}
		a.piloting.RUnlock()
		if err != nil && ctx.Err() == nil {
			a.log.Warn("pilot", "engine", w.cfg.Name, "err", err)
			retry = time.After(pause)
			pause = min(2*pause, pilotBackoffMax)
		}

		var done <-chan struct{}
		var reports <-chan tunnel.Report
		if lease != nil {
			done, reports = lease.Done(), lease.Reports()
		}
		select {
		case <-ctx.Done():
		case <-w.kick:
		case <-retry:
		case r := <-reports:
			a.reported(w, pilotState{open: r.Open, report: r})
		case <-done:
			// The names stay for now: a new pilot is a moment away, or the engine is lost as a whole.
			a.log.Warn("pilot lost", "engine", w.cfg.Name, "err", lease.Err())
			lease, admitted = nil, tunnel.Admission{}
			poke(w.kick)
		}
	}
}

func (a *Agent) startPilot(ctx context.Context, w *watched, want tunnel.Admission) (*tunnel.Lease, error) {
	stream, err := func() (*tunnel.Lease, error) {
		if err := a.journalPilot(w); err != nil {
			return nil, err
		}
		start, cancel := context.WithTimeout(ctx, pilotTimeout)
		defer cancel()
		stream, err := w.eng.StartPilot(start, engine.Pilot{Instance: want.Tag, Args: []string{"lead"}})
		if err != nil {
			return nil, err
		}
		return tunnel.Lead(ctx, stream), nil
	}()
	if err == nil {
		if err = a.admit(ctx, w, stream, want); err != nil {
			stream.Close()
		}
	}
	if err != nil {
		if ctx.Err() == nil {
			a.reported(w, pilotState{err: err})
		}
		return nil, err
	}
	return stream, nil
}

// journalPilot notes that the VM may have something of ours, before it has.
func (a *Agent) journalPilot(w *watched) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.journal.change(func(d *journalDoc) {
		d.Pilots = append(slices.DeleteFunc(slices.Clone(d.Pilots), func(e engine.Endpoint) bool { return e.Name == w.cfg.Name }), w.cfg.Endpoint)
	})
}

func (a *Agent) admit(ctx context.Context, w *watched, lease *tunnel.Lease, want tunnel.Admission) error {
	ctx, cancel := context.WithTimeout(ctx, pilotTimeout)
	defer cancel()
	r, err := lease.Admit(ctx, want)
	if err != nil {
		return err
	}
	a.log.Info("pilot", "engine", w.cfg.Name, "open", r.Open, "backend", r.Backend, "err", r.Error)
	a.reported(w, pilotState{open: r.Open, report: r})
	return nil
}

func (a *Agent) reported(w *watched, s pilotState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	changed := w.pilot.open != s.open
	w.pilot = s
	a.markLocked(dirty{names: changed})
}

// dropPilot ends a pilot that is no longer wanted.
func (a *Agent) dropPilot(ctx context.Context, w *watched) error {
	a.mu.Lock()
	instance := a.journal.doc.Instance
	a.mu.Unlock()
	if err := w.eng.RemovePilot(ctx, instance); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.journal.change(func(d *journalDoc) {
		d.Pilots = slices.DeleteFunc(slices.Clone(d.Pilots), func(e engine.Endpoint) bool { return e.Name == w.cfg.Name })
	})
}

// holdPilot opens the VM's forwarding and leaves it open when this process ends, until teardown-network.
func (a *Agent) holdPilot(ctx context.Context, w *watched, want tunnel.Admission) error {
	if err := a.journalPilot(w); err != nil {
		return err
	}
	arg, err := json.Marshal(want)
	if err != nil {
		return err
	}
	// Always a new one: its report is the proof that the VM is open now.
	stream, err := w.eng.StartPilot(ctx, engine.Pilot{Instance: want.Tag, Args: []string{"hold", string(arg)}, Hold: true})
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
	w.pilot = pilotState{open: r.Open, report: r}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	return nil
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
