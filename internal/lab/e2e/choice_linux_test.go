package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/internal/lab"
	"github.com/fairlead-dev/fairlead/platform"
)

// An engine on this host needs no routes; one in a VM whose networks are like this host's is another one, and its clash is
// named.
func TestReachIsChosen(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{Sealed: true})
	h.watch(vm.URL())
	docker(t, vm, "network", "create", "--subnet", "172.30.7.0/24", "shop")
	ctx := t.Context()

	t.Run("native", func(t *testing.T) {
		cmd := vm.Command(ctx, fairlead, append([]string{"setup-network", "--json"}, h.args...)...)
		out, err := cmd.Output()
		var s agent.Status
		if err == nil {
			err = json.Unmarshal(out, &s)
		}
		if err != nil || len(s.Engines) != 1 || s.Engines[0].Reach.Kind != platform.Native {
			t.Errorf("on the engine's own machine: %v\n%s", err, out)
		}
	})

	t.Run("another machine", func(t *testing.T) {
		h := h.in(t)
		for _, args := range []string{"link add docker0 type bridge", "addr add 172.17.0.1/16 dev docker0", "link set docker0 up"} {
			if _, err := h.Run(ctx, "ip", strings.Fields(args)...); err != nil {
				t.Fatal(err)
			}
		}
		r := h.start("--resolver", "none")
		defer r.signal(syscall.SIGTERM)
		h.eventually("a tunnel for what does not clash", func() error {
			s := h.status()
			states := map[string]agent.State{}
			for _, n := range s.Subnets {
				states[n.Network] = n.State
			}
			if s.Engines[0].Reach.Kind != platform.Tunnel || states["bridge"] != agent.Refused || states["shop"] != agent.Installed {
				return fmt.Errorf("%+v %v", s.Engines[0].Reach, states)
			}
			return nil
		})
		docker(t, vm, "run", "-d", "--name", "db", "--network", "shop", "web")
		h.eventually("it is proved", func() error {
			for _, n := range h.status().Subnets {
				if n.Network == "shop" && n.Verified.Result == agent.Answered {
					return nil
				}
			}
			return errors.New("not yet")
		})
		docker(t, vm, "run", "-d", "--name", "web", "web")
		h.eventually("the clash and what it costs are named", func() error {
			out, _, _ := h.fairlead("ls")
			if !strings.Contains(out, "/web on bridge: it holds this host's address 172.17.0.1 on docker0") {
				return errors.New(out)
			}
			return nil
		})
	})
}

// stream is one TCP connection from the host to a container that echoes.
type stream struct {
	h    *host
	in   io.Writer
	said *bufio.Scanner
}

func (h *host) connect(addr string) *stream {
	h.t.Helper()
	cmd := h.Command(context.Background(), "bash", "-c",
		`exec 3<>/dev/tcp/$0/7 && while read -r l; do echo "$l" >&3 && read -r r <&3 && echo "$r" || exit 1; done`, addr)
	in, err := cmd.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return &stream{h, in, bufio.NewScanner(out)}
}

// pinging does something while an address is pinged, and tells how many echoes were asked for and came back.
func (h *host) pinging(addr string, do func()) (sent, back int) {
	h.t.Helper()
	cmd := h.Command(context.Background(), "ping", "-nq", "-i", "0.05", addr)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	do()
	cmd.Process.Signal(os.Interrupt)
	err := cmd.Wait()
	if m := echoes.FindStringSubmatch(out.String()); m != nil {
		sent, _ = strconv.Atoi(m[1])
		back, _ = strconv.Atoi(m[2])
		return sent, back
	}
	h.t.Fatalf("ping: %v: %s", err, out.String())
	return 0, 0
}

