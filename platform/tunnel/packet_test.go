package tunnel

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

// slowSum is RFC 1071 word by word.
func slowSum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		if s += w; s > 0xffff {
			s -= 0xffff
		}
	}
	return uint16(s)
}

func TestSum(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for n := range 400 {
		b := make([]byte, n)
		for i := range b {
			if b[i] = byte(rnd.Uint32()); n%3 == 0 {
				b[i] = 0xff
			}
		}
		if got, want := fold(sum(b, 0)), slowSum(b); got%0xffff != want%0xffff {
			t.Errorf("sum of %x = %#x, want %#x", b, got, want)
		}
	}
}

// tcp builds a packet with right checksums.
func tcp(src, dst string, flags byte, options, payload []byte) []byte {
	t := make([]byte, 20, 20+len(options)+len(payload))
	binary.BigEndian.PutUint16(t, 1234)
	binary.BigEndian.PutUint16(t[2:], 80)
	t[12], t[13] = byte((20+len(options))/4)<<4, flags
	t = append(append(t, options...), payload...)
	return sealed(ip(src, dst, protocolTCP, t), 16)
}

func udp(src, dst string, payload []byte) []byte {
	u := binary.BigEndian.AppendUint16(nil, 1234)
	u = binary.BigEndian.AppendUint16(u, 7)
	u = binary.BigEndian.AppendUint16(u, uint16(8+len(payload)))
	u = append(append(u, 0, 0), payload...)
	return sealed(ip(src, dst, protocolUDP, u), 6)
}

func ping4(src, dst string) []byte {
	return sealed(ip(src, dst, 1, []byte{8, 0, 0, 0, 0, 1, 0, 1}), -1)
}

func ip(src, dst string, protocol byte, payload []byte) []byte {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	var p []byte
	if s.Is4() {
		p = make([]byte, 12)
		p[0], p[6], p[8], p[9] = 0x45, 0x40, 64, protocol
		binary.BigEndian.PutUint16(p[2:], uint16(20+len(payload)))
		p = append(append(p, s.AsSlice()...), d.AsSlice()...)
		binary.BigEndian.PutUint16(p[10:], ^slowSum(p))
	} else {
		p = make([]byte, 8)
		p[0], p[6], p[7] = 0x60, protocol, 64
		binary.BigEndian.PutUint16(p[4:], uint16(len(payload)))
		p = append(append(p, s.AsSlice()...), d.AsSlice()...)
	}
	return append(p, payload...)
}

// sealed puts the checksum of the payload at that place in it; -1 is ICMP's, without pseudo-header.
func sealed(p []byte, at int) []byte {
	if at < 0 {
		binary.BigEndian.PutUint16(p[22:], ^slowSum(p[20:]))
		return p
	}
	n := 20
	if p[0]>>4 == 6 {
		n = 40
	}
	binary.BigEndian.PutUint16(p[n+at:], 0)
	binary.BigEndian.PutUint16(p[n+at:], ^transportSum(p))
	return p
}

// transportSum is 0xffff where TCP's or UDP's checksum is right.
func transportSum(p []byte) uint16 {
	n, addrs, protocol := 20, p[12:20], p[9]
	if p[0]>>4 == 6 {
		n, addrs, protocol = 40, p[8:40], p[6]
	}
	pseudo := append(bytes.Clone(addrs), 0, 0, byte((len(p)-n)>>8), byte(len(p)-n), 0, protocol)
	return slowSum(append(pseudo, p[n:]...))
}

var (
	mss1460   = []byte{2, 4, 0x05, 0xb4}
	someSACK  = []byte{4, 2}
	timestamp = []byte{8, 10, 1, 2, 3, 4, 5, 6, 7, 8}
)

func join(b ...[]byte) []byte { return bytes.Join(b, nil) }

