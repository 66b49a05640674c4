package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// watching follows a Watch: the picture that its updates make.
type watching struct {
	t       testing.TB
	e       *Engine
	updates chan Update
	ended   chan struct{}
	cancel  context.CancelFunc

	containers map[string]Container
	networks   []Network
	info       *Info
	downs      []error
	fulls      int
	settles    int
}

func brisk() pace {
	p := usual
	p.backoffMin = 5 * time.Millisecond
	p.backoffMax = 20 * time.Millisecond
	return p
}

// watch starts a Watch that ends with the test. The spies see each update before Watch goes on.
func watch(t testing.TB, url string, p pace, spies ...func(Update)) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	known := &Store{}
	w := &watching{t: t, updates: make(chan Update, 1<<14), ended: make(chan struct{}), cancel: cancel, containers: map[string]Container{}}
	w.e = at(url)
	w.e.pace = p
	go func() {
		defer close(w.ended)
		w.e.Watch(ctx, known, func(u Update) {
			known.Take(u)
			for _, spy := range spies {
				spy(u)
			}
			w.updates <- u
		}, func(_, _ string, _ time.Time) {})
	}()
	t.Cleanup(w.end)
	return w
}

func (w *watching) end() {
	w.cancel()
	select {
	case <-w.ended:
	case <-time.After(20 * time.Second):
		w.t.Error("Watch does not end")
	}
}

// until takes updates in until done says that all is as wanted.
func (w *watching) until(what string, done func() bool) {
	w.t.Helper()
	for deadline := time.After(20 * time.Second); !done(); {
		select {
		case u := <-w.updates:
			w.take(u)
		case <-deadline:
			w.t.Fatalf("%s: it does not come; %d full listings, lost %q, last picture %.2000s", what, w.fulls, w.downs, fmt.Sprintf("%+v", w.containers))
		}
	}
}

// untilSettled waits until nothing is pending, and all that was told is taken in.
func (w *watching) untilSettled() {
	w.t.Helper()
	w.until("settled", func() bool { return !w.e.Pending() && len(w.updates) == 0 })
}

func (w *watching) take(u Update) {
	w.t.Helper()
	if u.Down != nil {
		if u.Info != nil || u.Full || u.Networks != nil || u.Containers != nil || u.Gone != nil {
			w.t.Errorf("Down with more: %+v", u)
		}
		w.downs = append(w.downs, u.Down)
		return
	}
	if u.Settled {
		w.settles++
	}
	if u.Info != nil {
		w.info = u.Info
	}
	if u.Networks != nil {
		w.networks = u.Networks
	}
	if u.Full {
		w.fulls++
	}
	for _, c := range u.Containers {
		w.containers[c.ID] = c
	}
	for _, id := range u.Gone {
		if _, ok := w.containers[id]; !ok {
			w.t.Errorf("gone, but was never there: %s", id)
		}
		delete(w.containers, id)
	}
}

// untilListed takes the first full listing in.
func (w *watching) untilListed() {
	w.t.Helper()
	w.until("a full listing", func() bool { return w.fulls > 0 })
}

// untilFilled waits until all that was listed was inspected too.
func (w *watching) untilFilled() {
	w.t.Helper()
	w.until("inspects", func() bool {
		for _, c := range w.containers {
			if !c.whole {
				return false
			}
		}
		return w.fulls > 0
	})
}

