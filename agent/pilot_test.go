package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/fairlead-dev/fairlead/platform/tunnel"
)

// A VM that is open for some subnets is not open for all: names are given for what is.
func TestOpenBySubnet(t *testing.T) {
	const four, six, inner = "172.17.0.0/16", "fd17::/64", "172.18.0.0/16"
	all := []netip.Prefix{netip.MustParsePrefix(four), netip.MustParsePrefix(six), netip.MustParsePrefix(inner)}
	both := tunnel.Admission{Sources: addrs("192.168.99.1", "fd99::1"), Subnets: all}
	inject := func(asked, silent []netip.Addr) pilotState {
		return pilotState{open: true, asked: tunnel.Admission{Sources: both.Sources, Subnets: all, Probe: asked}, report: tunnel.Report{Open: true, Backend: "inject", Silent: silent}}
	}
	for _, c := range []struct {
		name  string
		pilot pilotState
		want  string
	}{
		{"closed", pilotState{}, ""},
		{"open", pilotState{open: true, asked: both, report: tunnel.Report{Open: true, Backend: "iptables-nft"}}, four + " " + six + " " + inner},
		{"IPv6 not asked for yet", pilotState{open: true, asked: tunnel.Admission{Sources: both.Sources[:1], Subnets: all}, report: tunnel.Report{Open: true}}, four + " " + inner},
		{"IPv6 came by a tunnel before", pilotState{open: true, asked: tunnel.Admission{Sources: addrs("192.168.99.1", "fd66::1"), Subnets: all}, report: tunnel.Report{Open: true}}, four + " " + inner},
		{"a network is new", pilotState{open: true, asked: tunnel.Admission{Sources: both.Sources, Subnets: all[:2]}, report: tunnel.Report{Open: true}}, four + " " + six},
		{"no IPv6", pilotState{open: true, asked: both, report: tunnel.Report{Open: true, Closed: []tunnel.Closed{{IPv6: true, Error: "a\nstranger"}}}}, four + " " + inner},
		{"one network is deaf", pilotState{open: true, asked: both, report: tunnel.Report{Open: true, Deaf: []netip.Prefix{netip.MustParsePrefix(inner)}}}, four + " " + six},
		{"no IPv4", pilotState{open: true, asked: both, report: tunnel.Report{Open: true, Closed: []tunnel.Closed{{Error: "a\nstranger"}}}}, six},
		{"around it, nobody asked yet", inject(nil, nil), four + " " + six},
		{"around it, all answer", inject(addrs("172.17.0.2", "172.18.0.2"), nil), four + " " + six + " " + inner},
		{"around it, one of two answers", inject(addrs("172.17.0.2", "172.17.0.3"), addrs("172.17.0.3")), four + " " + six},
		{"around it, silence", inject(addrs("172.17.0.2", "fd17::2", "172.18.0.2"), addrs("172.17.0.2", "172.18.0.2")), six},
	} {
		w := &watched{pilot: c.pilot, reach: platform.Reach{Kind: platform.Gateway, Via: addrs("192.168.99.100")[0], Source: both.Sources[0], Other: platform.Path{Kind: platform.Gateway, Source: both.Sources[1]}}}
		a := &Agent{engines: []*watched{w}}
		for _, p := range []string{four, six, inner} {
			a.subnets = append(a.subnets, Subnet{Prefix: netip.MustParsePrefix(p), State: Installed, Internal: p == inner})
		}
		if got := strings.Trim(fmt.Sprint(a.openSubnets(w)), "[]"); got != c.want {
			t.Errorf("%s: open are %s, want %s", c.name, got, c.want)
		}
		for _, s := range a.subnets {
			if why, _ := c.pilot.shuts(s, w.reach.To(s.Prefix)); strings.Contains(why, "\n") || c.pilot.open && (why == "") != a.isOpen(w, s) {
				t.Errorf("%s: %v is shut because %q", c.name, s, why)
			}
		}
	}
}

