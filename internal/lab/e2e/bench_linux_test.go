package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/dnsserver"
	"github.com/fairlead-dev/fairlead/internal/lab"
)

// proberEnv makes the test binary a prober: started on the host of a world, it reads names and says when each first
// had an answer. Clocks are the same, as it is the same machine.
const proberEnv = "FAIRLEAD_E2E_PROBER"

func prober() {
	server := netip.MustParseAddrPort(os.Getenv(proberEnv))
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if name, once := strings.CutPrefix(in.Text(), "once "); once {
			r, err := dnsserver.Query(context.Background(), server, name, "A")
			fmt.Println(time.Now().UnixNano(), r.Elapsed.Nanoseconds(), r.Rcode, err, r.Answers)
			continue
		}
		fmt.Println("asking")
		for {
			r, err := dnsserver.Query(context.Background(), server, in.Text(), "A")
			if err == nil && len(r.Answers) == 1 {
				f := strings.Fields(r.Answers[0])
				fmt.Println(time.Now().UnixNano(), f[len(f)-1])
				break
			}
			time.Sleep(100 * time.Microsecond) // leaves the machine to the engine
		}
	}
}

// watching is a VM that a running agent has reached, and a prober on the host: what to write to it and what it says.
func watching(b *testing.B) (*lab.VM, io.Writer, *bufio.Scanner) {
	h := newHost(b)
	vm := h.StartVM(b, lab.VMOptions{TCP: true})
	h.watch(vm.URL())
	h.start("--resolver", "none")
	h.eventually("engine is up", func() error {
		s := h.status()
		if len(s.Engines) == 0 || s.Engines[0].Pilot == nil || !s.Engines[0].Pilot.Open {
			return fmt.Errorf("%+v", s.Engines)
		}
		return nil
	})
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	p := h.Command(b.Context(), self)
	p.Env = append(p.Env, proberEnv+"=127.0.0.1:55353")
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
		names.Close()
		p.Wait()
	})
	return vm, names, bufio.NewScanner(out)
}

// BenchmarkStartToAnswer tells how long after `docker start` has returned a container's name is answered, median and
// 99th percentile in ms; negative is before. inspect-ms is what the engine itself takes to tell the address then.
func BenchmarkStartToAnswer(b *testing.B) {
	vm, names, said := watching(b)

	api := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", vm.Socket())
	}}}
	var after, inspects []time.Duration
	for i := range b.N {
		name := fmt.Sprintf("c%d-%d", b.N, i)
		id := docker(b, vm, "create", "--name", name, "web")
		fmt.Fprintln(names, name+".docker")
		if !said.Scan() { // it asks already
			b.Fatal(said.Err())
		}
		resp, err := api.Post("http://docker/v1.41/containers/"+id+"/start", "", nil)
		if err != nil {
			b.Fatal(err)
		}
		returned := time.Now()
		resp.Body.Close()

		resp, err = api.Get("http://docker/v1.41/containers/" + id + "/json")
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

		if !said.Scan() {
			b.Fatal(said.Err())
		}
		var at int64
		var addr string
		if _, err := fmt.Sscan(said.Text(), &at, &addr); err != nil {
			b.Fatal(err)
		}
		if want := c.NetworkSettings.Networks["bridge"].IPAddress; addr != want {
			b.Fatalf("%s: answered %s, it has %s", name, addr, want)
		}
		after = append(after, time.Unix(0, at).Sub(returned))
		docker(b, vm, "rm", "-f", name)
	}
	b.ReportMetric(percentile(after, 50), "p50-ms")
	b.ReportMetric(percentile(after, 99), "p99-ms")
	b.ReportMetric(percentile(inspects, 50), "inspect-p50-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkFirstAnswer starts containers with `docker run -d` and asks once for each name when that has returned. Every
// first answer must be right. wait-p50-us and wait-p99-us tell how long it took.
func BenchmarkFirstAnswer(b *testing.B) {
	vm, names, said := watching(b)
	var waits []time.Duration
	for i := range b.N {
		name := fmt.Sprintf("f%d-%d", b.N, i)
		docker(b, vm, "run", "-d", "--name", name, "web")
		fmt.Fprintln(names, "once "+name+".docker")
		if !said.Scan() {
			b.Fatal(said.Err())
		}
		var at, took int64
		if _, err := fmt.Sscan(said.Text(), &at, &took); err != nil {
			b.Fatal(err)
		}
		if want := address(b, vm, "bridge", name); !strings.HasSuffix(said.Text(), want+"]") {
			b.Fatalf("%s: the first answer was %q, it has %s", name, said.Text(), want)
		}
		waits = append(waits, time.Duration(took))
		docker(b, vm, "rm", "-f", name)
	}
	b.ReportMetric(percentile(waits, 50)*1e3, "wait-p50-us")
	b.ReportMetric(percentile(waits, 99)*1e3, "wait-p99-us")
	b.ReportMetric(0, "ns/op")
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
