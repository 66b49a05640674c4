//go:build unix

package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/fairlead-dev/fairlead/platform/tunnel"
	"github.com/fairlead-dev/fairlead/resolver"
	"github.com/fairlead-dev/fairlead/routes"
	"github.com/google/go-cmp/cmp"
)

// known is an Agent that has heard two engines, without either: one is up, the other is lost and has hostile words.
func known() *Agent {
	a := &Agent{
		cfg: Config{Domains: []string{"docker", "test"}}, log: slog.New(slog.DiscardHandler), version: "v1", journal: &journal{},
		wake: make(chan struct{}, 1), passed: make(chan struct{}), method: resolver.None, methodWhy: "told",
		problems: []string{"routes: no"},
	}
	a.names = newDirectory(a.claimsOf)
	heard := func(name string, reach platform.Reach, nets []engine.Network, cs ...engine.Container) *watched {
		w := &watched{cfg: EngineConfig{Endpoint: engine.Endpoint{Name: name, URL: "unix:///" + name}}, eng: engine.New(engine.Endpoint{}, a.log), priority: len(a.engines), up: true, listed: true,
			info: engine.Info{Version: "20.10.24"}, reach: reach, networks: nets, containers: &engine.Store{}, changed: map[uint32]engine.Container{}}
		for _, c := range cs {
			w.containers.Put(c)
		}
		a.setEngines(append(a.engines, w))
		return w
	}
	net17 := []engine.Network{{ID: "1", Name: "back", Driver: "bridge", Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")}}}
	net18 := []engine.Network{{ID: "2", Name: "back\n", Driver: "bridge", Subnets: []netip.Prefix{netip.MustParsePrefix("172.18.0.0/16"), netip.MustParsePrefix("8.8.8.0/24")}}}
	native := platform.Reach{Kind: platform.Native, Why: "as told"}
	gateway := platform.Reach{Kind: platform.Gateway, Via: netip.MustParseAddr("192.168.99.100"), Dev: "vboxnet0", Source: netip.MustParseAddr("192.168.99.1")}
	web := engine.Container{ID: webID, Name: "web", Ports: []engine.Port{{Number: 80, Proto: "tcp"}}, Endpoints: []engine.Attachment{on("back", "172.17.0.2", "www")}}
	other := engine.Container{ID: dbID, Name: "web", Ports: []engine.Port{{Number: 53, Proto: "u\x1bdp"}}, Endpoints: []engine.Attachment{on("back\n", "172.18.0.2", "evil")}}
	heard("dev", native, net17, web)
	lost := heard("test", gateway, net18, other)
	lost.up, lost.err = false, fmt.Errorf("%w: \x1b[31mgone\nhint: no", engine.ErrNoAnswer)
	lost.pilot.open, lost.pilot.asked = true, tunnel.Admission{Sources: []netip.Addr{gateway.Source}, Subnets: net18[0].Subnets[:1]}

	views := []view{{name: "dev", listed: true, networks: net17, reach: native}, {name: "test", listed: true, networks: net18, reach: gateway}}
	a.subnets = compile(nil, hostFacts{}, views)
	for i := range a.subnets {
		if a.subnets[i].State == Wanted {
			a.subnets[i].State = Installed
		}
	}
	a.passNames(true)
	return a
}

// endpoint serves a at a socket of its own until the test ends.
func endpoint(t *testing.T, a *Agent) (path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "fairlead") // t.TempDir is too long for a socket on some systems
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "c.sock")
	l, err := platform.ListenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.serveControl(ctx, l, false) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the endpoint ended with: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the endpoint does not end")
		}
	})
	return path
}

