package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/internal/lab"
)

// darwinrun is the program that runs darwin/amd64 binaries here; internal/lab/test.sh makes it.
const darwinrun = "../../../bin/darwinlab/bin/darwinrun"

// darwinFairlead is the agent as a darwin/amd64 binary, built once, in a folder that goes with the tests.
var darwinFairlead = sync.OnceValues(func() (string, error) {
	file := fairlead + "-darwin"
	build := exec.Command("go", "build", "-o", file, "github.com/fairlead-dev/fairlead/cmd/fairlead")
	build.Env = append(os.Environ(), "GOOS=darwin", "GOARCH=amd64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building fairlead for darwin: %w\n%s", err, out)
	}
	return file, nil
})

// mac is a host whose fairlead is the darwin binary: the network is this world's, the files of macOS lie below root.
type mac struct {
	*host
	root string
}

// newMac makes a Mac without an /etc/resolver. On it the world's vboxnet0 is called bridge100, as vmnet calls its bridges.
func newMac(t testing.TB) mac {
	run, err := filepath.Abs(darwinrun)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(run); err != nil {
		if os.Getenv("CI") == "true" && os.Getenv("FAIRLEAD_LABS") != "none" {
			t.Fatalf("no darwin lab: %v", err)
		}
		t.Skipf("no darwin lab: %v", err)
	}
	program, err := darwinFairlead()
	if err != nil {
		t.Fatal(err)
	}
	m := mac{newHost(t), ""}
	m.root = m.dir + "/mac"
	if out, err := exec.Command(run, "--mkroot", m.root).CombinedOutput(); err != nil {
		t.Fatalf("making a root: %v\n%s", err, out)
	}
	for _, tool := range []string{"dscacheutil", "killall"} { // note that they were called, and how
		m.script("/usr/bin/"+tool, `echo "`+tool+` $*" >> `+m.root+`/var/log/flushed`)
	}
	m.script("/usr/sbin/scutil", strings.ReplaceAll(scutil, "ROOT", m.root))
	m.program = []string{"env", "DARWINRUN_ROOT=" + m.root, "DARWINRUN_IFMAP=vboxnet0=bridge100,vboxnet1=bridge101," + wireguardDev + "=utun5",
		"DARWINRUN_MAP=/etc:/Library:/var/run:/var/db:/var/log:/Users:/usr/local:/opt:/Applications:/System", run, program}
	m.args = nil // the default places
	return m
}

// scutil is `scutil --dns` as configd's dnsinfo_internal.h prints it, the port as a signed short: of a Mac whose configd takes up
// every file at once, unless deaf says that it does not.
const scutil = `echo 'DNS configuration

resolver #1
  nameserver[0] : 192.168.1.1
  if_index : 7 (en0)
  flags    : Request A records
  reach    : 0x00020002 (Reachable,Directly Reachable Address)

resolver #2
  domain   : local
  options  : mdns
  timeout  : 5
  flags    : Request A records
  reach    : 0x00000000 (Not Reachable)
  order    : 300000'
n=2
for file in ROOT/etc/resolver/*; do
	if [ ! -f "$file" ] || [ -e ROOT` + deaf + ` ]; then continue; fi
	port=$(sed -n 's/^port //p' "$file")
	[ "$port" -le 32767 ] || port=$((port - 65536))
	echo "
resolver #$((n += 1))
  domain   : ${file##*/}
$(sed -n 's/^nameserver /  nameserver[0] : /p' "$file")
  port     : $port
  flags    : Request A records, Request AAAA records
  reach    : 0x00030002 (Reachable,Local Address,Directly Reachable Address)"
done
echo '
DNS configuration (for scoped queries)

resolver #1
  nameserver[0] : 192.168.1.1
  if_index : 7 (en0)
  flags    : Scoped, Request A records
  reach    : 0x00020002 (Reachable,Directly Reachable Address)'`

const deaf = "/var/log/configd.deaf"

