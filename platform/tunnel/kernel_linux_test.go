package tunnel

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary runs again in a fresh network namespace, which is the host; a second one is the VM, a third a container
// behind it. Host and VM are joined by the pipes of a real pilot and nothing else.
//
//	host (this process)                VM                                   container
//	flead0 10.9.0.1 fd09::1 ==pipes== flead-0123abcd 10.9.0.2 fd09::2
//	                                  br0 172.30.0.1 fd30::1 --veth-- eth0 172.30.0.2 fd30::2

const (
	inHost      = "FAIRLEAD_TEST_TUNNEL"
	inContainer = "FAIRLEAD_TEST_TUNNEL_SERVE"
	asHost      = "FAIRLEAD_TEST_TUNNEL_LEAD"
)

var pilotPath = os.Getenv(inHost)

func TestMain(m *testing.M) {
	if os.Getenv(inContainer) != "" {
		serve()
	}
	if os.Getenv(asHost) != "" {
		lead()
	}
	if pilotPath != "" || os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "fairlead-tunnel-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := func() int {
		pilot := filepath.Join(dir, "pilot")
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", pilot, "../../cmd/pilot")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the pilot: %v\n%s", err, out)
			return 1
		}
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inHost+"="+pilot)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		err := cmd.Run()
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			return exit.ExitCode()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "run the tests in a namespace:", err)
			return 1
		}
		return 0
	}()
	os.RemoveAll(dir)
	os.Exit(code)
}

// serve is the container's program: TCP port 7 takes an order, bytes to send as u64, sends them, reads to the end and
// answers the SHA-256 of what it read; UDP port 7 echoes.
func serve() {
	fatal := func(err error) {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
	conns, err := net.Listen("tcp", ":7")
	if err != nil {
		fatal(err)
	}
	packets, err := net.ListenPacket("udp", ":7")
	if err != nil {
		fatal(err)
	}
	go func() {
		b := make([]byte, maxPacket)
		for {
			n, from, err := packets.ReadFrom(b)
			if err != nil {
				fatal(err)
			}
			packets.WriteTo(b[:n], from)
		}
	}()
	fmt.Println("ready")
	for {
		c, err := conns.Accept()
		if err != nil {
			fatal(err)
		}
		go func() {
			defer c.Close()
			var order [8]byte
			if _, err := io.ReadFull(c, order[:]); err != nil {
				return
			}
			if _, err := io.Copy(c, noise(int64(binary.BigEndian.Uint64(order[:])))); err != nil {
				return
			}
			sum := sha256.New()
			io.Copy(sum, c)
			c.Write(sum.Sum(nil))
		}()
	}
}

// lead is a host that can be killed: a tunnel over standard input and output.
func lead() {
	l := Lead(context.Background(), stdio{})
	t, err := l.Tunnel(context.Background(), kernelLink)
	if err != nil {
		fmt.Fprintln(os.Stderr, "lead:", err)
		os.Exit(1)
	}
	<-t.Done()
	os.Exit(0)
}

type stdio struct{}

func (stdio) Read(b []byte) (int, error)  { return os.Stdin.Read(b) }
func (stdio) Write(b []byte) (int, error) { return os.Stdout.Write(b) }
func (stdio) Close() error                { return errors.Join(os.Stdin.Close(), os.Stdout.Close()) }

// noise gives n bytes that hardly any shift or loss leaves the same.
func noise(n int64) io.Reader { return io.LimitReader(new(noisy), n) }

type noisy struct{ at int }

var someNoise = func() []byte {
	b := make([]byte, 1<<20+7)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}()

func (r *noisy) Read(b []byte) (int, error) {
	n := copy(b, someNoise[r.at:])
	r.at = (r.at + n) % len(someNoise)
	return n, nil
}

var kernelLink = Link{
	Tag:   "0123abcd",
	Host:  []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")},
	Pilot: []netip.Addr{netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("fd09::2")},
}

const (
	container4 = "172.30.0.2"
	container6 = "fd30::2"
)

// vm is a namespace with a container behind it.
type vm struct {
	t         testing.TB
	ns        int // a process in it
	container int
}

func needRoot(t testing.TB) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
}

