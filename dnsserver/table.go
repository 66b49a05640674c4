package dnsserver

import (
	"encoding/binary"
	"hash/maphash"
	"sync/atomic"
	"unsafe"
)

// node is one existing name and what it answers, in one piece of memory without pointers: the collector never looks inside, a
// lookup touches a cache line or two, and an answer is copied out as it lies there. Once in the table nothing but below
// and turn changes; whoever wants another answer puts another node in its place.
type node struct {
	size  uint32           // of the whole in bytes
	below int32            // how many nodes lie exactly one label below; of Zone's writer alone
	turn  [2]atomic.Uint32 // of A and of AAAA: clients ask both in turns, and must not find one of them standing still
	name  uint8            // bytes of the name that follows: wire form, lower-case, with the root's zero
	apex  uint8            // bytes of its domain's name, with which it ends
	flags uint8
	// The records follow the name: in wire form, sorted by type, each owned by a pointer to a reply's question. That serves any
	// spelling of the name, and any name below a wildcard.
}

const (
	given    = 1 << iota // by Update; without it an empty non-terminal (RFC 8499) or the zone's own
	wildcard             // answers for names below that do not exist
	own                  // an apex or ns.<apex>, which Update cannot take
)

const nodeSize = int(unsafe.Sizeof(node{}))

func newNode(name, rrs []byte, apex int, flags uint8) *node {
	b := make([]byte, nodeSize+len(name)+len(rrs))
	copy(b[copy(b[nodeSize:], name)+nodeSize:], rrs)
	n := (*node)(unsafe.Pointer(unsafe.SliceData(b))) // aligned: allocations of 16 bytes and more begin at multiples of 8
	n.size, n.name, n.apex, n.flags = uint32(len(b)), uint8(len(name)), uint8(apex), flags
	return n
}

// tail is what follows the header: b of newNode again.
func (n *node) tail() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(n)), n.size)[nodeSize:]
}

func (n *node) labels() []byte           { return n.tail()[:n.name] }
func (n *node) isNamed(name []byte) bool { return string(n.labels()) == string(name) }
func (n *node) rrs() []byte              { return n.tail()[n.name:] }
func (n *node) isApex() bool             { return n.name == n.apex }

// run gives the records of one type, which lie side by side.
func (n *node) run(rrtype uint16) (run []byte, count int) {
	rrs := n.rrs()
	from, to := 0, 0
	for i := 0; i < len(rrs); {
		next := i + rrSize(rrs[i:])
		if binary.BigEndian.Uint16(rrs[i+2:]) == rrtype {
			if count == 0 {
				from = i
			}
			to = next
			count++
		}
		i = next
	}
	return rrs[from:to], count
}

// rotate parts a run of addresses in two, to be sent one after the other. Each call starts one address further, so that clients that
// take the first spread themselves.
func (n *node) rotate(rrtype uint16, run []byte, count int) (first, then []byte) {
	if count < 2 || rrtype != typeA && rrtype != typeAAAA {
		return run, nil // most names; they leave turn alone, so its cache line stays shared between readers
	}
	turn := &n.turn[0]
	if rrtype == typeAAAA {
		turn = &n.turn[1]
	}
	at := int((turn.Add(1)-1)%uint32(count)) * (len(run) / count)
	return run[at:], run[:at]
}

// rrHeader is the size of a record's owner pointer, type, class, TTL and data length.
const rrHeader = 12

func rrSize(rr []byte) int { return rrHeader + int(binary.BigEndian.Uint16(rr[10:])) }

// table finds nodes by name: open addressing, where a probe looks at hashes that lie side by side, and at a node only when
// it is the one. Readers neither lock nor wait; one writer at a time changes slots, each at once.
type table struct {
	slots []slot // a power of two, at most 5/8 of them used
	used  int    // the writer's: how many have a hash
}

type slot struct {
	hash atomic.Uint64 // 0: never used, a probe ends here
	node atomic.Pointer[node]
}

func newTable(nodes int) *table {
	size := 16
	for size < 2*nodes {
		size *= 2
	}
	return &table{slots: make([]slot, size)}
}

var seed = maphash.MakeSeed() // names come from strangers, who must not choose where they lie

func hashOf(name []byte) uint64 { return maphash.Bytes(seed, name) | 1 }

func (t *table) slot(i uint64) *slot { return &t.slots[i&uint64(len(t.slots)-1)] }

// peek gives the first node with the hash, almost always the one sought, without touching its memory.
func (t *table) peek(hash uint64) *node {
	for i := hash >> 8; ; i++ {
		switch s := t.slot(i); s.hash.Load() {
		case 0:
			return nil
		case hash:
			return s.node.Load()
		}
	}
}

func (t *table) find(name []byte, hash uint64) *node {
	for i := hash >> 8; ; i++ {
		switch s := t.slot(i); s.hash.Load() {
		case 0:
			return nil
		case hash:
			if n := s.node.Load(); n != nil && n.isNamed(name) {
				return n
			}
		}
	}
}

// lookup gives a name's own node, else that of the nearest name above it that exists: RFC 4592's closest encloser. It is nil
// for names outside the served domains, all of which exist. n answers for the name if it is exact or a wildcard.
func (t *table) lookup(name []byte, hash uint64) (n *node, exact bool) {
	if n := t.find(name, hash); n != nil {
		return n, true
	}
	return t.encloser(name), false
}

func (t *table) encloser(name []byte) *node {
	for name[0] != 0 {
		name = above(name)
		if n := t.find(name, hashOf(name)); n != nil {
			return n
		}
	}
	return nil
}

// set puts n where its name is, or where there is room.
func (t *table) set(n *node) {
	hash := hashOf(n.labels())
	var free *slot
	for i := hash >> 8; ; i++ {
		s := t.slot(i)
		switch h, old := s.hash.Load(), s.node.Load(); {
		case h == 0:
			if free == nil {
				free = s
				t.used++
			}
			free.node.Store(n) // before the hash, by which readers find it
			free.hash.Store(hash)
			return
		case h != hash:
		case old == nil: // of a name that went and comes back
			free = s
		case old.isNamed(n.labels()):
			s.node.Store(n)
			return
		}
	}
}

// remove leaves the hash: probes for others go on over it.
func (t *table) remove(n *node) {
	hash := hashOf(n.labels())
	for i := hash >> 8; ; i++ {
		switch s := t.slot(i); {
		case s.hash.Load() == 0:
			return
		case s.node.Load() == n:
			s.node.Store(nil)
			return
		}
	}
}

// grown gives the table itself while it has room for one more, else a fresh one without the hashes of removed nodes. What that
// costs was paid for by as many changes.
func (t *table) grown() *table {
	if t.used < len(t.slots)/8*5 {
		return t
	}
	live := 0
	for i := range t.slots {
		if t.slots[i].node.Load() != nil {
			live++
		}
	}
	fresh := newTable(live + 1)
	for i := range t.slots {
		if n := t.slots[i].node.Load(); n != nil {
			fresh.set(n)
		}
	}
	return fresh
}

// above cuts the first label off a name in wire form.
func above(name []byte) []byte { return name[1+int(name[0]):] }
