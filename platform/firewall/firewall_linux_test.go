package firewall

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	subnets  = nets("172.17.0.0/16", "172.18.0.0/16", "fd00:17::/64", "fd00:18::/64")
	ours     = Admission{Tag: "0123abcd", Sources: addrs("192.168.93.1"), Subnets: subnets}
	theirs   = Admission{Tag: "89abcdef", Sources: addrs("192.168.93.2"), Subnets: subnets}
	web      = "172.17.0.2"
	inner    = "172.18.0.2" // answers only what seems to come from its own network
	webSix   = "fd00:17::2"
	innerSix = "fd00:18::2"
)

// TestGenerations sends real packets through each generation's rules: closed, open for one host, open for two, closed again.
func TestGenerations(t *testing.T) {
	t.Parallel()
	for _, g := range []struct {
		name    string
		files   []string
		backend Backend
		six     bool
		saved   []string // what iptables-save must show of ours
	}{
		{"17.05", []string{"17.05.iptables"}, IPTablesNFT, false, []string{
			`-A FORWARD -s 192.168.93.1/32 -i eth1 -m comment --comment "fairlead:0123abcd" -j ACCEPT`,
			`-A FORWARD -d 192.168.93.1/32 -o eth1 -m comment --comment "fairlead:0123abcd" -j ACCEPT`,
		}},
		{"20.10", []string{"20.10.iptables"}, IPTablesNFT, false, []string{
			`-A DOCKER-USER -s 192.168.93.1/32 -i eth1 -m comment --comment "fairlead:0123abcd" -j ACCEPT`,
			`-A DOCKER-USER -d 192.168.93.1/32 -o eth1 -m comment --comment "fairlead:0123abcd" -j ACCEPT`,
		}},
		{"28", []string{"28.iptables", "28.ip6tables"}, IPTablesNFT, true, []string{
			`-A PREROUTING -s 192.168.93.1/32 -i eth1 -m comment --comment "fairlead:0123abcd" -j ACCEPT`,
			`-A DOCKER-USER -s 192.168.93.1/32 -i eth1 -m comment --comment "fairlead:0123abcd" -j ACCEPT`,
			`-A DOCKER-USER -d 192.168.93.1/32 -o eth1 -m comment --comment "fairlead:0123abcd" -j ACCEPT`,
		}},
		{"29-nftables", []string{"29.nft"}, NFTables, true, nil},
		{"17.05-legacy", []string{"17.05.iptables"}, IPTablesLegacy, false, []string{
			`-A FORWARD -s 192.168.93.1/32 -i eth1 -m comment --comment "fairlead:0123abcd" -j ACCEPT`,
			`-A FORWARD -d 192.168.93.1/32 -o eth1 -m comment --comment "fairlead:0123abcd" -j ACCEPT`,
		}},
		{"20.10-legacy", []string{"20.10.iptables"}, IPTablesLegacy, false, []string{
			`-A DOCKER-USER -s 192.168.93.1/32 -i eth1 -m comment --comment "fairlead:0123abcd" -j ACCEPT`,
			`-A DOCKER-USER -d 192.168.93.1/32 -o eth1 -m comment --comment "fairlead:0123abcd" -j ACCEPT`,
		}},
		{"28-legacy", []string{"28.iptables", "28.ip6tables"}, IPTablesLegacy, true, []string{
			`-A PREROUTING -s 192.168.93.1/32 -i eth1 -m comment --comment "fairlead:0123abcd" -j ACCEPT`,
			`-A DOCKER-USER -s 192.168.93.1/32 -i eth1 -m comment --comment "fairlead:0123abcd" -j ACCEPT`,
			`-A DOCKER-USER -d 192.168.93.1/32 -o eth1 -m comment --comment "fairlead:0123abcd" -j ACCEPT`,
			`-A PREROUTING -s fd00:93::1/128 -i eth1 -m comment --comment "fairlead:0123abcd" -j ACCEPT`,
			`-A DOCKER-USER -s fd00:93::1/128 -i eth1 -m comment --comment "fairlead:0123abcd" -j ACCEPT`,
			`-A DOCKER-USER -d fd00:93::1/128 -o eth1 -m comment --comment "fairlead:0123abcd" -j ACCEPT`,
		}},
	} {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			l := labFor(t, g.backend)
			a, b := ours, theirs
			if g.six {
				a.Sources = append(slices.Clone(a.Sources), addrs("fd00:93::1")...)
				b.Sources = append(slices.Clone(b.Sources), addrs("fd00:93::2")...)
			}
			l.wantOpen("192.168.93.1", web) // the lab itself works
			l.load(g.files...)
			before := l.rules()
			l.wantClosed("192.168.93.1", web, inner)

			s := l.mustAdmit(a, g.backend, true)
			l.wantOpen("192.168.93.1", web, inner)
			l.wantClosed("192.168.93.2", web)
			if g.six {
				l.wantOpen("fd00:93::1", webSix, innerSix)
				l.wantClosed("fd00:93::2", webSix)
			}
			saved := l.rules()
			for _, line := range g.saved {
				if strings.Count(saved, line+"\n") != 1 {
					t.Errorf("iptables-save lacks %s:\n%s", line, saved)
				}
			}
			if again := l.mustAdmit(a, g.backend, false); !slices.Equal(again.Rules, s.Rules) || len(s.Rules) == 0 {
				t.Errorf("rules at first %q, then %q", s.Rules, again.Rules)
			}

			l.mustAdmit(b, g.backend, true)
			l.wantOpen("192.168.93.2", web, inner)
			l.release(a.Tag)
			l.wantClosed("192.168.93.1", web)
			l.wantOpen("192.168.93.2", web, inner)
			l.release(b.Tag)
			l.wantRules(before)
			l.wantClosed("192.168.93.2", web)
			l.release(b.Tag) // absent already
			l.wantRules(before)
		})
	}
}

