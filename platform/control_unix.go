//go:build !windows

package platform

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrBusy: another fairlead is at work.
var ErrBusy = errors.New("another fairlead is at work here")

// ListenControl makes the control endpoint, which only its owner may use. A socket that nobody answers on is a leftover
// and is replaced.
func ListenControl(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the control endpoint: %w", err)
	}
	if i, err := os.Lstat(path); err == nil {
		if i.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("control endpoint %s: a file that is no socket is in its place", path)
		}
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return nil, fmt.Errorf("control endpoint %s: %w", path, ErrBusy)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("control endpoint: %w", err)
		}
	}
	// Never open to others, not even between bind and chmod.
	old := unix.Umask(0o177)
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("making the control endpoint: %w", err)
	}
	return l, nil
}

// DialControl connects to a running fairlead's control endpoint.
func DialControl(ctx context.Context, path string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", path)
}

// Lock takes the file at path for this process alone. The error is ErrBusy when another one has it.
func Lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrBusy
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
