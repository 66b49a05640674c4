package agent

import (
	"context"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/platform"
)

const (
	attentive     = time.Minute            // how long somebody who has looked is taken to look on
	restEvery     = 2 * time.Minute        // what an idle agent does of its own accord, all at once; Go's runtime wakes as often
	clocksEvery   = 4 * time.Second        // as often as engines are asked whether they live, and at the same moments
	clocksSeldom  = time.Minute            // where the OS does not tell when it wakes; but its links mostly do, as they come up then
	truthPatience = 600 * time.Millisecond // who asks for the status is to wait for the engines
)

// attention is whether somebody looks at the status, or did within the last minute. For those the agent looks often at what may
// change without a word to it. An agent at which nobody looks is not to wake its host for that.
type attention struct {
	mu     sync.Mutex
	until  time.Time
	roused chan struct{} // closed and renewed when somebody looks for the first time in a while
}

// begin reports whether nobody has looked for a while.
func (n *attention) begin() (first bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	first = now.After(n.until)
	if n.until = now.Add(attentive); first && n.roused != nil {
		close(n.roused)
		n.roused = nil
	}
	return first
}

// now tells whether somebody looks, and else when somebody does.
func (n *attention) now() (looks bool, roused <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Now().Before(n.until) {
		return true, nil
	}
	if n.roused == nil {
		n.roused = make(chan struct{})
	}
	return false, n.roused
}

// each calls do at the whole multiples of often while somebody looks, at those of seldom else, and when somebody begins to look, if that was
// not done just before; also when told is sent to. due is when it was to be called at the latest. It returns when ctx ends.
func (n *attention) each(ctx context.Context, often, seldom time.Duration, told <-chan struct{}, do func(due time.Time)) {
	last := time.Now()
	timer := time.NewTimer(0)
	timer.Stop()
	defer timer.Stop()
	for {
		looks, roused := n.now()
		every := seldom
		if looks {
			every = often
		}
		now := time.Now()
		due := now.Add(engine.UntilNext(now, every))
		timer.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-told:
		case <-roused:
			if time.Since(last) < often {
				continue
			}
		}
		last = time.Now()
		do(due)
	}
}

// attend notes that somebody looks, and tells whether that is for the first time in a while.
func (a *Agent) attend() (first bool) {
	for _, e := range *a.apis.Load() {
		e.Attend()
	}
	return a.attention.begin()
}

// keepAwake has everything looked at anew when this host has slept.
func (a *Agent) keepAwake(ctx context.Context) {
	seldom := restEvery
	stop, err := platform.WatchClocks(func() { poke(a.clocks) })
	if err != nil {
		seldom = clocksSeldom
	} else {
		defer stop()
	}
	clocks := platform.ReadClocks()
	a.attention.each(ctx, clocksEvery, seldom, a.clocks, func(due time.Time) {
		if clocks.Slept(due) {
			a.woke()
		}
	})
}

// Look is the Status for somebody who is to rely on it: after a while in which nobody looked the engines are asked whether they answer, and the OS for
// its routes and entries. An engine that says nothing within a moment is not up, as far as that Status goes.
func (a *Agent) Look(ctx context.Context) Status {
	ctx, cancel := context.WithTimeout(ctx, truthPatience)
	defer cancel()
	first := a.attend()
	if first {
		a.mark(dirty{routes: true, resolver: true})
	}
	var mu sync.Mutex
	silent := map[*engine.Engine]error{}
	var asked sync.WaitGroup
	for _, e := range *a.apis.Load() {
		asked.Go(func() {
			if err := e.Answers(ctx); err != nil {
				mu.Lock()
				silent[e] = err
				mu.Unlock()
			}
		})
	}
	asked.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	for first && a.dirty != (dirty{}) && ctx.Err() == nil {
		a.awaitNews(ctx)
	}
	return a.status(silent)
}
