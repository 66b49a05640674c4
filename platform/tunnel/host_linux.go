package tunnel

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/tun"
)

// openHost makes the host's device, without the vnet header that only Linux has: the host's side is one for all OSes.
func openHost(mtu int) (tun.Device, error) {
	fd, name, err := openTUN("flead%d", 0)
	if err != nil {
		return nil, err
	}
	dev, _, err := tun.CreateUnmonitoredTUNFromFD(fd) // owns fd, whether it fails or not
	if err != nil {
		return nil, err
	}
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetMTU(link, mtu)
	}
	if err != nil {
		dev.Close()
		return nil, fmt.Errorf("set mtu %d of %s: %w", mtu, name, err)
	}
	return dev, nil
}

func configureHost(dev string, l Link) ([]netip.Addr, error) {
	return configure(dev, l.Host, l.Pilot, l.MTU)
}
