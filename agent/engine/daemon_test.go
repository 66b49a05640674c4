package engine

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
)

// daemon is an engine in this process that keeps dockerd's rules as far as Watch can see them: which events come in which
// order, that an inspect waits while its container is being started, that the header of the event stream is sent before
// the subscription, that "since" replays.
type daemon struct {
	t   testing.TB
	url string

	mu         sync.Mutex
	serial     int
	containers map[string]*guest           // by id
	networks   map[string]*network.Inspect // by id
	history    []events.Message
	streams    map[chan events.Message]bool
	inspects   map[string]int // by id of the container
	// hook, when set, answers in place of handle, which it may call.
	hook func(w http.ResponseWriter, r *http.Request, handle http.HandlerFunc)
}

type guest struct {
	container.InspectResponse
	starting chan struct{} // closed when the start has ended; nil: none is under way
}

// listen returns a unix socket, or on Windows a TCP one, and its URL.
func listen(t testing.TB) (net.Listener, string) {
	t.Helper()
	if runtime.GOOS == "windows" {
		return listenTCP(t)
	}
	dir, err := os.MkdirTemp("", "fl") // t.TempDir is too long for a socket on macOS
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, "unix://" + path
}

func newDaemon(t testing.TB) *daemon {
	d := &daemon{t: t, containers: map[string]*guest{}, networks: map[string]*network.Inspect{}, streams: map[chan events.Message]bool{}, inspects: map[string]int{}}
	d.addNetwork("bridge", "172.17.0.0/16")
	d.forget()
	l, url := listen(t)
	d.url = url
	serve(t, l, d)
	return d
}

func (d *daemon) setHook(h func(http.ResponseWriter, *http.Request, http.HandlerFunc)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hook = h
}

// onInspect has h answer the inspects of one container.
func (d *daemon) onInspect(id string, h func(w http.ResponseWriter, r *http.Request, handle http.HandlerFunc)) {
	d.setHook(func(w http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
		if strings.HasSuffix(r.URL.Path, "/containers/"+id+"/json") {
			h(w, r, handle)
		} else {
			handle(w, r)
		}
	})
}

// hold holds back the inspects of one container until release is closed. Each is told when it comes.
func (d *daemon) hold(id string) (asked <-chan struct{}, release chan<- struct{}) {
	come, goOn := make(chan struct{}, 1000), make(chan struct{})
	d.onInspect(id, func(w http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
		come <- struct{}{}
		select {
		case <-goOn:
		case <-r.Context().Done():
		}
		handle(w, r)
	})
	return come, goOn
}

func (d *daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	hook := d.hook
	d.mu.Unlock()
	if hook != nil {
		hook(w, r, d.handle)
	} else {
		d.handle(w, r)
	}
}

// late has the daemon's answer of now sent after then has run.
func late(w http.ResponseWriter, r *http.Request, handle http.HandlerFunc, then func()) {
	answer := httptest.NewRecorder()
	handle(answer, r)
	then()
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	w.Write(answer.Body.Bytes())
}