// Who asks right after the start waits for the engine's first word, whatever that is.
func TestSettled(t *testing.T) {
	w := newWatched(EngineConfig{}, slog.New(slog.DiscardHandler))
	a := &Agent{journal: &journal{}, engines: []*watched{w}}
	if a.settled() {
		t.Error("settled before the engine was heard")
	}
	if w.err = errors.New("connection refused"); !a.settled() {
		t.Error("an engine that fails is waited for")
	}
	if w.err = nil; a.settled() {
		t.Error("settled before the engine has told what it has")
	}
	if w.listed = true; !a.settled() {
		t.Error("an engine that has told all is waited for")
	}
}

// A question for a name waits, within its patience, while the VM is asked to let a new network's packets through: its containers
// get their names right after.
func TestNewSubnetIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, fresh := netip.MustParsePrefix("172.17.0.0/25"), netip.MustParsePrefix("172.17.0.128/25") // too small for reverse names
		w := newWatched(EngineConfig{}, slog.New(slog.DiscardHandler))
		w.up, w.listed, w.reach = true, true, platform.Reach{Kind: platform.Gateway, Via: addrs("192.168.99.100")[0], Source: addrs("192.168.99.1")[0]}
		a := &Agent{journal: &journal{}, names: newDirectory(nil), wake: make(chan struct{}, 1), passed: make(chan struct{}), engines: []*watched{w}}
		a.setEngines(a.engines)
		a.asking.free.Store(math.MaxInt64) // nobody is asked
		ask := func(subnets ...netip.Prefix) {
			a.reported(w, pilotState{open: true, asked: tunnel.Admission{Sources: addrs("192.168.99.1"), Subnets: subnets}, report: tunnel.Report{Open: true}})
			a.pass(t.Context())
		}
		a.subnets = []Subnet{{Prefix: old, State: Installed}}
		ask(old)
		if a.worth(false) != 0 || !a.settled() {
			t.Fatal("waits, but for what?")
		}
		a.subnets = append(a.subnets, Subnet{Prefix: fresh, State: Installed})
		a.mark(dirty{names: true})
		a.pass(t.Context())
		if a.worth(false) == 0 || a.settled() {
			t.Error("the VM was not asked yet")
		}
		answered := false
		go func() {
			a.unknown(t.Context(), "web.other")
			answered = true
		}()
		synctest.Wait()
		if answered {
			t.Error("denied before the VM was asked")
		}
		ask(old, fresh)
		synctest.Wait()
		if !answered || a.worth(false) != 0 || !a.settled() {
			t.Error("waits though the VM has answered")
		}
	})
}