func labFor(t *testing.T, b Backend) *lab {
	if b == IPTablesLegacy {
		return newLegacyLab(t)
	}
	return newLab(t)
}

// TestRepair does to our rules what engines and administrators do.
func TestRepair(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		files   []string
		backend Backend
		happens func(l *lab)
	}{
		{"chain made anew", []string{"20.10.iptables"}, IPTablesNFT, func(l *lab) {
			l.vmRun("*filter\n:DOCKER-USER - [0:0]\n-F DOCKER-USER\n-A DOCKER-USER -j RETURN\nCOMMIT\n", "iptables-restore", "--noflush")
		}},
		{"engine updated to 28", []string{"20.10.iptables"}, IPTablesNFT, func(l *lab) {
			l.vmRun("*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP\nCOMMIT\n", "iptables-restore")
		}},
		{"nftables engine restarted", []string{"29.nft"}, NFTables, func(l *lab) {
			l.vmRun("delete table ip docker-bridges; delete table ip6 docker-bridges", "nft", "-f", "-")
			l.load("29.nft")
		}},
		{"our table deleted", []string{"28.iptables"}, IPTablesNFT, func(l *lab) {
			l.vmRun("", "nft", "delete", "table", "ip", "fairlead_0123abcd")
		}},
		{"our chain deleted", []string{"28.iptables"}, IPTablesNFT, func(l *lab) {
			l.vmRun("", "nft", "delete", "chain", "ip", "fairlead_0123abcd", "postrouting")
		}},
		{"our rule doubled and bent", []string{"28.iptables"}, IPTablesNFT, func(l *lab) {
			l.vmRun("", "iptables", "-A", "DOCKER-USER", "-s", "192.168.93.1", "-i", "eth1", "-m", "comment", "--comment", "fairlead:0123abcd", "-j", "ACCEPT")
			l.vmRun("", "iptables", "-I", "DOCKER-USER", "-i", "eth1", "-m", "comment", "--comment", "fairlead:0123abcd", "-j", "ACCEPT")
			l.vmRun("", "nft", "add", "rule", "ip", "fairlead_0123abcd", "postrouting", "ip", "daddr", "172.16.0.0/12", "masquerade", "random")
		}},
		{"legacy chain made anew", []string{"20.10.iptables"}, IPTablesLegacy, func(l *lab) {
			l.vmRun("*filter\n:DOCKER-USER - [0:0]\n-F DOCKER-USER\n-A DOCKER-USER -j RETURN\nCOMMIT\n", "iptables-legacy-restore", "--noflush")
		}},
		{"legacy engine updated to 28", []string{"20.10.iptables"}, IPTablesLegacy, func(l *lab) {
			l.vmRun("*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP\nCOMMIT\n", "iptables-legacy-restore")
		}},
		{"legacy all flushed, engine restarted", []string{"28.iptables"}, IPTablesLegacy, func(l *lab) {
			l.vmRun("", "iptables-legacy", "-t", "raw", "-F")
			l.vmRun("", "iptables-legacy", "-F")
			l.vmRun("", "iptables-legacy", "-X")
			l.load("28.iptables")
		}},
		{"our legacy rule doubled and bent", []string{"28.iptables"}, IPTablesLegacy, func(l *lab) {
			l.vmRun("", "iptables-legacy", "-A", "DOCKER-USER", "-s", "192.168.93.1", "-i", "eth1", "-m", "comment", "--comment", "fairlead:0123abcd", "-j", "ACCEPT")
			l.vmRun("", "iptables-legacy", "-I", "DOCKER-USER", "-i", "eth1", "-p", "tcp", "-m", "comment", "--comment", "fairlead:0123abcd", "-j", "ACCEPT")
			l.vmRun("", "iptables-legacy", "-A", "FORWARD", "-m", "comment", "--comment", "fairlead:0123abcd", "-j", "DOCKER")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := labFor(t, c.backend)
			l.load(c.files...)
			l.mustAdmit(ours, c.backend, true)
			l.wantOpen("192.168.93.1", web, inner)
			c.happens(l)
			l.mustAdmit(ours, c.backend, true)
			l.wantOpen("192.168.93.1", web, inner)
			l.mustAdmit(ours, c.backend, false)
			l.release(ours.Tag)
			if rest := l.rules(); strings.Contains(rest, "fairlead") {
				t.Errorf("left behind:\n%s", rest)
			}
		})
	}
}

