package tunnel

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	beat    = 5 * time.Second
	silence = 15 * time.Second
)

// ErrSilent ends a stream whose other side has sent nothing, not even a sign of life, for 15 s.
var ErrSilent = errors.New("the other side has been silent for 15 s")

const (
	// ackEvery is after how many bytes of packets the other side is told that they were taken, if nothing else is sent
	// meanwhile. It may send twice as many before.
	ackEvery = leastWindow / 2
	// prompt is how much may be on its way for one who reads packets to send them, too.
	prompt = 32 << 10
)

// wire is one side of a stream: frames in, frames out, signs of life both ways, and packets where it has a pump. It is
// bounded: a side that does not keep up is waited for, and given up when it is silent.
type wire struct {
	stream  io.ReadWriteCloser
	in      chan frame // all but packets
	out     chan frame
	packets *queue // on their way out
	pump    atomic.Pointer[pump]
	heard   atomic.Int64 // when bytes came in last, since start
	start   time.Time
	done    chan struct{}
	once    sync.Once
	err     error // set before done is closed

	writing sync.Mutex // held by whoever writes to the stream
	ack     [frontLen]byte
	sent    atomic.Uint32 // bytes of packets, modulo 2^32
	acked   atomic.Uint32 // of sent: the other side has handed them on
	taken   atomic.Uint32 // bytes of packets that came and were handed on
	told    atomic.Uint32 // of taken: the other side knows
	full    atomic.Bool   // packets wait for the other side to take some
	pace    pace
}

func newWire(ctx context.Context, stream io.ReadWriteCloser) *wire {
	w := &wire{
		stream:  stream,
		in:      make(chan frame, 1), // packets go on while a request is under way
		out:     make(chan frame),
		packets: newQueue(),
		start:   time.Now(),
		done:    make(chan struct{}),
	}
	w.pace.limit.Store(leastWindow)
	go w.watch(ctx)
	go w.receive()
	go w.transmit()
	return w
}

// end ends the wire for the first reason given and closes the stream, which frees a blocked reader or writer.
func (w *wire) end(reason error) {
	w.once.Do(func() {
		w.err = reason
		close(w.done)
		w.stream.Close()
	})
}

func (w *wire) send(f frame) {
	select {
	case w.out <- f:
	case <-w.done:
	}
}

func (w *wire) watch(ctx context.Context) {
	quiet := time.NewTimer(silence)
	defer quiet.Stop()
	for {
		select {
		case <-quiet.C:
			left := silence + time.Duration(w.heard.Load()) - time.Since(w.start)
			if left <= 0 {
				w.end(ErrSilent)
			}
			quiet.Reset(left)
		case <-ctx.Done():
			w.end(context.Cause(ctx))
		case <-w.done:
			return
		}
	}
}

func (w *wire) receive() {
	// Small: the bulk of a frame is read past it, and a small frame with its header at once.
	r := frameReader{Reader: bufio.NewReaderSize(listener{w}, 4<<10)}
	for {
		f, err := r.next()
		switch {
		case err != nil:
			w.end(err)
			return
		case f.kind == kindPing:
		case f.kind == kindPackets:
			if err := w.arrived(r.room[:headroom+len(f.payload)]); err != nil {
				w.end(err)
				return
			}
		default:
			select {
			case w.in <- f:
			case <-w.done:
				return
			}
		}
	}
}

// arrived takes a frame of packets, b[headroom:].
func (w *wire) arrived(b []byte) error {
	if len(b) < headroom+ackLen {
		return fmt.Errorf("%v without a front", kindPackets)
	}
	acked := binary.BigEndian.Uint32(b[headroom:])
	if w.sent.Load()-acked > mostWindow+maxPayload {
		return fmt.Errorf("%v that take more than was sent", kindPackets)
	}
	w.acked.Store(acked)
	w.pace.heard(acked, time.Since(w.start))
	if w.full.Swap(false) {
		poke(w.packets.more)
	}
	if p := w.pump.Load(); p != nil {
		p.push(b, headroom+ackLen)
	}
	if w.taken.Add(uint32(len(b)-headroom-ackLen))-w.told.Load() < ackEvery {
		return nil
	}
	// Whoever reads the stream must not wait for it to take something, or both sides may.
	if w.sent.Load()-w.acked.Load() < prompt && w.writing.TryLock() {
		defer w.writing.Unlock()
		return w.flush(0)
	}
	poke(w.packets.more)
	return nil
}

func (w *wire) transmit() {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	var buf []byte
	for {
		f := frame{kind: kindPing}
		select { // first what must not wait for packets
		case f = <-w.out:
		case <-tick.C:
		default:
			select {
			case f = <-w.out:
			case <-tick.C:
			case <-w.packets.more:
				f.kind = kindPackets
			case <-w.done:
				return
			}
		}
		var err error
		w.writing.Lock()
		if f.kind != kindPackets {
			buf = appendFrame(buf[:0], f)
			_, err = w.stream.Write(buf)
		}
		if err == nil {
			err = w.flush(mostWindow)
		}
		w.writing.Unlock()
		if err != nil {
			w.end(fmt.Errorf("write %v: %w", f.kind, err))
			return
		}
	}
}

// flush sends packets as long as fewer than most bytes are on their way, and fewer than the pace allows; small ones beyond
// that too. It tells what was taken. It is called by who is writing.
func (w *wire) flush(most uint32) error {
	for {
		limit := w.pace.limit.Load()
		on := w.sent.Load() - w.acked.Load()
		if on >= limit {
			w.full.Store(true)
			if on = w.sent.Load() - w.acked.Load(); on < limit { // some was taken meanwhile
				w.full.Store(false)
			}
		}
		f := w.packets.take(on < min(most, limit), on < limit+fastLen)
		if f == nil {
			break
		}
		sent := w.sent.Add(uint32(len(f) - frontLen))
		w.pace.sent(sent, w.acked.Load(), time.Since(w.start))
		_, err := w.stream.Write(w.front(f))
		w.packets.release()
		if err != nil {
			return err
		}
	}
	if w.taken.Load()-w.told.Load() < ackEvery {
		return nil
	}
	_, err := w.stream.Write(w.front(w.ack[:]))
	return err
}

// front fills in what is before the packets of a frame.
func (w *wire) front(f []byte) []byte {
	putHeader(f, kindPackets, len(f)-headerLen)
	taken := w.taken.Load()
	w.told.Store(taken)
	binary.BigEndian.PutUint32(f[headerLen:], taken)
	return f
}

// soon sends packets that were added, now if that is free to do, as nobody has to be woken for it.
func (w *wire) soon() error {
	if w.packets.empty() {
		return nil
	}
	if w.writing.TryLock() {
		err := w.flush(prompt)
		w.writing.Unlock()
		if err != nil {
			return fmt.Errorf("write %v: %w", kindPackets, err)
		}
	}
	if !w.full.Load() && !w.packets.empty() {
		poke(w.packets.more)
	}
	return nil
}

// listener notes every byte as a sign of life, so that a large frame on a slow stream is one too.
type listener struct{ *wire }

func (r listener) Read(p []byte) (int, error) {
	n, err := r.stream.Read(p)
	if n > 0 {
		r.heard.Store(int64(time.Since(r.start)))
	}
	return n, err
}
