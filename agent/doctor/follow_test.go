package doctor

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/fairlead-dev/fairlead/agent"
)

// whois is what the engines tell of web.docker on the healthy host.
func whois(f Facts) agent.Whois {
	at := agent.At{Addr: netip.MustParseAddr("172.17.0.2"), Network: "bridge"}
	if i := slices.IndexFunc(f.Status.Subnets, func(s agent.Subnet) bool { return s.Network == "bridge" }); i >= 0 {
		at.Subnet = f.Status.Subnets[i]
	}
	return agent.Whois{Name: "web.docker", Domain: "docker", Matched: "web.docker", Bearers: []agent.Bearer{
		{Engine: "dev", Container: "web", Has: true, State: "running", Addrs: []agent.At{at}},
	}}
}

// withheld is a host whose server does not answer web.docker, as nothing of it can be reached.
func withheld(f *Facts) {
	f.Names, f.Want, f.Fresh, f.Cached, f.Addrs = nil, nil, Reply{}, Reply{}, nil
	f.UDP = Reply{Asked: true, Rcode: "NXDOMAIN"}
	f.TCP = f.UDP
}

var ways = []struct {
	name   string
	asked  string
	change func(f *Facts, who *agent.Whois)
	fails  string // the only check that fails, and the last; "" for none
}{
	{"healthy", "web.docker", func(*Facts, *agent.Whois) {}, ""},
	{"written otherwise", "WEB.Docker.", func(*Facts, *agent.Whois) {}, ""},
	{"an address", "172.17.0.2", func(_ *Facts, who *agent.Whois) { who.Matched = "172.17.0.2" }, ""},
	{"nobody's address", "172.17.0.9", func(_ *Facts, who *agent.Whois) { *who = agent.Whois{} }, "container"},
	{"an address while its engine is stopped", "172.17.0.2", func(f *Facts, who *agent.Whois) {
		*who = agent.Whois{}
		f.Status.Engines[0].Up, f.Status.Engines[0].Error = false, "engine does not answer"
	}, "engine dev"},
	{"below a name", "www.web.docker", func(f *Facts, _ *agent.Whois) { f.Known = "www.web.docker" }, ""},
	{"no name", "web..docker", func(*Facts, *agent.Whois) {}, "name"},
	{"a domain", "docker", func(*Facts, *agent.Whois) {}, "domain"},
	{"no domain", "web", func(*Facts, *agent.Whois) {}, "domain"},
	{"no agent", "web.docker", func(f *Facts, _ *agent.Whois) { dead(f) }, "agent"},
	{"setup-network gives no names", "web.docker", func(f *Facts, _ *agent.Whois) {
		f.Running, f.Service = false, Service{}
	}, "agent"},
	{"setup-network is enough for an address", "172.17.0.2", func(f *Facts, who *agent.Whois) {
		who.Matched = "172.17.0.2"
		f.Running, f.Service = false, Service{}
	}, ""},
	{"paused", "web.docker", func(f *Facts, _ *agent.Whois) { f.Status.Paused = true }, "agent"},
	{"unknown", "wbe.docker", func(f *Facts, who *agent.Whois) {
		withheld(f)
		*who = agent.Whois{Name: "wbe.docker", Domain: "docker", Near: []string{"web.docker", "db.docker"}}
	}, "container"},
	{"unknown and nothing like it", "zebra.docker", func(f *Facts, who *agent.Whois) {
		withheld(f)
		*who = agent.Whois{Name: "zebra.docker", Domain: "docker"}
	}, "container"},
	{"lost to another", "api.docker", func(f *Facts, who *agent.Whois) {
		withheld(f)
		f.Status.Losers = []agent.Loser{{Name: "api", Containers: []string{"shop-api-1", "blog-api-1"}, Why: "several have the same right to this name"}}
		*who = agent.Whois{Name: "api.docker", Domain: "docker"}
	}, "container"},
	{"hidden", "web.docker", func(f *Facts, who *agent.Whois) {
		withheld(f)
		who.Bearers[0].Why = "a label of its own hides it"
	}, "container web"},
	{"engine stopped", "web.docker", func(f *Facts, _ *agent.Whois) { f.Status.Engines[0].Up = false }, "engine dev"},
	{"engine stopped before it was heard", "web.docker", func(f *Facts, who *agent.Whois) {
		withheld(f)
		f.Status.Engines[0].Up, f.Status.Engines[0].Error, f.Status.Subnets = false, "engine does not answer", nil
		*who = agent.Whois{Name: "web.docker", Domain: "docker"}
	}, "engine dev"},
	{"refused", "web.docker", func(f *Facts, who *agent.Whois) {
		withheld(f)
		f.Status.Subnets[0].State, f.Status.Subnets[0].Why = agent.Refused, "route 172.16.0.0/12 dev tun0 (made by static) is in its way"
		f.Status.Subnets[0].Hint = "give network bridge another range, 10.213.0.0/24 is free here: {\"bip\": \"10.213.0.1/24\"} in the engine's daemon.json"
		*who = whois(*f)
	}, "172.17.0.2"},
	{"in a macvlan network", "web.docker", func(f *Facts, who *agent.Whois) {
		withheld(f)
		f.Status.Subnets[0].State, f.Status.Subnets[0].Why = agent.Unreachable, "macvlan networks cannot be reached by a route"
		*who = whois(*f)
	}, "172.17.0.2"},
	{"route deleted", "web.docker", func(f *Facts, _ *agent.Whois) { f.Table = slices.Delete(f.Table, 1, 2) }, "172.17.0.2"},
	{"firewall closed", "web.docker", func(f *Facts, _ *agent.Whois) {
		withheld(f)
		p := &agent.PilotStatus{Error: "table inet stranger drops what is forwarded"}
		p.Hint = "in the VM: nft delete table inet stranger"
		f.Status.Engines[0].Pilot = p
	}, "pilot"},
	{"container drops", "web.docker", func(f *Facts, _ *agent.Whois) {
		f.Addrs[netip.MustParseAddr("172.17.0.2")] = Answer{Asked: true, Says: "no answer from 172.17.0.2"}
	}, "packet"},
	{"entry removed", "web.docker", func(f *Facts, _ *agent.Whois) {
		for _, l := range links {
			if l.name == "entry removed" {
				l.broken(f)
			}
		}
	}, "entry fairlead0"},
	{"a denial is remembered", "web.docker", func(f *Facts, _ *agent.Whois) { f.Cached.Addrs = nil }, "cache"},
	{"server silent", "web.docker", func(f *Facts, _ *agent.Whois) { f.UDP = Reply{Asked: true, Err: errors.New("i/o timeout")} }, "dns server"},
	{"two replicas, one unreachable", "web.docker", func(f *Facts, who *agent.Whois) {
		f.Status.Subnets[1].State, f.Status.Subnets[1].Why, f.Status.Subnets[1].Hint = agent.Refused, "it holds this host's DNS server 172.18.0.53", "give network shop another range"
		who.Bearers = append(who.Bearers, agent.Bearer{Engine: "dev", Container: "web-2", State: "running", Addrs: []agent.At{
			{Addr: netip.MustParseAddr("172.18.0.2"), Network: "shop", Subnet: f.Status.Subnets[1]},
		}})
	}, "172.18.0.2"},
	{"in the VM's own network", "web.docker", func(_ *Facts, who *agent.Whois) {
		who.Bearers[0].HostNetwork, who.Bearers[0].Addrs = true, nil
	}, ""},
	{"in no network", "web.docker", func(f *Facts, who *agent.Whois) { withheld(f); who.Bearers[0].Addrs = nil }, "container web"},
}

// TestFollow: a trace ends at the first broken link, and that alone is red.
func TestFollow(t *testing.T) {
	golden(t, "follow.txtar", len(ways), func(i int) (string, string) {
		w := ways[i]
		f := healthy()
		who := whois(f)
		w.change(&f, &who)
		r := Follow(f, w.asked, who)
		check(t, w.name, r)
		got := ""
		if r.Broken != nil {
			got = r.Broken.Name
		}
		if got != w.fails || r.failed > 1 {
			t.Errorf("%s: %q fails, one of %d, want %q", w.name, got, r.failed, w.fails)
		}
		return w.name, r.String()
	})
}
