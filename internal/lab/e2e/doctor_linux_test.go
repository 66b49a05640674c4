package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/agent/doctor"
	"github.com/fairlead-dev/fairlead/internal/lab"
)

// report runs doctor or trace and reads what it says.
func (h *host) report(args ...string) (r doctor.Report) {
	h.t.Helper()
	out, errs, code := h.fairlead(append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		h.t.Fatalf("%v: exit %d, %v\n%s%s", args, code, err, out, errs)
	}
	if code != 0 == r.OK || code > 1 {
		h.t.Fatalf("%v: exit %d, ok %v", args, code, r.OK)
	}
	return r
}

// names waits until doctor, or trace, names this link and no other; "" for none. It returns the command that mends it.
func (h *host) names(link string, args ...string) (hint string) {
	h.t.Helper()
	h.within(time.Minute, strings.Join(args, " ")+" names "+link, func() error {
		r := h.report(args...)
		var red []string
		var walk func(checks []doctor.Check)
		walk = func(checks []doctor.Check) {
			for _, c := range checks {
				if c.State == doctor.Fail {
					red = append(red, c.Name)
					hint = c.Hint
				}
				walk(c.Checks)
			}
		}
		walk(r.Checks)
		if strings.Join(red, ", ") != link {
			return fmt.Errorf("%q fail:\n%v", red, r)
		}
		return nil
	})
	return hint
}

// paste runs a command that was printed as a mend.
func (h *host) paste(hint string) {
	h.t.Helper()
	command := strings.TrimPrefix(hint, "sudo ")
	if args, ours := strings.CutPrefix(command, "fairlead "); ours {
		h.must(strings.Fields(args)...)
		return
	}
	if _, err := h.Run(context.Background(), "sh", "-c", command); err != nil {
		h.t.Fatalf("the mend does not work: %v", err)
	}
}

