package routes

import (
	"cmp"
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const defaultReceiveBuffer = 256 << 10 // bytes; the kernel's own default holds some fifty messages

// subscription lasts until the first error. A message says "look again", never what there is.
func (w watcher) subscription(ctx context.Context, poke func()) error {
	s, err := routingSocket()
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	defer s.Close()
	defer context.AfterFunc(ctx, func() { s.Close() })()
	raw, err := s.SyscallConn()
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	space := w.receiveBuffer
	if space == 0 {
		space = defaultReceiveBuffer
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, space)
	}); err != nil || failed != nil {
		return fmt.Errorf("set receive buffer: %w", cmp.Or(err, failed))
	}
	poke()
	// The kernel drops messages without a word when the queue is full. Whoever has read much without a pause may have lost
	// some, so that even what says nothing is a reason to look.
	b, backlog := make([]byte, 4096), 0
	for {
		n := 0
		if err := raw.Read(func(fd uintptr) bool {
			for n, failed = unix.Read(int(fd), b); failed == unix.EINTR; {
				n, failed = unix.Read(int(fd), b)
			}
			if failed == unix.EAGAIN {
				backlog = 0
			}
			return failed != unix.EAGAIN
		}); err != nil || failed != nil {
			return fmt.Errorf("receive: %w", cmp.Or(err, failed))
		}
		if n == 0 {
			return fmt.Errorf("receive: %w", os.ErrClosed)
		}
		backlog += n
		if says(b[:n]) || backlog > space/4 {
			poke()
		}
	}
}
