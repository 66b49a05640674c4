// Package dnsserver answers DNS questions about containers: names below the served domains, and nothing else.
//
// Zone knows the names and what they answer, Server owns the sockets, Query asks any server one question. The zone is
// authoritative and never recurses: a name outside its domains is refused, so that a machine that asks us by mistake
// turns to its next server at once.
package dnsserver

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ZoneConfig says what a zone is authoritative for.
type ZoneConfig struct {
	// Domains are the served domains, such as "docker" or "17.172.in-addr.arpa". Case and a trailing dot do not matter. A
	// domain must satisfy ValidName even with "hostmaster." before it; any other is left out.
	Domains []string

	// Server is the address of ns.<domain>, the name server that every domain names. The zero Addr means none.
	Server netip.Addr

	// TTL is how long an answer may be kept, NegativeTTL how long the news that there is none. Zero means the default,
	// 1 s for both; more than 5 s and 1 s is cut to that. Fractions of a second are dropped, so 1 ns means "do not keep".
	TTL, NegativeTTL time.Duration
}

// Record is what one name answers.
type Record struct {
	Addrs []netip.Addr // IPv4 ones are A records, IPv6 ones AAAA; a set, order means nothing
}

// Zone is the set of names in the served domains. Its methods may be called from several goroutines.
type Zone struct {
	ttl, negativeTTL uint32             // seconds
	domains          map[string]*domain // by apex; never changes

	mu      sync.RWMutex
	names   map[string]node // every name that exists: with a record, above such a name, or an apex
	records int             // names that Update gave
	serial  uint32
}

// domain is one served domain with the names that its own records speak of.
type domain struct {
	apex, ns string // as keys of Zone.names: "docker", "ns.docker"
}

// node is one existing name. Without a record it is an empty non-terminal (RFC 8499) or an apex.
type node struct {
	record *record
	below  int32 // how many nodes lie exactly one label below
}

// record is a Record as the zone keeps it; addrs does not change once it is in the zone.
type record struct {
	addrs []netip.Addr     // sorted, each once: IPv4 first
	v4    int              // how many are IPv4
	turn  [2]atomic.Uint32 // of A and of AAAA: clients ask both in turns, and must not find one of them standing still
}

// NewZone makes a zone that has its domains and name servers, and no names yet.
func NewZone(cfg ZoneConfig) *Zone {
	z := &Zone{
		ttl:         seconds(cfg.TTL, 5*time.Second),
		negativeTTL: seconds(cfg.NegativeTTL, time.Second),
		domains:     make(map[string]*domain),
		names:       make(map[string]node),
		serial:      uint32(time.Now().Unix()), // larger than that of the run before, as caches expect (RFC 1912, 2.2)
	}
	var apexes []string
	for _, d := range cfg.Domains {
		d = canonical(d)
		if ValidName("hostmaster." + d) {
			apexes = append(apexes, d)
		}
	}
	// Shortest first: dev.docker hangs itself below docker, so that names between the two exist.
	slices.SortFunc(apexes, func(a, b string) int { return len(a) - len(b) })
	for _, apex := range apexes {
		if z.domainOf(parent(apex)) != nil {
			z.put(apex, nil)
		} else {
			z.names[apex] = node{}
		}
		z.domains[apex] = &domain{apex: apex, ns: "ns." + apex}
	}
	for _, d := range z.domains {
		if z.domains[d.ns] == nil {
			z.put(d.ns, newRecord([]netip.Addr{cfg.Server}))
		}
	}
	return z
}

// seconds gives a TTL: 1 for zero, else d in whole seconds between 0 and the ceiling.
func seconds(d, ceiling time.Duration) uint32 {
	if d == 0 {
		return 1
	}
	return uint32(min(max(d, 0), ceiling) / time.Second)
}

// Update gives names new records; nil removes a name. Names are lower-case and without trailing dot ("web.docker"). Those
// that fail ValidName, lie outside the served domains, or belong to the zone itself (an apex, ns.<domain>) are left out:
// a container can claim none of them. Readers see all of one call or nothing of it. The cost depends on the number
// of names given, not on the size of the zone. The zone keeps no part of changed.
func (z *Zone) Update(changed map[string]*Record) {
	type change struct {
		name   string
		record *record
	}
	// Everything that can be done beforehand is, since readers wait while the lock is held.
	changes := make([]change, 0, len(changed))
	for name, r := range changed {
		if !z.claimable(name) {
			continue
		}
		c := change{name: name}
		if r != nil {
			c.record = newRecord(r.Addrs)
		}
		changes = append(changes, c)
	}

	z.mu.Lock()
	defer z.mu.Unlock()
	moved := false
	for _, c := range changes {
		old := z.names[c.name].record
		switch {
		case c.record == nil && old == nil:
			continue
		case c.record == nil:
			z.remove(c.name)
			z.records--
		case old == nil:
			z.put(strings.Clone(c.name), c.record)
			z.records++
		case slices.Equal(old.addrs, c.record.addrs):
			continue // the old one remembers whose turn it is
		default:
			z.put(c.name, c.record)
		}
		moved = true
	}
	if moved {
		z.serial++
	}
}

