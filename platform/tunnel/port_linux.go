package tunnel

import (
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tunPort is a TUN device of Linux, on either side.
type tunPort struct {
	*os.File
	vnet    bool       // each packet comes and goes behind a vnet header
	cut     *segmenter // the VM's: the kernel cuts and joins segments
	raise   int        // the MTU that containers are told the host has, 0 for none
	partial bool       // the other side takes unsummed packets

	conn  syscall.RawConn
	head  [vnetLen]byte
	parts [2]unix.Iovec // head, and where a packet is read to
	wait  bool          // for a packet to come
	n     int
	err   error
	try   func(fd uintptr) bool
}

func newTUNPort(fd int, vnet bool) *tunPort {
	p := &tunPort{File: os.NewFile(uintptr(fd), "/dev/net/tun"), vnet: vnet}
	p.conn, p.err = p.SyscallConn()
	p.parts[0] = unix.Iovec{Base: &p.head[0]}
	if vnet {
		p.parts[0].SetLen(len(p.head))
	}
	p.try = p.tryRead
	return p
}

// tryRead tells whether there is something to tell.
func (p *tunPort) tryRead(fd uintptr) bool {
	for {
		n, _, errno := unix.Syscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&p.parts[0])), uintptr(len(p.parts)))
		switch errno {
		case 0:
			p.n, p.err = int(n), nil
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			p.err = errno
			return !p.wait
		default:
			p.n, p.err = 0, os.NewSyscallError("readv", errno)
		}
		return true
	}
}

func (p *tunPort) read(b []byte, idle func()) (int, bool, error) {
	b = b[lengthLen:]
	p.parts[1].Base = &b[0]
	p.parts[1].SetLen(len(b))
	for p.wait = false; ; {
		if err := p.conn.Read(p.try); err != nil {
			return 0, false, err
		}
		if p.err == unix.EAGAIN {
			idle()
			p.wait = true
			continue
		}
		if p.err != nil {
			return 0, false, p.err
		}
		if !p.vnet {
			if p.n == 0 {
				return 0, false, io.EOF
			}
			return p.n, false, nil
		}
		if p.n <= vnetLen {
			continue
		}
		n := p.n - vnetLen
		if partial, ok := p.cut.toHost(b[:n], getVnet(p.head[:]), p.raise, p.partial); ok {
			return n, partial, nil
		}
	}
}

func (p *tunPort) write(b []byte, at int, h header, partial bool) error {
	switch {
	case p.vnet:
		v := vnetHeader{}
		if p.cut != nil {
			v = p.cut.fromHost(b[at:], h, partial)
		} else {
			v = h.vnet(b[at:], partial)
		}
		if at -= vnetLen; partial && v.flags == 0 {
			return errNoSum
		}
		v.put(b[at:])
	case partial && !h.complete(b[at:]):
		return errNoSum
	}
	_, err := p.Write(b[at:])
	return err
}
