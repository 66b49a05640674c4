package doctor

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/fairlead-dev/fairlead/resolver"
	"github.com/fairlead-dev/fairlead/routes"
)

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// healthy is a host where all is well: one engine in a VM, two networks, one container.
func healthy() Facts {
	via := netip.MustParseAddr("192.168.99.100")
	route := func(dst string) routes.Route {
		return routes.Route{Dst: netip.MustParsePrefix(dst), Via: via, Dev: "vboxnet0"}
	}
	entry := resolver.Item{Method: resolver.Resolved, Key: "fairlead0", Value: "127.0.0.1:55353 ~docker"}
	bridge := agent.Subnet{Engine: "dev", Network: "bridge", Prefix: netip.MustParsePrefix("172.17.0.0/16"), State: agent.Installed, Route: route("172.17.0.0/16")}
	shop := agent.Subnet{Engine: "dev", Network: "shop", Prefix: netip.MustParsePrefix("172.18.0.0/16"), State: agent.Installed, Route: route("172.18.0.0/16")}
	f := Facts{
		OS: "linux", Version: "1.0", Running: true,
		Config:  agent.Config{Domains: []string{"docker"}, Resolver: "auto", Control: "/run/fairlead/control.sock"},
		Service: Service{Installed: true, Running: true, Manager: "systemd"},
		Status: agent.Status{
			Version: "1.0",
			Engines: []agent.EngineStatus{{
				Name: "dev", URL: "tcp://192.168.99.100:2376", Up: true, Expected: true, Networks: 2, Containers: 1,
				Reach: platform.Reach{Kind: platform.Gateway, Via: via, Dev: "vboxnet0", Source: netip.MustParseAddr("192.168.99.1"), Why: "the engine's address is on-link"},
				Pilot: &agent.PilotStatus{},
			}},
			Subnets:  []agent.Subnet{bridge, shop},
			Resolver: agent.ResolverStatus{Method: resolver.Resolved, Why: "systemd-resolved serves this host's lookups", Domains: []string{"docker"}},
			DNS:      agent.DNSStatus{Listen: netip.MustParseAddrPort("127.0.0.1:55353"), Names: 2},
		},
		Names: []agent.Name{{Name: "web.docker", Addrs: addrs("172.17.0.2"), Engine: "dev", Containers: []string{"web"}}},
		Links: []platform.Link{
			{Dev: "lo", Prefix: netip.MustParsePrefix("127.0.0.1/8")}, {Dev: "vboxnet0", Prefix: netip.MustParsePrefix("192.168.99.1/24")},
		},
		Table: []routes.Entry{
			{Route: routes.Route{Dst: netip.MustParsePrefix("192.168.99.0/24"), Dev: "vboxnet0"}, Owner: "kernel"},
			{Route: bridge.Route, Marked: true, Owner: "fairlead"}, {Route: shop.Route, Marked: true, Owner: "fairlead"},
		},
		Gateways: map[string]Answer{"dev": {true, true, "192.168.99.100 answered in 210µs"}},
		Packets:  []Answer{{true, true, "172.17.0.2 answered in 250µs"}, {Asked: true, OK: true, Says: "172.18.0.2 answered in 260µs"}},
		Addrs:    map[netip.Addr]Answer{netip.MustParseAddr("172.17.0.2"): {true, true, "172.17.0.2 answered in 250µs"}},
		Domain:   "docker", Known: "web.docker", Want: addrs("172.17.0.2"),
		UDP:     Reply{Asked: true, Rcode: "NOERROR", Addrs: addrs("172.17.0.2")},
		TCP:     Reply{Asked: true, Rcode: "NOERROR", Addrs: addrs("172.17.0.2")},
		Entries: resolver.Plan{Keep: []resolver.Item{entry}},
		Fresh:   Reply{Asked: true, Addrs: addrs("172.17.0.2")},
		Cached:  Reply{Asked: true, Addrs: addrs("172.17.0.2")},
	}
	pilot := f.Status.Engines[0].Pilot
	pilot.Open, pilot.Backend = true, "iptables-nft"
	f.Status.Engines[0].Info.Version, f.Status.Engines[0].Info.API = "20.10.24", "1.41"
	return f
}