func TestParse(t *testing.T) {
	good := udp("10.0.0.1", "10.0.0.2", []byte("hello"))
	good6 := udp("fd00::1", "fd00::2", []byte("hello"))
	for _, c := range []struct {
		name string
		p    []byte
		ok   bool
	}{
		{"v4", good, true},
		{"v6", good6, true},
		{"empty", nil, false},
		{"cut", good[:len(good)-1], false},
		{"cut in the header", good[:19], false},
		{"cut v6", good6[:39], false},
		{"more behind it", append(bytes.Clone(good), 0), false},
		{"more behind v6", append(bytes.Clone(good6), 0), false},
		{"version 5", append([]byte{0x55}, good[1:]...), false},
		{"short header", append([]byte{0x44}, good[1:]...), false},
		{"long header", append([]byte{0x4f}, good[1:]...), false},
		{"not ip", []byte(strings.Repeat("x", 60)), false},
	} {
		if h, ok := parse(c.p); ok != c.ok {
			t.Errorf("%s: parse = %+v, %v", c.name, h, ok)
		}
	}
}

func TestWhatMayPass(t *testing.T) {
	l := Link{Host: []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")}}
	for _, c := range []struct {
		src, dst     string
		toVM, toHost bool
	}{
		{"10.9.0.1", "172.17.0.2", true, false},
		{"172.17.0.2", "10.9.0.1", false, true},
		{"fd09::1", "fd17::2", true, false},
		{"fd17::2", "fd09::1", false, true},
		{"10.9.0.3", "172.17.0.2", false, false},
		{"172.17.0.2", "192.168.1.1", false, false}, // another address of the host
		{"10.9.0.1", "10.9.0.1", false, false},
		{"fd09::1", "fd09::1", false, false},
		{"127.0.0.1", "10.9.0.1", false, false},
		{"::1", "fd09::1", false, false},
		{"224.0.0.1", "10.9.0.1", false, false},
		{"ff02::1", "fd09::1", false, false},
		{"fe80::1", "fd09::1", false, false},
		{"0.0.0.0", "10.9.0.1", false, false},
		{"255.255.255.255", "10.9.0.1", false, false},
		{"::ffff:10.0.0.1", "fd09::1", false, false},
		{"10.9.0.1", "255.255.255.255", false, false},
		{"10.9.0.1", "127.0.0.1", false, false},
		{"fd09::1", "ff02::2", false, false},
		{"fd09::1", "::ffff:10.0.0.1", false, false},
	} {
		h := header{src: netip.MustParseAddr(c.src), dst: netip.MustParseAddr(c.dst)}
		if v, o := l.toVM(h), l.toHost(h); v != c.toVM || o != c.toHost {
			t.Errorf("%s to %s: toVM %v, toHost %v", c.src, c.dst, v, o)
		}
	}
}

func TestRaiseMSS(t *testing.T) {
	for _, c := range []struct {
		name          string
		flags         byte
		options       []byte
		want4, want6  []byte // the options afterwards
		known4, knew6 int
	}{
		{"syn", 2, mss1460, []byte{2, 4, 0xff, 0xd7}, []byte{2, 4, 0xff, 0xc3}, 1460, 1460},
		{"syn ack", 0x12, join(mss1460, someSACK, timestamp), join([]byte{2, 4, 0xff, 0xd7}, someSACK, timestamp), join([]byte{2, 4, 0xff, 0xc3}, someSACK, timestamp), 1460, 1460},
		{"after others", 2, join(someSACK, timestamp, mss1460), join(someSACK, timestamp, []byte{2, 4, 0xff, 0xd7}), join(someSACK, timestamp, []byte{2, 4, 0xff, 0xc3}), 1460, 1460},
		{"at an odd place", 2, join([]byte{1}, mss1460, []byte{1, 1, 0}), []byte{1, 2, 4, 0xff, 0xd7, 1, 1, 0}, []byte{1, 2, 4, 0xff, 0xc3, 1, 1, 0}, 1460, 1460},
		{"no syn", 0x10, mss1460, mss1460, mss1460, 0, 0},
		{"none", 2, []byte{1, 1, 1, 0}, []byte{1, 1, 1, 0}, []byte{1, 1, 1, 0}, 0, 0},
		{"behind the end", 2, join([]byte{0, 0, 0, 0}, mss1460), join([]byte{0, 0, 0, 0}, mss1460), join([]byte{0, 0, 0, 0}, mss1460), 0, 0},
		{"tiny", 2, []byte{2, 4, 0, 10}, []byte{2, 4, 0, 10}, []byte{2, 4, 0, 10}, 0, 0},
		{"larger already", 2, []byte{2, 4, 0xff, 0xff}, []byte{2, 4, 0xff, 0xff}, []byte{2, 4, 0xff, 0xff}, 0, 0},
		{"bad length", 2, []byte{2, 3, 5, 0xb4}, []byte{2, 3, 5, 0xb4}, []byte{2, 3, 5, 0xb4}, 0, 0},
		{"length 0", 2, []byte{3, 0, 5, 0xb4}, []byte{3, 0, 5, 0xb4}, []byte{3, 0, 5, 0xb4}, 0, 0},
		{"beyond the header", 2, []byte{1, 1, 1, 2}, []byte{1, 1, 1, 2}, []byte{1, 1, 1, 2}, 0, 0},
	} {
		for _, ends := range [][2]string{{"172.17.0.2", "10.9.0.1"}, {"fd17::2", "fd09::1"}} {
			want, known := c.want4, c.known4
			if ends[0] == "fd17::2" {
				want, known = c.want6, c.knew6
			}
			for _, unsummed := range []bool{false, true} {
				p := tcp(ends[0], ends[1], c.flags, c.options, []byte("data"))
				h, _ := parse(p)
				var v vnetHeader
				if unsummed {
					v = vnetHeader{flags: vnetNeedsSum, sumStart: uint16(h.len), sumHere: 16}
					binary.BigEndian.PutUint16(p[h.len+16:], fold(h.pseudoSum(p)))
				}
				var s segmenter
				if _, ok := s.toHost(p, v, maxPacket, false); !ok {
					t.Errorf("%s: refused", c.name)
				}
				if got := p[h.len+20:][:len(want)]; !bytes.Equal(got, want) {
					t.Errorf("%s from %s: options %x, want %x", c.name, ends[0], got, want)
				}
				if got := transportSum(p); got != 0xffff {
					t.Errorf("%s from %s, unsummed %v: the checksum is wrong by %#x", c.name, ends[0], unsummed, got)
				}
				if got := s.mss.get(h.src); got != known {
					t.Errorf("%s: learned %d, want %d", c.name, got, known)
				}
			}
		}
	}
}

func TestFromHost(t *testing.T) {
	big := make([]byte, 60000)
	for _, c := range []struct {
		name string
		p    []byte
		want vnetHeader
	}{
		{"small", tcp("10.9.0.1", "172.17.0.2", 0x10, nil, big[:100]), vnetHeader{}},
		{"just fits", tcp("10.9.0.1", "172.17.0.2", 0x10, nil, big[:1460]), vnetHeader{}},
		{"just not", tcp("10.9.0.1", "172.17.0.2", 0x10, nil, big[:1461]), vnetHeader{1, 1, 40, 1460, 20, 16}},
		{"with options", tcp("10.9.0.1", "172.17.0.2", 0x10, join([]byte{1, 1}, timestamp), big), vnetHeader{1, 1, 52, 1448, 20, 16}},
		{"v6", tcp("fd09::1", "fd17::2", 0x10, nil, big), vnetHeader{1, 4, 60, 1440, 40, 16}},
		{"ecn", tcp("10.9.0.1", "172.17.0.2", 0x90, nil, big), vnetHeader{1, 0x81, 40, 1460, 20, 16}},
		{"small network", tcp("10.9.0.1", "172.18.0.2", 0x10, nil, big[:1000]), vnetHeader{1, 1, 40, 500, 20, 16}},
		{"udp", udp("fd09::1", "fd17::2", big), vnetHeader{}},
	} {
		var s segmenter
		s.mss.put(netip.MustParseAddr("172.18.0.2"), 500)
		p := bytes.Clone(c.p)
		h, ok := parse(p)
		if !ok {
			t.Fatalf("%s: bad test", c.name)
		}
		v := s.fromHost(p, h, false)
		if v != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, v, c.want)
		}
		if v.flags != 0 { // as the kernel completes it
			binary.BigEndian.PutUint16(p[h.len+16:], ^fold(sum(p[h.len:], 0)))
		}
		if !bytes.Equal(p, c.p) {
			t.Errorf("%s: changed otherwise:\n%s", c.name, hex.Dump(p[:80]))
		}
	}
}

