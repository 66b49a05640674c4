//go:build !windows

package platform

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrBusy: another fairlead is at work.
var ErrBusy = errors.New("another fairlead is at work here")

// ListenControl makes the control endpoint, which only its owner may use. A socket that nobody listens on is a leftover and
// is replaced; the error is ErrBusy when somebody does. Nothing else in its place is touched.
func ListenControl(path string) (net.Listener, error) {
	if err := socketPath(path); err != nil {
		return nil, fmt.Errorf("control endpoint %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the control endpoint: %w", err)
	}
	if err := ClearControl(path); err != nil {
		return nil, err
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

// ClearControl removes a control endpoint that a killed fairlead left. The error is ErrBusy when somebody listens on it, and
// something else in its place stays and is an error, too.
func ClearControl(path string) error {
	i, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("control endpoint: %w", err)
	}
	if i.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("control endpoint %s: a file that is no socket is in its place", path)
	}
	switch err := knock(path); {
	case err == nil || errors.Is(err, syscall.EAGAIN): // EAGAIN: Linux, its queue is full
		return fmt.Errorf("control endpoint %s: %w", path, ErrBusy)
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("control endpoint %s: a socket that cannot be asked is in its place: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("control endpoint: %w", err)
	}
	return nil
}

// MakeStateDir makes the folder for what fairlead remembers of its own changes.
func MakeStateDir(path string) error { return os.MkdirAll(path, 0o755) }

// ListenStatus has nothing to make: a socket has one owner, who may ask and change.
func ListenStatus(string) (net.Listener, error) { return nil, nil }

// DialControl connects to a running fairlead's control endpoint.
func DialControl(ctx context.Context, path string) (net.Conn, error) {
	if err := socketPath(path); err != nil {
		return nil, err
	}
	return (&net.Dialer{}).DialContext(ctx, "unix", path)
}

// socketPath refuses what does not fit into a socket's address, and what Go and Linux take for an abstract name: such a
// socket is no file, so that everybody may connect.
func socketPath(path string) error {
	const most = len(unix.RawSockaddrUnix{}.Path) - 1 // a NUL ends it
	switch {
	case path == "" || path[0] == '@':
		return errors.New("this is no path of a file")
	case len(path) > most:
		return fmt.Errorf("the path is too long: %d bytes, and a socket's can have %d", len(path), most)
	}
	return nil
}

// knock connects to the socket at path. The error is the system's alone.
func knock(path string) error {
	c, err := net.Dial("unix", path)
	if err == nil {
		return c.Close()
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// Lock takes the file at path for this process alone. The error is ErrBusy when another one has it, and keeps it: a program that
// a killed fairlead was just starting has its files for a moment.
func Lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for until := time.Now().Add(lockPatience); ; time.Sleep(lockPatience / 20) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		case time.Now().After(until):
			f.Close()
			return nil, ErrBusy
		}
	}
}

const lockPatience = time.Second