// Each link is broken in turn: doctor and trace name that one, and what they say mends it.
func TestDoctor(t *testing.T) {
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{TCP: true})
	h.watch("dev=" + vm.URL())
	docker(t, vm, "run", "-d", "--name", "web", "web")
	ctx := t.Context()

	if hint := h.names("agent", "doctor"); hint != "sudo fairlead install" {
		t.Errorf("the mend of a missing agent is %q", hint)
	}
	h.names("agent", "trace", "web.docker")

	r := h.start("--resolver", "resolv.conf")
	h.names("", "doctor")
	h.names("", "trace", "web.docker")
	h.names("", "trace", "www.web.docker")
	h.names("", "trace", address(t, vm, "bridge", "web"))
	if hint := h.names("container", "trace", "wbe.docker"); hint != "fairlead trace web.docker" {
		t.Errorf("who misspells is told %q", hint)
	}

	t.Run("engine stopped", func(t *testing.T) {
		h := h.in(t)
		if err := vm.StopDockerd(ctx); err != nil {
			t.Fatal(err)
		}
		if hint := h.names("engine dev", "doctor"); hint != "docker -H "+vm.URL()+" version" {
			t.Errorf("the mend is %q", hint)
		}
		h.names("engine dev", "trace", "nobody.docker")
		if err := vm.StartDockerd(ctx); err != nil {
			t.Fatal(err)
		}
		docker(t, vm, "start", "web")
		h.names("", "doctor")
		h.names("", "trace", "web.docker")
	})

	t.Run("firewall closed", func(t *testing.T) {
		h := h.in(t)
		for _, rule := range []string{"add table inet stranger", "add chain inet stranger forward { type filter hook forward priority 5 ; policy drop ; }"} {
			if _, err := vm.Run(ctx, "nft", strings.Fields(rule)...); err != nil {
				t.Fatal(err)
			}
		}
		h.within(time.Minute, "doctor and trace see that nothing comes back", func() error {
			for _, args := range [][]string{{"doctor"}, {"trace", "web.docker"}} {
				b := h.report(args...).Broken
				if b == nil || b.Name != "packet" && b.Name != "pilot" || b.Hint == "" {
					return fmt.Errorf("%v: %+v", args, b)
				}
			}
			return nil
		})
		if _, err := vm.Run(ctx, "nft", "delete", "table", "inet", "stranger"); err != nil {
			t.Fatal(err)
		}
		h.fairlead("setup-network")
		h.names("", "doctor")
	})

	t.Run("resolver entry edited", func(t *testing.T) {
		h := h.in(t)
		conf := h.Root() + "/etc/resolv.conf"
		b, err := os.ReadFile(conf)
		if err != nil {
			t.Fatal(err)
		}
		edited := strings.Replace(string(b), "nameserver 127.0.0.1\n", "nameserver 127.0.0.9\n", 1)
		if err := os.WriteFile(conf, []byte(edited), 0o644); err != nil {
			t.Fatal(err)
		}
		hint := h.names("entry resolv.conf", "doctor")
		h.names("entry resolv.conf", "trace", "web.docker")
		h.paste(hint)
		h.names("", "doctor")
		h.names("", "trace", "web.docker")
	})

	t.Run("agent killed", func(t *testing.T) {
		h := h.in(t)
		r.signal(syscall.SIGKILL)
		h.eventually("doctor names the entry that is left", func() error {
			d := h.report("doctor")
			for _, c := range d.Checks {
				if c.Name == "resolver" && c.State == doctor.Fail && c.Hint == "sudo fairlead teardown-network" {
					return nil
				}
			}
			return fmt.Errorf("%v", d)
		})
		h.paste("sudo fairlead teardown-network")
		h.names("agent", "doctor")
	})

	t.Run("route deleted", func(t *testing.T) {
		h := h.in(t)
		h.must("setup-network")
		h.names("", "doctor") // setup-network is enough
		h.names("", "trace", address(t, vm, "bridge", "web"))
		if err := h.DeleteRoute(ctx, netip.MustParsePrefix("172.17.0.0/16")); err != nil {
			t.Fatal(err)
		}
		hint := h.names("subnet 172.17.0.0/16", "doctor")
		h.names(address(t, vm, "bridge", "web"), "trace", address(t, vm, "bridge", "web"))
		h.paste(hint)
		h.names("", "doctor")
		h.must("teardown-network")
	})

	t.Run("dns port taken", func(t *testing.T) {
		h := h.in(t)
		other := *h
		other.args = []string{"--state-dir", h.dir + "/other", "--control", h.dir + "/other.sock", "--engine", "unix:///nowhere.sock"}
		o := other.start("--resolver", "none")
		hint := h.names("dns server", "doctor")
		flags, ok := strings.CutPrefix(hint, "sudo fairlead run ")
		if !ok {
			t.Fatalf("the mend is %q", hint)
		}
		r := h.start(append([]string{"--resolver", "none"}, strings.Fields(flags)...)...)
		h.names("", "doctor")
		h.names("", "trace", "web.docker")
		r.signal(syscall.SIGTERM)
		o.signal(syscall.SIGTERM)
	})
}

// ip changes the host's network.
func (h *host) ip(args string) {
	h.t.Helper()
	if _, err := h.Run(context.Background(), "ip", strings.Fields(args)...); err != nil {
		h.t.Fatal(err)
	}
}

// vpnUp makes a link tun9 with a route, as NetworkManager's are, and returns the routes of others.
func (h *host) vpnUp(route string) (rows string) {
	h.t.Helper()
	h.ip("link add tun9 type veth peer name far9")
	h.ip("addr add 10.255.1.1/32 dev tun9")
	h.ip("link set far9 up")
	h.ip("link set tun9 up")
	h.ip("route add " + route + " dev tun9 proto static metric 50")
	return h.foreignRows()
}

// foreignRows are all IPv4 routes, in all tables, but fairlead's.
func (h *host) foreignRows() (rows string) {
	h.t.Helper()
	out, err := h.Run(context.Background(), "ip", "-4", "-d", "route", "show", "table", "all")
	if err != nil {
		h.t.Fatal(err)
	}
	for row := range strings.Lines(out) {
		if !strings.Contains(row, "proto 208") {
			rows += row
		}
	}
	return rows
}

