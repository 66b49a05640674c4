package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/internal/lab"
	"github.com/fairlead-dev/fairlead/platform"
)

// podmand is a program that takes dockerd's arguments, as far as the lab gives them, and serves Podman's API by run.
func podmand(t *testing.T, run string) string {
	t.Helper()
	if _, err := exec.LookPath("podman"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	program := filepath.Join(t.TempDir(), "podmand")
	script := `#!/bin/sh
for a; do case $a in
--host=unix://*) host=${a#--host=unix://} ;;
--data-root=*) root=${a#*=} ;;
--exec-root=*) run=${a#*=} ;;
esac; done
` + run + ` podman --root "$root" --runroot "$run" --storage-driver vfs --cgroup-manager cgroupfs system service --time 0 "unix://$host"
`
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return program
}

// Podman's containers are reached both ways; its internal networks let no answer out, and status says so.
func TestPodman(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{Dockerd: podmand(t, "exec")})
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

// A Podman that runs without root has no rights over its machine's network to lend: that is said, with what to do.
func TestRootlessPodman(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{Sealed: true, Dockerd: podmand(t, `
echo ann:x:4711:4711::/opt/ann:/bin/sh >>/etc/passwd; echo ann:x:4711: >>/etc/group
for f in subuid subgid; do echo ann:500000:65536 >>/etc/$f; done
mkdir -p "$root" "$run" /run/user/4711 /opt/ann
chown -R 4711:4711 "$root" "$run" /run/user/4711 /opt/ann "$(dirname "$host")"
chmod 755 "$(dirname "$root")"
exec setpriv --reuid 4711 --regid 4711 --clear-groups env HOME=/opt/ann XDG_RUNTIME_DIR=/run/user/4711`)})
	h.watch(vm.URL())
	h.start("--resolver", "none")
	h.eventually("the refusal is clear", func() error {
		p := h.status().Engines[0].Pilot
		if p == nil || !strings.Contains(p.Error, "/dev/net/tun") || !strings.Contains(p.Hint, "rootless") || !strings.Contains(p.Hint, "podman machine set --rootful") {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	h.eventually("the pilots are gone", func() error {
		if left := docker(t, vm, "ps", "-q"); left != "" {
			return errors.New(left)
		}
		return nil
	})
}
