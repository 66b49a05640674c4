package engine

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
	"time"
)

// wires speak HTTP to a socket of this host as http.Transport does, one question at a time on each connection and by the goroutine
// that asks: a transport's wakes two more for each question, and takes twice the code, which stays in memory for it. No question
// has a body.
type wires struct {
	dial func(context.Context) (net.Conn, error)

	mu     sync.Mutex
	idle   []*wire
	closed bool
}

const (
	maxIdle   = 4       // connections; the engine has a goroutine for each
	maxHeader = 1 << 20 // bytes of an answer
)

// wire is one connection.
type wire struct {
	net.Conn
	in   *bufio.Reader
	left int // bytes that may be read
}

func (w *wire) Read(b []byte) (n int, err error) {
	if w.left <= 0 {
		return 0, errors.New("the engine's answer has no end")
	}
	n, err = w.Conn.Read(b)
	w.left -= n
	return n, err
}

func (x *wires) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	for {
		var w *wire
		if r.Method == http.MethodGet { // which may be asked twice
			w = x.take()
		}
		used := w != nil
		if !used {
			conn, err := x.dial(ctx)
			if err != nil {
				return nil, err
			}
			w = &wire{Conn: conn}
			w.in = bufio.NewReader(w)
		}
		stop := context.AfterFunc(ctx, func() { _ = w.SetDeadline(time.Unix(1, 0)) })
		answer, err := w.ask(r)
		if err == nil {
			answer.Body = &wireBody{Reader: answer.Body, ctx: ctx, from: x, on: w, stop: stop, last: answer.Close}
			return answer, nil
		}
		stop()
		w.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !used { // else the engine may have closed it long ago
			return nil, err
		}
	}
}

func (w *wire) ask(r *http.Request) (*http.Response, error) {
	head := r.Method + " " + r.URL.RequestURI() + " HTTP/1.1\r\nHost: " + r.URL.Host + "\r\n"
	if r.Method != http.MethodGet {
		head += "Content-Length: 0\r\n"
	}
	if _, err := io.WriteString(w, head+"\r\n"); err != nil {
		return nil, err
	}
	w.left = maxHeader
	answer, err := http.ReadResponse(w.in, r)
	w.left = math.MaxInt
	return answer, err
}

func (x *wires) take() (w *wire) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if n := len(x.idle); n > 0 {
		w, x.idle = x.idle[n-1], x.idle[:n-1]
	}
	return w
}

func (x *wires) put(w *wire) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed || len(x.idle) == maxIdle {
		w.Close()
		return
	}
	x.idle = append(x.idle, w)
}

// close closes those that nobody uses, and each other when its answer is closed.
func (x *wires) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, w := range x.idle {
		w.Close()
	}
	x.idle, x.closed = nil, true
}

// wireBody is an answer. When it is closed its connection is used again if all was read, and closed otherwise.
type wireBody struct {
	io.Reader
	ctx   context.Context
	from  *wires
	on    *wire
	stop  func() bool // ctx ends no more what is read
	last  bool        // the engine closes the connection
	ended bool
}

func (b *wireBody) Read(p []byte) (n int, err error) {
	n, err = b.Reader.Read(p)
	b.ended = b.ended || err == io.EOF
	if err != nil && err != io.EOF && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	return n, err
}

func (b *wireBody) Close() error {
	w := b.on
	if w == nil {
		return nil
	}
	b.on = nil
	if b.stop() && b.ended && !b.last {
		b.from.put(w)
		return nil
	}
	return w.Close()
}
