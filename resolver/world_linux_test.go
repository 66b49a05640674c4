package resolver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
)

// As root, all tests run in a network and mount namespace of their own, with an /etc and a /run that nobody else sees.
const worldEnv = "FAIRLEAD_TEST_WORLD" // "" outside, "new" on the way in, "in" inside

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(worldEnv) == "new":
		if err := makeWorld(); err != nil {
			fmt.Fprintln(os.Stderr, "make the tests' namespaces:", err)
			os.Exit(1)
		}
		os.Setenv(worldEnv, "in") // for fuzz workers, which inherit the namespaces
		os.Exit(m.Run())
	case os.Getenv(worldEnv) == "" && os.Getuid() == 0:
		inside := exec.Command("/proc/self/exe", os.Args[1:]...)
		inside.Args[0] = os.Args[0]
		inside.Stdin, inside.Stdout, inside.Stderr = os.Stdin, os.Stdout, os.Stderr
		inside.Env = append(os.Environ(), worldEnv+"=new")
		inside.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		if err := inside.Run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	default:
		os.Exit(m.Run())
	}
}

// needWorld ends a test that needs root: as skipped, or as failed on CI, where root is promised.
func needWorld(t *testing.T) {
	t.Helper()
	if os.Getenv(worldEnv) != "in" {
		lacking(t, "needs root, for namespaces of its own")
	}
}

func lacking(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

const (
	uplinkDNS  = "127.0.0.9"       // the user's own server
	stub       = "127.0.0.53:53"   // resolved
	ours       = "127.0.0.1:55353" // fairlead, as resolved asks it
	stubConf   = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n"
	uplinkConf = "search lan\nnameserver " + uplinkDNS + "\n"
)

func makeWorld() error {
	kept := map[string][]byte{}
	for _, name := range []string{"passwd", "group", "ld.so.cache"} {
		b, err := os.ReadFile("/etc/" + name)
		if err != nil {
			return err
		}
		kept[name] = b
	}
	if !strings.Contains(string(kept["passwd"]), "\nsystemd-resolve:") { // made by the package where it is installed
		kept["passwd"] = append(kept["passwd"], "systemd-resolve:x:995:995::/:/usr/sbin/nologin\n"...)
		kept["group"] = append(kept["group"], "systemd-resolve:x:995:\n"...)
	}
	kept["nsswitch.conf"] = []byte("passwd: files\ngroup: files\nhosts: files dns\n")
	kept["hosts"] = []byte("127.0.0.1 localhost\n")
	kept["resolv.conf"] = []byte(stubConf)
	// Everything that our link must have "no" for is on here; and answers of 127.0.0.0/8, too, are cached (their default is no).
	kept["systemd/resolved.conf"] = []byte("[Resolve]\nDNS=" + uplinkDNS + "\nFallbackDNS=\nDNSSEC=allow-downgrade\nLLMNR=yes\nMulticastDNS=yes\nCacheFromLocalhost=yes\n")

	for _, dir := range []string{"/etc", "/run"} {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
		}
	}
	for name, b := range kept {
		path := filepath.Join("/etc", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/run/dbus", "/run/systemd"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	os.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/dbus/test_bus_socket")

	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	// resolved asks nobody while no link is up: a host with an uplink.
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "uplink0"
	uplink := &netlink.Veth{LinkAttrs: attrs, PeerName: "uplink1"}
	if err := netlink.LinkAdd(uplink); err != nil {
		return err
	}
	peer, err := netlink.LinkByName("uplink1")
	if err != nil {
		return err
	}
	addr, _ := netlink.ParseAddr("10.77.0.2/24")
	for _, err := range []error{netlink.AddrAdd(uplink, addr), netlink.LinkSetUp(uplink), netlink.LinkSetUp(peer)} {
		if err != nil {
			return err
		}
	}
	return nil
}

// resolvedRoot is where the Debian packages systemd-resolved and libsystemd-shared are installed or unpacked (dpkg -x).
func resolvedRoot(t *testing.T) string {
	t.Helper()
	root := os.Getenv("FAIRLEAD_TEST_RESOLVED")
	for _, need := range []string{root + "/lib/systemd/systemd-resolved", root + "/usr/bin/resolvectl", "/usr/bin/dbus-daemon"} {
		if _, err := os.Stat(need); err != nil {
			lacking(t, need+" is missing: install dbus-daemon, and systemd-resolved or unpack it below $FAIRLEAD_TEST_RESOLVED")
		}
	}
	return root
}

// start runs a program until the test ends. The returned stop kills it, as kill -9 does.
func start(t *testing.T, name string, args ...string) (stop func()) {
	t.Helper()
	cmd := command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, &out)
		}
	})
	t.Cleanup(stop)
	return stop
}

