package engine

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// TestWires: a connection serves one question after the other, unless an answer was not read to its end; what the engine closed
// meanwhile is dialled anew; who gives up is not held up; and what has no end is cut.
func TestWires(t *testing.T) {
	t.Parallel()
	l, _ := listenTCP(t)
	hang := make(chan struct{})
	serve(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/long":
			io.WriteString(w, strings.Repeat("a", 1<<16))
		case "/last":
			w.Header().Set("Connection", "close")
		case "/cut":
			w.Header().Set("Content-Length", "9")
			io.WriteString(w, "a")
		case "/never":
			hang <- struct{}{}
			<-r.Context().Done()
		case "/begun":
			w.(http.Flusher).Flush()
			hang <- struct{}{}
			<-r.Context().Done()
		case "/header":
			w.Header().Set("X", strings.Repeat("a", 2*maxHeader))
		case "/odd name":
			io.WriteString(w, r.Method+" "+r.URL.RawQuery)
		}
	}))
	var mu sync.Mutex
	var dialled []net.Conn
	x := &wires{dial: func(ctx context.Context) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		mu.Lock()
		defer mu.Unlock()
		dialled = append(dialled, c)
		return c, err
	}}
	ask := func(ctx context.Context, method, path string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		return x.RoundTrip(req)
	}
	for i, step := range []struct {
		method, path string
		read         int64 // bytes, -1: all
		says         string
		dialled      int
	}{
		{"GET", "/odd%20name?a=b", -1, "GET a=b", 1},
		{"GET", "/long", -1, "", 1},
		{"POST", "/odd%20name", -1, "POST ", 2},
		{"GET", "/long", 1, "a", 2},
		{"GET", "/last", -1, "", 2},
		{"GET", "/odd%20name", -1, "GET ", 3},
		{"GET", "/cut", 1, "a", 3},
		{"GET", "/odd%20name", -1, "GET ", 4},
	} {
		answer, err := ask(t.Context(), step.method, step.path)
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		body := io.Reader(answer.Body)
		if step.read >= 0 {
			body = io.LimitReader(body, step.read)
		}
		says, err := io.ReadAll(body)
		if answer.Body.Close(); err != nil || step.says != "" && string(says) != step.says {
			t.Errorf("step %d: %.20q, %v", i, says, err)
		}
		if len(dialled) != step.dialled {
			t.Errorf("step %d: %d connections, want %d", i, len(dialled), step.dialled)
		}
	}
	dialled[len(dialled)-1].Close() // as the engine may
	if answer, err := ask(t.Context(), "GET", "/long"); err != nil {
		t.Error(err)
	} else {
		answer.Body.Close()
	}
	for _, path := range []string{"/never", "/begun"} {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-hang
			cancel()
		}()
		answer, err := ask(ctx, "GET", path)
		if err == nil {
			_, err = io.ReadAll(answer.Body)
			answer.Body.Close()
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := ask(t.Context(), "GET", "/header"); err == nil {
		t.Error("a header without an end was read")
	}
	x.close()
	if answer, err := ask(t.Context(), "GET", "/odd%20name"); err != nil {
		t.Error(err)
	} else if _, err := io.ReadAll(answer.Body); err != nil {
		t.Error(err)
	} else if answer.Body.Close(); len(x.idle) > 0 {
		t.Error("a connection is kept after the end")
	}
}
