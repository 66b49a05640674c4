package tunnel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// openHost makes the host's device. Its kernel need not sum what a container's kernel, or its own, takes unsummed.
func openHost(mtu int) (end *hostEnd, err error) {
	vnet := true
	fd, name, err := openTUN("flead%d", unix.IFF_VNET_HDR)
	if err == nil {
		if err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM); err != nil {
			unix.Close(fd)
		}
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) {
		vnet = false
		fd, name, err = openTUN("flead%d", 0)
	}
	if err != nil {
		return nil, err
	}
	p := newTUNPort(fd, vnet)
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetMTU(link, mtu)
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("set mtu %d of %s: %w", mtu, name, err)
	}
	end = &hostEnd{port: p, name: name, mtu: mtu}
	if vnet {
		end.partial = &p.partial
	}
	return end, nil
}

func configureHost(dev string, l Link) ([]netip.Addr, error) {
	return configure(dev, l.Host, l.Pilot, l.MTU)
}
