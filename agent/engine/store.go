package engine

import (
	"encoding/binary"
	"encoding/hex"
	"iter"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"unsafe"
)

// Store keeps containers in little memory: each in one piece without any pointer in it, many pieces in a chunk. Containers are told apart by
// their ids and by numbers, which stay theirs until they are deleted and are then given to others. One goroutine may write, and
// others read while it does not; what was read stays as it is.
type Store struct {
	places []uint32 // by number: of the chunk and, in the lower 16 bits, from where in it; nowhere is nobody's
	spare  []uint32 // numbers that are nobody's
	index  Index    // by id, as it is packed
	chunks []chunk
	last   int            // chunk to be written to
	alike  map[string]int // where that has what containers may have in common

	own, common []byte // scratch of who writes
}

// chunk is memory that is written once. When little is left of it that is moved, and the collector takes it when nobody reads it any more.
type chunk struct {
	data []byte
	dead int // bytes
}

const (
	maxAlike  = 64
	chunkSize = 1 << 16
	nowhere   = ^uint32(0)
)

// Len is how many containers there are.
func (s *Store) Len() int { return len(s.places) - len(s.spare) }

// Find gives the number of the container with an id.
func (s *Store) Find(id string) (number uint32, ok bool) {
	var room [64]byte
	return s.find(asText(appendID(room[:0], id)))
}

func (s *Store) find(packedID string) (number uint32, ok bool) {
	return s.index.Find(packedID, func(n uint32) bool { return s.at(n).id() == packedID })
}

// Get gives the container with a number, the zero Container where there is none.
func (s *Store) Get(number uint32) (c Container) {
	if p := s.at(number); p.own != "" {
		c = p.unpack()
	}
	return c
}

// ByID gives the container with an id.
func (s *Store) ByID(id string) (Container, bool) {
	number, ok := s.Find(id)
	if !ok {
		return Container{}, false
	}
	return s.Get(number), true
}

// All gives all containers with their numbers. They must not be changed meanwhile.
func (s *Store) All() iter.Seq2[uint32, Container] {
	return func(yield func(uint32, Container) bool) {
		for n := range uint32(len(s.places)) {
			if p := s.at(n); p.own != "" && !yield(n, p.unpack()) {
				return
			}
		}
	}
}

// Named gives those of the numbers whose container's name is one of the wanted.
func (s *Store) Named(wanted map[string]bool, among Numbers) (found []uint32) {
	for n := range among.All() {
		if p := s.at(n); p.own != "" && wanted[p.name()] {
			found = append(found, n)
		}
	}
	return found
}

// nextPart gives the first container from number on that was not inspected, and the number to go on with.
func (s *Store) nextPart(number uint32) (id string, next uint32, ok bool) {
	for ; int(number) < len(s.places); number++ {
		if p := s.at(number); p.own != "" && !p.whole() {
			return p.unpack().ID, number + 1, true
		}
	}
	return "", number, false
}

// is tells whether a container is kept exactly as c is.
func (s *Store) is(number uint32, c Container) bool {
	own, alike := pack(c, nil, nil)
	return s.at(number) == packed{asText(own), asText(alike)}
}

// Put keeps a container in place of what was kept for its id, which it gives back.
func (s *Store) Put(c Container) (number uint32, before Container) {
	s.own, s.common = pack(c, s.own[:0], s.common[:0])
	p := packed{asText(s.own), asText(s.common)}
	last, left := s.last, -1
	number, had := s.find(p.id())
	switch {
	case had:
		was := s.at(number)
		if before = was.unpack(); was == p {
			return number, before
		}
		left = s.drop(number)
	case len(s.spare) > 0:
		number = s.spare[len(s.spare)-1]
		s.spare = s.spare[:len(s.spare)-1]
	default:
		number = uint32(len(s.places))
		s.places = append(s.places, nowhere)
	}
	if s.places[number] = s.keep(p); !had {
		s.index.Add(p.id(), number)
	}
	s.tidy(left)
	s.tidy(last)
	return number, before
}