// Len is the number of names that Update has given and not removed.
func (z *Zone) Len() int {
	z.mu.RLock()
	defer z.mu.RUnlock()
	return z.records
}

// claimable reports whether Update may set the name.
func (z *Zone) claimable(name string) bool {
	d := z.domainOf(name)
	return d != nil && name != d.apex && name != d.ns && ValidName(name)
}

// domainOf finds the longest served domain that the canonical name equals or lies in, or nil.
func (z *Zone) domainOf(name string) *domain {
	for ; name != ""; name = parent(name) {
		if d := z.domains[name]; d != nil {
			return d
		}
	}
	return nil
}

// find looks a canonical name up. A name that exists without a record gives an empty one.
func (z *Zone) find(name string) (r *record, exists bool, serial uint32) {
	z.mu.RLock()
	n, exists := z.names[name]
	serial = z.serial
	z.mu.RUnlock()
	if n.record == nil {
		return &noRecord, exists, serial
	}
	return n.record, exists, serial
}

var noRecord record

// put sets a name's record. A name that is new to the zone makes the names above it exist, up to the apex.
func (z *Zone) put(name string, r *record) {
	n, existed := z.names[name]
	n.record = r
	z.names[name] = n
	for !existed {
		name = parent(name)
		n, existed = z.names[name]
		n.below++
		z.names[name] = n
	}
}

// remove takes a name's record away, and every name that existed only because of it.
func (z *Zone) remove(name string) {
	n := z.names[name]
	n.record = nil
	z.names[name] = n
	for n.record == nil && n.below == 0 && z.domains[name] == nil {
		delete(z.names, name)
		name = parent(name)
		n = z.names[name]
		n.below--
		z.names[name] = n
	}
}

// newRecord copies addresses into the form that the zone keeps, without those that no record can hold.
func newRecord(addrs []netip.Addr) *record {
	kept := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if a.IsValid() {
			kept = append(kept, a.Unmap().WithZone(""))
		}
	}
	// Compare puts IPv4 before IPv6. An address twice would be no RRset (RFC 2181, 5).
	slices.SortFunc(kept, netip.Addr.Compare)
	r := &record{addrs: slices.Compact(kept)}
	for r.v4 < len(r.addrs) && r.addrs[r.v4].Is4() {
		r.v4++
	}
	return r
}

// rotated gives one family's addresses in two runs, to be sent one after the other. Each call starts one address
// further, so that clients that take the first spread themselves.
func (r *record) rotated(v6 bool) (first, then []netip.Addr) {
	addrs, turn := r.addrs[:r.v4], &r.turn[0]
	if v6 {
		addrs, turn = r.addrs[r.v4:], &r.turn[1]
	}
	if len(addrs) < 2 {
		return addrs, nil // most names; they leave turn alone, so its cache line stays shared between readers
	}
	start := int((turn.Add(1) - 1) % uint32(len(addrs)))
	return addrs[start:], addrs[:start]
}

// ValidName reports whether Update can take the name: lower-case, no trailing dot, at most 253 bytes, of labels of 1 to 63
// letters, digits, hyphens and underscores that neither begin nor end with a hyphen. Whether it lies inside a served domain is
// not asked. These are host names (RFC 1123, 2.1) and "_", which Docker allows and every resolver lets pass; a hyphen
// at the edge of a label some resolvers (Go's among them) refuse to ask for, so such a name would be no promise.
func ValidName(name string) bool {
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// canonical is the form that names are compared in: lower-case, no trailing dot.
func canonical(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// parent cuts the first label off; "" is the root. In a question's text form a dot inside a label is written `\.`, and must not
// be taken for a border: the one label `a\.docker` does not lie in docker.
func parent(name string) string {
	for i := 0; i < len(name); i++ {
		switch name[i] {
		case '\\':
			i++
		case '.':
			return name[i+1:]
		}
	}
	return ""
}
