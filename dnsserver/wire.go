package dnsserver

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

const headerSize = 12 // RFC 1035, 4.1.1

// wire answers one message as it came off a socket. It returns nil where silence is the answer: to what is too short
// to be a message, and to replies, lest two servers keep each other talking. The result may use the space of buf.
func (z *Zone) wire(msg, buf []byte, udp bool) []byte {
	var q query
	q.parse(msg, udp)
	return z.reply(&q, msg, buf, udp)
}

// reply is wire for a message that was parsed.
func (z *Zone) reply(q *query, msg, buf []byte, udp bool) []byte {
	if len(msg) < headerSize {
		return nil
	}
	if n := z.fast(q, msg, buf); n > 0 {
		return buf[:n]
	}
	return z.slow(msg, buf, udp)
}

// query is a message as far as parse understands it.
type query struct {
	ordinary bool // one question, of class IN and a usual type, with no option but plain EDNS; the rest is slow's
	edns, do bool
	qtype    uint16
	end      int   // of the question
	limit    int   // bytes of the reply
	node     *node // what seek found
	table    *table
	encloser *node // of a name that fast denied, as things were when the zone had this
	known    int   // bytes of the domain that it is in
	serial   uint32
	touched  uint8
	hash     uint64    // of the name
	size     int       // of the name; 0 when it is none, or none in one piece
	lower    [256]byte // the name in lower case
}

func (q *query) name() []byte { return q.lower[:q.size] }

// parse reads a message.
func (q *query) parse(msg []byte, udp bool) {
	q.ordinary, q.node, q.encloser, q.size = false, nil, nil, 0
	i := headerSize
	for ; ; i += 1 + int(msg[i]) {
		if i >= len(msg) || msg[i] > 63 {
			return
		}
		if msg[i] == 0 {
			break
		}
	}
	i++
	q.end = i + 4
	if i-headerSize > 255 || q.end > len(msg) {
		return
	}
	q.hash = hashOf(q.setName(msg[headerSize:], i-headerSize))

	const oneQuestion = 1 << 48
	counts := binary.BigEndian.Uint64(msg[4:])
	q.edns = counts != oneQuestion
	if msg[2]&0xf8 != 0 || counts&^1 != oneQuestion || binary.BigEndian.Uint16(msg[i+2:]) != dns.ClassINET {
		return // a reply, another opcode, other sections
	}
	switch q.qtype = binary.BigEndian.Uint16(msg[i:]); q.qtype {
	case typeA, typeAAAA, typePTR, typeTXT, dns.TypeHTTPS: // there are none of HTTPS, but browsers ask
	default:
		return
	}
	q.limit = dns.MaxMsgSize
	if udp {
		q.limit = dns.MinMsgSize
	}
	opt := msg[q.end:]
	if q.edns {
		// Root, type, payload size; extended rcode, version 0, flags; no options: RFC 6891, 6.1.2
		if len(opt) != optSize || opt[0] != 0 || binary.BigEndian.Uint16(opt[1:]) != dns.TypeOPT || opt[6] != 0 || opt[9]|opt[10] != 0 {
			return
		}
		q.do = opt[7]&0x80 != 0
		if udp {
			q.limit = replyLimit(binary.BigEndian.Uint16(opt[3:]))
		}
	}
	q.ordinary = q.edns || len(opt) == 0
}

// setName takes the name that a message's rest begins with, and gives it where it is best read: memory that was just written eight bytes at a time
// is slow to read in other pieces.
func (q *query) setName(rest []byte, size int) []byte {
	if q.size = size; len(rest) < 8 {
		lower(q.lower[:copy(q.lower[:], rest)])
		return q.name()
	}
	changed := uint64(0)
	for i := 0; i < size; i += 8 {
		at := min(i, len(rest)-8)
		was := binary.NativeEndian.Uint64(rest[at:])
		is := lower8(was)
		binary.NativeEndian.PutUint64(q.lower[at:at+8], is)
		changed |= was ^ is
	}
	if changed != 0 {
		return q.name()
	}
	return rest[:size]
}

