package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/lab"
)

// Two hosts have one engine: each is served, and what one does and takes back is nothing to the other's connections.
func TestTwoHosts(t *testing.T) {
	t.Parallel()
	for _, sealed := range []bool{false, true} {
		t.Run(reachName(sealed), func(t *testing.T) {
			t.Parallel()
			one, two := newHost(t), newHost(t)
			vm := one.StartVM(t, lab.VMOptions{Sealed: sealed, TCP: !sealed})
			one.watch(vm.URL())
			if sealed {
				two.watch(vm.URL())
			} else {
				if err := vm.Join(t.Context(), two.World, "vboxnet0", netip.MustParsePrefix("192.168.150.1/24")); err != nil {
					t.Fatal(err)
				}
				two.watch("tcp://192.168.150.2:2375")
			}
			docker(t, vm, "network", "create", "user")
			docker(t, vm, "run", "-d", "--name", "web", "--network", "user", "web")
			addr := netip.MustParseAddr(address(t, vm, "user", "web"))
			nobody, oneBefore, twoBefore := sortedLines(firewall(t, vm)), one.state(), two.state()

			first := one.start("--resolver", "resolv.conf")
			one.reaches("web.docker")
			held := one.hold(addr)
			alone := sortedLines(firewall(t, vm))
			unmoved := func(what string) {
				t.Helper()
				if err := echoed(held, noise(100)); err != nil {
					t.Errorf("the first host's connection after the second one %s: %v", what, err)
				}
				one.reaches("web.docker")
				if now := sortedLines(firewall(t, vm)); now != alone {
					t.Errorf("the VM after the second host %s:\n%s", what, changed(alone, now))
				}
				if now := two.state(); now != twoBefore {
					t.Errorf("the second host after it %s:\n%s", what, changed(twoBefore, now))
				}
			}

			second := two.start("--resolver", "resolv.conf")
			two.reaches("web.docker")
			one.reaches("web.docker")
			second.signal(syscall.SIGTERM)
			unmoved("was stopped")

			second = two.start("--resolver", "resolv.conf")
			two.reaches("web.docker")
			second.signal(syscall.SIGKILL)
			two.must("teardown-network")
			unmoved("was killed and cleaned up")

			if !sealed {
				two.must("setup-network")
				two.ping(addr.String())
				two.must("teardown-network")
				unmoved("had its network set up and torn down")
			}

			second = two.start("--resolver", "resolv.conf")
			two.reaches("web.docker")
			first.signal(syscall.SIGKILL)
			one.must("teardown-network")
			two.reaches("web.docker")
			if now := one.state(); now != oneBefore {
				t.Errorf("the first host after its teardown:\n%s", changed(oneBefore, now))
			}
			second.signal(syscall.SIGTERM)
			if now := sortedLines(firewall(t, vm)); now != nobody {
				t.Errorf("the VM when both are gone:\n%s", changed(nobody, now))
			}
			if left := docker(t, vm, "ps", "-aq", "--filter", "label=fairlead.pilot") + docker(t, vm, "images", "-q", "localhost/fairlead-pilot"); left != "" {
				t.Errorf("the engine still has %s", left)
			}
		})
	}
}

// hold opens a connection to a container's echo that lasts as long as the test.
func (h *host) hold(to netip.Addr) net.Conn {
	h.t.Helper()
	conn, err := h.Dial(context.Background(), "tcp", netip.AddrPortFrom(to, 7))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	if err := echoed(conn, noise(100)); err != nil {
		h.t.Fatal(err)
	}
	return conn
}

