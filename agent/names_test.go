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
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/google/go-cmp/cmp"
)

const (
	webID = "3f2a9c01d4e5" + "0123456789abcdef0123456789abcdef0123456789abcdef0123"
	dbID  = "dbbeef00cafe" + "0123456789abcdef0123456789abcdef0123456789abcdef0123"
)

// everywhere is the one engine, all of whose addresses are reachable.
var everywhere = place{engine: "vm", domains: []string{"docker"}, reachable: func(netip.Addr) bool { return true }}

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
	several := place{engine: "test", domains: []string{"docker"}, several: true, priority: 3, vm: netip.MustParseAddr("192.168.99.100"), reachable: everywhere.reachable}
	dev := everywhere
	dev.engine = "dev"
	half := everywhere
	half.reachable = netip.MustParsePrefix("172.17.0.0/16").Contains

	for _, tt := range []struct {
		name string
		at   place
		c    engine.Container
		want string // NAME RANK ADDR..., a line each, sorted
	}{
		{"container", everywhere, engine.Container{ID: webID, Name: "web", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2")}}, `
			3f2a9c01d4e5 byID 172.17.0.2
			web byName 172.17.0.2
			web.bridge byNetwork 172.17.0.2`},
		{"several networks and aliases", everywhere, engine.Container{ID: webID, Name: "web", Endpoints: []engine.Attachment{on("back", "172.18.0.2", "api"), on("front", "172.19.0.2", "api", "www")}}, `
			3f2a9c01d4e5 byID 172.18.0.2 172.19.0.2
			api byAlias 172.18.0.2
			api byAlias 172.19.0.2
			web byName 172.18.0.2 172.19.0.2
			web.back byNetwork 172.18.0.2
			web.front byNetwork 172.19.0.2
			www byAlias 172.19.0.2`},
		{"both IP versions", everywhere, engine.Container{ID: webID, Name: "web", Endpoints: []engine.Attachment{{NetworkID: "n", Network: "bridge", Addrs: addrs("172.17.0.2", "fd01::2")}}}, `
			3f2a9c01d4e5 byID 172.17.0.2 fd01::2
			web byName 172.17.0.2 fd01::2
			web.bridge byNetwork 172.17.0.2 fd01::2`},
		{"only reachable addresses", half, engine.Container{ID: webID, Name: "web", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2", "here"), on("other", "172.18.0.2", "gone")}}, `
			3f2a9c01d4e5 byID 172.17.0.2
			here byAlias 172.17.0.2
			web byName 172.17.0.2
			web.bridge byNetwork 172.17.0.2`},
		{"nothing reachable", half, engine.Container{ID: webID, Name: "web", Labels: compose("api", "shop", "1"), Endpoints: []engine.Attachment{on("other", "172.18.0.2", "gone")}}, ``},
		{"no network", everywhere, engine.Container{ID: webID, Name: "web"}, ``},
		{"short id among the aliases", everywhere, engine.Container{ID: webID, Name: "web", Endpoints: []engine.Attachment{on("back", "172.18.0.2", webID[:12], "api")}}, `
			3f2a9c01d4e5 byID 172.18.0.2
			api byAlias 172.18.0.2
			web byName 172.18.0.2
			web.back byNetwork 172.18.0.2`},
		// One of 256 ids begins with "db".
		{"an alias that the id begins with", everywhere, engine.Container{ID: dbID, Name: "store", Endpoints: []engine.Attachment{on("back", "172.18.0.2", "db", "dbbeef")}}, `
			db byAlias 172.18.0.2
			dbbeef byAlias 172.18.0.2
			dbbeef00cafe byID 172.18.0.2
			store byName 172.18.0.2
			store.back byNetwork 172.18.0.2`},
		{"another's short id as an alias", everywhere, engine.Container{ID: webID, Name: "web", Endpoints: []engine.Attachment{on("back", "172.18.0.2", dbID[:12])}}, `
			3f2a9c01d4e5 byID 172.18.0.2
			dbbeef00cafe byAlias 172.18.0.2
			web byName 172.18.0.2
			web.back byNetwork 172.18.0.2`},
		{"compose", everywhere, engine.Container{ID: webID, Name: "shop-api-2", Labels: compose("api", "shop", "2"), Endpoints: []engine.Attachment{on("shop_default", "172.18.0.2", "api")}}, `
			2.api.shop byServiceNumber 172.18.0.2
			3f2a9c01d4e5 byID 172.18.0.2
			api byAlias 172.18.0.2
			api byLoneService 172.18.0.2
			api.shop byService 172.18.0.2
			shop-api-2 byName 172.18.0.2
			shop-api-2.shop-default byMapping 172.18.0.2
			shop-api-2.shop_default byNetwork 172.18.0.2`},
		{"compose v1, underscores", everywhere, engine.Container{ID: webID, Name: "shop_api_1", Labels: compose("api", "shop", "1", "com.docker.compose.oneoff", "False"), Endpoints: []engine.Attachment{on("shop_default", "172.18.0.2")}}, `
			1.api.shop byServiceNumber 172.18.0.2
			3f2a9c01d4e5 byID 172.18.0.2
			api byLoneService 172.18.0.2
			api.shop byService 172.18.0.2
			shop-api-1 byMapping 172.18.0.2
			shop-api-1.shop-default byMapping 172.18.0.2
			shop_api_1 byName 172.18.0.2
			shop_api_1.shop_default byNetwork 172.18.0.2`},
		{"compose run", everywhere, engine.Container{ID: webID, Name: "shop-api-run-1", Labels: compose("api", "shop", "1", "com.docker.compose.oneoff", "True"), Endpoints: []engine.Attachment{on("back", "172.18.0.2")}}, `
			3f2a9c01d4e5 byID 172.18.0.2
			shop-api-run-1 byName 172.18.0.2
			shop-api-run-1.back byNetwork 172.18.0.2`},
		{"half a compose label", everywhere, engine.Container{ID: webID, Name: "web", Labels: map[string]string{"com.docker.compose.service": "api"}, Endpoints: []engine.Attachment{on("back", "172.18.0.2")}}, `
			3f2a9c01d4e5 byID 172.18.0.2
			web byName 172.18.0.2
			web.back byNetwork 172.18.0.2`},
		{"hostile labels", everywhere, engine.Container{ID: webID, Name: "web", Labels: compose("a\nb", "*.shop", "-1"), Endpoints: []engine.Attachment{on("back", "172.18.0.2")}}, `
			3f2a9c01d4e5 byID 172.18.0.2
			web byName 172.18.0.2
			web.back byNetwork 172.18.0.2`},
		{"a number that is none", everywhere, engine.Container{ID: webID, Name: "web", Labels: compose("api", "shop", "99999999999999999999"), Endpoints: []engine.Attachment{on("back", "172.18.0.2")}}, `
			3f2a9c01d4e5 byID 172.18.0.2
			api byLoneService 172.18.0.2
			api.shop byService 172.18.0.2
			web byName 172.18.0.2
			web.back byNetwork 172.18.0.2`},
		{"replica 0", everywhere, engine.Container{ID: webID, Name: "web", Labels: compose("api", "shop", "0"), Endpoints: []engine.Attachment{on("back", "172.18.0.2")}}, `
			3f2a9c01d4e5 byID 172.18.0.2
			api byLoneService 172.18.0.2
			api.shop byService 172.18.0.2
			web byName 172.18.0.2
			web.back byNetwork 172.18.0.2`},
		{"several engines", several, engine.Container{ID: webID, Name: "web", Image: "nginx", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2")}}, `
			web.nginx byImage+3 172.17.0.2
			3f2a9c01d4e5 byID+3 172.17.0.2
			web byName+3 172.17.0.2
			web.bridge byNetwork+3 172.17.0.2
			web.test byEngine+3 172.17.0.2`},
		{"a lone engine of the name that skydock's names end in", dev, engine.Container{ID: webID, Name: "web", Image: "nginx", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2")}}, `
			nginx.dev byImage 172.17.0.2
			web.nginx byImage 172.17.0.2
			web.nginx.dev byImage 172.17.0.2
			3f2a9c01d4e5 byID 172.17.0.2
			web byName 172.17.0.2
			web.bridge byNetwork 172.17.0.2
			web.dev byEngine 172.17.0.2`},
		{"host network of a VM", several, engine.Container{ID: webID, Name: "web", HostNetwork: true, Endpoints: []engine.Attachment{{NetworkID: "h", Network: "host"}}}, `
			3f2a9c01d4e5 byID+3 192.168.99.100
			web byName+3 192.168.99.100
			web.test byEngine+3 192.168.99.100`},
		{"host network of this host", everywhere, engine.Container{ID: webID, Name: "web", HostNetwork: true, Endpoints: []engine.Attachment{{NetworkID: "h", Network: "host"}}}, ``},
		{"upper case", everywhere, engine.Container{ID: webID, Name: "Web", Labels: compose("API", "Shop", "1"), Endpoints: []engine.Attachment{on("Back", "172.18.0.2", "WWW")}}, `
			1.api.shop byServiceNumber(case) 172.18.0.2
			3f2a9c01d4e5 byID 172.18.0.2
			api byLoneService(case) 172.18.0.2
			api.shop byService(case) 172.18.0.2
			web byName(case) 172.18.0.2
			web.back byNetwork(case) 172.18.0.2
			www byAlias(case) 172.18.0.2`},
		// What is no DNS name is mapped to one; what Docker would not take either is not claimed; the short id always is.
		{"hyphen at the end", everywhere, engine.Container{ID: webID, Name: "web-", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2")}}, `
			3f2a9c01d4e5 byID 172.17.0.2
			web-9161755a byMapping 172.17.0.2
			web-9161755a.bridge byMapping 172.17.0.2`},
		{"underscore at the end", everywhere, engine.Container{ID: webID, Name: "web_", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2")}}, `
			3f2a9c01d4e5 byID 172.17.0.2
			web-a2a7447b byMapping 172.17.0.2
			web-a2a7447b.bridge byMapping 172.17.0.2
			web_ byName 172.17.0.2
			web_.bridge byNetwork 172.17.0.2`},
		{"dots", everywhere, engine.Container{ID: webID, Name: "a.b", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2")}}, `
			3f2a9c01d4e5 byID 172.17.0.2
			a.b byName 172.17.0.2
			a.b.bridge byNetwork 172.17.0.2`},
		{"two dots", everywhere, engine.Container{ID: webID, Name: "a..b", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2", ".", "x.", "-x", "")}}, `
			3f2a9c01d4e5 byID 172.17.0.2
			a-f62b4241.b byMapping 172.17.0.2
			a-f62b4241.b.bridge byMapping 172.17.0.2
			x-c92f00b1 byMapping 172.17.0.2`},
		{"dot at the end", everywhere, engine.Container{ID: webID, Name: "web.", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2")}}, `
			3f2a9c01d4e5 byID 172.17.0.2
			web-4534c339 byMapping 172.17.0.2
			web-4534c339.bridge byMapping 172.17.0.2`},
		{"too long a label", everywhere, engine.Container{ID: webID, Name: strings.Repeat("x", 64), Endpoints: []engine.Attachment{on("bridge", "172.17.0.2", strings.Repeat("y", 300))}}, `
			3f2a9c01d4e5 byID 172.17.0.2
			xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-7ce10097 byMapping 172.17.0.2
			xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-7ce10097.bridge byMapping 172.17.0.2
			yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy-9637cfea byMapping 172.17.0.2`},
		{"hostile aliases", everywhere, engine.Container{ID: webID, Name: "web", Endpoints: []engine.Attachment{on("a b", "172.18.0.2", "*", "\x00", "x\ny", "ü", "@", `a\.b`, "ok")}}, `
			3f2a9c01d4e5 byID 172.18.0.2
			ok byAlias 172.18.0.2
			web byName 172.18.0.2`},
		{"an id that is none", everywhere, engine.Container{ID: "x", Name: "web", Endpoints: []engine.Attachment{on("bridge", "172.17.0.2")}}, `
			web byName 172.17.0.2
			web.bridge byNetwork 172.17.0.2`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := claimsText(claims(tt.at, tt.c))
			if d := cmp.Diff(sorted(tt.want), sorted(got)); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// claimsText has NAME RANK ADDR... a line for every claim but those on reverse names, and NAME denied: WHY.
func claimsText(cs []claim) (text string) {
	for _, c := range cs {
		switch {
		case c.deny != "":
			text += fmt.Sprintf("%s denied: %s\n", c.name, c.deny)
		case c.rank != byAddress:
			text += fmt.Sprintf("%s %s %s\n", c.name, rankWord(c.rank), strings.Trim(fmt.Sprint(c.addrs), "[]"))
		}
	}
	return text
}

func rankWord(r rank) string {
	word := []string{"byID", "byName", "byNetwork", "byEngine", "byServiceNumber", "byService", "byLoneService", "byAlias", "byLabel", "byMapping", "byOtherLabel", "byImage", "byWildcard", "byAddress"}[r/1000]
	if r%1000 >= byCase {
		r -= byCase
		word += "(case)"
	}
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

// register is a directory whose owners have names in tests, and that is told all claims.
type register struct {
	*directory
	words  []string // of owners, from 1 on
	owners map[string]owner
	have   map[owner][]claim
}

func newRegister() *register {
	r := &register{words: []string{""}, owners: map[string]owner{}, have: map[owner][]claim{}}
	r.directory = newDirectory(func(o owner) []claim { return r.have[o] })
	return r
}

func (r *register) owner(word string) owner {
	if r.owners[word] == 0 {
		r.owners[word] = owner(len(r.words))
		r.words = append(r.words, word)
	}
	return r.owners[word]
}

func (r *register) put(word string, cs []claim) []string {
	o := r.owner(word)
	old := r.have[o]
	if r.have[o] = cs; cs == nil {
		delete(r.have, o)
	}
	return r.directory.put(o, old, cs)
}

func (r *register) records(names, domains []string) map[string]*dnsserver.Record {
	out := map[string]*dnsserver.Record{}
	r.directory.records(out, names, domains)
	return out
}

// all are the names that somebody has claimed.
func (r *register) all() []string {
	names := map[string]bool{}
	for _, cs := range r.have {
		for _, c := range cs {
			names[c.name] = names[c.name] || c.deny == ""
		}
	}
	maps.DeleteFunc(names, func(_ string, is bool) bool { return !is })
	return slices.Sorted(maps.Keys(names))
}

// of are the words for the owners of claims, sorted.
func (r *register) of(list []*held) []string {
	var out []string
	for _, o := range owners(list) {
		out = append(out, r.words[o])
	}
	slices.Sort(out)
	return out
}

func TestHolder(t *testing.T) {
	d := newRegister()
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
		d.put(at.engine+"/"+c.ID[:2], claims(at, c))
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
		{"two services of one name", "www", "nobody, not a/0d a/0e: several have the same right to this name"},
		{"each in its project", "www.shop", "a/0d 172.17.0.13"},
		{"each in its project", "www.test", "a/0e 172.17.0.14"},
		{"by number", "2.api.shop", "a/0c 172.17.0.12"},
		{"by number, two engines", "1.api.shop", "a/0b 172.17.0.11, not b/0f: an exact or more important name goes first"},
		{"a mapped name gives way", "my-app", "a/16 172.17.0.22, not a/15: an exact or more important name goes first"},
		{"a mapped name", "your-app", "a/17 172.17.0.23"},
		{"an id goes before a name", "010000000000", "a/01 172.17.0.1, not a/19: an exact or more important name goes first"},
		{"unknown", "nobody", "nobody"},
	} {
		if got := d.describe(d.holder(tt.name)); got != tt.want {
			t.Errorf("%s: %s\n got %s\nwant %s", tt.why, tt.name, got, tt.want)
		}
	}
}

func (r *register) describe(h holder) string {
	s := strings.Join(r.of(h.has), " ")
	for _, a := range h.addrs() {
		s += " " + a.String()
	}
	if s == "" {
		s = "nobody"
	}
	rest, lost := h.others()
	if rest != nil {
		s += ", resting " + strings.Join(r.of(rest), " ")
	}
	if lost != nil {
		s += ", not " + strings.Join(r.of(lost), " ") + ": " + h.why
	}
	return s
}

// TestDirectoryIncremental: whatever was put and removed before, a directory answers like one that was built afresh, and put
// names every name that has another holder now. Without the latter the zone would go on giving old answers.
func TestDirectoryIncremental(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 2))
		d, have, before := newRegister(), map[string][]claim{}, map[string]string{}
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

			afresh := newRegister()
			owners := slices.Collect(maps.Keys(have))
			r.Shuffle(len(owners), func(i, j int) { owners[i], owners[j] = owners[j], owners[i] })
			for _, o := range owners {
				afresh.put(o, have[o])
			}
			for i := range 6 {
				n := fmt.Sprint("n", i)
				got := d.describe(d.holder(n))
				if want := afresh.describe(afresh.holder(n)); got != want {
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
		if d.alone.Len()+len(d.shared)+d.names > 0 {
			t.Fatalf("seed %d: all are removed, and left are %v, %v", seed, d.alone, d.shared)
		}
	}
}

// TestRecords: what the zone is given for a few containers.
func TestRecords(t *testing.T) {
	port := func(n uint16) []engine.Port { return []engine.Port{{Number: n, Proto: "tcp"}} }
	web := engine.Container{ID: webID, Name: "web", Image: "nginx:1.27", Ports: port(80), Labels: map[string]string{
		"fairlead.names": "www,shop.docker", "fairlead.ttl": "3", "fairlead.services": "metrics=9090,dns=53/udp"}, Endpoints: []engine.Attachment{
		{Network: "back", Addrs: addrs("172.17.0.2", "fd01::2")}}}
	replica := func(n byte, state, health string) engine.Container {
		return engine.Container{ID: fmt.Sprintf("%012x%052x", n, 0), Name: fmt.Sprint("shop-api-", n), Image: "api", State: state, Health: health, Ports: port(8000),
			Labels: compose("api", "shop", fmt.Sprint(n)), Endpoints: []engine.Attachment{on("back", fmt.Sprintf("172.17.0.%d", 10+n))}}
	}
	for _, tt := range []struct {
		name    string
		domains []string
		cs      []engine.Container
		names   []string // that are shown
		want    string
	}{
		{"one container", []string{"docker"}, []engine.Container{web}, []string{"web.docker", "www.docker", "shop.docker", "_80._tcp.web.docker", "_http._tcp.web.docker",
			"_metrics._tcp.www.docker", "_dns._udp.web.docker", "2.0.17.172.in-addr.arpa",
			"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.d.f.ip6.arpa"}, `
			web.docker 172.17.0.2 fd01::2 TXT engine=vm id=3f2a9c01d4e5 image=nginx:1.27 name=web TTL 3s and below
			www.docker 172.17.0.2 fd01::2 TXT engine=vm id=3f2a9c01d4e5 image=nginx:1.27 name=web TTL 3s and below
			shop.docker 172.17.0.2 fd01::2 TXT engine=vm id=3f2a9c01d4e5 image=nginx:1.27 name=web TTL 3s and below
			_80._tcp.web.docker SRV 80 3f2a9c01d4e5.docker TTL 3s
			_http._tcp.web.docker SRV 80 3f2a9c01d4e5.docker TTL 3s
			_metrics._tcp.www.docker SRV 9090 3f2a9c01d4e5.docker TTL 3s
			_dns._udp.web.docker SRV 53 3f2a9c01d4e5.docker TTL 3s
			2.0.17.172.in-addr.arpa PTR web.docker TTL 3s
			2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.d.f.ip6.arpa PTR web.docker TTL 3s`},
		{"replicas", []string{"docker"}, []engine.Container{replica(1, "running", "healthy"), replica(2, "running", "")}, []string{"api.shop.docker", "_8000._tcp.api.docker", "2.api.shop.docker"}, `
			api.shop.docker 172.17.0.11 172.17.0.12 TXT engine=vm id=000000000001 id=000000000002 image=api name=shop-api-1 name=shop-api-2 project=shop service=api and below
			_8000._tcp.api.docker SRV 8000 000000000001.docker SRV 8000 000000000002.docker
			2.api.shop.docker 172.17.0.12 TXT engine=vm id=000000000002 image=api name=shop-api-2 project=shop service=api and below`},
		{"the fittest answer", []string{"docker"}, []engine.Container{replica(1, "paused", ""), replica(2, "running", "unhealthy"), replica(3, "running", "starting"), replica(4, "running", "healthy")},
			[]string{"api.shop.docker", "_8000._tcp.api.docker", "shop-api-1.docker", "11.0.17.172.in-addr.arpa"}, `
			api.shop.docker 172.17.0.14 TXT engine=vm id=000000000004 image=api name=shop-api-4 project=shop service=api and below
			_8000._tcp.api.docker SRV 8000 000000000004.docker
			shop-api-1.docker 172.17.0.11 TXT engine=vm id=000000000001 image=api name=shop-api-1 project=shop service=api and below
			11.0.17.172.in-addr.arpa PTR shop-api-1.docker`},
		{"starting before unhealthy", []string{"docker"}, []engine.Container{replica(2, "running", "unhealthy"), replica(3, "running", "starting")}, []string{"_8000._tcp.api.shop.docker"}, `
			_8000._tcp.api.shop.docker SRV 8000 000000000003.docker`},
		{"unhealthy before paused", []string{"docker"}, []engine.Container{replica(1, "paused", ""), replica(2, "running", "unhealthy"), replica(3, "running", "unhealthy")}, []string{"_8000._tcp.api.docker"}, `
			_8000._tcp.api.docker SRV 8000 000000000002.docker SRV 8000 000000000003.docker`},
		// Both "web" of the one and "web.dev" of the other would be web.dev.docker.
		{"a domain in another", []string{"docker", "dev.docker"}, []engine.Container{web, {ID: dbID, Name: "web.dev", Endpoints: []engine.Attachment{on("back", "172.17.0.3")}}},
			[]string{"web.docker", "web.dev.docker", "web.dev.dev.docker"}, `
			web.docker 172.17.0.2 fd01::2 TXT engine=vm id=3f2a9c01d4e5 image=nginx:1.27 name=web TTL 3s and below
			web.dev.docker 172.17.0.2 fd01::2 TXT engine=vm id=3f2a9c01d4e5 image=nginx:1.27 name=web TTL 3s and below
			web.dev.dev.docker 172.17.0.3 TXT engine=vm id=dbbeef00cafe name=web.dev and below`},
		{"a container that hides", []string{"docker"}, []engine.Container{{ID: webID, Name: "web", Labels: map[string]string{"fairlead.ignore": "true"}, Endpoints: []engine.Attachment{on("back", "172.17.0.2")}}},
			[]string{"web.docker", "3f2a9c01d4e5.docker", "2.0.17.172.in-addr.arpa"}, ``},
		{"an image of the name of a container that stopped", []string{"docker"}, []engine.Container{{ID: dbID, Name: "db", Image: "web", Endpoints: []engine.Attachment{on("back", "172.17.0.3")}}},
			[]string{"web.docker", "db.web.docker"}, `
			db.web.docker 172.17.0.3 TXT engine=vm id=dbbeef00cafe image=web name=db and below`},
		{"dnsdock's issue 91", []string{"docker"}, []engine.Container{
			{ID: webID, Name: "a", Labels: map[string]string{"com.dnsdock.alias": "service.app.docker"}, Endpoints: []engine.Attachment{on("back", "172.17.0.2")}},
			{ID: dbID, Name: "b", Labels: map[string]string{"com.dnsdock.alias": "client.service.app.docker"}, Endpoints: []engine.Attachment{on("back", "172.17.0.3")}}},
			[]string{"service.app.docker", "client.service.app.docker"}, `
			service.app.docker 172.17.0.2 TXT engine=vm id=3f2a9c01d4e5 name=a and below
			client.service.app.docker 172.17.0.3 TXT engine=vm id=dbbeef00cafe name=b and below`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, at, all := newRegister(), everywhere, map[string]*dnsserver.Record{}
			at.domains = tt.domains
			for _, c := range tt.cs {
				maps.Copy(all, d.records(d.put(c.ID, claims(at, c)), tt.domains))
			}
			got := ""
			for _, n := range tt.names {
				if all[n] != nil {
					got += n + recordText(all[n]) + "\n"
				}
			}
			if d := cmp.Diff(sorted(tt.want), sorted(got)); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func recordText(r *dnsserver.Record) (s string) {
	for _, a := range r.Addrs {
		s += " " + a.String()
	}
	for _, v := range r.SRV {
		s += fmt.Sprintf(" SRV %d %s", v.Port, v.Target)
	}
	for _, p := range r.PTR {
		s += " PTR " + p
	}
	if r.TXT != nil {
		s += " TXT " + strings.Join(r.TXT, " ")
	}
	if r.TTL > 0 {
		s += " TTL " + r.TTL.String()
	}
	if r.Wildcard {
		s += " and below"
	}
	return s
}

// TestZoneIncremental: whatever came, went and changed before, the zone answers as one that was built afresh. No record lies
// outside the served domains, and a container's own name is never another's.
func TestZoneIncremental(t *testing.T) {
	domains := []string{"docker", "dev.docker"}
	words := []string{"web", "Web", "my_app", "my-app", "dev", "web.dev", "api", "ns", "x-"}
	outside := 0
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 3))
		word := func() string { return words[r.IntN(len(words))] }
		containers := map[string]engine.Container{}
		places := map[string]place{}
		d, zone := newRegister(), map[string]*dnsserver.Record{}
		for range 40 {
			e := string(rune('a' + r.IntN(2)))
			at := place{engine: e, domains: domains, several: true, priority: int(e[0] - 'a'), reachable: everywhere.reachable}
			n := byte(r.IntN(6))
			o := e + "/" + fmt.Sprint(n)
			c := engine.Container{ID: fmt.Sprintf("%012x%052x", n, 0), Name: word(), Image: "img/" + word() + ":1", Hostname: word() + ".docker", State: []string{"running", "paused"}[r.IntN(2)],
				Health: []string{"", "unhealthy", "starting"}[r.IntN(3)], Env: []string{"HOSTNAMES=" + word() + ".docker,." + word() + ".dev.docker," + word() + ".example.com"},
				Labels: compose(word(), word(), "1", "fairlead.names", "*."+word()+","+word(), "com.dnsdock.alias", word()+".docker", "com.dnsdock.region", word(), "dev.orbstack.http-port", "80"),
				Ports:  []engine.Port{{Number: uint16(80 + r.IntN(2)), Proto: "tcp"}}, Endpoints: []engine.Attachment{on(word(), fmt.Sprintf("172.17.0.%d", r.IntN(8)), word())}}
			var cs []claim
			if delete(containers, o); r.IntN(3) > 0 {
				containers[o], places[o] = c, at
				cs = claims(at, c)
			}
			for n, rec := range d.records(d.put(o, cs), domains) {
				if zone[n] = rec; rec == nil {
					delete(zone, n)
				}
			}
			for _, c := range cs {
				if c.deny != "" {
					outside++
				}
			}

			fresh, want := newRegister(), map[string]*dnsserver.Record{}
			for o, c := range containers {
				fresh.put(o, claims(places[o], c))
			}
			for n, rec := range fresh.records(fresh.all(), domains) {
				if rec != nil {
					want[n] = rec
				}
			}
			if d := cmp.Diff(zoneText(want), zoneText(zone)); d != "" {
				t.Fatalf("seed %d: -afresh +incremental:\n%s", seed, d)
			}
			for n := range zone {
				if !strings.HasSuffix(n, ".docker") && !strings.HasSuffix(n, ".in-addr.arpa") {
					t.Errorf("%s lies outside the domains", n)
				}
			}
			for o, c := range containers {
				if h := d.holder(c.Name); len(h.has) > 0 && h.has[0].rank.kind() != byName {
					t.Errorf("seed %d: %s is called %s, which %v has by rank %d", seed, o, c.Name, d.of(h.has), h.has[0].rank)
				}
			}
		}
	}
	if outside == 0 {
		t.Error("no name was refused: the test tries too little")
	}
}

func zoneText(zone map[string]*dnsserver.Record) (lines []string) {
	for n, r := range zone {
		c := *r
		c.SRV, c.PTR = slices.Clone(c.SRV), slices.Clone(c.PTR) // the zone takes them as sets
		slices.SortFunc(c.SRV, func(a, b dnsserver.SRV) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		slices.Sort(c.PTR)
		lines = append(lines, n+recordText(&c))
	}
	slices.Sort(lines)
	return lines
}

// TestShared: a name that thousands share has an order that does not depend on who came first, and answers the first few.
func TestShared(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	d, have := newRegister(), map[string]claim{}
	for i := range 3000 {
		o := fmt.Sprint(r.IntN(1000))
		delete(have, o)
		var cs []claim
		if r.IntN(4) > 0 {
			have[o] = claim{name: "nginx", rank: rank(r.IntN(3)), fit: fit(r.IntN(3)), addrs: addrs("172.17.0.2")}
			cs = []claim{have[o]}
		}
		d.put(o, cs)
		if i%100 > 0 || len(have) == 0 {
			continue
		}
		var want []*held
		for o, c := range have {
			want = append(want, &held{d.owner(o), c})
		}
		slices.SortFunc(want, compareHeld)
		if got := slices.Collect(d.shared["nginx"].all); !slices.EqualFunc(got, want, func(a, b *held) bool { return a.owner == b.owner }) {
			t.Fatalf("after %d changes the order is another", i)
		}
		h := d.holder("nginx")
		want = slices.DeleteFunc(want, func(c *held) bool { return c.rank != h.has[0].rank || c.fit != h.has[0].fit })
		if w := want[:min(len(want), maxAnswers)]; !slices.EqualFunc(h.has, w, func(a, b *held) bool { return a.owner == b.owner }) {
			t.Fatalf("after %d changes %v answer, not %v", i, owners(h.has), owners(w))
		}
	}
	if len(d.shared["nginx"].runs) < 2 {
		t.Error("the name was never shared by many")
	}
}

func TestReverseDomains(t *testing.T) {
	p := netip.MustParsePrefix
	for _, tt := range []struct {
		subnets []netip.Prefix
		domains int
		first   string
		left    []netip.Prefix
	}{
		{nil, 0, "", nil},
		{[]netip.Prefix{p("172.17.0.0/16"), p("172.17.0.0/16")}, 1, "17.172.in-addr.arpa", nil},
		{[]netip.Prefix{p("172.16.0.0/12"), p("fd01::/64")}, 17, "0.0.0.0.0.0.0.0.0.0.0.0.1.0.d.f.ip6.arpa", nil},
		{[]netip.Prefix{p("10.0.0.0/9"), p("172.17.0.0/16")}, 1, "17.172.in-addr.arpa", []netip.Prefix{p("10.0.0.0/9")}},
		{[]netip.Prefix{p("0.0.0.0/1"), p("172.17.0.0/16")}, 1, "17.172.in-addr.arpa", []netip.Prefix{p("0.0.0.0/1")}},
	} {
		domains, left := reverseDomains(tt.subnets)
		if len(domains) != tt.domains || len(domains) > 0 && domains[0] != tt.first || !slices.Equal(left, tt.left) {
			t.Errorf("%v: %d domains %v, left %v", tt.subnets, len(domains), domains, left)
		}
	}
}

func TestMapped(t *testing.T) {
	long := strings.Repeat("x", 64)
	for name, want := range map[string]string{"web": "web", "Web": "web", "my_app": "my-app", "a.b_c": "a.b-c", "": "", "-x": "", "a b": "", "ü": "", "*": ""} {
		if got := mapped(name); got != want {
			t.Errorf("%q is mapped to %q, not %q", name, got, want)
		}
	}
	seen := map[string]string{}
	for _, name := range []string{"web-", "web_", "web.", "web..", "Web-", "a..b", "a.-b", long, long + "x", long + "." + long, strings.Repeat("a.", 200) + "a", strings.Repeat("a.", 200) + "b"} {
		got := mapped(name)
		if !dnsserver.ValidName(got) || len(got) > 130 || seen[got] != "" {
			t.Errorf("%q is mapped to %q, as is %q", name, got, seen[got])
		}
		seen[got] = name
	}
}

func FuzzClaims(f *testing.F) {
	f.Add(webID, "web", "bridge", "www", "api", "shop", "1", false)
	f.Add("", "", "", "", "", "", "", true)
	f.Add("............", "a..b", "-", "web.", "\x00", "*", "-1", true)
	f.Add(webID, "web", "bridge", strings.Repeat("a,b,a.b,", 10_000), strings.Repeat("x.docker,", 10_000), "shop", strings.Repeat("7", 10_000), true)
	f.Add(webID, strings.Repeat("a.", 200), "NET", "\u212aelvin", "a\x00b", "c", "+2", false)
	f.Fuzz(func(t *testing.T, id, name, network, alias, service, project, number string, host bool) {
		aliases := strings.Split(alias, ",")
		aliases = append(aliases[:min(len(aliases), 64)], id) // the engine's reader takes no more
		at := place{engine: "dev", domains: []string{"docker", "a.test"}, several: true, vm: netip.MustParseAddr("192.168.99.100"), reachable: netip.MustParsePrefix("172.17.0.0/16").Contains}
		c := engine.Container{ID: id, Name: name, HostNetwork: host, Image: name, Hostname: alias, Domainname: project, Ports: []engine.Port{{Number: 80, Proto: "tcp"}},
			Env: []string{"HOSTNAMES=" + service, "DNSDOCK_IMAGE=" + alias, "SERVICE_80_NAME=" + project, "DNSDOCK_ALIAS=" + name, number},
			Labels: compose(service, project, number, "fairlead.names", alias, "fairlead.services", service, "fairlead.ttl", number, "dev.orbstack.domains", name,
				"com.dnsdock.ip_addr", project, "com.dnsdock.tags", network), Endpoints: []engine.Attachment{
				{NetworkID: network, Network: network, Aliases: aliases, Addrs: addrs("172.17.0.2", "172.18.0.2", "fd01::2")},
				{Network: alias, Aliases: []string{name}},
			}}
		d := newRegister()
		cs := claims(at, c)
		d.put("o", cs)
		for _, c := range cs {
			if c.deny == "" && !dnsserver.ValidName(strings.TrimSuffix(c.name, ".")) {
				t.Errorf("%q is claimed and is no name", c.name)
			}
			for _, a := range c.addrs {
				if a != at.vm && !at.reachable(a) {
					t.Errorf("%q has the address %v, which is not reachable", c.name, a)
				}
			}
			if c.deny == "" && c.rank != byAddress && len(d.holder(c.name).has) == 0 {
				t.Errorf("%q is claimed by one alone, and nobody has it", c.name)
			}
		}
		for n, r := range d.records(d.all(), at.domains) {
			if r != nil && !strings.HasSuffix(n, ".docker") && !strings.HasSuffix(n, ".a.test") && !strings.HasSuffix(n, ".arpa") {
				t.Errorf("%q lies outside the domains", n)
			}
		}
		if len(id) == 64 && strings.Trim(id, "0123456789abcdef") == "" && len(cs) > 0 && len(d.holder(id[:12]).has) == 0 {
			t.Errorf("there are claims, and none on the short id %s", id[:12])
		}
	})
}

// crowd is a directory of n containers, each with what one of a compose project has.
func crowd(n int) *register {
	d := newRegister()
	for i := range n {
		d.put(fmt.Sprint("dev/", i), claims(everywhere, member(i)))
	}
	return d
}

func member(i int) engine.Container {
	project := fmt.Sprint("p", i)
	return engine.Container{ID: fmt.Sprintf("%012x%052x", i, 0), Name: project + "-api-1", Image: "nginx", Ports: []engine.Port{{Number: 80, Proto: "tcp"}}, Labels: compose("api"+project, project, "1"),
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
				d.records(d.put(fmt.Sprint("dev/", k), claims(everywhere, member(k))), everywhere.domains)
			}
		})
	}
}

// TestPutCost is BenchmarkPut without a clock.
func TestPutCost(t *testing.T) {
	cost := func(n int) float64 {
		d := crowd(n)
		return testing.AllocsPerRun(50, func() {
			d.records(d.put("dev/7", claims(everywhere, member(7))), everywhere.domains)
		})
	}
	// Both crowds share an image, and so a name that answers maxAnswers of them. Maps grow when they like.
	if few, many := cost(2*maxAnswers), cost(3000); many > 1.2*few {
		t.Errorf("one change costs %v allocations among a few containers and %v among 3000", few, many)
	}
}

// What skydock would have made of an image is asked for by nobody: that a container's own name goes first is no news, as it is of a label's.
func TestLosers(t *testing.T) {
	a := finder(t, platform.Endpoint{Name: "dev", URL: "unix:///a"})
	w := a.engines[0]
	w.reach = platform.Reach{Kind: platform.Native}
	a.subnets = []Subnet{{Engine: "dev", Prefix: netip.MustParsePrefix("172.17.0.0/16"), State: Native}}
	a.heard(w, engine.Update{Full: true, Info: &engine.Info{}, Containers: []engine.Container{
		{ID: webID, Name: "web", Image: "web", Endpoints: []engine.Attachment{on("back", "172.17.0.2")}},
		{ID: dbID, Name: "cart", Image: "web", Labels: map[string]string{"fairlead.names": "web"}, Endpoints: []engine.Attachment{on("back", "172.17.0.3")}},
	}})
	a.passNames(true)
	if got := a.Status().Losers; len(got) != 1 || got[0].Name != "web" || !slices.Equal(got[0].Containers, []string{"cart"}) {
		t.Errorf("losers are %+v", got)
	}
}
