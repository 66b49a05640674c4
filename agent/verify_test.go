package agent

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-dev/fairlead/agent/engine"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// listener is a TCP port of this host where somebody listens, and closed one where nobody does.
func listener(t *testing.T) (open, closed uint16) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port), uint16(gone.Addr().(*net.TCPAddr).Port)
}

// Only what is said to be reachable is asked; an open port is an answer; a VM alone proves nothing about containers.
func TestVerify(t *testing.T) {
	open, _ := listener(t)
	web := Peer{Addr: loopback, Of: "container web", TCP: []uint16{open}}
	vm := Peer{Addr: loopback, Of: "the VM", VM: true, TCP: []uint16{open}}
	proofs := Verify(t.Context(), []Subnet{
		{State: Installed, Peers: []Peer{web, vm}},
		{State: Native, Peers: []Peer{vm}},
		{State: Foreign},
		{State: Refused, Peers: []Peer{web}},
	})
	var got []Result
	for _, p := range proofs {
		got = append(got, p.Result)
	}
	if d := cmp.Diff([]Result{Answered, Unproven, Unproven, ""}, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if p := proofs[0]; p.From != loopback || p.Of != "container web" || p.RTT <= 0 || p.At.IsZero() || !strings.HasPrefix(p.String(), "127.0.0.1 answered in ") {
		t.Errorf("the proof says %+v, %q", p, p)
	}
	if s := proofs[1].String(); !strings.Contains(s, "the VM answered at 127.0.0.1") {
		t.Errorf("a VM alone says %q", s)
	}
}

// A refusal proves nothing: a firewall on the way gives one, too. Nor does the end of patience.
func TestAskIsNotFooled(t *testing.T) {
	_, closed := listener(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nobody has time to answer a ping
	p := ask(ctx, []Peer{{Addr: loopback, Of: "container web", TCP: []uint16{closed}}})
	if p.Result == Answered || p.Why == "" {
		t.Errorf("got %+v", p)
	}
}

// Whatever an engine has, each subnet has somebody of its own to ask, the containers first.
func TestAskable(t *testing.T) {
	w := &watched{containers: &engine.Store{}, networks: []engine.Network{
		{ID: "n1", Name: "bridge", Gateways: []netip.Addr{netip.MustParseAddr("172.17.0.1"), netip.MustParseAddr("fd00::1")}},
		{ID: "n2", Name: "empty", Gateways: []netip.Addr{netip.MustParseAddr("172.18.0.1")}},
	}}
	w.cfg.Name = "dev"
	for i := range 9 {
		id := string(rune('a' + i))
		w.containers.Put(engine.Container{ID: id, Name: id, Ports: []engine.Port{{Number: 53, Proto: "udp"}, {Number: 80, Proto: "tcp"}}, Endpoints: []engine.Attachment{{
			NetworkID: "n1", Addrs: []netip.Addr{netip.AddrFrom4([4]byte{172, 17, 0, byte(2 + i)}), netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(2 + i)})},
		}}})
	}
	subnets := []Subnet{
		{Engine: "dev", NetworkID: "n1", Prefix: netip.MustParsePrefix("172.17.0.0/16"), State: Installed},
		{Engine: "dev", NetworkID: "n1", Prefix: netip.MustParsePrefix("fd00::/64"), State: Native},
		{Engine: "dev", NetworkID: "n2", Prefix: netip.MustParsePrefix("172.18.0.0/16"), State: Installed},
		{Engine: "dev", NetworkID: "n1", Prefix: netip.MustParsePrefix("10.0.0.0/8"), State: Refused},
		{Engine: "other", NetworkID: "n1", Prefix: netip.MustParsePrefix("172.17.0.0/16"), State: Installed},
	}
	w.askable(subnets)
	for i, want := range []struct{ containers, vms int }{{maxPeers, 1}, {maxPeers, 1}, {0, 1}, {0, 0}, {0, 0}} {
		s := subnets[i]
		var containers, vms int
		for j, p := range s.Peers {
			if !s.Prefix.Contains(p.Addr) {
				t.Errorf("%v is asked at %v", s, p.Addr)
			}
			if p.VM {
				vms++
			} else if containers++; j > 0 && s.Peers[j-1].VM {
				t.Errorf("%v: a container comes after the VM", s)
			} else if d := cmp.Diff([]uint16{80}, p.TCP); d != "" {
				t.Errorf("%v: ports -want +got:\n%s", s, d)
			}
		}
		if containers != want.containers || vms != want.vms {
			t.Errorf("%v has %d containers and %d VMs to ask, want %+v", s, containers, vms, want)
		}
	}
}
