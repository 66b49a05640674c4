package agent

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/agent/engine"
)

// TestAttention: rarely while nobody looks, at once and often for who does, and at whole multiples in any case.
func TestAttention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var n attention
		var mu sync.Mutex
		var at []time.Duration // since the test began
		start := time.Now()    // at a whole hour
		told := make(chan struct{})
		go n.each(ctx, 4*time.Second, 10*time.Minute, told, func(due time.Time) {
			if time.Now().After(due) {
				t.Errorf("it was due at %v", due)
			}
			mu.Lock()
			at = append(at, time.Since(start))
			mu.Unlock()
		})
		taken := func() []time.Duration {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			defer func() { at = nil }()
			return at
		}
		expect := func(what string, want ...time.Duration) {
			t.Helper()
			if got := taken(); !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		}
		time.Sleep(21 * time.Minute)
		expect("nobody looks", 10*time.Minute, 20*time.Minute)
		time.Sleep(time.Second)
		if now := time.Since(start); !n.begin() {
			t.Error("the first who looks is not the first")
		} else {
			expect("somebody looks", now)
		}
		if n.begin() {
			t.Error("one who looks on is the first")
		}
		time.Sleep(10 * time.Second)
		expect("and looks on", 21*time.Minute+4*time.Second, 21*time.Minute+8*time.Second)
		time.Sleep(8 * time.Minute)
		if got, last := taken(), 22*time.Minute+4*time.Second; len(got) == 0 || got[len(got)-1] != last { // the first multiple after a minute
			t.Errorf("somebody looked on: %v, want the last at %v", got, last)
		}
		told <- struct{}{}
		expect("it is told", time.Since(start))
		n.begin()
		expect("somebody looks just after that")
		cancel()
		synctest.Wait()
	})
}

// TestLook: who asks for the status is told of an engine that is frozen before anybody else has noticed.
func TestLook(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var frozen atomic.Bool
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if frozen.Load() {
			<-r.Context().Done()
			return
		}
		w.Header().Set("Api-Version", "1.41")
		switch path.Base(r.URL.Path) {
		case "version":
			io.WriteString(w, `{"Version":"20.10.24","ApiVersion":"1.41","Os":"linux"}`)
		case "info":
			io.WriteString(w, `{"ID":"x"}`)
		case "networks", "json":
			io.WriteString(w, `[]`)
		case "events":
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })

	a := newAgent(Config{Engines: []EngineConfig{{Endpoint: engine.Endpoint{Name: "dev", URL: "tcp://" + l.Addr().String()}}}}, slog.New(slog.DiscardHandler), "", &journal{})
	w := a.engines[0]
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.eng.Watch(ctx, w.containers, func(u engine.Update) { a.heard(w, u) }, func(_, _ string, _ time.Time) {})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	up := func(want bool) {
		t.Helper()
		for limit := time.Now().Add(20 * time.Second); a.Look(t.Context()).Engines[0].Up != want; {
			if time.Now().After(limit) {
				t.Fatalf("up is %v", !want)
			}
			a.mu.Lock()
			a.dirty = dirty{} // as a pass does
			a.mu.Unlock()
		}
	}
	up(true)
	frozen.Store(true)
	up(false)
	if !a.Status().Engines[0].Up {
		t.Error("it was noticed without a look")
	}
	if e := a.Look(t.Context()).Engines[0]; e.Up || e.Error == "" {
		t.Errorf("a frozen engine: %+v", e)
	}
	frozen.Store(false)
	up(true)
}
