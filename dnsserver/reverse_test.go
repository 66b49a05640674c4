package dnsserver

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestReverseName(t *testing.T) {
	for addr, want := range map[string]string{
		"172.17.0.2":        "2.0.17.172.in-addr.arpa",
		"::ffff:172.17.0.2": "2.0.17.172.in-addr.arpa",
		"fd00::2%eth0":      "2." + strings.Repeat("0.", 29) + "d.f.ip6.arpa",
		"2001:db8::abcd":    "d.c.b.a." + strings.Repeat("0.", 20) + "8.b.d.0.1.0.0.2.ip6.arpa",
	} {
		if got := ReverseName(netip.MustParseAddr(addr)); got != want || !ValidName(got) {
			t.Errorf("ReverseName(%s) = %q, want %q", addr, got, want)
		}
	}
	if got := ReverseName(netip.Addr{}); got != "" {
		t.Errorf("of no address: %q", got)
	}
}

func TestReverseDomains(t *testing.T) {
	for prefix, want := range map[string]string{
		"172.17.0.0/16":       "17.172.in-addr.arpa",
		"172.17.5.9/16":       "17.172.in-addr.arpa",
		"10.0.0.0/8":          "10.in-addr.arpa",
		"172.18.4.0/22":       "4.18.172.in-addr.arpa 5.18.172.in-addr.arpa 6.18.172.in-addr.arpa 7.18.172.in-addr.arpa",
		"10.1.2.3/32":         "3.2.1.10.in-addr.arpa",
		"::ffff:10.0.0.0/104": "10.in-addr.arpa",
		"fd00::/8":            "d.f.ip6.arpa",
		"fd00:1::/31":         "0.0.0.0.0.0.d.f.ip6.arpa 1.0.0.0.0.0.d.f.ip6.arpa",
		"10.0.0.0/7":          "",
		"0.0.0.0/0":           "",
		"::/0":                "",
	} {
		if got := strings.Join(ReverseDomains(netip.MustParsePrefix(prefix)), " "); got != want {
			t.Errorf("ReverseDomains(%s) = %q, want %q", prefix, got, want)
		}
	}
	if got := len(ReverseDomains(netip.MustParsePrefix("172.16.0.0/12"))); got != 16 {
		t.Errorf("172.16.0.0/12 gives %d", got)
	}
	if got := ReverseDomains(netip.Prefix{}); got != nil {
		t.Errorf("of no prefix: %q", got)
	}
}

// FuzzReverse: an address lies in exactly one of a prefix's domains if the prefix holds it, else in none.
func FuzzReverse(f *testing.F) {
	f.Add([]byte{172, 17, 0, 2}, 12, []byte{172, 31, 255, 255})
	f.Add([]byte{10, 0, 0, 0}, 25, []byte{10, 0, 0, 128})
	f.Add(netip.MustParseAddr("fd00::1").AsSlice(), 61, netip.MustParseAddr("fd00:0:0:7::1").AsSlice())
	f.Add(netip.MustParseAddr("::ffff:10.0.0.1").AsSlice(), 110, []byte{10, 0, 0, 1})
	f.Fuzz(func(t *testing.T, base []byte, bits int, other []byte) {
		addr, ok1 := netip.AddrFromSlice(base)
		inside, ok2 := netip.AddrFromSlice(other)
		prefix := netip.PrefixFrom(addr, bits)
		if !ok1 || !ok2 {
			return
		}
		domains := ReverseDomains(prefix)
		for _, d := range domains {
			if !ValidName("hostmaster." + d) {
				t.Fatalf("%s: %q cannot be served", prefix, d)
			}
		}
		if len(domains) == 0 {
			if prefix.IsValid() && bits >= 8 && !addr.Is4In6() {
				t.Fatalf("%s has none", prefix)
			}
			return
		}
		holds := prefix.Contains(inside)
		if addr.Is4In6() {
			holds = prefix.Contains(netip.AddrFrom16(inside.As16())) && inside.Unmap().Is4() == strings.HasSuffix(domains[0], "in-addr.arpa")
		}
		in := 0
		for _, d := range slices.Compact(slices.Sorted(slices.Values(domains))) {
			if name := ReverseName(inside); name == d || strings.HasSuffix(name, "."+d) {
				in++
			}
		}
		if in > 1 || (in == 1) != holds && !inside.Is4In6() {
			t.Fatalf("%s in %s: %d of %q", inside, prefix, in, domains)
		}
	})
}
