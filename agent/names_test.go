package agent

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/dnsserver"
	"github.com/google/go-cmp/cmp"
)

const (
	webID = "3f2a9c01d4e5" + "0123456789abcdef0123456789abcdef0123456789abcdef0123"
	dbID  = "dbbeef00cafe" + "0123456789abcdef0123456789abcdef0123456789abcdef0123"
)

// everywhere is the one engine, all of whose addresses are reachable.
var everywhere = place{engine: "dev", reachable: func(netip.Addr) bool { return true }}

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func on(network, addr string, aliases ...string) engine.Attachment {
	return engine.Attachment{NetworkID: network + "-id", Network: network, Addrs: addrs(addr), Aliases: aliases}
}

func compose(service, project, number string, also ...string) map[string]string {
	labels := map[string]string{"com.docker.compose.service": service, "com.docker.compose.project": project, "com.docker.compose.container-number": number}
	for i := 0; i < len(also); i += 2 {
		labels[also[i]] = also[i+1]
	}
	return labels
}

func TestClaims(t *testing.T) {
	several := place{engine: "test", several: true, priority: 3, vm: netip.MustParseAddr("192.168.99.100"), reachable: everywhere.reachable}
	half := everywhere
	half.reachable = netip.MustParsePrefix("172.17.0.0/16").Contains

	for _, tt := range []struct {
		name string
		at   place
		c    engine.Container
		want string // NAME RANK ADDR..., a line each, sorted
	}{
		{"container", everywhere, engine.Container{ID: webID, Name: "web", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2")}}, `
			3f2a9c01d4e5 byName 172.17.0.2
			web byName 172.17.0.2
			web.bridge byNetwork 172.17.0.2`},
		{"several networks and aliases", everywhere, engine.Container{ID: webID, Name: "web", Endpoints: []engine.Attachment{on("back", "172.18.0.2", "api"), on("front", "172.19.0.2", "api", "www")}}, `
			3f2a9c01d4e5 byName 172.18.0.2 172.19.0.2
			api byAlias 172.18.0.2
			api byAlias 172.19.0.2
			web byName 172.18.0.2 172.19.0.2
			web.back byNetwork 172.18.0.2
			web.front byNetwork 172.19.0.2
			www byAlias 172.19.0.2`},
		{"both IP versions", everywhere, engine.Container{ID: webID, Name: "web", Endpoints: []engine.Attachment{{NetworkID: "n", Network: "bridge", Addrs: addrs("172.17.0.2", "fd01::2")}}}, `
			3f2a9c01d4e5 byName 172.17.0.2 fd01::2
			web byName 172.17.0.2 fd01::2
			web.bridge byNetwork 172.17.0.2 fd01::2`},
		{"only reachable addresses", half, engine.Container{ID: webID, Name: "web", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2", "here"), on("other", "172.18.0.2", "gone")}}, `
			3f2a9c01d4e5 byName 172.17.0.2
			here byAlias 172.17.0.2
			web byName 172.17.0.2
			web.bridge byNetwork 172.17.0.2`},
		{"nothing reachable", half, engine.Container{ID: webID, Name: "web", Labels: compose("api", "shop", "1"), Endpoints: []engine.Attachment{on("other", "172.18.0.2", "gone")}}, ``},
		{"no network", everywhere, engine.Container{ID: webID, Name: "web"}, ``},
		{"short id among the aliases", everywhere, engine.Container{ID: webID, Name: "web", Endpoints: []engine.Attachment{on("back", "172.18.0.2", webID[:12], "api")}}, `
			3f2a9c01d4e5 byName 172.18.0.2
			api byAlias 172.18.0.2
			web byName 172.18.0.2
			web.back byNetwork 172.18.0.2`},
		// One of 256 ids begins with "db".
		{"an alias that the id begins with", everywhere, engine.Container{ID: dbID, Name: "store", Endpoints: []engine.Attachment{on("back", "172.18.0.2", "db", "dbbeef")}}, `
			db byAlias 172.18.0.2
			dbbeef byAlias 172.18.0.2
			dbbeef00cafe byName 172.18.0.2
			store byName 172.18.0.2
			store.back byNetwork 172.18.0.2`},
		{"another's short id as an alias", everywhere, engine.Container{ID: webID, Name: "web", Endpoints: []engine.Attachment{on("back", "172.18.0.2", dbID[:12])}}, `
			3f2a9c01d4e5 byName 172.18.0.2
			dbbeef00cafe byAlias 172.18.0.2
			web byName 172.18.0.2
			web.back byNetwork 172.18.0.2`},
		{"compose", everywhere, engine.Container{ID: webID, Name: "shop-api-2", Labels: compose("api", "shop", "2"), Endpoints: []engine.Attachment{on("shop_default", "172.18.0.2", "api")}}, `
			2.api.shop byServiceNumber 172.18.0.2
			3f2a9c01d4e5 byName 172.18.0.2
			api byAlias 172.18.0.2
			api byLoneService 172.18.0.2
			api.shop byService 172.18.0.2
			shop-api-2 byName 172.18.0.2
			shop-api-2.shop_default byNetwork 172.18.0.2`},
		{"compose v1, underscores", everywhere, engine.Container{ID: webID, Name: "shop_api_1", Labels: compose("api", "shop", "1", "com.docker.compose.oneoff", "False"), Endpoints: []engine.Attachment{on("shop_default", "172.18.0.2")}}, `
			1.api.shop byServiceNumber 172.18.0.2
			3f2a9c01d4e5 byName 172.18.0.2
			api byLoneService 172.18.0.2
			api.shop byService 172.18.0.2
			shop-api-1 byMappedName 172.18.0.2
			shop_api_1 byName 172.18.0.2
			shop_api_1.shop_default byNetwork 172.18.0.2`},
		{"compose run", everywhere, engine.Container{ID: webID, Name: "shop-api-run-1", Labels: compose("api", "shop", "1", "com.docker.compose.oneoff", "True"), Endpoints: []engine.Attachment{on("back", "172.18.0.2")}}, `
			3f2a9c01d4e5 byName 172.18.0.2
			shop-api-run-1 byName 172.18.0.2
			shop-api-run-1.back byNetwork 172.18.0.2`},
		{"half a compose label", everywhere, engine.Container{ID: webID, Name: "web", Labels: map[string]string{"com.docker.compose.service": "api"}, Endpoints: []engine.Attachment{on("back", "172.18.0.2")}}, `
			3f2a9c01d4e5 byName 172.18.0.2
			web byName 172.18.0.2
			web.back byNetwork 172.18.0.2`},
		{"hostile labels", everywhere, engine.Container{ID: webID, Name: "web", Labels: compose("a\nb", "*.shop", "-1"), Endpoints: []engine.Attachment{on("back", "172.18.0.2")}}, `
			3f2a9c01d4e5 byName 172.18.0.2
			web byName 172.18.0.2
			web.back byNetwork 172.18.0.2`},
		{"a number that is none", everywhere, engine.Container{ID: webID, Name: "web", Labels: compose("api", "shop", "99999999999999999999"), Endpoints: []engine.Attachment{on("back", "172.18.0.2")}}, `
			3f2a9c01d4e5 byName 172.18.0.2
			api byLoneService 172.18.0.2
			api.shop byService 172.18.0.2
			web byName 172.18.0.2
			web.back byNetwork 172.18.0.2`},
		{"replica 0", everywhere, engine.Container{ID: webID, Name: "web", Labels: compose("api", "shop", "0"), Endpoints: []engine.Attachment{on("back", "172.18.0.2")}}, `
			3f2a9c01d4e5 byName 172.18.0.2
			api byLoneService 172.18.0.2
			api.shop byService 172.18.0.2
			web byName 172.18.0.2
			web.back byNetwork 172.18.0.2`},
		{"several engines", several, engine.Container{ID: webID, Name: "web", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2")}}, `
			3f2a9c01d4e5 byName+3 172.17.0.2
			web byName+3 172.17.0.2
			web.bridge byNetwork+3 172.17.0.2
			web.test byEngine+3 172.17.0.2`},
		{"host network of a VM", several, engine.Container{ID: webID, Name: "web", HostNetwork: true, Endpoints: []engine.Attachment{{NetworkID: "h", Network: "host"}}}, `
			3f2a9c01d4e5 byName+3 192.168.99.100
			web byName+3 192.168.99.100
			web.test byEngine+3 192.168.99.100`},
		{"host network of this host", everywhere, engine.Container{ID: webID, Name: "web", HostNetwork: true, Endpoints: []engine.Attachment{{NetworkID: "h", Network: "host"}}}, ``},
		{"upper case", everywhere, engine.Container{ID: webID, Name: "Web", Labels: compose("API", "Shop", "1"), Endpoints: []engine.Attachment{on("Back", "172.18.0.2", "WWW")}}, `
			1.api.shop byServiceNumber 172.18.0.2
			3f2a9c01d4e5 byName 172.18.0.2
			api byLoneService 172.18.0.2
			api.shop byService 172.18.0.2
			web byName 172.18.0.2
			web.back byNetwork 172.18.0.2
			www byAlias 172.18.0.2`},
		// What is no DNS name is not claimed; the short id always is.
		{"hyphen at the end", everywhere, engine.Container{ID: webID, Name: "web-", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2")}}, `
			3f2a9c01d4e5 byName 172.17.0.2`},
		{"underscore at the end", everywhere, engine.Container{ID: webID, Name: "web_", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2")}}, `
			3f2a9c01d4e5 byName 172.17.0.2
			web_ byName 172.17.0.2
			web_.bridge byNetwork 172.17.0.2`},
		{"dots", everywhere, engine.Container{ID: webID, Name: "a.b", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2")}}, `
			3f2a9c01d4e5 byName 172.17.0.2
			a.b byName 172.17.0.2
			a.b.bridge byNetwork 172.17.0.2`},
		{"two dots", everywhere, engine.Container{ID: webID, Name: "a..b", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2", ".", "x.", "-x", "")}}, `
			3f2a9c01d4e5 byName 172.17.0.2`},
		{"dot at the end", everywhere, engine.Container{ID: webID, Name: "web.", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2")}}, `
			3f2a9c01d4e5 byName 172.17.0.2`},
		{"too long a label", everywhere, engine.Container{ID: webID, Name: strings.Repeat("x", 64), Endpoints: []engine.Attachment{on("bridge", "172.17.0.2", strings.Repeat("y", 300))}}, `
			3f2a9c01d4e5 byName 172.17.0.2`},
		{"hostile aliases", everywhere, engine.Container{ID: webID, Name: "web", Endpoints: []engine.Attachment{on("a b", "172.18.0.2", "*", "\x00", "x\ny", "ü", "@", `a\.b`, "ok")}}, `
			3f2a9c01d4e5 byName 172.18.0.2
			ok byAlias 172.18.0.2
			web byName 172.18.0.2`},
		{"an id that is none", everywhere, engine.Container{ID: "x", Name: "web", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2")}}, `
			web byName 172.17.0.2
			web.bridge byNetwork 172.17.0.2`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			for _, c := range claims(tt.at, tt.c) {
				got += fmt.Sprintf("%s %s %s\n", c.name, rankWord(c.rank), strings.Trim(fmt.Sprint(c.addrs), "[]"))
			}
			if d := cmp.Diff(sorted(tt.want), sorted(got)); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func rankWord(r rank) string {
	word := []string{"byName", "byServiceNumber", "byService", "byNetwork", "byEngine", "byLoneService", "byAlias", "byMappedName"}[r/1000]
	if r%1000 > 0 {
		word += fmt.Sprintf("+%d", r%1000)
	}
	return word
}

// sorted are the lines of a text that have something in them.
func sorted(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	slices.Sort(out)
	return out
}

// container runs on engine e, at 172.17.0.N on the network back.
func container(e string, n byte, name string, labels map[string]string, aliases ...string) (place, engine.Container) {
	at := everywhere
	at.engine, at.several, at.priority = e, e != "dev", int(e[0])-'a'
	at2 := on("back", fmt.Sprintf("172.17.0.%d", n), aliases...)
	at2.NetworkID = e + at2.NetworkID
	return at, engine.Container{ID: fmt.Sprintf("%02x%062x", n, 0), Name: name, Labels: labels, Endpoints: []engine.Attachment{at2}}
}

func TestHolder(t *testing.T) {
	d := newDirectory()
	for _, add := range []func() (place, engine.Container){
		func() (place, engine.Container) { return container("a", 1, "web", nil, "cache", "db", "shared") },
		func() (place, engine.Container) { return container("a", 2, "db", nil, "shared") },
		func() (place, engine.Container) { return container("b", 3, "web", nil, "db", "cache") },
		func() (place, engine.Container) { return container("a", 11, "s1", compose("api", "shop", "1"), "api") },
		func() (place, engine.Container) { return container("a", 12, "s2", compose("api", "shop", "2"), "api") },
		func() (place, engine.Container) { return container("a", 13, "s3", compose("www", "shop", "1"), "www") },
		func() (place, engine.Container) { return container("a", 14, "t1", compose("www", "test", "1"), "www") },
		func() (place, engine.Container) { return container("b", 15, "u1", compose("api", "shop", "1"), "api") },
		func() (place, engine.Container) { return container("a", 21, "my_app", nil) },
		func() (place, engine.Container) { return container("a", 22, "my-app", nil) },
		func() (place, engine.Container) { return container("a", 23, "your_app", nil) },
		func() (place, engine.Container) { return container("a", 24, "api.shop", nil) },
		func() (place, engine.Container) { return container("a", 25, "010000000000", nil) },
	} {
		at, c := add()
		d.put(owner(at.engine, c.ID[:2]), claims(at, c))
	}
	for _, tt := range []struct{ why, name, want string }{
		{"the first engine's container goes first", "web", "a/01 172.17.0.1, not b/03: an exact or more important name goes first"},
		{"by engine", "web.a", "a/01 172.17.0.1"},
		{"by engine", "web.b", "b/03 172.17.0.3"},
		{"one network name on two engines", "web.back", "a/01 172.17.0.1, not b/03: an exact or more important name goes first"},
		{"a container goes before aliases", "db", "a/02 172.17.0.2, not a/01 b/03: an exact or more important name goes first"},
		{"an alias of two engines is the first one's", "cache", "a/01 172.17.0.1, not b/03: an exact or more important name goes first"},
		{"an alias shared on one network", "shared", "a/01 a/02 172.17.0.1 172.17.0.2"},
		{"replicas share; a container goes first", "api.shop", "a/18 172.17.0.24, not a/0b a/0c b/0f: an exact or more important name goes first"},
		{"replicas share, by engine", "api", "a/0b a/0c 172.17.0.11 172.17.0.12, not b/0f: an exact or more important name goes first"},
		{"two services of one name", "www", "nobody, not a/0d a/0e: 2 different services or aliases have this name"},
		{"each in its project", "www.shop", "a/0d 172.17.0.13"},
		{"each in its project", "www.test", "a/0e 172.17.0.14"},
		{"by number", "2.api.shop", "a/0c 172.17.0.12"},
		{"by number, two engines", "1.api.shop", "a/0b 172.17.0.11, not b/0f: an exact or more important name goes first"},
		{"a mapped name gives way", "my-app", "a/16 172.17.0.22, not a/15: an exact or more important name goes first"},
		{"a mapped name", "your-app", "a/17 172.17.0.23"},
		{"a name that is another's id", "010000000000", "nobody, not a/01 a/19: 2 different services or aliases have this name"},
		{"unknown", "nobody", "nobody"},
	} {
		if got := describe(d.holder(tt.name)); got != tt.want {
			t.Errorf("%s: %s\n got %s\nwant %s", tt.why, tt.name, got, tt.want)
		}
	}
}

func describe(h holder) string {
	s := strings.Join(h.owners, " ")
	for _, a := range h.addrs {
		s += " " + a.String()
	}
	if s == "" {
		s = "nobody"
	}
	if h.losers != nil {
		s += ", not " + strings.Join(h.losers, " ") + ": " + h.why
	}
	return s
}

// TestDirectoryIncremental: whatever was put and removed before, a directory answers like one that was built afresh, and put
// names every name that has another holder now. Without the latter the zone would go on giving old answers.
func TestDirectoryIncremental(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 2))
		d, have, before := newDirectory(), map[string][]claim{}, map[string]string{}
		for step := range 40 {
			o := fmt.Sprint("o", r.IntN(5))
			var cs []claim
			for range r.IntN(4) {
				cs = append(cs, claim{
					name: fmt.Sprint("n", r.IntN(6)), rank: rank(r.IntN(3)), group: fmt.Sprint("g", r.IntN(2)),
					addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(4))})},
				})
			}
			changed := d.put(o, cs)
			have[o] = cs

			afresh := newDirectory()
			owners := slices.Collect(maps.Keys(have))
			r.Shuffle(len(owners), func(i, j int) { owners[i], owners[j] = owners[j], owners[i] })
			for _, o := range owners {
				afresh.put(o, have[o])
			}
			for i := range 6 {
				n := fmt.Sprint("n", i)
				got := describe(d.holder(n))
				if want := describe(afresh.holder(n)); got != want {
					t.Fatalf("seed %d step %d: %s is held by %s, afresh by %s", seed, step, n, got, want)
				}
				if got != before[n] && before[n] != "" && !slices.Contains(changed, n) {
					t.Fatalf("seed %d step %d: %s went from %s to %s, and put named %v only", seed, step, n, before[n], got, changed)
				}
				before[n] = got
			}
		}
		for o := range have {
			d.put(o, nil)
		}
		if len(d.names)+len(d.owners) > 0 {
			t.Fatalf("seed %d: all are removed, and left are %v, %v", seed, d.names, d.owners)
		}
	}
}

func FuzzClaims(f *testing.F) {
	f.Add(webID, "web", "bridge", "www", "api", "shop", "1", false)
	f.Add("", "", "", "", "", "", "", true)
	f.Add("............", "a..b", "-", "web.", "\x00", "*", "-1", true)
	f.Add(webID, strings.Repeat("a.", 200), "NET", "\u212aelvin", "a\x00b", "c", "+2", false)
	f.Fuzz(func(t *testing.T, id, name, network, alias, service, project, number string, host bool) {
		at := place{engine: "dev", several: true, vm: netip.MustParseAddr("192.168.99.100"), reachable: netip.MustParsePrefix("172.17.0.0/16").Contains}
		c := engine.Container{ID: id, Name: name, HostNetwork: host, Labels: compose(service, project, number), Endpoints: []engine.Attachment{
			{NetworkID: network, Network: network, Aliases: []string{alias, id}, Addrs: addrs("172.17.0.2", "172.18.0.2", "fd01::2")},
			{Network: alias, Aliases: []string{name}},
		}}
		d := newDirectory()
		cs := claims(at, c)
		d.put("o", cs)
		for _, c := range cs {
			if !dnsserver.ValidName(c.name) {
				t.Errorf("%q is claimed and is no name", c.name)
			}
			for _, a := range c.addrs {
				if a != at.vm && !at.reachable(a) {
					t.Errorf("%q has the address %v, which is not reachable", c.name, a)
				}
			}
			if len(d.holder(c.name).addrs) == 0 {
				t.Errorf("%q is claimed by one alone, and nobody has it", c.name)
			}
		}
		if len(id) == 64 && strings.Trim(id, "0123456789abcdef") == "" && len(cs) > 0 && len(d.holder(id[:12]).addrs) == 0 {
			t.Errorf("there are claims, and none on the short id %s", id[:12])
		}
	})
}

// crowd is a directory of n containers, each with what one of a compose project has.
func crowd(n int) *directory {
	d := newDirectory()
	for i := range n {
		d.put(fmt.Sprint("dev/", i), claims(everywhere, member(i)))
	}
	return d
}

func member(i int) engine.Container {
	project := fmt.Sprint("p", i)
	return engine.Container{ID: fmt.Sprintf("%012x%052x", i, 0), Name: project + "-api-1", Labels: compose("api"+project, project, "1"),
		Endpoints: []engine.Attachment{{NetworkID: project, Network: project + "_default", Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}, Aliases: []string{"api" + project}}}}
}

// BenchmarkPut is the cost of one container's change. It must not depend on how many there are.
func BenchmarkPut(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			d := crowd(n)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				k := i % 100 // as many as in the small crowd: the processor's caches are not what is measured
				for _, name := range d.put(fmt.Sprint("dev/", k), claims(everywhere, member(k))) {
					d.holder(name)
				}
			}
		})
	}
}

// TestPutCost is BenchmarkPut without a clock.
func TestPutCost(t *testing.T) {
	cost := func(n int) float64 {
		d := crowd(n)
		return testing.AllocsPerRun(50, func() {
			for _, name := range d.put("dev/7", claims(everywhere, member(7))) {
				d.holder(name)
			}
		})
	}
	if few, many := cost(10), cost(3000); many > 1.2*few { // maps grow when they like
		t.Errorf("one change costs %v allocations among 10 containers and %v among 3000", few, many)
	}
}