// dead is that host without an agent, and without what one would have done.
func dead(f *Facts) {
	f.Running, f.Service = false, Service{Manager: "systemd"}
	f.Names, f.Want, f.UDP, f.TCP, f.Fresh, f.Cached, f.Known = nil, nil, Reply{}, Reply{}, Reply{}, Reply{}, ""
	f.Entries = resolver.Plan{}
	f.Table = f.Table[:1]
	f.Packets = []Answer{{}, {}}
	for i := range f.Status.Subnets {
		f.Status.Subnets[i].State = agent.Wanted
	}
}

// link is one way in which a host can be broken, or odd.
type link struct {
	name   string
	broken func(f *Facts)
	fails  string // the first check that has to fail; "" for none
}

var links = []link{
	{"healthy", func(*Facts) {}, ""},
	{"not root", func(f *Facts) { f.Rights = errors.New("changing routes needs root") }, ""},
	{"no agent", dead, "agent"},
	{"no agent on windows", func(f *Facts) { dead(f); f.OS = "windows" }, "agent"},
	{"service stopped", func(f *Facts) { dead(f); f.Service.Installed = true }, "agent"},
	{"service runs, agent silent", func(f *Facts) { dead(f); f.Service = healthy().Service }, "agent"},
	{"agent hangs", func(f *Facts) { dead(f); f.AgentErr = errors.New("asking the agent: context deadline exceeded") }, "agent"},
	{"agent is root's", func(f *Facts) {
		dead(f)
		f.AgentErr = &agent.Problem{Code: agent.ExitNotPermitted, Err: errors.New("control endpoint: permission denied"), Hint: "x"}
	}, ""},
	{"setup-network was enough", func(f *Facts) {
		table, packets := f.Table, f.Packets
		dead(f)
		f.Table, f.Packets = table, packets
		for i := range f.Status.Subnets {
			f.Status.Subnets[i].State = agent.Installed
		}
	}, ""},
	{"paused", func(f *Facts) { f.Status.Paused, f.Status.Subnets, f.Packets, f.Table = true, nil, nil, f.Table[:1] }, ""},
	{"other version", func(f *Facts) { f.Version = "1.1" }, ""},
	{"last pass failed", func(f *Facts) { f.Status.Problems = []string{"routes: no memory"} }, "last pass"},
	{"no table", func(f *Facts) { f.TableErr = errors.New("listing routes: no such device") }, "host"},
	{"nothing to look at", func(f *Facts) {
		dead(f)
		f.Status.Engines, f.Status.Subnets, f.LookErr = nil, nil, errors.New("journal /var/lib/fairlead/journal.json is damaged")
	}, "agent"},

	{"engine stopped", func(f *Facts) {
		e := &f.Status.Engines[0]
		e.Up, e.Stale, e.Error, e.Hint = false, true, "engine does not answer", "start the engine, or ..."
	}, "engine dev"},
	{"certificate expired", func(f *Facts) {
		e := &f.Status.Engines[0]
		e.Up, e.Error, e.Hint = false, "x509: certificate has expired", "docker-machine regenerate-certs dev"
	}, "engine dev"},
	{"found, and off", func(f *Facts) {
		f.Status.Engines = append(f.Status.Engines, agent.EngineStatus{
			Name: "old", URL: "tcp://192.168.99.101:2376", Found: "docker-machine's machine old", Error: "engine does not answer", Hint: "docker-machine start old",
		})
		f.Status.Skipped = []agent.Skipped{{Provider: "context", Path: "/home/me/.docker/contexts/meta/x", Why: "reading JSON: unexpected end", Hint: "docker context rm x"}}
	}, ""},
	{"no way", func(f *Facts) {
		f.Status.Engines[0].Reach = platform.Reach{Kind: platform.None, Why: "gateway 10.0.0.9 is not on-link on any interface of this host"}
		f.Status.Engines[0].Pilot, f.Gateways = nil, nil
		for i := range f.Status.Subnets {
			f.Status.Subnets[i].State, f.Status.Subnets[i].Why = agent.NoWay, f.Status.Engines[0].Reach.Why
		}
	}, "reach"},
	{"gateway silent", func(f *Facts) {
		f.Status.Engines[0].URL = "unix:///home/me/.colima/default/docker.sock"
		f.Gateways["dev"] = Answer{true, false, "no answer from 192.168.99.100"}
		f.Packets[1] = Answer{}
		f.Packets[0] = Answer{true, false, "no answer from 172.17.0.2"}
	}, "gateway"},
	{"gateway answers no ping", func(f *Facts) { f.Gateways["dev"] = Answer{true, false, "no answer from 192.168.99.100"} }, ""},
	{"firewall closed", func(f *Facts) {
		f.Status.Engines[0].Pilot = &agent.PilotStatus{Error: "table inet stranger drops what is forwarded"}
		f.Status.Engines[0].Pilot.Hint = "in the VM: nft delete table inet stranger"
		f.Packets[0] = Answer{true, false, "no answer from 172.17.0.2"}
	}, "pilot"},
	{"firewall closed behind the pilot's back", func(f *Facts) { f.Packets[0] = Answer{true, false, "no answer from 172.17.0.2"} }, "packet"},
	{"closed for one subnet", func(f *Facts) {
		f.Status.Subnets[1].State, f.Status.Subnets[1].Why, f.Status.Subnets[1].Hint = agent.Closed, "table ip stranger drops it", "in the VM: nft delete table ip stranger"
	}, "subnet 172.18.0.0/16"},
	{"the other IP version", func(f *Facts) {
		s := &f.Status.Subnets[1]
		s.Prefix, s.State, s.Why, s.Hint = netip.MustParsePrefix("fd00:1::/64"), agent.NoWay, "there is no tunnel: as told", "a tunnel carries both IP versions: --gateway dev=tunnel"
		f.Status.Engines[0].Reach.Other = platform.Path{Kind: platform.None, Why: "there is no tunnel: as told"}
		f.Table = f.Table[:2]
	}, ""},
	{"the other IP version by the VM's other address", func(f *Facts) {
		f.Status.Engines[0].Reach.Other = platform.Path{Kind: platform.Gateway, Via: netip.MustParseAddr("fd99::100"), Dev: "vboxnet0", Source: netip.MustParseAddr("fd99::1"), Why: "as told"}
	}, ""},
	{"the other IP version by a tunnel", func(f *Facts) {
		f.Status.Engines[0].Reach.Other = platform.Path{Kind: platform.Tunnel, Dev: "flead0", Why: "as told"}
	}, ""},
	{"neighbours", func(f *Facts) {
		s := &f.Status.Subnets[1]
		s.Prefix, s.State, s.Why, s.Route = netip.MustParsePrefix("192.168.99.0/24"), agent.OnLink, "its containers are neighbours of this host on vboxnet0", routes.Route{}
		f.Table = f.Table[:2]
	}, ""},
	{"tunnel", func(f *Facts) {
		e := &f.Status.Engines[0]
		e.Reach = platform.Reach{Kind: platform.Tunnel, Dev: "flead0", Why: "Docker Desktop's VM has no address that this host reaches"}
		e.Tunnel = &agent.TunnelStatus{Dev: "flead0"}
	}, ""},
	{"tunnel does not come up", func(f *Facts) {
		e := &f.Status.Engines[0]
		e.Reach = platform.Reach{Kind: platform.Tunnel, Why: "as told"}
		e.Pilot = &agent.PilotStatus{Error: "the VM has no /dev/net/tun"}
		for i := range f.Status.Subnets {
			f.Status.Subnets[i].State, f.Status.Subnets[i].Why = agent.NoWay, "the tunnel is not up: as told"
		}
	}, "reach"},

	{"route deleted", func(f *Facts) { f.Table = f.Table[:2] }, "subnet 172.18.0.0/16"},
	{"route of setup-network deleted", func(f *Facts) {
		dead(f)
		f.Table = healthy().Table[:2]
		f.Status.Subnets[0].State, f.Status.Subnets[1].State = agent.Installed, agent.Failed
		f.Status.Subnets[1].Why = "setup-network made the route, and it is gone"
	}, "subnet 172.18.0.0/16"},
	{"foreign route", func(f *Facts) { f.Status.Subnets[1].State, f.Status.Subnets[1].Why = agent.Foreign, "made by static" }, ""},
	{"refused", func(f *Facts) {
		f.Status.Subnets[1] = agent.Subnet{
			Engine: "dev", Network: "shop", Prefix: netip.MustParsePrefix("10.1.0.0/16"), State: agent.Refused,
			Why: "route 10.0.0.0/8 dev tun0 (made by static) is in its way", Hint: "give network shop another range, 10.213.0.0/24 is free here: docker network create --subnet 10.213.0.0/24 shop",
		}
		f.Table = append(f.Table[:2], routes.Entry{Route: routes.Route{Dst: netip.MustParsePrefix("10.0.0.0/8"), Dev: "tun0"}, Owner: "static"})
	}, "subnet 10.1.0.0/16"},
	{"both refused", func(f *Facts) {
		for i := range f.Status.Subnets {
			f.Status.Subnets[i].State, f.Status.Subnets[i].Why = agent.Refused, "route 172.16.0.0/12 dev tun0 (made by static) is in its way"
			f.Status.Subnets[i].Hint = "give network " + f.Status.Subnets[i].Network + " another range"
		}
		f.Table = append(f.Table[:1], routes.Entry{Route: routes.Route{Dst: netip.MustParsePrefix("172.16.0.0/12"), Dev: "tun0"}, Owner: "static"})
	}, "subnet 172.17.0.0/16"},
	{"all is taken", func(f *Facts) {
		f.Status.Subnets[1].State, f.Status.Subnets[1].Why, f.Status.Subnets[1].Hint = agent.Refused, "route 172.16.0.0/12 dev tun0 (made by static) is in its way", "give network shop another range"
		for _, p := range []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"} {
			f.Table = append(f.Table[:len(f.Table):len(f.Table)], routes.Entry{Route: routes.Route{Dst: netip.MustParsePrefix(p), Dev: "tun0"}, Owner: "static"})
		}
	}, "subnet 172.18.0.0/16"},
	{"no memory for a route", func(f *Facts) { f.Status.Subnets[1].State, f.Status.Subnets[1].Why = agent.Failed, "no memory" }, "subnet 172.18.0.0/16"},
	{"macvlan", func(f *Facts) {
		f.Status.Subnets[1].State, f.Status.Subnets[1].Why = agent.Unreachable, "macvlan networks cannot be reached by a route"
		f.Table = f.Table[:2]
	}, ""},
	{"a row of ours that nobody needs", func(f *Facts) { f.Status.Subnets = f.Status.Subnets[:1] }, ""},

	{"dns port taken", func(f *Facts) { dead(f); f.Holder, f.HolderPID = "dnsmasq (pid 812) has it over udp", 812 }, "dns server"},
	{"dns port 53 taken", func(f *Facts) {
		dead(f)
		f.Status.DNS.Listen = netip.MustParseAddrPort("127.0.0.1:53")
		f.Holder, f.HolderPID = "dnsmasq (pid 812) has it over udp", 812
	}, "dns server"},
	{"a container has port 53", func(f *Facts) {
		dead(f)
		f.Status.DNS.Listen = netip.MustParseAddrPort("127.0.0.1:53")
		f.Holder, f.HolderPID = "docker-proxy (pid 900) has it over udp", 900
	}, "dns server"},
	{"dns silent over tcp", func(f *Facts) { f.TCP = Reply{Asked: true, Err: errors.New("connection refused")} }, "tcp"},
	{"somebody else answers", func(f *Facts) { f.UDP = Reply{Asked: true, Rcode: "REFUSED"} }, "udp"},
	{"no names yet", func(f *Facts) {
		f.Known, f.Want, f.Fresh, f.Cached = "", nil, Reply{}, Reply{}
		f.UDP, f.TCP = Reply{Asked: true, Rcode: "NOERROR"}, Reply{Asked: true, Rcode: "NOERROR"}
	}, ""},

	{"entry removed", func(f *Facts) {
		f.Entries = resolver.Plan{Steps: []resolver.Step{{New: f.Entries.Keep[0]}}}
		f.Fresh, f.Cached = Reply{}, Reply{}
	}, "entry fairlead0"},
	{"entry edited", func(f *Facts) {
		file := resolver.Item{Method: resolver.EtcResolver, Key: "/etc/resolver/docker"}
		f.Entries = resolver.Plan{Blocked: []resolver.Blocked{{Item: file, Why: "/etc/resolver/docker: fairlead did not make it; if you do not need it: rm /etc/resolver/docker"}}}
		f.OS, f.Fresh, f.Cached = "darwin", Reply{}, Reply{}
	}, "entry docker"},
	{"an agent was killed", func(f *Facts) { dead(f); f.Strays = healthy().Entries.Keep; f.Service.Installed = true }, "agent"},
	{"resolv.conf edited", func(f *Facts) {
		block := resolver.Item{Method: resolver.ResolvConf, Key: "/etc/resolv.conf"}
		f.Entries = resolver.Plan{Blocked: []resolver.Blocked{{Item: block, Why: "resolv.conf /etc/resolv.conf: ...: not what the journal says that we made, so it is left alone; to be rid of it: delete our lines"}}}
		f.Fresh, f.Cached = Reply{}, Reply{}
	}, "entry resolv.conf"},
	{"no resolver here", func(f *Facts) {
		f.Status.Resolver.Method, f.Entries = resolver.None, resolver.Plan{}
		f.Status.Resolver.Why = "systemd-resolved does not run; nothing else here can ask one server for some names only; hint: systemctl enable --now systemd-resolved"
		f.Fresh, f.Cached = Reply{}, Reply{}
	}, ""},
	{"no resolver wanted", func(f *Facts) {
		f.Config.Resolver, f.Status.Resolver.Method, f.Status.Resolver.Why = "none", resolver.None, "asked for: names are answered to whoever asks our port"
		f.Entries, f.Fresh, f.Cached = resolver.Plan{}, Reply{}, Reply{}
	}, ""},
	{"leftovers", func(f *Facts) {
		f.Leftovers = leftovers(traces{os: "darwin", processes: []string{"docker-mac-net-connect"}, files: map[string]string{
			"/Library/LaunchDaemons/com.docker.route.plist": routePlist, "/etc/resolver/dev.docker": dnsdockResolver,
		}})
	}, ""},
	{"the OS asks others", func(f *Facts) { f.Fresh.Addrs, f.Cached.Addrs = nil, nil }, "through the OS"},
	{"a denial is remembered", func(f *Facts) { f.Cached.Addrs = nil }, "cache"},
	{"an old answer is remembered on macos", func(f *Facts) { f.OS, f.Cached.Addrs = "darwin", addrs("172.17.0.9") }, "cache"},
	{"the OS does not answer", func(f *Facts) { f.Fresh = Reply{Asked: true, Err: errors.New("timeout")} }, "through the OS"},
}