// names shows the picture in one line: "db=172.17.0.3 web=".
func (w *watching) names() string {
	var all []string
	for _, c := range w.containers {
		all = append(all, c.Name+"="+strings.Trim(fmt.Sprint(c.Addrs()), "[]"))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func (w *watching) untilNames(want string) {
	w.t.Helper()
	w.until("wanted "+want, func() bool { return w.names() == want })
}

// untilTrue waits until the picture is the engine's truth.
func (w *watching) untilTrue(d *daemon) {
	w.t.Helper()
	same := cmp.Options{exactly, cmpopts.EquateEmpty()}
	w.until("the engine's truth", func() bool { return cmp.Equal(d.truth(), w.containers, same) })
}

func (w *watching) wantNoLoss() {
	w.t.Helper()
	if len(w.downs) > 0 {
		w.t.Errorf("the engine was lost: %q", w.downs)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	old := d.run("old", "bridge")
	made := d.create("made", "bridge", "alias")
	w := watch(t, d.url, brisk())
	w.untilListed()
	if w.info == nil || w.info.ID != "the-id" || w.info.API != "1.41" {
		t.Errorf("info %+v", w.info)
	}
	w.untilNames("old=" + d.addr(old))
	d.start(made)
	w.untilTrue(d)
	if c := w.containers[made]; c.Name != "made" || !slices.Equal(c.Endpoints[0].Aliases, []string{"alias"}) || c.Labels["fairlead.names"] != "by-test" {
		t.Errorf("started: %+v", c)
	}
	d.rename(made, "renamed")
	w.untilNames("old=" + d.addr(old) + " renamed=" + d.addr(made))
	d.change(made, "pause", func(g *guest) { g.State.Status = "paused" })
	w.until("paused", func() bool { return w.containers[made].State == "paused" })
	d.stop(made)
	w.untilNames("old=" + d.addr(old))
	d.remove(made)
	host := d.run("host", "host")
	w.until("on the host's network", func() bool { return w.containers[host].HostNetwork })
	d.stop(old)
	d.remove(old)
	w.untilNames("host=")
	w.wantNoLoss()
	if w.fulls != 1 {
		t.Errorf("%d full listings", w.fulls)
	}

	w.end()
	d.run("late", "bridge")
	for len(w.updates) > 0 {
		w.take(<-w.updates)
	}
	if w.names() != "host=" || len(w.downs) > 0 {
		t.Errorf("after the end it goes on: %s, %q", w.names(), w.downs)
	}
}

func TestWatchRemovedAtOnce(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	w := watch(t, d.url, brisk())
	w.untilListed()
	id := d.run("web", "bridge")
	w.untilNames("web=" + d.addr(id))
	d.mu.Lock() // docker rm -f: it is gone before anybody can look
	g := d.containers[id]
	delete(d.containers, id)
	d.leave(g)
	d.container("die", g)
	d.container("destroy", g)
	d.mu.Unlock()
	w.untilNames("")
	w.wantNoLoss()
}

// Of many that end at once nothing is left.
func TestWatchManyEnd(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	var ids []string
	for i := range 3 * storm {
		ids = append(ids, d.run(fmt.Sprint("c", i), "bridge"))
	}
	w := watch(t, d.url, brisk())
	w.untilFilled()
	for _, id := range ids {
		d.stop(id)
	}
	w.until("nothing", func() bool { return len(w.containers) == 0 })
	w.untilSettled()
	s := w.e.live.Load()
	w.end()
	if looks := len(s.due) + len(s.looking); len(w.containers) > 0 || len(s.dead) > looks || len(s.joining) > 0 {
		t.Errorf("live %v; dead %v, joining %v, and %d looks to come", w.containers, s.dead, s.joining, looks)
	}
}

func TestWatchNetworks(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	w := watch(t, d.url, brisk())
	w.untilListed()
	names := func() string {
		var all []string
		for _, n := range w.networks {
			all = append(all, n.Name)
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	if names() != "bridge" {
		t.Errorf("networks %q", names())
	}
	id := d.addNetwork("back", "10.9.0.0/16")
	w.until("a new network", func() bool { return names() == "back bridge" })
	i := slices.IndexFunc(w.networks, func(n Network) bool { return n.ID == id })
	if got := fmt.Sprint(w.networks[i].Subnets); got != "[10.9.0.0/16]" {
		t.Errorf("subnets %s", got)
	}
	d.removeNetwork(id)
	w.until("a network's end", func() bool { return names() == "bridge" })
}

func TestWatchPilotsAreNotShown(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	pilot := func(name string) string {
		id := d.create(name, "bridge")
		d.change(id, "update", func(g *guest) { g.Config.Labels = map[string]string{PilotLabel: "i1"} })
		d.start(id)
		return id
	}
	pilot("before")
	w := watch(t, d.url, brisk())
	w.untilListed()
	pilot("after")
	id := d.run("web", "bridge")
	w.untilNames("web=" + d.addr(id))
}

// The list is already made when a container starts, and is sent afterwards.
func TestWatchEventDuringList(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	first := d.run("first", "bridge")
	var once sync.Once
	d.setHook(func(w http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
		if strings.HasSuffix(r.URL.Path, "/containers/json") {
			late(w, r, handle, func() {
				once.Do(func() { d.run("second", "bridge"); d.rename(first, "renamed") })
			})
			return
		}
		handle(w, r)
	})
	w := watch(t, d.url, brisk())
	w.untilTrue(d)
	w.untilListed()
	w.untilTrue(d)
	if len(w.containers) != 2 {
		t.Errorf("picture %s", w.names())
	}
	if w.fulls != 1 {
		t.Errorf("%d full listings", w.fulls)
	}
}

// A container stops after its inspect for the listing was answered, before the answer is here.
func TestWatchStopDuringListing(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	id := d.run("web", "bridge")
	var once sync.Once
	d.onInspect(id, func(w http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
		late(w, r, handle, func() { once.Do(func() { d.stop(id) }) })
	})
	w := watch(t, d.url, brisk())
	w.untilListed()
	w.untilNames("")
}

// dockerd sends the header before it subscribes: what happens between, after the list was made, comes by "since" alone.
func TestWatchEventBeforeSubscription(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	listed := make(chan struct{})
	var once sync.Once
	d.setHook(func(w http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/events"):
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			select {
			case <-listed:
			case <-r.Context().Done():
				return
			}
			handle(quietHeader{w}, r)
		case strings.HasSuffix(r.URL.Path, "/containers/json"):
			late(w, r, handle, func() {
				once.Do(func() { d.run("web", "bridge"); close(listed) })
			})
		default:
			handle(w, r)
		}
	})
	w := watch(t, d.url, brisk())
	w.until("the container", func() bool { return len(w.containers) == 1 })
	w.untilListed()
	w.untilTrue(d)
	if w.fulls != 1 {
		t.Errorf("%d full listings", w.fulls)
	}
}

// quietHeader is for a header that was sent before.
type quietHeader struct{ http.ResponseWriter }

func (quietHeader) WriteHeader(int) {}
func (q quietHeader) Flush()        { q.ResponseWriter.(http.Flusher).Flush() }

// Some engines send the stream's header with the first event.
func TestWatchLateHeader(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	old := d.run("old", "bridge")
	header := make(chan struct{})
	d.setHook(func(w http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
		if strings.HasSuffix(r.URL.Path, "/events") {
			select {
			case <-header:
			case <-r.Context().Done():
				return
			}
		}
		handle(w, r)
	})
	p := brisk()
	p.pingTimeout = 300 * time.Millisecond
	w := watch(t, d.url, p)
	w.untilNames("old=" + d.addr(old))
	d.stop(old)
	web := d.run("web", "bridge")
	close(header)
	w.untilNames("web=" + d.addr(web))
}

func TestWatchBurst(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	id, marker := d.run("web", "bridge"), d.run("marker", "bridge")
	d.forget()
	w := watch(t, d.url, brisk())
	w.untilFilled()
	before := d.inspected(id)
	// mark returns when all earlier events have been taken in.
	mark := func(name string) {
		d.rename(marker, name)
		w.until("the mark", func() bool { return w.containers[marker].Name == name })
	}

	for range 200 {
		for _, noise := range []string{"exec_create: /bin/sh", "exec_start: /bin/sh", "exec_die", "top", "resize", "attach"} {
			d.emit(events.ContainerEventType, noise, id, nil)
		}
	}
	mark("after the noise")
	if n := d.inspected(id) - before; n != 0 {
		t.Errorf("%d inspects for exec and the like", n)
	}

	asked, release := d.hold(id)
	d.change(id, "update", func(*guest) {})
	<-asked
	for i := range 1000 {
		d.rename(id, fmt.Sprint("web", i))
	}
	mark("after the burst")
	close(release)
	// One look was under way; all that came meanwhile is one more.
	d.untilInspected(id, before+2)
	mark("at the end")
	w.untilTrue(d)
	if n := d.inspected(id) - before; n != 2 {
		t.Errorf("%d inspects for a burst, want 2", n)
	}
	w.wantNoLoss()
}

// A look that the engine holds back until the container runs has seen that it joined and started; of what else comes meanwhile it may not know.
func TestWatchLooksOnce(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	marker := d.run("marker", "bridge")
	w := watch(t, d.url, brisk())
	w.untilFilled()
	marks := 0
	mark := func() { // all earlier events have been taken in
		marks++
		name := fmt.Sprint("marker", marks)
		d.rename(marker, name)
		w.until("the mark", func() bool { return w.containers[marker].Name == name })
	}
	for news, want := range map[string]int{"": 1, "update": 2} {
		id := d.create("web"+news, "bridge")
		d.untilInspected(id, 1)
		mark()
		before := d.inspected(id)
		asked, release := d.hold(id)
		d.beginStart(id)
		<-asked
		d.endStart(id, true)
		if news != "" {
			d.change(id, news, func(*guest) {})
		}
		mark()
		close(release)
		d.untilInspected(id, before+want)
		mark()
		w.untilTrue(d)
		if n := d.inspected(id) - before; n != want {
			t.Errorf("%d inspects for a start with %q, want %d", n, news, want)
		}
	}
	w.wantNoLoss()
}

func TestNewsSeen(t *testing.T) {
	t.Parallel()
	at := func(state string, networks ...string) looked {
		r := looked{live: state == "running" || state == "restarting", c: Container{State: state}}
		for _, n := range networks {
			r.c.Endpoints = append(r.c.Endpoints, Attachment{NetworkID: n, Addrs: []netip.Addr{netip.MustParseAddr("172.17.0.2")}})
		}
		return r
	}
	join := func(network string) note { return note{what: joined, network: network} }
	for _, c := range []struct {
		name  string
		since []note
		found looked
		want  bool
	}{
		{"nothing", nil, at("created"), true},
		{"started, runs", []note{{what: started}}, at("running", "n1"), true},
		{"started, is about to", []note{{what: started}}, at("created"), false},
		{"started again and again", []note{{what: started}}, at("restarting"), false},
		{"joined and started", []note{join("n1"), {what: started}}, at("running", "n1"), true},
		{"joined another", []note{join("n2")}, at("running", "n1"), false},
		{"joined both", []note{join("n2"), join("n1")}, at("running", "n1", "n2"), true},
		{"joined, does not run yet", []note{join("n1")}, at("created", "n1"), false},
		{"left", []note{{what: left}}, at("running", "n1"), false},
		{"died and started", []note{{what: died}, join("n1"), {what: started}}, at("running", "n1"), false},
		{"renamed", []note{{}}, at("running", "n1"), false},
	} {
		var since news
		for _, n := range c.since {
			since = since.and(n)
		}
		if got := since.seen(c.found); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestWatchEarlyAddress(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	w := watch(t, d.url, brisk())
	w.untilFilled()
	for _, ok := range []bool{true, false} {
		id := d.create("web", "bridge", "www")
		d.untilInspected(id, 1)
		d.beginStart(id)
		addr := d.addr(id)
		// The engine holds back the inspect: only the network has told.
		w.untilNames("web=" + addr)
		w.until("its aliases", func() bool { return w.containers[id].whole })
		c := w.containers[id]
		if c.State != "running" || c.Labels["fairlead.names"] != "by-test" || len(c.Endpoints) != 1 || c.Endpoints[0].Network != "bridge" || !slices.Equal(c.Endpoints[0].Aliases, []string{"www"}) {
			t.Errorf("early picture %+v", c)
		}
		d.endStart(id, ok)
		if ok {
			w.untilTrue(d)
			d.stop(id)
		}
		w.untilNames("")
		d.remove(id)
	}
	w.wantNoLoss()
}

// The address comes while the look at the new container is still on its way: its labels came with the event.
func TestWatchEarlyAddressBeforeLook(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	d.forget()
	w := watch(t, d.url, brisk())
	w.untilFilled()
	asked, release, once := make(chan struct{}), make(chan struct{}), sync.Once{}
	d.setHook(func(rw http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
		first := false
		if strings.HasSuffix(r.URL.Path, "/json") && strings.Contains(r.URL.Path, "/containers/0") {
			once.Do(func() { first = true })
		}
		if !first {
			handle(rw, r)
			return
		}
		late(rw, r, handle, func() {
			close(asked)
			<-release
		})
	})
	id := d.create("web", "bridge", "www")
	<-asked
	d.beginStart(id)
	w.untilNames("web=" + d.addr(id))
	if c := w.containers[id]; c.Labels["fairlead.names"] != "by-test" || c.whole {
		t.Errorf("early picture %+v", c)
	}
	close(release)
	w.until("its aliases", func() bool { return w.containers[id].whole })
	if got := w.names(); got != "web="+d.addr(id) {
		t.Errorf("after the look, which knows nothing of the address: %s", got)
	}
	d.endStart(id, false)
	w.untilNames("")
}

// A container that was made long ago, and told of by no event, is started.
func TestWatchEarlyAddressOfOld(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	id := d.create("web", "bridge")
	d.forget()
	w := watch(t, d.url, brisk())
	w.untilListed()
	d.untilSubscribed()
	d.beginStart(id)
	w.untilNames("web=" + d.addr(id))
	if c := w.containers[id]; c.Labels["fairlead.names"] != "by-test" {
		t.Errorf("early picture %+v", c)
	}
	d.endStart(id, true)
	w.untilTrue(d)
}

// watchOne watches an engine with one container, whose beginning is told by no event.
func watchOne(t *testing.T, p pace) (d *daemon, w *watching, id string) {
	t.Helper()
	d = newDaemon(t)
	id = d.run("web", "bridge")
	d.forget()
	w = watch(t, d.url, p)
	w.untilFilled()
	d.untilSubscribed()
	return d, w, id
}

// What died is gone at once, however long the engine takes to tell about it, and nobody needs to wait for that.
func TestWatchDies(t *testing.T) {
	t.Parallel()
	p := brisk()
	p.restart = time.Hour
	d, w, id := watchOne(t, p)
	release := make(chan struct{})
	d.onInspect(id, func(rw http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
		<-release
		handle(rw, r)
	})
	d.stop(id)
	w.untilNames("")
	w.untilSettled()
	before := w.settles
	w.e.LookAt(id) // as a question for its name does
	w.until("told that there is nothing to wait for", func() bool { return w.settles > before })
	close(release)
	d.start(id)
	w.untilTrue(d)
}

// An engine that is heard late may have started again what it says has died: who asks waits until it was looked at.
func TestWatchDiedLongAgo(t *testing.T) {
	t.Parallel()
	p := brisk()
	p.restart = time.Nanosecond
	d, w, id := watchOne(t, p)
	asked, release := make(chan struct{}, 9), make(chan struct{})
	d.onInspect(id, func(rw http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
		asked <- struct{}{}
		<-release
		handle(rw, r)
	})
	d.mu.Lock()
	d.container("die", d.containers[id])
	d.mu.Unlock()
	w.untilNames("")
	w.e.LookAt(id) // as a question for its name does
	<-asked
	if !w.e.Pending() || !w.e.Promising() {
		t.Error("a question for it would not wait")
	}
	close(release)
	w.untilTrue(d)
}

// What was killed does not run, though the engine says so for a while, unless it was started since; what does not end of it is back in time.
func TestWatchKilled(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	started := func(id string, at time.Time) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.containers[id].State.StartedAt = at.Format(time.RFC3339Nano)
	}
	id, other := d.run("web", "bridge"), d.run("db", "bridge")
	started(id, time.Now())
	p := brisk()
	p.kill, p.relistEvery = time.Hour, 50*time.Millisecond
	w := watch(t, d.url, p)
	w.untilFilled()
	d.untilSubscribed()
	kill := func() {
		d.emit(events.ContainerEventType, "kill", id, map[string]string{"name": "web", "signal": "9"})
		w.untilNames("db=" + d.addr(other))
	}
	kill()
	for range 3 {
		full := w.fulls
		d.change(id, "rename", func(*guest) {}) // has it looked at, and later listed: both say that it runs
		w.until("listed", func() bool { return w.fulls > full })
	}
	w.untilSettled()
	w.untilNames("db=" + d.addr(other))

	started(id, time.Now())
	w.e.LookAt(id) // as a question for its name does
	w.untilTrue(d)

	kill()
	d.stop(id)
	d.start(id)
	w.untilTrue(d)
	w.end()

	p.kill = time.Nanosecond
	w = watch(t, d.url, p)
	w.untilFilled()
	d.untilSubscribed()
	d.emit(events.ContainerEventType, "kill", id, map[string]string{"name": "web", "signal": "9"})
	w.until("gone", func() bool { return len(w.containers) == 1 })
	w.untilTrue(d)
}

// What is about to end promises nothing, and what is about to begin does.
func TestPromising(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	id := d.run("web", "bridge")
	p := brisk()
	p.restart = time.Hour
	w := watch(t, d.url, p)
	w.untilFilled()
	d.untilSubscribed()
	w.untilSettled()
	release := make(chan struct{})
	d.onInspect(id, func(rw http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
		<-release
		handle(rw, r)
	})
	s := w.e.live.Load()
	s.note(note{what: left, id: id})
	s.note(note{what: died, id: id, until: time.Now().Add(time.Hour)})
	if w.e.Promising() {
		t.Error("an end promises something")
	}
	w.untilNames("")
	s.note(note{what: started, id: id})
	if !w.e.Promising() {
		t.Error("a start promises nothing")
	}
	close(release)
	w.untilTrue(d)
	w.untilSettled()
	if w.e.Promising() {
		t.Error("something is still promised")
	}
}

// Containers that exist and are not live are told as coming: those from before, those that are created, and those that ended.
func TestWatchComing(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	old := d.create("old", "bridge")
	run := d.run("run", "bridge", "www")
	var mu sync.Mutex
	coming := map[string]Container{}
	w := watch(t, d.url, brisk(), func(u Update) {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range u.Containers {
			delete(coming, c.ID)
		}
		for _, c := range u.Coming {
			coming[c.ID] = c
		}
		for _, id := range u.Destroyed {
			delete(coming, id)
		}
	})
	is := func(id, name string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return coming[id].Name == name
		}
	}
	w.until("old is coming", is(old, "old"))
	d.untilSubscribed()
	fresh := d.create("new", "bridge")
	w.until("new is coming", is(fresh, "new"))
	d.start(fresh)
	w.until("new came", is(fresh, ""))
	d.stop(run)
	w.until("run may come again", is(run, "run"))
	d.remove(run)
	w.until("run may not", is(run, ""))
	d.remove(old)
	w.until("old may not", is(old, ""))
	w.wantNoLoss()
}

// A storm of events costs a list or a few, and no inspect for each before its name is told.
func TestWatchStorm(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	w := watch(t, d.url, brisk())
	w.untilListed()
	d.untilSubscribed()
	var inspects atomic.Int32
	release := make(chan struct{})
	d.setHook(func(rw http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
		if strings.Contains(r.URL.Path, "/containers/0") || strings.Contains(r.URL.Path, "/networks/") {
			inspects.Add(1)
			<-release
		}
		handle(rw, r)
	})
	for i := range 300 {
		d.run(fmt.Sprint("c", i), "bridge")
	}
	w.until("most", func() bool { return len(w.containers) >= 300-storm-2*lookers }) // what is no storm any more waits for its looks
	if n := inspects.Load(); n > 2*lookers {
		t.Errorf("%d inspects", n)
	}
	close(release)
	w.untilFilled()
	w.untilTrue(d)
	w.wantNoLoss()
}

// TestWatchHints: whoever is told of many containers soon hears so as soon as they are hinted at; of a few nothing is said.
func TestWatchHints(t *testing.T) {
	t.Parallel()
	var told []Update
	s := New(Endpoint{}, slog.New(slog.DiscardHandler)).newSession(nil, &Store{}, func(u Update) { told = append(told, u) })
	for i := range 2*storm + 1 {
		s.note(note{id: fmt.Sprint(i)})
		if i == storm-1 || i == 2*storm {
			if err := s.takeNotes(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(told) != 1 || told[0].Hints != storm+1 {
		t.Errorf("told %+v", told)
	}
}

func TestWatchSecondNetwork(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	back := d.addNetwork("back", "10.9.0.0/16")
	id := d.run("web", "bridge")
	w := watch(t, d.url, brisk())
	w.untilListed()
	d.mu.Lock() // docker network connect
	g := d.containers[id]
	e := *g.NetworkSettings.Networks["bridge"]
	g.NetworkSettings.Networks["back"] = &e
	d.join(d.networks[back], g, &e)
	d.mu.Unlock()
	w.untilTrue(d)
	if n := len(w.containers[id].Endpoints); n != 2 {
		t.Fatalf("%d endpoints", n)
	}
	d.mu.Lock() // docker network disconnect
	delete(g.NetworkSettings.Networks, "back")
	delete(d.networks[back].Containers, id)
	d.link("disconnect", d.networks[back], g)
	d.mu.Unlock()
	w.untilTrue(d)
	if n := len(w.containers[id].Endpoints); n != 1 {
		t.Errorf("%d endpoints", n)
	}
}

func TestWatchSharedNetwork(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	web := d.run("web", "bridge")
	d.run("side1", "container:"+web)
	w := watch(t, d.url, brisk())
	w.untilListed()
	w.untilNames(fmt.Sprintf("side1=%[1]s web=%[1]s", d.addr(web)))
	d.run("side2", "container:"+web)
	w.untilNames(fmt.Sprintf("side1=%[1]s side2=%[1]s web=%[1]s", d.addr(web)))
	before := d.addr(web)
	d.stop(web)
	w.untilNames("side1= side2=") // an address without its owner leads nowhere, or soon to another
	d.start(web)
	if d.addr(web) == before {
		t.Fatal("the same address again: this tests nothing")
	}
	w.untilNames(fmt.Sprintf("side1=%[1]s side2=%[1]s web=%[1]s", d.addr(web)))
	self := d.create("self", "container:x")
	d.change(self, "update", func(g *guest) { g.HostConfig.NetworkMode = "container:" + "self" })
	d.start(self)
	w.untilTrue(d)
}

func TestWatchPodman(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	w := watch(t, d.url, brisk())
	w.untilListed()
	// Changes without dockerd's events, told in Podman's words.
	quietly := func(deed func()) {
		d.mu.Lock()
		streams := d.streams
		d.streams = map[chan events.Message]bool{}
		d.mu.Unlock()
		deed()
		d.mu.Lock()
		d.streams = streams
		d.mu.Unlock()
	}
	var id string
	quietly(func() { id = d.create("web", "bridge") })
	d.emit(events.ContainerEventType, "create", id, map[string]string{"name": "web"})
	quietly(func() { d.start(id) })
	d.emit(events.ContainerEventType, "init", id, nil)
	d.emit(events.ContainerEventType, "start", id, nil)
	w.untilNames("web=" + d.addr(id))

	before := d.addr(id)
	quietly(func() { d.stop(id); d.start(id) })
	if d.addr(id) == before {
		t.Fatal("the same address again: this tests nothing")
	}
	d.emit(events.NetworkEventType, "connect", id, nil) // the container's id, no attributes
	w.untilNames("web=" + d.addr(id))
	quietly(func() { d.change(id, "", func(g *guest) { g.Name = "/left" }) })
	d.emit(events.NetworkEventType, "disconnect", id, map[string]string{})
	w.untilNames("left=" + d.addr(id))
	quietly(func() { d.stop(id); d.remove(id) })
	d.emit(events.ContainerEventType, "cleanup", id, nil)
	d.emit(events.ContainerEventType, "remove", id, nil)
	w.untilNames("")
	w.wantNoLoss()
}

func TestWatchOneBadInspect(t *testing.T) {
	t.Parallel()
	say := func(status int, kind, text string) func(http.ResponseWriter, *http.Request, http.HandlerFunc) {
		return func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			io.WriteString(w, text)
		}
	}
	const js = "application/json"
	for name, bad := range map[string]func(http.ResponseWriter, *http.Request, http.HandlerFunc){
		"500":         say(500, js, `{"message":"layer does not exist"}`),
		"500 as HTML": say(500, "text/html", `<html>`),
		"403":         say(403, js, `{"message":"authorization denied by plugin"}`),
		"HTML":        say(200, "text/html", `<html>`),
		"nothing":     say(200, js, ``),
		"cut":         say(200, js, `{"Id":"`),
		"null":        say(200, js, `null`),
		"a list":      say(200, js, `[]`),
		"no fields":   say(200, js, `{}`),
		"wrong types": say(200, js, `{"Id":1,"State":"running"}`),
		"a dead line": func(http.ResponseWriter, *http.Request, http.HandlerFunc) { panic(http.ErrAbortHandler) },
		"no answer":   nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDaemon(t)
			id := d.run("sick", "bridge")
			a := d.run("a", "bridge")
			well := make(chan struct{})
			if bad == nil {
				bad = func(w http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
					select {
					case <-well:
						handle(w, r)
					case <-r.Context().Done():
					}
				}
			}
			d.onInspect(id, bad)
			p := brisk()
			p.call = 2 * time.Second
			w := watch(t, d.url, p)
			w.untilListed()
			// Its name and address are in the list of containers.
			w.untilNames("a=" + d.addr(a) + " sick=" + d.addr(id))
			d.rename(id, "still-sick")
			b := d.run("b", "bridge")
			w.untilNames("a=" + d.addr(a) + " b=" + d.addr(b) + " still-sick=" + d.addr(id))
			d.setHook(nil)
			close(well)
			d.rename(id, "well")
			w.untilTrue(d)
			w.wantNoLoss()
		})
	}
}

// An engine that dies in the midst of its list must not look like one without containers.
func TestWatchDiesDuringListing(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	id := d.run("web", "bridge")
	w := watch(t, d.url, brisk())
	w.untilNames("web=" + d.addr(id))
	w.untilFilled()
	var dead, attempts atomic.Int32
	d.setHook(func(w http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
		if dead.Load() != 0 && !strings.HasSuffix(r.URL.Path, "/events") {
			panic(http.ErrAbortHandler)
		}
		if strings.HasSuffix(r.URL.Path, "/containers/json") {
			attempts.Add(1)
			dead.Store(1)
			io.WriteString(w, "[")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		handle(w, r)
	})
	fulls := w.fulls
	d.untilSubscribed()
	d.sever()
	w.until("losses", func() bool { return len(w.downs) > 3 })
	if attempts.Load() == 0 || w.fulls != fulls || len(w.containers) != 1 {
		t.Errorf("%d listings were begun, %d came; picture %s", attempts.Load(), w.fulls-fulls, w.names())
	}
	d.setHook(nil)
	w.until("it is back", func() bool { return w.fulls > fulls })
}

func TestWatchReconnects(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	kept, lost := d.run("kept", "bridge"), d.run("lost", "bridge")
	d.forget() // or a look for their sake may meet the failing engine first
	w := watch(t, d.url, brisk())
	w.untilFilled()
	d.untilSubscribed()
	d.setHook(func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		http.Error(w, "restarting", http.StatusServiceUnavailable)
	})
	d.sever()
	w.until("the loss is told", func() bool { return len(w.downs) > 2 })
	w.untilNames("kept=" + d.addr(kept) + " lost=" + d.addr(lost)) // nothing is deleted on ignorance
	d.stop(lost)
	d.remove(lost)
	fresh := d.run("new", "bridge")
	d.forget()
	w.info = nil
	d.setHook(nil)
	w.untilNames("kept=" + d.addr(kept) + " new=" + d.addr(fresh))
	if w.info == nil || w.fulls < 2 {
		t.Errorf("info %v, %d full listings", w.info, w.fulls)
	}
	if err := w.downs[0]; !strings.Contains(err.Error(), "event stream") {
		t.Errorf("reason of the loss: %v", err)
	}
	d.run("more", "bridge")
	w.untilTrue(d)
}

// In a hurry a lost engine is dialled without a pause, and so is one that seems to be there: it may have moved.
func TestWatchHurry(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	p := brisk()
	p.backoffMin, p.backoffMax, p.pingEvery = time.Hour, time.Hour, time.Hour
	var pings atomic.Int32
	broken := func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		if r.URL.Path == "/_ping" {
			pings.Add(1)
		}
		http.Error(w, "not now", http.StatusServiceUnavailable)
	}
	d.setHook(broken)
	w := watch(t, d.url, p)
	w.until("it is not there", func() bool { return len(w.downs) == 1 })
	d.setHook(nil)
	w.e.Hurry()
	w.untilListed()
	d.untilSubscribed()
	var subscribed atomic.Int32
	d.setHook(func(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
		if strings.HasSuffix(r.URL.Path, "/events") {
			subscribed.Add(1)
		}
		next(w, r)
	})
	w.e.Hurry()
	w.until("it is listed anew", func() bool { return w.fulls == 2 })
	d.until("it is listened to anew", func() bool { return subscribed.Load() == 1 && len(d.streams) > 0 })
	if len(w.downs) != 1 {
		t.Errorf("said to be lost: %v", w.downs[1:])
	}
	d.setHook(broken)
	pings.Store(0)
	w.e.Hurry()
	w.until("it is lost", func() bool { return len(w.downs) == 2 })
	if pings.Load() == 0 {
		t.Errorf("nobody asked it: %v", w.downs)
	}
}

func TestWatchHalfOpen(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	id := d.run("web", "bridge")
	d.forget() // or a look for its sake may meet the frozen engine first
	p := brisk()
	p.call = 2 * time.Second
	p.pingEvery, p.pingTimeout = 50*time.Millisecond, time.Second
	var pings, pingsAtLoss atomic.Int32
	w := watch(t, d.url, p, func(u Update) {
		if u.Down != nil {
			pingsAtLoss.CompareAndSwap(0, pings.Load())
		}
	})
	w.untilFilled()
	before := len(w.downs)
	w.e.Attend()
	d.setHook(func(_ http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		if r.URL.Path == "/_ping" {
			pings.Add(1)
		}
		<-r.Context().Done() // accepts all, answers nothing; the event stream stays open
	})
	w.until("the loss", func() bool { return len(w.downs) > before })
	if err := w.downs[before]; !strings.Contains(err.Error(), "pings") {
		t.Errorf("reason of the loss: %v", err)
	}
	if n := pingsAtLoss.Load(); n != 2 {
		t.Errorf("%d pings before the loss was told, want 2", n)
	}
	w.until("it stays lost", func() bool { return len(w.downs) > before+1 })
	if err := w.downs[before+1]; !errors.Is(err, ErrNoAnswer) {
		t.Errorf("dialling it: %v", err)
	}
	w.untilNames("web=" + d.addr(id))
	d.stop(id)
	d.setHook(nil)
	w.untilNames("")
}

// The engine freezes before the header of the event stream, or in the midst of the listing.
func TestWatchFreezesEarly(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/events", "/networks", "/containers/json"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			d := newDaemon(t)
			id := d.run("web", "bridge")
			var frozen atomic.Bool
			d.setHook(func(w http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
				if strings.HasSuffix(r.URL.Path, path) {
					frozen.Store(true)
				}
				if frozen.Load() {
					<-r.Context().Done()
					return
				}
				handle(w, r)
			})
			p := brisk()
			p.call = 20 * time.Second // the pings are to notice
			p.pingEvery, p.pingTimeout = 50*time.Millisecond, 300*time.Millisecond
			w := watch(t, d.url, p)
			w.until("the loss", func() bool { return len(w.downs) > 0 })
			d.setHook(nil)
			w.untilNames("web=" + d.addr(id))
		})
	}
}

