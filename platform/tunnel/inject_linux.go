package tunnel

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// rawSocket makes a socket that sends whole IP packets of one family as this machine's own (raw(7), IP_HDRINCL).
func rawSocket(family int) (*os.File, error) {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	if err != nil {
		return nil, err
	}
	if family == unix.AF_INET6 {
		// IPPROTO_RAW says it already; older kernels lack the option.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_HDRINCL, 1)
	} else if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_HDRINCL, 1); err != nil {
		unix.Close(fd)
		return nil, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20)
	return os.NewFile(uintptr(fd), "raw socket"), nil
}

// injector is a pilot's port whose packets from the host go by raw sockets, and from the containers by the device.
type injector struct {
	*tunPort
	*prover
	raw4, raw6 *os.File // nil where the link has no such addresses
	fragmented uint16   // packets so far
}

const injectHint = "the pilot needs CAP_NET_RAW for this: look for what takes it away from containers, such as an authorization plugin"

func openInjector(t *tunPort, p *prover) (_ *injector, err error) {
	i := &injector{tunPort: t, prover: p}
	for _, a := range p.link.Host {
		if a.Is4() {
			i.raw4, err = rawSocket(unix.AF_INET)
		} else {
			i.raw6, err = rawSocket(unix.AF_INET6)
		}
		if err != nil {
			i.raw4.Close()
			i.raw6.Close()
			return nil, fmt.Errorf("open a raw socket for %v: %w", a, err)
		}
	}
	p.send = i.send
	return i, nil
}

func (i *injector) Close() error {
	i.raw4.Close() // of none it is an error, and no more
	i.raw6.Close()
	return i.tunPort.Close()
}

func (i *injector) read(b []byte, idle func()) (int, bool, error) {
	for {
		n, partial, err := i.tunPort.read(b, idle)
		if err != nil || !i.took(b[lengthLen:][:n]) {
			return n, partial, err
		}
	}
}

func (i *injector) write(b []byte, at int, h header, partial bool) error {
	p := b[at:]
	if !i.admits(h.dst) {
		return fmt.Errorf("%v is not admitted", h.dst)
	}
	if partial && !h.complete(p) {
		return errNoSum
	}
	err := i.send(p)
	if !errors.Is(err, unix.EMSGSIZE) {
		return err
	}
	mtu := mtuTo(h.dst)
	if mtu >= len(p) {
		return err
	}
	// The host's don't-fragment is about a path of 64 KB packets, which the networks behind us are not: datagrams are cut
	// all the same. TCP learns.
	if h.dst.Is4() && (h.protocol == protocolUDP || p[6]&0x40 == 0) {
		i.fragmented++
		return fragments(p, h, i.fragmented, mtu, i.send)
	}
	if k := slices.Index(i.link.Host, h.src); k >= 0 {
		_ = i.send(tooBig(p, h, i.link.Pilot[k], mtu))
	}
	return errTooBig
}

// send gives one packet to the kernel, which drops what the way has no room for.
func (i *injector) send(p []byte) error {
	h, _ := parse(p)
	raw, to := i.raw4, unix.Sockaddr(nil)
	if h.dst.Is4() {
		to = &unix.SockaddrInet4{Addr: h.dst.As4()}
	} else {
		raw, to = i.raw6, &unix.SockaddrInet6{Addr: h.dst.As16()}
	}
	if raw == nil {
		return unix.EAFNOSUPPORT
	}
	conn, err := raw.SyscallConn()
	if err != nil {
		return err
	}
	if closed := conn.Write(func(fd uintptr) bool { // not while it is being closed
		err = unix.Sendto(int(fd), p, unix.MSG_DONTWAIT, to)
		return true
	}); closed != nil {
		return closed
	}
	return err
}

// mtuTo is the largest packet that this machine may send to an address; networkMTU where it does not know.
func mtuTo(to netip.Addr) int {
	family, level, option := unix.AF_INET, unix.IPPROTO_IP, unix.IP_MTU
	var peer unix.Sockaddr
	if to.Is4() {
		peer = &unix.SockaddrInet4{Addr: to.As4(), Port: 9}
	} else {
		family, level, option = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_MTU
		peer = &unix.SockaddrInet6{Addr: to.As16(), Port: 9}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return networkMTU
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, peer); err != nil { // nothing is sent by it
		return networkMTU
	}
	mtu, err := unix.GetsockoptInt(fd, level, option)
	if err != nil {
		return networkMTU
	}
	return mtu
}
