package tunnel

import (
	"sync/atomic"
	"time"
)

const (
	// delay is how long a packet may be on its way behind others. What the engine between the two sides would take beyond
	// that, only to let it lie, waits where small packets can overtake it.
	delay = 3 * time.Millisecond

	leastWindow, mostWindow = 256 << 10, 4 << 20
)

// pace finds how many bytes may be on their way in one direction: as many as arrive within delay, or within twice what the
// way takes at best if that is longer, as to an engine far away.
type pace struct {
	limit atomic.Uint32

	// One frame at a time is timed: by its last byte, as wire.sent counts it.
	timing atomic.Bool
	last   atomic.Uint32
	begun  atomic.Int64  // when it was sent
	before atomic.Uint32 // what had been taken by then

	least time.Duration // that a frame took so far: small ones come first. Of who hears.
}

// sent notes a frame whose last byte is the one before that number.
func (p *pace) sent(last, acked uint32, now time.Duration) {
	if p.timing.Load() {
		return
	}
	p.last.Store(last)
	p.before.Store(acked)
	p.begun.Store(int64(now))
	p.timing.Store(true)
}

// heard notes that all before that number was taken.
func (p *pace) heard(acked uint32, now time.Duration) {
	if !p.timing.Load() || int32(acked-p.last.Load()) < 0 {
		return
	}
	took := max(now-time.Duration(p.begun.Load()), time.Microsecond)
	bytes := acked - p.before.Load()
	p.timing.Store(false)
	if p.least == 0 || took < p.least {
		p.least = took
	}
	want := uint64(bytes) * uint64(max(delay, 2*p.least)) / uint64(took)
	was := uint64(p.limit.Load())
	p.limit.Store(uint32(min(max((3*was+want)/4, leastWindow), mostWindow)))
}
