package agent

import (
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/agent/engine"
)

// Who starts the agent on an engine with thousands of containers asks for a few of them. Their names are made as soon as the engine has
// told of them; those of the others when its list is read, as what that costs would hold the list up.

const (
	maxWanted = 1 << 10
	seekEvery = 20 * time.Millisecond // that all of the backlogs is looked through for names that are wanted
	perPass   = 64                    // containers whose names are made before the loop looks at anything else
)

// want has the container of that name go first, while names wait to be made.
func (a *Agent) want(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.cfg.Domains {
		rest, ok := strings.CutSuffix(name, "."+d)
		if !ok || a.wanted[rest] || !a.loading() {
			continue
		}
		if a.wanted == nil || len(a.wanted) == maxWanted {
			a.wanted = map[string]bool{}
		}
		a.wanted[rest], a.sought = true, true
	}
	if a.sought {
		poke(a.wake)
	}
}

// loading tells whether containers may be known, or be told any moment, whose names are to be made later.
func (a *Agent) loading() bool {
	for _, w := range a.engines {
		if w.listing || w.backlog != nil {
			return true
		}
	}
	return false
}

// keep keeps what an engine says, and what the containers were before.
func (a *Agent) keep(w *watched, u engine.Update) {
	listing := w.listing && u.Info == nil // a list in one piece is no more than what happens
	w.listing = (w.listing || u.Info != nil) && !u.Full
	for _, c := range u.Containers {
		number, before := w.containers.Put(c)
		_, changed := w.changed[number]
		switch first := !listing || a.wanted[c.Name]; {
		case w.backlog.Has(number):
			if first {
				w.first(number)
			}
		case before.ID != "" || changed || first:
			w.change(number, before)
		default:
			w.backlog.Add(number)
		}
	}
	for _, id := range u.Gone {
		if number, ok := w.containers.Find(id); ok {
			if !w.backlog.Has(number) {
				w.change(number, w.containers.Get(number))
			}
			w.backlog.Remove(number)
			w.containers.Delete(id)
		}
	}
}

// first has the next pass make the names of a container of the backlog.
func (w *watched) first(number uint32) {
	w.backlog.Remove(number)
	w.change(number, engine.Container{})
}

// promote gives the next pass what it is to do of the backlogs, and tells whether that leaves some.
func (a *Agent) promote() (left bool) {
	seek := a.sought && time.Since(a.seen) >= seekEvery
	for _, w := range a.engines {
		if seek {
			for _, number := range w.containers.Named(a.wanted, w.backlog) {
				w.first(number)
			}
		}
		if w.listing || w.backlog == nil {
			continue
		}
		n := perPass + w.containers.Len()/128 // as many more as have to be looked through
		for number := range w.backlog.All() {
			if n--; n < 0 {
				left = true
				break
			}
			w.first(number)
		}
		if n >= 0 {
			w.backlog = nil
		}
	}
	if seek {
		a.sought, a.seen = false, time.Now()
	}
	if !a.loading() {
		a.wanted, a.sought = nil, false
	}
	return left
}
