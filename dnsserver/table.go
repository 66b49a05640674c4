package dnsserver

import (
	"bytes"
	"hash/maphash"
	"iter"
	"sync/atomic"
	"unsafe"
)

// table finds nodes by name: open addressing, where a probe looks at parts of hashes that lie side by side, and at a node only when
// it is likely the one. Readers neither lock nor wait; one writer at a time changes slots, each at once.
type table struct {
	format
	// A power of two, at most full/16 of them used. In the upper half a slot has the tag of a name, in the lower where its node is, 0
	// for that of a name that went. 0 was never used: a probe ends here.
	slots []atomic.Uint64
	used  int // the writer's: how many have a tag
	*nodes
}

const full = 13

// newTable makes room for some names, and for a third as many more.
func newTable(f format, nodes *nodes, names int) *table {
	size := 16
	for size/16*full < names+names/3 {
		size *= 2
	}
	return &table{format: f, nodes: nodes, slots: make([]atomic.Uint64, size)}
}

var seed = maphash.MakeSeed() // names come from strangers, who must not choose where they lie

func hashOf(name []byte) uint64 { return maphash.Bytes(seed, name) | 1 }

// tagOf is what a slot keeps of a hash. Its lower bits say where the name is looked for first.
func tagOf(hash uint64) uint64 { return hash>>32 | 1<<31 }

func (t *table) slot(i uint64) *atomic.Uint64 { return &t.slots[i&uint64(len(t.slots)-1)] }

// peek gives the first node with the hash, almost always the one sought, without touching its memory.
func (t *table) peek(hash uint64) *node {
	tag := tagOf(hash)
	for i := tag; ; i++ {
		switch s := t.slot(i).Load(); {
		case s == 0:
			return nil
		case s>>32 == tag:
			return t.at(t.slot(i), s)
		}
	}
}

func (t *table) find(name []byte, hash uint64) *node {
	tag := tagOf(hash)
	for i := tag; ; i++ {
		switch s := t.slot(i).Load(); {
		case s == 0:
			return nil
		case s>>32 == tag:
			if n := t.at(t.slot(i), s); n != nil && t.is(n, name) {
				return n
			}
		}
	}
}

// at gives the node that a slot told of. One that moves meanwhile is looked for where the slot tells now.
func (t *table) at(slot *atomic.Uint64, s uint64) *node {
	for {
		n := t.node(uint32(s))
		now := slot.Load()
		if now == s {
			return n
		}
		s = now
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

// place is where a name's slot is, or where there is room for it. old is its node's place, 0 for none.
func (t *table) place(name []byte) (slot *atomic.Uint64, tag uint64, old uint32) {
	tag = tagOf(hashOf(name))
	var free *atomic.Uint64
	for i := tag; ; i++ {
		switch s := t.slot(i).Load(); {
		case s == 0:
			if free == nil {
				free = t.slot(i)
			}
			return free, tag, 0
		case s>>32 != tag:
		case uint32(s) == 0: // of a name that went and comes back
			free = t.slot(i)
		case t.is(t.node(uint32(s)), name):
			return t.slot(i), tag, uint32(s)
		}
	}
}

// set puts a name's node where the name is, or where there is room.
func (t *table) set(name []byte, ref uint32) {
	slot, tag, _ := t.place(name)
	if slot.Load() == 0 {
		t.used++
	}
	slot.Store(tag<<32 | uint64(ref))
}

// remove leaves the tag: probes for others go on over it.
func (t *table) remove(name []byte) {
	if slot, tag, old := t.place(name); old != 0 {
		slot.Store(tag << 32)
	}
}

// grown gives the table itself while it has room for some more, else a fresh one without the tags of removed names. What that
// costs was paid for by as many changes.
func (t *table) grown(more int) *table {
	if t.used+more <= len(t.slots)/16*full {
		return t
	}
	live := more
	for i := range t.slots {
		if uint32(t.slots[i].Load()) != 0 {
			live++
		}
	}
	fresh := newTable(t.format, t.nodes, live)
	for i := range t.slots {
		s := t.slots[i].Load()
		if uint32(s) == 0 {
			continue
		}
		at := s >> 32
		for fresh.slot(at).Load() != 0 {
			at++
		}
		fresh.slot(at).Store(s)
		fresh.used++
	}
	return fresh
}

// nodes is the memory of a table's nodes: chunks, where nobody writes again what was written, so that readers may look at what is gone.
// From a chunk of which little is left that is moved, and the collector takes it when its last reader is gone. A node's
// place is the number of its chunk, and how far it is from the beginning.
type nodes struct {
	chunks atomic.Pointer[[]atomic.Pointer[byte]] // the first is nobody's

	// The writer's.
	sizes  []chunk
	last   uint32         // to be written to
	spare  []uint32       // numbers of chunks that are no more
	sparse []uint32       // chunks that may have to be moved out of
	crowds map[string]int // how many names lie below those with many
	dictionary
	buf []byte // scratch, as is the next
	rrs []byte
}

type chunk struct {
	size, used, dead int // bytes
	sparse           bool
}

// A node may tell of what stands 2 bytes' worth before it.
const (
	chunkSize = 64 << 10
	unit      = 4 // bytes between places
	inChunk   = chunkSize / unit
)

func newNodes() *nodes {
	s := &nodes{sizes: make([]chunk, 1), crowds: map[string]int{}}
	s.chunks.Store(&[]atomic.Pointer[byte]{{}})
	return s
}

// node gives what is at a place, nil when it is not there any more.
func (s *nodes) node(ref uint32) *node {
	base := (*s.chunks.Load())[ref/inChunk].Load()
	if base == nil {
		return nil
	}
	return (*node)(unsafe.Add(unsafe.Pointer(base), ref%inChunk*unit))
}

// write makes a node. No slot has it yet.
func (t *table) write(names [][]byte, apex int, rrs []byte, kind uint8) (ref uint32) {
	number := t.last
	c := t.sizes[number]
	t.buf = t.encode(t.buf, names, apex, rrs, kind, &t.dictionary)
	switch {
	case len(t.buf) <= c.size-c.used:
	case len(t.buf) < chunkSize/4:
		t.last, t.dictionary = t.chunk(chunkSize), dictionary{}
		return t.write(names, apex, rrs, kind)
	default: // what is left of the last is still of use
		t.buf = t.encode(t.buf, names, apex, rrs, kind, nil)
		number = t.chunk(len(t.buf))
	}
	at := t.sizes[number].used
	ref = number*inChunk + uint32(at/unit)
	n := t.node(ref)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(n)), len(t.buf)), t.buf)
	if t.sizes[number].used += len(t.buf); number == t.last {
		t.dictionary.chunk = unsafe.Slice((*byte)(unsafe.Pointer(t.node(number*inChunk))), t.sizes[number].used)
	}
	return ref
}

