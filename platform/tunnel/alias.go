package tunnel

import (
	"encoding/binary"
	"net/netip"
)

// Darwin's requests to give a point-to-point device an address: struct ifaliasreq (net/if.h) and struct in6_aliasreq
// (netinet6/in6_var.h).

const (
	darwinINET  = 2
	darwinINET6 = 30
)

func ifAliasReq(dev string, local, peer netip.Addr) (r [64]byte) {
	copy(r[:15], dev)
	sockaddr4(r[16:], local)
	sockaddr4(r[32:], peer)
	sockaddr4(r[48:], netip.AddrFrom4([4]byte{255, 255, 255, 255}))
	return r
}

func in6AliasReq(dev string, local, peer netip.Addr) (r [128]byte) {
	copy(r[:15], dev)
	sockaddr6(r[16:], local)
	sockaddr6(r[44:], peer)
	sockaddr6(r[72:], netip.AddrFrom16([16]byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}))
	binary.NativeEndian.PutUint32(r[120:], 0xffffffff) // valid and
	binary.NativeEndian.PutUint32(r[124:], 0xffffffff) // preferred for ever
	return r
}

func sockaddr4(b []byte, a netip.Addr) {
	b[0], b[1] = 16, darwinINET
	copy(b[4:8], a.AsSlice())
}

func sockaddr6(b []byte, a netip.Addr) {
	b[0], b[1] = 28, darwinINET6
	copy(b[8:24], a.AsSlice())
}