// lower8 is lower for eight bytes at once: with bit 7 of each out of the way, one addition carries into it from 'A' on, another
// beyond 'Z'.
func lower8(w uint64) uint64 {
	const each = 0x0101010101010101
	low := w &^ (0x80 * each)
	upper := (low + (0x80-'A')*each) &^ (low + (0x7f-'Z')*each) &^ w & (0x80 * each)
	return w | upper>>2
}

// seek finds the nodes of queries in passes, so that the memory of all is fetched at once rather than one after the other.
func (z *Zone) seek(qs []query) {
	t := z.table.Load()
	for i := range qs {
		if qs[i].ordinary {
			qs[i].node, qs[i].table = t.peek(qs[i].hash), t
		}
	}
	for i := range qs {
		if n := qs[i].node; n != nil {
			qs[i].touched = n.flags // only begins the fetch; comparing waits for it
		}
	}
	for i := range qs {
		if n := qs[i].node; n != nil && !t.is(n, qs[i].name()) {
			qs[i].node = nil // fast looks again
		}
	}
}

const (
	optSize = 11
	soaSize = 50 // with pointers for its three names
)

// fast answers an ordinary query into buf and returns the reply's size: 0 means that slow has to. It neither allocates nor locks.
func (z *Zone) fast(q *query, msg, buf []byte) int {
	if !q.ordinary {
		return 0
	}
	n, t, exact := q.node, q.table, true
	if n == nil {
		q.serial = z.serial.Load()
		t = z.table.Load()
		if n, exact = t.lookup(q.name(), q.hash); n == nil {
			return 0
		}
	}
	room := min(q.limit, len(buf))
	if q.edns {
		room -= optSize
	}
	if q.end > room {
		return 0
	}
	b := append(buf[:0], msg[:q.end]...)
	rcode, count, fits := dns.RcodeNameError, 0, true
	if exact || n.flags&wildcard != 0 {
		rcode = dns.RcodeSuccess
		b, count, fits = t.run(b, n, q.qtype, room)
	} else {
		q.encloser, q.known = n, len(t.domain(n))
	}
	if !fits || count == 0 && q.end+soaSize > room {
		return 0
	}
	b[2] = b[2]&1 | 0x84 // rd as asked; a reply, authoritative
	b[3] = byte(rcode)
	clear(b[6:headerSize])
	binary.BigEndian.PutUint16(b[6:], uint16(count))
	if count == 0 {
		b[9] = 1
		b = z.appendSOA(b, q.end-4-len(t.domain(n)))
	}
	if q.edns {
		b[11] = 1
		do := byte(0)
		if q.do {
			do = 0x80
		}
		b = append(b, 0, 0, byte(dns.TypeOPT), ednsSize>>8, ednsSize&0xff, 0, 0, do, 0, 0, 0)
	}
	return len(b)
}

// appendSOA is soa for a message where the apex's name lies at the given place.
func (z *Zone) appendSOA(b []byte, apex int) []byte {
	high, low := 0xc0|byte(apex>>8), byte(apex)
	b = append(b, high, low, 0, byte(dns.TypeSOA), 0, dns.ClassINET)
	b = binary.BigEndian.AppendUint32(b, z.negativeTTL)
	b = append(b, 0, soaSize-rrHeader)
	b = append(b, 2, 'n', 's', high, low)
	b = append(append(b, "\x0ahostmaster"...), high, low)
	b = binary.BigEndian.AppendUint32(b, z.serial.Load())
	b = binary.BigEndian.AppendUint32(b, soaRefresh)
	b = binary.BigEndian.AppendUint32(b, soaRetry)
	b = binary.BigEndian.AppendUint32(b, soaExpire)
	return binary.BigEndian.AppendUint32(b, z.negativeTTL)
}