func TestWatchGarbageEvents(t *testing.T) {
	t.Parallel()
	for name, garbage := range map[string]string{
		"no JSON":     "hello\n",
		"HTML":        "<html></html>\n",
		"wrong types": `{"Type":5,"Actor":"me"}` + "\n",
		"a list":      "[]\n",
		"cut":         `{"Type":"container","Act`,
		"endless":     `{"Type":"` + strings.Repeat("a", maxAnswer+1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDaemon(t)
			var once sync.Once
			d.setHook(func(w http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
				first := false
				if strings.HasSuffix(r.URL.Path, "/events") {
					once.Do(func() { first = true })
				}
				if !first {
					handle(w, r)
					return
				}
				w.WriteHeader(http.StatusOK)
				io.WriteString(w, garbage)
			})
			w := watch(t, d.url, brisk())
			w.until("the loss", func() bool { return len(w.downs) > 0 })
			id := d.run("web", "bridge")
			w.untilNames("web=" + d.addr(id))
		})
	}
}

// Events that mean nothing change nothing, and the stream goes on.
func TestWatchOddEvents(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	w := watch(t, d.url, brisk())
	w.untilListed()
	for _, kind := range []events.Type{"", "container", "network", "image", "volume", "unheard-of"} {
		for _, action := range []string{"", "create", "connect", "disconnect", "destroy", "die", "health_status: healthy", "unheard-of"} {
			for _, id := range []string{"", "x", "../../../info", "%2e%2e/x", "a b", "\x00", strings.Repeat("a", 5000)} {
				d.emit(kind, action, id, nil)
				d.emit(kind, action, id, map[string]string{"container": ""})
				d.emit(kind, action, id, map[string]string{"container": "../../info", "name": "\xff"})
			}
		}
	}
	for range 2*maxAnswer>>20 + 1 { // together they are more than one may be
		d.emit(events.ContainerEventType, "update", "x", map[string]string{"label": strings.Repeat("a", 1<<19)})
	}
	id := d.run("web", "bridge")
	w.untilNames("web=" + d.addr(id))
	w.wantNoLoss()
}

