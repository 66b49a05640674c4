package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	beat    = 5 * time.Second
	silence = 15 * time.Second
)

// ErrSilent ends a stream whose other side has sent nothing, not even a sign of life, for 15 s.
var ErrSilent = errors.New("the other side has been silent for 15 s")

// link is one side of a stream: frames in, frames out, signs of life both ways. It buffers nothing: a side that does not
// keep up is waited for, and given up when it is silent.
type link struct {
	stream io.ReadWriteCloser
	in     chan frame
	out    chan frame
	heard  chan struct{} // bytes came in
	done   chan struct{}
	once   sync.Once
	err    error // set before done is closed
}

func newLink(ctx context.Context, stream io.ReadWriteCloser) *link {
	l := &link{
		stream: stream,
		in:     make(chan frame),
		out:    make(chan frame),
		heard:  make(chan struct{}, 1),
		done:   make(chan struct{}),
	}
	go l.watch(ctx)
	go l.receive()
	go l.transmit()
	return l
}

// end ends the link for the first reason given and closes the stream, which frees a blocked reader or writer.
func (l *link) end(reason error) {
	l.once.Do(func() {
		l.err = reason
		close(l.done)
		l.stream.Close()
	})
}

func (l *link) send(f frame) {
	select {
	case l.out <- f:
	case <-l.done:
	}
}

func (l *link) watch(ctx context.Context) {
	quiet := time.NewTimer(silence)
	defer quiet.Stop()
	for {
		select {
		case <-l.heard:
			quiet.Reset(silence)
		case <-quiet.C:
			l.end(ErrSilent)
		case <-ctx.Done():
			l.end(context.Cause(ctx))
		case <-l.done:
			return
		}
	}
}

func (l *link) receive() {
	r := listener{l}
	for {
		f, err := readFrame(r)
		switch {
		case err != nil:
			l.end(err)
			return
		case f.kind == kindPing:
		default:
			select {
			case l.in <- f:
			case <-l.done:
				return
			}
		}
	}
}

func (l *link) transmit() {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	var buf []byte
	for {
		f := frame{kind: kindPing}
		select {
		case f = <-l.out:
		case <-tick.C:
		case <-l.done:
			return
		}
		buf = appendFrame(buf[:0], f)
		if _, err := l.stream.Write(buf); err != nil {
			l.end(fmt.Errorf("write %v: %w", f.kind, err))
			return
		}
	}
}

// listener notes every byte as a sign of life, so that a large frame on a slow stream is one too.
type listener struct{ *link }

func (r listener) Read(p []byte) (int, error) {
	n, err := r.stream.Read(p)
	if n > 0 {
		select {
		case r.heard <- struct{}{}:
		default:
		}
	}
	return n, err
}