func (d *daemon) handle(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if strings.HasPrefix(path, "/v1.") {
		path = path[strings.Index(path[1:], "/")+1:]
	}
	part := strings.Split(path, "/")
	switch {
	case path == "/_ping":
		w.Header().Set("Api-Version", "1.41")
	case path == "/version":
		reply(w, map[string]any{"Version": "20.10.24", "ApiVersion": "1.41", "Os": "linux", "Arch": "amd64"})
	case path == "/info":
		reply(w, map[string]any{"ID": "the-id", "Name": "vm0", "SystemTime": time.Now().Format(time.RFC3339Nano)})
	case path == "/events":
		d.handleEvents(w, r)
	case path == "/networks":
		d.mu.Lock()
		defer d.mu.Unlock()
		all := []network.Inspect{}
		for _, n := range d.networks {
			listed := *n
			listed.Containers = nil // a list has none
			all = append(all, listed)
		}
		reply(w, all)
	case len(part) == 3 && part[1] == "networks":
		d.mu.Lock()
		defer d.mu.Unlock()
		if n := d.networks[part[2]]; n != nil {
			reply(w, n)
		} else {
			refuse(w, http.StatusNotFound, "No such network: "+part[2])
		}
	case path == "/containers/json":
		wanted, err := filters.FromJSON(r.URL.Query().Get("filters"))
		if err != nil {
			d.t.Errorf("containers: %v", err)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		all := []container.Summary{}
		for _, g := range d.containers {
			_, live := g.seen()
			named := wanted.Match("name", g.Name) || wanted.Match("name", strings.TrimPrefix(g.Name, "/"))
			shown := live || r.URL.Query().Has("all")
			if wanted.Contains("status") {
				shown = wanted.ExactMatch("status", g.State.Status)
			}
			if shown && named {
				s := container.Summary{ID: g.ID, Names: []string{g.Name}, Image: g.Config.Image, Labels: g.Config.Labels, State: g.State.Status,
					NetworkSettings: &container.NetworkSettingsSummary{Networks: map[string]*network.EndpointSettings{}}}
				s.HostConfig.NetworkMode = string(g.HostConfig.NetworkMode)
				for name, e := range g.NetworkSettings.Networks {
					listed := *e
					listed.Aliases = nil // a list has none
					s.NetworkSettings.Networks[name] = &listed
				}
				all = append(all, s)
			}
		}
		reply(w, all)
	case len(part) == 4 && part[1] == "containers" && part[3] == "json":
		d.handleInspect(w, r, part[2])
	default:
		refuse(w, http.StatusNotFound, "page not found")
	}
}

func (d *daemon) handleInspect(w http.ResponseWriter, r *http.Request, id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inspects[id]++
	for {
		g := d.containers[id]
		for _, other := range d.containers {
			if other.Name == "/"+id {
				g = other
			}
		}
		if g == nil {
			refuse(w, http.StatusNotFound, "No such container: "+id)
			return
		}
		if g.starting == nil {
			reply(w, g.InspectResponse)
			return
		}
		started := g.starting
		d.mu.Unlock()
		select {
		case <-started:
		case <-r.Context().Done():
		}
		d.mu.Lock()
		if r.Context().Err() != nil {
			return
		}
	}
}

func (d *daemon) handleEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	wanted, err := filters.FromJSON(r.URL.Query().Get("filters"))
	if err != nil {
		d.t.Errorf("events: %v", err)
	}
	since := int64(1) << 62 // none: only what comes
	if s := r.URL.Query().Get("since"); s != "" {
		sec, nano, _ := strings.Cut(s, ".")
		a, err1 := strconv.ParseInt(sec, 10, 64)
		b, err2 := strconv.ParseInt(nano, 10, 64)
		if err1 != nil || err2 != nil || len(nano) != 9 {
			d.t.Errorf("events since %q", s)
		}
		since = a*1e9 + b
	}
	stream := make(chan events.Message, 1<<14)
	d.mu.Lock()
	for _, m := range d.history[max(0, len(d.history)-256):] {
		if m.TimeNano >= since {
			stream <- m
		}
	}
	d.streams[stream] = true
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.streams, stream)
		d.mu.Unlock()
	}()
	for {
		select {
		case <-r.Context().Done():
			return
		case m, ok := <-stream:
			if !ok {
				return
			}
			if wanted.ExactMatch("type", string(m.Type)) {
				json.NewEncoder(w).Encode(m)
				w.(http.Flusher).Flush()
			}
		}
	}
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"message": message})
}

// forget loses the events so far: a restarted engine remembers none.
func (d *daemon) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.history = nil
}

// sever ends all event streams, as a restart of the engine does.
func (d *daemon) sever() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for s := range d.streams {
		close(s)
		delete(d.streams, s)
	}
}

func (d *daemon) emit(kind events.Type, action, id string, attributes map[string]string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.emitLocked(kind, action, id, attributes)
}

func (d *daemon) emitLocked(kind events.Type, action, id string, attributes map[string]string) {
	now := time.Now()
	m := events.Message{Type: kind, Action: events.Action(action), Actor: events.Actor{ID: id, Attributes: attributes}, Scope: "local", Time: now.Unix(), TimeNano: now.UnixNano()}
	d.history = append(d.history, m)
	for s := range d.streams {
		s <- m
	}
}

func (d *daemon) container(action string, g *guest) {
	attributes := map[string]string{"name": strings.TrimPrefix(g.Name, "/"), "image": g.Config.Image}
	maps.Copy(attributes, g.Config.Labels)
	d.emitLocked(events.ContainerEventType, action, g.ID, attributes)
}

func (d *daemon) link(action string, n *network.Inspect, g *guest) {
	d.emitLocked(events.NetworkEventType, action, n.ID, map[string]string{"name": n.Name, "type": n.Driver, "container": g.ID})
}

func (d *daemon) addNetwork(name, subnet string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.serial++
	n := &network.Inspect{ID: fmt.Sprintf("%064x", 0xabc0000+d.serial), Name: name, Driver: "bridge", Scope: "local", Containers: map[string]network.EndpointResource{}}
	n.IPAM.Config = []network.IPAMConfig{{Subnet: subnet}}
	d.networks[n.ID] = n
	d.emitLocked(events.NetworkEventType, "create", n.ID, map[string]string{"name": name, "type": "bridge"})
	return n.ID
}

func (d *daemon) removeNetwork(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.networks[id]
	delete(d.networks, id)
	d.emitLocked(events.NetworkEventType, "destroy", id, map[string]string{"name": n.Name, "type": "bridge"})
}

