package tunnel

import (
	"io"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tunPort is a TUN device of Linux, on either side.
type tunPort struct {
	*file
	vnet    bool       // each packet comes and goes behind a vnet header
	cut     *segmenter // the VM's: the kernel cuts and joins segments
	raise   int        // the MTU that containers are told the host has, 0 for none
	partial bool       // the other side takes unsummed packets

	head  [vnetLen]byte
	parts [2]unix.Iovec // head, and where a packet is read to
}

func newTUNPort(fd int, vnet bool) *tunPort {
	p := &tunPort{file: newFile(fd, "/dev/net/tun", unix.SYS_READV, unix.SYS_WRITE), vnet: vnet}
	p.parts[0] = unix.Iovec{Base: &p.head[0]}
	if vnet {
		p.parts[0].SetLen(len(p.head))
	}
	return p
}

func (p *tunPort) read(b []byte, idle func()) (int, bool, error) {
	b = b[lengthLen:]
	p.parts[1].Base = &b[0]
	p.parts[1].SetLen(len(b))
	for wait := false; ; {
		n, err := p.in.do(unsafe.Pointer(&p.parts[0]), len(p.parts), wait)
		if err == unix.EAGAIN {
			idle()
			wait = true
			continue
		}
		if err != nil {
			return 0, false, err
		}
		if !p.vnet {
			if n == 0 {
				return 0, false, io.EOF
			}
			return n, false, nil
		}
		if n <= vnetLen {
			continue
		}
		n -= vnetLen
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
