package platform

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestSlept(t *testing.T) {
	start := time.Now()
	// later is a reading after that much on the monotonic clock, and the wall clock off by so much.
	later := func(monotonic, off time.Duration) time.Time {
		now := start.Add(monotonic)
		if off == 0 {
			return now
		}
		return now.Round(0).Add(off) // without a monotonic reading Sub goes by the wall clock
	}
	for _, c := range []struct {
		name           string
		monotonic, off time.Duration
		want           bool
	}{
		{"a tick", wakeEvery, 0, false},
		{"a late tick", wakeEvery + wakeSlack/2, 0, false},
		{"a night where the monotonic clock stands still", wakeEvery, 8 * time.Hour, true},
		{"a night where it goes on", 8 * time.Hour, 0, true},
		{"a short sleep", wakeEvery, 15 * time.Second, true},
		{"the clock is set right", wakeEvery, 3 * time.Second, false},
		{"the clock is set back", wakeEvery, -8 * time.Hour, false},
	} {
		if got := slept(start, later(c.monotonic, c.off)); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// A host that stays awake wakes nobody, and the watch ends with ctx.
func TestWatchWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		WatchWake(ctx, func() { t.Error("it says that we slept") })
	})
}
