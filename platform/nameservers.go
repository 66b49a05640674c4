//go:build !windows

package platform

import (
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Nameservers are the DNS servers that this host asks, where the OS keeps them in files of resolv.conf(5)'s form, without
// those on this host. A route must never hide one of them.
func Nameservers() []netip.Addr {
	// systemd-resolved puts itself into the first and keeps those that it asks in the second.
	return nameservers("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
}

func nameservers(files ...string) []netip.Addr {
	var out []netip.Addr
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil {
			out = append(out, parseResolvConf(string(b))...)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

func parseResolvConf(text string) []netip.Addr {
	var out []netip.Addr
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(f[1])
		if a = a.Unmap().WithZone(""); err == nil && !a.IsLoopback() {
			out = append(out, a)
		}
	}
	return out
}
