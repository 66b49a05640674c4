package platform

import (
	"context"
	"time"
)

const (
	wakeEvery = 2 * time.Second  // how often the clocks are read
	wakeSlack = 10 * time.Second // a busy machine is late, and that is no sleep
)

// WatchWake calls woke each time this host has slept, within seconds of its wake, until ctx ends. A clock that is set
// forward looks the same and does no harm.
//
// It looks at clocks alone, as that works everywhere: while a host sleeps no timer of ours fires, and the time of day goes
// on. So does Windows' monotonic clock; those of Linux and macOS stand still (clock_gettime(2) CLOCK_MONOTONIC,
// mach_absolute_time, QueryInterruptTime).
func WatchWake(ctx context.Context, woke func()) {
	tick := time.NewTicker(wakeEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		if slept(last, now) {
			woke()
		}
		last = now
	}
}

// slept tells whether this host slept between two readings of its clocks that were to be wakeEvery apart.
func slept(last, now time.Time) bool {
	monotonic, wall := now.Sub(last), now.Round(0).Sub(last.Round(0))
	return max(monotonic, wall) > wakeEvery+wakeSlack
}
