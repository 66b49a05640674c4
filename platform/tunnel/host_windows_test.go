package tunnel

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/windows"
	"golang.zx2c4.com/wireguard/windows/tunnel/winipcfg"
)

// TestWintun makes an adapter where wintun.dll is at hand, and reads the message where it is not.
func TestWintun(t *testing.T) {
	end, err := openHost(maxPacket)
	if err != nil {
		self, lost := os.Executable()
		if lost != nil {
			t.Fatal(lost)
		}
		if _, here := os.Stat(filepath.Join(filepath.Dir(self), "wintun.dll")); here == nil {
			t.Fatal(err)
		}
		for _, want := range []string{"wintun.dll is missing", "; hint: take wintun.dll of https://www.wintun.net", "put it into " + filepath.Dir(self)} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("the error is %q, want %q in it", err, want)
			}
		}
		return
	}
	addrs, err := configureHost(end.name, someLink)
	if err != nil || !slices.Equal(addrs, someLink.Host) {
		t.Errorf("configureHost = %v, %v", addrs, err)
	}
	if err := end.port.Close(); err != nil {
		t.Error(err)
	}
	if _, err := net.InterfaceByName(end.name); err == nil {
		t.Errorf("%s outlives its handle", end.name)
	}
}

// TestConfigureAnAdapter needs no driver: any adapter will do that FAIRLEAD_TEST_ADAPTER names.
func TestConfigureAnAdapter(t *testing.T) {
	name := os.Getenv("FAIRLEAD_TEST_ADAPTER")
	if name == "" {
		t.Skip("FAIRLEAD_TEST_ADAPTER names no adapter that may be changed")
	}
	link := someLink
	link.MTU = networkMTU
	addrs, err := configureHost(name, link)
	if err != nil || !slices.Equal(addrs, link.Host) {
		t.Fatalf("configureHost = %v, %v", addrs, err)
	}
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	luid, err := winipcfg.LUIDFromIndex(uint32(i.Index))
	if err != nil {
		t.Fatal(err)
	}
	for k, family := range []winipcfg.AddressFamily{windows.AF_INET, windows.AF_INET6} {
		row, err := luid.IPInterface(family)
		if err != nil || row.NLMTU != networkMTU {
			t.Errorf("family %d: mtu %v, %v", family, row, err)
		}
		if err := luid.DeleteRoute(netip.PrefixFrom(link.Pilot[k], link.Pilot[k].BitLen()), []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}[k]); err != nil {
			t.Errorf("delete the route to %v: %v", link.Pilot[k], err)
		}
		if err := luid.DeleteIPAddress(netip.PrefixFrom(link.Host[k], link.Host[k].BitLen())); err != nil {
			t.Errorf("delete %v: %v", link.Host[k], err)
		}
	}
}