// rewrite makes a node that has some of another's names.
func (t *table) rewrite(n *node, names [][]byte) (ref uint32) {
	t.rrs = t.records(t.rrs[:0], n)
	ref = t.write(names, n.apex(), t.rrs, n.kind())
	moved := t.node(ref)
	for _, rrtype := range []uint16{typeA, typeAAAA} {
		if n.flags&turns != 0 {
			moved.turn(rrtype).Store(n.turn(rrtype).Load())
		}
	}
	for _, name := range names {
		t.setBelow(moved, name, t.below(n, name))
		t.set(name, ref)
	}
	return ref
}

// chunk makes a new one.
func (s *nodes) chunk(size int) (number uint32) {
	if n := len(s.spare); n > 0 {
		number, s.spare = s.spare[n-1], s.spare[:n-1]
	} else {
		number = uint32(len(s.sizes))
		s.sizes = append(s.sizes, chunk{})
	}
	chunks := *s.chunks.Load()
	if int(number) == len(chunks) {
		more := make([]atomic.Pointer[byte], 2*len(chunks))
		for i := range chunks {
			more[i].Store(chunks[i].Load())
		}
		s.chunks.Store(&more)
		chunks = more
	}
	s.sizes[number] = chunk{size: size}
	memory := make([]uint64, (size+7)/8)
	chunks[number].Store((*byte)(unsafe.Pointer(unsafe.SliceData(memory))))
	return number
}

// free says that no slot has the node any more.
func (s *nodes) free(ref uint32) {
	number := ref / inChunk
	c := &s.sizes[number]
	if c.dead += s.node(ref).size(); c.dead*2 >= c.used && !c.sparse {
		c.sparse = true
		s.sparse = append(s.sparse, number)
	}
}

// tidy moves what is left out of chunks that are mostly dead. What that costs was paid for by who died.
func (t *table) tidy() {
	var later []uint32
	for _, number := range t.sparse {
		c := &t.sizes[number]
		if number == t.last {
			later = append(later, number)
			continue
		}
		if c.sparse = false; c.dead*2 < c.used {
			continue
		}
		for ref, n := range t.in(number) {
			if t.lives(ref, n) {
				t.rewrite(n, t.stay(ref, n))
			}
		}
		(*t.chunks.Load())[number].Store(nil)
		t.sizes[number] = chunk{}
		t.spare = append(t.spare, number)
	}
	t.sparse = append(t.sparse[:0], later...)
}

// in goes through what a chunk has, dead or alive.
func (s *nodes) in(number uint32) iter.Seq2[uint32, *node] {
	return func(yield func(uint32, *node) bool) {
		for at, used := 0, s.sizes[number].used; at < used; {
			ref := number*inChunk + uint32(at/unit)
			n := s.node(ref)
			if !yield(ref, n) {
				return
			}
			at += n.size()
		}
	}
}

// lives tells whether slots have the node: those of all its names, or none.
func (t *table) lives(ref uint32, n *node) bool {
	for name := range t.names(n) {
		_, _, at := t.place(name)
		return at == ref
	}
	return false
}

// all goes through the nodes that live.
func (t *table) all(yield func(*node) bool) {
	for number := range t.sizes {
		for ref, n := range t.in(uint32(number)) {
			if t.lives(ref, n) && !yield(n) {
				return
			}
		}
	}
}

// stay are those of a node's names whose slots have it.
func (t *table) stay(ref uint32, n *node) (names [][]byte) {
	for name := range t.names(n) {
		if _, _, at := t.place(name); at == ref {
			names = append(names, bytes.Clone(name))
		}
	}
	return names
}

// below is how many names exist exactly one label below one of the node's.
func (t *table) below(n *node, name []byte) int {
	count := int(t.head(n, name)[2])
	if count == many {
		count = t.crowds[string(name)]
	}
	return count
}

func (t *table) setBelow(n *node, name []byte, count int) {
	if delete(t.crowds, string(name)); count >= many {
		t.crowds[string(name)] = count
	}
	t.head(n, name)[2] = byte(min(count, many))
}

// above cuts the first label off a name in wire form.
func above(name []byte) []byte { return name[1+int(name[0]):] }
