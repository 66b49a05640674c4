package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	period = 30 * time.Second       // routes change too, x_tables tells nothing, and notices can be lost
	burst  = 500 * time.Millisecond // an engine that starts makes a hundred changes
)

// Watch returns a channel that gives a value soon after nf_tables' rules changed, and every 30 s: time to Admit again. It
// is never closed; ctx ends the watch. Without notices, the error, only the 30 s remain.
func Watch(ctx context.Context) (<-chan struct{}, error) {
	wake := make(chan struct{}, 1)
	changed := make(chan struct{}, 1)
	notices, err := listen()
	if err == nil {
		context.AfterFunc(ctx, func() { notices.Close() })
		go func() {
			buf := make([]byte, 64<<10)
			for {
				// What the notice says does not matter, nor that some were lost (ENOBUFS).
				if _, err := notices.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
					return
				}
				poke(changed)
			}
		}()
	}
	go func() {
		tick := time.NewTicker(period)
		defer tick.Stop()
		var settled <-chan time.Time
		for {
			select {
			case <-changed:
				if settled == nil {
					settled = time.After(burst)
				}
			case <-settled:
				settled = nil
				poke(wake)
			case <-tick.C:
				poke(wake)
			case <-ctx.Done():
				return
			}
		}
	}()
	return wake, err
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// listen joins nf_tables' notices in this thread's network namespace, on a socket whose reader Close frees.
func listen() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("watch nf_tables: socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch nf_tables: bind: %w", err)
	}
	return os.NewFile(uintptr(fd), "nf_tables"), nil
}
