package firewall

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain runs the tests again in fresh network and mount namespaces, so that nothing here touches the machine's own rules,
// links or /run.
func TestMain(m *testing.M) {
	const inside = "FAIRLEAD_TEST_INSIDE"
	if os.Getenv(inside) != "" {
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
			fmt.Fprintln(os.Stderr, "mount /run:", err)
			os.Exit(1)
		}
	}
	if os.Getuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", append(os.Args[1:], "-test.parallel=8")...) // they wait more than they work
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// Unshareflags with a mount namespace also makes every mount private.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run the tests in a namespace:", err)
		os.Exit(1)
	}
}

// lab is a host beside a VM with two container networks: web's, and inner's, which like an --internal one has no way out.
// The host has two addresses of each family, .1 and .2.
type lab struct {
	t                    *testing.T
	host, vm, web, inner string // network namespaces
	kind                 string // of iptables: "" or "-legacy"
}

// newLegacyLab is a lab whose rules x_tables keeps.
func newLegacyLab(t *testing.T) *lab {
	l := newLab(t)
	l.kind = "-legacy"
	if out, err := exec.Command("nsenter", "--net=/run/netns/"+l.vm, "iptables-legacy", "-L", "-n").CombinedOutput(); err != nil {
		t.Skipf("no iptables-legacy here: %s", out)
	}
	return l
}

var labs atomic.Int32

func newLab(t *testing.T) *lab {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		t.Fatal(err)
	}
	n := labs.Add(1)
	l := &lab{t: t}
	for _, ns := range []struct {
		name *string
		base string
	}{{&l.host, "host"}, {&l.vm, "vm"}, {&l.web, "web"}, {&l.inner, "inner"}} {
		*ns.name = fmt.Sprintf("fw%d-%d-%s", os.Getpid(), n, ns.base)
		l.run("", "ip", "netns", "add", *ns.name)
		t.Cleanup(func() { l.run("", "ip", "netns", "del", *ns.name) })
	}
	l.run(strings.NewReplacer("VM", l.vm, "WEB", l.web, "INNER", l.inner).Replace(`
		link add eth0 type veth peer name eth1 netns VM
		link set eth0 up
		addr add 192.168.93.1/24 dev eth0
		addr add 192.168.93.2/24 dev eth0
		addr add fd00:93::1/64 dev eth0 nodad
		addr add fd00:93::2/64 dev eth0 nodad
		route add 172.16.0.0/12 via 192.168.93.100
		route add fd00:17::/64 via fd00:93::100
		route add fd00:18::/64 via fd00:93::100
	`), "ip", "-n", l.host, "-batch", "-")
	l.run(strings.NewReplacer("WEB", l.web, "INNER", l.inner).Replace(`
		link set lo up
		link set eth1 up
		addr add 192.168.93.100/24 dev eth1
		addr add fd00:93::100/64 dev eth1 nodad
		link add docker0 type bridge
		addr add 172.17.0.1/16 dev docker0
		addr add fd00:17::1/64 dev docker0 nodad
		link set docker0 up
		link add veth1 type veth peer name eth0 netns WEB
		link set veth1 master docker0 up
		link add br-inner type bridge
		addr add 172.18.0.1/16 dev br-inner
		addr add fd00:18::1/64 dev br-inner nodad
		link set br-inner up
		link add veth2 type veth peer name eth0 netns INNER
		link set veth2 master br-inner up
	`), "ip", "-n", l.vm, "-batch", "-")
	l.run(`
		link set eth0 up
		addr add 172.17.0.2/16 dev eth0
		addr add fd00:17::2/64 dev eth0 nodad
		route add default via 172.17.0.1
		route add default via fd00:17::1
	`, "ip", "-n", l.web, "-batch", "-")
	l.run(`
		link set eth0 up
		addr add 172.18.0.2/16 dev eth0
		addr add fd00:18::2/64 dev eth0 nodad
	`, "ip", "-n", l.inner, "-batch", "-")
	l.vmRun("", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	return l
}

