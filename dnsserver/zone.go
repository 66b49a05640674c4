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
	// domain must satisfy ValidName even with "hostmaster." before it; any other is left out, and what is beyond 256.
	Domains []string

	// Server is the address of ns.<domain>, the name server that every domain names. The zero Addr means none.
	Server netip.Addr

	// TTL is how long an answer may be kept, NegativeTTL how long the news that there is none. Zero means the default,
	// 1 s for both; more than 5 s and 1 s is cut to that. Fractions of a second are dropped, so 1 ns means "do not keep".
	TTL, NegativeTTL time.Duration

	// Unknown, unless nil, is called before a name inside the domains is denied (NXDOMAIN): lower-case, without trailing dot,
	// and one that Update could take. The name is looked up once more when Unknown returns or Patience has passed, zero
	// meaning 250 ms; then its ctx ends. Queries for one name share a call, one that begins after they came. Other queries do
	// not wait, and beyond 256 waiting ones a name is denied at once, unless Expect named it. Unknown has a goroutine of its own and may call Update.
	Unknown  func(ctx context.Context, name string)
	Patience time.Duration

	// Worth, unless nil, is asked before Unknown, from any goroutine and for every such query; it must return at once. It says for how many
	// names at a time Unknown may know more than the zone does now: beyond those a name is denied without it, unless Expect named it. ended
	// tells that Withdraw vouches for the name: it is worth only what Unknown would wait for.
	Worth func(ended bool) int
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
	lastDenied       atomic.Uint64 // when any was, as in denied
	expected         expected
	ended            atomic.Pointer[ended]

	mu      sync.Mutex     // of writers
	apexes  map[string]int // the served domains in wire form, with their numbers
	records int            // names that Update gave
	addrs   []netip.Addr   // scratch, as are the rest
	rrs     []byte
	name    []byte
	had     []byte
	text    []byte
	batch   []change
	gone    [][]byte // in text
}

