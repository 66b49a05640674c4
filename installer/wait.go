//go:build darwin || windows

package installer

import "time"

// until asks done every now and then for at most d; false: in vain.
func until(d time.Duration, done func() bool) bool {
	for deadline := time.Now().Add(d); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
