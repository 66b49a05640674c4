//go:build linux || darwin

package routes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"
)

// Watch calls changed soon after any change of a route, link or address (on Linux: in this network namespace), and once
// at the start when the subscription stands: list in changed, and nothing is missed. Calls never overlap; a burst of
// changes (20 ms) is one call. When the kernel drops messages, or the subscription breaks, changed is called too. Watch
// returns nil when ctx is done, or an error when this kernel gives no subscription at all.
func Watch(ctx context.Context, changed func()) error {
	return watcher{lost: func(err error) { slog.Debug("routes: subscribing again", "err", err) }}.run(ctx, changed)
}

const pause = 50 * time.Millisecond // between a lost subscription and the next

type watcher struct {
	receiveBuffer int         // bytes; 0 is the default
	lost          func(error) // told why a subscription ended
}

func (w watcher) run(ctx context.Context, changed func()) error {
	return coalesce(ctx, w.listen, changed)
}

// listen pokes for every message and every new subscription, until ctx is done.
func (w watcher) listen(ctx context.Context, poke func()) error {
	for {
		err := w.subscription(ctx, poke)
		if ctx.Err() != nil {
			return nil
		}
		for _, never := range []error{unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.EPERM, unix.EACCES} {
			if errors.Is(err, never) {
				return fmt.Errorf("watch routes: %w", err)
			}
		}
		w.lost(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}