// NewZone makes a zone that has its domains and name servers, and no names yet.
func NewZone(cfg ZoneConfig) *Zone {
	z := &Zone{
		ttl:         seconds(cfg.TTL, 5*time.Second),
		negativeTTL: seconds(cfg.NegativeTTL, time.Second),
		server:      cfg.Server,
		unknown:     unknown{ask: cfg.Unknown, worth: cfg.Worth, patience: cmp.Or(cfg.Patience, defaultPatience), asked: make(map[string]*call)},
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
	z.build(domains, z.table.Load())
	z.serial.Add(1)
}

// build makes the table anew, and shows it to readers when it is whole. What was given stays.
func (z *Zone) build(domains []string, before *table) {
	z.apexes, z.records = make(map[string]int), 0
	var f format
	for _, d := range domains {
		d = canonical(d)
		if apex := appendName(nil, d); ValidName("hostmaster."+d) && !z.has(apex) && len(f.apexes) < maxApexes {
			z.apexes[string(apex)] = len(f.apexes)
			f.apexes = append(f.apexes, apex)
		}
	}
	t := newTable(f, newNodes(), 2*len(domains))
	for i, apex := range f.apexes {
		t = z.put(t, [][]byte{apex}, i, nil, own)
	}
	for i, apex := range f.apexes {
		if ns := append([]byte("\x02ns"), apex...); !z.has(ns) {
			t = z.put(t, [][]byte{ns}, i, z.encode(&Record{Addrs: []netip.Addr{z.server}}), own)
		}
	}
	if before != nil {
		for n := range before.all {
			if n.flags&given == 0 {
				continue
			}
			z.rrs = before.records(z.rrs[:0], n)
			for name := range before.names(n) {
				there := t.find(name, hashOf(name))
				if apex, inside := z.apexOf(name); inside && (there == nil || there.flags&own == 0) {
					z.later(name, apex, n.kind())
					z.records++
				}
			}
			t = z.flush(t)
		}
	}
	z.table.Store(t)
}

func (z *Zone) has(apex []byte) bool {
	_, ok := z.apexes[string(apex)]
	return ok
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
	t := z.flush(z.table.Load())
	t.tidy()
	z.table.Store(t)
	if moved {
		z.serial.Add(1)
	}
}

// Withdraw removes names, and with each some of those that answer exactly what it does: of a container its other names. Those that keep
// holds for stay. It is for whoever has no time to find out what to Update. Until the time given, or the next Expect, it is certain that nobody
// has come to have one of the names but whom Unknown would wait for, so that it needs not be asked.
func (z *Zone) Withdraw(names []string, keep func(name string) bool, until time.Time) {
	z.mu.Lock()
	defer z.mu.Unlock()
	t := z.table.Load()
	e := &ended{until: until}
	for _, name := range names {
		if !ValidName(name) {
			continue
		}
		z.name = appendName(z.name[:0], name)
		n := t.find(z.name, hashOf(z.name))
		if n == nil || n.flags&given == 0 {
			continue
		}
		for name := range t.names(n) {
			if hash := hashOf(name); !keep(textOf(name)) && !slices.Contains(e.names, hash) {
				z.goes(name)
				e.names = append(e.names, hash)
			}
		}
	}
	if len(z.gone) > 0 {
		z.ended.Store(e)
		z.table.Store(z.flush(t))
		z.serial.Add(1)
	}
}

// update reports whether something changes, at the next flush.
func (z *Zone) update(name string, r *Record) bool {
	if !ValidName(name) {
		return false
	}
	z.name = appendName(z.name[:0], name)
	apex, inside := z.apexOf(z.name)
	t := z.table.Load()
	old := t.find(z.name, hashOf(z.name))
	if !inside || old != nil && old.flags&own != 0 {
		return false
	}
	had := old != nil && old.flags&given != 0
	if r == nil {
		if had {
			z.goes(z.name)
		}
		return had
	}
	rrs, kind := z.encode(r), uint8(given)
	if r.Wildcard {
		kind |= wildcard
	}
	if had && old.kind() == kind {
		if z.had = t.records(z.had[:0], old); bytes.Equal(z.had, rrs) {
			return false // the old one remembers whose turn it is
		}
	}
	if !had {
		z.records++
	}
	z.later(z.name, apex, kind)
	return true
}

// change is a name that is to answer something, both in text.
type change struct {
	hash    uint64 // of what
	from    int    // of the name, which goes to rrs
	rrs, to int
	apex    int
	kind    uint8
}

// later notes for flush that a name is to answer z.rrs.
func (z *Zone) later(name []byte, apex int, kind uint8) {
	c := change{hash: hashOf(z.rrs), from: len(z.text), apex: apex, kind: kind}
	z.text = append(z.text, name...)
	c.rrs = len(z.text)
	z.text = append(z.text, z.rrs...)
	c.to = len(z.text)
	z.batch = append(z.batch, c)
}

// goes notes for flush that a name that Update gave is to answer nothing.
func (z *Zone) goes(name []byte) {
	from := len(z.text)
	z.text = append(z.text, name...)
	z.gone = append(z.gone, z.text[from:])
	z.records--
}

// flush does what was noted. Names that answer the same share a node.
func (z *Zone) flush(t *table) *table {
	t = z.remove(t, z.gone)
	name := func(c change) []byte { return z.text[c.from:c.rrs] }
	rrs := func(c change) []byte { return z.text[c.rrs:c.to] }
	if len(z.batch) > 1 {
		slices.SortFunc(z.batch, func(a, b change) int {
			if a.hash != b.hash {
				return cmp.Compare(a.hash, b.hash)
			}
			return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.apex, b.apex), bytes.Compare(name(a), name(b)))
		})
	}
	var room [maxNames][]byte
	for rest := z.batch; len(rest) > 0; {
		first, names := rest[0], room[:0]
		for len(rest) > 0 && len(names) < maxNames && rest[0].kind == first.kind && rest[0].apex == first.apex && bytes.Equal(rrs(rest[0]), rrs(first)) {
			names, rest = append(names, name(rest[0])), rest[1:]
		}
		t = z.put(t, names, first.apex, rrs(first), first.kind)
	}
	clear(z.gone)
	if z.batch, z.gone, z.text = z.batch[:0], z.gone[:0], z.text[:0]; cap(z.batch) > 1<<10 || cap(z.gone) > 1<<10 || cap(z.text) > 1<<17 {
		z.batch, z.gone, z.text = nil, nil, nil // changes are mostly small
	}
	return t
}

// Len is the number of names that Update has given and not removed.
func (z *Zone) Len() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.records
}

// apexOf gives the number of the longest served domain that the name equals or lies in.
func (z *Zone) apexOf(name []byte) (apex int, ok bool) {
	for ; name[0] != 0; name = above(name) {
		if apex, ok = z.apexes[string(name)]; ok {
			return apex, true
		}
	}
	return 0, false
}

