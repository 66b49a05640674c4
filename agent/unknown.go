package agent

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// askEvery bounds what questions for names that nobody has cost the engines.
const askEvery = 200 * time.Millisecond

// asking holds the pace of asking the engines.
type asking struct {
	mu   sync.Mutex
	next time.Time
}

// allowed tells whether the engines may be asked now.
func (q *asking) allowed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now := time.Now(); now.After(q.next) {
		q.next = now.Add(askEvery)
		return true
	}
	return false
}

// unknown is called before a name is denied. It waits for what the engines have hinted at and we have not told yet, and,
// at most every askEvery, asks the engines for a container of that name: the answer to the first question after `docker
// run` is never too early. It returns when somebody has the name, when there is
// nothing to wait for, or when ctx ends.
func (a *Agent) unknown(ctx context.Context, name string) {
	if candidates := a.candidates(name); len(candidates) > 0 && a.asking.allowed() {
		for _, w := range a.engines {
			w.eng.Ask(ctx, candidates)
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
