package routes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"strings"
)

// The messages of macOS's routing socket and of its NET_RT_DUMP sysctl (route(4); xnu bsd/net/route.h). Both of its
// architectures are little endian. golang.org/x/net/route reads the error from the wrong offset (golang/go#70593) and
// drops some messages, so this is our own.
const (
	rtmVersion = 5
	rtmHeader  = 92 // bytes of struct rt_msghdr; the addresses follow

	rtmAdd     = 0x1
	rtmDelete  = 0x2
	rtmChange  = 0x3
	rtmGet     = 0x4
	rtmNewAddr = 0xc
	rtmDelAddr = 0xd
	rtmIfInfo  = 0xe
	rtmIfInfo2 = 0x12

	rtfUp        = 0x1
	rtfGateway   = 0x2
	rtfHost      = 0x4
	rtfReject    = 0x8
	rtfDynamic   = 0x10
	rtfCloning   = 0x100
	rtfLLInfo    = 0x400
	rtfStatic    = 0x800
	rtfBlackhole = 0x1000
	rtfProto2    = 0x4000
	rtfProto1    = 0x8000
	rtfWasCloned = 0x20000
	rtfProto3    = 0x40000
	rtfLocal     = 0x200000
	rtfBroadcast = 0x400000
	rtfMulticast = 0x800000
	rtfIfScope   = 0x1000000

	rtaDst     = 0x1
	rtaGateway = 0x2
	rtaNetmask = 0x4

	afInet  = 2
	afLink  = 18
	afInet6 = 30

	// rtfOurs marks our rows: PROTO2, as PROTO3 is the kernel's own and PROTO1 that of other VPN clients. The kernel keeps the
	// flags of an add and shows them again.
	rtfOurs  = rtfStatic | rtfProto2
	rtfMarks = rtfStatic | rtfProto1 | rtfProto2 | rtfProto3
)

// rtMessage is what we say and read of a struct rt_msghdr and its addresses.
type rtMessage struct {
	Type  byte
	Flags uint32
	Pid   int32 // the asker's, set by the kernel
	Seq   int32 // the asker's
	Errno int32 // in answers
	Link  int   // index of the link by which packets leave

	Dst     netip.Prefix // invalid: of a family that is not IP
	Gateway netip.Addr   // without zone (Link says it); invalid: the link itself
	Odd     string       // what keeps this from being "to Dst by Gateway or Link", for people
}

// encode is m as a request. Type rtmGet asks how packets for Dst's address leave; the others are about exactly Dst.
func (m rtMessage) encode() []byte {
	type attribute struct {
		bit  uint32
		addr []byte
	}
	dst := m.Dst.Masked().Addr()
	attrs := []attribute{{rtaDst, sockaddrIP(dst, m.Link)}}
	if m.Type == rtmAdd {
		gateway := sockaddrLink(m.Link)
		if m.Gateway.IsValid() {
			gateway = sockaddrIP(m.Gateway, m.Link)
			m.Flags |= rtfGateway
		}
		attrs = append(attrs, attribute{rtaGateway, gateway})
	}
	switch {
	case m.Type == rtmGet: // with a netmask it would look for exactly this row
	case m.Dst.IsSingleIP():
		m.Flags |= rtfHost
	default:
		attrs = append(attrs, attribute{rtaNetmask, sockaddrIP(mask(m.Dst), 0)})
	}
	b := make([]byte, rtmHeader)
	var bitmap uint32
	for _, a := range attrs {
		bitmap |= a.bit
		b = append(b, a.addr...)
	}
	binary.LittleEndian.PutUint16(b, uint16(len(b)))
	b[2], b[3] = rtmVersion, m.Type
	binary.LittleEndian.PutUint32(b[8:], m.Flags)
	binary.LittleEndian.PutUint32(b[12:], bitmap)
	binary.LittleEndian.PutUint32(b[16:], uint32(m.Pid))
	binary.LittleEndian.PutUint32(b[20:], uint32(m.Seq))
	return b
}

