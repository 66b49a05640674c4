package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv("LAB_TEST_CRASH") != "" {
		crash()
	}
	os.Exit(m.Run())
}

// Promise of the routed world: a route alone reaches no container, a route and an admission in the VM do.
func TestRouted(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	w := Start(t, Options{})
	before := state(t, w)
	vm := w.StartVM(t, VMOptions{TCP: true})
	t.Log("engine:", must(vm.Docker(ctx, "info", "--format", "{{.ServerVersion}} {{.Driver}} cgroup v{{.CgroupVersion}} {{.Name}}"))(t))
	if got := must(w.Run(ctx, dockerPath(), "--host", vm.URL(), "info", "--format", "{{.Name}}"))(t); got != "vm0\n" {
		t.Errorf("name of the engine at %s = %q, want vm0", vm.URL(), got)
	}

	firewall := must(vm.Firewall(ctx))(t)
	if !strings.Contains(firewall, "\n:FORWARD DROP") {
		t.Errorf("the VM forwards by default:\n%s", firewall)
	}
	web := runWeb(t, vm, "web")
	silent(t, w, web, "without a route")
	must(w.Run(ctx, "ip", "route", "add", "172.17.0.0/16", "via", vm.Addr().String()))(t)
	silent(t, w, web, "without admission in the VM")
	admission := []string{"filter DOCKER-USER"}
	major, _, _ := strings.Cut(must(vm.Docker(ctx, "version", "--format", "{{.Server.Version}}"))(t), ".")
	if must(strconv.Atoi(major))(t) >= 28 {
		admission = append(admission, "raw PREROUTING")
	}
	admit := func(how string) {
		for _, place := range admission {
			table, chain, _ := strings.Cut(place, " ")
			must(vm.Run(ctx, "iptables", "-t", table, how, chain, "-i", "eth1", "-j", "ACCEPT"))(t)
		}
	}
	admit("-I")
	if must(vm.Firewall(ctx))(t) == firewall {
		t.Error("Firewall does not show a new rule")
	}
	must(w.Run(ctx, "ping", "-c", "1", "-w", "20", web))(t)
	if got, want := must(get(ctx, w, web))(t), "web\n192.168.99.1\n"; got != want {
		t.Errorf("HTTP answer = %q, want %q", got, want)
	}
	for _, proto := range []string{"tcp", "udp"} {
		script := fmt.Sprintf(`exec 3<>/dev/%s/%s/7; echo hello >&3; timeout 20 dd bs=99 count=1 status=none <&3`, proto, web)
		if got := must(w.Run(ctx, "bash", "-c", script))(t); got != "hello\n" {
			t.Errorf("%s echo = %q", proto, got)
		}
	}

	admit("-D")
	if got := must(vm.Firewall(ctx))(t); got != firewall {
		t.Errorf("Firewall after the rule was taken back:\n%s\nwant\n%s", got, firewall)
	}
	if err := w.DeleteRoute(ctx, netip.MustParsePrefix("172.17.0.0/16")); err != nil {
		t.Error(err)
	}
	if err := w.DeleteRoute(ctx, netip.MustParsePrefix("172.17.0.0/16")); err == nil {
		t.Error("deleting an absent route is no error")
	}
	if got, want := must(w.Routes(ctx))(t), "192.168.99.0/24 dev vboxnet0 proto kernel scope link src 192.168.99.1"; len(got) != 1 || got[0] != want {
		t.Errorf("Routes = %q, want only %q", got, want)
	}

	// With the link's own traces gone, the host must be what it was.
	must(w.Run(ctx, "ip", "link", "del", vm.HostDev()))(t)
	if got := state(t, w); got != before {
		t.Errorf("State changed:\n%s\nwant\n%s", got, before)
	}
}

func TestRoutedIPv6(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	w := Start(t, Options{})
	vm := w.StartVM(t, VMOptions{
		Addr6: netip.MustParseAddr("fd99::100"), HostAddr6: netip.MustParsePrefix("fd99::1/64"),
		Args: []string{"--ipv6", "--fixed-cidr-v6=fd17::/64"},
	})
	must(vm.Docker(ctx, "run", "-d", "--name", "web", "web"))(t)
	addr := must(vm.Docker(ctx, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.GlobalIPv6Address}}", "web"))(t)
	must(w.Run(ctx, "ip", "route", "add", "fd17::/64", "via", "fd99::100"))(t)
	must(w.Run(ctx, "ping", "-c", "1", "-w", "20", addr))(t)
}