func newVM(t testing.TB, mtu int) *vm {
	needRoot(t)
	m := &vm{t: t, ns: namespace(t), container: namespace(t)}
	for _, step := range []string{
		"sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
		"ip link set lo up",
		"ip link add br0 address 02:00:00:00:00:01 type bridge",
		"ip link add veth0 type veth peer name eth0 netns " + strconv.Itoa(m.container),
		"ip link set veth0 master br0",
		fmt.Sprintf("ip link set br0 mtu %d up", mtu),
		fmt.Sprintf("ip link set veth0 mtu %d up", mtu),
		"ip addr add 172.30.0.1/24 dev br0",
		"ip addr add fd30::1/64 dev br0 nodad",
	} {
		m.run(step)
	}
	for _, step := range []string{
		"ip link set lo up",
		fmt.Sprintf("ip link set eth0 mtu %d up", mtu),
		"ip addr add 172.30.0.2/24 dev eth0",
		"ip addr add fd30::2/64 dev eth0 nodad",
		"ip route add default via 172.30.0.1",
		"ip route add default via fd30::1",
	} {
		run(t, m.container, step)
	}
	server := exec.Command("nsenter", "-t", strconv.Itoa(m.container), "-n", "/proc/self/exe")
	server.Args[4] = must(os.Executable())(t)
	server.Env = append(os.Environ(), inContainer+"=1")
	server.Stderr = os.Stderr
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out := must(server.StdoutPipe())(t)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatalf("container's server: %v", err)
	}
	for _, to := range []string{container4, container6} { // a bridge is ready a moment after it is up
		until(t, "the container answers the VM", func() bool {
			_, err := try(t.Context(), m.ns, "ping -n -c 1 -W 1 "+to)
			return err == nil
		})
	}
	return m
}