func TestLargeDatagramsMayBeCut(t *testing.T) {
	var s segmenter
	ids := make(map[uint16]bool)
	for range 3 {
		p := udp("10.9.0.1", "172.17.0.2", make([]byte, 2000))
		h, _ := parse(p)
		if v := s.fromHost(p, h, false); v != (vnetHeader{}) {
			t.Errorf("segmented: %+v", v)
		}
		if p[6] != 0 || slowSum(p[:20]) != 0xffff {
			t.Errorf("header %x", p[:20])
		}
		ids[binary.BigEndian.Uint16(p[4:])] = true
	}
	if len(ids) != 3 {
		t.Errorf("ids %v repeat", ids)
	}
}

func TestAZeroUDPSumIsNotNone(t *testing.T) {
	// Payload chosen so that the sum over it is all ones: the checksum would come out as 0.
	p := udp("172.17.0.2", "10.9.0.1", []byte{0, 0})
	copy(p[28:], []byte{p[26], p[27]})
	h, _ := parse(p)
	binary.BigEndian.PutUint16(p[26:], fold(h.pseudoSum(p)))
	if _, ok := new(segmenter).toHost(p, vnetHeader{flags: vnetNeedsSum, sumStart: 20, sumHere: 6}, maxPacket, false); !ok {
		t.Fatal("refused")
	}
	if got := binary.BigEndian.Uint16(p[26:]); got != 0xffff {
		t.Errorf("checksum %#x, want 0xffff", got)
	}
}