// Delete forgets the container with an id. ok is false when there was none.
func (s *Store) Delete(id string) (number uint32, ok bool) {
	if number, ok = s.Find(id); !ok {
		return 0, false
	}
	s.index.Remove(s.at(number).id(), number)
	left := s.drop(number)
	s.places[number] = nowhere
	s.spare = append(s.spare, number)
	s.tidy(left)
	return number, true
}

// at is what is kept of the container with a number, the zero packed where there is none.
func (s *Store) at(number uint32) (p packed) {
	if int(number) < len(s.places) && s.places[number] != nowhere {
		place := s.places[number]
		p, _ = s.chunks[place/chunkSize].piece(int(place % chunkSize))
	}
	return p
}

// piece is what a chunk has at a place, and where that ends. Nobody writes to it any more.
func (c *chunk) piece(at int) (p packed, end int) {
	size, head := binary.Uvarint(c.data[at:])
	end = at + head + int(size)
	p.own = asText(c.data[at+head : end])
	alike, head := binary.Uvarint(c.data[end:])
	end += head
	if alike&1 != 0 { // it is that of another piece
		at := int(alike >> 1)
		size, head := binary.Uvarint(c.data[at:])
		p.alike = asText(c.data[at+head:][:size>>1])
		return p, end
	}
	p.alike = asText(c.data[end:][:alike>>1])
	return p, end + int(alike>>1)
}

// keep writes a piece to where there is room.
func (s *Store) keep(p packed) (place uint32) {
	need := 2*binary.MaxVarintLen64 + len(p.own) + len(p.alike)
	at := s.last
	if at == len(s.chunks) || cap(s.chunks[at].data)-len(s.chunks[at].data) < need {
		at = slices.IndexFunc(s.chunks, func(c chunk) bool { return c.data == nil })
		if at < 0 {
			at = len(s.chunks)
			s.chunks = append(s.chunks, chunk{})
		}
		s.chunks[at] = chunk{data: make([]byte, 0, max(chunkSize, need))}
		if need < chunkSize/4 { // else what is left of the other is still of use
			s.last, s.alike = at, map[string]int{}
		}
	}
	c := &s.chunks[at]
	place = uint32(at*chunkSize + len(c.data))
	c.data = append(binary.AppendUvarint(c.data, uint64(len(p.own))), p.own...)
	same, ok := s.alike[p.alike]
	if ok && at == s.last {
		c.data = binary.AppendUvarint(c.data, uint64(same)<<1|1)
		return place
	}
	if at == s.last && len(s.alike) < maxAlike {
		s.alike[strings.Clone(p.alike)] = len(c.data)
	}
	c.data = append(binary.AppendUvarint(c.data, uint64(len(p.alike))<<1), p.alike...)
	return place
}

// drop says that a container's piece is nobody's any more, and in which chunk that is.
func (s *Store) drop(number uint32) (at int) {
	at = int(s.places[number] / chunkSize)
	from := int(s.places[number] % chunkSize)
	_, end := s.chunks[at].piece(from)
	s.chunks[at].dead += end - from
	return at
}

// tidy moves what is left out of a chunk that is mostly dead. What that costs was paid for by who died.
func (s *Store) tidy(at int) {
	if at < 0 || at >= len(s.chunks) || at == s.last || s.chunks[at].data == nil || s.chunks[at].dead*2 < len(s.chunks[at].data) {
		return
	}
	old := s.chunks[at]
	for from := 0; from < len(old.data); {
		p, end := old.piece(from)
		if n, ok := s.find(p.id()); ok && s.places[n] == uint32(at*chunkSize+from) {
			s.places[n] = s.keep(p)
		}
		from = end
	}
	s.chunks[at] = chunk{}
}

// Numbers is a set of containers, by their numbers in a Store.
type Numbers []uint64

// Add puts n into the set.
func (s *Numbers) Add(n uint32) {
	for int(n/64) >= len(*s) {
		*s = append(*s, 0)
	}
	(*s)[n/64] |= 1 << (n % 64)
}

