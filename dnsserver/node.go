package dnsserver

import (
	"bytes"
	"encoding/binary"
	"iter"
	"math"
	"sync/atomic"
	"unsafe"

	"github.com/miekg/dns"
)

// node is what one existing name answers, or several names of one domain that answer the same: a container's own name, its id, and its
// names on networks. It lies in a chunk, which the collector never looks into, and takes as few bytes as it can: a zone has
// a hundred thousand. Once readers see it nothing but below and the turns changes; whoever wants another answer for a name puts
// another node in its place.
type node struct {
	head  uint32 // its size in units of 4 bytes; in the upper 8 bits which of the table's domains all its names end with
	flags uint8  // and in the upper three bits the TTL of its records in seconds
	names uint16 // bytes of the names

	// If flags say so, two uint32 follow: whose turn it is among the A and the AAAA records. Clients ask both in turns, and must not find
	// one of them standing still.
	//
	// Then come the names in the order of bytes, in lower-case wire form without the domain: how many bytes each shares with the one
	// before it, how many follow, and how many names exist exactly one label below it, which is for Zone's writer alone, a byte
	// each; and what follows.
	//
	// Then come the records of each type: the type in a byte, their number, and their data. Addresses lie side by side. All else has
	// its size before it and is in pieces: a byte below 0x80 is one less than the number of bytes that follow; 0x80 is the domain that the 2 bytes
	// after it number; 0x80 and more are so many bytes of what stands as far before the end of the names as the 2 bytes after it say: a
	// name of this node, or something that an earlier one in the chunk has, too.
}

const (
	given    = 1 << iota // by Update; without it an empty non-terminal (RFC 8499) or the zone's own
	wildcard             // answers for names below that do not exist
	own                  // an apex or ns.<apex>, which Update cannot take
	turns                // there are
	ttlShift = 5
)

const (
	nodeSize  = int(unsafe.Sizeof(node{}))
	turnsSize = 8
	nameHead  = 3
	many      = 255 // names below, or more: the table counts them
	maxApexes = 256
	maxNames  = 16 // of one node: a lookup may compare with all
	copied    = 0x80
)

func (n *node) size() int     { return int(n.head&(1<<24-1)) * unit }
func (n *node) apex() int     { return int(n.head >> 24) }
func (n *node) bytes() []byte { return unsafe.Slice((*byte)(unsafe.Pointer(n)), n.size()) }
func (n *node) ttl() uint32   { return uint32(n.flags >> ttlShift) }
func (n *node) kind() uint8   { return n.flags & (given | wildcard | own) }

// turn is whose of the records of a type it is.
func (n *node) turn(rrtype uint16) *atomic.Uint32 {
	at := nodeSize
	if rrtype == typeAAAA {
		at += turnsSize / 2
	}
	return (*atomic.Uint32)(unsafe.Pointer(&n.bytes()[at]))
}

// parts are what follows the header and the turns.
func (n *node) parts() (names, records []byte) {
	b := n.bytes()[nodeSize:]
	if n.flags&turns != 0 {
		b = b[turnsSize:]
	}
	return b[:n.names], b[n.names:]
}

func (n *node) isApex() bool {
	return n.names == nameHead
}

// seek finds a name without its domain, and gives what stands before its bytes; nil when it is not among the names. What the one before has
// in common with the name need not be compared again.
func (n *node) seek(name []byte) (head []byte) {
	names, _ := n.parts()
	same := 0
	for len(names) > 0 {
		shared, more := int(names[0]), int(names[1])
		rest := names[nameHead : nameHead+more]
		if shared < same {
			same = shared // it differs from the one before where that did not differ from name
		} else if shared == same {
			if shared+more == len(name) && string(rest) == string(name[shared:]) {
				return names[:nameHead]
			}
			for i := 0; i < more && same < len(name) && rest[i] == name[same]; i++ {
				same++
			}
		}
		names = names[nameHead+more:]
	}
	return nil
}

// format writes and reads the nodes of a table.
type format struct{ apexes [][]byte } // the served domains in wire form

func (f *format) domain(n *node) []byte { return f.apexes[n.apex()] }

// is tells whether name is one of the node's.
func (f *format) is(n *node, name []byte) bool { return f.head(n, name) != nil }

func (f *format) head(n *node, name []byte) []byte {
	apex := f.domain(n)
	cut := len(name) - len(apex)
	if cut < 0 || string(name[cut:]) != string(apex) {
		return nil
	}
	return n.seek(name[:cut])
}

// names goes through a node's names, whole. Each is valid until the next.
func (f *format) names(n *node) iter.Seq[[]byte] {
	return func(yield func(name []byte) bool) {
		var room [255]byte
		for names, _ := n.parts(); len(names) > 0; names = names[nameHead+int(names[1]):] {
			if !yield(append(append(room[:names[0]], names[nameHead:nameHead+int(names[1])]...), f.domain(n)...)) {
				return
			}
		}
	}
}

