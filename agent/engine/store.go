package engine

import (
	"encoding/binary"
	"encoding/hex"
	"hash/maphash"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"unsafe"
)

// Store keeps containers in little memory: each in one piece without any pointer in it, many pieces in a chunk. Containers are told apart by
// their ids and by numbers, which stay theirs until they are deleted and are then given to others. One goroutine may write, and
// others read while it does not; what was read stays as it is.
type Store struct {
	places []uint32 // by number: of the chunk and, in the lower 16 bits, from where in it; nowhere is nobody's
	spare  []uint32 // numbers that are nobody's
	index  []uint32 // open addressing: number+1, 0 is free; a power of two, at most 3/4 of them used
	chunks []chunk
	last   int // chunk to be written to
}

// chunk is memory that is written once. When little is left of it that is moved, and the collector takes it when nobody reads it any more.
type chunk struct {
	data []byte
	dead int // bytes
}

const (
	chunkSize = 1 << 16
	nowhere   = ^uint32(0)
)

var seed = maphash.MakeSeed() // ids come from strangers

// Len is how many containers there are.
func (s *Store) Len() int { return len(s.places) - len(s.spare) }

// Find gives the number of the container with an id.
func (s *Store) Find(id string) (number uint32, ok bool) {
	if len(s.index) == 0 {
		return 0, false
	}
	var room [64]byte
	at := s.slot(appendID(room[:0], id))
	return s.index[at] - 1, s.index[at] != 0
}

// Get gives the container with a number, the zero Container where there is none.
func (s *Store) Get(number uint32) (c Container) {
	if p := s.at(number); p != "" {
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
			if p := s.at(n); p != "" && !yield(n, p.unpack()) {
				return
			}
		}
	}
}

// nextPart gives the first container from number on that was not inspected, and the number to go on with.
func (s *Store) nextPart(number uint32) (id string, next uint32, ok bool) {
	for ; int(number) < len(s.places); number++ {
		if p := s.at(number); p != "" && !p.whole() {
			return p.unpack().ID, number + 1, true
		}
	}
	return "", number, false
}

// is tells whether a container is kept exactly as c is.
func (s *Store) is(number uint32, c Container) bool { return s.at(number) == pack(c) }

// Put keeps a container in place of what was kept for its id.
func (s *Store) Put(c Container) (number uint32) {
	p := pack(c)
	if (len(s.places)+1)*4 > len(s.index)*3 {
		s.index = make([]uint32, max(16, 2*len(s.index)))
		for n := range uint32(len(s.places)) {
			if p := s.at(n); p != "" {
				s.index[s.slot([]byte(p.id()))] = n + 1
			}
		}
	}
	at, before, left := s.slot([]byte(p.id())), s.last, -1
	switch {
	case s.index[at] != 0:
		number = s.index[at] - 1
		if s.at(number) == p {
			return number
		}
		left = s.drop(number)
	case len(s.spare) > 0:
		number = s.spare[len(s.spare)-1]
		s.spare = s.spare[:len(s.spare)-1]
	default:
		number = uint32(len(s.places))
		s.places = append(s.places, nowhere)
	}
	s.places[number], s.index[at] = s.keep(p), number+1
	s.tidy(left)
	s.tidy(before)
	return number
}

// Delete forgets the container with an id. ok is false when there was none.
func (s *Store) Delete(id string) (number uint32, ok bool) {
	if number, ok = s.Find(id); !ok {
		return 0, false
	}
	mask := len(s.index) - 1
	hole := s.slot([]byte(s.at(number).id()))
	left := s.drop(number)
	s.places[number], s.index[hole] = nowhere, 0
	s.spare = append(s.spare, number)
	for at := (hole + 1) & mask; s.index[at] != 0; at = (at + 1) & mask { // who was pushed on by it comes back
		n := s.index[at]
		s.index[at] = 0
		s.index[s.slot([]byte(s.at(n-1).id()))] = n
	}
	s.tidy(left)
	return number, true
}

// slot is where an id is, or where it belongs.
func (s *Store) slot(id []byte) int {
	mask := len(s.index) - 1
	for at := int(maphash.Bytes(seed, id)) & mask; ; at = (at + 1) & mask {
		if n := s.index[at]; n == 0 || s.at(n-1).id() == string(id) {
			return at
		}
	}
}

// at is what is kept of the container with a number, "" where there is none.
func (s *Store) at(number uint32) packed {
	if int(number) >= len(s.places) || s.places[number] == nowhere {
		return ""
	}
	place := s.places[number]
	p, _ := piece(s.chunks[place/chunkSize].data[place%chunkSize:])
	return p
}

// piece is what a chunk has next, and what follows. Nobody writes to it any more.
func piece(data []byte) (p packed, rest []byte) {
	size, head := binary.Uvarint(data)
	data = data[head:]
	return packed(unsafe.String(unsafe.SliceData(data), size)), data[size:]
}

