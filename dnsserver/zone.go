// Package dnsserver answers DNS questions about containers: names below the served domains, and nothing else.
//
// Zone knows the names and what they answer, Server owns the sockets, Query asks any server one question. The zone is
// authoritative and never recurses: a name outside its domains is refused, so that a machine that asks us by mistake
// turns to its next server at once.
package dnsserver

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
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

	// Unknown, unless nil, is called before a name inside the domains is denied (NXDOMAIN): lower-case, without trailing dot,
	// and one that Update could take. The name is looked up once more when Unknown returns or Patience has passed, zero
	// meaning 250 ms; then its ctx ends. Queries for one name share a call, one that begins after they came. Other queries do
	// not wait, and beyond 256 waiting ones a name is denied at once. Unknown has a goroutine of its own and may call Update.
	Unknown  func(ctx context.Context, name string)
	Patience time.Duration

	// Settled, unless nil, is asked before Unknown, from any goroutine and for every such query; it must return at once. True means that
	// Unknown has no way to know more than the zone does now: the name is denied without it.
	Settled func() bool
}

// Record is what one name answers. Its slices are sets, order means nothing.
type Record struct {
	Addrs []netip.Addr // IPv4 ones are A records, IPv6 ones AAAA
	PTR   []string     // names of a reverse name; those that fail ValidName are left out
	SRV   []SRV
	TXT   []string // one record each; what is longer than 255 bytes goes in several strings, above 65,000 it is left out

	// TTL is how long the answer may be kept; as in ZoneConfig, but zero means the zone's.
	TTL time.Duration

	// Wildcard makes the record also that of every name below whose nearest existing name above is this one (RFC 4592, 3.3.1,
	// as if it stood at "*" too). A name that exists, even if only because something lies below it, is never answered so.
	Wildcard bool
}

// SRV is one place where a service is found (RFC 2782). One whose target fails ValidName is left out.
type SRV struct {
	Priority, Weight, Port uint16
	Target                 string
}

// Zone is the set of names in the served domains. Its methods may be called from several goroutines; answering neither locks
// nor waits.
type Zone struct {
	ttl, negativeTTL uint32 // seconds
	server           netip.Addr
	table            atomic.Pointer[table]
	serial           atomic.Uint32
	unknown          unknown
	denied           denied

	mu      sync.Mutex      // of writers
	apexes  map[string]bool // the served domains in wire form
	records int             // names that Update gave
	addrs   []netip.Addr    // scratch, as are the next two
	rrs     []byte
	name    []byte
}

// NewZone makes a zone that has its domains and name servers, and no names yet.
func NewZone(cfg ZoneConfig) *Zone {
	z := &Zone{
		ttl:         seconds(cfg.TTL, 5*time.Second),
		negativeTTL: seconds(cfg.NegativeTTL, time.Second),
		server:      cfg.Server,
		unknown:     unknown{ask: cfg.Unknown, settled: cfg.Settled, patience: cmp.Or(cfg.Patience, defaultPatience), asked: make(map[string]*call)},
	}
	z.serial.Store(uint32(time.Now().Unix())) // larger than that of the run before, as caches expect (RFC 1912, 2.2)
	z.build(cfg.Domains, nil)
	return z
}

// seconds gives a TTL: 1 for zero, else d in whole seconds between 0 and the ceiling.
func seconds(d, ceiling time.Duration) uint32 {
	if d == 0 {
		return 1
	}
	return uint32(min(max(d, 0), ceiling) / time.Second)
}

// SetDomains makes the served domains those of the list, read as in ZoneConfig. Records stay as long as their name lies in one of them
// and is not the zone's own. Readers see the old domains or the new ones. The cost is that of all names.
func (z *Zone) SetDomains(domains []string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	var keep []*node
	for i := range z.table.Load().slots {
		if n := z.table.Load().slots[i].node.Load(); n != nil && n.flags&given != 0 {
			keep = append(keep, n)
		}
	}
	z.build(domains, keep)
	z.serial.Add(1)
}