// namespace makes one that ends with the test, and returns a process in it.
func namespace(t testing.TB) int {
	t.Helper()
	cmd := exec.Command("sleep", "3600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd.Process.Pid
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// run runs a command in the namespace of a process, 0 being this one's.
func run(t testing.TB, ns int, command string) string {
	t.Helper()
	out, err := try(t.Context(), ns, command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func try(ctx context.Context, ns int, command string) (string, error) {
	args := strings.Fields(command)
	if ns != 0 {
		args = append([]string{"nsenter", "-t", strconv.Itoa(ns), "-n"}, args...)
	}
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", command, err, out)
	}
	return string(out), err
}

func (m *vm) run(command string) string {
	m.t.Helper()
	return run(m.t, m.ns, command)
}

// pilot is a running pilot in a vm, its standard input and output being the stream.
type pilot struct {
	io.Reader
	io.WriteCloser
	cmd    *exec.Cmd
	stderr strings.Builder
	exited chan struct{}
}

func (p *pilot) Close() error { return p.WriteCloser.Close() }

// noDevice has start run a pilot where there is no /dev/net/tun.
var noDevice = []string{"-sys_module"}

// start runs a pilot with the one capability that it has in the VM, and those given.
func (m *vm) start(more ...string) *pilot {
	t := m.t
	t.Helper()
	p := &pilot{exited: make(chan struct{})}
	caps := strings.Join(append([]string{"-all", "+net_admin"}, more...), ",")
	p.cmd = exec.Command("nsenter", "-t", strconv.Itoa(m.ns), "-n", "setpriv", "--bounding-set", caps, pilotPath, "lead")
	if slices.Equal(more, noDevice) {
		p.cmd.Args = append([]string{"unshare", "-m", "sh", "-c", "mount -t tmpfs none /dev/net && exec \"$@\"", "sh"}, p.cmd.Args...)
		p.cmd.Path = must(exec.LookPath("unshare"))(t)
	}
	p.cmd.Stderr = &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.WriteCloser = must(p.cmd.StdinPipe())(t)
	r, w, err := os.Pipe() // not StdoutPipe, which Wait closes under its reader
	if err != nil {
		t.Fatal(err)
	}
	p.Reader, p.cmd.Stdout = r, w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() {
		p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.exited
		r.Close()
		if t.Failed() {
			t.Logf("the pilot said: %s", p.stderr.String())
		}
	})
	return p
}

// tunnel starts a pilot and makes a tunnel to the container.
func (m *vm) tunnel(mtu int) (*Tunnel, *pilot) {
	m.t.Helper()
	p := m.start()
	link := kernelLink
	link.MTU = mtu
	l := Lead(m.t.Context(), p)
	m.t.Cleanup(l.Close)
	tun, err := l.Tunnel(m.t.Context(), link)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(tun.Close)
	if err := tun.Lacks(); err != nil {
		m.t.Errorf("the tunnel lacks an address: %v", err)
	}
	run(m.t, 0, "ip route add 172.30.0.0/24 dev "+tun.Dev())
	run(m.t, 0, "ip route add fd30::/64 dev "+tun.Dev())
	return tun, p
}

func TestKernelCarriesEverything(t *testing.T) {
	for _, c := range []struct {
		name           string
		mtu, container int
		bytes          int64
	}{
		{"jumbo", 0, 1500, 50 << 20},
		{"jumbo to small networks", 0, 1400, 5 << 20},
		{"plain", 1500, 1500, 5 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newVM(t, c.container)
			tun, _ := m.tunnel(c.mtu)
			for _, to := range []string{"10.9.0.2", container4, "fd09::2", container6} {
				run(t, 0, "ping -n -c 3 -i 0.01 -w 20 "+to)
			}
			for _, to := range []string{"10.9.0.1", "fd09::1"} {
				run(t, m.container, "ping -n -c 3 -i 0.01 -w 20 "+to)
			}
			for _, to := range []string{container4, container6} {
				bulk(t, to, c.bytes, 0)
				bulk(t, to, 0, c.bytes)
				datagrams(t, to)
			}
			s := tun.Stats()
			for way, got := range map[string]Traffic{"to the VM": s.Sent, "from the VM": s.Received} {
				if got.Bytes < uint64(2*c.bytes) {
					t.Errorf("%s %d bytes were counted, and %d carried", way, got.Bytes, 2*c.bytes)
				}
				if joined := got.Bytes/got.Packets > 2000; joined != (c.mtu == 0) {
					t.Errorf("%s there were %d packets of %d bytes on average", way, got.Packets, got.Bytes/got.Packets)
				}
			}
			_, counters, _ := strings.Cut(run(t, m.container, "cat /proc/net/dev"), "eth0:")
			var bytes, count uint64
			if _, err := fmt.Sscan(counters, &bytes, &count); err != nil {
				t.Fatal(err)
			}
			if whole := bytes/count > 5000; whole != (c.mtu == 0) {
				t.Errorf("%d packets of %d bytes on average came to the container: were segments cut on their way?", count, bytes/count)
			}
		})
	}
}

func TestKernelPingsUnderLoad(t *testing.T) {
	m := newVM(t, 1500)
	m.tunnel(0)
	load := make(chan struct{})
	go func() {
		defer close(load)
		bulk(t, container4, 50<<20, 50<<20)
	}()
	for answered := 0; ; answered++ {
		select {
		case <-load:
			if answered == 0 {
				t.Error("no ping was answered before the load was over: this tests nothing")
			}
			return
		default:
			run(t, 0, "ping -n -c 1 -i 0.2 -w 20 "+container6) // a full queue may drop some
		}
	}
}

// devices lists the devices of a namespace but those it had from the start.
func devices(t testing.TB, ns int) []string {
	t.Helper()
	var found []string
	for _, line := range strings.Split(run(t, ns, "ip -br link"), "\n") {
		if name, _, _ := strings.Cut(line, " "); strings.HasPrefix(name, "flead") {
			found = append(found, name)
		}
	}
	return found
}

func TestKernelNoDeviceOutlivesTheStream(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*Tunnel, *pilot)
	}{
		{"tunnel closed", func(t *Tunnel, _ *pilot) { t.Close() }},
		{"pilot killed", func(_ *Tunnel, p *pilot) { p.cmd.Process.Kill() }},
		{"pilot stopped", func(_ *Tunnel, p *pilot) { p.cmd.Process.Signal(syscall.SIGTERM) }},
		{"host's device deleted", func(*Tunnel, *pilot) { exec.Command("ip", "link", "del", "flead0").Run() }},
		{"pilot's device deleted", func(_ *Tunnel, p *pilot) {
			exec.Command("nsenter", "-t", strconv.Itoa(p.cmd.Process.Pid), "-n", "ip", "link", "del", "flead-0123abcd").Run()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newVM(t, 1500)
			tun, p := m.tunnel(0)
			if here, there := devices(t, 0), devices(t, m.ns); len(here) != 1 || here[0] != tun.Dev() || len(there) != 1 || there[0] != "flead-0123abcd" {
				t.Fatalf("devices %q and %q", here, there)
			}
			c.end(tun, p)
			<-tun.Done()
			if left := devices(t, 0); len(left) > 0 {
				t.Errorf("left on the host: %q", left)
			}
			<-p.exited
			if left := devices(t, m.ns); len(left) > 0 {
				t.Errorf("left in the VM: %q", left)
			}
		})
	}
}

