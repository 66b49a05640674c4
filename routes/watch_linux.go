package routes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Watch calls changed soon after any change of a route, link or address in this network namespace, and once at the start
// when the subscription stands: list in changed, and nothing is missed. Calls never overlap; a burst of changes
// (20 ms) is one call. When the kernel drops messages (ENOBUFS), or the subscription breaks, Watch subscribes
// again and calls changed. It returns nil when ctx is done, or an error when this kernel gives no subscription at all.
func Watch(ctx context.Context, changed func()) error {
	return watcher{lost: func(err error) { slog.Debug("routes: subscribing again", "err", err) }}.run(ctx, changed)
}

const (
	burst = 20 * time.Millisecond // changes this close together are told once
	pause = 50 * time.Millisecond // between a lost subscription and the next
)

type watcher struct {
	receiveBuffer int         // bytes; 0 is the kernel's default
	lost          func(error) // told why a subscription ended
}

func (w watcher) run(ctx context.Context, changed func()) error {
	dirty := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- w.listen(ctx, func() {
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
		case <-dirty: // told by this call: the kernel speaks after it acted
		default:
		}
		changed()
	}
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

// subscription lasts until the first error. One socket for all groups keeps the order and needs no decoding: a message
// says "look again", never what there is.
func (w watcher) subscription(ctx context.Context, poke func()) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	stop := context.AfterFunc(ctx, s.Close)
	defer func() {
		if stop() {
			s.Close()
		}
	}()
	if w.receiveBuffer > 0 {
		if err := s.SetReceiveBufferSize(w.receiveBuffer, false); err != nil {
			return fmt.Errorf("set receive buffer: %w", err)
		}
	}
	for {
		poke()
		if _, _, err := s.Receive(); err != nil {
			return fmt.Errorf("receive: %w", err)
		}
	}
}
