package agent

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// asks and askEvery bound what questions for names that nobody has cost the engines: so many at once, then one at a time.
const (
	asks     = 4
	askEvery = 250 * time.Millisecond
)

// asking holds the pace of asking the engines.
type asking struct{ out atomic.Int32 }

// may tells whether the engines may be asked now.
func (q *asking) may() bool { return q.out.Load() < asks }

// begin reports whether the engines may be asked now, and counts it if so.
func (q *asking) begin() bool {
	for {
		n := q.out.Load()
		if n >= asks {
			return false
		}
		if q.out.CompareAndSwap(n, n+1) {
			time.AfterFunc(time.Duration(n+1)*askEvery, func() { q.out.Add(-1) })
			return true
		}
	}
}

// nothingNew tells that unknown would find nothing out about any name: there is nothing to wait for, and the engines were asked
// often enough. A flood of questions asks it every time, so it neither locks nor reads a clock.
func (a *Agent) nothingNew() bool {
	if a.asking.may() {
		return false
	}
	for _, e := range *a.apis.Load() { // first: what an engine has told is due before it ceases to be pending
		if e.Pending() {
			return false
		}
	}
	return !a.due.Load()
}

// unknown is called before a name is denied. It waits for what the engines have hinted at and we have not told yet, and,
// within the pace of asking, asks the engines for a container of that name: the answer to the first question after `docker
// run` is never too early. It returns when somebody has the name, when there is
// nothing to wait for, or when ctx ends.
func (a *Agent) unknown(ctx context.Context, name string) {
	if candidates := a.candidates(name); len(candidates) > 0 && a.asking.begin() {
		for _, e := range *a.apis.Load() {
			e.Ask(ctx, candidates)
		}
	}
	for ctx.Err() == nil {
		a.mu.Lock()
		passed := a.passed
		busy := a.dirty != (dirty{})
		for _, w := range a.engines {
			busy = busy || w.eng.Pending() || len(w.changed) > 0
		}
		known := a.knows(name)
		a.mu.Unlock()
		if known || !busy {
			return
		}
		select {
		case <-passed:
		case <-ctx.Done():
		}
	}
}

// knows tells whether somebody has name, or one above it.
func (a *Agent) knows(name string) bool {
	for _, d := range a.cfg.Domains {
		rest, ok := strings.CutSuffix(name, "."+d)
		for ; ok && rest != ""; _, rest, _ = strings.Cut(rest, ".") {
			if len(a.names.holder(rest).addrs()) > 0 {
				return true
			}
		}
	}
	return false
}

// candidates are the container names that a DNS name may stand for: all of it, its last and its first label.
func (a *Agent) candidates(name string) []string {
	for _, d := range a.cfg.Domains {
		if rest, ok := strings.CutSuffix(name, "."+d); ok {
			c := []string{rest, rest[strings.LastIndexByte(rest, '.')+1:], rest[:strings.IndexByte(rest+".", '.')]}
			c = slices.DeleteFunc(c, func(s string) bool { return s == "" || strings.HasPrefix(s, "_") })
			slices.Sort(c)
			return slices.Compact(c)
		}
	}
	return nil
}