// TestUnsummedPackets go through one end as they are, and are completed where they have to be.
func TestUnsummedPackets(t *testing.T) {
	for name, whole := range map[string][]byte{
		"tcp":     tcp("172.17.0.2", "10.9.0.1", 0x10, nil, []byte("hello")),
		"tcp six": tcp("fd17::2", "fd09::1", 0x10, timestamp[:8], make([]byte, 3000)),
		"udp":     udp("172.17.0.2", "10.9.0.1", []byte("hello")),
		"udp six": udp("fd17::2", "fd09::1", make([]byte, 30000)),
	} {
		p := bytes.Clone(whole)
		h, _ := parse(p)
		binary.BigEndian.PutUint16(p[h.len+h.sumAt(p):], fold(h.pseudoSum(p)))
		begun := bytes.Clone(p)
		v := vnetHeader{flags: vnetNeedsSum, sumStart: uint16(h.len), sumHere: uint16(h.sumAt(p))}
		var s segmenter
		if partial, ok := s.toHost(p, v, maxPacket, true); !partial || !ok || !bytes.Equal(p, begun) {
			t.Errorf("%s: partial %v, ok %v", name, partial, ok)
		}
		if got := h.vnet(p, true); got != v {
			t.Errorf("%s: %+v, want %+v", name, got, v)
		}
		if got := s.fromHost(p, h, true); got.sumStart != v.sumStart || got.sumHere != v.sumHere || got.flags != v.flags || !bytes.Equal(p, begun) {
			t.Errorf("%s: %+v, want %+v", name, got, v)
		}
		if got := h.vnet(p, false); got != (vnetHeader{}) {
			t.Errorf("%s, summed: %+v", name, got)
		}
		if !h.complete(p) || !bytes.Equal(p, whole) {
			t.Errorf("%s: completed wrong", name)
		}
		if partial, ok := s.toHost(begun, v, maxPacket, false); partial || !ok || !bytes.Equal(begun, whole) {
			t.Errorf("%s: partial %v, ok %v, or completed wrong", name, partial, ok)
		}
	}
	for name, p := range map[string][]byte{"ping": ping4("172.17.0.2", "10.9.0.1"), "cut": ip("172.17.0.2", "10.9.0.1", protocolTCP, make([]byte, 19))} {
		if h, ok := parse(p); !ok || h.complete(p) || h.vnet(p, true) != (vnetHeader{}) {
			t.Errorf("%s has a checksum that may be left to others", name)
		}
	}
}

