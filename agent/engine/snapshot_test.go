package engine

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/network"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var exactly = cmp.Options{cmp.AllowUnexported(Container{}), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})}

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// captured reads testdata/docker-20.10: what `docker inspect` and `docker network inspect` said, less what nobody here reads.
func captured[T any](t testing.TB, name string) []T {
	t.Helper()
	text, err := os.ReadFile("testdata/docker-20.10/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var out []T
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

const (
	bridgeID = "6ce330491de4fdd748e6ec6bb05a0b314a3b4666659c74859f9c89b430dfc32f"
	backID   = "57d21596ae6ada5a98b88061fd2c0a7525790dd107b489ed25318ab3fad045c2"
	innerID  = "82721d50618f6809ce92d2a861ac061d56e28cf6f6f36a51a05e6956e13013f1"
	webID    = "20452600e894bed8af6e6ba0ebd9b8208d4b6c845e28730635b9ccce6f58f76a"
)

func TestContainerCaptured(t *testing.T) {
	ports := []Port{{7, "tcp"}, {7, "udp"}, {80, "tcp"}}
	want := []struct {
		live bool
		c    Container
	}{
		{true, Container{ID: webID, Name: "shop_web_1", Image: "web", Hostname: "web", State: "running", Health: "starting",
			Labels: map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.service": "web"},
			Ports:  append(slices.Clone(ports), Port{8080, "tcp"}, Port{8081, "tcp"}, Port{8082, "tcp"}),
			Endpoints: []Attachment{
				{backID, "shop_back", addrs("172.30.0.2", "fd30::2"), []string{"web", "api", "20452600e894"}},
				{innerID, "shop_inner", addrs("172.18.0.2"), []string{"inner-web", "20452600e894", "web"}},
			}}},
		{true, Container{ID: "b6e09283140b38b1605052c51c3d829d1ce53547bbaeeae14ec734c296147bdc", Name: "side", Image: "web", Hostname: "web",
			State: "running", Ports: ports, sharesWith: webID}},
		{true, Container{ID: "a24907cf24cdc91f1d735258a574d7aae913259b88bfba2aa5c1a46fb14d1a2b", Name: "onhost", Image: "web", Hostname: "vm0",
			State: "running", Ports: ports, HostNetwork: true,
			Endpoints: []Attachment{{NetworkID: "e00f01db3b2b58fb5d1bcfad8f55d4f002341c9a88b8e77c149bccac80959839", Network: "host"}}}},
		{true, Container{ID: "137dac0a6aa471336d800ea7a9b7a6539e66a634bf5c10a36e7b924ddd48ec0f", Name: "nonet", Image: "web", Hostname: "137dac0a6aa4",
			State: "running", Ports: ports,
			Endpoints: []Attachment{{NetworkID: "8fab87020944bb990806a0271ff04cd90779b8e206dd5a359b99f1775657ad0c", Network: "none"}}}},
		{true, Container{ID: "acfe038ba7b726f26d101f27a7851d513c22814cd094913575a33e5973e9698f", Name: "six", Image: "web", Hostname: "acfe038ba7b7",
			State: "running", Ports: ports,
			Endpoints: []Attachment{{bridgeID, "bridge", addrs("172.17.0.2", "fd17::242:ac11:2"), nil}}}},
		// Created, never started: no address, and no network id yet.
		{false, Container{ID: "0166dc6681dc", Name: "made", Image: "web", Hostname: "0166dc6681dc",
			State: "created", Ports: ports,
			Endpoints: []Attachment{{"", "shop_back", nil, []string{"m"}}}}},
		{false, Container{ID: "3c73e6dd9025", Name: "ended", Image: "web", Hostname: "3c73e6dd9025",
			State: "exited", Ports: ports,
			Endpoints: []Attachment{{NetworkID: bridgeID, Network: "bridge"}}}},
		{true, Container{ID: "1d4212184060d435bfe471afca8846f1308193acb14425aba3e8f7e8c7855266", Name: "napping", Image: "web", Hostname: "1d4212184060",
			State: "paused", Ports: ports,
			Endpoints: []Attachment{{bridgeID, "bridge", addrs("172.17.0.3", "fd17::242:ac11:3"), nil}}}},
	}
	in := captured[json.RawMessage](t, "containers.json")
	if len(in) != len(want) {
		t.Fatalf("%d containers captured, %d expected", len(in), len(want))
	}
	for i, w := range want {
		t.Run(w.c.Name, func(t *testing.T) {
			got, _, live, ok := containerOfInspect(in[i])
			if !ok || live != w.live {
				t.Errorf("live %v, ok %v, want %v, true", live, ok, w.live)
			}
			if len(got.ID) != 64 || !strings.HasPrefix(got.ID, w.c.ID) {
				t.Errorf("ID %q, want %q...", got.ID, w.c.ID)
			}
			got.ID, w.c.whole = w.c.ID, true
			if d := cmp.Diff(w.c, got, exactly); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
	if got, want := fmt.Sprint(want[0].c.Addrs()), "[172.30.0.2 fd30::2 172.18.0.2]"; got != want {
		t.Errorf("Addrs() = %s, want %s", got, want)
	}
}

func TestNetworkCaptured(t *testing.T) {
	want := []Network{
		{ID: bridgeID, Name: "bridge", Driver: "bridge", Scope: "local", Subnets: prefixes("172.17.0.0/16", "fd17::/64"), Options: map[string]string{
			"com.docker.network.bridge.default_bridge":       "true",
			"com.docker.network.bridge.enable_icc":           "true",
			"com.docker.network.bridge.enable_ip_masquerade": "true",
			"com.docker.network.bridge.host_binding_ipv4":    "0.0.0.0",
			"com.docker.network.bridge.name":                 "docker0",
			"com.docker.network.driver.mtu":                  "1500",
		}},
		{ID: "e00f01db3b2b58fb5d1bcfad8f55d4f002341c9a88b8e77c149bccac80959839", Name: "host", Driver: "host", Scope: "local", Options: map[string]string{}},
		{ID: "8fab87020944bb990806a0271ff04cd90779b8e206dd5a359b99f1775657ad0c", Name: "none", Driver: "null", Scope: "local", Options: map[string]string{}},
		{ID: backID, Name: "shop_back", Driver: "bridge", Scope: "local", Subnets: prefixes("172.30.0.0/24", "fd30::/64"),
			Options: map[string]string{"com.docker.network.bridge.name": "br-back"}},
		{ID: innerID, Name: "shop_inner", Driver: "bridge", Scope: "local", Subnets: prefixes("172.18.0.0/16"), Gateways: addrs("172.18.0.1"),
			Internal: true, Options: map[string]string{}},
	}
	var got []Network
	for _, n := range captured[network.Inspect](t, "networks.json") {
		got = append(got, networkOf(n))
	}
	if d := cmp.Diff(want, got, exactly); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

const running = `"Id":"c1","Name":"/web","State":{"Status":"running"}`

func TestContainerHostile(t *testing.T) {
	base := Container{ID: "c1", Name: "web", State: "running", whole: true}
	with := func(change func(*Container)) *Container {
		c := base
		change(&c)
		return &c
	}
	networks := func(text string) string { return `{` + running + `,"NetworkSettings":{"Networks":` + text + `}}` }
	endpoints := func(e ...Attachment) *Container { return with(func(c *Container) { c.Endpoints = e }) }
	for _, c := range []struct {
		name, in string
		want     *Container // nil: no container
	}{
		{"nothing", `{}`, nil},
		{"null", `null`, nil},
		{"no state", `{"Id":"c1","Name":"/web"}`, nil},
		{"null state", `{"Id":"c1","State":null}`, nil},
		{"no id", `{"State":{"Status":"running"}}`, nil},
		{"only a config", `{"Config":{"Hostname":"x"}}`, nil},
		{"bare", `{` + running + `}`, &base},
		{"all null", `{` + running + `,"Config":null,"HostConfig":null,"NetworkSettings":null,"Mounts":null}`, &base},
		{"null inside", `{` + running + `,"Config":{"ExposedPorts":null,"Labels":null},"NetworkSettings":{"Networks":null}}`, &base},
		{"null health", `{"Id":"c1","Name":"web","State":{"Status":"running","Health":null}}`, &base},
		{"no health check", `{"Id":"c1","Name":"web","State":{"Status":"running","Health":{"Status":"none"}}}`, &base},
		{"null endpoint", networks(`{"a":null}`), &base},
		{"empty endpoint", networks(`{"a":{}}`), endpoints(Attachment{Network: "a"})},
		{"bad addresses", networks(`{"a":{"IPAddress":"172.17.0","GlobalIPv6Address":"172.17.0.0/16"},"b":{"IPAddress":"..","GlobalIPv6Address":":::"},"c":{"IPAddress":"172.017.0.1"}}`),
			endpoints(Attachment{Network: "a"}, Attachment{Network: "b"}, Attachment{Network: "c"})},
		{"IPv4 written as IPv6", networks(`{"a":{"IPAddress":"::ffff:172.17.0.2"}}`), endpoints(Attachment{Network: "a", Addrs: addrs("172.17.0.2")})},
		{"an address with a zone", networks(`{"a":{"GlobalIPv6Address":"fe80::1%eth0"}}`), endpoints(Attachment{Network: "a"})},
		{"families swapped", networks(`{"a":{"IPAddress":"fd00::2","GlobalIPv6Address":"10.0.0.2"}}`), endpoints(Attachment{Network: "a", Addrs: addrs("fd00::2", "10.0.0.2")})},
		{"in order of name", networks(`{"b":{"IPAddress":"10.0.0.2"},"":{"IPAddress":"10.0.0.3"},"a":{"IPAddress":"10.0.0.1"}}`),
			endpoints(Attachment{Network: "", Addrs: addrs("10.0.0.3")}, Attachment{Network: "a", Addrs: addrs("10.0.0.1")}, Attachment{Network: "b", Addrs: addrs("10.0.0.2")})},
		{"host network", `{` + running + `,"HostConfig":{"NetworkMode":"host"}}`, with(func(c *Container) { c.HostNetwork = true })},
		{"another's network", `{` + running + `,"HostConfig":{"NetworkMode":"container:c2"}}`, with(func(c *Container) { c.sharesWith = "c2" })},
		{"nobody's network", `{` + running + `,"HostConfig":{"NetworkMode":"container:"}}`, &base},
		{"its own network", `{` + running + `,"HostConfig":{"NetworkMode":"container:c1"}}`, with(func(c *Container) { c.sharesWith = "c1" })},
		{"ports", `{` + running + `,"Config":{"ExposedPorts":{"80/tcp":{},"0/tcp":{},"65536/tcp":{},"-1/tcp":{},"99999999999999999999/tcp":{},"x":{},"":{},"/":{},"53":{},"53/udp":{},"1-2/tcp":{},"81/x y":{},"82//":{}}}}`,
			with(func(c *Container) { c.Ports = []Port{{53, "tcp"}, {53, "udp"}, {80, "tcp"}} })},
		{"variables", `{` + running + `,"Config":{"Domainname":"lan","Env":["PATH=/bin","DB_PASSWORD=secret","SERVICE_80_NAME=www","DNSDOCK_ALIAS=a.docker","HOSTNAMES=x,y","HOSTNAMESX=z","service_name=no","SERVICE_","","=","SERVICE_LONG=` + strings.Repeat("a", 5000) + `"]}}`,
			with(func(c *Container) {
				c.Domainname, c.Env = "lan", []string{"SERVICE_80_NAME=www", "DNSDOCK_ALIAS=a.docker", "HOSTNAMES=x,y", "SERVICE_"}
			})},
		{"null variables", `{` + running + `,"Config":{"Env":null}}`, &base},
		{"a pilot", `{` + running + `,"Config":{"Labels":{"fairlead.pilot":"i1"}}}`, with(func(c *Container) { c.Labels = map[string]string{PilotLabel: "i1"} })},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _, live, ok := containerOfInspect([]byte(c.in))
			if c.want == nil {
				if ok || live {
					t.Fatalf("taken for a container: %+v", got)
				}
				return
			}
			if !ok || !live {
				t.Errorf("live %v, ok %v", live, ok)
			}
			if d := cmp.Diff(*c.want, got, exactly); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func TestStates(t *testing.T) {
	for state, want := range map[string]bool{
		"created": false, "running": true, "paused": true, "restarting": true, "removing": false, "exited": false, "dead": false,
		"": false, "stopped": false, "RUNNING": false,
	} {
		if _, _, live, ok := containerOfInspect(fmt.Appendf(nil, `{"Id":"c1","State":{"Status":%q}}`, state)); live != want || !ok {
			t.Errorf("state %q: live %v, ok %v, want %v, true", state, live, ok, want)
		}
	}
}

func TestClaimsAreBounded(t *testing.T) {
	t.Parallel()
	many := make([]string, 100_000)
	for i := range many {
		many[i] = fmt.Sprint("a", i)
	}
	all, _ := json.Marshal(network.EndpointSettings{Aliases: many})
	if d := cmp.Diff(many[:maxAliases], attachmentOf("n", all).Aliases); d != "" {
		t.Error(d)
	}
	var c Container
	for i := range many {
		many[i] = fmt.Sprintf("SERVICE_%d=x", i)
		c.addEnv(many[i])
	}
	if d := cmp.Diff(many[:maxEnv], c.Env); d != "" {
		t.Error(d)
	}
}

func TestSummary(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     Container
	}{
		{"whole", `{"Id":"c1","Names":["/other/link","/web"],"Image":"nginx","Labels":{"fairlead.names":"b","other":"c"},"State":"running","Status":"Up 2 hours (health: starting)",
			"Ports":[{"PrivatePort":80,"Type":"tcp"},{"IP":"::","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},{"PrivatePort":53,"Type":"udp"},{"PrivatePort":0},{"PrivatePort":70000,"Type":"tcp"},5],
			"HostConfig":{"NetworkMode":"default"},"NetworkSettings":{"Networks":{"bridge":{"NetworkID":"n1","IPAddress":"172.17.0.2","GlobalIPv6Address":""}}}}`,
			Container{ID: "c1", Name: "web", Image: "nginx", Labels: map[string]string{"fairlead.names": "b"}, State: "running", Health: "starting", Ports: []Port{{53, "udp"}, {80, "tcp"}},
				Endpoints: []Attachment{{NetworkID: "n1", Network: "bridge", Addrs: addrs("172.17.0.2")}}}},
		{"shares", `{"Id":"c1","Names":["/web"],"HostConfig":{"NetworkMode":"container:c2"}}`, Container{ID: "c1", Name: "web", sharesWith: "c2"}},
		{"host", `{"Id":"c1","HostConfig":{"NetworkMode":"host"}}`, Container{ID: "c1", HostNetwork: true}},
		{"bare", `{"Id":"c1","Names":null,"NetworkSettings":null}`, Container{ID: "c1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := containerOfSummary([]byte(c.in))
			if d := cmp.Diff(c.want, got, exactly); d != "" || !ok {
				t.Errorf("ok %v, -want +got:\n%s", ok, d)
			}
		})
	}
	if c, ok := containerOfSummary([]byte(`{"Names":["/web"]}`)); ok {
		t.Errorf("without an id taken for a container: %+v", c)
	}
}

func TestNetworkHostile(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     Network
	}{
		{"nothing", `{}`, Network{}},
		{"null", `{"Id":"n","IPAM":null,"Options":null}`, Network{ID: "n"}},
		{"null config", `{"Id":"n","IPAM":{"Config":null}}`, Network{ID: "n"}},
		{"host bits are masked", `{"IPAM":{"Config":[{"Subnet":"10.1.2.3/8"}]}}`, Network{Subnets: prefixes("10.0.0.0/8")}},
		{"sorted, once each", `{"IPAM":{"Config":[{"Subnet":"fd00::/64"},{"Subnet":"10.0.0.0/16"},{"Subnet":"10.0.0.0/8"},{"Subnet":"10.0.9.9/16"}]}}`,
			Network{Subnets: prefixes("10.0.0.0/8", "10.0.0.0/16", "fd00::/64")}},
		{"bad subnets", `{"IPAM":{"Config":[{"Subnet":""},{"Subnet":"10.0.0.0"},{"Subnet":"10.0.0.0/33"},{"Subnet":"x/8"},{"Subnet":"fe80::%eth0/64"},{}]}}`, Network{}},
		// Masked it would be ::/64: all of IPv4 and more.
		{"IPv4 subnet written as IPv6", `{"IPAM":{"Config":[{"Subnet":"::ffff:10.0.0.0/64"},{"Subnet":"::ffff:10.0.0.0/104"}]}}`, Network{}},
		{"gateways", `{"IPAM":{"Config":[{"Gateway":"10.0.0.1"},{"Gateway":"::ffff:10.0.0.2"},{"Gateway":"fe80::1%eth0"},{"Gateway":"10.0.0.1/8"},{"Gateway":""}]}}`,
			Network{Gateways: addrs("10.0.0.1", "10.0.0.2")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var in network.Inspect
			if err := json.Unmarshal([]byte(c.in), &in); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, networkOf(in), exactly); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// wantSane checks what holds for a container whatever the engine said.
func wantSane(t *testing.T, c Container) {
	t.Helper()
	if c.ID == "" {
		t.Error("no id")
	}
	if !slices.IsSortedFunc(c.Endpoints, func(a, b Attachment) int { return strings.Compare(a.Network, b.Network) }) {
		t.Errorf("endpoints are not sorted: %+v", c.Endpoints)
	}
	if len(c.Env) > maxEnv {
		t.Errorf("%d variables", len(c.Env))
	}
	for _, e := range c.Endpoints {
		if len(e.Aliases) > maxAliases {
			t.Errorf("%d aliases", len(e.Aliases))
		}
	}
	for _, a := range c.Addrs() {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			t.Errorf("address %v", a)
		}
	}
	for _, p := range c.Ports {
		if p.Number == 0 || !slices.Contains([]string{"tcp", "udp", "sctp"}, p.Proto) {
			t.Errorf("port %+v", p)
		}
	}
}

func FuzzContainer(f *testing.F) {
	for _, c := range captured[json.RawMessage](f, "containers.json") {
		f.Add([]byte(c))
	}
	f.Add([]byte(`{` + running + `,"Config":{"ExposedPorts":{"53":{},"/":{},"1-2/":{}}},"NetworkSettings":{"Networks":{"a":null,"b":{"IPAddress":"::ffff:1.2.3.4","GlobalIPv6Address":"fe80::1%e"}}}}`))
	f.Add([]byte(`{` + running + `,"NetworkSettings":{"Networks":{"a":{"IPAddress":"172.17.0.2","Aliases":["` + strings.Repeat(`a","`, 10_000) + `"]}}}}`))
	f.Add([]byte(`{"Id":"c1","Names":["/a/b","/c"],"State":"running","HostConfig":{"NetworkMode":"container:c1"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if c, _, _, ok := containerOfInspect(text); ok {
			wantSane(t, c)
		}
		if c, ok := containerOfSummary(text); ok {
			wantSane(t, c)
		}
	})
}

func FuzzNetwork(f *testing.F) {
	for _, n := range captured[json.RawMessage](f, "networks.json") {
		f.Add([]byte(n))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var in network.Inspect
		if json.Unmarshal(text, &in) != nil {
			return
		}
		n := networkOf(in)
		for i, p := range n.Subnets {
			if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() || i > 0 && comparePrefix(n.Subnets[i-1], p) >= 0 {
				t.Errorf("subnets %v", n.Subnets)
			}
		}
		for _, a := range n.Gateways {
			if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
				t.Errorf("gateway %v", a)
			}
		}
	})
}
