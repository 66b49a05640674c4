package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/platform"
)

var errNotHeard = errors.New("not heard yet")

// nothingFound is why docker's default is waited for.
const nothingFound = "no other engine is found"

const (
	discoverEvery  = 5 * time.Second  // while somebody looks; a look costs a few hundred file operations
	discoverSeldom = 10 * time.Second // and else: what it finds has routes that nobody asks us for
	goneAfter      = 6                // looks in vain for an engine that does not answer either
)

// Skipped is what looks like an engine and cannot be used.
type Skipped struct {
	Provider string `json:"provider"`
	Path     string `json:"path"`
	Why      string `json:"why"`
	Hint     string `json:"hint,omitempty"`
}

// discover looks for engines as the settings say; there are none where they name some. With none anywhere, docker's default
// is one to wait for.
func discover(cfg Config) ([]platform.Endpoint, []Skipped) {
	if len(cfg.Engines) > 0 {
		return nil, nil
	}
	var skipped []Skipped
	h := platform.Host{Env: func(name string) (string, bool) { v, ok := cfg.DockerEnv[name]; return v, ok }}
	for _, dir := range cfg.Homes {
		home, err := platform.HomeAt(dir)
		if err != nil {
			skipped = append(skipped, Skipped{Provider: "home", Path: dir, Why: oneLine(err.Error()), Hint: "name the home of who runs docker: --home DIR"})
			continue
		}
		h.Homes = append(h.Homes, home)
	}
	if len(cfg.Homes) == 0 {
		h.Homes = platform.Homes()
	}
	found, problems := platform.Discover(h)
	for i := range found {
		if found[i].Home == "" && strings.HasPrefix(found[i].URL, "ssh:") && len(h.Homes) > 0 {
			found[i].Home = h.Homes[0].Dir // whose DOCKER_HOST it is
		}
	}
	for _, p := range problems {
		skipped = append(skipped, Skipped{Provider: p.Provider, Path: oneLine(p.Path), Why: oneLine(p.Err.Error()), Hint: oneLine(p.Hint)})
	}
	if len(found) == 0 {
		found = append(found, platform.Endpoint{Name: "default", URL: platform.DefaultEngine, Provider: "native", Chosen: true, Why: nothingFound})
	}
	return found, skipped
}

// stray is about a setting for an engine that is not there.
func stray(cfg Config, found []platform.Endpoint) error {
	var names []string
	for _, f := range found {
		names = append(names, f.Name)
	}
	for _, g := range cfg.Gateways {
		if g.Engine != "" && !slices.Contains(names, g.Engine) {
			return usage("name the engine with --engine NAME=URL, or choose one of these", "gateway %q is for an engine that is not found; found are: %s", g.Engine+"="+g.Where, strings.Join(names, ", "))
		}
	}
	return nil
}

// take takes up what discover has found before the work begins.
func (a *Agent) take(found []platform.Endpoint, skipped []Skipped) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.skipped = skipped
	for _, s := range skipped {
		a.log.Warn("engine skipped", "provider", s.Provider, "path", s.Path, "why", s.Why, "hint", s.Hint)
	}
	for _, f := range found {
		a.watch(f)
	}
}

// watch adds an engine that was found. No two have one name, and the later has less priority.
func (a *Agent) watch(f platform.Endpoint) *watched {
	name := f.Name
	for n := 2; slices.ContainsFunc(a.engines, func(w *watched) bool { return w.cfg.Name == name }); n++ {
		name = platform.Numbered(f.Name, n)
	}
	ep := engine.Endpoint{Name: name, URL: f.URL, Certs: f.Certs, Home: f.Home}
	w := newWatched(EngineConfig{Endpoint: ep, Gateway: a.cfg.gateway(name, len(a.engines) == 0)}, a.log)
	w.found = &f
	for _, other := range a.engines {
		w.priority = max(w.priority, other.priority+1)
	}
	a.setEngines(append(a.engines, w))
	return w
}

