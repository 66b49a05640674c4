package tunnel

import (
	"encoding/binary"
	"sync"
)

const (
	maxPacket = 65535
	lengthLen = 4 // before each packet in a frame of packets: its length (u32, big endian)
	slotLen   = lengthLen + maxPacket
	ringLen   = maxPayload
)

// ring carries packets from the goroutine that reads them to the one that sends them. What is read into it goes out from
// where it lies, as one frame with all that came in meanwhile. It is bounded: without room the reader waits, and whoever
// has more for us must drop it.
type ring struct {
	more chan struct{} // there is something to take
	room chan struct{} // something was taken

	mu   sync.Mutex
	buf  []byte
	tail int // next to take are buf[tail:head], or buf[tail:wrap] and then buf[headerLen:head]
	head int
	wrap int // 0: not wrapped
	busy int // end of what was taken and is not yet released; 0: nothing is
}

func newRing() *ring {
	return &ring{more: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// slot waits for room and gives a place to read a packet into, behind lengthLen bytes. It is nil when done closes first.
func (r *ring) slot(done <-chan struct{}) []byte {
	for {
		if s := r.free(); len(s) >= slotLen {
			return s[:slotLen:slotLen]
		}
		select {
		case <-r.room:
		case <-done:
			return nil
		}
	}
}

func (r *ring) free() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.buf == nil {
		r.buf = make([]byte, ringLen)
	}
	if r.wrap == 0 && r.tail == r.head && r.busy == 0 {
		r.tail, r.head = headerLen, headerLen
	}
	limit := max(0, r.tail-headerLen) // take puts a header there
	switch {
	case r.wrap != 0:
		return r.buf[min(r.head, limit):limit]
	case len(r.buf)-r.head >= slotLen:
		return r.buf[r.head:]
	case limit-headerLen >= slotLen:
		r.wrap, r.head = r.head, headerLen
		return r.buf[r.head:limit]
	}
	return nil
}

// add makes the packet of n bytes in the last slot one to take.
func (r *ring) add(n int) {
	r.mu.Lock()
	binary.BigEndian.PutUint32(r.buf[r.head:], uint32(n))
	r.head += lengthLen + n
	r.mu.Unlock()
	poke(r.more)
}

// take gives a frame of packets, nil when there are none. It is valid until release, which must come before the next take.
func (r *ring) take() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := r.head
	if r.wrap != 0 {
		end = r.wrap
	}
	if r.tail == end {
		return nil
	}
	r.busy = end
	f := r.buf[r.tail-headerLen : end] // the header takes the place of what was released before
	putHeader(f, kindPackets, len(f)-headerLen)
	return f
}

func (r *ring) release() {
	r.mu.Lock()
	r.tail, r.busy = r.busy, 0
	if r.tail == r.wrap {
		r.tail, r.wrap = headerLen, 0
	}
	left := r.tail != r.head
	r.mu.Unlock()
	poke(r.room)
	if left {
		poke(r.more)
	}
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// packets calls each for the packets of a frame. A packet lies at b[at:at+n], and what is before it there is free to use;
// false when a length is wrong, which ends it.
func packets(b []byte, at int, each func(b []byte, at int)) bool {
	for at < len(b) {
		if len(b)-at < lengthLen {
			return false
		}
		n := int(binary.BigEndian.Uint32(b[at:]))
		at += lengthLen
		if n == 0 || n > maxPacket || n > len(b)-at {
			return false
		}
		each(b[:at+n], at)
		at += n
	}
	return true
}
