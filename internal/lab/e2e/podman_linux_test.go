package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/internal/lab"
	"github.com/fairlead-dev/fairlead/platform"
)

// Podman's containers are reached both ways; its internal networks let no answer out, and status says so.
func TestPodman(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{Dockerd: podmand(t)})
	docker(t, vm, "network", "create", "user")
	docker(t, vm, "network", "create", "--internal", "inner")
	for c, network := range map[string]string{"plain": "podman", "on-user": "user", "on-inner": "inner"} {
		docker(t, vm, "run", "-d", "--name", c, "--network", network, "web")
	}
	before := firewall(t, vm)
	for gateway, reach := range map[string]platform.Kind{"auto": platform.Tunnel, vm.Addr().String(): platform.Gateway} {
		t.Run(string(reach), func(t *testing.T) {
			h := newHostBeside(h).in(t)
			h.watch(vm.URL())
			h.args = append(h.args, "--gateway", gateway)
			r := h.start("--resolver", "resolv.conf")
			h.reaches("plain.docker", "on-user.docker")
			s := h.status()
			if s.Engines[0].Reach.Kind != reach {
				t.Errorf("reach: %+v", s.Engines[0].Reach)
			}
			for _, n := range s.Subnets {
				if n.Network == "inner" && (n.State != agent.Closed || n.Why == "") {
					t.Errorf("the internal network: %+v", n)
				}
			}
			if out := h.must("ls"); !strings.Contains(out, "/on-inner on inner: the VM forwards nothing") || strings.Contains(out, "on-inner.docker") {
				t.Errorf("ls:\n%s", out)
			}
			h.eventually("the others are proved", func() error {
				for _, n := range h.status().Subnets {
					if n.Network != "inner" && n.Verified.Result != agent.Answered {
						return fmt.Errorf("%+v", n)
					}
				}
				return nil
			})
			r.signal(syscall.SIGTERM)
			if after := firewall(t, vm); after != before {
				t.Errorf("the VM's firewall:\n%s", changed(before, after))
			}
		})
	}
}
