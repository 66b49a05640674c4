package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/internal/lab"
)

const viaVM = " via 192.168.99.100 dev vboxnet0 "

func (h *host) hasRoute(dst string) error {
	h.t.Helper()
	rows, err := h.Routes(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	for _, r := range rows {
		if strings.HasPrefix(r+" ", dst+viaVM) {
			return nil
		}
	}
	return fmt.Errorf("no route to %s in:\n%s", dst, strings.Join(rows, "\n"))
}

func (h *host) lacksRoute(dst string) error {
	if h.hasRoute(dst) == nil {
		return fmt.Errorf("there is a route to %s", dst)
	}
	return nil
}

func (h *host) state() string {
	h.t.Helper()
	s, err := h.State(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

func firewall(t testing.TB, vm *lab.VM) string {
	t.Helper()
	s, err := vm.Firewall(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func address(t testing.TB, vm *lab.VM, network, container string) string {
	t.Helper()
	return docker(t, vm, "inspect", "-f", fmt.Sprintf(`{{(index .NetworkSettings.Networks %q).IPAddress}}`, network), container)
}

func sortedLines(s string) string {
	return strings.Join(slices.Sorted(strings.Lines(s)), "")
}

// Names and routes follow what people do with docker; afterwards host and VM are as before.
func TestFollowsTheEngine(t *testing.T) {
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{TCP: true})
	h.watch("dev=" + vm.URL())
	docker(t, vm, "run", "--rm", "web", "exit", "0") // newer engines make tables with the first container, and keep them
	hostBefore, vmBefore := h.state(), firewall(t, vm)
	r := h.start("--resolver", "resolv.conf")

	docker(t, vm, "run", "-d", "--name", "web", "web")
	web := address(t, vm, "bridge", "web")
	h.answersAt53("web.docker", web)
	h.ping("web.docker") // through the host's own resolver
	if out, err := h.Run(t.Context(), "curl", "-sS", "--max-time", "20", "http://web.docker/"); err != nil || !strings.HasPrefix(out, docker(t, vm, "inspect", "-f", "{{.Config.Hostname}}", "web")) {
		t.Fatalf("curl: %v %q", err, out)
	}

	t.Run("types", func(t *testing.T) {
		h := h.in(t)
		for _, q := range []struct{ name, qtype, status, answer string }{
			{"web.docker", "A", "NOERROR", web},
			{"WEB.docker", "A", "NOERROR", web},
			{"web.docker", "AAAA", "NOERROR", ""},
			{"web.docker", "MX", "NOERROR", ""},
			{"nobody.docker", "A", "NXDOMAIN", ""},
			{"docker", "SOA", "NOERROR", "ns.docker."},
			{"example.org", "A", "REFUSED", ""},
		} {
			for _, transport := range []string{"+notcp", "+tcp"} {
				out, err := h.Run(t.Context(), "dig", "@127.0.0.1", transport, "+tries=1", q.name, q.qtype)
				if err != nil || !strings.Contains(out, "status: "+q.status) || !strings.Contains(out, q.answer) {
					t.Errorf("dig %s %s %s: %v\n%s", transport, q.name, q.qtype, err, out)
				}
			}
		}
	})

	t.Run("new network", func(t *testing.T) {
		h := h.in(t)
		docker(t, vm, "network", "create", "--subnet", "172.30.5.0/24", "shop")
		docker(t, vm, "run", "-d", "--name", "db", "--network", "shop", "--network-alias", "store", "web")
		db := address(t, vm, "shop", "db")
		for _, name := range []string{"db.docker", "db.shop.docker", "store.docker"} {
			h.answersAt53(name, db)
		}
		if err := h.hasRoute("172.30.5.0/24"); err != nil {
			t.Error(err)
		}
		h.ping("db.docker")
	})

	t.Run("rename", func(t *testing.T) {
		h := h.in(t)
		docker(t, vm, "rename", "db", "base")
		h.answersAt53("base.docker", address(t, vm, "shop", "base"))
		h.answersAt53("db.docker", "")
	})

	t.Run("connect and disconnect", func(t *testing.T) {
		h := h.in(t)
		docker(t, vm, "network", "connect", "shop", "web")
		onShop := address(t, vm, "shop", "web")
		h.answersAt53("web.shop.docker", onShop)
		h.ping("web.shop.docker")
		docker(t, vm, "network", "disconnect", "shop", "web")
		h.answersAt53("web.shop.docker", "")
		h.answersAt53("web.docker", web)
	})

	t.Run("stop and start", func(t *testing.T) {
		h := h.in(t)
		docker(t, vm, "stop", "-t", "1", "web")
		h.answersAt53("web.docker", "")
		docker(t, vm, "start", "web")
		h.answersAt53("web.docker", address(t, vm, "bridge", "web"))
	})

	t.Run("a start that fails leaves no name", func(t *testing.T) {
		h := h.in(t)
		if _, err := vm.Docker(t.Context(), "run", "-d", "--name", "broken", "--entrypoint", "/nothing", "web"); err == nil {
			t.Fatal("it started")
		}
		h.answersAt53("broken.docker", "")
		docker(t, vm, "rm", "broken")
	})

	t.Run("network removed", func(t *testing.T) {
		h := h.in(t)
		docker(t, vm, "rm", "-f", "base")
		h.answersAt53("base.docker", "")
		docker(t, vm, "network", "rm", "shop")
		h.eventually("route goes", func() error { return h.lacksRoute("172.30.5.0/24") })
	})

	r.signal(syscall.SIGTERM)
	docker(t, vm, "rm", "-f", "web")
	if after := h.state(); after != hostBefore {
		t.Errorf("the host is not as before:\n%s\nbefore:\n%s", after, hostBefore)
	}
	if after := firewall(t, vm); sortedLines(after) != sortedLines(vmBefore) { // the engine put its own chains in another order
		t.Errorf("the VM's firewall is not as before:\n%s\nbefore:\n%s", after, vmBefore)
	}
	if out := docker(t, vm, "ps", "-aq"); out != "" {
		t.Errorf("containers left: %s", out)
	}
	if out := docker(t, vm, "images", "-q", "localhost/fairlead-pilot"); out != "" {
		t.Errorf("images left: %s", out)
	}
}

func (h *host) answersAt53(name, want string) {
	h.t.Helper()
	h.eventually("dig "+name, func() error {
		out, err := h.Run(context.Background(), "dig", "@127.0.0.1", "+short", "+tries=3", "+time=10", name)
		if got := strings.TrimSpace(out); err != nil || got != want {
			return fmt.Errorf("got %q (%v), want %q", got, err, want)
		}
		return nil
	})
}

// setup-network then teardown-network leave host and VM as they were; twice the same is the same.
func TestSetupAndTeardown(t *testing.T) {
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{TCP: true})
	h.watch(vm.URL())
	docker(t, vm, "run", "-d", "--name", "web", "web")
	ip := address(t, vm, "bridge", "web")
	hostBefore, vmBefore := h.state(), firewall(t, vm)

	if out := h.must("setup-network", "--dry-run"); !strings.Contains(out, "would add") {
		t.Errorf("dry run says:\n%s", out)
	}
	if h.state() != hostBefore || firewall(t, vm) != vmBefore {
		t.Error("the dry run changed something")
	}
	for range 2 {
		if out := h.must("setup-network"); !strings.Contains(out, ip+" answered in") {
			t.Errorf("not verified:\n%s", out)
		}
		h.ping(ip)
	}

	h.must("teardown-network")
	if after := h.state(); after != hostBefore {
		t.Errorf("the host is not as before:\n%s\nbefore:\n%s", after, hostBefore)
	}
	if after := firewall(t, vm); after != vmBefore {
		t.Errorf("the VM's firewall is not as before:\n%s\nbefore:\n%s", after, vmBefore)
	}
	if out := h.must("teardown-network"); !strings.Contains(out, "nothing to undo") {
		t.Errorf("a second teardown says: %s", out)
	}

	t.Run("the VM stays open when its engine restarts", func(t *testing.T) {
		h := h.in(t)
		h.must("setup-network")
		if err := vm.StopDockerd(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := vm.StartDockerd(t.Context()); err != nil {
			t.Fatal(err)
		}
		docker(t, vm, "start", "web")
		h.eventually("ping", func() error {
			_, err := h.Run(t.Context(), "ping", "-c1", "-w20", address(t, vm, "bridge", "web"))
			return err
		})
		h.must("teardown-network")
		if after := h.state(); after != hostBefore {
			t.Errorf("the host is not as before:\n%s\nbefore:\n%s", after, hostBefore)
		}
		if now := firewall(t, vm); strings.Contains(now, "fairlead") {
			t.Errorf("left in the VM:\n%s", now)
		}
	})
}

// Whatever is done to our routes, to the link and to the engine, the host comes back in step.
func TestFaults(t *testing.T) {
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{TCP: true})
	h.watch(vm.URL())
	docker(t, vm, "run", "-d", "--name", "web", "web")
	ip := address(t, vm, "bridge", "web")
	hostBefore := h.state()
	r := h.start("--resolver", "none")
	h.answers("web.docker", ip)
	ctx := t.Context()

	t.Run("route deleted", func(t *testing.T) {
		h := h.in(t)
		if err := h.DeleteRoute(ctx, netip.MustParsePrefix("172.17.0.0/16")); err != nil {
			t.Fatal(err)
		}
		h.eventually("route is back", func() error { return h.hasRoute("172.17.0.0/16") })
	})

	t.Run("link bounced", func(t *testing.T) {
		h := h.in(t)
		for _, state := range []string{"down", "up"} {
			if _, err := h.Run(ctx, "ip", "link", "set", vm.HostDev(), state); err != nil {
				t.Fatal(err)
			}
		}
		h.eventually("route is back", func() error { return h.hasRoute("172.17.0.0/16") })
		h.answers("web.docker", ip)
	})

	t.Run("pilot killed", func(t *testing.T) {
		h := h.in(t)
		name := docker(t, vm, "ps", "--filter", "label=fairlead.pilot", "--format", "{{.Names}}")
		docker(t, vm, "kill", "-s", "KILL", name)
		h.eventually("a new pilot", func() error {
			out, err := vm.Docker(ctx, "ps", "-q", "--filter", "label=fairlead.pilot")
			if err == nil && strings.TrimSpace(out) == "" {
				err = errors.New("none")
			}
			return err
		})
		h.ping(ip)
	})

	t.Run("engine hangs", func(t *testing.T) {
		h := h.in(t)
		if err := vm.PauseDockerd(ctx); err != nil {
			t.Fatal(err)
		}
		h.eventually("it is noticed", func() error {
			if s := h.status(); s.Engines[0].Up {
				return errors.New("engine is up")
			}
			return nil
		})
		if err := h.hasRoute("172.17.0.0/16"); err != nil {
			t.Error("something was deleted on ignorance:", err)
		}
		if err := vm.ResumeDockerd(); err != nil {
			t.Fatal(err)
		}
		h.eventually("it is back", func() error {
			if s := h.status(); !s.Engines[0].Up {
				return errors.New(s.Engines[0].Error)
			}
			return nil
		})
	})

	t.Run("engine restarts", func(t *testing.T) {
		h := h.in(t)
		if err := vm.KillDockerd(ctx); err != nil {
			t.Fatal(err)
		}
		if err := vm.StartDockerd(ctx); err != nil {
			t.Fatal(err)
		}
		docker(t, vm, "start", "web")
		docker(t, vm, "run", "-d", "--name", "second", "web")
		h.answers("web.docker", address(t, vm, "bridge", "web"))
		h.answers("second.docker", address(t, vm, "bridge", "second"))
		h.eventually("open again", func() error {
			_, err := h.Run(ctx, "ping", "-c1", "-w20", address(t, vm, "bridge", "second"))
			return err
		})
		docker(t, vm, "rm", "-f", "second")
	})

	t.Run("paused by teardown-network, resumed by setup-network", func(t *testing.T) {
		h := h.in(t)
		h.must("teardown-network")
		if after := h.state(); after != hostBefore {
			t.Errorf("the host is not as before:\n%s\nbefore:\n%s", after, hostBefore)
		}
		if got := h.dig("web.docker", "A"); got != "" {
			t.Errorf("still answered: %s", got)
		}
		h.must("setup-network")
		h.answers("web.docker", address(t, vm, "bridge", "web"))
		h.ping(address(t, vm, "bridge", "web"))
	})

	t.Run("agent killed", func(t *testing.T) {
		h := h.in(t)
		r.signal(syscall.SIGKILL)
		h.eventually("nothing of ours is left in the VM", func() error {
			if now := firewall(t, vm); strings.Contains(now, "fairlead") || strings.Contains(now, "192.168.99.1") {
				return errors.New(now)
			}
			return nil
		})
		if err := h.hasRoute("172.17.0.0/16"); err != nil {
			t.Error(err)
		}
		h.must("teardown-network")
		if after := h.state(); after != hostBefore {
			t.Errorf("the host is not as before:\n%s\nbefore:\n%s", after, hostBefore)
		}
	})
}

// What others made is never touched: a clash is refused and named.
func TestClashes(t *testing.T) {
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{TCP: true})
	h.watch(vm.URL())
	docker(t, vm, "network", "create", "--subnet", "10.9.1.0/24", "office")
	docker(t, vm, "network", "create", "--subnet", "172.29.0.0/16", "mine")
	ctx := t.Context()
	for _, row := range []string{"10.0.0.0/8 dev vboxnet0 proto static", "172.29.0.0/16 via 192.168.99.100 proto static"} {
		if _, err := h.Run(ctx, "ip", append([]string{"route", "add"}, strings.Fields(row)...)...); err != nil {
			t.Fatal(err)
		}
	}
	before := h.state()
	out, errs, code := h.fairlead("setup-network")
	if code != agent.ExitPartly {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	for _, want := range []string{
		"refused    10.9.1.0/24", "route 10.0.0.0/8 dev vboxnet0 (made by static) is in its way", "172.31.0.0/24 is free here",
		"foreign    172.29.0.0/16 via 192.168.99.100 dev vboxnet0",
		"installed  172.17.0.0/16 via 192.168.99.100 dev vboxnet0",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("setup-network does not say %q:\n%s", want, out)
		}
	}
	h.must("teardown-network")
	if after := h.state(); after != before {
		t.Errorf("the host is not as before:\n%s\nbefore:\n%s", after, before)
	}
}

// Killed at any moment of its work, the agent leaves nothing that teardown-network does not take back.
func TestKilledAnywhere(t *testing.T) {
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{TCP: true})
	h.watch(vm.URL())
	docker(t, vm, "run", "-d", "--name", "web", "web")
	hostBefore, vmBefore := h.state(), firewall(t, vm)
	for i := range 8 {
		r := h.start("--resolver", "resolv.conf")
		time.Sleep(time.Duration(i) * 75 * time.Millisecond) // the moment is what is tried, not awaited
		r.signal(syscall.SIGKILL)
		h.must("teardown-network")
		if after := h.state(); after != hostBefore {
			t.Fatalf("killed after %d steps, the host is not as before:\n%s\nbefore:\n%s", i, after, hostBefore)
		}
		if after := firewall(t, vm); after != vmBefore {
			t.Fatalf("killed after %d steps, the VM's firewall is not as before:\n%s\nbefore:\n%s", i, after, vmBefore)
		}
		if out := docker(t, vm, "ps", "-aq", "--filter", "label=fairlead.pilot") + docker(t, vm, "images", "-q", "localhost/fairlead-pilot"); out != "" {
			t.Fatalf("killed after %d steps, the engine still has %s", i, out)
		}
	}
}
