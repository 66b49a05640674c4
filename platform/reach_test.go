package platform

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

// desk is a laptop: Wi-Fi, a VM network on vboxnet0, another inside a wider VPN range, and IPv6.
var desk = links(
	"lo 127.0.0.1/8", "lo ::1/128",
	"en0 192.168.1.20/24", "en0 2001:db8:1::20/64",
	"vboxnet0 192.168.99.1/24", "vboxnet0 fd99::1/64",
	"tun0 10.8.0.2/8", "bridge100 10.211.55.2/24",
	"p2p0 172.30.0.5/32",
)

func links(lines ...string) []Link {
	var out []Link
	for _, l := range lines {
		dev, prefix, _ := strings.Cut(l, " ")
		out = append(out, Link{Dev: dev, Prefix: netip.MustParsePrefix(prefix)})
	}
	return out
}

func TestOnLink(t *testing.T) {
	for _, c := range []struct{ addr, want string }{
		{"192.168.99.100", "vboxnet0 192.168.99.1/24"},
		{"192.168.1.1", "en0 192.168.1.20/24"},
		{"10.99.0.1", "tun0 10.8.0.2/8"},
		{"10.211.55.7", "bridge100 10.211.55.2/24"}, // two links: the longest prefix
		{"fd99::7", "vboxnet0 fd99::1/64"},
		{"2001:db8:1::1", "en0 2001:db8:1::20/64"},
		{"2001:db8:2::1", ""},
		{"192.168.2.1", ""},
		{"127.0.0.5", ""},    // loopback leads nowhere
		{"::1", ""},          //
		{"192.168.99.1", ""}, // this host itself
		{"10.211.55.2", ""},  // this host itself, though tun0 has it in its range
		{"172.30.0.5", ""},
		{"172.30.0.6", ""},
	} {
		got := ""
		if l, ok := OnLink(netip.MustParseAddr(c.addr), desk); ok {
			got = l.Dev + " " + l.Prefix.String()
		}
		if got != c.want {
			t.Errorf("OnLink(%s) = %q, want %q", c.addr, got, c.want)
		}
	}
	if l, ok := OnLink(netip.Addr{}, desk); ok {
		t.Errorf("OnLink(no address) = %v", l)
	}
}

// TestOnLinkOrder: the answer does not hang on the order in which the OS lists its interfaces.
func TestOnLinkOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		addr := netip.AddrFrom4([4]byte{10, byte(211 + rng.IntN(2)), 55, byte(rng.IntN(256))})
		want, wantOK := OnLink(addr, desk)
		shuffled := append([]Link(nil), desk...)
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if got, ok := OnLink(addr, shuffled); got != want || ok != wantOK {
			t.Fatalf("OnLink(%v) = %v, in another order %v", addr, want, got)
		}
	}
}