// sockaddrIP is a struct sockaddr_in (16 bytes) or sockaddr_in6 (28). The kernel has the zone of a link-local address in
// the address itself (in6_embedscope).
func sockaddrIP(a netip.Addr, link int) []byte {
	if a.Is4() {
		return append(append([]byte{16, afInet, 0, 0}, a.AsSlice()...), make([]byte, 8)...)
	}
	b := append(append([]byte{28, afInet6, 0, 0, 0, 0, 0, 0}, a.AsSlice()...), 0, 0, 0, 0)
	if scoped(a) {
		binary.BigEndian.PutUint16(b[10:], uint16(link))
	}
	return b
}

// sockaddrLink is a struct sockaddr_dl without a name.
func sockaddrLink(link int) []byte {
	return binary.LittleEndian.AppendUint32([]byte{8, afLink, byte(link), byte(link >> 8)}, 0)
}

// scoped tells whether the kernel keeps a zone inside a: fe80::/10, and multicast on an interface or a link.
func scoped(a netip.Addr) bool {
	return a.Is6() && (a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || a.IsInterfaceLocalMulticast())
}

// mask is the netmask of p as an address of p's family.
func mask(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := range b {
		ones := min(max(p.Bits()-8*i, 0), 8)
		b[i] = ^byte(0xff >> ones)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

var errShort = errors.New("cut short")

// cutMessage returns the first message of b, with its length as its first two bytes say, and the rest.
func cutMessage(b []byte) (msg, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, fmt.Errorf("routing message of %d bytes: %w", len(b), errShort)
	}
	n := int(binary.LittleEndian.Uint16(b))
	if n < 4 || n > len(b) {
		return nil, nil, fmt.Errorf("routing message of %d bytes in %d: %w", n, len(b), errShort)
	}
	return b[:n], b[n:], nil
}

// decodeDump reads the rows that NET_RT_DUMP returns.
func decodeDump(b []byte) (rows []rtMessage, err error) {
	for len(b) > 0 {
		var msg []byte
		if msg, b, err = cutMessage(b); err != nil {
			return nil, err
		}
		if msg[2] != rtmVersion {
			continue // to be skipped, says route(4)
		}
		row, err := decode(msg)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// decode reads one message that has a struct rt_msghdr.
func decode(b []byte) (m rtMessage, err error) {
	if b, _, err = cutMessage(b); err != nil {
		return rtMessage{}, err
	}
	if len(b) < rtmHeader {
		return rtMessage{}, fmt.Errorf("routing message of %d bytes: %w", len(b), errShort)
	}
	m = rtMessage{
		Type:  b[3],
		Link:  int(binary.LittleEndian.Uint16(b[4:])),
		Flags: binary.LittleEndian.Uint32(b[8:]),
		Pid:   int32(binary.LittleEndian.Uint32(b[16:])),
		Seq:   int32(binary.LittleEndian.Uint32(b[20:])),
		Errno: int32(binary.LittleEndian.Uint32(b[24:])),
	}
	bitmap := binary.LittleEndian.Uint32(b[12:])
	addrs := map[uint32][]byte{}
	b = b[rtmHeader:]
	for bit := uint32(rtaDst); bit <= rtaNetmask; bit <<= 1 {
		if bitmap&bit == 0 {
			continue
		}
		if len(b) == 0 || int(b[0]) > len(b) {
			return rtMessage{}, fmt.Errorf("address %#x of a routing message: %w", bit, errShort)
		}
		n := int(b[0])
		addrs[bit] = b[:n]
		b = b[min(max((n+3)&^3, 4), len(b)):] // rounded up to 4; an empty one takes 4 bytes
	}
	m.read(addrs[rtaDst], addrs[rtaGateway], addrs[rtaNetmask])
	return m, nil
}

// read takes the addresses of a message; nil is one that it does not have.
func (m *rtMessage) read(dst, gateway, netmask []byte) {
	addr, ok := address(dst)
	if !ok {
		return
	}
	ones := addr.BitLen()
	if m.Flags&rtfHost == 0 && netmask != nil {
		var contiguous bool
		if ones, contiguous = maskBits(netmask, addr); !contiguous {
			m.Odd = "ragged netmask"
		}
	}
	m.Dst, _ = addr.Prefix(ones)
	if m.Flags&rtfGateway == 0 {
		return // the gateway is a link, or an address of this host that stands for one
	}
	if m.Gateway, ok = address(gateway); !ok || m.Gateway.Is4() != addr.Is4() {
		m.Gateway, m.Odd = netip.Addr{}, "gateway of another family"
	}
}

// address reads a sockaddr_in or sockaddr_in6. Bytes that are cut off at its end are zero.
func address(sockaddr []byte) (netip.Addr, bool) {
	if len(sockaddr) < 2 {
		return netip.Addr{}, false
	}
	var full [24]byte
	copy(full[:], sockaddr)
	switch sockaddr[1] {
	case afInet:
		return netip.AddrFrom4([4]byte(full[4:])), true
	case afInet6:
		a := netip.AddrFrom16([16]byte(full[8:]))
		if scoped(a) {
			full[10], full[11] = 0, 0
			a = netip.AddrFrom16([16]byte(full[8:]))
		}
		return a, !a.Is4In6()
	}
	return netip.Addr{}, false
}

// maskBits counts the leading ones of a netmask, whose family byte the kernel does not set and whose zeros at the end it
// cuts off. Where ones follow zeros contiguous is false.
func maskBits(sockaddr []byte, dst netip.Addr) (ones int, contiguous bool) {
	var full [24]byte
	copy(full[:], sockaddr)
	m := full[8:24]
	if dst.Is4() {
		m = full[4:8]
	}
	total, leading := 0, true
	for _, b := range m {
		total += bits.OnesCount8(b)
		if leading {
			ones += bits.LeadingZeros8(^b)
			leading = b == 0xff
		}
	}
	return ones, total == ones
}

// entry is m as List shows it. ok is false for what List leaves out: what is not IP, the kernel's rows for single neighbours
// (cloned from a wider row, or with a link-layer address), and its own local, broadcast and multicast rows.
func (m rtMessage) entry(links map[int]string) (e Entry, ok bool) {
	if !m.Dst.IsValid() || m.Flags&(rtfWasCloned|rtfLLInfo|rtfLocal|rtfBroadcast|rtfMulticast) != 0 {
		return Entry{}, false
	}
	e = Entry{Route: Route{Dst: m.Dst}, Owner: m.owner()}
	odd := m.Odd
	for _, o := range []struct {
		is   bool
		name string
	}{
		{m.Flags&rtfUp == 0, "down"}, {m.Flags&rtfReject != 0, "reject"}, {m.Flags&rtfBlackhole != 0, "blackhole"},
		{m.Flags&rtfIfScope != 0, strings.TrimSpace("for sockets bound to " + links[m.Link])},
	} {
		if o.is {
			odd = o.name
		}
	}
	if m.Flags&rtfIfScope != 0 {
		e.Metric = 1 // other sockets take it when there is nothing else
	}
	if odd != "" {
		e.Owner += " (" + odd + ")"
		return e, true
	}
	e.Via, e.Dev = m.Gateway, links[m.Link]
	e.Marked = m.Flags&rtfMarks == rtfOurs
	return e, true
}

// owner is who made the row, as far as its flags tell.
func (m rtMessage) owner() string {
	switch {
	case m.Flags&rtfMarks == rtfOurs:
		return "static, fairlead's mark"
	case m.Flags&rtfProto1 != 0:
		return "protocol 1"
	case m.Flags&rtfProto2 != 0:
		return "protocol 2"
	case m.Flags&rtfDynamic != 0:
		return "redirect"
	case m.Flags&rtfProto3 != 0, m.Flags&rtfCloning != 0: // a subnet on a link has CLONING
		return "kernel"
	case m.Flags&rtfStatic != 0:
		return "static"
	}
	return "kernel"
}

// says tells whether a message of a routing socket may mean another table, other links or other addresses. Misses, failed
// requests and rows of single neighbours, which come and go all the time, do not.
func says(b []byte) bool {
	if len(b) < 4 {
		return false
	}
	switch b[3] {
	case rtmNewAddr, rtmDelAddr, rtmIfInfo, rtmIfInfo2:
		return true
	case rtmAdd, rtmDelete, rtmChange:
		m, err := decode(b)
		return err != nil || m.Errno == 0 && m.Flags&(rtfWasCloned|rtfLLInfo) == 0
	}
	return false
}
