package e2e

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/internal/lab"
	"golang.org/x/sys/unix"
)

// proberEnv makes the test binary a prober: started on the host of a world, it reads what to ask, a line each, and says what became
// of it. Clocks are the same, as it is the same machine. It knows
//
//	first NAME   asks until there is an answer, for 5 s: when that came, and what; then the address by which this host's table leads there
//	gone NAME    asks until the name is denied: when the question was asked that was, and when the denial came
//	once NAME    asks once: how long that took, and the answer
//	os NAME      the same by getent, which goes by the host's own /etc/resolv.conf
//
// and says "asking" once it does, where it does so for a while.
const proberEnv = "FAIRLEAD_E2E_PROBER"

func prober() {
	server := netip.MustParseAddrPort(os.Getenv(proberEnv))
	conn, err := net.Dial("udp", server.String())
	if err != nil {
		panic(err)
	}
	reply := make([]byte, 1500)
	ask := func(name string) (asked, came time.Time, rcode byte, addr netip.Addr) {
		msg := []byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
		for label := range strings.SplitSeq(name, ".") {
			msg = append(append(msg, byte(len(label))), label...)
		}
		msg = append(msg, 0, 0, 1, 0, 1)
		asked = time.Now()
		conn.Write(msg)
		n, err := conn.Read(reply)
		if err != nil {
			panic(err)
		}
		if rcode = reply[3] & 0xf; n >= len(msg)+16 && rcode == 0 && reply[7] > 0 { // a pointer to the name, and an A record
			addr, _ = netip.AddrFromSlice(reply[len(msg)+12 : len(msg)+16])
		}
		return asked, time.Now(), rcode, addr
	}
	rest := func() { unix.Nanosleep(&unix.Timespec{Nsec: 50_000}, nil) } // leaves the machine to the engine; time.Sleep is coarser
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		what, name, _ := strings.Cut(in.Text(), " ")
		switch what {
		case "first":
			fmt.Println("asking")
			for began := time.Now(); ; rest() {
				_, came, _, addr := ask(name)
				if time.Since(began) > 5*time.Second {
					fmt.Println(0, "never")
					break
				}
				if addr.IsValid() {
					way, err := net.Dial("udp", netip.AddrPortFrom(addr, 9).String())
					if err != nil {
						fmt.Println(came.UnixNano(), addr, err)
						break
					}
					fmt.Println(came.UnixNano(), addr, way.LocalAddr().(*net.UDPAddr).IP)
					way.Close()
					break
				}
			}
		case "gone":
			fmt.Println("asking")
			for {
				asked, came, rcode, _ := ask(name)
				if rcode == 3 {
					fmt.Println(asked.UnixNano(), came.UnixNano())
					break
				}
				rest()
			}
		case "once":
			asked, came, rcode, addr := ask(name)
			fmt.Println(came.Sub(asked).Nanoseconds(), addr, "rcode", rcode)
		case "os":
			asked := time.Now()
			out, err := exec.Command("getent", "ahostsv4", name).Output()
			took := time.Since(asked)
			addr, _, _ := strings.Cut(string(out), " ")
			fmt.Println(took.Nanoseconds(), addr, err)
		}
	}
}

// watched is a VM that a running agent has reached, and a prober on the host.
type watched struct {
	*lab.VM
	*host
	names io.Writer
	said  *bufio.Scanner
	api   http.Client

	mu    sync.Mutex
	heard map[string]time.Time // when an event came, by "action container"
}