// TestOursAreKnownAfterIptablesRestore has iptables write our rules anew, in its own words.
func TestOursAreKnownAfterIptablesRestore(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	restore := func() {
		l.vmRun(l.vmRun("", "iptables-save"), "iptables-restore")
		l.vmRun(l.vmRun("", "ip6tables-save"), "ip6tables-restore")
	}
	l.load("28.iptables", "28.ip6tables")
	restore()
	before := l.rules()
	a := ours
	a.Sources = addrs("192.168.93.1", "fd00:93::1")
	l.mustAdmit(a, IPTablesNFT, true)
	restore()
	l.mustAdmit(a, IPTablesNFT, false)
	l.wantOpen("192.168.93.1", web)
	l.release(a.Tag)
	l.wantRules(before)
}

func TestAnotherWishReplacesTheLast(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.load("28.iptables", "28.ip6tables")
	before := l.rules()
	l.mustAdmit(ours, IPTablesNFT, true)
	l.mustAdmit(Admission{Tag: ours.Tag, Sources: theirs.Sources, Subnets: subnets[:1]}, IPTablesNFT, true)
	l.wantClosed("192.168.93.1", web)
	l.wantOpen("192.168.93.2", web)
	s, err := l.admit(Admission{Tag: ours.Tag, Subnets: subnets})
	if err != nil || s.Open || len(s.Rules) != 0 {
		t.Errorf("Admit without sources = %+v, %v, want closed without rules", s, err)
	}
	l.wantRules(before)
}

