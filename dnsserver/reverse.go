package dnsserver

import (
	"net/netip"
	"strconv"
)

// ReverseName is the name whose PTR record belongs to the address: "2.0.17.172.in-addr.arpa" (RFC 1035, 3.5), or 32 nibbles
// below "ip6.arpa" (RFC 3596, 2.5). An IPv4 address in IPv6 form is IPv4; a zone is left out. The zero Addr gives "".
func ReverseName(addr netip.Addr) string {
	addr = addr.Unmap()
	if !addr.IsValid() {
		return ""
	}
	return reverse(addr, addr.BitLen())
}

// ReverseDomains are the domains to serve for the reverse names of a prefix: together they hold its addresses and no others. A
// prefix that ends inside a label, an octet of IPv4 or a nibble of IPv6, needs several: 172.16.0.0/12 sixteen, none more than
// 128. One wider than /8 gives none, as does an invalid one: its names are not for one host to answer.
func ReverseDomains(prefix netip.Prefix) []string {
	if addr := prefix.Addr(); addr.Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
	}
	if !prefix.IsValid() || prefix.Bits() < 8 {
		return nil
	}
	label := 8
	if prefix.Addr().Is6() {
		label = 4
	}
	bits := (prefix.Bits() + label - 1) / label * label
	addr := prefix.Masked().Addr()
	var domains []string
	for i := range 1 << (bits - prefix.Bits()) {
		b := addr.AsSlice()
		b[(bits-1)/8] |= byte(i << (7 - (bits-1)%8))
		a, _ := netip.AddrFromSlice(b)
		domains = append(domains, reverse(a, bits))
	}
	return domains
}

// reverse names the first bits of an address, a whole number of labels.
func reverse(addr netip.Addr, bits int) string {
	name := make([]byte, 0, 80)
	if addr.Is4() {
		all := addr.As4()
		for i := bits/8 - 1; i >= 0; i-- {
			name = append(strconv.AppendUint(name, uint64(all[i]), 10), '.')
		}
		return string(append(name, "in-addr.arpa"...))
	}
	all := addr.As16()
	for i := bits/4 - 1; i >= 0; i-- {
		nibble := all[i/2] >> (4 * (1 - i%2)) & 15
		name = append(strconv.AppendUint(name, uint64(nibble), 16), '.')
	}
	return string(append(name, "ip6.arpa"...))
}
