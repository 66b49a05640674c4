package platform

import "time"

const wakeSlack = 8 * time.Second // a busy machine is late, and that is no sleep

// Clocks is a reading of this host's clocks, which tells later whether it has slept.
type Clocks struct{ last time.Time }

// ReadClocks reads them.
func ReadClocks() *Clocks { return &Clocks{time.Now()} }

// Slept tells whether this host has slept since the last reading, and reads its clocks anew. due is when that was to happen at the latest. A clock that
// is set forward looks the same and does no harm.
//
// It looks at clocks alone, as that works everywhere: while a host sleeps no timer of ours fires, and the time of day goes
// on. So does Windows' monotonic clock; those of Linux and macOS stand still (clock_gettime(2) CLOCK_MONOTONIC,
// mach_absolute_time, QueryInterruptTime).
func (c *Clocks) Slept(due time.Time) bool {
	now, last := time.Now(), c.last
	c.last = now
	return slept(now.Sub(last), now.Round(0).Sub(last.Round(0)), now.Sub(due))
}

// slept tells whether the time of day went further than the monotonic clock did, or that much further than it was to.
func slept(monotonic, wall, late time.Duration) bool {
	return wall-monotonic > wakeSlack || late > wakeSlack
}