// killable starts a host of its own process.
func (m *vm) killable(p *pilot) *exec.Cmd {
	t := m.t
	t.Helper()
	cmd := exec.Command(must(os.Executable())(t))
	cmd.Env = append(os.Environ(), asHost+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Reader.(*os.File), p.WriteCloser.(*os.File), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.Close() // the pilot's input is the host's alone
	p.Reader.(*os.File).Close()
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	until(t, "the host routes by its device", func() bool {
		_, err := try(t.Context(), 0, "ip route add 172.30.0.0/24 dev flead0")
		return err == nil
	})
	until(t, "a ping is answered", func() bool {
		_, err := try(t.Context(), m.container, "ping -n -c 1 -W 1 10.9.0.1")
		return err == nil
	})
	return cmd
}

func TestKernelKilledHostLeavesNothing(t *testing.T) {
	m := newVM(t, 1500)
	p := m.start()
	host := m.killable(p)
	host.Process.Kill()
	host.Wait()
	if left := devices(t, 0); len(left) > 0 {
		t.Errorf("left on the host: %q", left)
	}
	<-p.exited
	if left := devices(t, m.ns); len(left) > 0 {
		t.Errorf("left in the VM: %q", left)
	}
}

// TestKernelStalledHost floods a host that does not read: the VM's kernel drops, the pilot does not grow, and all goes on
// afterwards.
func TestKernelStalledHost(t *testing.T) {
	m := newVM(t, 1500)
	p := m.start()
	host := m.killable(p)
	number := func(path, after string) int64 {
		t.Helper()
		_, text, _ := strings.Cut(run(t, m.ns, "cat "+path), after)
		return must(strconv.ParseInt(strings.Fields(text)[0], 10, 64))(t)
	}
	memory := func() int64 { return number(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid), "VmRSS:") }
	dropped := func() int64 {
		_, text, _ := strings.Cut(run(t, m.ns, "ip -s link show dev flead-0123abcd"), "TX:")
		return must(strconv.ParseInt(strings.Fields(strings.SplitN(text, "\n", 3)[1])[3], 10, 64))(t)
	}
	before := memory()
	host.Process.Signal(syscall.SIGSTOP)
	until(t, "the kernel drops what nobody takes", func() bool {
		try(t.Context(), m.container, "ping -n -q -l 5000 -c 5000 -s 1400 -W 0.1 10.9.0.1")
		return dropped() > 1000
	})
	if now := memory(); now > before+8<<10 {
		t.Errorf("the pilot grew from %d to %d KiB", before, now)
	}
	host.Process.Signal(syscall.SIGCONT)
	until(t, "a ping is answered again", func() bool { // the queue is still full for a moment
		_, err := try(t.Context(), m.container, "ping -n -c 1 -W 1 10.9.0.1")
		return err == nil
	})
}

