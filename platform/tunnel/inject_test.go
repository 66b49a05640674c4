package tunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
)

// datagram makes an IPv4 packet with that many bytes of noise, don't-fragment set.
func datagram(size int) []byte {
	p := make([]byte, 20+size)
	p[0], p[6], p[8], p[9] = 0x45, 0x40, 64, protocolUDP
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:], []byte{10, 9, 0, 1, 172, 30, 0, 2})
	copy(p[20:], someNoise4[:size])
	return p
}

var someNoise4 = func() []byte {
	b := make([]byte, maxPacket)
	for i := range b {
		b[i] = byte(i * i / 7)
	}
	return b
}()

// fragmented cuts p and checks the pieces, and returns the payload that they carry.
func fragmented(t *testing.T, p []byte, mtu int) ([]byte, int) {
	t.Helper()
	h, ok := parse(p)
	if !ok {
		t.Fatal("not a packet")
	}
	was := binary.BigEndian.Uint16(p[6:])
	whole := make([]byte, len(p)-h.len)
	end, pieces := 0, 0
	err := fragments(p, h, 7, mtu, func(f []byte) error {
		g, ok := parse(f)
		if !ok || len(f) > mtu || g.src != h.src || g.dst != h.dst || g.protocol != h.protocol {
			t.Fatalf("piece %d of %d bytes: %+v, %v", pieces, len(f), g, ok)
		}
		if fold(sum(f[:g.len], 0)) != 0xffff {
			t.Errorf("piece %d: wrong checksum", pieces)
		}
		flags := binary.BigEndian.Uint16(f[6:])
		at := int(flags&0x1fff-was&0x1fff) * 8
		if at != end || flags&0x4000 != 0 {
			t.Fatalf("piece %d lies at %d after %d, flags %x", pieces, at, end, flags)
		}
		end += copy(whole[at:], f[g.len:])
		if more := flags&0x2000 != 0; more != (end < len(whole) || was&0x2000 != 0) {
			t.Errorf("piece %d: more is %v", pieces, more)
		}
		pieces++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return whole[:end], pieces
}

func TestFragments(t *testing.T) {
	for _, c := range []struct{ size, mtu, pieces int }{
		{1480, 1500, 1}, {1481, 1500, 2}, {60000, 1500, 41}, {60000, 1400, 44}, {65515, 576, 119}, {9, 28, 2},
	} {
		p := datagram(c.size)
		got, pieces := fragmented(t, p, c.mtu)
		if !bytes.Equal(got, p[20:]) || pieces != c.pieces {
			t.Errorf("%d bytes by %d: %d pieces, and they are the same: %v", c.size, c.mtu, pieces, bytes.Equal(got, p[20:]))
		}
	}
	p := datagram(3000) // a fragment itself, with more to come
	binary.BigEndian.PutUint16(p[6:], 0x2000|100)
	fragmented(t, p, 1500)
	if err := fragments(p, header{len: 20}, 1, 27, nil); !errors.Is(err, errTooBig) {
		t.Errorf("by 27 bytes: %v", err)
	}
}

func FuzzFragments(f *testing.F) {
	f.Add(datagram(3000), 1500)
	f.Add(datagram(100), 28)
	f.Fuzz(func(t *testing.T, p []byte, mtu int) {
		h, ok := parse(p)
		if !ok || !h.dst.Is4() || mtu < h.len+8 || mtu > maxPacket || int(binary.BigEndian.Uint16(p[6:])&0x1fff)*8+len(p) > maxPacket {
			return
		}
		p[6] &^= 0x40
		if got, _ := fragmented(t, p, mtu); !bytes.Equal(got, p[h.len:]) {
			t.Error("other bytes came out")
		}
	})
}

func TestTooBig(t *testing.T) {
	four := datagram(3000)
	six := message(netip.MustParseAddr("fd09::1"), netip.MustParseAddr("fd30::2"), make([]byte, 3000))
	for _, c := range []struct {
		p    []byte
		from string
		kind []byte
		mtu  uint16
		len  int
	}{
		{four, "10.9.0.2", []byte{3, 4}, 1500, 56},
		{six, "fd09::2", []byte{2, 0}, 1400, minMTU},
	} {
		h, _ := parse(c.p)
		m := tooBig(c.p, h, netip.MustParseAddr(c.from), int(c.mtu))
		g, ok := parse(m)
		if !ok || g.dst != h.src || g.src.String() != c.from || len(m) != c.len {
			t.Fatalf("%+v of %d bytes", g, len(m))
		}
		icmp := m[g.len:]
		if !bytes.HasPrefix(icmp, c.kind) || binary.BigEndian.Uint16(icmp[6:]) != c.mtu || !bytes.HasPrefix(c.p, icmp[8:]) {
			t.Errorf("message % x", icmp[:16])
		}
		check := sum(icmp, 0)
		if h.src.Is6() {
			check = sum(icmp, g.pseudoSum(m))
		}
		if fold(check) != 0xffff {
			t.Errorf("wrong checksum of %v", c.kind)
		}
	}
}

// answerTo turns a question into what a container answers.
func answerTo(q []byte) []byte {
	h, _ := parse(q)
	icmp := bytes.Clone(q[h.len:])
	if icmp[0] = 0; h.src.Is6() {
		icmp[0] = 129
	}
	return message(h.dst, h.src, icmp)
}

func TestProver(t *testing.T) { synctest.Test(t, testProver) } // silence takes no time there

func testProver(t *testing.T) {
	p := newProver(someLink)
	refused := errors.New("refused")
	alive := addrs("172.30.0.2", "fd30::2")
	p.send = func(q []byte) error {
		h, ok := parse(q)
		if !ok || !slices.Contains(someLink.Host, h.src) {
			t.Errorf("asked by %v", h.src)
		}
		if h.dst == netip.MustParseAddr("172.30.0.9") {
			return refused
		}
		if a := answerTo(q); slices.Contains(alive, h.dst) && !p.took(a) {
			t.Errorf("the answer of %v was not known", h.dst)
		}
		if p.took(q) {
			t.Error("a question was taken for an answer")
		}
		return nil
	}
	nets := []netip.Prefix{netip.MustParsePrefix("172.30.0.0/24"), netip.MustParsePrefix("fd30::/64")}
	for _, c := range []struct {
		name        string
		a           Admission
		open        bool
		error, hint bool
		silent      []netip.Addr
	}{
		{"all answer", Admission{Sources: someLink.Host, Subnets: nets, Probe: alive}, true, false, false, nil},
		{"one does not", Admission{Sources: someLink.Host, Subnets: nets, Probe: addrs("172.30.0.2", "172.30.0.3")}, true, false, true, addrs("172.30.0.3")},
		{"none does", Admission{Sources: someLink.Host, Subnets: nets, Probe: addrs("172.30.0.3")}, false, true, true, addrs("172.30.0.3")},
		{"may not be sent", Admission{Sources: someLink.Host, Subnets: nets, Probe: addrs("172.30.0.9")}, false, true, true, addrs("172.30.0.9")},
		{"none to ask", Admission{Sources: someLink.Host, Subnets: nets}, false, false, true, nil},
		{"not admitted", Admission{Sources: someLink.Host, Subnets: nets, Probe: addrs("172.31.0.2")}, false, false, true, nil},
		{"taken back", Admission{Subnets: nets, Probe: alive}, false, false, false, nil},
	} {
		r := p.report(c.a, Report{Rules: []string{"1"}}, nil)
		if r.Backend != "inject" || !slices.Equal(r.Rules, []string{"1"}) || r.Open != c.open || (r.Error != "") != c.error || (r.Hint != "") != c.hint || !slices.Equal(r.Silent, c.silent) {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
	if p.admits(alive[0]) || !p.admits(someLink.Pilot[0]) {
		t.Error("admitted is something else than what was asked last, and the link")
	}
	other := newProver(someLink)
	if other.took(answerTo(p.question(someLink.Host[0], alive[0]))) || other.took([]byte("junk")) {
		t.Error("another's answer was taken")
	}
}
