package tunnel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/windows"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/windows/tunnel/winipcfg"
)

// openHost makes a Wintun adapter. It goes, with its addresses and routes, when it is closed or this process ends.
func openHost(mtu int) (*hostEnd, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list adapters: %w", err)
	}
	var names []string
	for _, i := range ifs {
		names = append(names, i.Name)
	}
	n := freeAdapter(names)
	guid, err := windows.GUIDFromString(adapterGUID(n))
	if err != nil {
		return nil, err
	}
	tun.WintunTunnelType = "Fairlead"
	dev, err := tun.CreateTUNWithRequestedGUID(adapterName(n), &guid, mtu)
	if err != nil {
		return nil, explainWintun(err)
	}
	return openDevice(dev)
}

func explainWintun(err error) error {
	var code syscall.Errno
	if !errors.As(err, &code) {
		return err
	}
	exe, lost := os.Executable()
	if lost != nil {
		exe = `fairlead's folder\fairlead.exe`
	}
	if what, hint := wintunTrouble(uint32(code), filepath.Dir(exe), runtime.GOARCH); what != "" {
		return fmt.Errorf("%s: %w; hint: %s", what, err, hint)
	}
	return err
}

// configureHost gives an adapter its MTU, addresses and ways to the peers. Nothing of it outlives the adapter.
func configureHost(dev string, l Link) (addrs []netip.Addr, err error) {
	i, err := net.InterfaceByName(dev)
	if err != nil {
		return nil, err
	}
	luid, err := winipcfg.LUIDFromIndex(uint32(i.Index))
	if err != nil {
		return nil, fmt.Errorf("look up the adapter's id: %w", err)
	}
	for i, a := range l.Host {
		if failed := configureAddr(luid, a, l.Pilot[i], uint32(l.MTU)); failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		addrs = append(addrs, a)
	}
	return addrs, err
}

func configureAddr(luid winipcfg.LUID, local, peer netip.Addr, mtu uint32) error {
	family := winipcfg.AddressFamily(windows.AF_INET)
	if local.Is6() {
		family = windows.AF_INET6
	}
	row, err := ipInterface(luid, family)
	if err != nil {
		return fmt.Errorf("wait for the adapter to take %v: %w", local, err)
	}
	row.NLMTU = mtu
	row.DadTransmits = 0 // the address is nobody else's on a point-to-point link, and is to be of use at once
	row.RouterDiscoveryBehavior = winipcfg.RouterDiscoveryDisabled
	row.UseAutomaticMetric, row.Metric = false, 0
	if err := row.Set(); err != nil {
		return fmt.Errorf("set mtu %d for %v: %w", mtu, local, err)
	}
	if err := luid.AddIPAddress(netip.PrefixFrom(local, local.BitLen())); err != nil {
		return fmt.Errorf("add address %v: %w", local, err)
	}
	nowhere := netip.IPv4Unspecified()
	if local.Is6() {
		nowhere = netip.IPv6Unspecified()
	}
	if err := luid.AddRoute(netip.PrefixFrom(peer, peer.BitLen()), nowhere, 0); err != nil {
		return fmt.Errorf("add a route to %v: %w", peer, err)
	}
	if _, err := luid.IPAddress(local); err != nil {
		return fmt.Errorf("address %v is not there afterwards: %w", local, err)
	}
	return nil
}

// ipInterface waits for a family to come up on a new adapter, which takes Windows a moment, and never happens where the family
// is switched off.
func ipInterface(luid winipcfg.LUID, family winipcfg.AddressFamily) (*winipcfg.MibIPInterfaceRow, error) {
	for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		row, err := luid.IPInterface(family)
		if !errors.Is(err, windows.ERROR_NOT_FOUND) || time.Now().After(deadline) {
			return row, err
		}
	}
}