func TestAThousandSubnets(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.load("29.nft")
	before := l.rules()
	a := Admission{Tag: ours.Tag, Sources: addrs("192.168.93.1", "192.168.93.2")}
	for i := range maxSubnets {
		a.Subnets = append(a.Subnets, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 4), byte(i << 4), 0}), 20))
	}
	if s := l.mustAdmit(a, NFTables, true); len(s.Rules) != 2*maxSubnets+6 {
		t.Errorf("%d rules, want %d", len(s.Rules), 2*maxSubnets+6)
	}
	l.mustAdmit(a, NFTables, false)
	a.Subnets = a.Subnets[:1]
	l.mustAdmit(a, NFTables, true)
	l.release(a.Tag)
	l.wantRules(before)
}

func TestNoEngine(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	before := l.rules()
	l.wantClosed("192.168.93.1", inner)
	l.mustAdmit(ours, None, true)
	l.wantOpen("192.168.93.1", web, inner)
	l.release(ours.Tag)
	l.wantRules(before)
}

// TestForeign is about firewalls that are not the engine's: nothing is changed, and it is said why.
func TestForeign(t *testing.T) {
	t.Parallel()
	const firewalld = `table inet firewalld {
		chain filter_FORWARD {
			type filter hook forward priority filter + 10; policy accept
			ct state established,related accept
			iifname "lo" accept
			reject with icmpx admin-prohibited
		}
	}`
	for _, c := range []struct {
		name    string
		backend Backend // of the lab
		files   []string
		rules   string
		tool    string
		want    Backend
		closed  string
	}{
		{"policy", IPTablesNFT, nil, "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -i docker0 -j ACCEPT\nCOMMIT\n", "iptables-restore", Unknown, "[ip filter FORWARD]"},
		{"last rule", IPTablesNFT, nil, "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -i docker0 -j ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited\nCOMMIT\n",
			"iptables-restore", Unknown, "[ip filter FORWARD]"},
		{"legacy policy", IPTablesLegacy, nil, "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -i docker0 -j ACCEPT\nCOMMIT\n", "iptables-legacy-restore", Unknown, "[legacy ip filter FORWARD]"},
		{"legacy last rule", IPTablesLegacy, nil, "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j REJECT\nCOMMIT\n", "iptables-legacy-restore", Unknown, "[legacy ip filter FORWARD]"},
		{"firewalld", IPTablesNFT, nil, firewalld, "nft -f -", Unknown, "[inet firewalld filter_FORWARD]"},
		{"a block before the engine's rules", IPTablesNFT, []string{"20.10.iptables"}, "", "iptables -I FORWARD -j DROP", IPTablesNFT, "[ip filter FORWARD]"},
		{"firewalld beside the engine", IPTablesNFT, []string{"28.iptables"}, firewalld, "nft -f -", IPTablesNFT, "[inet firewalld filter_FORWARD]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := labFor(t, c.backend)
			l.load(c.files...)
			l.vmRun(c.rules, strings.Fields(c.tool)...)
			before := l.rules()
			l.wantClosed("192.168.93.1", web)
			s, err := l.admit(ours)
			if s.Backend != c.want || !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), c.closed) || s.Open || s.Changed || s.Hint == "" {
				t.Errorf("Admit = %+v, %v, want %q, closed, a hint and %v: %s", s, err, c.want, ErrForeign, c.closed)
			}
			l.wantRules(before)
		})
	}
}

// TestNotClosed is about rules that forbid something, but not our packets.
func TestNotClosed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		backend Backend // of the lab
		rules   string
		tool    string
	}{
		{"empty legacy table", IPTablesLegacy, "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", "iptables-legacy-restore"},
		{"other legacy policies", IPTablesLegacy, "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT DROP [0:0]\nCOMMIT\n", "iptables-legacy-restore"},
		{"a drop for others", IPTablesNFT, `table inet netavark { chain FORWARD {
			type filter hook forward priority filter; policy accept
			ct state invalid drop
			ip saddr 10.0.0.1 drop
		}
		}`, "nft -f -"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := labFor(t, c.backend)
			l.vmRun(c.rules, strings.Fields(c.tool)...)
			before := l.rules()
			l.mustAdmit(ours, None, true)
			l.wantOpen("192.168.93.1", web, inner)
			l.release(ours.Tag)
			l.wantRules(before)
		})
	}
}

