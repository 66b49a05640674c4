package platform

import (
	"context"
	"time"
)

const (
	wakeEvery = 4 * time.Second // how often the clocks are read, at whole multiples of it
	wakeSlack = 8 * time.Second // a busy machine is late, and that is no sleep
)

// WatchWake calls woke each time this host has slept, within seconds of its wake, until ctx ends. A clock that is set
// forward looks the same and does no harm.
//
// It looks at clocks alone, as that works everywhere: while a host sleeps no timer of ours fires, and the time of day goes
// on. So does Windows' monotonic clock; those of Linux and macOS stand still (clock_gettime(2) CLOCK_MONOTONIC,
// mach_absolute_time, QueryInterruptTime).
func WatchWake(ctx context.Context, woke func()) {
	last := time.Now()
	tick := time.NewTimer(untilTick(last))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		tick.Reset(untilTick(now))
		if slept(last, now) {
			woke()
		}
		last = now
	}
}

// untilTick is the time until the next whole multiple of wakeEvery: whoever else keeps to such shares one wake-up of the host.
func untilTick(now time.Time) time.Duration {
	now = now.Round(0)
	return now.Truncate(wakeEvery).Add(wakeEvery).Sub(now)
}

// slept tells whether this host slept between two readings of its clocks that were to be at most wakeEvery apart.
func slept(last, now time.Time) bool {
	monotonic, wall := now.Sub(last), now.Round(0).Sub(last.Round(0))
	return max(monotonic, wall) > wakeEvery+wakeSlack
}