// Remove takes n out of the set.
func (s Numbers) Remove(n uint32) {
	if int(n/64) < len(s) {
		s[n/64] &^= 1 << (n % 64)
	}
}

// Has tells whether n is in the set.
func (s Numbers) Has(n uint32) bool { return int(n/64) < len(s) && s[n/64]>>(n%64)&1 != 0 }

// All gives the set from the smallest on. What is given may be removed meanwhile.
func (s Numbers) All() iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for i, word := range s {
			for ; word != 0; word &= word - 1 {
				if !yield(uint32(64*i + bits.TrailingZeros64(word))) {
					return
				}
			}
		}
	}
}

// packed is a container in two strings: what it has of its own, and what it may have in common with others that were made as it was. Numbers and
// lengths are varints, addresses and texts have their length before them; an id of hex digits takes half their number of bytes. Equal
// containers are equal strings.
type packed struct{ own, alike string }

const (
	isWhole = 1 << iota
	isOnHost
)

const shortID = "\x00" // in place of an alias that is the short id; no alias that means anything looks so

var (
	states  = []string{"", "running", "paused", "restarting", "created", "exited", "dead", "removing"}
	healths = []string{"", "starting", "healthy", "unhealthy"}
	protos  = []string{"", "tcp", "udp", "sctp"}
)

// pack writes a container behind own and alike.
func pack(c Container, own, alike []byte) (_, _ []byte) {
	b := appendID(own, c.ID)
	flags := byte(0)
	if c.whole {
		flags |= isWhole
	}
	if c.HostNetwork {
		flags |= isOnHost
	}
	b = append(b, flags)
	b = appendText(b, c.Name)
	switch { // mostly it is one of these
	case c.Hostname == c.Name:
		b = append(b, 0)
	case c.Hostname == c.ID[:min(12, len(c.ID))]:
		b = append(b, 1)
	default:
		b = appendText(append(b, 2), c.Hostname)
	}
	b = appendID(b, c.sharesWith)
	alike = appendText(appendText(alike, c.Image), c.Domainname)
	alike = appendWord(alike, states, c.State)
	alike = appendWord(alike, healths, c.Health)
	alike = binary.AppendUvarint(alike, uint64(len(c.Labels)))
	if len(c.Labels) > 0 {
		for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
			alike = appendText(appendText(alike, k), c.Labels[k])
		}
	}
	alike = binary.AppendUvarint(alike, uint64(len(c.Env)))
	for _, v := range c.Env {
		alike = appendText(alike, v)
	}
	alike = binary.AppendUvarint(alike, uint64(len(c.Ports)))
	for _, p := range c.Ports {
		alike = appendWord(binary.AppendUvarint(alike, uint64(p.Number)), protos, p.Proto)
	}
	alike = binary.AppendUvarint(alike, uint64(len(c.Endpoints)))
	for _, e := range c.Endpoints {
		alike = appendText(appendID(alike, e.NetworkID), e.Network)
		b = binary.AppendUvarint(b, uint64(len(e.Addrs)))
		for _, a := range e.Addrs {
			raw := a.AsSlice()
			b = append(append(b, byte(len(raw))), raw...)
		}
		b = binary.AppendUvarint(b, uint64(len(e.Aliases)))
		for _, a := range e.Aliases {
			if len(c.ID) >= 12 && a == c.ID[:12] {
				a = shortID // older engines put it among all aliases
			}
			b = appendText(b, a)
		}
	}
	return b, alike
}