// run runs a command in the tests' own namespace and returns what it says.
func (l *lab) run(stdin, name string, args ...string) string {
	l.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		l.t.Fatalf("%v: %v\n%s%s", cmd.Args, err, out, stderr.Bytes())
	}
	return string(out)
}

// vmRun runs a command in the VM.
func (l *lab) vmRun(stdin string, args ...string) string {
	l.t.Helper()
	return l.run(stdin, "nsenter", append([]string{"--net=/run/netns/" + l.vm}, args...)...)
}

// vmDo calls f on a thread in the VM.
func (l *lab) vmDo(f func()) {
	l.t.Helper()
	fd, err := unix.Open("/run/netns/"+l.vm, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	defer unix.Close(fd)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Setns(fd, unix.CLONE_NEWNET)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		l.t.Fatal("enter the VM:", err)
	}
}

func (l *lab) admit(a Admission) (s State, err error) {
	l.t.Helper()
	l.vmDo(func() { s, err = Admit(a) })
	return s, err
}

// mustAdmit wants a to be made true, in a number of changes: 0 or 1.
func (l *lab) mustAdmit(a Admission, backend Backend, changed bool) State {
	l.t.Helper()
	s, err := l.admit(a)
	if err != nil {
		l.t.Fatal("Admit:", err)
	}
	if s.Backend != backend || !s.Open || s.Changed != changed {
		l.t.Fatalf("Admit saw backend %q, open %v, changed %v; want %q, true, %v\n%s", s.Backend, s.Open, s.Changed, backend, changed, l.rules())
	}
	return s
}

func (l *lab) release(tag string) {
	l.t.Helper()
	var err error
	l.vmDo(func() { err = Release(tag) })
	if err != nil {
		l.t.Fatal("Release:", err)
	}
}

// rules is the VM's whole ruleset without its counters, as both tools print it; iptables must understand its tables.
func (l *lab) rules() string {
	l.t.Helper()
	out := l.vmRun("", "nft", "-s", "list", "ruleset")
	saves := []string{"iptables-save", "ip6tables-save"}
	if l.kind != "" {
		saves = append(saves, "iptables-legacy-save", "ip6tables-legacy-save")
	}
	for _, save := range saves {
		for line := range strings.Lines(l.vmRun("", save)) {
			if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":") { // dates and counters
				out += line
			}
		}
	}
	return out
}

// load puts an engine's rules into the VM.
func (l *lab) load(files ...string) {
	l.t.Helper()
	for _, f := range files {
		rules, err := os.ReadFile("testdata/" + f)
		if err != nil {
			l.t.Fatal(err)
		}
		tool := []string{"iptables" + l.kind + "-restore"}
		switch {
		case strings.HasSuffix(f, ".ip6tables"):
			tool = []string{"ip6tables" + l.kind + "-restore"}
		case strings.HasSuffix(f, ".nft"):
			tool = []string{"nft", "-f", "-"}
		}
		l.vmRun(string(rules), tool...)
	}
}

// ping tells whether an echo comes back to the host's address from.
func (l *lab) ping(from, to, patience string) bool {
	return exec.Command("nsenter", "--net=/run/netns/"+l.host, "ping", "-nq", "-c1", "-W"+patience, "-I", from, to).Run() == nil
}

func (l *lab) wantOpen(from string, to ...string) {
	l.t.Helper()
	for _, to := range to {
		for deadline := time.Now().Add(20 * time.Second); !l.ping(from, to, "0.5"); {
			if time.Now().After(deadline) {
				l.t.Fatalf("%s does not reach %s\n%s", from, to, l.rules())
			}
		}
	}
}

func (l *lab) wantClosed(from string, to ...string) {
	l.t.Helper()
	for _, to := range to {
		if l.ping(from, to, "0.3") {
			l.t.Fatalf("%s reaches %s\n%s", from, to, l.rules())
		}
	}
}

func (l *lab) wantRules(want string) {
	l.t.Helper()
	if got := l.rules(); got != want {
		l.t.Fatalf("the rules are now\n%s\nwant\n%s", got, want)
	}
}
