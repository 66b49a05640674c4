//go:build !windows

package platform

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseResolvConf(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", ""},
		{"usual", "# by hand\nsearch lan\nnameserver 192.168.1.1\nnameserver 8.8.8.8\noptions edns0\n", "192.168.1.1 8.8.8.8"},
		{"IPv6", "nameserver 2001:db8::53\nnameserver fe80::1%en0\n", "2001:db8::53 fe80::1"},
		{"IPv4 in IPv6", "nameserver ::ffff:192.168.1.1\n", "192.168.1.1"},
		{"on this host", "nameserver 127.0.0.53\nnameserver ::1\nnameserver ::ffff:127.0.0.1\nnameserver 10.0.0.2\n", "10.0.0.2"},
		{"blanks", "  nameserver\t10.0.0.2   # the router\r\n", "10.0.0.2"},
		{"comments", "#nameserver 10.0.0.1\n; nameserver 10.0.0.2\n", ""},
		{"no newline at the end", "nameserver 10.0.0.2", "10.0.0.2"},
		{"broken", "nameserver\nnameserver none\nnameserver 10.0.0\nnameservers 10.0.0.3\nnameserver 10.0.0.2\n", "10.0.0.2"},
		{"a very long line", "# " + strings.Repeat("x", 1<<17) + "\nnameserver 10.0.0.2\n", "10.0.0.2"},
	} {
		if got := strings.Trim(fmt.Sprint(parseResolvConf(c.text)), "[]"); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add("nameserver 10.0.0.2\nsearch lan\n")
	f.Add("nameserver fe80::1%en0\n# " + strings.Repeat("x", 1<<16))
	f.Add("nameserver ::ffff:127.0.0.1\x00\r\n\n nameserver")
	f.Fuzz(func(t *testing.T, text string) {
		for _, a := range parseResolvConf(text) {
			if !a.IsValid() || a.IsLoopback() || a.Zone() != "" || a.Is4In6() {
				t.Errorf("%v", a)
			}
		}
		// Nothing that stands before can hide a server.
		last := netip.MustParseAddr("192.0.2.53")
		got := parseResolvConf(text + "\nnameserver 192.0.2.53\n")
		if len(got) == 0 || got[len(got)-1] != last {
			t.Errorf("after %q a server is not seen: %v", text, got)
		}
	})
}

func TestNameservers(t *testing.T) {
	dir := t.TempDir()
	stub, uplink := filepath.Join(dir, "stub"), filepath.Join(dir, "uplink")
	for path, text := range map[string]string{
		stub:   "nameserver 127.0.0.53\n",
		uplink: "nameserver 192.168.1.1\nnameserver 10.0.0.2\nnameserver 192.168.1.1\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := fmt.Sprint(nameservers(stub, uplink, filepath.Join(dir, "none"))), "[10.0.0.2 192.168.1.1]"; got != want {
		t.Errorf("nameservers = %s, want %s", got, want)
	}
}
