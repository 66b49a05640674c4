package tunnel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// openTUN makes a TUN device that goes when the descriptor is closed. A %d in name becomes the lowest free number. The
// descriptor does not block.
func openTUN(name string, flags uint16) (fd int, dev string, err error) {
	const path = "/dev/net/tun"
	if fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
		return -1, "", fmt.Errorf("open %s: %w", path, err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EBUSY) {
			return -1, "", fmt.Errorf("make %s: another process has it: %w", name, err)
		}
		return -1, "", fmt.Errorf("make %s: %w", name, err)
	}
	return fd, ifr.Name(), nil
}

// configure gives dev its addresses, each with a way to the peer, and brings it up. It returns the addresses whose peer is
// seen to be behind dev then, and what went wrong with the others.
func configure(dev string, local, peers []netip.Addr, mtu int) (addrs []netip.Addr, err error) {
	link, err := netlink.LinkByName(dev)
	if err != nil {
		return nil, err
	}
	// No link-local address, if it can be had: nobody would hear what the kernel says by it.
	_ = netlink.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE)
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return nil, fmt.Errorf("set mtu %d: %w", mtu, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("bring up: %w", err)
	}
	for i, a := range local {
		if failed := configureAddr(link, a, peers[i]); failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		addrs = append(addrs, a)
	}
	return addrs, err
}

func configureAddr(link netlink.Link, local, peer netip.Addr) error {
	if there, err := net.InterfaceAddrs(); err == nil {
		for _, a := range there {
			if p, err := netip.ParsePrefix(a.String()); err == nil && (p.Addr() == local || p.Addr() == peer) {
				return fmt.Errorf("%v is an address of this machine already", p.Addr())
			}
		}
	}
	addr := &netlink.Addr{IPNet: host(local), Peer: host(peer), Flags: unix.IFA_F_NODAD}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add address %v: %w", local, err)
	}
	// A new device is ready a moment after it is up, and IPv6 has no routes before.
	var err error
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = leads(peer, link.Attrs().Index); err == nil {
			return nil
		}
	}
	return err
}

// leads tells whether this machine would reach to through the device.
func leads(to netip.Addr, dev int) error {
	found, err := netlink.RouteGet(to.AsSlice())
	if err != nil {
		return fmt.Errorf("look up the way to %v: %w", to, err)
	}
	if len(found) == 0 || found[0].LinkIndex != dev {
		return fmt.Errorf("another route has %v", to)
	}
	return nil
}

func host(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}