// A VPN comes up before or after the routes, over a container network exactly, wider or narrower: the VPN's own route never
// changes, the network gives way, is named with what is in its way, and comes back with the VPN's end.
func TestVPN(t *testing.T) {
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{TCP: true})
	h.watch("dev=" + vm.URL())
	docker(t, vm, "network", "create", "--subnet", "10.9.0.0/16", "office")
	docker(t, vm, "run", "-d", "--name", "desk", "--network", "office", "web")
	docker(t, vm, "run", "-d", "--name", "web", "web")
	refused := func(route string) {
		h.t.Helper()
		h.within(time.Minute, "the clash is named", func() error {
			for _, s := range h.status().Subnets {
				if s.Network == "office" && (s.State != "refused" || !strings.Contains(s.Why, route+" dev tun9")) {
					return fmt.Errorf("%+v", s)
				}
			}
			if h.dig("desk.docker", "A") != "" {
				return errors.New("desk.docker is still answered")
			}
			return nil
		})
		if b := h.report("trace", "desk.docker").Broken; b == nil || !strings.Contains(b.Says, route) || !strings.Contains(b.Says, "network office") {
			h.t.Errorf("trace says %+v", b)
		}
	}
	free := func() {
		h.t.Helper()
		h.within(time.Minute, "the network is back", func() error {
			if h.dig("desk.docker", "A") != "10.9.0.2" {
				return errors.New("desk.docker is not answered")
			}
			return h.hasRoute("10.9.0.0/16")
		})
	}
	foreign := func(before string) {
		h.t.Helper()
		if rows := h.foreignRows(); rows != before {
			h.t.Errorf("the routes of others are\n%s\nand were\n%s", rows, before)
		}
	}
	for i, route := range []string{"10.9.0.0/16", "10.0.0.0/8", "10.9.5.0/24"} {
		t.Run(route, func(t *testing.T) {
			h = h.in(t)
			r := h.start("--resolver", "none")
			free()
			before := h.vpnUp(route) // it comes after us
			refused(route)
			if i == 0 {
				h.names("subnet 10.9.0.0/16", "doctor")
			}
			h.answers("web.docker", address(t, vm, "bridge", "web")) // what is not in its way is left alone
			foreign(before)
			r.signal(syscall.SIGTERM)
			r = h.start("--resolver", "none") // the VPN was there before us
			refused(route)
			foreign(before)
			if route == "10.0.0.0/8" { // who says that nobody lives there gets the narrower row beside the VPN's
				r.signal(syscall.SIGTERM)
				r = h.start("--resolver", "none", "--allow-subnet", "10.9.0.0/16")
				free()
				foreign(before)
			}
			h.ip("link del tun9")
			free()
			r.signal(syscall.SIGTERM)
		})
	}
}

