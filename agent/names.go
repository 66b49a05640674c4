package agent

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/dnsserver"
)

// rank orders claims on one name: the lowest has it. Claims of one rank share the name when they are replicas of one
// service (one group); otherwise nobody has it, as no rule says who.
type rank int

// The rules of docs/design.md, "Names". Ranks of single-engine forms are followed by room for the engine's priority.
const (
	byName          rank = iota * 1000 // web, and the 12 digits of its id
	byServiceNumber                    // 2.api.shop
	byService                          // api.shop
	byNetwork                          // web.backend
	byEngine                           // web.dev
	byLoneService                      // api
	byAlias                            // a network alias
	byMappedName                       // my-app for my_app
)

// claim is one container's wish for one name.
type claim struct {
	name  string // without the domain
	rank  rank
	group string
	addrs []netip.Addr
}

// place is where a container runs, as claims sees it.
type place struct {
	engine    string
	several   bool                  // more than one engine is watched
	priority  int                   // the engine's place in the order of engines
	vm        netip.Addr            // the address of containers in the VM's own network, where this host reaches it
	reachable func(netip.Addr) bool // tells which addresses this host can send packets to
}

// claims are all names that a container asks for, with the addresses that it would have there. It is pure, and looks at
// no other container: what one costs does not depend on how many there are. Names without a reachable address are not
// claimed.
func claims(at place, c engine.Container) []claim {
	var out []claim
	prio := rank(min(at.priority, 999))
	add := func(name string, r rank, group string, addrs []netip.Addr) {
		name = strings.ToLower(name)
		if len(addrs) > 0 && dnsserver.ValidName(name) {
			out = append(out, claim{name: name, rank: r + prio, group: at.engine + "\x00" + group, addrs: addrs})
		}
	}
	var all []netip.Addr
	if c.HostNetwork && at.vm.IsValid() {
		all = append(all, at.vm)
	}
	for _, e := range c.Endpoints {
		var here []netip.Addr
		for _, a := range e.Addrs {
			if at.reachable(a) {
				here = append(here, a)
			}
		}
		add(c.Name+"."+e.Network, byNetwork, c.ID, here)
		for _, alias := range e.Aliases {
			if len(alias) != 12 || !strings.HasPrefix(c.ID, alias) { // older engines put the short id among them
				add(alias, byAlias, e.NetworkID, here)
			}
		}
		all = append(all, here...)
	}
	add(c.Name, byName, c.ID, all)
	if len(c.ID) >= 12 {
		add(c.ID[:12], byName, c.ID, all)
	}
	if mapped := strings.ReplaceAll(c.Name, "_", "-"); mapped != c.Name {
		add(mapped, byMappedName, c.ID, all)
	}
	if at.several {
		add(c.Name+"."+at.engine, byEngine, c.ID, all)
	}
	service, project := c.Labels["com.docker.compose.service"], c.Labels["com.docker.compose.project"]
	if service != "" && project != "" && !strings.EqualFold(c.Labels["com.docker.compose.oneoff"], "true") {
		group := project + "\x00" + service
		add(service+"."+project, byService, group, all)
		add(service, byLoneService, group, all)
		if n, err := strconv.Atoi(c.Labels["com.docker.compose.container-number"]); err == nil && n > 0 {
			add(strconv.Itoa(n)+"."+service+"."+project, byServiceNumber, c.ID, all)
		}
	}
	return out
}

// directory holds all claims and decides who has a name. What a change of one container costs depends only on the
// names that it claims and on who else claims them.
type directory struct {
	names  map[string]map[string]claim // name, then owner
	owners map[string][]string         // owner, then its names
}

func newDirectory() *directory {
	return &directory{names: map[string]map[string]claim{}, owners: map[string][]string{}}
}

// put replaces all claims of owner and returns the names that may have changed.
func (d *directory) put(owner string, cs []claim) []string {
	changed := map[string]bool{}
	for _, n := range d.owners[owner] {
		changed[n] = true
		delete(d.names[n], owner)
		if len(d.names[n]) == 0 {
			delete(d.names, n)
		}
	}
	delete(d.owners, owner)
	for _, c := range cs {
		changed[c.name] = true
		byOwner := d.names[c.name]
		if byOwner == nil {
			byOwner = map[string]claim{}
			d.names[c.name] = byOwner
		}
		if before, twice := byOwner[owner]; twice {
			if before.rank <= c.rank {
				continue
			}
		} else {
			d.owners[owner] = append(d.owners[owner], c.name)
		}
		byOwner[owner] = c
	}
	return slices.Sorted(maps.Keys(changed))
}

// holder is who has a name.
type holder struct {
	owners []string // sorted
	addrs  []netip.Addr
	losers []string // owners of the same name that do not have it, sorted
	why    string   // why they lost
}

// holder decides about one name. No owners means that nobody has it.
func (d *directory) holder(name string) holder {
	byOwner := d.names[name]
	if len(byOwner) == 0 {
		return holder{}
	}
	owners := slices.Sorted(maps.Keys(byOwner))
	best := byOwner[owners[0]]
	for _, o := range owners {
		if c := byOwner[o]; c.rank < best.rank {
			best = c
		}
	}
	var h holder
	shared := true
	for _, o := range owners {
		switch c := byOwner[o]; {
		case c.rank != best.rank:
			h.losers = append(h.losers, o)
		default:
			shared = shared && c.group == best.group
			h.owners = append(h.owners, o)
			h.addrs = append(h.addrs, c.addrs...)
		}
	}
	if !shared {
		return holder{losers: owners, why: fmt.Sprintf("%d different services or aliases have this name", len(h.owners))}
	}
	if len(h.losers) > 0 {
		h.why = "an exact or more important name goes first"
	}
	slices.SortFunc(h.addrs, netip.Addr.Compare)
	h.addrs = slices.Compact(h.addrs)
	return h
}
