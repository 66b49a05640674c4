package tunnel

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// header is what we look at in an IP packet.
type header struct {
	src, dst netip.Addr
	protocol byte // of the payload; what follows IPv6 extension headers is not looked for
	len      int  // of the IP header: where the payload begins
	fragment bool
}

const (
	protocolTCP = 6
	protocolUDP = 17
)

// parse reads the IP header of a packet that came alone: its length must be exactly what the header says.
func parse(p []byte) (h header, ok bool) {
	if len(p) < 20 {
		return h, false
	}
	switch p[0] >> 4 {
	case 4:
		h.len = int(p[0]&15) * 4
		if h.len < 20 || h.len > len(p) || int(binary.BigEndian.Uint16(p[2:])) != len(p) {
			return h, false
		}
		h.protocol = p[9]
		h.fragment = binary.BigEndian.Uint16(p[6:])&0x3fff != 0
		h.src, h.dst = netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
	case 6:
		h.len = 40
		if len(p) < h.len || int(binary.BigEndian.Uint16(p[4:])) != len(p)-h.len {
			return h, false
		}
		h.protocol = p[6]
		h.src, h.dst = netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	default:
		return h, false
	}
	return h, true
}

// flow is a hash of what tells p's flow from others: addresses and protocol, and ports where all its packets bear them.
func (h header) flow(p []byte) uint32 {
	addrs := p[12:20]
	if h.dst.Is6() {
		addrs = p[8:40]
	}
	hash := uint32(2166136261) ^ uint32(h.protocol)
	for ; len(addrs) > 0; addrs = addrs[4:] {
		hash = (hash ^ binary.BigEndian.Uint32(addrs)) * 0x85ebca6b
		hash ^= hash >> 15
	}
	if (h.protocol == protocolTCP || h.protocol == protocolUDP) && !h.fragment && len(p) >= h.len+4 {
		hash = (hash ^ binary.BigEndian.Uint32(p[h.len:])) * 0x85ebca6b
		hash ^= hash >> 15
	}
	return hash
}

// sumAt is where in p's payload a TCP or UDP checksum is, 0 where there is none that may be left to others.
func (h header) sumAt(p []byte) int {
	switch {
	case h.fragment:
	case h.protocol == protocolTCP && len(p) >= h.len+20:
		return 16
	case h.protocol == protocolUDP && len(p) >= h.len+8:
		return 6
	}
	return 0
}

// complete makes the checksum of a packet that holds only the sum of the pseudo-header.
func (h header) complete(p []byte) bool {
	at := h.sumAt(p)
	return at > 0 && complete(p, h.len, h.len+at, h.protocol)
}

// complete sums p[start:], in which the checksum at p[at:] holds what else is to be summed.
func complete(p []byte, start, at int, protocol byte) bool {
	if at+2 > len(p) {
		return false
	}
	c := ^fold(sum(p[start:], 0))
	if c == 0 && protocol == protocolUDP {
		c = 0xffff // 0 means no checksum there
	}
	binary.BigEndian.PutUint16(p[at:], c)
	return true
}

// tcpHeader gives the TCP header with its options, nil when p has none that is whole.
func (h header) tcpHeader(p []byte) []byte {
	if h.protocol != protocolTCP || h.fragment || len(p) < h.len+20 {
		return nil
	}
	t := p[h.len:]
	if n := int(t[12]>>4) * 4; n >= 20 && n <= len(t) {
		return t[:n]
	}
	return nil
}

// pseudoSum is the sum of the pseudo-header that TCP and UDP checksums cover (RFC 9293 3.1, RFC 8200 8.1).
func (h header) pseudoSum(p []byte) uint64 {
	addrs := p[12:20]
	if h.dst.Is6() {
		addrs = p[8:40]
	}
	return sum(addrs, uint64(h.protocol)+uint64(len(p)-h.len))
}

// sum adds the 16-bit words of b to s, in one's complement arithmetic (RFC 1071), not yet folded to 16 bits.
func sum(b []byte, s uint64) uint64 {
	var c uint64
	for len(b) >= 64 {
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b), 0)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[8:]), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[16:]), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[24:]), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[32:]), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[40:]), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[48:]), c)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b[56:]), c)
		s, _ = bits.Add64(s, 0, c)
		b = b[64:]
	}
	for len(b) >= 8 {
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b), 0)
		s, _ = bits.Add64(s, 0, c)
		b = b[8:]
	}
	if len(b) > 0 {
		var rest [8]byte
		copy(rest[:], b)
		s, c = bits.Add64(s, binary.BigEndian.Uint64(rest[:]), 0)
		s, _ = bits.Add64(s, 0, c)
	}
	return s
}

// fold brings a sum to 16 bits; its complement is a checksum.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}