func TestSealed(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	w := Start(t, Options{})
	vm := w.StartVM(t, VMOptions{Sealed: true})
	web := runWeb(t, vm, "web")
	if out := must(w.Run(ctx, "ip", "-br", "link"))(t); strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, "lo ") {
		t.Errorf("links of the host:\n%s", out)
	}
	if out, err := w.Run(ctx, "ip", "route", "get", web); err == nil {
		t.Errorf("the host has a route to the container: %s", out)
	}
	if got := must(w.Run(ctx, dockerPath(), "--host", vm.URL(), "ps", "--format", "{{.Names}}"))(t); got != "web\n" {
		t.Errorf("containers by the socket = %q", got)
	}
	// From inside the VM the container is alive.
	if got, want := must(get(ctx, vm, web))(t), "web\n172.17.0.1\n"; got != want {
		t.Errorf("HTTP answer inside the VM = %q, want %q", got, want)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	w := Start(t, Options{})
	vm := w.StartVM(t, VMOptions{})
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	answers := func() bool {
		_, err := vm.api(ctx, "GET", "/_ping", nil)
		return err == nil
	}
	web := runWeb(t, vm, "web")

	ok(vm.PauseDockerd(ctx))
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if _, err := vm.api(short, "GET", "/_ping", nil); err == nil {
		t.Error("paused dockerd answers")
	}
	ok(vm.ResumeDockerd())
	if !answers() {
		t.Error("resumed dockerd does not answer")
	}

	ok(vm.KillDockerd(ctx))
	if answers() {
		t.Error("killed dockerd answers")
	}
	if _, err := get(ctx, vm, web); err != nil {
		t.Errorf("killing dockerd ended a container: %v", err)
	}
	if err := vm.StopDockerd(ctx); err == nil {
		t.Error("stopping a dockerd that is not running is no error")
	}
	ok(vm.StartDockerd(ctx))

	must(vm.Docker(ctx, "start", "web"))(t)
	ok(vm.StopDockerd(ctx))
	if _, err := get(ctx, vm, web); err == nil {
		t.Error("a container runs on after dockerd was stopped")
	}
	ok(vm.StartDockerd(ctx))
	if got := must(vm.Docker(ctx, "ps", "-a", "--format", "{{.Names}} {{.State}}"))(t); got != "web exited" {
		t.Errorf("containers after the restart = %q", got)
	}

	answersAt := func(addr string) {
		t.Helper()
		must(w.Run(ctx, "ping", "-c", "1", "-w", "20", addr))(t)
	}
	silentAt := func(addr, why string) {
		t.Helper()
		if _, err := w.Run(ctx, "ping", "-c", "1", "-W", "1", addr); err == nil {
			t.Error("VM answers " + why)
		}
	}
	answersAt("192.168.99.100")
	ok(vm.LinkDown(ctx))
	silentAt("192.168.99.100", "with its link down")
	ok(vm.LinkUp(ctx))
	answersAt("192.168.99.100")
	ok(vm.SetAddr(ctx, netip.MustParseAddr("192.168.99.101")))
	silentAt("192.168.99.100", "at its old address")
	answersAt("192.168.99.101")

	ok(vm.PowerOff(ctx))
	silentAt("192.168.99.101", "without power")
	if answers() {
		t.Error("the engine answers without power")
	}
}

// Two worlds with the same names and addresses do not see each other, nor does the real machine see them.
func TestApart(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	a, b := Start(t, Options{ResolvConf: "nameserver 10.0.0.1\n"}), Start(t, Options{})
	vmA, vmB := a.StartVM(t, VMOptions{}), b.StartVM(t, VMOptions{})
	runWeb(t, vmA, "web")
	before := state(t, b)
	for _, path := range []string{"/etc/" + a.id, "/run/" + a.id, "/var/lib/" + a.id} { // no machine has these
		must(a.Run(ctx, "sh", "-c", "echo x >"+path))(t)
		for _, root := range []string{b.Root(), vmA.Root(), ""} {
			if _, err := os.Lstat(root + path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s of world a is seen in %q: %v", path, root, err)
			}
		}
	}
	if got := must(a.Run(ctx, "cat", "/etc/resolv.conf"))(t); got != "nameserver 10.0.0.1\n" {
		t.Errorf("resolv.conf = %q", got)
	}
	// As a program does that writes safely; over a bind mount it would fail.
	must(a.Run(ctx, "sh", "-c", "echo new >/etc/new && mv /etc/new /etc/resolv.conf"))(t)
	must(a.Run(ctx, "ip", "route", "add", "172.17.0.0/16", "via", "192.168.99.100"))(t)
	if got := must(vmB.Docker(ctx, "ps", "-aq"))(t); got != "" {
		t.Errorf("containers in b: %s", got)
	}
	if got := state(t, b); got != before {
		t.Errorf("world b was changed through a:\n%s\nwant\n%s", got, before)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	must(vmB.Docker(ctx, "run", "--rm", "web", "exit", "0"))(t)
	if _, err := vmB.Docker(ctx, "run", "--rm", "web", "exit", "3"); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("exit 3 in a container: %v", err)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	w := Start(t, Options{})
	vm := w.StartVM(t, VMOptions{})
	runWeb(t, vm, "web")
	idle := w.Command(t.Context(), "sleep", "1000") // a program of the host that its test has forgotten
	if err := idle.Start(); err != nil {
		t.Fatal(err)
	}
	go idle.Wait()
	if got := traces(t, w.id); len(got) < 5 {
		t.Fatalf("traces sees too little of a living world: %q", got)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if got := traces(t, w.id); len(got) > 0 {
		t.Errorf("left after Close:\n%s", strings.Join(got, "\n"))
	}
	if err := w.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// The same end when the process that made the world gets SIGKILL: at leisure, and in the midst of making a VM.
func TestCrashLeavesNothing(t *testing.T) {
	t.Parallel()
	Need(t)
	for _, when := range []string{"ready", "starting"} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "LAB_TEST_CRASH="+when)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		id, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Fatalf("child: %v", err)
		}
		died := time.Now()
		left := traces(t, strings.TrimSpace(id))
		for len(left) > 0 && time.Since(died) < 20*time.Second {
			time.Sleep(20 * time.Millisecond) // nobody tells us: the janitor is not our child
			left = traces(t, strings.TrimSpace(id))
		}
		if len(left) > 0 {
			t.Errorf("%s: left 20 s after the crash:\n%s", when, strings.Join(left, "\n"))
		}
		t.Logf("%s: all gone %v after the crash", when, time.Since(died).Round(time.Millisecond))
	}
}