// A question finds what the events did not tell.
func TestAsk(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	all := func(Container) bool { return true }
	if e := at(d.url); e.Pending() {
		t.Error("pending before there is a watch")
	} else {
		e.Ask(t.Context(), []string{"web"}, "web", all) // nobody to look: nothing happens
	}
	w := watch(t, d.url, brisk())
	w.untilListed()
	for _, odd := range []string{"", "(", "^/?web$", "a/b"} {
		w.e.Ask(t.Context(), []string{odd, "../info"}, odd, all)
	}
	d.untilSubscribed()
	d.mu.Lock()
	d.streams = map[chan events.Message]bool{} // from here on the engine drops all events
	d.mu.Unlock()
	id := d.run("web", "bridge")
	w.e.Ask(t.Context(), []string{"none", "web"}, "^/?(none|web)$", func(c Container) bool { return c.Name == "web" })
	w.untilNames("web=" + d.addr(id))
	db, other := d.run("db", "bridge"), d.run("other", "bridge")
	w.e.Ask(t.Context(), []string{"other", db}, "^none$", all)
	w.untilNames("db=" + d.addr(db) + " web=" + d.addr(id))
	d.mu.Lock()
	before := d.inspects[other]
	d.mu.Unlock()
	w.e.Ask(t.Context(), []string{"other"}, "other", func(Container) bool { return false })
	d.mu.Lock()
	if d.inspects[other] != before {
		t.Error("a container that is not wanted was looked at")
	}
	d.mu.Unlock()
	w.wantNoLoss()
	w.end()
	if w.e.Pending() {
		t.Error("pending after the watch")
	}
}