// TestExamine: each broken link is named by its own check, first, and testdata has what people read.
func TestExamine(t *testing.T) {
	golden(t, "examine.txtar", len(links), func(i int) (string, string) {
		f := healthy()
		links[i].broken(&f)
		r := Examine(f)
		check(t, links[i].name, r)
		got := ""
		if r.Broken != nil {
			got = r.Broken.Name
		}
		if got != links[i].fails {
			t.Errorf("%s: %q fails first, want %q", links[i].name, got, links[i].fails)
		}
		if links[i].name != "healthy" {
			r.Checks = unwell(r.Checks)
		}
		return links[i].name, r.String() + r.Summary() + "\n"
	})
}

// unwell leaves out what says nothing about what is broken.
func unwell(checks []Check) (out []Check) {
	for _, c := range checks {
		c.Checks = unwell(c.Checks)
		if c.State != OK || len(c.Checks) > 0 {
			out = append(out, c)
		}
	}
	return out
}

// golden compares texts with those in a file below testdata; with UPDATE=1 it writes them.
func golden(t *testing.T, file string, n int, text func(i int) (name, text string)) {
	t.Helper()
	file = filepath.Join("testdata", file)
	var have txtar.Archive
	for i := range n {
		name, text := text(i)
		have.Files = append(have.Files, txtar.File{Name: name, Data: []byte(text)})
	}
	if os.Getenv("UPDATE") != "" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, txtar.Format(&have), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := txtar.Parse([]byte(strings.ReplaceAll(string(b), "\r\n", "\n")))
	if diff := cmp.Diff(texts(want), texts(&have)); diff != "" {
		t.Errorf("%s (-want +got, UPDATE=1 writes it):\n%s", file, diff)
	}
}

