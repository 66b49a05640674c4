package routes

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

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
