package tunnel

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
)

// On the host a packet of 64 KB crosses the tunnel as one; on the VM's side the kernel cuts and joins TCP segments for
// networks of 1500 bytes, as it does for a network card with segmentation offload. This file speaks the language of such
// cards: the header before each packet of a TUN device with IFF_VNET_HDR (virtio 1.3, 5.1.6, in the CPU's byte order).

const (
	vnetLen = 10

	vnetNeedsSum = 1 // flags: the transport checksum holds only the sum of the pseudo-header

	vnetTCP4 = 1 // kinds of segmentation
	vnetTCP6 = 4
	vnetECN  = 0x80
)

type vnetHeader struct {
	flags, gso        byte
	headers, segment  uint16 // bytes of all headers, and of payload in each segment
	sumStart, sumHere uint16 // what is summed from, and where in it the checksum is
}

func (v vnetHeader) put(b []byte) {
	b[0], b[1] = v.flags, v.gso
	binary.NativeEndian.PutUint16(b[2:], v.headers)
	binary.NativeEndian.PutUint16(b[4:], v.segment)
	binary.NativeEndian.PutUint16(b[6:], v.sumStart)
	binary.NativeEndian.PutUint16(b[8:], v.sumHere)
}

func getVnet(b []byte) vnetHeader {
	return vnetHeader{b[0], b[1], binary.NativeEndian.Uint16(b[2:]), binary.NativeEndian.Uint16(b[4:]),
		binary.NativeEndian.Uint16(b[6:]), binary.NativeEndian.Uint16(b[8:])}
}

// networkMTU is what container networks have where nothing else is known.
const networkMTU = 1500

// segmenter turns packets of the host's size into those of container networks, and back.
type segmenter struct {
	mss mssTable
	id  uint16
}

// mssTable remembers the segment size of containers, as their SYNs said before they were raised. It is bounded: who shares
// a place with a newer one is forgotten. For one writer and any readers.
type mssTable [4096]atomic.Uint64

func (m *mssTable) place(a netip.Addr) (*atomic.Uint64, uint64) {
	hash := uint64(14695981039346656037) // FNV-1a
	for _, b := range a.As16() {
		hash = (hash ^ uint64(b)) * 1099511628211
	}
	return &m[hash%uint64(len(m))], hash &^ 0xffff
}

func (m *mssTable) put(a netip.Addr, mss uint16) {
	at, tag := m.place(a)
	at.Store(tag | uint64(mss))
}

// get is 0 for who is not known.
func (m *mssTable) get(a netip.Addr) int {
	at, tag := m.place(a)
	if v := at.Load(); v&^0xffff == tag {
		return int(v & 0xffff)
	}
	return 0
}

// fromHost prepares p, a packet from the host, for the VM's kernel: large TCP segments to be cut, large UDP datagrams to be
// fragmented. partial: it is unsummed. It is called by one goroutine.
func (s *segmenter) fromHost(p []byte, h header, partial bool) (v vnetHeader) {
	if t := h.tcpHeader(p); t != nil {
		base := 60
		v.gso = vnetTCP6
		if h.dst.Is4() {
			v.gso, base = vnetTCP4, 40
		}
		mss := networkMTU - base
		if known := s.mss.get(h.dst); known != 0 {
			mss = known
		}
		payload := len(p) - h.len - len(t)
		segment := mss - (len(t) - 20)
		if payload <= segment || segment <= 0 {
			return h.vnet(p, partial)
		}
		if t[13]&0x80 != 0 { // CWR: only the first segment is to bear it
			v.gso |= vnetECN
		}
		v.flags = vnetNeedsSum
		v.headers, v.segment = uint16(h.len+len(t)), uint16(segment)
		v.sumStart, v.sumHere = uint16(h.len), 16
		if !partial {
			binary.BigEndian.PutUint16(t[16:], fold(h.pseudoSum(p)))
		}
		return v
	}
	if len(p) > networkMTU && h.protocol == protocolUDP && h.dst.Is4() && p[6]&0x40 != 0 {
		// The host's don't-fragment is about a path of 64 KB packets, which the networks behind us are not. Without it
		// the packet needs an id.
		s.id++
		p[6] &^= 0x40
		binary.BigEndian.PutUint16(p[4:], s.id)
		p[10], p[11] = 0, 0
		sumHeader(p[:h.len])
	}
	return h.vnet(p, partial)
}

// vnet is the header of a packet that is not to be cut.
func (h header) vnet(p []byte, partial bool) (v vnetHeader) {
	if at := h.sumAt(p); partial && at > 0 {
		v.flags, v.sumStart, v.sumHere = vnetNeedsSum, uint16(h.len), uint16(at)
	}
	return v
}

// toHost prepares p, a packet that a kernel gave us with v, for the other side: its checksum is completed unless partial
// says that it may stay as it is, and the host may send segments as large as mtu; 0 leaves it to what the container said. It
// is called by one goroutine. unsummed tells whether the checksum stayed, ok is false when v makes no sense.
func (s *segmenter) toHost(p []byte, v vnetHeader, mtu int, partial bool) (unsummed, ok bool) {
	h, ok := parse(p)
	if !ok {
		return false, false
	}
	if t := h.tcpHeader(p); mtu > 0 && t != nil && t[13]&0x02 != 0 {
		base := 60
		if h.src.Is4() {
			base = 40
		}
		if old := raiseMSS(t, uint16(mtu-base), v.flags&vnetNeedsSum != 0); old != 0 {
			s.mss.put(h.src, old)
		}
	}
	if v.flags&vnetNeedsSum == 0 {
		return false, true
	}
	if start, at := int(v.sumStart), int(v.sumHere); start < h.len {
		return false, false
	} else if partial && start == h.len && at == h.sumAt(p) && at > 0 {
		return true, true
	} else {
		return false, complete(p, start, start+at, h.protocol)
	}
}

// raiseMSS puts to into the MSS option of a TCP header with SYN, if what is there is smaller, and returns what was there; 0
// when nothing was done. The checksum is kept right (RFC 1624), unless it is yet to be made.
func raiseMSS(t []byte, to uint16, unsummed bool) (old uint16) {
	const (
		end, nop, mss = 0, 1, 2 // kinds of options
		least         = 88      // as Linux: less is an attack on somebody's CPU
	)
	for i := 20; i < len(t); {
		if t[i] == end {
			return 0
		}
		if t[i] == nop {
			i++
			continue
		}
		if i+1 >= len(t) || t[i+1] < 2 || i+int(t[i+1]) > len(t) {
			return 0
		}
		if t[i] != mss || t[i+1] != 4 {
			i += int(t[i+1])
			continue
		}
		value := t[i+2 : i+4]
		old = binary.BigEndian.Uint16(value)
		if old < least || old >= to {
			return 0
		}
		binary.BigEndian.PutUint16(value, to)
		if !unsummed {
			was, is := old, to
			if i%2 != 0 { // the value lies across two words of the sum
				was, is = was>>8|was<<8, is>>8|is<<8
			}
			check := t[16:18]
			c := uint64(^binary.BigEndian.Uint16(check)) + uint64(^was) + uint64(is)
			binary.BigEndian.PutUint16(check, ^fold(c))
		}
		return old
	}
	return 0
}
