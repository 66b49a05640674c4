package tunnel

import (
	"sync"
	"sync/atomic"
	"time"
)

// vigil is how long CPUs stay awake after a packet: the round trips of whoever asks for one thing after the other.
const vigil = 15 * time.Millisecond

// wakeful is a port whose packets keep this machine's CPUs from sleeping. To wake a virtual machine's takes longer than all
// else that a packet needs, and one packet wakes four processes here.
type wakeful struct {
	port
	awake func(bool) // has them stay awake, or sleep again; called in turn
	start time.Time

	bytes  atomic.Int64 // that passed since the last look
	looks  atomic.Bool  // look will be called
	mu     sync.Mutex
	now    bool // as awake was told
	budget budget
}

func newWakeful(p port, awake func(bool)) *wakeful {
	return &wakeful{port: p, awake: awake, start: time.Now(), budget: budget{credit: mostCredit}}
}

func (w *wakeful) read(b []byte, idle func()) (int, bool, error) {
	n, partial, err := w.port.read(b, idle)
	w.passed(n)
	return n, partial, err
}

func (w *wakeful) write(b []byte, at int, h header, partial bool) error {
	w.passed(len(b) - at)
	return w.port.write(b, at, h, partial)
}

func (w *wakeful) passed(n int) {
	w.bytes.Add(int64(n))
	if w.looks.CompareAndSwap(false, true) {
		w.look()
	}
}

// look has the CPUs stay awake for a vigil from now on if something has passed, as far as the budget allows.
func (w *wakeful) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.bytes.Swap(0)
	allowed := w.budget.spend(time.Since(w.start), w.now, n)
	if now := allowed && n > 0; now != w.now {
		w.now = now
		w.awake(now)
	}
	if n > 0 {
		time.AfterFunc(vigil, w.look)
	} else {
		w.looks.Store(false)
	}
}

// A budget says how long CPUs may be kept awake, which takes power. What moves fast pays for itself, as CPUs that work all the
// time gain by it; a burst of questions and answers has its credit; a trickle that never ends gets a twentieth of the time.
type budget struct {
	credit time.Duration
	last   time.Duration // when it was asked last
}

const (
	mostCredit  = 10 * time.Second
	trickle     = 20
	bytesAWhile = 32 << 10 // pay for a millisecond
)

// spend tells at now whether CPUs may be kept awake from then on; since it was asked last they were or were not, and n bytes
// passed.
func (b *budget) spend(now time.Duration, awake bool, n int64) bool {
	since := now - b.last
	b.last = now
	if awake {
		b.credit -= since
	}
	b.credit = min(mostCredit, b.credit+since/trickle+time.Duration(n)*time.Millisecond/bytesAWhile)
	return b.credit > 0
}