var echoes = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`)

// goes on: what is written comes back, by the same connection, however long TCP waits to send it again.
func (s *stream) goesOn(after string) {
	s.h.t.Helper()
	fmt.Fprintln(s.in, after)
	back := make(chan string, 1)
	go func() {
		s.said.Scan()
		back <- s.said.Text()
	}()
	select {
	case got := <-back:
		if got != after {
			s.h.t.Fatalf("after %s the connection says %q, %v", after, got, s.said.Err())
		}
	case <-time.After(2 * time.Minute):
		s.h.t.Fatalf("after %s nothing comes back", after)
	}
}

// A TCP connection by way of the VM's address outlives all that does not really break its path.
func TestStreamsSurvive(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{TCP: true, Args: []string{"--live-restore"}})
	h.watch(vm.URL())
	docker(t, vm, "run", "-d", "--name", "web", "web")
	ip := address(t, vm, "bridge", "web")
	r := h.start("--resolver", "none")
	h.answers("web.docker", ip)
	s := h.connect(ip)
	s.goesOn("nothing")
	ctx := t.Context()
	pilot := func() string {
		out, err := vm.Docker(ctx, "ps", "-q", "--filter", "label=fairlead.pilot")
		if err != nil {
			return ""
		}
		return out
	}
	open := func() {
		t.Helper()
		h.within(time.Minute, "the VM is open", func() error {
			if e := h.status().Engines[0]; !e.Up || e.Pilot == nil || !e.Pilot.Open {
				return fmt.Errorf("%+v", e)
			}
			return nil
		})
	}

	old := pilot()
	docker(t, vm, "kill", "-s", "KILL", old)
	h.eventually("another pilot", func() error {
		if now := pilot(); now == "" || now == old {
			return errors.New("not yet")
		}
		return nil
	})
	s.goesOn("the pilot was killed")

	for _, state := range []string{"down", "up"} {
		if _, err := h.Run(ctx, "ip", "link", "set", vm.HostDev(), state); err != nil {
			t.Fatal(err)
		}
	}
	s.goesOn("the link bounced")

	r.signal(syscall.SIGKILL)
	r = h.start("--resolver", "none")
	open()
	s.goesOn("the agent was killed")

	r.signal(syscall.SIGTERM)
	r = h.start("--resolver", "none")
	open()
	s.goesOn("the agent was restarted")

	before, vmBefore := h.state(), firewall(t, vm)
	if sent, back := h.pinging(ip, func() {
		agent, err := agent.Dial(ctx, h.dir+"/control.sock")
		if err != nil {
			t.Fatal(err)
		}
		if err := agent.HandOver(ctx); err != nil {
			t.Fatal(err)
		}
		r.signal(syscall.SIGTERM)
		if now := h.state(); now != before {
			t.Errorf("between two agents the host is not as it was:\n%s", difference(before, now))
		}
		if now := firewall(t, vm); now != vmBefore {
			t.Errorf("between two agents the VM's firewall is not as it was:\n%s", difference(vmBefore, now))
		}
		h.start("--resolver", "none")
		open()
		h.eventually("the new agent has a pilot of its own", func() error {
			if out := docker(t, vm, "ps", "--filter", "label=fairlead.pilot", "--format", "{{.Command}}"); !strings.Contains(out, "lead") {
				return errors.New(out)
			}
			return nil
		})
	}); sent-back > 1 || sent < 10 { // the last may be under way
		t.Errorf("while one agent handed over to the next %d of %d pings came back", back, sent)
	}
	s.goesOn("the agent was handed over")

	if err := vm.KillDockerd(ctx); err != nil {
		t.Fatal(err)
	}
	s.goesOn("the engine was killed")
	if err := vm.StartDockerd(ctx); err != nil {
		t.Fatal(err)
	}
	open()
	s.goesOn("the engine came back")
}

// A VM that cannot hold a tunnel for IPv6 beside its gateway does without, and IPv4 does not notice. When it can, it does.
func TestTunnelBesideIsTriedAgain(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{TCP: true})
	h.watch(vm.URL())
	must(vm.Run(t.Context(), "mount", "-t", "tmpfs", "none", "/dev/net"))(t) // as if it had no tun module
	docker(t, vm, "run", "-d", "--name", "web", "web")
	ip := address(t, vm, "bridge", "web")
	h.start("--resolver", "none")
	h.answers("web.docker", ip)
	if sent, back := h.pinging(ip, func() {
		docker(t, vm, "network", "create", "--ipv6", "--subnet", "fd18::/64", "six")
		docker(t, vm, "run", "-d", "--name", "six", "--network", "six", "web")
		h.eventually("it does without", func() error {
			if e := h.status().Engines[0]; e.Reach.Other.Kind != platform.None || !strings.Contains(e.Reach.Other.Why, "no /dev/net/tun") || e.Pilot == nil || !e.Pilot.Open {
				return fmt.Errorf("%+v, pilot %+v", e.Reach, e.Pilot)
			}
			return nil
		})
		must(vm.Run(t.Context(), "umount", "/dev/net"))(t)
		h.eventually("it has one", func() error {
			if o := h.status().Engines[0].Reach.Other; o.Kind != platform.Tunnel || o.Dev == "" {
				return fmt.Errorf("%+v", o)
			}
			return nil
		})
	}); sent-back > 1 || sent < 10 {
		t.Errorf("meanwhile %d of %d pings came back by IPv4", back, sent)
	}
	six := docker(t, vm, "inspect", "-f", "{{.NetworkSettings.Networks.six.GlobalIPv6Address}}", "six")
	h.eventually("IPv6 gets there", func() error {
		_, err := h.Run(t.Context(), "ping", "-c1", "-w1", six)
		return err
	})
}

// Containers of a swarm's overlay networks are reached at their way out of these; those of a macvlan network on the VM's link
// are neighbours. What cannot be reached is listed with why, and is nothing to mend.
func TestNetworksThatAreNoBridges(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{TCP: true})
	h.watch(vm.URL())
	docker(t, vm, "swarm", "init", "--advertise-addr", vm.Addr().String())
	docker(t, vm, "network", "create", "-d", "overlay", "--attachable", "over")
	docker(t, vm, "network", "create", "-d", "overlay", "--attachable", "--internal", "inner")
	docker(t, vm, "network", "create", "-d", "macvlan", "-o", "parent=eth1", "--subnet", "192.168.99.0/24", "--ip-range", "192.168.99.192/27", "near")
	if _, err := vm.Run(t.Context(), "ip", "link", "add", "far0", "type", "veth", "peer", "name", "far1"); err != nil {
		t.Fatal(err)
	}
	docker(t, vm, "network", "create", "-d", "macvlan", "-o", "parent=far0", "--subnet", "10.77.0.0/24", "far")
	docker(t, vm, "run", "-d", "--name", "web", "--network", "over", "web")
	docker(t, vm, "run", "-d", "--name", "apart", "--network", "inner", "web")
	docker(t, vm, "run", "-d", "--name", "lan", "--network", "near", "web")

	out := h.must("setup-network")
	for _, want := range []string{"unreachable  10.0.", "on-link      192.168.99.0/24", "unreachable  10.77.0.0/24"} {
		if !strings.Contains(out, want) {
			t.Errorf("setup-network does not say %q:\n%s", want, out)
		}
	}
	h.must("teardown-network")

	h.start("--resolver", "resolv.conf")
	docker(t, vm, "run", "-d", "--name", "later", "--network", "over", "web")
	h.reaches("web.docker", "web.over.docker", "later.docker", "lan.docker")
	h.eventually("what is apart is listed", func() error {
		out, _, _ := h.fairlead("ls")
		if !strings.Contains(out, "/apart on inner: an overlay network") || strings.Contains(out, "/web on ") || strings.Contains(out, "/lan on ") {
			return errors.New(out)
		}
		return nil
	})
}

// An engine that maps its containers' users to others lets the pilot have the VM's network all the same.
func TestUsernsRemap(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	dockerd, err := exec.LookPath(cmp.Or(os.Getenv("LAB_DOCKERD"), "dockerd"))
	if err != nil {
		t.Skip("no dockerd") // StartVM has said so, louder
	}
	dir := t.TempDir()
	wrapped := filepath.Join(dir, "dockerd")
	script := "#!/bin/sh\nfor f in passwd group; do grep -q ^dockremap: /etc/$f || echo dockremap:x:4242:$([ $f = group ] || echo 4242::/:/bin/false) >>/etc/$f; done\n" +
		"for f in subuid subgid; do echo dockremap:500000:65536 >/etc/$f; done\nPATH=" + filepath.Dir(dockerd) + ":$PATH exec " + dockerd + " \"$@\"\n"
	if err := os.WriteFile(wrapped, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	vm := h.StartVM(t, lab.VMOptions{TCP: true, Dockerd: wrapped, Args: []string{"--userns-remap=dockremap"}})
	if out := docker(t, vm, "info", "-f", "{{.SecurityOptions}}"); !strings.Contains(out, "name=userns") {
		t.Fatalf("the engine's security options: %s", out)
	}
	docker(t, vm, "run", "-d", "--name", "web", "web")
	before := firewall(t, vm)
	for _, url := range []string{vm.URL(), "unix://" + vm.Socket()} {
		h := newHostBeside(h)
		h.watch(url)
		r := h.start("--resolver", "resolv.conf")
		h.reaches("web.docker")
		r.signal(syscall.SIGTERM)
		if after := firewall(t, vm); after != before {
			t.Errorf("the VM's firewall is not as before:\n%s\nbefore:\n%s", after, before)
		}
	}
}

// An engine whose runtime lets the pilot do nothing is named with what to do, and nothing is left on either side: it is the stand-in for
// Docker Desktop's Enhanced Container Isolation, in whose words it refuses (sysbox-runc, libsysbox/syscont/spec.go), and for whatever takes
// NET_ADMIN away.
func TestPilotsThatMayNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, script string
		sealed       bool
		why, hint    string
	}{
		{"isolated", `net=$(sed -n 's/.*"type": *"network", *"path": *"\([^"]*\)".*/\1/p' "$bundle/config.json" 2>/dev/null)