// Every container without a name that could be reached is listed, with what keeps it apart.
func TestUnreached(t *testing.T) {
	net := func(id, driver, prefix string) engine.Network {
		return engine.Network{ID: id, Name: id, Driver: driver, Subnets: []netip.Prefix{netip.MustParsePrefix(prefix)}}
	}
	in := func(name string, ends ...engine.Attachment) engine.Container {
		return engine.Container{ID: name, Name: name, Endpoints: ends}
	}
	at := func(network, addr string) engine.Attachment {
		return engine.Attachment{NetworkID: network, Network: network, Addrs: addrs(addr)}
	}
	w := &watched{listed: true, reach: platform.Reach{Kind: platform.Gateway, Via: addrs("192.168.99.100")[0], Dev: "vboxnet0"},
		networks:   []engine.Network{net("user", "bridge", "172.18.0.0/16"), net("lan", "macvlan", "10.6.0.0/24"), net("vlan", "ipvlan", "10.5.0.0/24"), net("swarm", "overlay", "10.0.1.0/24")},
		containers: &engine.Store{},
	}
	w.cfg.Name = "dev"
	for _, c := range []engine.Container{
		in("good", at("user", "172.18.0.2")), in("both", at("lan", "10.6.0.2"), at("user", "172.18.0.3")),
		in("lan", at("lan", "10.6.0.3")), in("vlan", at("vlan", "10.5.0.2")), in("swarm", at("swarm", "10.0.1.2")), in("alone"), in("starting", engine.Attachment{NetworkID: "user"}),
		{ID: "ignored", Name: "ignored", Labels: map[string]string{"fairlead.ignore": "true"}, Endpoints: []engine.Attachment{at("lan", "10.6.0.4")}},
		{ID: "host", Name: "host", HostNetwork: true},
	} {
		w.containers.Put(c)
	}
	a := &Agent{engines: []*watched{w}, subnets: compile(nil, hostFacts{}, []view{{name: "dev", listed: true, networks: w.networks, reach: w.reach}})}
	for i := range a.subnets {
		if a.subnets[i].State == Wanted {
			a.subnets[i].State = Installed
		}
	}
	list := func() (names []string) {
		for _, u := range a.unreached() {
			names = append(names, u.Container)
			if apart := map[string]string{"lan": "macvlan keeps containers apart", "vlan": "ipvlan keeps containers apart", "swarm": "an overlay network"}[u.Container]; !strings.HasPrefix(u.Why, apart) {
				t.Errorf("%s is not reached because %q, want %q", u.Container, u.Why, apart)
			}
			if u.Why == "" || u.Engine != "dev" || len(u.Networks) == 0 && u.Container != "host" {
				t.Errorf("%+v", u)
			}
		}
		return names
	}
	if d := cmp.Diff([]string{"both", "good", "host", "lan", "swarm", "vlan"}, list()); d != "" {
		t.Errorf("while the VM is closed -want +got:\n%s", d)
	}
	w.pilot = pilotState{open: true, asked: tunnel.Admission{Sources: addrs("192.168.99.1"), Subnets: w.networks[0].Subnets}, report: tunnel.Report{Open: true, Backend: "iptables-nft"}}
	if d := cmp.Diff([]string{"lan", "swarm", "vlan"}, list()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	a.paused = true
	if got := list(); got != nil {
		t.Errorf("paused, it lists %v", got)
	}
}

// A tunnel beside a gateway that cannot be had is tried again, less and less often, and does not cost the gateway its names.
func TestDoWithout(t *testing.T) {
	refused := &engine.Refusal{Err: errors.New("no TUN")}
	for _, c := range []struct {
		tries int
		open  bool
		err   error
		want  bool
	}{
		{0, false, errors.New("no"), false}, // it may be the engine, which has just started
		{1, false, errors.New("no"), false},
		{2, false, errors.New("no"), true},
		{0, false, refused, true},
		{0, true, errors.New("no"), true},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := &watched{pilot: pilotState{open: c.open}}
			a := &Agent{engines: []*watched{w}, wake: make(chan struct{}, 1)}
			if got := a.doWithout(w, c.tries, c.err); got != c.want || (w.noTunnel != "") != c.want || a.dirty.routes != c.want {
				t.Fatalf("%+v: %v, because %q", c, got, w.noTunnel)
			}
			if !c.want {
				return
			}
			for _, pause := range []time.Duration{15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 15 * time.Minute, 15 * time.Minute} {
				a.mu.Lock()
				a.dirty = dirty{}
				a.mu.Unlock()
				time.Sleep(pause - time.Nanosecond)
				synctest.Wait()
				a.mu.Lock()
				if w.noTunnel == "" {
					t.Errorf("%+v: tried again in less than %v", c, pause)
				}
				a.mu.Unlock()
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				a.mu.Lock()
				if w.noTunnel != "" || !a.dirty.routes {
					t.Errorf("%+v: not tried again after %v", c, pause)
				}
				a.mu.Unlock()
				a.doWithout(w, 2, c.err)
			}
		})
	}
}

