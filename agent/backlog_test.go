package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/dnsserver"
	"github.com/fairlead-dev/fairlead/platform"
)

// TestBacklog: of an engine's first list, names that are asked for are made as soon as it has told of them, and all others when it is whole.
func TestBacklog(t *testing.T) {
	const n = 4 * perPass
	a := finder(t, platform.Endpoint{Name: "dev", URL: "unix:///a"})
	w := a.engines[0]
	w.reach = platform.Reach{Kind: platform.Native}
	a.subnets = []Subnet{{Engine: "dev", Prefix: netip.MustParsePrefix("172.17.0.0/16"), State: Native}}
	a.zone = dnsserver.NewZone(dnsserver.ZoneConfig{Domains: a.cfg.Domains})
	list := func(from, to int) (cs []engine.Container) {
		for i := from; i < to; i++ {
			cs = append(cs, engine.Container{ID: fmt.Sprintf("%064x", i), Name: fmt.Sprint("web-", i), Endpoints: []engine.Attachment{on("back", fmt.Sprintf("172.17.%d.%d", i>>8, i&255))}})
		}
		return cs
	}
	pass := func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.dirty, a.seen = dirty{}, time.Time{}
		left := a.promote()
		a.passNames(false)
		return left
	}
	want := func(when string, numbers ...int) {
		t.Helper()
		for i := range n {
			if has := len(a.names.holder(fmt.Sprint("web-", i)).has) == 1; has != slices.Contains(numbers, i) {
				t.Fatalf("%s: web-%d has its name: %v", when, i, has)
			}
		}
	}

	a.heard(w, engine.Update{Info: &engine.Info{}})
	a.want("web-200.docker")
	a.want("nobody.docker")
	pass()
	a.heard(w, engine.Update{Containers: list(0, n/2)})
	want("half of the list")
	a.want("web-7.docker")
	a.want("web-7.elsewhere")
	pass()
	want("asked for later", 7)
	a.heard(w, engine.Update{Containers: list(n/2, n)})
	want("the other half", 7, 200)
	a.heard(w, engine.Update{Gone: []string{list(8, 9)[0].ID}})
	a.heard(w, engine.Update{Full: true})
	a.want("web-255.docker")
	if !pass() || len(a.names.holder("web-255").has) != 1 || len(a.names.holder("web-254").has) != 0 {
		t.Error("the list is whole: all at once, or none that is asked for")
	}
	for pass() {
	}
	var all []int
	for i := range n {
		if i != 8 {
			all = append(all, i)
		}
	}
	want("in the end", all...)
	if w.backlog != nil || a.loading() || len(a.wanted) > 0 {
		t.Error("it still loads")
	}

	again := list(8, 9)
	a.heard(w, engine.Update{Containers: again})
	want("a later start", append(all, 8)...)
	a.heard(w, engine.Update{Info: &engine.Info{}}) // connected anew
	again[0].Endpoints = []engine.Attachment{on("back", "172.17.9.9")}
	a.heard(w, engine.Update{Containers: append(again, list(n, n+1)...)})
	a.heard(w, engine.Update{Down: errNotHeard})
	for pass() {
	}
	if len(a.names.holder(fmt.Sprint("web-", n)).has) != 1 {
		t.Error("lost before its list was whole: what it told of has no names")
	}
	if got := a.names.holder("web-8").addrs(); !slices.Equal(got, []netip.Addr{netip.MustParseAddr("172.17.9.9")}) {
		t.Error("web-8 is at", got)
	}
}
