package tunnel

import (
	"net"
	"os"
	"slices"
	"testing"
)

func TestUtun(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	end, err := openHost(maxPacket)
	if err != nil {
		t.Fatal(err)
	}
	name := end.name
	t.Logf("%s has mtu %d", name, end.mtu)
	link := someLink
	link.MTU = networkMTU
	addrs, err := configureHost(name, link)
	if err != nil || !slices.Equal(addrs, link.Host) {
		t.Errorf("configureHost = %v, %v", addrs, err)
	}
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if want := net.FlagUp | net.FlagPointToPoint; i.Flags&want != want || i.MTU != networkMTU {
		t.Errorf("flags %v, mtu %d", i.Flags, i.MTU)
	}
	if err := end.port.Close(); err != nil {
		t.Error(err)
	}
	if _, err := net.InterfaceByName(name); err == nil {
		t.Errorf("%s outlives its descriptor", name)
	}
}