// create makes a container. mode is a network's name, "host" or "container:ID".
func (d *daemon) create(name, mode string, aliases ...string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.serial++
	g := &guest{InspectResponse: container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{ID: fmt.Sprintf("%064x", d.serial), Name: "/" + name, State: &container.State{Status: "created"},
			HostConfig: &container.HostConfig{NetworkMode: container.NetworkMode(mode)}},
		Config:          &container.Config{Image: "nginx", Hostname: name, Labels: map[string]string{"fairlead.names": "by-test"}},
		NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{}},
	}}
	if m := g.HostConfig.NetworkMode; !m.IsContainer() {
		g.NetworkSettings.Networks[mode] = &network.EndpointSettings{Aliases: aliases}
	}
	d.containers[g.ID] = g
	d.container("create", g)
	return g.ID
}

// beginStart gives a container its addresses; until endStart the engine holds back what it knows of it.
func (d *daemon) beginStart(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.containers[id]
	g.starting = make(chan struct{})
	for _, n := range d.networks {
		if e := g.NetworkSettings.Networks[n.Name]; e != nil {
			d.join(n, g, e)
		}
	}
}

func (d *daemon) join(n *network.Inspect, g *guest, e *network.EndpointSettings) {
	subnet := netip.MustParsePrefix(n.IPAM.Config[0].Subnet)
	d.serial++
	ip := subnet.Addr().As4()
	ip[2], ip[3] = byte(d.serial>>8), byte(d.serial)
	e.NetworkID, e.IPAddress = n.ID, netip.AddrFrom4(ip).String()
	n.Containers[g.ID] = network.EndpointResource{Name: g.Name, IPv4Address: fmt.Sprintf("%s/%d", e.IPAddress, subnet.Bits())}
	d.link("connect", n, g)
}

func (d *daemon) leave(g *guest) {
	for name, e := range g.NetworkSettings.Networks {
		if n := d.networks[e.NetworkID]; n != nil {
			delete(n.Containers, g.ID)
			d.link("disconnect", n, g)
		}
		g.NetworkSettings.Networks[name] = &network.EndpointSettings{Aliases: e.Aliases}
	}
}

func (d *daemon) endStart(id string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.containers[id]
	if ok {
		g.State.Status = "running"
		d.container("start", g)
	} else {
		d.leave(g)
		d.container("die", g)
	}
	close(g.starting)
	g.starting = nil
}

func (d *daemon) start(id string) {
	d.beginStart(id)
	d.endStart(id, true)
}

func (d *daemon) run(name, mode string, aliases ...string) string {
	id := d.create(name, mode, aliases...)
	d.start(id)
	return id
}

func (d *daemon) stop(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.containers[id]
	d.container("kill", g)
	g.State.Status = "exited"
	d.leave(g)
	d.container("die", g)
	d.container("stop", g)
}

func (d *daemon) remove(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.containers[id]
	delete(d.containers, id)
	d.container("destroy", g)
}

// change alters a container and tells it as action.
func (d *daemon) change(id, action string, alter func(*guest)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.containers[id]
	alter(g)
	d.container(action, g)
}

func (d *daemon) rename(id, name string) {
	d.change(id, "rename", func(g *guest) { g.Name = "/" + name })
}

func (d *daemon) inspected(id string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inspects[id]
}

// untilInspected waits until a container was inspected n times, and the answers are settled.
func (d *daemon) untilInspected(id string, n int) {
	d.t.Helper()
	d.until("inspects", func() bool { return d.inspects[id] >= n })
}

func (d *daemon) untilSubscribed() {
	d.t.Helper()
	d.until("subscriptions", func() bool { return len(d.streams) > 0 })
}

func (d *daemon) until(what string, done func() bool) {
	d.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		d.mu.Lock()
		ok := done()
		d.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("no %s", what)
		}
	}
}

// addr is the address of a container on its only network.
func (d *daemon) addr(id string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.containers[id].NetworkSettings.Networks {
		return e.IPAddress
	}
	return ""
}

// truth is what Watch should have told by now.
func (d *daemon) truth() map[string]Container {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[string]Container{}
	for id, g := range d.containers {
		if c, live := g.seen(); live {
			out[id] = c
		}
	}
	for id, c := range out {
		if other, ok := out[c.sharesWith]; ok {
			c.Endpoints, c.HostNetwork = slices.Clone(other.Endpoints), other.HostNetwork
			out[id] = c
		}
	}
	return out
}

// seen is what an inspect shows of the guest.
func (g *guest) seen() (Container, bool) {
	text, _ := json.Marshal(g.InspectResponse)
	c, _, live, _ := containerOfInspect(text)
	return c, live
}