// TestKernelPilotTrustsNoHost sends what a host has no right to, past the host's own filter.
func TestKernelPilotTrustsNoHost(t *testing.T) {
	m := newVM(t, 1500)
	p := m.start()
	l := Lead(t.Context(), p)
	defer l.Close()
	link := kernelLink
	link.MTU = maxPacket
	got, err := l.ask(t.Context(), request{Link: &link})
	if err != nil || got.Linked == nil || got.Linked.Error != "" {
		t.Fatalf("link: %+v, %v", got.Linked, err)
	}
	received := func() string {
		_, rx, _ := strings.Cut(run(t, m.ns, "ip -s link show dev flead-0123abcd"), "RX:")
		rx, _, _ = strings.Cut(rx, "TX:")
		return rx
	}
	before := received()
	for _, c := range []struct{ src, dst string }{
		{"172.30.0.2", "172.30.0.1"}, // a container's address
		{"10.9.0.2", "172.30.0.2"},   // the pilot's own
		{"10.9.0.1", "127.0.0.1"},
		{"10.9.0.1", "224.0.0.1"},
		{"127.0.0.1", "172.30.0.2"},
	} {
		packet := ping4(c.src, c.dst)
		batch := binary.BigEndian.AppendUint32(make([]byte, ackLen), uint32(len(packet)))
		l.wire.send(frame{kindPackets, append(batch, packet...)})
	}
	l.wire.send(frame{kindPackets, []byte("\x00\x00\x00\x00\xff\xff\xff\xff junk")})
	again, err := l.ask(t.Context(), request{Link: &link}) // what was sent before is through
	if err != nil || again.Linked == nil || !strings.Contains(again.Linked.Error, "already") {
		t.Errorf("a second link: %+v, %v", again.Linked, err)
	}
	if after := received(); after != before {
		t.Errorf("the VM's device gave its kernel %s and then %s", before, after)
	}
}

func TestKernelRefusals(t *testing.T) {
	for _, c := range []struct {
		name, want string
		before     func(m *vm)
		link       func(*Link)
	}{
		{"bad tag", "tag", nil, func(l *Link) { l.Tag = "../../.." }},
		{"address in use in the VM", "address of this machine already", nil, func(l *Link) {
			l.Host, l.Pilot = []netip.Addr{netip.MustParseAddr("172.30.0.1")}, l.Pilot[:1]
		}},
		{"device in use", "another process has it", func(m *vm) {
			l := Lead(m.t.Context(), m.start())
			m.t.Cleanup(l.Close)
			link := Link{Tag: kernelLink.Tag, Host: []netip.Addr{netip.MustParseAddr("10.8.0.1")}, Pilot: []netip.Addr{netip.MustParseAddr("10.8.0.2")}}
			must(l.Tunnel(m.t.Context(), link))(m.t)
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newVM(t, 1500)
			if c.before != nil {
				c.before(m)
			}
			had := len(devices(t, 0))
			link := kernelLink
			if c.link != nil {
				c.link(&link)
			}
			l := Lead(t.Context(), m.start())
			defer l.Close()
			if _, err := l.Tunnel(t.Context(), link); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Tunnel = %v, want %q", err, c.want)
			}
			if got := devices(t, 0); len(got) != had {
				t.Errorf("left on the host: %q", got)
			}
		})
	}
}

// TestKernelNoRights has VMs that do not let the pilot make a device: the error says which, and what to do.
func TestKernelNoRights(t *testing.T) {
	for _, c := range []struct {
		name  string
		start []string
		want  []string
	}{
		{"no /dev/net/tun", noDevice, []string{"open /dev/net/tun", "; hint: in the VM, ", "modprobe tun"}},
		{"no CAP_NET_ADMIN", []string{"-net_admin"}, []string{"operation not permitted", "; hint: the pilot needs CAP_NET_ADMIN"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newVM(t, 1500)
			l := Lead(t.Context(), m.start(c.start...))
			defer l.Close()
			_, err := l.Tunnel(t.Context(), kernelLink)
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("Tunnel = %v, want %q in it", err, want)
				}
			}
			if left := devices(t, 0); len(left) > 0 {
				t.Errorf("left on the host: %q", left)
			}
		})
	}
}