// Whatever happens to a VM, it is reached again by itself, and a connection lives through what did not end the container
// or change its address.
func TestVMChanges(t *testing.T) {
	t.Parallel()
	for _, sealed := range []bool{false, true} {
		t.Run(reachName(sealed), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			vm := h.StartVM(t, lab.VMOptions{Sealed: sealed, TCP: !sealed, Disk: true, Args: []string{"--live-restore"}})
			url := vm.URL()
			if !sealed { // as a name, whose address may change
				url = "tcp://machine.test:2375"
				h.named(vm.Addr())
			}
			h.watch(url)
			docker(t, vm, "run", "-d", "--restart", "always", "--name", "web", "--hostname", "web", "web")
			before := h.state()
			r := h.start("--resolver", "none")
			h.serves("web")
			addr := func() netip.Addr { return netip.MustParseAddr(address(t, vm, "bridge", "web")) }
			ctx := t.Context()
			do := func(steps ...error) {
				t.Helper()
				for _, err := range steps {
					if err != nil {
						t.Fatal(err)
					}
				}
			}

			survives := func(name string, change func(t *testing.T, conn net.Conn)) {
				t.Run(name, func(t *testing.T) {
					conn := h.in(t).hold(addr())
					change(t, conn)
					h.in(t).serves("web")
					if err := echoed(conn, noise(100)); err != nil {
						t.Errorf("a connection did not survive: %v", err)
					}
				})
			}
			survives("the engine restarts", func(*testing.T, net.Conn) { do(vm.StopDockerd(ctx), vm.StartDockerd(ctx)) })
			if sealed {
				survives("the engine is killed", func(*testing.T, net.Conn) { do(vm.KillDockerd(ctx), vm.StartDockerd(ctx)) })
				survives("the pilot is killed", func(t *testing.T, _ net.Conn) { must(vm.Run(ctx, "pkill", "-KILL", "-x", "pilot"))(t) })
			} else {
				survives("the VM's link flaps", func(*testing.T, net.Conn) { do(vm.LinkDown(ctx), vm.LinkUp(ctx)) })
				survives("the VM has another address", func(t *testing.T, _ net.Conn) {
					do(vm.SetAddr(ctx, netip.MustParseAddr("192.168.99.101")))
					h.named(vm.Addr())
					h.in(t).eventually("it goes by the new address", func() error { // the old one leads there while it is cached
						if e := h.status().Engines[0]; e.Reach.Via != vm.Addr() || e.Pilot == nil || !e.Pilot.Open {
							return fmt.Errorf("%+v", e)
						}
						return nil
					})
				})
			}
			survives("the agent restarts", func(t *testing.T, conn net.Conn) {
				r.signal(syscall.SIGTERM)
				if _, err := conn.Write([]byte("x")); err != nil { // there is no way now, and TCP goes on trying
					t.Error(err)
				}
				r = h.start("--resolver", "none") // it is to outlive this subtest
				if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
					t.Error(err)
				}
			})
			survives("the host sleeps", func(t *testing.T, _ net.Conn) { // to the agent it is all the same why it does not run
				h := h.in(t)
				h.status() // while somebody looks it looks at its clocks often, and a real sleep the kernel tells of
				do(r.cmd.Process.Signal(syscall.SIGSTOP))
				h.eventually("the pilot gives it up", func() error {
					if left := docker(t, vm, "ps", "-q", "--filter", "label=fairlead.pilot"); left != "" {
						return errors.New("not yet")
					}
					return nil
				})
				if !sealed {
					do(vm.SetAddr(ctx, netip.MustParseAddr("192.168.99.102")))
					h.named(vm.Addr())
				}
				do(r.cmd.Process.Signal(syscall.SIGCONT))
				h.eventually("it wakes, and looks for its way anew", func() error {
					e := h.status().Engines[0]
					if !strings.Contains(r.log.String(), "this host slept") || e.Pilot == nil || !e.Pilot.Open || !sealed && e.Reach.Via != vm.Addr() {
						return fmt.Errorf("%+v", e)
					}
					return nil
				})
			})
			t.Run("the VM is off and on again", func(t *testing.T) {
				do(vm.PowerOff(ctx), vm.PowerOn(ctx))
				h.in(t).serves("web")
			})

			r.signal(syscall.SIGTERM)
			if !sealed {
				h.named(netip.MustParseAddr("192.168.99.100"))
			}
			if after := h.state(); after != before {
				t.Errorf("the host is not as before:\n%s", changed(before, after))
			}
			if now := firewall(t, vm); strings.Contains(now, "fairlead") {
				t.Errorf("left in the VM:\n%s", now)
			}
		})
	}
}

// named makes machine.test the name of an address on this host.
func (h *host) named(addr netip.Addr) {
	h.t.Helper()
	must(h.Run(context.Background(), "sh", "-c", "echo "+addr.String()+" machine.test >/etc/hosts.new && mv /etc/hosts.new /etc/hosts"))(h.t)
}

// serves asks until our DNS server tells a container's address, and that one serves.
func (h *host) serves(name string) {
	h.t.Helper()
	h.eventually(name+" serves", func() error {
		addr := h.dig(name+".docker", "A")
		out, err := h.Run(context.Background(), "curl", "-sS", "--max-time", "2", "http://"+addr)
		if err == nil && !strings.HasPrefix(out, name+"\n") {
			err = fmt.Errorf("it is %q", out)
		}
		return err
	})
}
