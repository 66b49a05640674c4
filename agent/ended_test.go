package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/dnsserver"
	"github.com/fairlead-dev/fairlead/platform"
)

// TestEnded: what a container alone has goes as soon as it is said to have died, and nobody else's name; the pass after gives what is
// contested to who is left, or all back to one that lives after all.
func TestEnded(t *testing.T) {
	one := engine.Container{ID: strings.Repeat("a1", 32), Name: "one", State: "running", Endpoints: []engine.Attachment{on("bridge", "10.0.0.1", "both")},
		Labels: map[string]string{"fairlead.names": "two"}} // which another has by its name
	two := engine.Container{ID: strings.Repeat("b2", 32), Name: "two", State: "running", Endpoints: []engine.Attachment{on("bridge", "10.0.0.2")},
		Labels: map[string]string{"fairlead.names": "one, both"}}
	hidden := engine.Container{ID: strings.Repeat("c3", 32), Name: "hidden", State: "running", Endpoints: []engine.Attachment{on("bridge", "10.0.0.3")},
		Labels: map[string]string{"fairlead.ignore": "true"}}
	named := engine.Container{ID: strings.Repeat("d4", 32), Name: hidden.ID[:12], State: "running", Endpoints: []engine.Attachment{on("bridge", "10.0.0.4")}}
	a := newAgent(Config{Engines: []EngineConfig{{Endpoint: engine.Endpoint{Name: "default", URL: "unix:///nowhere"}}}, Domains: []string{"docker", "test"}}, slog.New(slog.DiscardHandler), "", nil)
	var asked atomic.Int32 // for how many names
	a.zone = dnsserver.NewZone(dnsserver.ZoneConfig{Domains: []string{"docker", "test"}, Worth: a.worth, Unknown: func(context.Context, string) { asked.Add(1) }})
	server, err := dnsserver.Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(t.Context(), a.zone)
	w := a.engines[0]
	w.listing = false // its list was read
	w.reach = platform.Reach{Kind: platform.Native}
	a.subnets = []Subnet{{Engine: "default", Prefix: netip.MustParsePrefix("10.0.0.0/8"), State: Native}}
	a.heard(w, engine.Update{Containers: []engine.Container{one, two, hidden, named}})

	answers := func() (text string) {
		for _, name := range []string{"one", one.ID[:12], "one.bridge", "both", "two", hidden.ID[:12]} {
			said := ""
			for _, d := range a.cfg.Domains {
				r, err := dnsserver.Query(t.Context(), server.Addr(), name+"."+d, "A")
				if err != nil {
					t.Fatal(err)
				}
				said += " " + r.Rcode
				for _, rr := range r.Answers {
					said += "," + rr[strings.LastIndex(rr, "\t")+1:]
				}
			}
			text += name + ":" + said + "\n"
		}
		return text
	}
	alive := answers()
	is := func(when, name, want string) {
		t.Helper()
		if got := answers(); !strings.Contains(got, name+": "+want+" "+want+"\n") {
			t.Errorf("%s: %s is not %s:\n%s", when, name, want, got)
		}
	}
	is("at first", "one", "NOERROR,10.0.0.1")
	is("at first", "both", "NOERROR,10.0.0.1")

	for _, id := range []string{"", "short", strings.Repeat("f", 64), hidden.ID} {
		a.ended(w, id, "", time.Time{})
		if got := answers(); got != alive {
			t.Errorf("%q ended, which has no name:\n%s", id, got)
		}
	}
	a.mu.Lock()
	a.ended(w, one.ID, "", time.Time{}) // does not wait
	a.mu.Unlock()
	is("while the agent is at work", "one.bridge", "NOERROR,10.0.0.1")

	a.ended(w, one.ID, "", time.Time{})
	is("as soon as it ended", one.ID[:12], "NXDOMAIN")
	is("as soon as it ended", "one.bridge", "NXDOMAIN")
	is("as soon as it ended", "two", "NOERROR,10.0.0.2")
	is("as soon as it ended", hidden.ID[:12], "NOERROR,10.0.0.4")
	a.heard(w, engine.Update{})
	if got := answers(); got != alive {
		t.Errorf("it lives after all:\n%s", got)
	}

	for _, network := range []string{"bridge", "other"} { // of which it was on one alone
		a.ended(w, one.ID, network+"-id", time.Time{})
		is("on "+network+" no more", "one.bridge", map[string]string{"bridge": "NXDOMAIN", "other": "NOERROR,10.0.0.1"}[network])
		a.heard(w, engine.Update{})
	}

	before := asked.Load()
	a.ended(w, one.ID, "", time.Now().Add(time.Hour))
	is("when that is certain", "one.bridge", "NXDOMAIN")
	if asked.Load() != before {
		t.Error("the engine is asked for who has just ended")
	}
	a.due.Store(true)
	is("with a pass to come", "one.bridge", "NXDOMAIN")
	if a.due.Store(false); asked.Load() == before {
		t.Error("nobody waits for the pass")
	}
	a.heard(w, engine.Update{Coming: []engine.Container{two}}) // anybody
	before = asked.Load()
	a.ended(w, one.ID, "", time.Now().Add(-time.Nanosecond))
	is("long ago", "one.bridge", "NXDOMAIN")
	if asked.Load() == before {
		t.Error("the engine is not asked for who may have been started again")
	}
	a.ended(w, one.ID, "", time.Time{})
	a.ended(w, one.ID, "", time.Time{})
	a.heard(w, engine.Update{Gone: []string{one.ID}})
	is("when it is gone", "one.bridge", "NXDOMAIN")
	is("when it is gone", "one", "NOERROR,10.0.0.2")
	is("when it is gone", "both", "NOERROR,10.0.0.2")
	a.heard(w, engine.Update{Containers: []engine.Container{one}})
	if got := answers(); got != alive {
		t.Errorf("when it was started again:\n%s", got)
	}
}