// An engine that is reached by its VM's IPv4 address has its IPv6 networks reached too: by the VM's IPv6 address on the same
// link, once its pilot has told that, else by a tunnel beside.
func TestOtherIPVersion(t *testing.T) {
	links := []platform.Link{{Dev: "vboxnet0", Prefix: netip.MustParsePrefix("192.168.99.1/24")}}
	with6 := append(links, platform.Link{Dev: "vboxnet0", Prefix: netip.MustParsePrefix("fd99::1/64")})
	for _, c := range []struct {
		name     string
		links    []platform.Link
		subnets  []string
		allow    []netip.Prefix
		vm       []netip.Addr
		noTunnel string
		want     string // kind via dev source
		sources  string // what the VM is to let through
	}{
		{name: "no IPv6 network", links: with6, subnets: []string{"172.17.0.0/16"}, vm: addrs("192.168.99.100", "fd99::100"), sources: "192.168.99.1"},
		{name: "a public one", links: with6, subnets: []string{"172.17.0.0/16", "2001:db8::/64"}, sources: "192.168.99.1"},
		{name: "a public one that is allowed", links: with6, subnets: []string{"172.17.0.0/16", "2001:db8::/64"}, allow: []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")},
			vm: addrs("fd99::100"), want: "gateway fd99::100 vboxnet0 fd99::1", sources: "192.168.99.1 fd99::1"},
		{name: "not asked", links: with6, subnets: []string{"172.17.0.0/16", "fd17::/64"}, want: "gateway invalid IP vboxnet0 invalid IP", sources: "192.168.99.1"},
		{name: "not asked, nothing else to ask for", links: with6, subnets: []string{"fd17::/64"}, want: "gateway invalid IP vboxnet0 invalid IP", sources: "192.168.99.1"},
		{name: "told", links: with6, subnets: []string{"172.17.0.0/16", "fd17::/64"}, vm: addrs("192.168.99.100", "fd99::100"), want: "gateway fd99::100 vboxnet0 fd99::1", sources: "192.168.99.1 fd99::1"},
		{name: "it has none", links: with6, subnets: []string{"172.17.0.0/16", "fd17::/64"}, vm: addrs("192.168.99.100"), want: "tunnel invalid IP  invalid IP", sources: "192.168.99.1"},
		{name: "we have none", links: links, subnets: []string{"172.17.0.0/16", "fd17::/64"}, want: "tunnel invalid IP  invalid IP", sources: "192.168.99.1"},
		{name: "we have none, and it no tunnel", links: links, subnets: []string{"172.17.0.0/16", "fd17::/64"}, noTunnel: "no TUN", want: "none invalid IP  invalid IP", sources: "192.168.99.1"},
	} {
		w := &watched{cfg: EngineConfig{Endpoint: engine.Endpoint{Name: "dev"}, Gateway: "192.168.99.100"}, listed: true, vmAddrs: c.vm, noTunnel: c.noTunnel}
		for _, s := range c.subnets {
			w.networks = append(w.networks, engine.Network{ID: s, Name: s, Driver: "bridge", Subnets: []netip.Prefix{netip.MustParsePrefix(s)}})
		}
		w.reach = w.reachable(hostFacts{links: c.links}, c.allow)
		got := ""
		if o := w.reach.Other; o.Kind != "" {
			got = fmt.Sprintf("%s %v %s %v", o.Kind, o.Via, o.Dev, o.Source)
			if o.Why == "" {
				t.Errorf("%s: no reason", c.name)
			}
		}
		if got != c.want || w.reach.Kind != platform.Gateway {
			t.Errorf("%s: %s %q, want %q", c.name, w.reach.Kind, got, c.want)
		}
		a := &Agent{engines: []*watched{w}, journal: &journal{}, subnets: compile(c.allow, hostFacts{links: c.links}, []view{{name: "dev", listed: true, networks: w.networks, reach: w.reach}})}
		adm, needed := a.admission(w)
		if got := strings.Trim(fmt.Sprint(adm.Sources), "[]"); got != c.sources || !needed {
			t.Errorf("%s: admitted is %q, want %q; needed: %v", c.name, got, c.sources, needed)
		}
	}
}