// Where everybody may ask, nobody changes anything.
func TestControlForEverybody(t *testing.T) {
	a := known()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.serveControl(ctx, l, true) }()
	c := dial(t, l.Addr().String())
	if s, err := c.Status(t.Context()); err != nil || len(s.Subnets) == 0 {
		t.Errorf("status: %v, %v", s, err)
	}
	for verb, call := range map[string]func(context.Context) error{
		"reconcile": func(ctx context.Context) error { _, err := c.Reconcile(ctx); return err },
		"teardown":  func(ctx context.Context) error { _, err := c.TearDown(ctx); return err },
		"handover":  c.HandOver,
	} {
		err := call(t.Context())
		if p := Explain(err); p.Code != ExitNotPermitted || !strings.Contains(p.Hint, "fairlead") && !strings.Contains(p.Hint, "Administrator") {
			t.Errorf("%s: %v, hint %q", verb, err, p.Hint)
		}
	}
	if a.Status().Paused || a.succeeded() {
		t.Error("it was torn down, or would leave all behind")
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func dial(t *testing.T, path string) *Client {
	t.Helper()
	c, err := Dial(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

func TestControl(t *testing.T) {
	a := known()
	path := endpoint(t, a)
	if i, err := os.Stat(path); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v, %v", i.Mode(), err)
	}
	c := dial(t, path)

	status, err := c.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want := a.Status()
	if d := cmp.Diff(want, status, values, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(func(a, b routes.Route) bool { return a == b })); d != "" {
		t.Errorf("status (-agent +client):\n%s", d)
	}
	if status.Schema != statusSchema || status.Version != "v1" || len(status.Engines) != 2 || len(status.Subnets) != 3 || len(status.Losers) == 0 || status.Clean() {
		t.Errorf("status: %+v", status)
	}
	if e := status.Engines[1]; !e.Stale || e.Up || e.Hint == "" || e.Pilot == nil || !e.Pilot.Open || strings.ContainsAny(e.Error, "\n\x1b") {
		t.Errorf("the lost engine: %+v", e)
	}

	names, err := c.Names(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(a.Names(), names, values); d != "" {
		t.Errorf("names (-agent +client):\n%s", d)
	}
	got := ""
	for _, n := range names {
		got += fmt.Sprintf("%s %v %s %v %v %v\n", n.Name, n.Addrs, n.Engine, n.Containers, n.Networks, n.Ports)
	}
	for _, line := range []string{
		`web.docker [172.17.0.2] dev [web] [back] [80/tcp]`,
		`web.test [172.17.0.2] dev [web] [back] [80/tcp]`,
		`web.test.docker [172.18.0.2] test [web] ["back\n"] [53/"u\x1bdp"]`,
		`evil.docker [172.18.0.2] test [web] ["back\n"] [53/"u\x1bdp"]`,
		`3f2a9c01d4e5.docker [172.17.0.2] dev [web] [back] [80/tcp]`,
	} {
		if !slices.Contains(strings.Split(got, "\n"), line) {
			t.Errorf("names lack %s:\n%s", line, got)
		}
	}
	if strings.Contains(got, "\x1b") {
		t.Errorf("names command the terminal: %q", got)
	}
}

func TestControlUnknownCalls(t *testing.T) {
	c := dial(t, endpoint(t, known()))
	var into any
	for _, call := range [][2]string{{"GET", "nothing"}, {"GET", "../v1"}, {"GET", "reconcile"}, {"GET", "teardown"}, {"GET", "handover"}, {"POST", "status"}, {"DELETE", "names"}} {
		if err := c.call(context.Background(), call[0], call[1], &into); err == nil {
			t.Errorf("%v was answered: %v", call, into)
		}
	}
	if err := c.call(context.Background(), "GET", "names", new(Status)); err == nil {
		t.Error("names pass for a status")
	}
}

func TestDialNobody(t *testing.T) {
	dir := t.TempDir()
	nothing := filepath.Join(dir, "nothing")
	dead := filepath.Join(dir, "d")
	if len(dead) > 100 {
		t.Fatalf("%s is too long for a socket", dead)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, path := range []string{nothing, filepath.Join(nothing, "below"), dead} {
		if _, err := Dial(context.Background(), path); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: %v", path, err)
		}
	}
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(context.Background(), file); err == nil {
		t.Error("a file was dialled")
	}
	if os.Getuid() != 0 {
		if err := os.Chmod(dead, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := Dial(context.Background(), dead); Explain(err).Code != ExitNotPermitted {
			t.Errorf("a socket of somebody else: %v", err)
		}
	}
}

// TestControlHostile: whatever else is connected, the endpoint answers.
func TestControlHostile(t *testing.T) {
	path := endpoint(t, known())
	c := dial(t, path)
	for name, words := range map[string]string{
		"silent":         "",
		"garbage":        "\x00\xff\x16\x03\x01 nothing like it\n\n\r\n\r\n",
		"half a request": "GET /v1/status HTTP/1.1\r\nHost: x\r\nX: ",
		"endless header": "GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 2<<20),
		"endless path":   "GET /" + strings.Repeat("x", 2<<20) + " HTTP/1.1\r\n\r\n",
		"lying length":   "POST /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nx",
		"never reading":  strings.Repeat("GET /v1/names HTTP/1.1\r\nHost: x\r\n\r\n", 1000),
	} {
		conn, err := platform.DialControl(context.Background(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() // at the end of the test: all are there at once
		_ = conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		_, _ = io.WriteString(conn, words) // the endpoint may hang up, or stop reading
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if s, err := c.Status(ctx); err != nil || len(s.Engines) != 2 {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}

// TestClientHostile: an answer that is none is an error.
func TestClientHostile(t *testing.T) {
	for _, answer := range []string{"", "\x00\xff", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[1,\x1b[2J]", "HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\n{}\n"} {
		path := filepath.Join(t.TempDir(), "c")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = bufio.NewReader(conn).ReadString('\n')
				_, _ = io.WriteString(conn, answer)
				conn.Close()
			}
		}()
		if s, err := dial(t, path).Status(context.Background()); err == nil {
			t.Errorf("%q was taken for %+v", answer, s)
		}
		l.Close()
	}
}

// An agent that ends between the dialling and its answer counts as one that does not run.
func TestAgentEndsMeanwhile(t *testing.T) {
	for _, answer := range []string{"", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"} {
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "c"))
		if err != nil {
			t.Fatal(err)
		}
		c := dial(t, l.Addr().String())
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Read(make([]byte, 1)) // what is unread makes it a reset
				_, _ = io.WriteString(conn, answer)
				conn.Close()
			}
		}()
		if u, err := c.TearDown(t.Context()); !errors.Is(err, ErrNotRunning) {
			t.Errorf("after %q: %v, %v", answer, u, err)
		}
		l.Close()
		if u, err := c.TearDown(t.Context()); !errors.Is(err, ErrNotRunning) {
			t.Errorf("gone: %v, %v", u, err)
		}
	}
}

// What an agent made stays for its heir, if that comes soon.
func TestHandOver(t *testing.T) {
	a := known()
	c := dial(t, endpoint(t, a))
	if a.succeeded() {
		t.Error("nobody announced an heir")
	}
	if err := c.HandOver(t.Context()); err != nil || !a.succeeded() {
		t.Errorf("announced: %v, %v", a.succeeded(), err)
	}
	a.mu.Lock()
	a.heir = a.heir.Add(-heirTimeout)
	a.mu.Unlock()
	if a.succeeded() {
		t.Error("the heir is waited for without end")
	}
}

// TestStatusJSON: a reader in any language gets lists, never null.
func TestStatusJSON(t *testing.T) {
	nothing, bare := known(), known()
	nothing.engines, nothing.subnets, nothing.problems, nothing.names = nil, nil, nil, newDirectory(nil)
	for _, w := range bare.engines {
		for _, c := range w.containers.All() {
			c.Ports = nil
			w.containers.Put(c)
		}
	}
	for _, v := range []any{nothing.Status(), nothing.Names(), bare.Status(), bare.Names()} {
		if b, err := json.Marshal(v); err != nil || strings.Contains(string(b), "null") {
			t.Errorf("null in %s, %v", b, err)
		}
	}
}
