package routes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// mark is the rtm_protocol of our rows: unassigned in the kernel's rtnetlink.h and in iproute2's rt_protos.
const mark = 208

// metric is that of our rows: for IPv6 the kernel reads 0 as 1024 (IP6_RT_PRIO_USER in net/ipv6_route.h).
func metric(dst netip.Prefix) int {
	if dst.Addr().Is4() {
		return 0
	}
	return 1024
}

// List returns the IPv4 and IPv6 rows of the main table of this network namespace, in the kernel's order.
// The kernel's own local, broadcast, anycast and multicast rows are left out. The list is one consistent picture or an error.
func List() ([]Entry, error) {
	bodies, err := dump()
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	links, err := linkNames() // after the rows, so that every row that still lives finds its link
	if err != nil {
		return nil, err
	}
	var table []Entry
	for _, b := range bodies {
		e, ok, err := parseRow(b, links)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		if ok {
			table = append(table, e)
		}
	}
	return table, nil
}

// dump returns the bodies of RTM_NEWROUTE messages, all tables and families.
func dump() (bodies [][]byte, err error) {
	// A table that changes under the dump may lose rows in it (NLM_F_DUMP_INTR): look again rather than act on half.
	for range 20 {
		req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
		req.AddData(&nl.RtMsg{})
		bodies, err = req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			return bodies, err
		}
	}
	return nil, err
}

// kinds names rtm_type as iproute2 does; a plain row needs no name.
var kinds = map[uint8]string{
	unix.RTN_UNICAST: "", unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast", unix.RTN_ANYCAST: "anycast",
	unix.RTN_MULTICAST: "multicast", unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable",
	unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
}

// parseRow reads the body of one RTM_NEWROUTE message: a struct rtmsg, then attributes (rtnetlink(7)). ok is false for
// a row that List does not show.
func parseRow(b []byte, links map[int]string) (e Entry, ok bool, err error) {
	if len(b) < unix.SizeofRtMsg {
		return Entry{}, false, fmt.Errorf("route message of %d bytes", len(b))
	}
	family, dstBits, srcBits, tos, table, protocol, kind := b[0], b[1], b[2], b[3], uint32(b[4]), b[5], b[7]
	flags := binary.NativeEndian.Uint32(b[8:])

	var dst, via netip.Addr
	switch family {
	case unix.AF_INET:
		dst = netip.IPv4Unspecified()
	case unix.AF_INET6:
		dst = netip.IPv6Unspecified()
	default:
		return Entry{}, false, nil
	}

	oddity, known := kinds[kind] // what makes this row more than "via dev"
	if !known {
		oddity = "type " + strconv.Itoa(int(kind))
	}
	switch kind {
	case unix.RTN_LOCAL, unix.RTN_BROADCAST, unix.RTN_ANYCAST, unix.RTN_MULTICAST:
		if protocol == unix.RTPROT_KERNEL {
			return Entry{}, false, nil
		}
	}
	if tos != 0 {
		oddity = "tos " + strconv.Itoa(int(tos))
	}
	if srcBits != 0 {
		oddity = "source-specific"
	}

	var dev string
	for b = b[unix.SizeofRtMsg:]; len(b) >= unix.SizeofRtAttr; {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtAttr || n > len(b) {
			return Entry{}, false, fmt.Errorf("route attribute of %d bytes in %d", n, len(b))
		}
		typ, v := binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:n]
		b = b[min((n+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(b)):]

		var number uint32
		if len(v) == 4 {
			number = binary.NativeEndian.Uint32(v)
		}
		switch typ {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(v)
		case unix.RTA_GATEWAY:
			via, _ = netip.AddrFromSlice(v)
		case unix.RTA_OIF:
			dev = links[int(number)]
		case unix.RTA_PRIORITY:
			e.Metric = int(number)
		case unix.RTA_TABLE:
			table = number
		case unix.RTA_MULTIPATH:
			oddity = "multipath"
		case unix.RTA_ENCAP:
			oddity = "encap"
		case unix.RTA_VIA:
			oddity = "via the other family"
		}
	}
	if table != unix.RT_TABLE_MAIN || flags&unix.RTM_F_CLONED != 0 {
		return Entry{}, false, nil
	}
	e.Dst, err = dst.Prefix(int(dstBits))
	if err != nil || !e.Dst.IsValid() || dst.Is4() != (family == unix.AF_INET) {
		return Entry{}, false, fmt.Errorf("route to %v/%d in family %d", dst, dstBits, family)
	}
	e.Owner = owner(protocol)
	if oddity != "" {
		e.Owner += " (" + oddity + ")"
		return e, true, nil
	}
	e.Via, e.Dev = via, dev
	// A row with another metric than ours was made, or changed, by somebody else, whatever its protocol says.
	e.Marked = protocol == mark && e.Metric == metric(e.Dst)
	return e, true, nil
}