func texts(a *txtar.Archive) map[string]string {
	out := map[string]string{}
	for _, f := range a.Files {
		out[f.Name] = string(f.Data)
	}
	return out
}

// check is what holds for every report: a failure has a command, what is skipped has a reason, and all is fit for a terminal.
func check(t *testing.T, of string, r Report) {
	t.Helper()
	failed := 0
	var walk func(checks []Check, below bool)
	walk = func(checks []Check, below bool) {
		for _, c := range checks {
			if c.State == Fail {
				failed++
			}
			if c.State == Fail && c.Hint == "" {
				t.Errorf("%s: %s fails without a hint", of, c.Name)
			}
			if c.State != OK && c.Says == "" {
				t.Errorf("%s: %s is %s for no reason", of, c.Name, c.State)
			}
			if below && c.State != Skipped {
				t.Errorf("%s: %s is %s below something that failed", of, c.Name, c.State)
			}
			walk(c.Checks, c.State == Fail)
		}
	}
	walk(r.Checks, false)
	if r.OK != (failed == 0) || r.OK != (r.Broken == nil) {
		t.Errorf("%s: ok is %v with %d failed", of, r.OK, failed)
	}
	for line := range strings.Lines(r.String() + r.Summary() + "\n") {
		if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("%s: %q", of, line)
		}
	}
}

