package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/dnsserver"
	"github.com/fairlead-dev/fairlead/internal/lab"
)

// proberEnv makes the test binary a prober: started on the host of a world, it reads names and says when each first
// had an answer. Clocks are the same, as it is the same machine.
const proberEnv = "FAIRLEAD_E2E_PROBER"

func prober() {
	server := netip.MustParseAddrPort(os.Getenv(proberEnv))
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
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

// BenchmarkStartToAnswer tells how long after `docker start` has returned a container's name is answered, median and
// 99th percentile in ms; negative is before. inspect-ms is what the engine itself takes to tell the address then.
func BenchmarkStartToAnswer(b *testing.B) {
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
	defer p.Wait()
	defer names.Close()
	said := bufio.NewScanner(out)

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

func percentile(d []time.Duration, p int) float64 {
	slices.Sort(d)
	return float64(d[min(len(d)*p/100, len(d)-1)]) / 1e6
}