// script puts a shell script in the place of a program of macOS.
func (m mac) script(path, text string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.root+path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.root+path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// in is the same Mac for a subtest.
func (m mac) in(t testing.TB) mac { return mac{m.host.in(t), m.root} }

// files are the Mac's files as text, one a line: mode, path and content. Logs and our own empty state folder are not part of it.
func (m mac) files() string {
	m.t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(m.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, m.root)
		if name == "/var/log" || name == "/var/db/fairlead" {
			return fs.SkipDir
		}
		i, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		switch i.Mode().Type() {
		case 0:
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = fmt.Sprintf("%q", text)
		case fs.ModeSymlink:
			if content, err = os.Readlink(path); err != nil {
				return err
			}
		}
		fmt.Fprintln(&b, i.Mode(), name, content)
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return b.String()
}

// state is all that fairlead may change: the kernel's tables and the files.
func (m mac) state() string {
	m.t.Helper()
	return m.host.state() + "\n# files\n" + m.files()
}

// same fails the test when the Mac is not as it was.
func (m mac) same(before string) {
	m.t.Helper()
	if after := m.state(); after != before {
		m.t.Errorf("the Mac is not as before:\n%s", difference(before, after))
	}
}

// difference is the lines that only one of two texts has.
func difference(before, after string) string {
	var b strings.Builder
	for _, side := range []struct{ sign, has, lacks string }{{"-", before, after}, {"+", after, before}} {
		others := slices.Collect(strings.Lines(side.lacks))
		for line := range strings.Lines(side.has) {
			if !slices.Contains(others, line) {
				b.WriteString(side.sign + line)
			}
		}
	}
	return b.String()
}

// resolverFile is what a file of ours in /etc/resolver holds.
const resolverFile = "# fairlead: names in this domain are asked here; removed by: fairlead teardown-network\nnameserver 127.0.0.1\nport 55353\n"

// resolves waits until /etc/resolver has exactly these files, byte for byte ours.
func (m mac) resolves(domains ...string) {
	m.t.Helper()
	m.eventually("resolver files", func() error {
		var got []string
		files, err := os.ReadDir(m.root + "/etc/resolver")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, f := range files {
			got = append(got, f.Name())
			text, err := os.ReadFile(m.root + "/etc/resolver/" + f.Name())
			if err != nil || string(text) != resolverFile {
				return fmt.Errorf("%s: %q %v", f.Name(), text, err)
			}
			if i, err := f.Info(); err != nil || i.Mode() != 0o644 {
				return fmt.Errorf("%s: %v %v", f.Name(), i.Mode(), err)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(domains) {
			return fmt.Errorf("got %q, want %q", got, domains)
		}
		return nil
	})
}

// flushes is how often macOS was told to forget its answers.
func (m mac) flushes() int {
	m.t.Helper()
	text, err := os.ReadFile(m.root + "/var/log/flushed")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.t.Fatal(err)
	}
	return strings.Count(string(text), "dscacheutil -flushcache\nkillall -HUP mDNSResponder\n")
}

// The whole of it on a Mac whose VM has an address: routes, names, churn, faults, and nothing left.
func TestMacGateway(t *testing.T) {
	t.Parallel()
	m := newMac(t)
	vm := m.StartVM(t, lab.VMOptions{TCP: true})
	m.watch("dev=" + vm.URL())
	docker(t, vm, "run", "-d", "--name", "web", "web")
	ctx, ip := t.Context(), address(t, vm, "bridge", "web")
	before, vmBefore := m.state(), firewall(t, vm)

	if out := m.must("setup-network", "--dry-run"); !strings.Contains(out, "would add  172.17.0.0/16 via 192.168.99.100 dev bridge100") {
		t.Errorf("dry run says:\n%s", out)
	}
	m.same(before)
	for range 2 {
		if out := m.must("setup-network"); !strings.Contains(out, ip+" answered in") {
			t.Errorf("not verified:\n%s", out)
		}
		m.ping(ip)
	}
	m.must("teardown-network")
	m.same(before)

	t.Run("route made by hand", func(t *testing.T) {
		m := m.in(t)
		by := func(do string) {
			t.Helper()
			if _, err := m.Run(ctx, "ip", "route", do, "172.17.0.0/16", "via", vm.Addr().String(), "proto", "static"); err != nil {
				t.Fatal(err)
			}
		}
		by("add")
		before := m.state()
		if out := m.must("setup-network"); !strings.Contains(out, "foreign  172.17.0.0/16") {
			t.Errorf("beside it:\n%s", out)
		}
		m.must("teardown-network")
		m.same(before)
		if out := m.must("setup-network", "--replace"); !strings.Contains(out, "installed  172.17.0.0/16") || !strings.Contains(out, "replaced route 172.17.0.0/16 via 192.168.99.100 dev bridge100") {
			t.Errorf("in its place:\n%s", out)
		}
		m.ping(ip)
		m.must("teardown-network")
		m.same(before)
		by("del")
	})

	r := m.start()
	m.answers("web.docker", ip)
	m.resolves("17.172.in-addr.arpa", "docker")
	m.ping(ip)

	t.Run("containers come and go", func(t *testing.T) {
		m := m.in(t)
		docker(t, vm, "network", "create", "--subnet", "172.30.5.0/24", "shop")
		docker(t, vm, "run", "-d", "--name", "db", "--network", "shop", "web")
		db := address(t, vm, "shop", "db")
		m.answers("db.docker", db)
		m.resolves("17.172.in-addr.arpa", "5.30.172.in-addr.arpa", "docker")
		m.ping(db)
		docker(t, vm, "rename", "db", "base")
		m.answers("base.docker", db)
		m.answers("db.docker", "")
		docker(t, vm, "rm", "-f", "base")
		m.answers("base.docker", "")
		docker(t, vm, "network", "rm", "shop")
		m.eventually("route goes", func() error { return m.lacksRoute("172.30.5.0/24") })
		m.resolves("17.172.in-addr.arpa", "docker")
	})

	t.Run("a name that was denied", func(t *testing.T) {
		m := m.in(t)
		m.answers("late.docker", "")
		flushes := m.flushes()
		docker(t, vm, "run", "-d", "--name", "late", "web")
		m.answers("late.docker", address(t, vm, "bridge", "late"))
		m.eventually("macOS forgets the denial", func() error {
			if m.flushes() <= flushes {
				return errors.New("not told")
			}
			return nil
		})
		docker(t, vm, "rm", "-f", "late")
	})

	t.Run("route deleted", func(t *testing.T) {
		m := m.in(t)
		if err := m.DeleteRoute(ctx, netip.MustParsePrefix("172.17.0.0/16")); err != nil {
			t.Fatal(err)
		}
		m.eventually("route is back", func() error { return m.hasRoute("172.17.0.0/16") })
		m.ping(ip)
	})

	t.Run("resolver file deleted", func(t *testing.T) {
		m := m.in(t)
		if err := os.Remove(m.root + "/etc/resolver/docker"); err != nil {
			t.Fatal(err)
		}
		m.resolves("17.172.in-addr.arpa", "docker")
	})

	t.Run("link bounced", func(t *testing.T) {
		m := m.in(t)
		for _, state := range []string{"down", "up"} {
			if _, err := m.Run(ctx, "ip", "link", "set", vm.HostDev(), state); err != nil {
				t.Fatal(err)
			}
		}
		m.eventually("route is back", func() error { return m.hasRoute("172.17.0.0/16") })
		m.answers("web.docker", ip)
	})

	t.Run("paused by teardown-network, resumed by setup-network", func(t *testing.T) {
		m := m.in(t)
		m.must("teardown-network")
		m.resolves()
		if err := m.lacksRoute("172.17.0.0/16"); err != nil {
			t.Error(err)
		}
		m.must("setup-network")
		m.resolves("17.172.in-addr.arpa", "docker")
		m.answers("web.docker", ip)
	})

	r.signal(syscall.SIGTERM)
	m.same(before)
	if after := firewall(t, vm); sortedLines(after) != sortedLines(vmBefore) {
		t.Errorf("the VM's firewall is not as before:\n%s\nbefore:\n%s", after, vmBefore)
	}

	t.Run("killed", func(t *testing.T) {
		m := m.in(t)
		kill := func(r *run) {
			r.signal(syscall.SIGKILL)
			m.eventually("what it was just starting is gone", func() error { // that has its files for a moment
				conn, err := net.Dial("unix", m.root+"/var/run/fairlead.sock")
				if err == nil {
					conn.Close()
					return errors.New("its socket is held")
				}
				return nil
			})
		}
		r := m.start()
		m.answers("web.docker", ip)
		m.resolves("17.172.in-addr.arpa", "docker")
		kill(r)
		m.must("teardown-network")
		m.same(before)
		r = m.start() // and again, over what a kill leaves
		m.answers("web.docker", ip)
		kill(r)
		r = m.start()
		m.answers("web.docker", ip)
		r.signal(syscall.SIGTERM)
		m.same(before)
	})
}

// A VM that comes back with another address is reached by that one, and the old routes go.
func TestMacVMAddressChanges(t *testing.T) {
	t.Parallel()
	m := newMac(t)
	vm := m.StartVM(t, lab.VMOptions{TCP: true})
	hosts := func(addr netip.Addr) {
		if err := os.WriteFile(m.Root()+"/etc/hosts", fmt.Appendf(nil, "127.0.0.1 localhost\n%v vm.example\n", addr), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	hosts(vm.Addr())
	m.watch("tcp://vm.example:2375")
	docker(t, vm, "run", "-d", "--name", "web", "web")
	r := m.start()
	m.answers("web.docker", address(t, vm, "bridge", "web"))

	moved := netip.MustParseAddr("192.168.99.101")
	if err := vm.SetAddr(t.Context(), moved); err != nil {
		t.Fatal(err)
	}
	hosts(moved)
	m.within(time.Minute, "route by the new address", func() error {
		rows, err := m.Routes(t.Context())
		if err == nil && !slices.ContainsFunc(rows, func(r string) bool { return strings.HasPrefix(r, "172.17.0.0/16 via 192.168.99.101 ") }) {
			err = errors.New(strings.Join(rows, "\n"))
		}
		return err
	})
	m.answers("web.docker", address(t, vm, "bridge", "web"))
	m.eventually("ping", func() error {
		_, err := m.Run(t.Context(), "ping", "-c1", "-W1", address(t, vm, "bridge", "web"))
		return err
	})
	r.signal(syscall.SIGTERM)
	if err := m.lacksRoute("172.17.0.0/16"); err != nil {
		t.Error(err)
	}
}

// A sealed VM is reached through a utun; that goes with the agent, however it ends.
func TestMacTunnel(t *testing.T) {
	t.Parallel()
	m := newMac(t)
	vm := m.StartVM(t, lab.VMOptions{Sealed: true})
	m.watch(vm.URL())
	docker(t, vm, "run", "-d", "--name", "web", "web")
	ip := address(t, vm, "bridge", "web")
	before := m.state()

	out, errs, code := m.fairlead("setup-network")
	if code != agent.ExitPartly || !strings.Contains(out, "a tunnel lives as long as the agent") {
		t.Errorf("setup-network: exit %d\n%s%s", code, out, errs)
	}
	m.must("teardown-network")
	m.same(before)

	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		r := m.start()
		m.answers("web.docker", ip)
		m.eventually("ping", func() error {
			if _, err := m.Run(t.Context(), "ping", "-c1", "-W1", ip); err != nil {
				return fmt.Errorf("%w; %+v", err, m.status().Engines[0].Tunnel)
			}
			return nil
		})
		if out, err := m.Run(t.Context(), "curl", "-sS", "--max-time", "20", "http://"+ip+"/"); err != nil {
			t.Errorf("curl: %v %s", err, out)
		}
		if end == syscall.SIGTERM {
			m.throughput(vm, "web", ip)
			m.sleeps(r, ip)
		}
		r.signal(end)
		m.must("teardown-network")
		m.same(before)
	}
}

// Where docker-mac-net-connect routes to Docker Desktop's containers already, fairlead adds the names alone; once that one is gone
// it routes itself.
func TestMacPeer(t *testing.T) {
	t.Parallel()
	m := newMac(t)
	vm := m.StartVM(t, lab.VMOptions{})
	in(t, vm, "sh", "-c", "rm /etc/os-release; echo 'PRETTY_NAME=\"Docker Desktop\"' > /etc/os-release") // what the engine says of itself
	m.watch(vm.URL())
	docker(t, vm, "run", "-d", "--name", "web", "web")
	ip := address(t, vm, "bridge", "web")
	wireguardTo(t, m.host, vm)
	before := m.state()

	r := m.start()
	m.answers("web.docker", ip)
	m.ping(ip)
	m.does("status", "native (docker-mac-net-connect routes to its containers itself; fairlead does when that is stopped)")
	docker(t, vm, "network", "create", "--subnet", "172.30.5.0/24", "shop")
	docker(t, vm, "run", "-d", "--name", "db", "--network", "shop", "web")
	m.eventually("what it does not route to is said", func() error {
		if said := m.must("status"); !strings.Contains(said, "no route leads to it by utun5") || !strings.Contains(said, "brew services stop docker-mac-net-connect") {
			return errors.New(said)
		}
		return nil
	})
	m.answers("db.docker", "")
	in(t, m, "ip", "route", "add", "172.30.5.0/24", "dev", wireguardDev)
	m.answers("db.docker", address(t, vm, "shop", "db"))
	docker(t, vm, "rm", "-f", "db")
	docker(t, vm, "network", "rm", "shop")
	in(t, m, "ip", "route", "del", "172.30.5.0/24", "dev", wireguardDev)
	rows := func() string {
		rows, err := m.Routes(t.Context())
		m.done(err)
		return strings.Join(rows, "\n")
	}
	if got := rows(); strings.Count(got, "172.17.0.0/16") != 1 || !strings.Contains(got, "172.17.0.0/16 dev "+wireguardDev) {
		t.Errorf("the routes are\n%s", got)
	}

	in(t, m, "ip", "link", "del", wireguardDev) // as it goes with its process
	m.eventually("fairlead's own tunnel", func() error {
		if e := m.status().Engines[0]; e.Tunnel == nil {
			return fmt.Errorf("%+v", e.Reach)
		}
		return nil
	})
	m.answers("web.docker", ip)
	m.eventually("ping", func() error {
		_, err := m.Run(t.Context(), "ping", "-c1", "-W1", ip)
		return err
	})
	r.signal(syscall.SIGTERM)
	if after := m.files(); !strings.Contains(before, after) {
		t.Errorf("the Mac is not as before:\n%s", difference(before, after))
	}
	if got := rows(); strings.Contains(got, "172.17.0.0/16") {
		t.Errorf("left:\n%s", got)
	}
}

// sleeps stops the agent for as long as it takes to be a sleep (platform.Clocks), while what it has made goes away.
func (m mac) sleeps(r *run, ip string) {
	m.t.Helper()
	m.status() // while somebody looks it looks at its clocks often
	m.done(r.cmd.Process.Signal(syscall.SIGSTOP))
	m.done(m.DeleteRoute(m.t.Context(), netip.MustParsePrefix("172.17.0.0/16")))
	m.done(os.Remove(m.root + "/etc/resolver/docker"))
	time.Sleep(13 * time.Second)
	m.done(r.cmd.Process.Signal(syscall.SIGCONT))
	m.eventually("it notices", func() error {
		if !strings.Contains(r.log.String(), "this host slept") {
			return errors.New("not yet")
		}
		return nil
	})
	m.eventually("the tunnel is back", func() error {
		_, err := m.Run(context.Background(), "ping", "-c1", "-W1", ip)
		return err
	})
	m.resolves("17.172.in-addr.arpa", "docker")
	m.answers("web.docker", ip)
}

// throughput moves packets both ways as fast as they go, by iperf3 in the network of a container.
func (m mac) throughput(vm *lab.VM, container, ip string) {
	m.t.Helper()
	pid := docker(m.t, vm, "inspect", "-f", "{{.State.Pid}}", container)
	serve := vm.Command(context.Background(), "nsenter", "--target", pid, "--net", "iperf3", "--server")
	if err := serve.Start(); err != nil {
		m.t.Fatal(err)
	}
	defer func() {
		serve.Process.Kill()
		serve.Wait()
	}()
	for _, way := range []string{"--no-delay", "--reverse"} {
		m.eventually("iperf3 "+way, func() error {
			out, err := m.Run(context.Background(), "iperf3", "--client", ip, "--bytes", "16M", "--connect-timeout", "5000", "--json", way)
			if err != nil {
				return err
			}
			var said struct { // iperf3 --json ends with 0, come what may
				Error string
				End   struct {
					Received struct{ Bytes int } `json:"sum_received"`
				}
			}
			if err := json.Unmarshal([]byte(out), &said); err != nil || said.End.Received.Bytes < 8<<20 { // what is under way at the end is not counted
				return fmt.Errorf("%s, %d bytes received, %v", said.Error, said.End.Received.Bytes, err)
			}
			m.t.Logf("iperf3 %s: %d bytes", way, said.End.Received.Bytes)
			return nil
		})
	}
}