// TestExamineAnything: whatever stands in the facts, a report has commands and reasons, and nothing panics.
func TestExamineAnything(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 500 {
		var f Facts
		scramble(rng, reflect.ValueOf(&f).Elem(), 0)
		of := fmt.Sprintf("facts %d", i)
		check(t, of, Examine(f))
		var who agent.Whois
		scramble(rng, reflect.ValueOf(&who).Elem(), 0)
		for _, name := range []string{"web.docker", "172.17.0.2", "x\x1b[2J"} {
			check(t, of, Follow(f, name, who))
		}
	}
}

// scramble fills a value with what could stand there, and with what could not.
func scramble(rng *rand.Rand, v reflect.Value, depth int) {
	switch x := v.Addr().Interface().(type) {
	case *netip.Addr:
		*x = []netip.Addr{{}, netip.MustParseAddr("172.17.0.2"), netip.MustParseAddr("fd00::2")}[rng.IntN(3)]
		return
	case *netip.Prefix:
		*x = []netip.Prefix{{}, netip.MustParsePrefix("172.17.0.0/16"), netip.MustParsePrefix("fd00::/64"), netip.MustParsePrefix("0.0.0.0/0")}[rng.IntN(4)]
		return
	case *netip.AddrPort:
		*x = []netip.AddrPort{{}, netip.MustParseAddrPort("127.0.0.1:53"), netip.MustParseAddrPort("[::1]:55353")}[rng.IntN(3)]
		return
	case *error:
		*x = []error{nil, errors.New("two\nlines \x1b[2J"), &agent.Problem{Code: 3, Err: errors.New("no"), Hint: "sudo x"}}[rng.IntN(3)]
		return
	case *platform.Kind:
		*x = []platform.Kind{platform.Native, platform.Gateway, platform.Tunnel, platform.None, ""}[rng.IntN(5)]
		return
	case *agent.State:
		*x = []agent.State{agent.Wanted, agent.Installed, agent.Foreign, agent.Native, agent.Refused, agent.Failed, agent.Unreachable, agent.OnLink, agent.NoWay, agent.Closed, ""}[rng.IntN(11)]
		return
	case *resolver.Method:
		*x = []resolver.Method{resolver.None, resolver.Resolved, resolver.EtcResolver, resolver.NRPT, resolver.ResolvConf}[rng.IntN(5)]
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString([]string{"", "dev", "web.docker", "docker", "linux", "windows", "none", "a\nb \x1b[31m'; rm -rf /", strings.Repeat("é", 300), "web"}[rng.IntN(10)])
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(rng.IntN(4)))
	case reflect.Uint16, reflect.Uint64:
		v.SetUint(uint64(rng.IntN(4)))
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				scramble(rng, v.Field(i), depth+1)
			}
		}
	case reflect.Slice:
		if n := rng.IntN(3); depth < 8 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			for i := range n {
				scramble(rng, v.Index(i), depth+1)
			}
		}
	case reflect.Pointer:
		if rng.IntN(2) == 0 {
			v.Set(reflect.New(v.Type().Elem()))
			scramble(rng, v.Elem(), depth+1)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		scramble(rng, key, depth+1)
		scramble(rng, value, depth+1)
		v.SetMapIndex(key, value)
	}
}
