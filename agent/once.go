package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/fairlead-dev/fairlead/platform/tunnel"
	"github.com/fairlead-dev/fairlead/resolver"
	"github.com/fairlead-dev/fairlead/routes"
)

// Setup is setup-network: the agent's own pass, once, without names. It leaves routes and the VM's forwarding behind, until
// TearDown or the host's next start. With dryRun it only says what it would do. The error is set when nothing could be
// looked at; what was refused stands in the Status.
func Setup(ctx context.Context, cfg Config, log *slog.Logger, version string, dryRun bool) (Status, error) {
	found, skipped := discover(cfg)
	if err := stray(cfg, found); err != nil {
		return Status{}, err
	}
	a, err := open(cfg, log, version)
	if err != nil {
		return Status{}, err
	}
	defer a.unlock()
	if !dryRun {
		a.replace(cfg.Replace)
	}
	a.method, a.methodWhy = resolver.None, "setup-network makes routes only"

	a.take(found, skipped)
	a.hearAll(ctx)
	if !slices.ContainsFunc(a.engines, func(w *watched) bool { return w.up }) {
		return a.Status(), nobody(a.engines[0], skipped)
	}

	if dryRun {
		a.mu.Lock()
		_, _, err = a.planRoutes()
		a.mu.Unlock()
		return a.Status(), err
	}
	held := map[*watched]tunnel.Admission{}
	for range 2 { // by what a VM tells of itself there may be a way for its other IP version
		a.mu.Lock()
		err = a.passRoutes()
		a.mu.Unlock()
		if err != nil {
			return a.Status(), err
		}
		for _, w := range a.engines {
			a.mu.Lock()
			want, _ := a.admission(w)
			a.mu.Unlock()
			if !w.up || w.reach.Kind == platform.Tunnel || len(want.Sources) == 0 || reflect.DeepEqual(want, held[w]) {
				continue
			}
			held[w] = want
			pctx, cancel := context.WithTimeout(ctx, pilotTimeout)
			if err := a.holdPilot(pctx, w, want); err != nil {
				w.pilot.err = err
			}
			cancel()
		}
	}
	s := a.Status()
	a.verify(ctx, &s)
	return s, nil
}

// nobody says that no engine answers: the first one's reason, and what was skipped, which may be the engine that was meant.
func nobody(w *watched, skipped []Skipped) error {
	err := fmt.Errorf("engine %s: %w", w.cfg.Name, w.err)
	if len(skipped) == 0 {
		return err
	}
	hint := Explain(err).Hint
	if w.found != nil && w.found.Why == nothingFound {
		hint = skipped[0].Hint
	}
	var lines []string
	for _, s := range skipped {
		lines = append(lines, fmt.Sprintf("%s: %s: %s", s.Provider, s.Path, s.Why))
	}
	return &Problem{Code: Explain(err).Code, Err: fmt.Errorf("%w; skipped: %s", err, strings.Join(lines, "; ")), Hint: hint}
}

// Undone is what a teardown took back and what it had to leave.
type Undone struct {
	Schema int      `json:"schema"`
	Done   []string `json:"done"`
	Back   []string `json:"back,omitempty"` // files and routes of others that are where they were (Config.Replace)
	Left   []Left   `json:"left"`
}

// Left is something of ours that could not be taken back.
type Left struct {
	What string `json:"what"`
	Why  string `json:"why"`
	Hint string `json:"hint"`
}

// TearDown is teardown-network without a running agent: it takes back everything that the journal knows, and only that.
func TearDown(ctx context.Context, cfg Config, log *slog.Logger, version string) (Undone, error) {
	a, err := open(cfg, log, version)
	if err != nil {
		return Undone{}, err
	}
	defer a.unlock()
	u := a.takeDown(ctx)
	if err := platform.ClearControl(cfg.Control); err != nil && !errors.Is(err, platform.ErrBusy) {
		u.left("control endpoint "+cfg.Control, err)
	}
	return u, nil
}

// takeDown takes everything back: resolver entries, then names, then routes, then what is open in the VMs. What it cannot
// take back stays in the journal for the next try.
func (a *Agent) takeDown(ctx context.Context) Undone {
	u := Undone{Schema: statusSchema, Done: []string{}, Left: []Left{}}
	a.takeDownHost(ctx, &u)
	a.takeDownPilots(ctx, &u)
	return u
}

func (u *Undone) left(what string, err error) {
	if err != nil {
		p := Explain(err)
		u.Left = append(u.Left, Left{What: what, Why: oneLine(p.Error()), Hint: p.Hint})
	}
}

func (a *Agent) takeDownHost(ctx context.Context, u *Undone) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.paused = true

	entries := a.journal.doc.Resolver
	if err := a.passResolver(ctx); err != nil {
		u.left("resolver entries", err)
	}
	for _, b := range a.blocked {
		u.left("resolver entry "+b.Item.String(), &Problem{Err: errors.New(b.Why), Hint: "remove it by hand if you do not need it"})
	}
	for _, e := range entries {
		if !slices.Contains(a.journal.doc.Resolver, e) {
			u.Done = append(u.Done, "resolver entry "+e.String())
		}
	}

	a.passNames(true)

	rows := a.journal.routes()
	u.left("routes", a.passRoutes())
	table, err := routes.List()
	u.left("routes", err)
	for _, r := range rows {
		if slices.ContainsFunc(table, func(e routes.Entry) bool { return e.Route == r }) {
			u.left("route "+r.String(), &Problem{Err: errors.New("it is still there"), Hint: "remove it by hand if you do not need it"})
		} else {
			u.Done = append(u.Done, "route "+r.String())
		}
	}
	a.restore(u)
	a.putBack(u)
}

func (a *Agent) takeDownPilots(ctx context.Context, u *Undone) {
	a.piloting.Lock()
	defer a.piloting.Unlock()
	instance := a.instance()
	a.mu.Lock()
	pilots, untouched := slices.Clone(a.journal.doc.Pilots), slices.Clone(a.journal.doc.Untouched)
	a.mu.Unlock()
	for _, ep := range pilots {
		what := "forwarding in the VM of engine " + ep.Name
		eng := engine.New(ep, a.log)
		err := releasePilot(ctx, eng, instance)
		if err != nil && slices.Contains(untouched, ep) && eng.RemovePilot(ctx, instance) == nil { // all that there was
			err = nil
		}
		if err != nil {
			hint := "start the engine and run: fairlead teardown-network"
			why, mend, ok := strings.Cut(err.Error(), "; hint: ")
			if ok { // it runs
				hint = mend + "; then: fairlead teardown-network"
			}
			u.left(what, &Problem{Err: errors.New(why), Hint: hint})
			continue
		}
		u.left("the journal", a.notePilot(func(d *journalDoc) {
			d.Pilots, d.Untouched = except(d.Pilots, ep.Name), except(d.Untouched, ep.Name)
		}))
		u.Done = append(u.Done, what)
	}
}
