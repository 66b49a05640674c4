package routes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const rtaNhID = 30 // RTA_NH_ID in rtnetlink.h

// exact is the body of the RTM_NEWROUTE message that makes e again.
func exact(e Entry) ([]byte, error) {
	bodies, err := dump()
	if err != nil {
		return nil, err
	}
	links, err := linkNames()
	if err != nil {
		return nil, err
	}
	for _, b := range bodies {
		if got, ok, err := parseRow(b, links); err == nil && ok && got == e {
			return asRequest(b, 0)
		}
	}
	return nil, unix.ESRCH
}

// asRequest is the body of a dumped row as a request wants it: without what the kernel only tells, and by link oif, where that
// is not 0.
func asRequest(dumped []byte, oif int) ([]byte, error) {
	b := append([]byte(nil), dumped[:unix.SizeofRtMsg]...)
	binary.NativeEndian.PutUint32(b[8:], binary.NativeEndian.Uint32(b[8:])&unix.RTNH_F_ONLINK) // the others are its state
	for rest := dumped[unix.SizeofRtMsg:]; len(rest) >= unix.SizeofRtAttr; {
		n := int(binary.NativeEndian.Uint16(rest))
		if n < unix.SizeofRtAttr || n > len(rest) {
			return nil, unix.EINVAL
		}
		whole := min((n+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(rest))
		attr := append([]byte(nil), rest[:whole]...)
		rest = rest[whole:]
		switch typ := binary.NativeEndian.Uint16(attr[2:]); {
		case typ == unix.RTA_CACHEINFO:
			continue
		case typ == rtaNhID:
			return nil, errors.New("it goes by a nexthop object")
		case typ == unix.RTA_OIF && oif != 0 && n == unix.SizeofRtAttr+4:
			binary.NativeEndian.PutUint32(attr[unix.SizeofRtAttr:], uint32(oif))
		}
		b = append(b, attr...)
	}
	return b, nil
}

func (s Saved) takeOut() error { return s.tell(unix.RTM_DELROUTE, 0) }

func (s Saved) putBack() error { return s.tell(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL) }

// tell sends the row as it was saved. A link that was made anew has another number.
func (s Saved) tell(what, flags int) error {
	link, err := net.InterfaceByName(s.Dev)
	if err != nil {
		return explain(s.Route, unix.ENODEV)
	}
	if e, ok, err := parseRow(s.Exact, map[int]string{link.Index: s.Dev}); err != nil || !ok || e.Dst != s.Dst || e.Via != s.Via {
		return fmt.Errorf("what was saved of it is no such row: %w", unix.EINVAL)
	}
	body, err := asRequest(s.Exact, link.Index)
	if err != nil {
		return err
	}
	req := nl.NewNetlinkRequest(what, unix.NLM_F_ACK|flags)
	req.AddRawData(body)
	_, err = req.Execute(unix.NETLINK_ROUTE, 0)
	return explain(s.Route, err)
}
