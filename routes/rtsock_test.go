package routes

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// raw reads hex; "68*00" is that byte 68 times, blanks and "|" are for the eye.
func raw(s string) (b []byte) {
	for _, f := range strings.Fields(strings.ReplaceAll(s, "|", " ")) {
		n := 1
		if times, value, ok := strings.Cut(f, "*"); ok {
			f = value
			for n = 0; times != ""; times = times[1:] {
				n = n*10 + int(times[0]-'0')
			}
		}
		one, err := hex.DecodeString(f)
		if err != nil {
			panic(err)
		}
		for range n {
			b = append(b, one...)
		}
	}
	return b
}

// Every request that there is. Of all but the link-local gateway, whose zone it does not put into the address,
// golang.org/x/net/route's own encoder makes the same bytes (TestEncodeAgrees), with zeros at their end.
var requests = []struct {
	name string
	msg  rtMessage
	raw  string
}{
	{"add via a gateway",
		rtMessage{Type: rtmAdd, Flags: rtfUp | rtfOurs, Pid: 1234, Seq: 7, Dst: netip.MustParsePrefix("172.17.0.0/16"), Gateway: netip.MustParseAddr("192.168.105.2")},
		"8c000501 00000000 03480000 07000000 d2040000 07000000 68*00 | 10020000 ac110000 8*00 | 10020000 c0a86902 8*00 | 10020000 ffff0000 8*00"},
	{"add by a link",
		rtMessage{Type: rtmAdd, Flags: rtfUp | rtfOurs, Seq: 8, Link: 18, Dst: netip.MustParsePrefix("172.17.0.0/16")},
		"84000501 00000000 01480000 07000000 00000000 08000000 68*00 | 10020000 ac110000 8*00 | 08121200 00000000 | 10020000 ffff0000 8*00"},
	{"add a host",
		rtMessage{Type: rtmAdd, Flags: rtfUp | rtfOurs, Seq: 1, Dst: netip.MustParsePrefix("172.17.0.9/32"), Gateway: netip.MustParseAddr("192.168.105.2")},
		"7c000501 00000000 07480000 03000000 00000000 01000000 68*00 | 10020000 ac110009 8*00 | 10020000 c0a86902 8*00"},
	{"add IPv6 via a link-local gateway",
		rtMessage{Type: rtmAdd, Flags: rtfUp | rtfOurs, Seq: 1, Link: 18, Dst: netip.MustParsePrefix("fd00:1::/60"), Gateway: netip.MustParseAddr("fe80::2")},
		"b0000501 00000000 03480000 07000000 00000000 01000000 68*00 | 1c1e0000 00000000 fd000001 12*00 4*00 | " +
			"1c1e0000 00000000 fe800012 8*00 00000002 4*00 | 1c1e0000 00000000 ffffffff fffffff0 8*00 4*00"},
	{"add IPv6 by a link",
		rtMessage{Type: rtmAdd, Flags: rtfUp | rtfOurs, Seq: 2, Link: 18, Dst: netip.MustParsePrefix("fd00:1::/64")},
		"9c000501 00000000 01480000 07000000 00000000 02000000 68*00 | 1c1e0000 00000000 fd000001 12*00 4*00 | 08121200 00000000 | 1c1e0000 00000000 8*ff 8*00 4*00"},
	{"delete a host", rtMessage{Type: rtmDelete, Seq: 11, Dst: netip.MustParsePrefix("172.17.0.9/32")},
		"6c000502 00000000 04000000 01000000 00000000 0b000000 68*00 | 10020000 ac110009 8*00"},
	{"delete IPv6", rtMessage{Type: rtmDelete, Seq: 10, Dst: netip.MustParsePrefix("fd00:1::/60")},
		"94000502 00000000 00000000 05000000 00000000 0a000000 68*00 | 1c1e0000 00000000 fd000001 12*00 4*00 | 1c1e0000 00000000 ffffffff fffffff0 8*00 4*00"},
	{"ask the IPv6 way", rtMessage{Type: rtmGet, Seq: 4, Dst: netip.MustParsePrefix("fd00:1::2/128")},
		"78000504 00000000 00000000 01000000 00000000 04000000 68*00 | 1c1e0000 00000000 fd000001 8*00 00000002 4*00"},
	{"delete", rtMessage{Type: rtmDelete, Seq: 9, Dst: netip.MustParsePrefix("172.17.0.0/16")},
		"7c000502 00000000 00000000 05000000 00000000 09000000 68*00 | 10020000 ac110000 8*00 | 10020000 ffff0000 8*00"},
	{"ask the way", rtMessage{Type: rtmGet, Seq: 3, Dst: netip.MustParsePrefix("172.17.0.2/32")},
		"6c000504 00000000 00000000 01000000 00000000 03000000 68*00 | 10020000 ac110002 8*00"},
}

