package tunnel

import (
	"encoding/binary"
	"sync"
)

const (
	maxPacket = 65535
	lengthLen = 4 // before each packet in a frame of packets: its length (u32, big endian), and unsummed
	slotLen   = lengthLen + maxPacket

	// unsummed is set in the length of a packet whose TCP or UDP checksum holds only the sum of the pseudo-header.
	unsummed = 1 << 31

	ackLen   = 4                  // a frame of packets begins with how many bytes of packets were taken so far (u32, big endian)
	frontLen = headerLen + ackLen // before the packets of a frame

	bulkLen  = 4 << 20 // as much as a TCP connection has on its way at most, unless somebody tuned it
	fastLen  = 64 << 10
	fastMost = 4 << 10  // larger packets are never fast
	batchLen = 96 << 10 // of packets in a frame, or one packet
)

// queue carries packets from the goroutine that reads them to whoever sends them, in two lanes. Small packets of flows that
// have nothing in the other lane overtake all that is there: an echo request, a question, the first packets of a connection,
// the acknowledgements of what comes the other way. A flow's own packets keep their order. It is bounded: without room the
// reader waits, and whoever has more for us must drop it.
type queue struct {
	more chan struct{} // there is something to take
	room chan struct{} // something was taken

	mu   sync.Mutex
	bulk ring
	fast ring
	from *ring // that of the frame that was taken
	// Bytes that entered the bulk lane so far, that left it, and that had entered when the last packet of a flow did. Flows
	// share a place by chance.
	entered, left uint64
	last          [1024]uint64
}

func newQueue() *queue {
	return &queue{
		more: make(chan struct{}, 1),
		room: make(chan struct{}, 1),
		bulk: ring{size: bulkLen},
		fast: ring{size: fastLen},
	}
}

// slot waits for room and gives a place to read a packet into, behind lengthLen bytes. It is nil when done closes first.
func (q *queue) slot(done <-chan struct{}) []byte {
	for {
		q.mu.Lock()
		s := q.bulk.free(slotLen)
		q.mu.Unlock()
		if s != nil {
			return s[:slotLen:slotLen]
		}
		select {
		case <-q.room:
		case <-done:
			return nil
		}
	}
}

// add makes the packet of n bytes in the last slot one to take. length is n, or n and unsummed. It returns how much there is
// to take now.
func (q *queue) add(length uint32, flow uint32) int {
	n := int(length &^ unsummed)
	q.mu.Lock()
	defer q.mu.Unlock()
	last := &q.last[flow%uint32(len(q.last))]
	if n <= fastMost && *last <= q.left {
		if s := q.fast.free(lengthLen + n); s != nil {
			copy(s[lengthLen:], q.bulk.buf[q.bulk.head+lengthLen:][:n])
			q.fast.add(length)
			return q.size()
		}
	}
	q.bulk.add(length)
	q.entered += uint64(lengthLen + n)
	*last = q.entered
	return q.size()
}

func (q *queue) size() int { return q.bulk.used + q.fast.used }

// empty tells whether there is nothing to take.
func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.size() == 0
}

// take gives a frame of packets from the lanes that it may, its front yet to be filled in, nil when there are none. It is
// valid until release, which must come before the next take.
func (q *queue) take(bulk, fast bool) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if fast && q.fast.used > 0 {
		q.from = &q.fast
		return q.fast.take(batchLen)
	}
	if bulk && q.bulk.used > 0 {
		q.from = &q.bulk
		return q.bulk.take(batchLen)
	}
	return nil
}

func (q *queue) release() {
	q.mu.Lock()
	n := q.from.release()
	if q.from == &q.bulk {
		q.left += uint64(n)
	}
	q.mu.Unlock()
	poke(q.room)
}

// ring holds packets one behind the other, so that what was read into it goes out from where it lies.
type ring struct {
	size int
	buf  []byte
	tail int // next to take are buf[tail:head], or buf[tail:wrap] and then buf[frontLen:head]
	head int
	wrap int // 0: not wrapped
	busy int // end of what was taken and is not yet released; 0: nothing is
	used int // bytes of all that was added and not yet released
}

// free gives room for n bytes or more at head, nil when there is none.
func (r *ring) free(n int) []byte {
	if r.buf == nil {
		r.buf = make([]byte, r.size)
	}
	if r.used == 0 {
		r.tail, r.head, r.wrap = frontLen, frontLen, 0
	}
	limit := max(0, r.tail-frontLen) // take has its front there
	switch {
	case r.wrap != 0 && limit-r.head >= n:
		return r.buf[r.head:limit]
	case r.wrap != 0:
		return nil
	case len(r.buf)-r.head >= n:
		return r.buf[r.head:]
	case limit-frontLen >= n:
		r.wrap, r.head = r.head, frontLen
		return r.buf[r.head:limit]
	}
	return nil
}

func (r *ring) add(length uint32) {
	binary.BigEndian.PutUint32(r.buf[r.head:], length)
	n := lengthLen + int(length&^unsummed)
	r.head += n
	r.used += n
}

// take gives packets of about most bytes, behind frontLen bytes to fill in. There must be one.
func (r *ring) take(most int) []byte {
	end := r.head
	if r.wrap != 0 {
		end = r.wrap
	}
	at := r.tail
	for at < end && at-r.tail < most {
		at += lengthLen + int(binary.BigEndian.Uint32(r.buf[at:])&^unsummed)
	}
	r.busy = at
	return r.buf[r.tail-frontLen : at]
}

// release returns how many bytes of packets there were.
func (r *ring) release() int {
	n := r.busy - r.tail
	r.used -= n
	r.tail, r.busy = r.busy, 0
	if r.tail == r.wrap {
		r.tail, r.wrap = frontLen, 0
	}
	return n
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// packets calls each for the packets of a frame. A packet lies at b[at:at+n], and what is before it there is free to use;
// false when a length is wrong, which ends it.
func packets(b []byte, at int, each func(b []byte, at int, partial bool)) bool {
	for at < len(b) {
		if len(b)-at < lengthLen {
			return false
		}
		length := binary.BigEndian.Uint32(b[at:])
		n := int(length &^ unsummed)
		at += lengthLen
		if n == 0 || n > maxPacket || n > len(b)-at {
			return false
		}
		each(b[:at+n], at, length&unsummed != 0)
		at += n
	}
	return true
}
