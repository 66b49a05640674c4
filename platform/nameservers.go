package platform

import (
	"bufio"
	"bytes"
	"net/netip"
	"os"
	"strings"
)

// Nameservers are the DNS servers that this host asks, where the OS keeps them in /etc/resolv.conf. A route must never
// hide one of them.
func Nameservers() []netip.Addr {
	b, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	return parseResolvConf(b)
}

func parseResolvConf(b []byte) []netip.Addr {
	var out []netip.Addr
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil && !a.IsLoopback() {
			out = append(out, a.WithZone(""))
		}
	}
	return out
}