func watching(b *testing.B, args ...string) *watched {
	w := &watched{host: newHost(b), heard: map[string]time.Time{}}
	w.VM = w.StartVM(b, lab.VMOptions{TCP: true})
	w.watch(w.URL())
	w.start(args...)
	w.eventually("engine is up", func() error {
		s := w.status()
		if len(s.Engines) == 0 || s.Engines[0].Pilot == nil || !s.Engines[0].Pilot.Open {
			return fmt.Errorf("%+v", s.Engines)
		}
		return nil
	})
	w.api.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", w.Socket())
	}}
	events, err := w.api.Get("http://docker/v1.41/events")
	if err != nil {
		b.Fatal(err)
	}
	go w.listen(events.Body)
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	p := w.host.Command(b.Context(), self)
	p.Env = append(p.Env, proberEnv+"="+w.status().DNS.Listen.String())
	p.Stderr = os.Stderr
	names, err := p.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := p.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		events.Body.Close()
		names.Close()
		p.Wait()
	})
	w.names, w.said = names, bufio.NewScanner(out)
	return w
}

func (w *watched) listen(stream io.ReadCloser) {
	for in := json.NewDecoder(stream); ; {
		var e struct {
			Action string
			Actor  struct {
				ID         string
				Attributes map[string]string
			}
		}
		if in.Decode(&e) != nil {
			return
		}
		at := time.Now()
		w.mu.Lock()
		w.heard[e.Action+" "+cmp.Or(e.Actor.Attributes["container"], e.Actor.ID)] = at
		w.mu.Unlock()
	}
}

// event is when one came; it waits for it.
func (w *watched) event(action, id string) (at time.Time) {
	w.eventually(action, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if at = w.heard[action+" "+id]; at.IsZero() {
			return errors.New("no event")
		}
		return nil
	})
	return at
}