// An engine that lists all it has, whatever it was asked for, is asked so once, and then about the names.
func TestAskListsAll(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	for i := range 5 {
		d.run(fmt.Sprint("other", i), "bridge")
	}
	w := watch(t, d.url, brisk())
	w.untilListed()
	d.untilSubscribed()
	var lists atomic.Int32
	d.setHook(func(rw http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
		if strings.HasSuffix(r.URL.Path, "/containers/json") && strings.Contains(r.URL.RawQuery, "name") {
			lists.Add(1)
			r.URL.RawQuery = ""
		}
		handle(rw, r)
	})
	d.mu.Lock()
	d.streams = map[chan events.Message]bool{} // from here on the engine drops all events
	d.mu.Unlock()
	id := d.run("web", "bridge")
	for range 3 {
		w.e.Ask(t.Context(), []string{"none", "web"}, "^/?(none|web)$", func(c Container) bool { return c.Name == "web" })
	}
	w.until("web", func() bool { return w.containers[id].Name == "web" })
	if lists := lists.Load(); lists != 1 {
		t.Errorf("%d lists", lists)
	}
	w.wantNoLoss()
}

// What the engine hinted at is pending until it was told.
func TestPending(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	id := d.run("web", "bridge")
	d.forget()
	w := watch(t, d.url, brisk())
	w.untilFilled()
	d.untilSubscribed()
	d.onInspect(id, func(rw http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
		if !w.e.Pending() {
			t.Error("not pending while it is being looked at")
		}
		handle(rw, r)
	})
	d.rename(id, "renamed")
	w.untilNames("renamed=" + d.addr(id))
	w.untilSettled()
	w.wantNoLoss()
}

