package platform

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// WatchClocks calls set whenever the time of day has jumped, as when this host wakes, or somebody sets it; until stop is called. It costs nothing
// meanwhile. The error is errors.ErrUnsupported where the OS does not tell.
//
// Linux cancels a timer of the time of day then (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET): at each resume too, as CLOCK_MONOTONIC stood still.
func WatchClocks(set func()) (stop func(), err error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watching the clock: %w", err)
	}
	never := unix.ItimerSpec{Value: unix.NsecToTimespec(math.MaxInt64)}
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watching the clock: %w", err)
	}
	timer := os.NewFile(uintptr(fd), "timerfd")
	go func() {
		for b := make([]byte, 8); ; {
			switch _, err := timer.Read(b); {
			case errors.Is(err, unix.ECANCELED):
				set()
			case err != nil:
				return
			}
		}
	}()
	return func() { timer.Close() }, nil
}
