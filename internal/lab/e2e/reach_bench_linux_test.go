package e2e

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lab"
)

// A way from a host to a container, in a world of its own.
type way struct {
	name      string
	host      *host
	container string // its address
	spaces    []string
	stream    *lab.VM // instead of packets: the stream of this VM's engine
	rounds    []measured
}

// measured is what one round found: bits per second, seconds of CPU per gigabyte (all that ran in the world: host, VM,
// container), and the median round trip in ms.
type measured struct {
	to, from         float64
	cpuTo, cpuFrom   float64
	idle             float64 // every 10 ms
	often            float64 // every ms, in which ping does not sleep
	next             float64 // one after the other
	busyTo, busyFrom float64 // while all that the way takes goes to the container, or comes from it
}

// BenchmarkReach compares the ways from a host to a container: the kernel's own route to a VM that lets it through, the
// gateway and the tunnel that fairlead makes, and WireGuard in user space. One round measures each of them, one after the
// other; the figures are medians of the rounds. The engine's stream alone, which the tunnel goes by, is its limit. FAIRLEAD_BENCH_WAYS names those to measure (direct,tunnel),
// FAIRLEAD_BENCH_SECONDS says how long each transfer lasts (3).
func BenchmarkReach(b *testing.B) {
	if _, err := exec.LookPath("iperf3"); err != nil {
		b.Skip("needs iperf3: apt-get install iperf3")
	}
	all := []struct {
		name string
		open func(testing.TB) (*host, *lab.VM)
	}{{"direct", openDirect}, {"gateway", openGateway}, {"tunnel", openTunnel}, {"wireguard", openWireguard}}
	only := os.Getenv("FAIRLEAD_BENCH_WAYS")
	var ways []*way
	for _, w := range all {
		if only == "" || slices.Contains(strings.Split(only, ","), w.name) {
			h, vm := w.open(b)
			ways = append(ways, newWay(b, w.name, h, vm))
		}
	}
	if only == "" || slices.Contains(strings.Split(only, ","), "stream") {
		h := newHost(b)
		vm := h.StartVM(b, lab.VMOptions{Sealed: true})
		if err := vm.LoadImages(b.Context()); err != nil {
			b.Fatal(err)
		}
		ways = append(ways, &way{name: "stream", host: h, stream: vm, spaces: []string{netns(b, vm.Root()+"/proc/1")}})
	}
	seconds := cmp.Or(os.Getenv("FAIRLEAD_BENCH_SECONDS"), "3")
	for b.Loop() {
		for _, w := range ways {
			w.measure(b, seconds)
		}
	}
	b.Log(table(ways))
	for _, w := range ways {
		for _, m := range metrics {
			if v := w.median(m.of); v != 0 {
				b.ReportMetric(v, w.name+"-"+m.name)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
}

var metrics = []struct {
	name, head string
	of         func(measured) float64
}{
	{"to-Gbit/s", "to container, Gbit/s", func(m measured) float64 { return m.to / 1e9 }},
	{"from-Gbit/s", "from container", func(m measured) float64 { return m.from / 1e9 }},
	{"to-cpu-s/GB", "CPU s/GB to", func(m measured) float64 { return m.cpuTo }},
	{"from-cpu-s/GB", "CPU s/GB from", func(m measured) float64 { return m.cpuFrom }},
	{"idle-rtt-ms", "idle RTT ms", func(m measured) float64 { return m.idle }},
	{"often-rtt-ms", "RTT ms, every ms", func(m measured) float64 { return m.often }},
	{"next-rtt-ms", "RTT ms, one after the other", func(m measured) float64 { return m.next }},
	{"busy-to-rtt-ms", "RTT ms, loaded to", func(m measured) float64 { return m.busyTo }},
	{"busy-from-rtt-ms", "RTT ms, loaded from", func(m measured) float64 { return m.busyFrom }},
}

func (w *way) median(of func(measured) float64) float64 {
	var all []float64
	for _, m := range w.rounds {
		all = append(all, of(m))
	}
	return middle(all)
}

func middle(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// table has a row for each way, and behind each figure its ratio to the first way's: the median of the rounds' with its
// quartiles.
func table(ways []*way) string {
	var s strings.Builder
	s.WriteString("median of " + strconv.Itoa(len(ways[0].rounds)) + " rounds (ratio to " + ways[0].name + " in the same round, its quartiles)\n| way |")
	for _, m := range metrics {
		s.WriteString(" " + m.head + " |")
	}
	s.WriteString("\n|---|" + strings.Repeat("---|", len(metrics)) + "\n")
	for _, w := range ways {
		s.WriteString("| " + w.name + " |")
		for _, m := range metrics {
			var ratios []float64
			for i, r := range w.rounds {
				ratios = append(ratios, m.of(r)/m.of(ways[0].rounds[i]))
			}
			if w.median(m.of) == 0 {
				s.WriteString(" |")
				continue
			}
			fmt.Fprintf(&s, " %.3g (%.3g, %.3g to %.3g) |", w.median(m.of), middle(ratios), ratios[len(ratios)/4], ratios[len(ratios)*3/4])
		}
		s.WriteString("\n")
	}
	return s.String()
}

// openDirect is a VM whose firewall somebody has opened by hand, and a route by hand.
func openDirect(b testing.TB) (*host, *lab.VM) {
	h := newHost(b)
	vm := h.StartVM(b, lab.VMOptions{})
	in(b, vm, "iptables", "-I", "DOCKER-USER", "-j", "ACCEPT")
	in(b, vm, "iptables", "-t", "raw", "-I", "PREROUTING", "-j", "ACCEPT") // engines from 28 on
	in(b, h, "ip", "route", "add", "172.17.0.0/16", "via", vm.Addr().String())
	return h, vm
}

func openGateway(b testing.TB) (*host, *lab.VM) { return openByAgent(b, lab.VMOptions{TCP: true}) }
func openTunnel(b testing.TB) (*host, *lab.VM)  { return openByAgent(b, lab.VMOptions{Sealed: true}) }

// openByAgent is a VM that a running fairlead reaches in the way that its options leave.
func openByAgent(b testing.TB, o lab.VMOptions) (*host, *lab.VM) {
	h := newHost(b)
	vm := h.StartVM(b, o)
	h.watch(vm.URL())
	h.start("--resolver", "none")
	return h, vm
}

// openWireguard does what docker-mac-net-connect does: a point-to-point link, the containers' networks behind it, and in the
// VM the host's address masqueraded.
func openWireguard(b testing.TB) (*host, *lab.VM) {
	h := newHost(b)
	vm := h.StartVM(b, lab.VMOptions{})
	wireguardTo(b, h, vm)
	return h, vm
}

func wireguardTo(b testing.TB, h *host, vm *lab.VM) {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	for _, end := range []struct {
		name, peer string
		machine    machine
		addrs      []string
	}{
		{"host", vm.Addr().String(), h, []string{"10.33.33.1", "peer", "10.33.33.2"}},
		{"vm", "192.168.99.1", vm, []string{"10.33.33.2", "peer", "10.33.33.1"}},
	} {
		cmd := end.machine.Command(b.Context(), self)
		cmd.Env = append(cmd.Env, wireguardEnv+"="+end.name+"/"+end.peer)
		cmd.Stderr = os.Stderr
		input, err := cmd.StdinPipe()
		if err != nil {
			b.Fatal(err)
		}
		said, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { input.Close(); cmd.Wait() })
		if _, err := said.Read(make([]byte, 16)); err != nil {
			b.Fatalf("wireguard's end on the %s: %v", end.name, err)
		}
		in(b, end.machine, "ip", append([]string{"addr", "add", "dev", wireguardDev}, end.addrs...)...)
		in(b, end.machine, "ip", "link", "set", wireguardDev, "mtu", "1420", "up")
	}
	in(b, h, "ip", "route", "add", "172.17.0.0/16", "dev", wireguardDev)
	in(b, vm, "iptables", "-I", "DOCKER-USER", "-j", "ACCEPT")
	in(b, vm, "iptables", "-t", "raw", "-I", "PREROUTING", "-j", "ACCEPT")
	in(b, vm, "iptables", "-t", "nat", "-I", "POSTROUTING", "-s", "10.33.33.1", "-j", "MASQUERADE")
}

type machine interface {
	Command(ctx context.Context, name string, args ...string) *exec.Cmd
	Run(ctx context.Context, name string, args ...string) (string, error)
}

func in(b testing.TB, m machine, name string, args ...string) string {
	b.Helper()
	out, err := m.Run(b.Context(), name, args...)
	if err != nil {
		b.Fatal(err)
	}
	return out
}

func newWay(b testing.TB, name string, h *host, vm *lab.VM) *way {
	docker(b, vm, "run", "-d", "--name", "web", "web")
	w := &way{name: name, host: h, container: address(b, vm, "bridge", "web")}
	pid := docker(b, vm, "inspect", "-f", "{{.State.Pid}}", "web")
	for _, p := range []string{vm.Root() + "/proc/1", vm.Root() + "/proc/" + pid} {
		w.spaces = append(w.spaces, netns(b, p))
	}
	w.spaces = append(w.spaces, strings.TrimSpace(in(b, h, "readlink", "/proc/self/ns/net")))
	server := vm.Command(b.Context(), "nsenter", "-t", pid, "-n", "iperf3", "-s")
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	go server.Wait() // ends with the VM
	h.eventually("the container is reached by "+name, func() error {
		_, err := h.Run(context.Background(), "ping", "-n", "-c", "1", "-w", "2", w.container)
		return err
	})
	return w
}

func netns(b testing.TB, process string) string {
	b.Helper()
	ns, err := os.Readlink(process + "/ns/net")
	if err != nil {
		b.Fatal(err)
	}
	return ns
}

func (w *way) measure(b *testing.B, seconds string) {
	var m measured
	if w.stream != nil {
		length, err := time.ParseDuration(seconds + "s")
		if err != nil {
			b.Fatal(err)
		}
		m.idle = w.echo(b, 10*time.Millisecond, 200)
		m.next = w.echo(b, 0, 1000)
		m.to, m.cpuTo = w.carry(b, "drain", length)
		m.from, m.cpuFrom = w.carry(b, "pour", length)
		w.rounds = append(w.rounds, m)
		return
	}
	m.idle = w.ping(b, apart...)
	m.often = w.ping(b, "-i", "0.001", "-c", "1000")
	m.next = w.ping(b, "-A", "-c", "1000")
	m.to, m.cpuTo, m.busyTo = w.transfer(b, seconds)
	m.from, m.cpuFrom, m.busyFrom = w.transfer(b, seconds, "-R")
	w.rounds = append(w.rounds, m)
}

// transfer runs iperf3 once for its speed and the CPU, and once more with pings beside it.
func (w *way) transfer(b *testing.B, seconds string, more ...string) (speed, cpu, rtt float64) {
	run := func() (float64, float64) {
		var r struct {
			End struct {
				Received struct {
					Bits  float64 `json:"bits_per_second"`
					Bytes float64 `json:"bytes"`
				} `json:"sum_received"`
			} `json:"end"`
			Error string `json:"error"`
		}
		cmd := w.host.Command(b.Context(), "iperf3", append([]string{"-J", "-c", w.container, "-t", seconds}, more...)...)
		before := w.cpu()
		out, err := cmd.Output()
		used := w.cpu() - before + cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		if err == nil {
			err = json.Unmarshal(out, &r)
		}
		if err != nil || r.Error != "" || r.End.Received.Bytes == 0 {
			b.Fatalf("iperf3 by %s: %v %s", w.name, err, r.Error)
		}
		return r.End.Received.Bits, used.Seconds() / (r.End.Received.Bytes / 1e9)
	}
	speed, cpu = run()
	done := make(chan struct{})
	go func() {
		defer close(done)
		time.Sleep(300 * time.Millisecond) // past the slow start
		rtt = w.ping(b, apart...)
	}()
	run()
	<-done
	return speed, cpu, rtt
}

// apart are 200 echo requests in 2 s.
var apart = []string{"-i", "0.01", "-c", "200"}

// ping sends echo requests and gives the median round trip in ms.
func (w *way) ping(b *testing.B, requests ...string) float64 {
	out, err := w.host.Run(b.Context(), "ping", append(requests, "-n", w.container)...)
	var all []float64
	for _, m := range roundTrip.FindAllStringSubmatch(out, -1) {
		if ms, err := strconv.ParseFloat(m[1], 64); err == nil {
			all = append(all, ms)
		}
	}
	if len(all) < 100 {
		b.Errorf("ping by %s: %d answers: %v", w.name, len(all), err)
		return 0
	}
	return middle(all)
}

// attach runs the guest in a container on the VM's own network and gives its standard input and output, the latter in the
// engine's frames.
func (w *way) attach(b *testing.B, guest string) (*net.UnixConn, *bufio.Reader, func()) {
	id := docker(b, w.stream, "create", "-i", "--network", "host", "--log-driver", "none", "web", guest)
	conn, err := net.Dial("unix", w.stream.Socket())
	if err != nil {
		b.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /containers/%s/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n", id)
	r := bufio.NewReaderSize(conn, 256<<10)
	answer, err := http.ReadResponse(r, nil)
	if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		b.Fatalf("attach: %v, %v", answer, err)
	}
	docker(b, w.stream, "start", id)
	return conn.(*net.UnixConn), r, func() {
		conn.Close()
		docker(b, w.stream, "rm", "-f", id)
	}
}

const streamHead = 8 // before what the engine passes on of a container's output

// echo sends what an echo request takes so many times, with a pause before each, and gives the median round trip in ms.
func (w *way) echo(b *testing.B, pause time.Duration, times int) float64 {
	conn, r, end := w.attach(b, "echo")
	defer end()
	packet := make([]byte, 84)
	var all []float64
	for range times {
		time.Sleep(pause)
		begun := time.Now()
		if _, err := conn.Write(packet); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, streamHead+len(packet))); err != nil {
			b.Fatal(err)
		}
		all = append(all, float64(time.Since(begun))/1e6)
	}
	return middle(all)
}

// carry is a transfer by a stream, in writes as large as the tunnel's.
func (w *way) carry(b *testing.B, guest string, length time.Duration) (speed, cpu float64) {
	conn, r, end := w.attach(b, guest)
	defer end()
	buf := make([]byte, 128<<10)
	var bytes float64
	before, begun := w.cpu()+ownCPU(), time.Now()
	for time.Since(begun) < length {
		n, err := len(buf), error(nil)
		if guest == "drain" {
			_, err = conn.Write(buf)
		} else {
			n, err = r.Read(buf) // heads and all: 1 in 4,000
		}
		if err != nil {
			b.Fatal(err)
		}
		bytes += float64(n)
	}
	if guest == "drain" {
		if err := conn.CloseWrite(); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(r, buf[:streamHead+1]); err != nil {
			b.Fatal(err)
		}
	}
	took := time.Since(begun)
	return bytes * 8 / took.Seconds(), (w.cpu() + ownCPU() - before).Seconds() / (bytes / 1e9)
}

// ownCPU is what this process has used so far.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

var roundTrip = regexp.MustCompile(` time=([0-9.]+) ms`)

// cpu is what all processes of the world have used so far. Those are told by their network.
func (w *way) cpu() (used time.Duration) {
	all, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, p := range all {
		if ns, err := os.Readlink(p); err != nil || !slices.Contains(w.spaces, ns) {
			continue
		}
		stat, err := os.ReadFile(strings.TrimSuffix(p, "ns/net") + "stat")
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		if f := strings.Fields(rest); len(f) > 12 { // utime and stime, the 14th and 15th field, in 1/100 s
			for _, ticks := range f[11:13] {
				n, _ := strconv.Atoi(ticks)
				used += time.Duration(n) * 10 * time.Millisecond
			}
		}
	}
	return used
}
