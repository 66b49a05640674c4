package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/dnsserver"
	"github.com/fairlead-dev/fairlead/platform"
)

// TestHurry: while many containers are to come more garbage may lie about, and no more than usual once it is calm again.
func TestHurry(t *testing.T) {
	t.Cleanup(func() { debug.SetGCPercent(100) })
	a := newAgent(Config{Engines: []EngineConfig{{Endpoint: engine.Endpoint{Name: "default", URL: "unix:///nowhere"}}}}, slog.New(slog.DiscardHandler), "", nil)
	a.shrink = time.AfterFunc(time.Hour, func() {})
	is := func(when string, want int) {
		t.Helper()
		if a.garbage != want || debug.SetGCPercent(want) != want {
			t.Errorf("%s: %d %%, want %d", when, a.garbage, want)
		}
	}
	a.calmed()
	is("calm", garbage)
	a.heard(a.engines[0], engine.Update{Hints: throng - 1})
	is("a few", garbage)
	a.heard(a.engines[0], engine.Update{Hints: throng})
	is("many", garbageAtStart)
	a.calmed()
	is("calm again", garbage)
	a.shrink.Stop()
}

// BenchmarkHeard takes in what an engine lists first, until it is answered; the figures are for one container.
func BenchmarkHeard(b *testing.B) {
	const n = 20_000
	var list []engine.Container
	for i := range n {
		name := fmt.Sprint("web-", i)
		list = append(list, engine.Container{ID: fmt.Sprintf("%012x%052x", i, 0), Name: name, State: "running", Endpoints: []engine.Attachment{{
			NetworkID: "n1", Network: "bridge", Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}, Aliases: []string{fmt.Sprintf("%012x", i)}}}})
	}
	b.ReportAllocs()
	var a *Agent
	at := n
	for b.Loop() {
		if at == n {
			b.StopTimer()
			at = 0
			a = newAgent(Config{Engines: []EngineConfig{{Endpoint: engine.Endpoint{Name: "default", URL: "unix:///nowhere"}}}, Domains: []string{"docker"}}, slog.New(slog.DiscardHandler), "", nil)
			a.zone = dnsserver.NewZone(dnsserver.ZoneConfig{Domains: []string{"docker", "10.in-addr.arpa"}, Unknown: func(context.Context, string) {}})
			a.engines[0].reach = platform.Reach{Kind: platform.Native}
			a.engines[0].listing = false // or their names would be made later
			a.subnets = []Subnet{{Engine: "default", Prefix: netip.MustParsePrefix("10.0.0.0/8"), State: Native}}
			b.StartTimer()
		}
		if at%128 == 0 {
			a.heard(a.engines[0], engine.Update{Containers: list[at:min(at+128, n)]})
		}
		at++
	}
	if got := a.zone.Len(); got < at*4 {
		b.Fatal(got, at)
	}
}