// crash makes a world, says its id, and dies.
func crash() {
	fatal := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	ctx := context.Background()
	w, err := New(ctx, Options{})
	fatal(err)
	fmt.Println(w.id)
	if os.Getenv("LAB_TEST_CRASH") == "ready" {
		vm, err := w.VM(ctx, VMOptions{})
		fatal(err)
		fatal(vm.LoadImages(ctx))
		_, err = vm.Docker(ctx, "run", "-d", "web")
		fatal(err)
		fatal(w.Command(ctx, "sleep", "1000").Start())
	} else {
		go w.VM(ctx, VMOptions{})
		for { // until dockerd writes its log, and half a system is up
			if info, err := os.Stat(filepath.Join(w.dir, "vm0", "dockerd.log")); err == nil && info.Size() > 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	fatal(syscall.Kill(os.Getpid(), syscall.SIGKILL))
	select {}
}

// TestBringUp tells what a world costs; it judges nothing.
func TestBringUp(t *testing.T) {
	begin := time.Now()
	w := Start(t, Options{})
	t.Logf("host up after %v", time.Since(begin).Round(time.Millisecond))
	vm, err := w.VM(t.Context(), VMOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("engine answers after %v", time.Since(begin).Round(time.Millisecond))
	if err := vm.LoadImages(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("images loaded after %v", time.Since(begin).Round(time.Millisecond))
	runWeb(t, vm, "web")
	t.Logf("container runs after %v", time.Since(begin).Round(time.Millisecond))
	begin = time.Now()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("closed in %v", time.Since(begin).Round(time.Millisecond))
}

// traces lists all that is left of a world on this machine: files, namespaces, mounts, processes, cgroups, sockets.
func traces(t *testing.T, id string) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"/tmp/*", "/run/netns/*", "/etc/netns/*", "/sys/fs/cgroup/*", "/sys/fs/cgroup/*/*"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if strings.Contains(path, id) {
				found = append(found, path)
			}
		}
	}
	// Of processes: by command line or cgroup (containers), or by the mounts they see (all the rest).
	for _, name := range []string{"cmdline", "cgroup", "mounts"} {
		files, err := filepath.Glob("/proc/[0-9]*/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), id) {
				found = append(found, file)
			}
		}
	}
	return found
}

type runner interface {
	Run(ctx context.Context, name string, args ...string) (string, error)
}

// runWeb starts a container of that name and host name, and returns its address.
func runWeb(t *testing.T, vm *VM, name string) string {
	t.Helper()
	must(vm.Docker(t.Context(), "run", "-d", "--name", name, "--hostname", name, "web"))(t)
	addr := must(vm.Docker(t.Context(), "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", name))(t)
	// The container runs a moment before its server listens.
	must(vm.Run(t.Context(), "curl", "-sS", "--retry-connrefused", "--retry", "50", "--retry-delay", "0", "--retry-max-time", "10", "-o", "/dev/null", "http://"+addr))(t)
	return addr
}

func get(ctx context.Context, from runner, addr string) (string, error) {
	return from.Run(ctx, "curl", "-sS", "--max-time", "20", "http://"+addr)
}

// silent tells that neither ping nor HTTP gets an answer from addr.
func silent(t *testing.T, w *World, addr, why string) {
	t.Helper()
	for _, command := range [][]string{{"ping", "-c", "1", "-W", "1", addr}, {"curl", "-sS", "--max-time", "1", "http://" + addr}} {
		if _, err := w.Run(t.Context(), command[0], command[1:]...); err == nil {
			t.Errorf("%s answers %s %s", addr, command[0], why)
		}
	}
}

func state(t *testing.T, w *World) string {
	t.Helper()
	return must(w.State(t.Context()))(t)
}

func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}