func TestWhatAdmitCannotDoItTells(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		happen func(l *lab)
		source string
		want   string
	}{
		{"forwarding off", func(l *lab) { l.vmRun("", "sysctl", "-qw", "net.ipv4.ip_forward=0") }, "192.168.93.1", "ip_forward is 0"},
		{"itself", func(*lab) {}, "192.168.93.100", "an address of this machine itself"},
		{"no way", func(*lab) {}, "10.1.2.3", "find the way to 10.1.2.3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.load("20.10.iptables")
			before := l.rules()
			c.happen(l)
			a := ours
			a.Sources = addrs(c.source)
			s, err := l.admit(a)
			if err == nil || !strings.Contains(err.Error(), c.want) || s.Open || s.Backend != IPTablesNFT {
				t.Errorf("Admit = %+v, %v, want closed and %q", s, err, c.want)
			}
			l.release(a.Tag)
			l.wantRules(before)
		})
	}
}

// TestAddressNotInUseYet begins a flow to an internal network while its bridge's IPv6 address is tentative, as it is for a second or
// two after a network's first container has started. What is translated is translated for the flow's whole life.
func TestAddressNotInUseYet(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.load("28.iptables", "28.ip6tables")
	before := l.rules()
	l.vmRun("", "sysctl", "-qw", "net.ipv6.conf.br-inner.dad_transmits=3")
	l.vmRun("", "ip", "addr", "del", "fd00:18::1/64", "dev", "br-inner")
	l.vmRun("", "ip", "addr", "add", "fd00:18::1/64", "dev", "br-inner")
	a := ours
	a.Sources = addrs("fd00:93::1")
	s := l.mustAdmit(a, IPTablesNFT, true)
	flow := exec.Command("nsenter", "--net=/run/netns/"+l.host, "ping", "-nq", "-c1", "-w20", "-I", "fd00:93::1", innerSix) // asks every second until answered
	if err := flow.Start(); err != nil {
		t.Fatal(err)
	}
	if l.vmRun("", "ip", "-6", "addr", "show", "tentative", "to", "fd00:18::1") == "" {
		t.Error("the bridge's address is in use already: nothing was tried")
	}
	if err := flow.Wait(); err != nil {
		t.Errorf("a flow that began early is never answered: %v\n%s", err, l.rules())
	}
	if again := l.mustAdmit(a, IPTablesNFT, false); !slices.Equal(again.Rules, s.Rules) {
		t.Errorf("rules at first %q, then %q", s.Rules, again.Rules)
	}
	l.release(a.Tag)
	l.wantRules(before)
}

func TestWatchWakesOnChange(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.load("20.10.iptables")
	l.mustAdmit(ours, IPTablesNFT, true)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wake <-chan struct{}
	var err error
	l.vmDo(func() { wake, err = Watch(ctx) })
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l.vmRun("", "iptables", "-F", "DOCKER-USER")
		select {
		case <-wake:
		case <-time.After(period / 2):
			t.Fatal("not woken")
		}
		l.mustAdmit(ours, IPTablesNFT, true)
		<-wake // by our own change
	}
}

func TestEveryRuleIsReadBack(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	prefix := func(family string) netip.Prefix {
		b := make([]byte, addressIn[family].size)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		a, _ := netip.AddrFromSlice(b)
		p, _ := a.Prefix(1 + rnd.IntN(a.BitLen()))
		return p
	}
	for range 3000 {
		r := rule{at: place{families[rnd.IntN(2)], "t", "c", rnd.IntN(2) == 0}, masquerade: rnd.IntN(2) == 0}
		for _, dev := range []*string{&r.in, &r.out} {
			if rnd.IntN(2) == 0 {
				*dev = fmt.Sprint("eth", rnd.IntN(1e6))
			}
		}
		for _, p := range []*netip.Prefix{&r.from, &r.to} {
			if rnd.IntN(2) == 0 {
				*p = prefix(r.at.family)
			}
		}
		if r.masquerade && !r.at.legacy && rnd.IntN(2) == 0 {
			r.as = prefix(r.at.family).Addr()
		}
		l := line{}
		if r.at.legacy {
			l = decodeEntry(r.at, encodeEntry(r, ours.Tag))
		} else {
			l = decode(r.at, encode(r))
		}
		if l.rule != r || r.at.legacy && l.comment != comment(ours.Tag) {
			t.Fatalf("%v is read back as %v, %q", r, l.rule, l.comment)
		}
	}
}

