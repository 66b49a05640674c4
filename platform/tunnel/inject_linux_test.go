package tunnel

import (
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// docker28 is the firewall of Engine 28 for this VM's one network.
func docker28(t testing.TB, m *vm) {
	t.Helper()
	here := strings.NewReplacer("docker0", "br0", "172.17.0.0/16", "172.30.0.0/24", "172.17.0.2", "172.30.0.2", "fd00:17::", "fd30::")
	for _, family := range []string{"iptables", "ip6tables"} {
		rules, err := os.ReadFile("../firewall/testdata/28." + family)
		if err != nil {
			t.Fatal(err)
		}
		restore := exec.Command("nsenter", "-t", strconv.Itoa(m.ns), "-n", family+"-restore")
		restore.Stdin = strings.NewReader(here.Replace(string(rules)))
		if out, err := restore.CombinedOutput(); err != nil {
			t.Fatalf("%s-restore: %v\n%s", family, err, out)
		}
	}
}

var counted = regexp.MustCompile(`\[\d+:\d+\]|(?m:^#.*$)`)

// rules are all of the VM's firewall, without what was counted.
func (m *vm) rules() string {
	m.t.Helper()
	all := m.run("iptables-save") + m.run("ip6tables-save") + m.run("nft -s list ruleset")
	return counted.ReplaceAllString(all, "")
}

// TestKernelInject goes around firewalls without a rule of its own, and tells which it cannot go around.
func TestKernelInject(t *testing.T) {
	needRoot(t)
	subnets := []netip.Prefix{netip.MustParsePrefix("172.30.0.0/24"), netip.MustParsePrefix("fd30::/64")}
	for _, c := range []struct {
		name     string
		commands []string // after Engine 28's rules
		mtu      int
		open     bool
		want     string // in the error
	}{
		{"engine 28", nil, 1500, true, ""},
		{"engine 28 on a small network", nil, 1400, true, ""},
		{"a stranger's stateful firewall", []string{
			"nft add table inet stranger",
			"nft add chain inet stranger forward { type filter hook forward priority -1 ; policy drop ; }",
			"nft add rule inet stranger forward ct state established,related accept",
		}, 1500, true, ""},
		{"a stranger drops all", []string{"iptables -I FORWARD -j DROP", "ip6tables -I FORWARD -j DROP"}, 1500, false, "no answer comes back"},
		{"a stranger drops what the VM sends", []string{"iptables -I OUTPUT -d 172.30.0.0/24 -j DROP", "ip6tables -I OUTPUT -d fd30::/64 -j DROP"}, 1500, false, "does not let the pilot send"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newVM(t, c.mtu)
			docker28(t, m)
			for _, command := range c.commands {
				m.run(command)
			}
			before := m.rules()
			l := Lead(t.Context(), m.start("+net_raw"))
			defer l.Close()
			link := kernelLink
			link.Inject = true
			tun, err := l.Tunnel(t.Context(), link)
			if err != nil {
				t.Fatal(err)
			}
			defer tun.Close()
			if err := tun.Lacks(); err != nil {
				t.Errorf("the tunnel lacks an address: %v", err)
			}
			run(t, 0, "ip route add 172.30.0.0/24 dev "+tun.Dev())
			run(t, 0, "ip route add fd30::/64 dev "+tun.Dev())
			if _, err := try(t.Context(), 0, "ping -n -c 1 -W 0.2 "+container4); err == nil {
				t.Error("a container answers that was not admitted")
			}
			r, err := l.Admit(t.Context(), Admission{Tag: link.Tag, Sources: link.Host, Subnets: subnets, Probe: addrs(container4, container6)})
			if err != nil || r.Backend != "inject" || r.Open != c.open || len(r.Rules) > 0 || r.Changed || !strings.Contains(r.Error, c.want) || (r.Error == "") != c.open {
				t.Errorf("report %+v, %v", r, err)
			}
			for _, to := range []string{"10.9.0.2", "fd09::2"} {
				run(t, 0, "ping -n -c 1 -w 20 "+to)
			}
			if c.open {
				for _, to := range []string{container4, container6} {
					run(t, 0, "ping -n -c 3 -i 0.01 -w 20 "+to)
					bulk(t, to, 5<<20, 0)
					bulk(t, to, 0, 5<<20)
					datagrams(t, to)
				}
				for _, to := range []string{"10.9.0.1", "fd09::1"} {
					if strings.Contains(c.name, "stranger") { // new connections to the host are the stranger's to refuse
						break
					}
					run(t, m.container, "ping -n -c 3 -i 0.01 -w 20 "+to)
				}
				if s := tun.Stats().Received; c.mtu == 1500 && s.Bytes/s.Packets < 2000 {
					t.Errorf("containers' segments were not joined: %d packets of %d bytes", s.Packets, s.Bytes/s.Packets)
				}
			} else if _, err := try(t.Context(), 0, "ping -n -c 1 -W 0.2 "+container4); err == nil {
				t.Error("a container answers that was reported closed")
			}
			if after := m.rules(); after != before {
				t.Errorf("the VM's firewall is now\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// TestKernelInjectWithoutTheRight has a pilot that may not open raw sockets.
func TestKernelInjectWithoutTheRight(t *testing.T) {
	m := newVM(t, 1500)
	l := Lead(t.Context(), m.start())
	defer l.Close()
	link := kernelLink
	link.Inject = true
	if _, err := l.Tunnel(t.Context(), link); err == nil || !strings.Contains(err.Error(), "raw socket") || !strings.Contains(err.Error(), "; hint: ") {
		t.Errorf("Tunnel = %v", err)
	}
	if left := devices(t, m.ns); len(left) > 0 {
		t.Errorf("left in the VM: %q", left)
	}
}