// Routes that somebody made by hand to the same VM stay, and are named; with --replace ours take their place, follow the VM, and
// when fairlead goes theirs are back to the last field. A route to elsewhere is never touched.
func TestRoutesMadeByHand(t *testing.T) {
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{TCP: true})
	h.watch("dev=" + vm.URL())
	docker(t, vm, "network", "create", "--subnet", "172.29.0.0/16", "mine")
	docker(t, vm, "network", "create", "--subnet", "172.28.0.0/16", "theirs")
	docker(t, vm, "run", "-d", "--name", "web", "web")
	docker(t, vm, "run", "-d", "--name", "db", "--network", "mine", "web")
	ctx := t.Context()
	byHand := []string{
		"172.17.0.0/16 via 192.168.99.100",                                 // the recipe's
		"172.29.4.0/24 via 192.168.99.100 proto static metric 70 mtu 1400", // a part of a network
		"172.16.0.0/12 via 192.168.99.100",                                 // all of Docker's
	}
	for _, row := range append(byHand, "172.28.0.0/16 via 192.168.99.77") {
		if _, err := h.Run(ctx, "ip", append([]string{"route", "add"}, strings.Fields(row)...)...); err != nil {
			t.Fatal(err)
		}
	}
	details := func() string {
		t.Helper()
		out, err := h.Run(ctx, "ip", "-d", "route", "show")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	before, state := details(), h.state()
	same := func(when string) {
		t.Helper()
		if after := details(); after != before {
			t.Errorf("%s the routes are\n%s\nand were\n%s", when, after, before)
		}
		if after := h.state(); after != state {
			t.Errorf("%s the host is\n%s\nand was\n%s", when, after, state)
		}
	}
	leftovers := func() (found []string) {
		t.Helper()
		for _, c := range h.report("doctor").Checks {
			for _, l := range c.Checks {
				if c.Name == "leftovers" && strings.Contains(l.Says, "as long as that keeps its address") {
					row, _, _ := strings.Cut(l.Says, ":")
					found = append(found, row+" | "+l.Hint)
				}
			}
		}
		slices.Sort(found)
		return found
	}
	want := []string{
		"172.16.0.0/12 via 192.168.99.100 dev vboxnet0 | sudo fairlead run --replace",
		"172.17.0.0/16 via 192.168.99.100 dev vboxnet0 | sudo fairlead run --replace",
		"172.29.4.0/24 via 192.168.99.100 dev vboxnet0 | sudo fairlead run --replace",
	}
	if got := leftovers(); !slices.Equal(got, want) {
		t.Errorf("doctor finds %q", got)
	}
	same("after doctor")

	r := h.start("--resolver", "none") // they may stay
	h.answers("web.docker", address(t, vm, "bridge", "web"))
	h.answers("db.docker", address(t, vm, "mine", "db"))
	r.signal(syscall.SIGTERM)
	same("without --replace")

	if out, _, _ := h.fairlead("setup-network", "--replace", "--dry-run"); !strings.Contains(out, "in place of 172.17.0.0/16 via 192.168.99.100 dev vboxnet0, made by hand") {
		t.Errorf("a dry run says\n%s", out)
	}
	same("after a dry run")

	out, _, code := h.fairlead("setup-network", "--replace")
	if code != agent.ExitPartly || !strings.Contains(out, "route 172.28.0.0/16 via 192.168.99.77 dev vboxnet0 (made by boot) is in its way") {
		t.Errorf("setup-network: exit %d\n%s", code, out)
	}
	if rows := details(); strings.Contains(rows, "172.16.0.0/12") || strings.Contains(rows, "172.29.4.0/24") || strings.Count(rows, "proto 208") != 2 {
		t.Errorf("replaced, the routes are\n%s", rows)
	}
	if got := leftovers(); len(got) > 0 {
		t.Errorf("doctor still finds %q", got)
	}
	h.ping(address(t, vm, "mine", "db"))
	if out := h.must("teardown-network"); strings.Count(out, "restored route") != 3 {
		t.Errorf("teardown-network says\n%s", out)
	}
	same("after setup-network and teardown-network")

	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		r := h.start("--resolver", "none", "--replace")
		h.eventually("they are replaced", func() error {
			if s := h.status(); len(s.Replaced) != 3 {
				return fmt.Errorf("%q\n%s", s.Replaced, details())
			}
			return h.hasRoute("172.29.0.0/16")
		})
		h.answers("web.docker", address(t, vm, "bridge", "web"))
		if end == syscall.SIGTERM { // who makes one again means it
			if _, err := h.Run(ctx, "ip", "route", "add", "172.16.0.0/12", "via", "192.168.99.100"); err != nil {
				t.Fatal(err)
			}
			h.eventually("it stays", func() error {
				for _, s := range h.status().Subnets {
					if s.Network == "bridge" && len(s.ByHand) == 1 && len(h.status().Replaced) == 2 {
						return nil
					}
				}
				return fmt.Errorf("%+v", h.status())
			})
		}
		r.signal(end)
		if end == syscall.SIGKILL {
			h.must("teardown-network")
		}
		same(end.String())
	}
}