// TestDockerd lets a real engine make the rules: the one of this machine, or the one that LAB_DOCKERD names.
func TestDockerd(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath(dockerd()); err != nil {
		t.Skip("no dockerd here")
	}
	for _, backend := range []Backend{IPTablesNFT, IPTablesLegacy} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			testDockerd(t, labFor(t, backend), backend)
		})
	}
}

func dockerd() string { return cmp.Or(os.Getenv("LAB_DOCKERD"), "dockerd") }

func testDockerd(t *testing.T, l *lab, backend Backend) {
	l.vmRun("", "sysctl", "-qw", "net.ipv4.ip_forward=0") // dockerd closes the policy only if it opens this
	l.vmRun("", "ip", "link", "del", "docker0")
	stop := l.dockerd(t)
	l.vmRun("", "ip", "link", "set", "veth1", "master", "docker0")
	before := l.rules()
	l.wantClosed("192.168.93.1", web)
	l.mustAdmit(ours, backend, true)
	l.wantOpen("192.168.93.1", web)
	const shown = `-m comment --comment "fairlead:0123abcd" -j ACCEPT`
	if opened := l.rules(); strings.Count(opened, shown) != 2 {
		t.Errorf("iptables-save does not show our rules:\n%s", opened)
	}
	l.release(ours.Tag)
	l.wantRules(before)

	l.wantClosed("192.168.93.1", web)

	l.mustAdmit(ours, backend, true)
	stop()
	stop = l.dockerd(t)
	if after := l.rules(); strings.Count(after, shown) != 2 {
		t.Errorf("our rules did not survive the engine's restart:\n%s", after)
	}
	l.mustAdmit(ours, backend, false)
	l.wantOpen("192.168.93.1", web)
	l.release(ours.Tag)
	// A restarted engine makes its own chains in another order.
	if after := l.rules(); !slices.Equal(sortedLines(after), sortedLines(before)) {
		t.Errorf("the rules are now\n%s\nand were\n%s", after, before)
	}
	stop()
}

func sortedLines(s string) []string { return slices.Sorted(strings.Lines(s)) }

// dockerd starts an engine in the VM and returns when its API answers.
func (l *lab) dockerd(t *testing.T) (stop func()) {
	dir, err := os.MkdirTemp("", "fairlead-dockerd-") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "docker.sock")
	cmd := exec.Command("nsenter", "--net=/run/netns/"+l.vm, dockerd(), "-H", "unix://"+socket,
		"--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid",
		"--containerd-namespace", l.vm, "--containerd-plugins-namespace", l.vm+"-p")
	cmd.Stdout, cmd.Stderr = log, log
	if l.kind != "" {
		for _, name := range []string{"iptables", "ip6tables"} {
			if err := os.Symlink("/usr/sbin/xtables-legacy-multi", filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cmd.Process.Signal(syscall.SIGTERM)
			cmd.Wait()
			log.Close()
			// Its containerd writes there for a moment longer.
			for deadline := time.Now().Add(30 * time.Second); os.RemoveAll(dir) != nil && time.Now().Before(deadline); {
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
	t.Cleanup(stop)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if exec.Command("docker", "-H", "unix://"+socket, "version").Run() == nil {
			return stop
		}
		if time.Now().After(deadline) {
			out, _ := os.ReadFile(log.Name())
			t.Fatalf("dockerd does not come up:\n%s", out)
		}
	}
}
