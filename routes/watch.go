package routes

import (
	"context"
	"time"
)

const burst = 20 * time.Millisecond // changes this close together are told once

// coalesce runs listen, which pokes for every hint, and calls changed for them: never twice at once, once for a burst.
// It returns what listen returns, which it does when ctx is done or hints cannot be had.
func coalesce(ctx context.Context, listen func(ctx context.Context, poke func()) error, changed func()) error {
	dirty := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- listen(ctx, func() {
			select {
			case dirty <- struct{}{}:
			default:
			}
		})
	}()
	for {
		select {
		case err := <-ended:
			return err
		case <-dirty:
		}
		select {
		case <-ctx.Done():
			continue
		case <-time.After(burst):
		}
		select {
		case <-dirty: // told by this call: the OS speaks after it acted
		default:
		}
		changed()
	}
}