func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	if libs, _ := filepath.Glob(os.Getenv("FAIRLEAD_TEST_RESOLVED") + "/usr/lib/*/systemd"); len(libs) > 0 {
		cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libs[0])
	}
	return cmd
}

const busConfig = `<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/test_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/> <allow eavesdrop="true"/> <allow own="*"/> <allow user="*"/>
  </policy>
</busconfig>`

func startBus(t *testing.T) {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "bus.conf")
	if err := os.WriteFile(conf, []byte(busConfig), 0o644); err != nil {
		t.Fatal(err)
	}
	stop := start(t, "dbus-daemon", "--config-file="+conf, "--nofork", "--nopidfile")
	t.Cleanup(func() {
		stop()
		os.Remove("/run/dbus/test_bus_socket")
	})
	await(t, "the bus", func() error {
		conn, err := net.Dial("unix", "/run/dbus/test_bus_socket")
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// startResolved runs the real daemon and waits until it answers.
func startResolved(t *testing.T) (stop func()) {
	t.Helper()
	stop = start(t, resolvedRoot(t)+"/lib/systemd/systemd-resolved")
	await(t, "systemd-resolved", func() error {
		r, err := dialResolve1(t.Context())
		if err == nil {
			r.close()
		}
		return err
	})
	return stop
}

// await repeats try until it succeeds; the test fails after 20 s.
func await(t *testing.T, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := poll(ctx, try); err != nil {
		t.Fatalf("wait for %s: %v", what, err)
	}
}

// receive takes one value from a channel; the test fails after 20 s.
func receive[T any](t *testing.T, what string, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(20 * time.Second):
		t.Fatal("wait for " + what)
	}
	return v
}

// nameserver is a tiny DNS server that remembers what it was asked.
type nameserver struct {
	mu    sync.Mutex
	zone  map[string]string
	asked []string
}

func (n *nameserver) add(name, ip string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.zone[name] = ip
}

func (n *nameserver) names() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.asked...)
}

// serve answers A questions from zone; for another name it answers with otherwise.
func serve(t *testing.T, addr string, zone map[string]string, otherwise int) *nameserver {
	t.Helper()
	n := &nameserver{zone: zone}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		name := strings.ToLower(q.Question[0].Name)
		n.mu.Lock()
		n.asked = append(n.asked, name)
		ip, ok := n.zone[name]
		n.mu.Unlock()
		a := new(dns.Msg).SetReply(q)
		a.RecursionAvailable = true
		switch {
		case !ok:
			a.Rcode = otherwise
			soa, _ := dns.NewRR(". 86400 IN SOA a. b. 1 1 1 1 86400") // a negative answer to remember for a day
			a.Ns = append(a.Ns, soa)
		case q.Question[0].Qtype == dns.TypeA:
			rr, _ := dns.NewRR(name + " 1 IN A " + ip)
			a.Answer = append(a.Answer, rr)
		}
		if e := q.IsEdns0(); e != nil && addr == ours { // the uplink's is too old for DNSSEC; we are not, but sign nothing
			a.SetEdns0(1232, e.Do())
		}
		w.WriteMsg(a)
	})
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: handler}, {Listener: l, Handler: handler}} {
		go s.ActivateAndServe()
	}
	t.Cleanup(func() { pc.Close(); l.Close() })
	return n
}

// ask sends one A question by UDP and returns the address, or the RCODE's name.
func ask(t *testing.T, server, name string) string {
	t.Helper()
	a, _, err := (&dns.Client{Timeout: 20 * time.Second}).Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), server)
	if err != nil {
		t.Fatalf("ask %s for %s: %v", server, name, err)
	}
	for _, rr := range a.Answer {
		if rr, ok := rr.(*dns.A); ok {
			return rr.A.String()
		}
	}
	return dns.RcodeToString[a.Rcode]
}

// host plays the agent: it holds the journal, and each pass plans and applies.
type host struct{ journal []Item }

func (h *host) plan(t *testing.T, want []Item) Plan {
	t.Helper()
	found, err := Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p := Diff(want, h.journal, found)
	h.journal = p.Owned
	return p
}

func (h *host) apply(t *testing.T, want []Item) Plan {
	t.Helper()
	p := h.plan(t, want)
	for _, r := range Apply(t.Context(), p) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	if again := h.plan(t, want); len(again.Steps) > 0 {
		t.Fatalf("after %v there is still to do: %v", p.Steps, again.Steps)
	}
	return p
}

func render(t *testing.T, m Method, server string, domains ...string) []Item {
	t.Helper()
	items, err := Render(m, Want{domains, netip.MustParseAddrPort(server)})
	if err != nil {
		t.Fatal(err)
	}
	return items
}
