package dnsserver

import (
	"context"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	maxWaiting      = 256 // queries, and as many again for names that are expected
	defaultPatience = 250 * time.Millisecond
	denialAge       = time.Minute
)

// unknown asks the zone's owner about names before they are denied.
type unknown struct {
	ask      func(context.Context, string)
	worth    func(ended bool) int
	patience time.Duration

	mu      sync.Mutex
	asked   map[string]*call // the running ones
	tried   int              // of them, for names that Expect did not name
	waiting int
}

// expected counts the names that may appear any moment, by their hashes; two names may share a place.
type expected [1 << 13]atomic.Int32

func (e *expected) place(hash uint64) *atomic.Int32 { return &e[hash>>1%uint64(len(e))] }

// Expect says that the names, which Update could take, may appear any moment, n times; with a negative n it takes that back. A
// query for one of them, or for a name below one, or for its first label with others behind, waits for Unknown although that is not
// Worth it, and has its own room among those that wait: whoever asks for names at random does not take it.
func (z *Zone) Expect(names []string, n int) {
	z.ended.Store(nil)
	for _, name := range names {
		if ValidName(name) {
			z.expected.place(hashOf(appendName(nil, name))).Add(int32(n))
		}
	}
}

// Expects tells whether a query for a name that does not exist would wait because of Expect.
func (z *Zone) Expects(name string) bool {
	if !ValidName(name) {
		return false
	}
	var q query
	q.size = copy(q.lower[:], appendName(nil, name))
	q.hash = hashOf(q.name())
	return z.expects(&q)
}

// expects tells whether a query's name, which does not exist, is one that Expect is about. It does not allocate.
func (z *Zone) expects(q *query) bool {
	if q.size <= 1 {
		return false
	}
	apex := q.known
	if q.encloser == nil { // fast did not look
		t := z.table.Load()
		encloser, _ := t.lookup(q.name(), q.hash)
		if encloser == nil {
			return false
		}
		apex = len(t.domain(encloser))
	}
	is := func(hash uint64) bool { return z.expected.place(hash).Load() > 0 }
	whole := q.name()
	if is(q.hash) {
		return true
	}
	for name := above(whole); len(name) > apex; name = above(name) {
		if is(hashOf(name)) {
			return true
		}
	}
	var short [256]byte // "web" of "web.backend" or "web.dev"
	n := copy(short[:], whole[:1+int(whole[0])])
	n += copy(short[n:], whole[len(whole)-apex:])
	return is(hashOf(short[:n]))
}

// ended is what was last withdrawn.
type ended struct {
	names []uint64 // hashes
	until time.Time
}

func (e *ended) has(q *query) bool {
	return e != nil && slices.Contains(e.names, q.hash) && time.Now().Before(e.until)
}

// call is one of ask. Who comes while it runs may know more than it has seen, and needs the next one.
type call struct {
	done chan struct{}
	next *call
}

// denies reports whether a reply is NXDOMAIN.
func denies(reply []byte) bool {
	return len(reply) >= headerSize && reply[3]&0xf == dns.RcodeNameError
}

// waiters are the queries of one socket that wait for news of their name.
type waiters struct {
	sync.WaitGroup
	udp  bool
	send func(reply []byte, to netip.AddrPort) // from any goroutine
}

// settle is called with a reply that denies the name asked for. It returns what to send now; or nil, and sends later. q, msg
// and reply may be used again when it has returned.
func (z *Zone) settle(w *waiters, q *query, msg, reply []byte, from netip.AddrPort) []byte {
	done := z.unknown.begin(q, z.expects(q), z.ended.Load().has(q))
	if done == nil {
		return z.deny(q, msg, reply, w.udp)
	}
	msg = slices.Clone(msg)
	w.Go(func() {
		patience := time.NewTimer(z.unknown.patience)
		defer patience.Stop()
		select {
		case <-done:
		case <-patience.C:
		}
		z.unknown.end()
		var q query
		q.parse(msg, w.udp)
		buf := make([]byte, ednsSize)
		reply := z.reply(&q, msg, buf, w.udp)
		if denies(reply) {
			reply = z.deny(&q, msg, reply, w.udp)
		}
		w.send(reply, from)
	})
	return nil
}