// post has the engine do something by a call of its API.
func (w *watched) post(b *testing.B, path string, status int) {
	b.Helper()
	resp, err := w.api.Post("http://docker/v1.41"+path, "", nil)
	if err != nil {
		b.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != status {
		b.Fatalf("%s: %s", path, resp.Status)
	}
}

// hear is the next line of the prober.
func (w *watched) hear(b *testing.B, values ...any) string {
	b.Helper()
	if !w.said.Scan() {
		b.Fatalf("the prober ended: %v", w.said.Err())
	}
	if _, err := fmt.Sscan(w.said.Text(), values...); err != nil {
		b.Fatalf("the prober says %q: %v", w.said.Text(), err)
	}
	return w.said.Text()
}

// BenchmarkStartToAnswer tells how long after `docker start` has returned a container's name is answered, in ms; negative is before.
// Every first answer is right, and this host's table leads to its address then. inspect-ms is what the engine itself takes to tell the
// address when it has returned, connect-ms when the engine tells that the container got it, told-ms how long after that the answer
// comes. gone-ms is how long after its `die` event the first question is asked that is denied; denial-ms when that denial comes, as a
// name that was not there a moment ago is asked for once. Each START that fails takes its name back.
func BenchmarkStartToAnswer(b *testing.B) {
	w := watching(b, "--resolver", "none")
	var after, inspects, connects, told, gone, denials []time.Duration
	for i := range b.N {
		name := fmt.Sprintf("c%d-%d", b.N, i)
		id := docker(b, w.VM, "create", "--name", name, "web")
		fmt.Fprintln(w.names, "first", name+".docker")
		w.hear(b)
		w.post(b, "/containers/"+id+"/start", http.StatusNoContent)
		returned := time.Now()

		resp, err := w.api.Get("http://docker/v1.41/containers/" + id + "/json")
		if err != nil {
			b.Fatal(err)
		}
		var c struct {
			NetworkSettings struct {
				Networks map[string]struct{ IPAddress string }
			}
		}
		err = json.NewDecoder(resp.Body).Decode(&c)
		resp.Body.Close()
		inspects = append(inspects, time.Since(returned))
		if err != nil {
			b.Fatal(err)
		}

		var at, asked, came int64
		var addr, from string
		said := w.hear(b, &at, &addr, &from)
		if want := c.NetworkSettings.Networks["bridge"].IPAddress; addr != want || from != "192.168.99.1" {
			b.Fatalf("%s: answered %s, it has %s and is reached from 192.168.99.1", name, said, want)
		}
		after = append(after, time.Unix(0, at).Sub(returned))
		connected := w.event("connect", id)
		connects, told = append(connects, connected.Sub(returned)), append(told, time.Unix(0, at).Sub(connected))

		fmt.Fprintln(w.names, "gone", name+".docker")
		w.hear(b)
		w.post(b, "/containers/"+id+"/kill", http.StatusNoContent)
		w.hear(b, &asked, &came)
		died := w.event("die", id)
		gone = append(gone, time.Unix(0, asked).Sub(died))
		denials = append(denials, time.Unix(0, came).Sub(died))
		docker(b, w.VM, "rm", "-f", name)
	}
	for _, m := range []struct {
		name string
		took []time.Duration
	}{{"", after}, {"inspect-", inspects}, {"connect-", connects}, {"told-", told}, {"gone-", gone}, {"denial-", denials}} {
		b.ReportMetric(percentile(m.took, 50), m.name+"p50-ms")
		b.ReportMetric(percentile(m.took, 99), m.name+"p99-ms")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkFailedStart tells how long after a start has failed the name is denied, in ms; negative is before. The engine may have given
// such a container an address for a while; answered/start tells how many were answered then.
func BenchmarkFailedStart(b *testing.B) {
	w := watching(b, "--resolver", "none")
	var denials []time.Duration
	seen := 0
	for i := range b.N {
		name := fmt.Sprintf("x%d-%d", b.N, i)
		id := docker(b, w.VM, "create", "--name", name, "--entrypoint", "/no/such/program", "web")
		fmt.Fprintln(w.names, "first", name+".docker")
		w.hear(b)
		w.post(b, "/containers/"+id+"/start", http.StatusBadRequest)
		returned := time.Now()
		var at, asked, came int64
		if w.hear(b, &at); at > 0 {
			seen++
		}
		fmt.Fprintln(w.names, "gone", name+".docker")
		w.hear(b)
		w.hear(b, &asked, &came)
		denials = append(denials, time.Unix(0, came).Sub(returned))
		docker(b, w.VM, "rm", "-f", name)
	}
	b.ReportMetric(percentile(denials, 50), "p50-ms")
	b.ReportMetric(percentile(denials, 100), "max-ms")
	b.ReportMetric(float64(seen)/float64(b.N), "answered/start")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkFirstAnswer starts containers with `docker run --rm -d` and asks once for each name when that has returned: our server, and
// the OS's own resolver. Every first answer must be right. The metrics tell how long it took.
func BenchmarkFirstAnswer(b *testing.B) {
	for _, by := range []string{"once", "os"} {
		b.Run(by, func(b *testing.B) {
			w := watching(b, "--resolver", "resolv.conf")
			var waits []time.Duration
			var done []string
			for i := range b.N {
				name := fmt.Sprintf("f%d-%d", b.N, i)
				docker(b, w.VM, "run", "--rm", "-d", "--name", name, "web")
				fmt.Fprintln(w.names, by, name+".docker")
				var took int64
				var addr string
				said := w.hear(b, &took, &addr)
				if want := address(b, w.VM, "bridge", name); addr != want {
					b.Fatalf("%s: the first answer was %q, it has %s", name, said, want)
				}
				waits = append(waits, time.Duration(took))
				if done = append(done, name); len(done) == 20 || i == b.N-1 {
					docker(b, w.VM, slices.Concat([]string{"kill"}, done)...)
					done = nil
				}
			}
			for _, p := range []int{0, 50, 90, 99, 100} {
				b.ReportMetric(percentile(waits, p)*1e3, fmt.Sprintf("p%d-us", p))
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkRouteRestored tells how long a route that somebody deleted stays away, asking `ip route` without a pause.
func BenchmarkRouteRestored(b *testing.B) {
	h := newHost(b)
	vm := h.StartVM(b, lab.VMOptions{TCP: true})
	h.watch(vm.URL())
	h.start("--resolver", "none")
	h.eventually("route", func() error { return h.hasRoute("172.17.0.0/16") })
	var away []time.Duration
	for range b.N {
		begin := time.Now()
		if err := h.DeleteRoute(b.Context(), netip.MustParsePrefix("172.17.0.0/16")); err != nil {
			b.Fatal(err)
		}
		for h.hasRoute("172.17.0.0/16") != nil {
			if time.Since(begin) > time.Minute {
				b.Fatal("it does not come back")
			}
		}
		away = append(away, time.Since(begin))
	}
	b.ReportMetric(percentile(away, 50), "p50-ms")
	b.ReportMetric(percentile(away, 99), "p99-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkVPN tells how long after a VPN's route over a container network has come, or gone, status says so: refused, with the
// route named, or routed again. In turn the route is exactly the network's, wider and narrower. look-p50-ms is what one look takes
// alone; nothing shorter can be seen.
func BenchmarkVPN(b *testing.B) {
	h := newHost(b)
	vm := h.StartVM(b, lab.VMOptions{TCP: true})
	h.watch("dev=" + vm.URL())
	docker(b, vm, "network", "create", "--subnet", "10.9.0.0/16", "office")
	h.start("--resolver", "none")
	is := func(state agent.State, why string) bool {
		for _, s := range h.status().Subnets {
			if s.Network == "office" {
				return s.State == state && strings.Contains(s.Why, why)
			}
		}
		return false
	}
	h.eventually("route", func() error { return h.hasRoute("10.9.0.0/16") })
	var looks, up, down []time.Duration
	await := func(since time.Time, state agent.State, why string) time.Duration {
		for !is(state, why) {
			if time.Since(since) > time.Minute {
				b.Fatalf("not %s: %+v", state, h.status())
			}
		}
		return time.Since(since)
	}
	for i := range b.N {
		looks = append(looks, await(time.Now(), agent.Installed, ""))
		route := []string{"10.9.0.0/16", "10.0.0.0/8", "10.9.5.0/24"}[i%3]
		before := h.vpnUp(route)
		up = append(up, await(time.Now(), agent.Refused, route+" dev tun9"))
		if rows := h.foreignRows(); rows != before {
			b.Fatalf("the routes of others are\n%s\nand were\n%s", rows, before)
		}
		h.ip("link del tun9")
		down = append(down, await(time.Now(), agent.Installed, ""))
	}
	b.ReportMetric(percentile(looks, 50), "look-p50-ms")
	b.ReportMetric(percentile(up, 50), "up-p50-ms")
	b.ReportMetric(percentile(up, 100), "up-max-ms")
	b.ReportMetric(percentile(down, 50), "down-p50-ms")
	b.ReportMetric(percentile(down, 100), "down-max-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkHangNoticed tells how long an engine that is frozen is still taken for up.
func BenchmarkHangNoticed(b *testing.B) {
	h := newHost(b)
	vm := h.StartVM(b, lab.VMOptions{TCP: true})
	h.watch(vm.URL())
	h.start("--resolver", "none")
	up := func(want bool) {
		h.eventually(fmt.Sprintf("engine up is %v", want), func() error {
			if s := h.status(); s.Engines[0].Up != want {
				return fmt.Errorf("up is %v", !want)
			}
			return nil
		})
	}
	var took []time.Duration
	for range b.N {
		up(true)
		begin := time.Now()
		if err := vm.PauseDockerd(b.Context()); err != nil {
			b.Fatal(err)
		}
		up(false)
		took = append(took, time.Since(begin))
		if err := vm.ResumeDockerd(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(percentile(took, 50), "p50-ms")
	b.ReportMetric(percentile(took, 100), "max-ms")
	b.ReportMetric(0, "ns/op")
}

func percentile(d []time.Duration, p int) float64 {
	slices.Sort(d)
	return float64(d[min(len(d)*p/100, len(d)-1)]) / 1e6
}