// build makes the table anew, and shows it to readers when it is whole.
func (z *Zone) build(domains []string, keep []*node) {
	z.apexes, z.records = make(map[string]bool), 0
	t := newTable(len(keep) + 2*len(domains))
	var apexes [][]byte
	for _, d := range domains {
		d = canonical(d)
		if ValidName("hostmaster." + d) {
			apex := appendName(nil, d)
			apexes = append(apexes, apex)
			z.apexes[string(apex)] = true
		}
	}
	for _, apex := range apexes {
		t = z.put(t, newNode(apex, nil, len(apex), own))
	}
	for _, apex := range apexes {
		if ns := append([]byte("\x02ns"), apex...); !z.apexes[string(ns)] {
			t = z.put(t, newNode(ns, z.encode(&Record{Addrs: []netip.Addr{z.server}}), len(apex), own))
		}
	}
	for _, n := range keep {
		name := n.labels()
		apex, there := z.apexOf(name), t.find(name, hashOf(name))
		if apex > 0 && (there == nil || there.flags&own == 0) {
			t = z.put(t, newNode(name, n.rrs(), apex, n.flags))
			z.records++
		}
	}
	z.table.Store(t)
}

// Update gives names new records; nil removes a name. Names are lower-case and without trailing dot ("web.docker"). Those
// that fail ValidName, lie outside the served domains, or belong to the zone itself (an apex, ns.<domain>) are left out:
// a container can claim none of them. Readers see each name's old record or its new one, never a mixture, but may see some
// names of a call before others. The cost depends on the number of names given, not on the size of the zone. The zone
// keeps no part of changed.
func (z *Zone) Update(changed map[string]*Record) {
	z.mu.Lock()
	defer z.mu.Unlock()
	moved := false
	for name, r := range changed {
		moved = z.update(name, r) || moved
	}
	if moved {
		z.serial.Add(1)
	}
}

// update reports whether something changed.
func (z *Zone) update(name string, r *Record) bool {
	if !ValidName(name) {
		return false
	}
	z.name = appendName(z.name[:0], name)
	apex := z.apexOf(z.name)
	t := z.table.Load()
	old := t.find(z.name, hashOf(z.name))
	if apex == 0 || old != nil && old.flags&own != 0 {
		return false
	}
	had := old != nil && old.flags&given != 0
	if r == nil {
		if had {
			z.remove(t, old)
			z.records--
		}
		return had
	}
	rrs, flags := z.encode(r), uint8(given)
	if r.Wildcard {
		flags |= wildcard
	}
	if had && old.flags == flags && bytes.Equal(old.rrs(), rrs) {
		return false // the old one remembers whose turn it is
	}
	if !had {
		z.records++
	}
	z.table.Store(z.put(t, newNode(z.name, rrs, apex, flags)))
	return true
}

// Len is the number of names that Update has given and not removed.
func (z *Zone) Len() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.records
}

// apexOf gives the length of the longest served domain that the name equals or lies in, 0 for none.
func (z *Zone) apexOf(name []byte) int {
	for ; name[0] != 0; name = above(name) {
		if z.apexes[string(name)] {
			return len(name)
		}
	}
	return 0
}

// put sets a name's node. A name that is new makes the names above it exist first, up to an apex.
func (z *Zone) put(t *table, n *node) *table {
	name := n.labels()
	if old := t.find(name, hashOf(name)); old != nil {
		n.below = old.below
		t.set(n)
		return t
	}
	if up := above(name); z.apexOf(up) > 0 {
		parent := t.find(up, hashOf(up))
		if parent == nil {
			parent = newNode(up, nil, z.apexOf(up), 0)
			t = z.put(t, parent)
		}
		parent.below++
	}
	t = t.grown()
	t.set(n)
	return t
}