// begin counts one more query that waits, and tells until when; nil: it must not, or need not, as its name can never exist.
func (u *unknown) begin(q *query, expected, ended bool) <-chan struct{} {
	if u.ask == nil || q.size == 0 {
		return nil
	}
	room, more := maxWaiting, math.MaxInt
	if expected {
		room = 2 * maxWaiting
	} else if u.worth != nil {
		if more = u.worth(ended); more <= 0 { // a flood neither locks nor allocates
			return nil
		}
	}
	name, _, err := dns.UnpackDomainName(q.lower[:], 0)
	if name = canonical(name); err != nil || !ValidName(name) {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	running := u.asked[name]
	if u.waiting >= room || running == nil && (len(u.asked) >= room || u.tried >= more) {
		return nil
	}
	u.waiting++
	if running == nil {
		first := &call{done: make(chan struct{})}
		u.asked[name] = first
		if !expected {
			u.tried++
		}
		go u.run(name, first, expected)
		return first.done
	}
	if running.next == nil {
		running.next = &call{done: make(chan struct{})}
	}
	return running.next.done
}

// run makes a call, and then those that were wanted meanwhile.
func (u *unknown) run(name string, c *call, expected bool) {
	for c != nil {
		ctx, cancel := context.WithTimeout(context.Background(), u.patience)
		u.ask(ctx, name)
		cancel()
		close(c.done)
		u.mu.Lock()
		if c = c.next; c != nil {
			u.asked[name] = c
		} else if delete(u.asked, name); !expected {
			u.tried--
		}
		u.mu.Unlock()
	}
}

func (u *unknown) end() {
	u.mu.Lock()
	u.waiting--
	u.mu.Unlock()
}

// denied remembers the names that were denied lately: the high bits of a name's hash and the second, where the low bits point.
// A newer name may take an older one's place.
type denied [1 << 13]atomic.Uint64

var started = time.Now()

// now is in seconds since the start, from 1 on; it fits 24 bits for half a year, and then begins anew.
func (d *denied) now() uint64 { return uint64(time.Since(started)/time.Second+1) & (1<<24 - 1) }

func (d *denied) place(hash uint64) *atomic.Uint64 { return &d[hash>>1%uint64(len(d))] }

// recent tells whether what was denied then may still be remembered by somebody.
func recent(now, then uint64) bool { return (now-then)&(1<<24-1) <= uint64(denialAge/time.Second) }

// deny remembers that the name, and those above it that do not exist either, are denied, and gives the reply to send: reply, or
// another if the zone has changed since that was made. So either the client has what an Update made, or Denied tells its caller.
func (z *Zone) deny(q *query, msg, reply []byte, udp bool) []byte {
	if q.size <= 1 {
		return reply
	}
	now := z.denied.now()
	if z.lastDenied.Load() != now {
		z.lastDenied.Store(now)
	}
	z.denied.mark(q.hash, now)
	t := z.table.Load()
	known := 1 // the root's length
	if q.encloser != nil {
		known = q.known
	}
	for name := above(q.name()); len(name) > known; name = above(name) {
		hash := hashOf(name)
		if t.find(name, hash) != nil {
			break
		}
		z.denied.mark(hash, now)
	}
	if q.encloser != nil && q.serial == z.serial.Load() {
		return reply
	}
	return z.reply(q, msg, reply[:cap(reply)], udp)
}

func (d *denied) mark(hash, now uint64) { d.place(hash).Store(hash&^(1<<24-1) | now) }

// Denied reports whether the name, or one below it, was answered with NXDOMAIN within the last minute, which the OS may have
// cached; or one above it, from which some caches conclude that nothing lies below. Asked after the Update that gives the name a
// record, it misses no such answer, as long as fewer than some thousand names are denied in a minute.
func (z *Zone) Denied(name string) bool {
	now, last := z.denied.now(), z.lastDenied.Load()
	if last == 0 || !recent(now, last) || !ValidName(name) {
		return false
	}
	var room [256]byte
	for b := appendName(room[:0], name); b[0] != 0; b = above(b) {
		hash := hashOf(b)
		v := z.denied.place(hash).Load()
		if v != 0 && v>>24 == hash>>24 && recent(now, v) {
			return true
		}
	}
	return false
}