func TestEncode(t *testing.T) {
	for _, tt := range requests {
		if d := cmp.Diff(hex.EncodeToString(raw(tt.raw)), hex.EncodeToString(tt.msg.encode())); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
}

// rtm is a struct rt_msghdr on link 5 with addresses; flags and addrs as the kernel writes them.
func rtm(typ byte, flags, addrs, body string) string {
	b := raw(body)
	return hex.EncodeToString([]byte{byte(rtmHeader + len(b)), 0, rtmVersion, typ}) + " 05000000 " + flags + " " + addrs + " 76*00 | " + body
}

func TestEntry(t *testing.T) {
	const dst4, gw4 = "10020000 ac110000 8*00 | ", "10020000 c0a86902 8*00 | "
	links := map[int]string{5: "bridge100"}
	for _, tt := range []struct {
		name string
		raw  string
		want []Entry
	}{
		{"ours, the mask cut off after its ones", rtm(rtmGet, "43480100", "07000000", dst4+gw4+"06020000 ffff0000"),
			[]Entry{{Route: route("172.17.0.0/16 via 192.168.105.2 dev bridge100"), Marked: true, Owner: "static, fairlead's mark"}}},
		{"of a VPN with a mark of its own", rtm(rtmGet, "03c80000", "07000000", dst4+gw4+"06ff0000 ffff0000"),
			[]Entry{{Route: route("172.17.0.0/16 via 192.168.105.2 dev bridge100"), Owner: "protocol 1"}}},
		{"by hand", rtm(rtmGet, "03080000", "07000000", dst4+gw4+"06020000 ffff0000"),
			[]Entry{{Route: route("172.17.0.0/16 via 192.168.105.2 dev bridge100"), Owner: "static"}}},
		{"default", rtm(rtmGet, "03080000", "07000000", "10020000 12*00 | "+gw4+"00000000"),
			[]Entry{{Route: route("0.0.0.0/0 via 192.168.105.2 dev bridge100"), Owner: "static"}}},
		{"on-link", rtm(rtmGet, "01090000", "07000000", "10020000 c0a86900 8*00 | 14120500 06000000 12*00 | 07020000 ffffff00"),
			[]Entry{{Route: route("192.168.105.0/24 dev bridge100"), Owner: "kernel"}}},
		{"a mask of odd bits", rtm(rtmGet, "01080000", "07000000", "10020000 c0a86980 8*00 | 08120500 00000000 | 08020000 fffffff8"),
			[]Entry{{Route: route("192.168.105.128/29 dev bridge100"), Owner: "static"}}},
		{"to the other end of a tunnel", rtm(rtmGet, "05000000", "03000000", "10020000 0a212102 8*00 | 10020000 0a212101 8*00"),
			[]Entry{{Route: route("10.33.33.2/32 dev bridge100"), Owner: "kernel"}}},
		{"a neighbour, cloned", rtm(rtmGet, "05040200", "03000000", "10020000 c0a86902 8*00 | 14120500 06000000 12*00"), nil},
		{"a neighbour, by hand", rtm(rtmGet, "050c0000", "03000000", "10020000 c0a86902 8*00 | 14120500 06000000 12*00"), nil},
		{"an own address", rtm(rtmGet, "05002000", "03000000", "10020000 c0a86901 8*00 | 14120500 06000000 12*00"), nil},
		{"multicast", rtm(rtmGet, "01008000", "07000000", "10020000 e0000000 8*00 | 14120500 06000000 12*00 | 05020000 f0000000"), nil},
		{"rejected", rtm(rtmGet, "0b480000", "07000000", dst4+gw4+"06020000 ffff0000"),
			[]Entry{{Route: Route{Dst: netip.MustParsePrefix("172.17.0.0/16")}, Owner: "static, fairlead's mark (reject)"}}},
		{"of one interface alone", rtm(rtmGet, "03480001", "07000000", dst4+gw4+"06020000 ffff0000"),
			[]Entry{{Route: Route{Dst: netip.MustParsePrefix("172.17.0.0/16")}, Owner: "static, fairlead's mark (for sockets bound to bridge100)", Metric: 1}}},
		{"ragged mask", rtm(rtmGet, "03080000", "07000000", dst4+gw4+"08020000 ff00ff00"),
			[]Entry{{Route: Route{Dst: netip.MustParsePrefix("172.0.0.0/8")}, Owner: "static (ragged netmask)"}}},
		{"IPv6 on-link with the zone inside", rtm(rtmGet, "01010000", "07000000", "1c1e0000 00000000 fe800005 12*00 4*00 | 10120500 12*00 | 101e0000 00000000 ffffffff ffffffff"),
			[]Entry{{Route: route("fe80::/64 dev bridge100"), Owner: "kernel"}}},
		{"IPv6 by a link-local gateway", rtm(rtmGet, "03480000", "07000000", "1c1e0000 00000000 fd000001 12*00 4*00 | 1c1e0000 00000000 fe800005 8*00 00000002 4*00 | 101e0000 00000000 ffffffff fffffff0"),
			[]Entry{{Route: route("fd00:1::/60 via fe80::2 dev bridge100"), Marked: true, Owner: "static, fairlead's mark"}}},
		{"not IP", rtm(rtmGet, "01000000", "01000000", "08120500 00000000"), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rows, err := decodeDump(append(raw(tt.raw), 8, 0, 4, 1, 0, 0, 0, 0)) // then one of a version to be skipped
			if err != nil || len(rows) != 1 {
				t.Fatalf("decodeDump = %+v, %v", rows, err)
			}
			var got []Entry
			if e, ok := rows[0].entry(links); ok {
				got = append(got, e)
			}
			if d := cmp.Diff(tt.want, got, values); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	whole := requests[0].msg.encode()
	for n := range len(whole) {
		if _, err := decode(whole[:n]); !errors.Is(err, errShort) {
			t.Errorf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
	if _, err := decodeDump(append(whole, 0)); !errors.Is(err, errShort) {
		t.Errorf("one byte too many: %v", err)
	}
	if _, err := decodeDump([]byte{0, 0, rtmVersion, rtmGet}); !errors.Is(err, errShort) {
		t.Errorf("a message without length: %v", err)
	}
}

func TestSays(t *testing.T) {
	for s, want := range map[string]bool{
		rtm(rtmAdd, "43480000", "00000000", ""):                   true,
		rtm(rtmDelete, "43480000", "00000000", ""):                true,
		rtm(rtmChange, "43480000", "00000000", ""):                true,
		rtm(rtmAdd, "45040200", "00000000", ""):                   false, // a neighbour
		rtm(0x7, "43480000", "00000000", ""):                      false, // RTM_MISS
		rtm(0xb, "43480000", "00000000", ""):                      false, // RTM_RESOLVE
		rtm(rtmGet, "43480000", "00000000", ""):                   false,
		"5c000501 00000000 03480000 00000000 8*00 11000000 64*00": false, // failed: EEXIST
		"1400050c 16*00":  true,
		"1400050d 16*00":  true,
		"7000050e 108*00": true,
		"a0000512 156*00": true,
		"1000050f 12*00":  false, // RTM_NEWMADDR
		"040005":          false,
		"":                false,
	} {
		if got := says(raw(s)); got != want {
			t.Errorf("says(%s) = %v", s, got)
		}
	}
}

func FuzzRoutingMessage(f *testing.F) {
	for _, r := range requests {
		f.Add(r.msg.encode())
	}
	f.Add(raw(rtm(rtmGet, "43480100", "07000000", "10020000 ac110000 8*00 10020000 c0a86902 8*00 06020000 ffff0000")))
	f.Fuzz(func(t *testing.T, b []byte) {
		says(b)
		rows, err := decodeDump(b)
		if err != nil && rows != nil {
			t.Error("rows with an error")
		}
		for _, m := range rows {
			e, ok := m.entry(map[int]string{m.Link: "en0"})
			if !ok {
				continue
			}
			if !e.Dst.IsValid() || e.Dst != e.Dst.Masked() {
				t.Errorf("destination %v", e.Dst)
			}
			if r, whole := e.Route.canonical(); e.Dev != "" && !e.Via.IsUnspecified() && (!whole || r != e.Route) {
				t.Errorf("%+v is not as tables spell it", e)
			}
			if e.Dev == "" && (e.Marked || e.Via.IsValid()) {
				t.Errorf("%+v is no plain row and could be ours", e)
			}
		}
	})
}

// FuzzRouteRequest: a row that we ask for is the row that we read.
func FuzzRouteRequest(f *testing.F) {
	f.Add([]byte{172, 17, 0, 0}, 16, []byte{192, 168, 105, 2}, uint16(5))
	f.Add([]byte{172, 17, 0, 9}, 32, []byte{}, uint16(18))
	f.Add(netip.MustParseAddr("fd00:1::").AsSlice(), 60, netip.MustParseAddr("fe80::2").AsSlice(), uint16(300))
	f.Fuzz(func(t *testing.T, dst []byte, bits int, via []byte, link uint16) {
		addr, _ := netip.AddrFromSlice(dst)
		gateway, _ := netip.AddrFromSlice(via)
		want, ok := Route{Dst: netip.PrefixFrom(addr, bits), Via: gateway, Dev: "en0"}.canonical()
		if !ok || scoped(want.Dst.Addr()) && want.Dst.Addr().As16()[2]|want.Dst.Addr().As16()[3] != 0 ||
			scoped(want.Via) && want.Via.As16()[2]|want.Via.As16()[3] != 0 {
			return // a zone already inside
		}
		row, err := decode(rtMessage{Type: rtmAdd, Flags: rtfUp | rtfOurs, Link: int(link), Dst: want.Dst, Gateway: want.Via}.encode())
		if err != nil {
			t.Fatal(err)
		}
		got, ok := row.entry(map[int]string{0: "en0"}) // the kernel says the link, not the request
		if !ok || got.Route != want || !got.Marked {
			t.Errorf("asked for %v, read %+v, %v", want, got, ok)
		}
	})
}