func TestDecide(t *testing.T) {
	rival := append(links("utun5 10.33.33.1/32"), desk...)
	linux := append(links("docker0 172.17.0.1/16", "br-1 fd17::1/64"), desk...)
	sub := func(s ...string) (out []netip.Prefix) {
		for _, s := range s {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	addr := netip.MustParseAddr
	for _, c := range []struct {
		name  string
		facts EngineFacts
		links []Link
		want  string // kind via dev source
		why   string // a part of it
	}{
		{"socket on this kernel", EngineFacts{Here: true, Socket: true, Subnets: sub("172.17.0.0/16")}, linux, "native", "172.17.0.0/16 is on this host, at docker0"},
		{"socket on this kernel, IPv6 network", EngineFacts{Bridges: []string{"br-1"}, Socket: true, Subnets: sub("172.25.0.0/16", "fd17::/64")}, linux, "native", "at br-1"},
		{"loopback TCP on this kernel", EngineFacts{Here: true, Host: addr("127.0.0.1"), Subnets: sub("172.17.0.0/16")}, linux, "native", "docker0"},
		{"own address on this kernel", EngineFacts{Here: true, Host: addr("192.168.1.20"), Subnets: sub("172.17.0.0/16")}, linux, "native", "docker0"},
		{"own address, written as IPv6", EngineFacts{Here: true, Host: addr("::ffff:192.168.1.20"), Subnets: sub("172.17.0.0/16")}, linux, "native", "docker0"},
		{"socket of a VM beside an engine on this kernel", EngineFacts{Socket: true, Subnets: sub("172.17.0.0/16"), Bridges: []string{"br-2"}}, linux, "tunnel", "another machine, though this host has an address in its 172.17.0.0/16 too, at docker0"},
		{"a user network of a VM like one here", EngineFacts{Socket: true, Subnets: sub("172.17.0.0/16", "fd17::/64"), Bridges: []string{"br-2"}}, linux, "tunnel", "another machine"},
		{"a machine of our name whose networks are not here", EngineFacts{Socket: true, Here: true, Subnets: sub("172.17.0.0/16")}, desk, "tunnel", "not on this host"},
		{"socket of a VM without an address", EngineFacts{Socket: true, Subnets: sub("172.17.0.0/16")}, desk, "tunnel", "not on this host"},
		{"socket of an engine without networks", EngineFacts{Socket: true}, linux, "tunnel", "not on this host"},
		{"own address, forwarded to a VM", EngineFacts{Host: addr("192.168.1.20"), Subnets: sub("172.17.0.0/16")}, desk, "tunnel", "not on this host"},
		{"own address inside a wider link", EngineFacts{Host: addr("10.211.55.2"), Subnets: sub("172.17.0.0/16")}, desk, "tunnel", "not on this host"},
		{"Docker Desktop", EngineFacts{Socket: true, System: "Docker Desktop", Subnets: sub("172.17.0.0/16")}, desk, "tunnel", "Docker Desktop"},
		{"Docker Desktop beside an engine on this kernel", EngineFacts{Socket: true, System: "Docker Desktop 4.30", Subnets: sub("172.17.0.0/16")}, linux, "tunnel", "Docker Desktop"},
		{"Docker Desktop over TCP", EngineFacts{Host: addr("127.0.0.1"), System: "Docker Desktop"}, desk, "tunnel", "Docker Desktop"},
		{"docker-mac-net-connect routes there", EngineFacts{Socket: true, System: "Docker Desktop", Routed: []string{"utun5"}, Known: desktop}, rival, "native utun5", "docker-mac-net-connect"},
		{"docker-mac-net-connect routes elsewhere", EngineFacts{Socket: true, System: "Docker Desktop", Routed: []string{"utun3"}, Known: desktop}, rival, "tunnel", "Docker Desktop"},
		{"docker-mac-net-connect is not there", EngineFacts{Socket: true, System: "Docker Desktop", Routed: []string{"utun5"}}, desk, "tunnel", "Docker Desktop"},
		{"docker-mac-net-connect routes to another engine", EngineFacts{Socket: true, System: "Alpine Linux", Routed: []string{"utun5"}}, rival, "tunnel", "not on this host"},
		{"docker-mac-net-connect, told otherwise", EngineFacts{Told: "tunnel", Socket: true, System: "Docker Desktop", Routed: []string{"utun5"}}, rival, "tunnel", "as told"},
		{"a WSL distribution", EngineFacts{WSL: true, Host: addr("10.211.55.7"), Subnets: sub("172.17.0.0/16")}, desk, "gateway 10.211.55.7 bridge100 10.211.55.2", "on-link"},
		{"a WSL distribution with this host's addresses", EngineFacts{WSL: true, Subnets: sub("172.17.0.0/16")}, desk, "tunnel", "mirrored"},
		{"OrbStack", EngineFacts{Socket: true, System: "OrbStack", Subnets: sub("192.168.97.0/24")}, desk, "native", "OrbStack"},
		{"TCP on-link", EngineFacts{Host: addr("192.168.99.100")}, desk, "gateway 192.168.99.100 vboxnet0 192.168.99.1", "on-link"},
		{"TCP on-link, IPv6", EngineFacts{Host: addr("fd99::100")}, desk, "gateway fd99::100 vboxnet0 fd99::1", "on-link"},
		{"TCP on-link, written as IPv6", EngineFacts{Host: addr("::ffff:192.168.99.100")}, desk, "gateway 192.168.99.100 vboxnet0 192.168.99.1", "on-link"},
		{"TCP on two links", EngineFacts{Host: addr("10.211.55.7")}, desk, "gateway 10.211.55.7 bridge100 10.211.55.2", "on-link"},
		{"TCP on-link, networks like ours", EngineFacts{Host: addr("192.168.99.100"), Subnets: sub("172.17.0.0/16")}, linux, "gateway 192.168.99.100 vboxnet0 192.168.99.1", "on-link"},
		{"TCP not on-link", EngineFacts{Host: addr("203.0.113.9")}, desk, "tunnel", "203.0.113.9 is not on-link"},
		{"TCP, name does not resolve", EngineFacts{}, desk, "none", "does not resolve"},
		{"told native", EngineFacts{Told: "native", System: "Docker Desktop"}, desk, "native", "as told"},
		{"told tunnel", EngineFacts{Told: "tunnel", Host: addr("192.168.99.100")}, desk, "tunnel", "as told"},
		{"told auto", EngineFacts{Told: "auto", Host: addr("192.168.99.100")}, desk, "gateway 192.168.99.100 vboxnet0 192.168.99.1", "on-link"},
		{"told address on-link", EngineFacts{Told: "192.168.99.7", Socket: true, System: "Docker Desktop"}, desk, "gateway 192.168.99.7 vboxnet0 192.168.99.1", "as told"},
		{"told address on-link, written as IPv6", EngineFacts{Told: "::ffff:192.168.99.7", Socket: true}, desk, "gateway 192.168.99.7 vboxnet0 192.168.99.1", "as told"},
		{"told address off link", EngineFacts{Told: "203.0.113.9", Socket: true}, desk, "none", "203.0.113.9 is not on-link"},
		{"told own address", EngineFacts{Told: "10.211.55.2", Socket: true}, desk, "none", "10.211.55.2 is this host itself"},
		{"told loopback", EngineFacts{Told: "127.0.0.1", Socket: true}, desk, "none", "127.0.0.1 is this host itself"},
		{"told another loopback", EngineFacts{Told: "127.0.0.9", Socket: true}, desk, "none", "127.0.0.9 is not on-link"},
		{"told nonsense", EngineFacts{Told: "vm", Socket: true}, desk, "none", `"vm" is no address`},
	} {
		r := Decide(c.facts, c.links)
		got := string(r.Kind)
		switch {
		case r.Kind == Gateway:
			got = fmt.Sprintf("%s %v %s %v", r.Kind, r.Via, r.Dev, r.Source)
		case r.Dev != "":
			got += " " + r.Dev
		}
		if got != c.want || !strings.Contains(r.Why, c.why) {
			t.Errorf("%s: %s (%s), want %s (...%s...)", c.name, got, r.Why, c.want, c.why)
		}
		if r.Kind != Gateway && (r.Via.IsValid() || r.Source.IsValid()) {
			t.Errorf("%s: %s with a gateway: %+v", c.name, r.Kind, r)
		}
	}
}

func TestBeside(t *testing.T) {
	four := Reach{Kind: Gateway, Via: netip.MustParseAddr("192.168.99.100"), Dev: "vboxnet0"}
	six := Reach{Kind: Gateway, Via: netip.MustParseAddr("fd99::100"), Dev: "vboxnet0"}
	bare := Reach{Kind: Gateway, Via: netip.MustParseAddr("10.211.55.7"), Dev: "bridge100"}
	both := append(links("vboxnet0 2001:db8:99::1/64"), desk...)
	for _, c := range []struct {
		name  string
		reach Reach
		vm    string // "-" when it was not asked
		links []Link
		want  string
		why   string
	}{
		{"not asked", four, "-", desk, "gateway", "IPv6 address yet"},
		{"not asked, and nothing to ask for", bare, "-", desk, "tunnel", "no IPv6 address on bridge100"},
		{"told", four, "192.168.99.100 fd99::100", desk, "gateway fd99::100 vboxnet0 fd99::1", "same link"},
		{"told the other way round", six, "192.168.99.100 fd99::100", desk, "gateway 192.168.99.100 vboxnet0 192.168.99.1", "same link"},
		{"none", four, "192.168.99.100", desk, "tunnel", "the VM has no IPv6 address on vboxnet0"},
		{"no address at all", four, "", desk, "tunnel", "the VM has no IPv6"},
		{"link-local ones lead no further", four, "fe80::1", append(links("vboxnet0 fe80::2/64"), desk...), "tunnel", "the VM has no IPv6"},
		{"only link-local here", bare, "-", append(links("bridge100 fe80::2/64"), desk...), "tunnel", "this host has no IPv6"},
		{"one that is this host's", four, "fd99::1", desk, "tunnel", "the VM has no IPv6"},
		{"one of another link", four, "2001:db8:1::5", desk, "tunnel", "the VM has no IPv6"},
		{"one of no link", four, "fd98::5", desk, "tunnel", "the VM has no IPv6"},
		{"private before public", four, "2001:db8:99::5 fd99::100", both, "gateway fd99::100 vboxnet0 fd99::1", "same link"},
		{"public alone", four, "2001:db8:99::5", both, "gateway 2001:db8:99::5 vboxnet0 2001:db8:99::1", "same link"},
	} {
		var vm []netip.Addr
		if c.vm != "-" {
			vm = []netip.Addr{}
			for _, a := range strings.Fields(c.vm) {
				vm = append(vm, netip.MustParseAddr(a))
			}
		}
		p := c.reach.Beside(vm, c.links)
		got := string(p.Kind)
		if p.Via.IsValid() {
			got = fmt.Sprintf("%s %v %s %v", p.Kind, p.Via, p.Dev, p.Source)
		}
		if got != c.want || !strings.Contains(p.Why, c.why) {
			t.Errorf("%s: %s (%s), want %s (...%s...)", c.name, got, p.Why, c.want, c.why)
		}
	}
}

// TestLinks: what this host says of itself is of use to OnLink and Decide.
func TestLinks(t *testing.T) {
	ls, err := Links()
	if err != nil {
		t.Fatal(err)
	}
	loopback := false
	for _, l := range ls {
		if !l.Prefix.IsValid() || l.Prefix.Addr().Is4In6() || l.Dev == "" {
			t.Errorf("link %+v", l)
		}
		loopback = loopback || l.Prefix.Addr().IsLoopback()
	}
	if !loopback {
		t.Errorf("no loopback address among %v", ls)
	}
}
