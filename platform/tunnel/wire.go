package tunnel

import (
	"bufio"
	"context"
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

// wire is one side of a stream: frames in, frames out, signs of life both ways, and packets where it has a pump. It is
// bounded: a side that does not keep up is waited for, and given up when it is silent.
type wire struct {
	stream  io.ReadWriteCloser
	in      chan frame // all but packets
	out     chan frame
	packets *ring // on their way out
	pump    atomic.Pointer[pump]
	heard   atomic.Int64 // when bytes came in last, since start
	start   time.Time
	done    chan struct{}
	once    sync.Once
	err     error // set before done is closed
}

func newWire(ctx context.Context, stream io.ReadWriteCloser) *wire {
	w := &wire{
		stream:  stream,
		in:      make(chan frame, 1), // packets go on while a request is under way
		out:     make(chan frame),
		packets: newRing(),
		start:   time.Now(),
		done:    make(chan struct{}),
	}
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
			if p := w.pump.Load(); p != nil {
				p.push(r.room[:headroom+len(f.payload)])
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
		if f.kind != kindPackets {
			buf = appendFrame(buf[:0], f)
			_, err = w.stream.Write(buf)
		} else if batch := w.packets.take(); batch != nil {
			_, err = w.stream.Write(batch)
			w.packets.release()
		}
		if err != nil {
			w.end(fmt.Errorf("write %v: %w", f.kind, err))
			return
		}
	}
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
