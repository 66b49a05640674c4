package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/internal/lab"
	"github.com/fairlead-dev/fairlead/platform/tunnel"
)

const tag = "0123abcd"

// sealed is a host with a tunnel into a VM to which only the engine's socket leads.
type sealed struct {
	*lab.World
	vm     *lab.VM
	inject bool
	lease  *tunnel.Lease
	tunnel *tunnel.Tunnel
}

func startSealed(t testing.TB) *sealed {
	s := newSealed(t)
	s.open(t)
	return s
}

// newSealed is one without its tunnel yet.
func newSealed(t testing.TB) *sealed {
	s := &sealed{World: lab.Start(t, lab.Options{})}
	s.vm = s.StartVM(t, lab.VMOptions{Sealed: true, Args: []string{"--ipv6", "--fixed-cidr-v6=fd17::/64"}})
	return s
}

// open starts the pilot as the agent does, and makes the tunnel.
func (s *sealed) open(t testing.TB, probe ...netip.Addr) {
	t.Helper()
	eng := engine.New(engine.Endpoint{Name: "dev", URL: s.vm.URL()}, slog.New(slog.DiscardHandler))
	stream, err := eng.StartPilot(t.Context(), engine.Pilot{Instance: tag, Args: []string{"lead"}, Tunnel: true, Inject: s.inject})
	if err != nil {
		t.Fatal(err)
	}
	s.lease = tunnel.Lead(t.Context(), stream)
	t.Cleanup(s.lease.Close)
	link := tunnel.Link{
		Tag:    tag,
		Host:   []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")},
		Pilot:  []netip.Addr{netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("fd09::2")},
		Inject: s.inject,
	}
	s.here(t, func() {
		if s.tunnel, err = s.lease.Tunnel(t.Context(), link); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(s.tunnel.Close)
	if err := s.tunnel.Lacks(); err != nil {
		t.Errorf("the tunnel lacks an address: %v", err)
	}
	subnets := []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("fd17::/64")}
	r, err := s.lease.Admit(t.Context(), tunnel.Admission{Tag: tag, Sources: s.tunnel.Addrs(), Subnets: subnets, Probe: probe})
	if err != nil || !r.Open || r.Error != "" {
		t.Fatalf("admission: %+v, %v", r, err)
	}
	for _, n := range subnets {
		s.must(t, "ip", "route", "add", n.String(), "dev", s.tunnel.Dev())
	}
}

// here runs f in the host's network.
func (s *sealed) here(t testing.TB, f func()) {
	t.Helper()
	enter := func(path string) {
		ns, err := os.Open(path)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			ns.Close()
		}
		if err != nil {
			panic(err) // the thread is of no use to anybody
		}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home := fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
	back, err := os.Open(home)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	enter("/run/netns/" + s.Netns())
	defer enter(fmt.Sprintf("/proc/self/fd/%d", back.Fd()))
	f()
}

func (s *sealed) must(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := s.Run(context.Background(), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *sealed) docker(t testing.TB, args ...string) string {
	t.Helper()
	out, err := s.vm.Docker(context.Background(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *sealed) web(t testing.TB, addr string) (string, error) {
	return s.Run(t.Context(), "curl", "-sS", "-g", "--max-time", "20", "http://"+net.JoinHostPort(addr, "80"))
}

func TestTunnelIntoAnEngine(t *testing.T) {
	s := startSealed(t)
	s.docker(t, "network", "create", "--subnet", "172.18.0.0/16", "user")
	s.docker(t, "network", "create", "--subnet", "172.19.0.0/16", "--internal", "internal")
	s.docker(t, "network", "create", "--subnet", "172.20.0.0/16", "-o", "com.docker.network.bridge.enable_icc=false", "apart")
	var all sync.WaitGroup
	for _, network := range []string{"bridge", "user", "internal", "apart"} {
		all.Go(func() {
			if _, err := s.vm.Docker(t.Context(), "run", "-d", "--name", network, "--hostname", network, "--network", network, "web"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, network := range []string{"bridge", "user", "internal", "apart"} {
		addrs := strings.Fields(s.docker(t, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}", network))
		if six := len(addrs) == 2; six != (network == "bridge") {
			t.Fatalf("addresses on %s: %q", network, addrs)
		}
		for _, a := range addrs {
			if got, err := s.web(t, a); err != nil || !strings.HasPrefix(got, network+"\n") {
				t.Errorf("HTTP from %s at %s = %q, %v", network, a, got, err)
			}
			s.must(t, "ping", "-n", "-c", "1", "-w", "20", a)
		}
	}

	// The pilot is what the agent starts, and no more.
	pilot := s.docker(t, "inspect", "-f", "{{.HostConfig.Privileged}} {{.HostConfig.CapAdd}} {{.HostConfig.CapDrop}}", "fairlead-pilot-"+tag)
	if pilot != "false [NET_ADMIN] [ALL]" && pilot != "false [CAP_NET_ADMIN] [ALL]" {
		t.Errorf("the pilot's rights are %s", pilot)
	}

	s.staysAwake(t)

	s.tunnel.Close()
	s.gone(t)
	s.open(t) // and all again
	for _, c := range []struct {
		name string
		end  func() error
	}{
		{"pilot killed", func() error {
			_, err := s.vm.Docker(t.Context(), "kill", "fairlead-pilot-"+tag)
			return err
		}},
		{"engine stopped", func() error { return s.vm.StopDockerd(t.Context()) }},
	} {
		if err := c.end(); err != nil {
			t.Fatal(err)
		}
		<-s.tunnel.Done()
		if s.tunnel.Err() == nil {
			t.Errorf("%s: Err = nil", c.name)
		}
		if out := s.must(t, "ip", "-br", "link"); strings.Contains(out, "flead") {
			t.Errorf("%s: left on the host:\n%s", c.name, out)
		}
		if c.name == "engine stopped" {
			if err := s.vm.StartDockerd(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		s.open(t)
		s.must(t, "ping", "-n", "-c", "1", "-w", "20", "172.17.0.1")
	}
}

// staysAwake sees that the pilot keeps the VM's CPUs from sleeping while packets pass, and no longer.
func (s *sealed) staysAwake(t *testing.T) {
	if _, err := os.Stat(tunnel.LatencyDevice); err != nil || runtime.NumCPU() > tunnel.MostAwake {
		t.Logf("this machine's CPUs are not kept awake: %d, %v", runtime.NumCPU(), err)
		return
	}
	fds := fmt.Sprintf("/proc/%s/fd", s.docker(t, "inspect", "-f", "{{.State.Pid}}", "fairlead-pilot-"+tag))
	until := func(awake bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; {
			open, err := s.vm.Run(t.Context(), "ls", "-l", fds)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(open, tunnel.LatencyDevice) == awake {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("with packets that pass (%v) the pilot has open\n%s", awake, open)
			}
		}
	}
	pings := s.Command(t.Context(), "ping", "-n", "-q", "-i", "0.002", "-w", "20", "172.17.0.1")
	if err := pings.Start(); err != nil {
		t.Fatal(err)
	}
	until(true)
	pings.Process.Kill()
	pings.Wait()
	until(false)
}

// A pilot that sends the host's packets as the VM's own needs no rule, and one right more.
func TestInjectIntoAnEngine(t *testing.T) {
	s := newSealed(t)
	s.inject = true
	s.docker(t, "network", "create", "--subnet", "172.18.0.0/16", "-o", "com.docker.network.bridge.enable_icc=false", "apart")
	s.docker(t, "run", "-d", "--name", "bridge", "--hostname", "bridge", "web")
	s.docker(t, "run", "-d", "--name", "apart", "--hostname", "apart", "--network", "apart", "web")
	var addrs []string
	var probe []netip.Addr
	for _, name := range []string{"bridge", "apart"} {
		for _, a := range strings.Fields(s.docker(t, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}", name)) {
			addrs, probe = append(addrs, a), append(probe, netip.MustParseAddr(a))
		}
	}
	if len(addrs) != 3 {
		t.Fatalf("the containers have the addresses %q", addrs)
	}
	rules := func() string {
		all, err := s.vm.Firewall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	before := rules()
	s.open(t, probe...)
	for _, a := range append(addrs, "10.9.0.2", "fd09::2", "172.17.0.1") {
		s.must(t, "ping", "-n", "-c", "1", "-w", "20", a)
	}
	for _, a := range addrs {
		if got, err := s.web(t, a); err != nil || !strings.HasPrefix(got, "bridge\n") && !strings.HasPrefix(got, "apart\n") {
			t.Errorf("HTTP from %s = %q, %v", a, got, err)
		}
	}
	pilot := s.docker(t, "inspect", "-f", "{{.HostConfig.Privileged}} {{.HostConfig.CapAdd}} {{.HostConfig.CapDrop}}", "fairlead-pilot-"+tag)
	if got := strings.ReplaceAll(pilot, "CAP_", ""); got != "false [NET_ADMIN NET_RAW] [ALL]" {
		t.Errorf("the pilot's rights are %s", pilot)
	}
	if now := rules(); now != before {
		t.Errorf("the VM's firewall is now\n%s\nbefore:\n%s", now, before)
	}
	s.tunnel.Close()
	s.gone(t)
}

// gone waits until neither side has anything of ours.
func (s *sealed) gone(t testing.TB) {
	t.Helper()
	if out := s.must(t, "ip", "-br", "link"); strings.Contains(out, "flead") {
		t.Errorf("left on the host:\n%s", out)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		links, err := s.vm.Run(t.Context(), "ip", "-br", "link")
		if err != nil {
			t.Fatal(err)
		}
		rules, err := s.vm.Firewall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(links, "flead") && !strings.Contains(rules, "fairlead") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left in the VM:\n%s\n%s", links, rules)
		}
	}
}