func TestWatchRelists(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	id := d.run("web", "bridge")
	p := brisk()
	p.relistEvery, p.restEvery, p.attention = 100*time.Millisecond, time.Hour, time.Millisecond
	w := watch(t, d.url, p)
	w.untilListed()
	d.untilSubscribed()
	d.mu.Lock()
	streams := d.streams
	d.streams = map[chan events.Message]bool{} // from here on the engine drops events
	d.mu.Unlock()
	d.rename(id, "seen")
	w.e.Attend()
	w.untilNames("seen=" + d.addr(id))
	d.rename(id, "seen2") // lists that tell what no event told are followed by more
	w.untilNames("seen2=" + d.addr(id))
	fulls := w.fulls
	w.until("a list without news", func() bool { return w.fulls > fulls })
	d.rename(id, "renamed")
	d.mu.Lock()
	d.streams = streams
	d.mu.Unlock()
	marker := d.run("marker", "bridge") // one event, and those before it may have been dropped
	w.untilNames("marker=" + d.addr(marker) + " renamed=" + d.addr(id))
	w.wantNoLoss()
}

// An engine of which nobody wants to know anything is left alone, and who looks then is told how it is now.
func TestWatchRests(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	d.run("web", "bridge")
	p := brisk()
	p.pingEvery, p.pingTimeout, p.attention, p.relistEvery, p.restEvery = 5*time.Millisecond, 5*time.Second, 2*time.Second, 50*time.Millisecond, 1000*time.Hour
	var asked atomic.Int32
	var frozen atomic.Bool
	thaw := make(chan struct{})
	d.setHook(func(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
		asked.Add(1)
		if frozen.Load() {
			<-thaw
		}
		next(w, r)
	})
	w := watch(t, d.url, p)
	w.untilFilled()
	untilRest := func() {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; {
			before := asked.Load()
			time.Sleep(20 * p.pingEvery) // nothing is to happen, which cannot be awaited
			if asked.Load() == before {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal("an engine of which nobody wants to know is asked on and on")
			}
		}
	}
	untilRest()
	before := asked.Load()
	if err := w.e.Answers(t.Context()); err != nil {
		t.Errorf("one that answers: %v", err)
	}
	if asked.Load() == before {
		t.Error("it was not asked for who looks")
	}
	after := asked.Load()
	d.until("it is asked on", func() bool { return asked.Load() >= after+3 })
	untilRest()
	frozen.Store(true)
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.e.Answers(soon); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("a frozen one: %v", err)
	}
	w.wantNoLoss() // it may be slow
	close(thaw)
	if err := w.e.Answers(t.Context()); err != nil {
		t.Errorf("one that answers again: %v", err)
	}
	w.end()
	if err := w.e.Answers(t.Context()); err != nil {
		t.Errorf("nobody follows it: %v", err)
	}
}