// encode writes a node for names, in the order of bytes, of the domain with this number. The records are in wire form, owned by pointers to a
// reply's question, and sorted by type. The dictionary, unless nil, is of the chunk where the node is to be next.
func (f *format) encode(b []byte, names [][]byte, apex int, rrs []byte, kind uint8, d *dictionary) []byte {
	domain, ttl := len(f.apexes[apex]), uint8(0)
	if len(rrs) > 0 {
		ttl = uint8(binary.BigEndian.Uint32(rrs[6:]))
	}
	b = append(b[:0], make([]byte, nodeSize)...)
	if rotates(rrs) {
		kind |= turns
		b = append(b, make([]byte, turnsSize)...)
	}
	from := len(b)
	var before []byte
	for _, name := range names {
		name = name[:len(name)-domain]
		shared := 0
		for shared < min(len(before), len(name)) && before[shared] == name[shared] {
			shared++
		}
		b = append(append(b, byte(shared), byte(len(name)-shared), 0), name[shared:]...)
		if shared == 0 && len(name) > 0 && len(name) == 1+int(name[0]) {
			d.add(b, len(name)-1) // the label without its length
		}
		before = name
	}
	size := uint16(len(b) - from)
	c := compressor{f, b, from, len(b), d}
	for len(rrs) > 0 {
		rrtype, run := rrs[3], rrs
		count, end := 0, 0
		for end < len(rrs) && rrs[end+3] == rrtype {
			end += rrSize(rrs[end:])
			count++
		}
		run, rrs = rrs[:end], rrs[end:]
		c.b = binary.AppendUvarint(append(c.b, rrtype), uint64(count))
		for ; len(run) > 0; run = run[rrSize(run):] {
			data := run[rrHeader:rrSize(run)]
			if width(uint16(rrtype)) > 0 {
				c.b = append(c.b, data...)
				continue
			}
			c.b = binary.AppendUvarint(c.b, uint64(len(data)))
			c.compress(data)
		}
	}
	b = c.b
	for len(b)%unit != 0 {
		b = append(b, 0) // no type
	}
	n := (*node)(unsafe.Pointer(unsafe.SliceData(b)))
	n.head, n.names, n.flags = uint32(len(b)/unit)|uint32(apex)<<24, size, kind|ttl<<ttlShift
	return b
}

// rotates tells whether there are several addresses of one type.
func rotates(rrs []byte) bool {
	before := byte(0)
	for ; len(rrs) > 0; rrs = rrs[rrSize(rrs):] {
		if rrs[3] == before && (before == byte(typeA) || before == byte(typeAAAA)) {
			return true
		}
		before = rrs[3]
	}
	return false
}

// compressor writes data in pieces. What is likely to stand elsewhere is looked for there: a text's value among the node's names, the end of
// a name among the domains, and all in the dictionary.
type compressor struct {
	*format
	b        []byte
	from, to int // where the node's names are in b
	*dictionary
}

// dictionary knows some texts that stand in a chunk.
type dictionary struct {
	chunk []byte // as far as it is written
	texts [512]struct {
		at   uint16
		size uint8
	}
}

// add has a text in the dictionary that is the last of a node to be.
func (d *dictionary) add(node []byte, size int) {
	if d != nil && size > 3 && size < copied {
		t := &d.texts[hashOf(node[len(node)-size:])>>1%uint64(len(d.texts))]
		t.at, t.size = uint16(len(d.chunk)+len(node)-size), uint8(size)
	}
}

// find gives where in the chunk a text is.
func (d *dictionary) find(text []byte) (at int, ok bool) {
	if d == nil {
		return 0, false
	}
	t := d.texts[hashOf(text)>>1%uint64(len(d.texts))]
	at = int(t.at)
	return at, int(t.size) == len(text) && at+len(text) <= len(d.chunk) && string(d.chunk[at:][:len(text)]) == string(text)
}

func (c *compressor) compress(data []byte) {
	if c.known(data) {
		return
	}
	if i := bytes.IndexByte(data, '=') + 1; i > 0 {
		if at := bytes.Index(c.b[c.from:c.to], data[i:]); at >= 0 && len(data)-i >= 4 && len(data)-i < copied {
			if !c.known(data[:i]) {
				c.literal(data[:1]) // the text's length
				if !c.known(data[1:i]) {
					c.literal(data[1:i])
				}
			}
			c.copy(len(data)-i, c.to-c.from-at)
			return
		}
	}
	for i, apex := range c.apexes {
		if bytes.HasSuffix(data, apex) {
			if data = data[:len(data)-len(apex)]; len(data) > 0 {
				c.literal(data[:1]) // a label's length
				if data = data[1:]; !c.known(data) {
					c.literal(data)
				}
			}
			c.copy(0, i)
			return
		}
	}
	c.literal(data)
}

func (c *compressor) literal(data []byte) {
	for len(data) > 0 {
		n := min(len(data), copied)
		c.b = append(append(c.b, byte(n-1)), data[:n]...)
		c.add(c.b, n)
		data = data[n:]
	}
}

// known writes data if it is in the dictionary.
func (c *compressor) known(data []byte) bool {
	at, ok := c.find(data)
	if ok {
		c.copy(len(data), len(c.chunk)+c.to-at)
	}
	return ok
}