// remove takes a name's record away, and every name that existed only because of it.
func (z *Zone) remove(t *table, n *node) {
	if n.below > 0 {
		t.set(z.bare(n))
		return
	}
	for {
		t.remove(n)
		up := above(n.labels())
		n = t.find(up, hashOf(up)) // there is one: an apex is never removed
		n.below--
		if n.flags != 0 || n.below > 0 {
			return
		}
	}
}

// bare is n without a record, an empty non-terminal.
func (z *Zone) bare(n *node) *node {
	b := newNode(n.labels(), nil, int(n.apex), 0)
	b.below = n.below
	return b
}

// The types that Record can hold, as numbers of the wire.
const (
	typeA, typePTR, typeTXT, typeAAAA, typeSRV = dns.TypeA, dns.TypePTR, dns.TypeTXT, dns.TypeAAAA, dns.TypeSRV
)

// encode gives a record's RRs in the form that nodes keep: sorted, each once (RFC 2181, 5), without what no record can hold. It
// stays valid until the next call.
func (z *Zone) encode(r *Record) []byte {
	ttl := z.ttl
	if r.TTL != 0 {
		ttl = seconds(r.TTL, 5*time.Second)
	}
	b := z.rrs[:0]
	begin := func(rrtype uint16) int {
		b = append(b, 0xc0, headerSize) // the question's name
		b = binary.BigEndian.AppendUint16(b, rrtype)
		b = binary.BigEndian.AppendUint16(b, dns.ClassINET)
		b = binary.BigEndian.AppendUint32(b, ttl)
		b = append(b, 0, 0)
		return len(b)
	}
	end := func(begin int) { binary.BigEndian.PutUint16(b[begin-2:], uint16(len(b)-begin)) }

	z.addrs = z.addrs[:0]
	for _, a := range r.Addrs {
		if a.IsValid() {
			z.addrs = append(z.addrs, a.Unmap().WithZone(""))
		}
	}
	slices.SortFunc(z.addrs, netip.Addr.Compare) // puts IPv4 before IPv6
	z.addrs = slices.Compact(z.addrs)
	for _, a := range z.addrs {
		if a.Is4() {
			at, v4 := begin(typeA), a.As4()
			b = append(b, v4[:]...)
			end(at)
		}
	}
	for _, name := range set(r.PTR, strings.Compare) {
		if ValidName(name) {
			at := begin(typePTR)
			b = appendName(b, name)
			end(at)
		}
	}
	for _, text := range set(r.TXT, strings.Compare) {
		if len(text) > 65000 {
			continue
		}
		at := begin(typeTXT)
		for first := true; first || text != ""; first = false {
			n := min(len(text), 255)
			b = append(append(b, byte(n)), text[:n]...)
			text = text[n:]
		}
		end(at)
	}
	for _, a := range z.addrs {
		if a.Is6() {
			at, v6 := begin(typeAAAA), a.As16()
			b = append(b, v6[:]...)
			end(at)
		}
	}
	for _, s := range set(r.SRV, compareSRV) {
		if ValidName(s.Target) {
			at := begin(typeSRV)
			b = binary.BigEndian.AppendUint16(b, s.Priority)
			b = binary.BigEndian.AppendUint16(b, s.Weight)
			b = binary.BigEndian.AppendUint16(b, s.Port)
			b = appendName(b, s.Target)
			end(at)
		}
	}
	z.rrs = b
	return b
}

func compareSRV(a, b SRV) int {
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Weight, b.Weight),
		cmp.Compare(a.Port, b.Port), cmp.Compare(a.Target, b.Target))
}

// set gives a sorted copy with each element once.
func set[T comparable](s []T, compare func(a, b T) int) []T {
	s = slices.Clone(s)
	slices.SortFunc(s, compare)
	return slices.Compact(s)
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

// appendName gives a valid name's wire form.
func appendName(b []byte, name string) []byte {
	for label := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0)
}