if [ "$net" -ef /proc/self/ns/net ]; then
	echo "{\"level\":\"error\",\"msg\":\"error in the container spec: invalid or unsupported container spec: sysbox containers can't share a network namespace with the host (because they use the linux user-namespace for isolation)\",\"time\":\"2026-01-01T00:00:00Z\"}" >>"$log"
	exit 1
fi`, true, "Enhanced Container Isolation keeps containers out of the VM's network", "Settings"},
		{"poor", `[ -z "$bundle" ] || sed -i 's/"CAP_NET_ADMIN"/"CAP_CHOWN"/g' "$bundle/config.json"`, false, "operation not permitted", "the pilot needs CAP_NET_ADMIN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			runtime := filepath.Join(t.TempDir(), c.name)
			const arguments = "#!/bin/sh\nfor arg; do\n\tcase $before in --log) log=$arg ;; --bundle) bundle=$arg ;; esac\n\tbefore=$arg\ndone\n"
			if err := os.WriteFile(runtime, []byte(arguments+c.script+"\nexec runc \"$@\"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			vm := h.StartVM(t, lab.VMOptions{Sealed: c.sealed, TCP: !c.sealed, Args: []string{"--add-runtime", c.name + "=" + runtime, "--default-runtime", c.name}})
			h.watch(vm.URL())
			docker(t, vm, "run", "-d", "--name", "web", "web")
			hostBefore, before := h.state(), firewall(t, vm)
			says := func(args ...string) {
				t.Helper()
				if out, _, code := h.fairlead(args...); code == 0 || !strings.Contains(out, c.hint) {
					t.Errorf("fairlead %s: exit %d\n%s", args, code, out)
				}
			}
			r := h.start("--resolver", "none")
			h.eventually("it is named", func() error {
				e := h.status().Engines[0]
				if e.Reach.Kind != platform.Tunnel || e.Pilot == nil || e.Pilot.Open || !strings.Contains(e.Pilot.Error, c.why) || !strings.Contains(e.Pilot.Hint, c.hint) {
					return fmt.Errorf("%+v, pilot %+v", e.Reach, e.Pilot)
				}
				return nil
			})
			says("setup-network")
			says("doctor")
			if got := h.dig("web.docker", "A"); got != "" {
				t.Errorf("web.docker is %s, and is not reached", got)
			}
			if out := h.must("ls"); !strings.Contains(out, "/web on bridge: ") {
				t.Errorf("ls:\n%s", out)
			}
			r.signal(syscall.SIGTERM)
			if !c.sealed {
				says("setup-network")
			}
			h.must("teardown-network") // which has no pilot to help it
			if after := h.state(); after != hostBefore {
				t.Errorf("the host is not as before:\n%s", changed(hostBefore, after))
			}
			if after := firewall(t, vm); after != before {
				t.Errorf("the VM's firewall is not as before:\n%s", changed(before, after))
			}
			if left := docker(t, vm, "ps", "-aq", "--filter", "label=fairlead.pilot") + docker(t, vm, "images", "-q", "localhost/fairlead-pilot"); left != "" {
				t.Errorf("the engine still has %s", left)
			}
		})
	}
}

// newHostBeside is the same host with other settings.
func newHostBeside(h *host) *host {
	other := *h
	other.args = []string{"--state-dir", h.dir + "/other", "--control", h.dir + "/other.sock"}
	return &other
}
