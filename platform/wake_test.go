package platform

import (
	"testing"
	"time"
)

func TestSlept(t *testing.T) {
	const tick = 4 * time.Second
	for _, c := range []struct {
		name            string
		monotonic, wall time.Duration // since the last reading
		late            time.Duration
		want            bool
	}{
		{"a tick", tick, tick, 0, false},
		{"a late tick", tick + wakeSlack/2, tick + wakeSlack/2, wakeSlack / 2, false},
		{"long before it is due", tick, tick, -time.Hour, false},
		{"a night where the monotonic clock stands still", tick, 8 * time.Hour, 0, true},
		{"long before it is due", tick, 8 * time.Hour, -time.Hour, true},
		{"a night where it goes on", 8 * time.Hour, 8 * time.Hour, 8*time.Hour - tick, true},
		{"a short sleep", tick, tick + 10*time.Second, 0, true},
		{"the clock is set right", tick, tick + 3*time.Second, 0, false},
		{"the clock is set back", tick, -8 * time.Hour, 0, false},
	} {
		if got := slept(c.monotonic, c.wall, c.late); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if ReadClocks().Slept(time.Now().Add(tick)) {
		t.Error("this host slept just now")
	}
}