// Whatever happens, in the end the picture is the truth.
func TestWatchAnything(t *testing.T) {
	t.Parallel()
	for range 4 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 0))
			d := newDaemon(t)
			w := watch(t, d.url, brisk())
			var ids []string
			state := func(id string) string {
				d.mu.Lock()
				defer d.mu.Unlock()
				if g := d.containers[id]; g.starting == nil {
					return g.State.Status
				}
				return "starting"
			}
			for step := range 400 {
				if len(ids) < 3 || len(ids) < 12 && rnd.IntN(5) == 0 {
					mode := "bridge"
					if len(ids) > 0 && rnd.IntN(3) == 0 {
						mode = "container:" + ids[0]
					}
					ids = append(ids, d.create(fmt.Sprint("c", step), mode))
					continue
				}
				i := rnd.IntN(len(ids))
				id := ids[i]
				switch s := state(id); {
				case s == "starting":
					d.endStart(id, rnd.IntN(3) > 0)
				case s == "running" && rnd.IntN(2) == 0:
					d.rename(id, fmt.Sprint("r", step))
				case s == "running":
					d.stop(id)
				case rnd.IntN(3) == 0:
					d.remove(id)
					ids = slices.Delete(ids, i, i+1)
				default:
					d.beginStart(id)
				}
				if rnd.IntN(100) == 0 {
					d.sever()
				}
				if rnd.IntN(20) == 0 {
					for len(w.updates) > 0 {
						w.take(<-w.updates)
					}
				}
			}
			for _, id := range ids {
				if state(id) == "starting" {
					d.endStart(id, rnd.IntN(2) > 0)
				}
			}
			w.untilTrue(d)
		})
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	web := d.run("web", "bridge")
	d.run("side", "container:"+web)
	d.create("made", "bridge")
	u, err := at(d.url).Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !u.Full || u.Info == nil || u.Info.ID != "the-id" || len(u.Networks) != 1 || u.Down != nil {
		t.Errorf("snapshot %+v", u)
	}
	got, want := map[string]Container{}, d.truth()
	for _, c := range u.Containers {
		got[c.ID] = c
	}
	for id, c := range want { // a list tells less
		c.Hostname, c.whole = "", false
		want[id] = c
	}
	if diff := cmp.Diff(want, got, exactly, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !slices.IsSortedFunc(u.Containers, func(a, b Container) int { return strings.Compare(a.ID, b.ID) }) || len(slices.Collect(maps.Keys(got))) != len(u.Containers) {
		t.Errorf("not sorted, or twice: %+v", u.Containers)
	}
}
