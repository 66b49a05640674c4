package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lab"
)

// TestChaos is a short BenchmarkChaos.
func TestChaos(t *testing.T) {
	t.Parallel()
	for _, sealed := range []bool{false, true} {
		t.Run(reachName(sealed), func(t *testing.T) {
			t.Parallel()
			chaos(t, sealed, 5)
		})
	}
}

// BenchmarkChaos kills the pilot, the agent or dockerd with SIGKILL, b.N times, each at a random moment, and tells how
// long after its death a container was reached again by name. At the end nothing may be left on the host or in the VM.
func BenchmarkChaos(b *testing.B) {
	for _, sealed := range []bool{false, true} {
		b.Run(reachName(sealed), func(b *testing.B) {
			took := chaos(b, sealed, b.N)
			for _, victim := range slices.Sorted(maps.Keys(took)) {
				b.ReportMetric(float64(len(took[victim])), victim+"-deaths")
				b.ReportMetric(percentile(took[victim], 50), victim+"-p50-ms")
				b.ReportMetric(percentile(took[victim], 90), victim+"-p90-ms")
				b.ReportMetric(percentile(took[victim], 100), victim+"-max-ms")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// chaos kills n times, and returns how long each kind of victim took to be made up for. FAIRLEAD_SEED does it again.
func chaos(t testing.TB, sealed bool, n int) map[string][]time.Duration {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("FAIRLEAD_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("FAIRLEAD_SEED=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))

	h := newHost(t)
	opts := lab.VMOptions{Sealed: sealed, TCP: !sealed}
	if rnd.IntN(2) == 0 {
		opts.Args = []string{"--live-restore"}
	}
	vm := h.StartVM(t, opts)
	h.watch(vm.URL())
	remains := func() string {
		var links string
		for line := range strings.Lines(must(vm.Run(context.Background(), "ip", "-br", "link"))(t)) {
			links += strings.Fields(line)[0] + "\n"
		}
		var routes string // the kernel's own come and go with an engine's carrier
		for line := range strings.Lines(must(vm.Run(context.Background(), "ip", "route", "show", "table", "all"))(t)) {
			if !strings.Contains(line, "proto kernel") {
				routes += line
			}
		}
		return sortedLines(firewall(t, vm)) + links + routes + docker(t, vm, "ps", "-aq") + docker(t, vm, "images", "-q")
	}
	run := func() { docker(t, vm, "run", "-d", "--restart", "always", "--name", "web", "--hostname", "web", "web") }
	// Engines make tables with the first container, and again after a restart, and keep them.
	run()
	docker(t, vm, "rm", "-f", "web")
	hostBefore, vmBefore := h.state(), remains()
	run()

	r := h.start("--resolver", "resolv.conf")
	// Each returns when its victim died, and once that was started again where nobody else would.
	kill := map[string]func() time.Time{
		"pilot": func() (died time.Time) {
			h.eventually("there is a pilot to kill", func() error {
				died = time.Now()
				_, err := vm.Run(context.Background(), "pkill", "-KILL", "-x", "pilot")
				return err
			})
			return died
		},
		"agent": func() time.Time {
			died := time.Now()
			r.signal(syscall.SIGKILL)
			r = h.start("--resolver", "resolv.conf")
			return died
		},
		"dockerd": func() time.Time {
			died := time.Now()
			if err := errors.Join(vm.KillDockerd(context.Background()), vm.StartDockerd(context.Background())); err != nil {
				t.Fatal(err)
			}
			return died
		},
	}
	took := map[string][]time.Duration{}
	recovered := func(what string) {
		h.within(90*time.Second, "recovery from the death of "+what, func() error {
			out, err := h.Run(context.Background(), "curl", "-sS", "--max-time", "2", "http://web.docker/")
			if err == nil && !strings.HasPrefix(out, "web\n") {
				err = fmt.Errorf("it is %q", out)
			}
			return err
		})
	}
	recovered("nobody")
	victims := slices.Sorted(maps.Keys(kill))
	for i := 0; i < n; i++ {
		time.Sleep(time.Duration(rnd.IntN(1000)) * time.Millisecond) // the moment is what is tried, not awaited
		victim := victims[rnd.IntN(len(victims))]
		died := kill[victim]()
		if i+1 < n && rnd.IntN(3) == 0 { // another one dies before all is well again
			i++
			time.Sleep(time.Duration(rnd.IntN(500)) * time.Millisecond)
			first := victim
			victim = victims[rnd.IntN(len(victims))]
			died = kill[victim]()
			recovered(first + " and " + victim)
			took["two"] = append(took["two"], time.Since(died))
			t.Logf("%s and %s: %v", first, victim, time.Since(died).Round(time.Millisecond))
			continue
		}
		recovered(victim)
		took[victim] = append(took[victim], time.Since(died))
		t.Logf("%s: %v", victim, time.Since(died).Round(time.Millisecond))
	}

	r.signal(syscall.SIGTERM)
	if after := h.state(); after != hostBefore {
		t.Errorf("the host is not as before:\n%s", changed(hostBefore, after))
	}
	docker(t, vm, "rm", "-f", "web")
	h.within(time.Minute, "the VM is as before", func() error { // the engine removes containers in its own time
		if after := remains(); after != vmBefore {
			return errors.New(changed(vmBefore, after))
		}
		return nil
	})
	return took
}

// changed are the lines that went (-) and came (+).
func changed(before, after string) string {
	count := map[string]int{}
	for line := range strings.Lines(after) {
		count[line]++
	}
	for line := range strings.Lines(before) {
		count[line]--
	}
	var lines strings.Builder
	for _, line := range slices.Sorted(maps.Keys(count)) {
		if n := count[line]; n != 0 {
			lines.WriteString(strings.Repeat("+"+line, max(n, 0)) + strings.Repeat("-"+line, max(-n, 0)))
		}
	}
	return lines.String()
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
