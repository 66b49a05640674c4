package platform

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestWatchClocks sets the clock, by a nanosecond and back: to the kernel that is what a resume is.
func TestWatchClocks(t *testing.T) {
	told := make(chan struct{}, 9)
	stop, err := WatchClocks(func() { told <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range []int64{1, -1} {
		step := unix.Timex{Modes: unix.ADJ_SETOFFSET | unix.ADJ_NANO, Time: unix.NsecToTimeval(0)}
		if step.Time.Usec = by; by < 0 { // in nanoseconds, which are never negative
			step.Time.Sec, step.Time.Usec = -1, 1e9+by
		}
		_, err := unix.Adjtimex(&step)
		if errors.Is(err, unix.EPERM) {
			t.Skip("only who may set the clock can see that it is told of")
		}
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-told:
		case <-time.After(20 * time.Second):
			t.Errorf("a step of %d ns is not told", by)
		}
	}
	stop()
	if len(told) > 0 {
		t.Error("it is told without a reason")
	}
}