// asText is b as a string, without a copy, for as long as nobody writes to it.
func asText(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// id is the beginning, by which it is found.
func (p packed) id() string {
	n, size := binary.Uvarint([]byte(p.own[:min(len(p.own), binary.MaxVarintLen64)]))
	return p.own[:size+int(n>>1)]
}

func (p packed) whole() bool { return p.own[len(p.id())]&isWhole != 0 }

func (p packed) name() string {
	r := unpacker(p.own[len(p.id())+1:]) // behind the flags
	return r.text()
}

func (p packed) unpack() (c Container) {
	r, alike := unpacker(p.own), unpacker(p.alike)
	c.ID = r.id()
	flags := r[0]
	r = r[1:]
	c.whole, c.HostNetwork = flags&isWhole != 0, flags&isOnHost != 0
	c.Name = r.text()
	switch r.number() {
	case 0:
		c.Hostname = c.Name
	case 1:
		c.Hostname = c.ID[:min(12, len(c.ID))]
	default:
		c.Hostname = r.text()
	}
	c.sharesWith = r.id()
	c.Image, c.Domainname = alike.text(), alike.text()
	c.State, c.Health = alike.word(states), alike.word(healths)
	if n := alike.number(); n > 0 {
		c.Labels = make(map[string]string, n)
		for range n {
			k := alike.text()
			c.Labels[k] = alike.text()
		}
	}
	for range alike.number() {
		c.Env = append(c.Env, alike.text())
	}
	for range alike.number() {
		c.Ports = append(c.Ports, Port{Number: uint16(alike.number()), Proto: alike.word(protos)})
	}
	n := alike.number()
	if n > 0 {
		c.Endpoints = make([]Attachment, n)
	}
	for i := range n {
		e := &c.Endpoints[i]
		e.NetworkID, e.Network = alike.id(), alike.text()
		if n := r.number(); n > 0 {
			e.Addrs = make([]netip.Addr, n)
			for i := range e.Addrs {
				e.Addrs[i], _ = netip.AddrFromSlice([]byte(r.text()))
			}
		}
		for range r.number() {
			a := r.text()
			if a == shortID && len(c.ID) >= 12 {
				a = c.ID[:12]
			}
			e.Aliases = append(e.Aliases, a)
		}
	}
	return c
}

// appendID halves what is written in small hex digits. The lowest bit of the length tells whether it did.
func appendID(b []byte, id string) []byte {
	if len(id)%2 == 0 {
		start := len(b)
		b = binary.AppendUvarint(b, uint64(len(id)/2)<<1|1)
		for i := 0; i < len(id); i += 2 {
			high, low := digits[id[i]], digits[id[i+1]]
			if high|low > 15 {
				b = b[:start]
				break
			}
			b = append(b, high<<4|low)
		}
		if len(b) > start {
			return b
		}
	}
	b = binary.AppendUvarint(b, uint64(len(id))<<1)
	return append(b, id...)
}

// digits are the values of hex digits, as they are written in ids.
var digits = func() (values [256]byte) {
	for c := range values {
		values[c] = 255
	}
	for i, c := range "0123456789abcdef" {
		values[c] = byte(i)
	}
	return values
}()

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendWord writes one of the words as its place, and any other as a text.
func appendWord(b []byte, words []string, s string) []byte {
	if i := slices.Index(words, s); i >= 0 {
		return append(b, byte(i))
	}
	return appendText(append(b, byte(len(words))), s)
}

// unpacker is what is left to read.
type unpacker string

func (r *unpacker) number() int {
	var n uint64
	for i, shift := 0, 0; ; i, shift = i+1, shift+7 {
		c := (*r)[i]
		n |= uint64(c&0x7f) << shift
		if c < 0x80 {
			*r = (*r)[i+1:]
			return int(n)
		}
	}
}

func (r *unpacker) cut(n int) (s string) {
	s, *r = string((*r)[:n]), (*r)[n:]
	return s
}

func (r *unpacker) text() string { return r.cut(r.number()) }

func (r *unpacker) id() string {
	n := r.number()
	s := r.cut(n >> 1)
	if n&1 != 0 {
		s = hex.EncodeToString([]byte(s))
	}
	return s
}

func (r *unpacker) word(words []string) string {
	i := int((*r)[0])
	*r = (*r)[1:]
	if i < len(words) {
		return words[i]
	}
	return r.text()
}
