package platform

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"
)

// ErrBusy: another fairlead is at work.
var ErrBusy = errors.New("another fairlead is at work here")

// ListenControl makes the control endpoint, which only the system and administrators may use.
func ListenControl(path string) (net.Listener, error) {
	l, err := winio.ListenPipe(path, &winio.PipeConfig{SecurityDescriptor: "D:P(A;;GA;;;SY)(A;;GA;;;BA)"})
	if errors.Is(err, windows.ERROR_ACCESS_DENIED) {
		return nil, fmt.Errorf("control endpoint %s: %w", path, ErrBusy)
	}
	if err != nil {
		return nil, fmt.Errorf("making the control endpoint: %w", err)
	}
	return l, nil
}

// DialControl connects to a running fairlead's control endpoint.
func DialControl(ctx context.Context, path string) (net.Conn, error) {
	return winio.DialPipeContext(ctx, path)
}

// Lock takes the file at path for this process alone. The error is ErrBusy when another one has it.
func Lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &windows.Overlapped{})
	if err != nil {
		f.Close()
		if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
			return nil, ErrBusy
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// ClearControl has nothing to do: a pipe goes with the process that made it.
func ClearControl(string) error { return nil }