func FuzzSegmenter(f *testing.F) {
	f.Add(tcp("172.17.0.2", "10.9.0.1", 2, mss1460, nil), []byte{1, 0, 0, 0, 0, 0, 20, 0, 16, 0})
	f.Add(tcp("fd17::2", "fd09::1", 0x12, join([]byte{1}, mss1460, []byte{1, 1, 0}), nil), []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add(tcp("10.9.0.1", "172.17.0.2", 0x10, nil, make([]byte, 3000)), []byte{1, 1, 40, 0, 0xb4, 5, 20, 0, 16, 0})
	f.Fuzz(func(t *testing.T, p, head []byte) {
		if len(head) < vnetLen {
			return
		}
		v := getVnet(head)
		var back [vnetLen]byte
		if v.put(back[:]); !bytes.Equal(back[:], head[:vnetLen]) {
			t.Fatalf("%x came back as %x", head[:vnetLen], back)
		}
		var s segmenter
		out := bytes.Clone(p)
		h, ok := parse(out)
		if partial, took := s.toHost(bytes.Clone(p), v, maxPacket, true); partial && (!took || h.sumAt(p) == 0) {
			t.Fatalf("partial: %x", p)
		}
		if partial, took := s.toHost(out, v, maxPacket, false); partial || took && !ok {
			t.Fatalf("took %x", p)
		}
		// Without a checksum to complete, what was right stays right and what was wrong stays wrong.
		if tcp := h.tcpHeader(p); ok && tcp != nil && v.flags&vnetNeedsSum == 0 && transportSum(out)%0xffff != transportSum(p)%0xffff {
			t.Fatalf("the checksum of %x was off by %#x, then by %#x", p, transportSum(p), transportSum(out))
		}
		if !ok {
			return
		}
		in := bytes.Clone(p)
		h.complete(bytes.Clone(p))
		h.flow(p)
		if v := s.fromHost(in, h, len(head)%2 == 0); v.gso != 0 && (int(v.headers) > len(in) || v.segment == 0 || int(v.sumStart)+int(v.sumHere)+2 > len(in)) {
			t.Fatalf("%+v for %x", v, p)
		}
	})
}

func FuzzPackets(f *testing.F) {
	one := ping4("10.9.0.1", "172.17.0.2")
	f.Add(append(append([]byte{0, 0, 0, byte(len(one))}, one...), 0, 0, 0, 1, 9))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		var back []byte
		whole := packets(append(make([]byte, headroom), in...), headroom, func(b []byte, at int, partial bool) {
			if at < headroom || at >= len(b) {
				t.Fatalf("a packet at %d of %d", at, len(b))
			}
			length := uint32(len(b) - at)
			if partial {
				length |= unsummed
			}
			back = binary.BigEndian.AppendUint32(back, length)
			back = append(back, b[at:]...)
			clear(b[at-headroom+lengthLen : at]) // free to use
		})
		if whole != bytes.Equal(back, in) || !bytes.HasPrefix(in, back) {
			t.Fatalf("%x was read as %x, whole %v", in, back, whole)
		}
	})
}

func TestDarwinRequests(t *testing.T) {
	v4 := ifAliasReq("utun4", netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2"))
	want := "7574756e340000000000000000000000" + "100200000a0900010000000000000000" + "100200000a0900020000000000000000" + "10020000ffffffff0000000000000000"
	if got := hex.EncodeToString(v4[:]); got != want {
		t.Errorf("ifaliasreq\n%s, want\n%s", got, want)
	}
	v6 := in6AliasReq("utun4", netip.MustParseAddr("fd09::1"), netip.MustParseAddr("fd09::2"))
	want = "7574756e340000000000000000000000" +
		"1c1e000000000000fd09000000000000000000000000000100000000" +
		"1c1e000000000000fd09000000000000000000000000000200000000" +
		"1c1e000000000000ffffffffffffffffffffffffffffffff00000000" +
		"00000000" + "00000000000000000000000000000000" + "ffffffffffffffff"
	if got := hex.EncodeToString(v6[:]); got != want {
		t.Errorf("in6_aliasreq\n%s, want\n%s", got, want)
	}
}