// keep writes a piece, its size before it, to where there is room.
func (s *Store) keep(p packed) (place uint32) {
	need := binary.MaxVarintLen64 + len(p)
	at := s.last
	if at == len(s.chunks) || cap(s.chunks[at].data)-len(s.chunks[at].data) < need {
		at = slices.IndexFunc(s.chunks, func(c chunk) bool { return c.data == nil })
		if at < 0 {
			at = len(s.chunks)
			s.chunks = append(s.chunks, chunk{})
		}
		s.chunks[at] = chunk{data: make([]byte, 0, max(chunkSize, need))}
		if need < chunkSize/4 { // else what is left of the other is still of use
			s.last = at
		}
	}
	c := &s.chunks[at]
	place = uint32(at*chunkSize + len(c.data))
	c.data = append(binary.AppendUvarint(c.data, uint64(len(p))), p...)
	return place
}

// drop says that a container's piece is nobody's any more, and in which chunk that is.
func (s *Store) drop(number uint32) (at int) {
	at = int(s.places[number] / chunkSize)
	s.chunks[at].dead += len(s.at(number))
	return at
}

// tidy moves what is left out of a chunk that is mostly dead. What that costs was paid for by who died.
func (s *Store) tidy(at int) {
	if at < 0 || at >= len(s.chunks) || at == s.last || s.chunks[at].data == nil || s.chunks[at].dead*2 < len(s.chunks[at].data) {
		return
	}
	data := s.chunks[at].data
	for rest := data; len(rest) > 0; {
		place := uint32(at*chunkSize + len(data) - len(rest))
		var p packed
		p, rest = piece(rest)
		if n := s.index[s.slot([]byte(p.id()))]; n != 0 && s.places[n-1] == place {
			s.places[n-1] = s.keep(p)
		}
	}
	s.chunks[at] = chunk{}
}

// packed is a container in one string. Numbers and lengths are varints, addresses and texts have their length before them; an id of
// hex digits takes half their number of bytes. Equal containers are equal strings.
type packed string

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

func pack(c Container) packed {
	b := appendID(make([]byte, 0, 256), c.ID)
	flags := byte(0)
	if c.whole {
		flags |= isWhole
	}
	if c.HostNetwork {
		flags |= isOnHost
	}
	b = append(b, flags)
	b = appendText(b, c.Name)
	b = appendText(b, c.Image)
	switch { // mostly it is one of these
	case c.Hostname == c.Name:
		b = append(b, 0)
	case c.Hostname == c.ID[:min(12, len(c.ID))]:
		b = append(b, 1)
	default:
		b = appendText(append(b, 2), c.Hostname)
	}
	b = appendText(b, c.Domainname)
	b = appendWord(b, states, c.State)
	b = appendWord(b, healths, c.Health)
	b = appendID(b, c.sharesWith)
	b = binary.AppendUvarint(b, uint64(len(c.Labels)))
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		b = appendText(appendText(b, k), c.Labels[k])
	}
	b = binary.AppendUvarint(b, uint64(len(c.Env)))
	for _, v := range c.Env {
		b = appendText(b, v)
	}
	b = binary.AppendUvarint(b, uint64(len(c.Ports)))
	for _, p := range c.Ports {
		b = appendWord(binary.AppendUvarint(b, uint64(p.Number)), protos, p.Proto)
	}
	b = binary.AppendUvarint(b, uint64(len(c.Endpoints)))
	for _, e := range c.Endpoints {
		b = appendText(appendID(b, e.NetworkID), e.Network)
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
	return packed(b)
}

// id is the beginning, by which it is found.
func (p packed) id() string {
	n, size := binary.Uvarint([]byte(p[:min(len(p), binary.MaxVarintLen64)]))
	return string(p[:size+int(n>>1)])
}

func (p packed) whole() bool { return p[len(p.id())]&isWhole != 0 }

func (p packed) unpack() (c Container) {
	r := unpacker(p)
	c.ID = r.id()
	flags := r[0]
	r = r[1:]
	c.whole, c.HostNetwork = flags&isWhole != 0, flags&isOnHost != 0
	c.Name, c.Image = r.text(), r.text()
	switch r.number() {
	case 0:
		c.Hostname = c.Name
	case 1:
		c.Hostname = c.ID[:min(12, len(c.ID))]
	default:
		c.Hostname = r.text()
	}
	c.Domainname = r.text()
	c.State, c.Health = r.word(states), r.word(healths)
	c.sharesWith = r.id()
	if n := r.number(); n > 0 {
		c.Labels = make(map[string]string, n)
		for range n {
			k := r.text()
			c.Labels[k] = r.text()
		}
	}
	for range r.number() {
		c.Env = append(c.Env, r.text())
	}
	for range r.number() {
		c.Ports = append(c.Ports, Port{Number: uint16(r.number()), Proto: r.word(protos)})
	}
	n := r.number()
	if n > 0 {
		c.Endpoints = make([]Attachment, n)
	}
	for i := range n {
		e := &c.Endpoints[i]
		e.NetworkID, e.Network = r.id(), r.text()
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
			high, low := digit(id[i]), digit(id[i+1])
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

func digit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}

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
type unpacker packed

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