// keepEngines runs the watch and the pilot of every engine until ctx ends. Where engines are discovered it takes up those
// that appear, and gives up those that are gone.
func (a *Agent) keepEngines(ctx context.Context) {
	ends := map[*watched]func(){}
	begin := func(w *watched) {
		ctx, cancel := context.WithCancel(ctx)
		var jobs sync.WaitGroup
		jobs.Go(func() {
			w.eng.Watch(ctx, w.containers, func(u engine.Update) { a.heard(w, u) }, func(id, network string, until time.Time) { a.ended(w, id, network, until) })
		})
		jobs.Go(func() { a.keepPilot(ctx, w) })
		ends[w] = func() { cancel(); jobs.Wait() }
	}
	for _, w := range a.engines { // unlocked: nobody else changes the list
		begin(w)
	}
	var asked <-chan struct{}
	look, looked := make(chan struct{}, 1), time.Now()
	if len(a.cfg.Engines) == 0 {
		asked = a.homes
		a.attention.begin() // engines come up with the host, as the agent does
		go a.attention.each(ctx, discoverEvery, discoverSeldom, nil, func(time.Time) { poke(look) })
	}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			continue
		case <-asked:
			if time.Since(looked) < discoverEvery {
				continue
			}
		case <-look:
		case <-a.doubled:
		}
		looked = time.Now()
		found, skipped := discover(a.cfg)
		a.mu.Lock()
		fresh, gone := a.compare(found)
		a.skipped = skipped
		a.mu.Unlock()
		for _, w := range gone {
			a.log.Info("engine gone", "engine", w.cfg.Name, "url", w.cfg.URL, "same as", w.twin)
			ends[w]()
			delete(ends, w)
			a.unwatch(ctx, w)
		}
		for _, f := range fresh {
			a.mu.Lock()
			w := a.watch(f)
			a.markLocked(dirty{names: true}) // what one engine is called matters once there are several
			a.mu.Unlock()
			a.log.Info("engine appeared", "engine", w.cfg.Name, "url", w.cfg.URL, "provider", f.Provider, "why", f.Why)
			begin(w)
		}
	}
	for _, end := range ends {
		end()
	}
}

// compare tells which engines were found that are not watched, and which watched ones are to be given up: those that no file
// tells of any more and that do not answer, and those that are another one by a second way.
func (a *Agent) compare(found []platform.Endpoint) (fresh []platform.Endpoint, gone []*watched) {
	for _, w := range a.engines {
		i := slices.IndexFunc(found, w.is)
		moved := slices.ContainsFunc(found, func(f platform.Endpoint) bool {
			return w.found != nil && f.Name == w.found.Name && f.Provider == w.found.Provider
		})
		switch {
		case w.twin != "":
			a.twins[w.cfg.URL+" "+w.cfg.Certs] = w.twin
			gone = append(gone, w)
		case w.found == nil: // it was named: it is not looked for
		case i >= 0:
			w.found, w.missed = &found[i], 0
		case w.up:
			w.missed = 0
		default:
			if w.missed++; w.missed >= goneAfter || moved { // a VM that has another address now
				gone = append(gone, w)
			}
		}
	}
	for _, f := range found {
		key := f.URL + " " + f.Certs
		if slices.ContainsFunc(a.engines, func(w *watched) bool { return w.is(f) }) {
			continue
		}
		if slices.ContainsFunc(a.engines, func(w *watched) bool { return w.up && w.cfg.Name == a.twins[key] }) {
			continue
		}
		delete(a.twins, key)
		fresh = append(fresh, f)
	}
	return fresh, gone
}

// is tells whether f is the endpoint at which w was found.
func (w *watched) is(f platform.Endpoint) bool {
	return w.cfg.URL == f.URL && w.cfg.Certs == f.Certs
}

// findTwins marks those who are the engine w by another way. The first of them stays, whoever was heard first. It tells whether there
// are any.
func (a *Agent) findTwins(w *watched, networks []engine.Network) (any bool) {
	its := fingerprint(networks)
	later := false
	for _, other := range a.engines {
		switch {
		case other == w:
			later = true
		case its == "" || other.twin != "" || !other.up || fingerprint(other.networks) != its:
		case later:
			other.twin, any = w.cfg.Name, true
		default:
			w.twin = other.cfg.Name
			return true
		}
	}
	return any
}

// podmanBridge is the id of Podman's default network on every machine: the SHA-256 of its name.
const podmanBridge = "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9"

// fingerprint is the id of an engine's default bridge, which it draws anew at every start; those of other networks are copied with a
// VM's disk. "" for engines that have none, and for Podman.
func fingerprint(networks []engine.Network) string {
	for _, n := range networks {
		if n.Name == "bridge" && n.Driver == "bridge" && n.ID != podmanBridge {
			return n.ID
		}
	}
	return ""
}

// unwatch takes an engine out: its names go first, its routes after them.
func (a *Agent) unwatch(ctx context.Context, w *watched) {
	a.mu.Lock()
	for number, c := range w.containers.All() {
		if !w.backlog.Has(number) {
			w.change(number, c)
		}
	}
	w.containers, w.backlog, w.listing = &engine.Store{}, nil, false
	a.markLocked(dirty{names: true})
	for len(w.changed) > 0 && ctx.Err() == nil {
		a.awaitNews(ctx)
	}
	defer a.mu.Unlock()
	a.setEngines(slices.DeleteFunc(slices.Clone(a.engines), func(o *watched) bool { return o == w }))
	// A VM that is gone has nothing open; a twin's is the other's.
	if err := a.journal.change(func(d *journalDoc) {
		is := func(e engine.Endpoint) bool { return e == w.cfg.Endpoint }
		d.Pilots, d.Untouched = slices.DeleteFunc(slices.Clone(d.Pilots), is), slices.DeleteFunc(slices.Clone(d.Untouched), is)
	}); err != nil {
		a.problem("journal", err)
	}
	a.markLocked(dirty{routes: true, names: true})
}
