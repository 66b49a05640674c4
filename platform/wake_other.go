//go:build !linux

package platform

import "errors"

// WatchClocks calls set whenever the time of day has jumped, as when this host wakes, until stop is called. The error is
// errors.ErrUnsupported: this OS does not tell, and its clocks have to be looked at now and then.
func WatchClocks(func()) (stop func(), err error) { return nil, errors.ErrUnsupported }