// TestKernelTwoHosts have a pilot each in one VM. Neither minds the other, nor its end.
func TestKernelTwoHosts(t *testing.T) {
	m := newVM(t, 1500)
	first, _ := m.tunnel(0)
	second := m.start()
	l := Lead(t.Context(), second)
	defer l.Close()
	tun, err := l.Tunnel(t.Context(), Link{Tag: "4567cdef", Host: addrs("10.8.0.1", "fd08::1"), Pilot: addrs("10.8.0.2", "fd08::2")})
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	if tun.Lacks() != nil || tun.Dev() == first.Dev() {
		t.Errorf("the second tunnel is %s, lacks %v", tun.Dev(), tun.Lacks())
	}
	through := func(dev string) {
		for _, to := range []string{container4, container6} {
			if strings.Contains(to, ":") {
				run(t, 0, "ip -6 route replace "+to+" dev "+dev)
			} else {
				run(t, 0, "ip route replace "+to+" dev "+dev)
			}
			run(t, 0, "ping -n -c 1 -w 20 "+to)
			bulk(t, to, 1<<20, 1<<20)
		}
	}
	through(tun.Dev())
	through(first.Dev())
	if s := tun.Stats(); s.Sent.Bytes < 2<<20 || s.Received.Bytes < 2<<20 {
		t.Errorf("the second tunnel carried %+v", s)
	}
	second.cmd.Process.Kill()
	<-tun.Done()
	<-second.exited
	if left := devices(t, m.ns); len(left) != 1 || left[0] != "flead-0123abcd" {
		t.Errorf("in the VM there are %q", left)
	}
	through(first.Dev())
}

func TestKernelAVMWithoutIPv6(t *testing.T) {
	m := newVM(t, 1500)
	m.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
	l := Lead(t.Context(), m.start())
	defer l.Close()
	tun, err := l.Tunnel(t.Context(), kernelLink)
	if err != nil {
		t.Fatal(err)
	}
	if got := tun.Addrs(); len(got) != 1 || got[0] != kernelLink.Host[0] || tun.Lacks() == nil {
		t.Errorf("addresses %v, lacks %v", got, tun.Lacks())
	}
	run(t, 0, "ping -n -c 1 -w 20 10.9.0.2")
	tun.Close()
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not after 30 s: %s", what)
		}
	}
}

// bulk sends and receives that many bytes by TCP, one after the other, and compares their sums.
func bulk(t testing.TB, to string, send, receive int64) {
	t.Helper()
	c, err := (&net.Dialer{Timeout: 20 * time.Second}).DialContext(t.Context(), "tcp", net.JoinHostPort(to, "7"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.Write(binary.BigEndian.AppendUint64(nil, uint64(receive))); err != nil {
		t.Fatal(err)
	}
	want, got := sha256.New(), sha256.New()
	io.Copy(want, noise(receive))
	if n, err := io.CopyN(got, c, receive); err != nil {
		t.Fatalf("receive from %s: %d bytes: %v", to, n, err)
	}
	if string(want.Sum(nil)) != string(got.Sum(nil)) {
		t.Errorf("%d bytes from %s arrived as others", receive, to)
	}
	want.Reset()
	if _, err := io.Copy(io.MultiWriter(c, want), noise(send)); err != nil {
		t.Fatalf("send to %s: %v", to, err)
	}
	c.(*net.TCPConn).CloseWrite()
	there, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if sum := want.Sum(nil); string(there) != string(sum) {
		t.Errorf("%d bytes to %s: sum %s there, %s here", send, to, hex.EncodeToString(there), hex.EncodeToString(sum))
	}
}

// datagrams sends 60 KB datagrams until one comes back whole: by IPv6 the first may be lost to teach us the path's MTU.
func datagrams(t testing.TB, to string) {
	t.Helper()
	c, err := net.Dial("udp", net.JoinHostPort(to, "7"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want := must(io.ReadAll(noise(60000)))(t)
	got := make([]byte, maxPacket)
	for deadline := time.Now().Add(30 * time.Second); ; {
		c.Write(want) // EMSGSIZE is such a lesson too
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := c.Read(got)
		if err == nil && string(got[:n]) == string(want) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("no datagram of %d bytes came back from %s whole: %d bytes, %v", len(want), to, n, err)
			return
		}
	}
}