func (c *compressor) copy(n, from int) {
	c.b = binary.NativeEndian.AppendUint16(append(c.b, copied|byte(n)), uint16(from))
}

// expand appends data of some size that compress wrote, and gives what follows it.
func (f *format) expand(b, data []byte, size int, names []byte) (out, rest []byte) {
	for size += len(b); len(b) < size; {
		n := int(data[0])
		data = data[1:]
		if n < copied {
			b = append(b, data[:n+1]...)
			data = data[n+1:]
			continue
		}
		from := int(binary.NativeEndian.Uint16(data))
		data = data[2:]
		if n == copied {
			b = append(b, f.apexes[from]...)
			continue
		}
		start := unsafe.Add(unsafe.Pointer(unsafe.SliceData(names)), len(names)-from)
		b = append(b, unsafe.Slice((*byte)(start), n-copied)...)
	}
	return b, data
}

// run appends the records of one type in wire form, if the whole stays within room. Addresses begin each time with another, so that
// clients that take the first spread themselves.
func (f *format) run(b []byte, n *node, rrtype uint16, room int) (out []byte, count int, ok bool) {
	names, records := n.parts()
	for len(records) > 0 && records[0] != 0 {
		found := uint16(records[0])
		size := int(records[1])
		records = records[2:]
		if size >= 0x80 {
			size, records = uvarint(size, records)
		}
		if found == rrtype {
			count = size
			break
		}
		records = f.skip(records, found, size)
	}
	if count == 0 {
		return b, 0, true
	}
	width := width(rrtype)
	if width == 0 {
		b, _, ok = f.expandAll(b, records, rrtype, count, n.ttl(), names, room)
		return b, count, ok
	}
	if len(b)+count*(rrHeader+width) > room {
		return b, count, false
	}
	at := 0
	if count > 1 { // else the turns, which a few names have, are left alone
		at = int((n.turn(rrtype).Add(1) - 1) % uint32(count))
	}
	for range count {
		b = appendHeader(b, rrtype, n.ttl(), width)
		b = append(b, records[at*width:][:width]...)
		if at++; at == count {
			at = 0
		}
	}
	return b, count, true
}

// width is the size of an address, 0 for other types.
func width(rrtype uint16) int {
	switch rrtype {
	case typeA:
		return 4
	case typeAAAA:
		return 16
	}
	return 0
}

// skip gives what follows the records of a type.
func (f *format) skip(records []byte, rrtype uint16, count int) []byte {
	if width := width(rrtype); width > 0 {
		return records[count*width:]
	}
	for range count {
		var size int
		size, records = uvarint(int(records[0]), records[1:])
		for size > 0 {
			switch n := int(records[0]); {
			case n < copied:
				size -= n + 1
				records = records[2+n:]
			case n == copied:
				size -= len(f.apexes[binary.NativeEndian.Uint16(records[1:])])
				records = records[3:]
			default:
				size -= n - copied
				records = records[3:]
			}
		}
	}
	return records
}

func (f *format) expandAll(b, records []byte, rrtype uint16, count int, ttl uint32, names []byte, room int) (out, rest []byte, ok bool) {
	for range count {
		var size int
		size, records = uvarint(int(records[0]), records[1:])
		if len(b)+rrHeader+size > room {
			return b, records, false
		}
		b = appendHeader(b, rrtype, ttl, size)
		b, records = f.expand(b, records, size, names)
	}
	return b, records, true
}

// uvarint goes on after the first byte.
func uvarint(first int, b []byte) (int, []byte) {
	n := first & 0x7f
	for shift := 7; first >= 0x80; shift += 7 {
		first = int(b[0])
		n |= first & 0x7f << shift
		b = b[1:]
	}
	return n, b
}

// records appends all records in wire form, as encode takes them.
func (f *format) records(b []byte, n *node) []byte {
	names, records := n.parts()
	for len(records) > 0 && records[0] != 0 {
		rrtype := uint16(records[0])
		var count int
		count, records = uvarint(int(records[1]), records[2:])
		width := width(rrtype)
		if width == 0 {
			b, records, _ = f.expandAll(b, records, rrtype, count, n.ttl(), names, math.MaxInt)
			continue
		}
		for range count {
			b = append(appendHeader(b, rrtype, n.ttl(), width), records[:width]...)
			records = records[width:]
		}
	}
	return b
}

func (n *node) hasRecords() bool {
	_, records := n.parts()
	return len(records) > 0 && records[0] != 0
}

// rrHeader is the size of a record's owner pointer, type, class, TTL and data length.
const rrHeader = 12

// appendHeader begins a record of the name that the reply's question has.
func appendHeader(b []byte, rrtype uint16, ttl uint32, size int) []byte {
	b = binary.BigEndian.AppendUint64(b, (0xc000|headerSize)<<48|uint64(rrtype)<<32|dns.ClassINET<<16|uint64(ttl>>16))
	return binary.BigEndian.AppendUint32(b, ttl<<16|uint32(size))
}

func rrSize(rr []byte) int { return rrHeader + int(binary.BigEndian.Uint16(rr[10:])) }