// owner is the name that `ip route` shows as proto; `ip route add` by hand is "boot".
func owner(protocol uint8) string {
	name := netlink.RouteProtocol(protocol).String()
	if _, err := strconv.Atoi(name); err == nil {
		name = "protocol " + name
	}
	if protocol == mark {
		name += ", fairlead's mark"
	}
	return name
}

func add(r Route) error {
	row, err := request(r)
	if err != nil {
		return explain(r, err)
	}
	return explain(r, netlink.RouteAdd(row)) // NLM_F_EXCL; RouteReplace would overwrite a foreign row
}

func remove(r Route) error {
	row, err := request(r)
	if errors.Is(err, unix.ENODEV) {
		return nil // rows go with their link
	}
	if err != nil {
		return explain(r, err)
	}
	if !r.Via.IsValid() && r.Dst.Addr().Is6() {
		row.Gw = net.IPv6unspecified // without a gateway in the request the kernel takes a row with any
	}
	if err := netlink.RouteDel(row); !errors.Is(err, unix.ESRCH) {
		return explain(r, err)
	}
	return nil
}

// request is r as the kernel is to make it, and to find it again: a deletion matches every field that is set, so that
// a row of another protocol, gateway, link or scope is not taken for ours.
func request(r Route) (*netlink.Route, error) {
	r, ok := r.canonical()
	if !ok {
		return nil, unix.EINVAL
	}
	link, err := netlink.LinkByName(r.Dev)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		return nil, unix.ENODEV
	}
	if err != nil {
		return nil, err
	}
	// The kernel finds alternative names too, but shows rows under the first name only: we would not know ours again.
	if name := link.Attrs().Name; name != r.Dev {
		return nil, fmt.Errorf("%s is another name of link %s: use that", r.Dev, name)
	}
	row := &netlink.Route{
		Dst:       &net.IPNet{IP: r.Dst.Addr().AsSlice(), Mask: net.CIDRMask(r.Dst.Bits(), r.Dst.Addr().BitLen())},
		LinkIndex: link.Attrs().Index,
		Scope:     netlink.SCOPE_LINK,
		Protocol:  mark,
		Priority:  metric(r.Dst),
		Table:     unix.RT_TABLE_MAIN,
	}
	if r.Via.IsValid() {
		row.Gw, row.Scope = r.Via.AsSlice(), netlink.SCOPE_UNIVERSE
	}
	return row, nil
}

// explain says for people what the kernel means by err; errors.Is still finds the errno.
func explain(r Route, err error) error {
	switch {
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("somebody's row for this destination is there and stays: %w", err)
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH): // IPv4, IPv6
		return fmt.Errorf("gateway %v is not on-link at %s: %w", r.Via, r.Dev, err)
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("link %s is gone: %w", r.Dev, err)
	case errors.Is(err, unix.ENETDOWN):
		return fmt.Errorf("link %s is down: %w", r.Dev, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("changing routes needs root (CAP_NET_ADMIN): %w", err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("the kernel finds no sense in it (is the gateway this host itself?): %w", err)
	}
	return err
}
