package e2e

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/internal/lab"
)

// everyNetwork starts a container on each kind of network that an engine has, and returns their names.
func everyNetwork(t testing.TB, vm *lab.VM) []string {
	t.Helper()
	docker(t, vm, "network", "create", "user")
	docker(t, vm, "network", "create", "--internal", "inner")
	docker(t, vm, "network", "create", "-o", "com.docker.network.bridge.enable_icc=false", "quiet")
	docker(t, vm, "run", "-d", "--name", "plain", "web")
	for _, n := range []string{"user", "inner", "quiet"} {
		docker(t, vm, "run", "-d", "--name", "on-"+n, "--network", n, "web")
	}
	docker(t, vm, "run", "-d", "--name", "both", "web")
	docker(t, vm, "network", "connect", "user", "both")
	docker(t, vm, "run", "-d", "--name", "vm", "--network", "host", "web")
	return []string{"plain.docker", "on-user.docker", "on-inner.docker", "on-quiet.docker", "both.bridge.docker", "both.user.docker", "vm.docker"}
}

// reaches proves names by ping and by HTTP through the host's own resolver.
func (h *host) reaches(names ...string) {
	h.t.Helper()
	for _, n := range names {
		h.eventually("ping "+n, func() error {
			_, err := h.Run(context.Background(), "ping", "-c1", "-w20", n)
			return err
		})
		if out, err := h.Run(context.Background(), "curl", "-sS", "--max-time", "20", "http://"+n+"/"); err != nil {
			h.t.Errorf("curl %s: %v %s", n, err, out)
		}
	}
}

// A container on any kind of network is reached by way of the VM's address.
func TestGatewayReachesEveryNetwork(t *testing.T) {
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{TCP: true})
	h.watch(vm.URL())
	names := everyNetwork(t, vm)
	h.start("--resolver", "resolv.conf")
	h.reaches(names...)
}

// A VM without any address is reached through its engine's API stream; when that ends, nothing is left on either side.
func TestTunnelReachesEveryNetwork(t *testing.T) {
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{Sealed: true})
	h.watch(vm.URL())
	names := everyNetwork(t, vm)
	hostBefore := h.state()

	out, errs, code := h.fairlead("setup-network")
	if code != agent.ExitPartly || !strings.Contains(out, "a tunnel lives as long as the agent") {
		t.Errorf("setup-network: exit %d\n%s%s", code, out, errs)
	}
	h.must("teardown-network")

	r := h.start("--resolver", "resolv.conf")
	h.reaches(names...)
	if s := h.status(); s.Engines[0].Tunnel == nil || s.Engines[0].Tunnel.Stats.Received.Packets == 0 {
		t.Errorf("status shows no tunnel: %+v", s.Engines[0])
	}

	t.Run("engine restarts", func(t *testing.T) {
		h := h.in(t)
		if err := vm.StopDockerd(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := vm.StartDockerd(t.Context()); err != nil {
			t.Fatal(err)
		}
		docker(t, vm, "start", "plain")
		h.reaches("plain.docker")
	})

	r.signal(syscall.SIGTERM)
	if after := h.state(); after != hostBefore {
		t.Errorf("the host is not as before:\n%s\nbefore:\n%s", after, hostBefore)
	}
	if now := firewall(t, vm); strings.Contains(now, "fairlead") {
		t.Errorf("left in the VM:\n%s", now)
	}

	t.Run("killed", func(t *testing.T) {
		h := h.in(t)
		r := h.start("--resolver", "none")
		h.eventually("tunnel is up", func() error {
			if s := h.status(); s.Engines[0].Pilot == nil || !s.Engines[0].Pilot.Open {
				return fmt.Errorf("%+v", s.Engines[0])
			}
			return nil
		})
		r.signal(syscall.SIGKILL)
		h.must("teardown-network")
		if after := h.state(); after != hostBefore {
			t.Errorf("the host is not as before:\n%s\nbefore:\n%s", after, hostBefore)
		}
		h.eventually("the VM is clean", func() error {
			out, err := vm.Run(context.Background(), "ip", "-br", "link")
			if err == nil && (strings.Contains(out, "flead") || strings.Contains(firewall(t, vm), "fairlead")) {
				err = fmt.Errorf("left in the VM: %s", out)
			}
			return err
		})
	})
}

// A firewall in the VM that is not the engine's is gone around where it lets answers through, and not a rule of it changes.
// Where it lets nothing through no name is given, and status says why.
func TestStrangersFirewallInTheVM(t *testing.T) {
	for _, c := range []struct {
		name  string
		rules []string
		open  bool
	}{
		{"stateful", []string{
			"nft add table inet stranger",
			"nft add chain inet stranger forward { type filter hook forward priority -1 ; policy drop ; }",
			"nft add rule inet stranger forward ct state established,related accept",
		}, true},
		{"drops all", []string{
			"nft add table inet stranger",
			"nft add chain inet stranger forward { type filter hook forward priority -1 ; policy drop ; }",
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			vm := h.StartVM(t, lab.VMOptions{TCP: true})
			h.watch(vm.URL())
			docker(t, vm, "run", "-d", "--name", "plain", "web")
			for _, rule := range c.rules {
				words := strings.Fields(rule)
				if _, err := vm.Run(t.Context(), words[0], words[1:]...); err != nil {
					t.Fatal(err)
				}
			}
			before := firewall(t, vm)
			hostBefore := h.state()
			method := "none"
			if c.open {
				method = "resolv.conf"
			}
			r := h.start("--resolver", method)
			h.eventually("status tells of the way around", func() error {
				s := h.status().Engines[0]
				if s.Tunnel == nil || s.Pilot == nil || s.Pilot.Backend != "inject" || s.Pilot.Open != c.open || (s.Pilot.Error == "") != c.open {
					return fmt.Errorf("%+v %+v", s, s.Pilot)
				}
				if !c.open && (!strings.Contains(s.Pilot.Error, "no answer comes back") || !strings.Contains(s.Pilot.Error, "not the engine's") || s.Pilot.Hint == "") {
					return fmt.Errorf("%+v", s.Pilot)
				}
				return nil
			})
			if c.open {
				docker(t, vm, "run", "-d", "--name", "later", "web")
				h.reaches("plain.docker", "later.docker")
			} else if got := h.dig("plain.docker", "A"); got != "" {
				t.Errorf("plain.docker is %s, and is not reached", got)
			}
			r.signal(syscall.SIGTERM)
			if after := h.state(); after != hostBefore {
				t.Errorf("the host is not as before:\n%s\nbefore:\n%s", after, hostBefore)
			}
			if c.open { // the engine has a rule for every container
				docker(t, vm, "rm", "-f", "later")
			}
			if after := firewall(t, vm); after != before {
				t.Errorf("the VM's firewall is not as before:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}