// put gives names of one domain, in the order of bytes, a node. A name that is new makes the names above it exist first, up to an apex.
func (z *Zone) put(t *table, names [][]byte, apex int, rrs []byte, kind uint8) *table {
	var room [maxNames][]byte
	longest := append(room[:0], names...) // first: what lies below another of them makes that exist
	slices.SortFunc(longest, func(a, b []byte) int { return len(b) - len(a) })
	for _, name := range longest {
		if t.find(name, hashOf(name)) != nil {
			continue
		}
		up := above(name)
		above, ok := z.apexOf(up)
		if !ok {
			continue
		}
		parent := t.find(up, hashOf(up))
		if parent == nil {
			t = z.put(t, [][]byte{up}, above, nil, 0)
			parent = t.find(up, hashOf(up))
		}
		t.setBelow(parent, up, t.below(parent, up)+1)
	}
	t = t.grown(len(names))
	ref := t.write(names, apex, rrs, kind)
	n := t.node(ref)
	var places [maxNames]uint32
	left := places[:0]
	for _, name := range names {
		if _, _, old := t.place(name); old != 0 {
			t.setBelow(n, name, t.below(t.node(old), name))
			if !slices.Contains(left, old) {
				left = append(left, old)
			}
		}
		t.set(name, ref)
	}
	for _, old := range left {
		t.leave(old)
	}
	return t
}

// leave gives those a node of their own who still have one that others have left.
func (t *table) leave(ref uint32) {
	n := t.node(ref)
	if stay := t.stay(ref, n); len(stay) > 0 {
		t.rewrite(n, stay)
	}
	t.free(ref)
}

// remove takes the records of names away, and every name that existed only because of them. A node of several that go is left once.
func (z *Zone) remove(t *table, names [][]byte) *table {
	var room [maxNames]uint32
	left := room[:0]
	for i := 0; i < len(names); {
		name := names[i]
		_, _, ref := t.place(name)
		if t.below(t.node(ref), name) > 0 { // later: what is below may go, too
			i++
			continue
		}
		t.remove(name)
		left = append(left, ref)
		t.lose(above(name))
		names[i], names = names[len(names)-1], names[:len(names)-1]
	}
	slices.Sort(left)
	for _, ref := range slices.Compact(left) {
		t.leave(ref)
	}
	for _, name := range names {
		if n := t.find(name, hashOf(name)); t.below(n, name) > 0 {
			t = z.put(t, [][]byte{name}, n.apex(), nil, 0) // an empty non-terminal
		} else {
			t.drop(name)
		}
	}
	return t
}

// lose says that one name less is right below this one, which goes if that was all that it existed for.
func (t *table) lose(name []byte) {
	n := t.find(name, hashOf(name)) // there is one: an apex is never removed
	left := t.below(n, name) - 1
	if t.setBelow(n, name, left); n.kind() == 0 && left == 0 {
		t.drop(name)
	}
}

// drop takes away a name that nothing is below.
func (t *table) drop(name []byte) {
	_, _, ref := t.place(name)
	t.remove(name)
	t.leave(ref)
	t.lose(above(name))
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

// set gives the elements sorted and each once, in a copy unless they are so.
func set[T comparable](s []T, compare func(a, b T) int) []T {
	ordered := true
	for i := 1; i < len(s); i++ {
		ordered = ordered && compare(s[i-1], s[i]) < 0
	}
	if ordered {
		return s
	}
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
	begin := 0 // of the label
	for i := 0; i <= len(name); i++ {
		if i == len(name) || name[i] == '.' {
			if n := i - begin; n == 0 || n > 63 || name[begin] == '-' || name[i-1] == '-' {
				return false
			}
			begin = i + 1
		} else if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// canonical is the form that names are compared in: lower-case, no trailing dot.
func canonical(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// textOf undoes appendName.
func textOf(wire []byte) string {
	text := make([]byte, 0, len(wire))
	for ; wire[0] != 0; wire = above(wire) {
		text = append(append(text, wire[1:1+int(wire[0])]...), '.')
	}
	return string(text[:max(len(text)-1, 0)])
}

// appendName gives a valid name's wire form.
func appendName(b []byte, name string) []byte {
	b = append(b, 0)
	length := len(b) - 1 // where that of the label is
	for i := range len(name) {
		if name[i] == '.' {
			length = len(b)
			b = append(b, 0)
			continue
		}
		b[length]++
		b = append(b, name[i])
	}
	return append(b, 0)
}
