package resolver

import (
	"net/netip"
	"os"
	"strings"
	"testing"
)

// testdata/scutil holds what Macs have printed, in the words of public bug reports, and one of our own as configd's source prints
// it. Each is asked for what stands in its name.
func TestScutil(t *testing.T) {
	read := func(name string) []scutilResolver {
		t.Helper()
		b, err := os.ReadFile("testdata/scutil/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return parseScutil(string(b))
	}
	ours := netip.MustParseAddrPort("127.0.0.1:55353")
	for _, c := range []struct {
		file    string
		server  netip.AddrPort
		domains string
		says    string // "" is in force
	}{
		{"ours.txt", ours, "docker 17.172.in-addr.arpa", ""},
		{"ours.txt", ours, "DOCKER.", ""},
		{"ours.txt", ours, "docker lab 5.30.172.in-addr.arpa", "it has not taken up the file for 5.30.172.in-addr.arpa, lab"},
		{"ours.txt", netip.MustParseAddrPort("127.0.0.1:5300"), "docker", "for names in docker it asks 127.0.0.1:55353 instead of 127.0.0.1:5300"},
		{"ours.txt", ours, "local", "for names in local it asks all neighbours, by multicast instead of 127.0.0.1:55353"},
		{"ours.txt", ours, "scoped.example", "it has not taken up the file for scoped.example"},
		{"overridden.txt", ours, "docker", "for names in docker it asks 10.0.0.53:53 instead of 127.0.0.1:55353"},
		{"overridden.txt", ours, "empty", "for names in empty it asks nobody instead of 127.0.0.1:55353"},
		{"fresh.txt", ours, "docker", "it has not taken up the file for docker"},
		{"fresh.txt", netip.MustParseAddrPort("75.75.75.75:53"), "example", "it has not taken up the file for example"},
	} {
		err := inForce(read(c.file), Want{strings.Fields(c.domains), c.server})
		if got := errorText(err); got != c.says {
			t.Errorf("%s, %s at %v: %q, want %q", c.file, c.domains, c.server, got, c.says)
		}
	}
	if got := read("fresh.txt"); len(got) != 7 || len(got[0].servers) != 2 || got[6].domain != "b.e.f.ip6.arpa" || !got[6].mdns || got[6].order != 301000 {
		t.Errorf("fresh.txt: %+v", got)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func FuzzScutil(f *testing.F) {
	for _, name := range []string{"ours.txt", "overridden.txt", "fresh.txt"} {
		b, err := os.ReadFile("testdata/scutil/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Fuzz(func(t *testing.T, out string) {
		all := parseScutil(out)
		for _, r := range all {
			if r.domain != strings.ToLower(r.domain) {
				t.Errorf("domain %q", r.domain)
			}
			// What it is said to go by has to be shown.
			if len(r.servers) > 0 && r.port != 0 && inForce(all, Want{[]string{r.domain}, netip.AddrPortFrom(r.servers[0], r.port)}) == nil &&
				!strings.Contains(out, r.servers[0].String()) && r.servers[0].Is4() {
				t.Errorf("%v is not in %q", r, out)
			}
		}
		if err := inForce(nil, Want{[]string{"docker"}, netip.MustParseAddrPort("127.0.0.1:55353")}); err == nil {
			t.Error("nobody is asked, and that is in force")
		}
	})
}
