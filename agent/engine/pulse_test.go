package engine

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestPulse: one connection serves all pings, an error ends it, and only a whole 200 in time is a sign of life.
func TestPulse(t *testing.T) {
	t.Parallel()
	const patience = 20 * time.Second
	fine := func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "OK") }
	var mu sync.Mutex
	var answer http.HandlerFunc
	var from []string
	set := func(h http.HandlerFunc) {
		mu.Lock()
		answer = h
		mu.Unlock()
	}
	l, url := listenTCP(t)
	serve(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/_ping" {
			sound.ServeHTTP(w, r)
			return
		}
		mu.Lock()
		from = append(from, r.RemoteAddr)
		now := answer
		mu.Unlock()
		now(w, r)
	}))
	set(fine)
	c, err := at(url).dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var p pulse
	defer p.close()
	for range 3 {
		if err := p.beat(t.Context(), c, patience); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	if n := len(from); n < 3 || from[n-1] != from[n-3] {
		t.Errorf("pings from %q", from)
	}
	mu.Unlock()
	for name, bad := range map[string]http.HandlerFunc{
		"an error": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "not now", http.StatusServiceUnavailable) },
		"no end":   func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, strings.Repeat("OK", 1<<16)) },
		"cut":      func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		if set(bad); p.beat(t.Context(), c, patience) == nil {
			t.Errorf("%s: a sign of life", name)
		}
		if set(fine); p.beat(t.Context(), c, patience) != nil {
			t.Errorf("after %s: it does not connect anew", name)
		}
	}
	set(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	if p.beat(t.Context(), c, 50*time.Millisecond) == nil {
		t.Error("no answer: a sign of life")
	}
	set(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		fine(w, r)
	})
	for range 2 {
		if err := p.beat(t.Context(), c, patience); err != nil {
			t.Errorf("an engine that closes every connection: %v", err)
		}
	}
}
