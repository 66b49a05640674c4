package tunnel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

func openHost(mtu int) (*hostEnd, error) {
	dev, err := tun.CreateTUN("utun", mtu)
	if err != nil && mtu > networkMTU {
		dev, err = tun.CreateTUN("utun", networkMTU)
	}
	if err != nil {
		return nil, err
	}
	go func() { // or its writer waits for a reader
		for range dev.Events() {
		}
	}()
	return openDevice(dev)
}

// configureHost gives a utun its MTU and its addresses and brings it up, by the ioctls of sys/sockio.h, netinet/in_var.h and
// netinet6/in6_var.h.
func configureHost(dev string, l Link) (addrs []netip.Addr, err error) {
	const (
		SIOCSIFFLAGS    = 0x80206910
		SIOCGIFFLAGS    = 0xc0206911
		SIOCAIFADDR     = 0x8040691a
		SIOCAIFADDR_IN6 = 0x8080691a
	)
	var mtu unix.IfreqMTU
	copy(mtu.Name[:], dev)
	mtu.MTU = int32(l.MTU)
	if err := onSocket(unix.AF_INET, func(fd int) error { return unix.IoctlSetIfreqMTU(fd, &mtu) }); err != nil {
		return nil, fmt.Errorf("set mtu %d: %w", l.MTU, err)
	}
	var ifreq [32]byte // name, and flags at 16
	copy(ifreq[:15], dev)
	if err := onSocket(unix.AF_INET, func(fd int) error {
		if err := ioctl(fd, SIOCGIFFLAGS, unsafe.Pointer(&ifreq)); err != nil {
			return err
		}
		ifreq[16] |= unix.IFF_UP
		return ioctl(fd, SIOCSIFFLAGS, unsafe.Pointer(&ifreq))
	}); err != nil {
		return nil, fmt.Errorf("bring up: %w", err)
	}
	for i, a := range l.Host {
		var failed error
		if a.Is4() {
			req := ifAliasReq(dev, a, l.Pilot[i])
			failed = onSocket(unix.AF_INET, func(fd int) error { return ioctl(fd, SIOCAIFADDR, unsafe.Pointer(&req)) })
		} else {
			req := in6AliasReq(dev, a, l.Pilot[i])
			failed = onSocket(unix.AF_INET6, func(fd int) error { return ioctl(fd, SIOCAIFADDR_IN6, unsafe.Pointer(&req)) })
		}
		if failed == nil {
			failed = has(dev, a)
		}
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("add address %v: %w", a, failed))
			continue
		}
		addrs = append(addrs, a)
	}
	return addrs, err
}

// has reads back whether dev has the address.
func has(dev string, want netip.Addr) error {
	i, err := net.InterfaceByName(dev)
	if err != nil {
		return err
	}
	addrs, err := i.Addrs()
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == want {
			return nil
		}
	}
	return errors.New("it is not there afterwards")
}

func onSocket(family int, do func(fd int) error) error {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	return do(fd)
}

func ioctl(fd int, req uintptr, arg unsafe.Pointer) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), req, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
