package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
)

// Update is one step of what Watch sees. Exactly one of Info, Down and the rest is set, but for a full listing, which may
// come with Info.
type Update struct {
	Info *Info // the engine answered, a full listing follows or is here
	Down error // the engine does not answer any more; what was said before stays the last known picture

	Full       bool        // Networks and Containers are all there are
	Networks   []Network   // all networks, when any of them changed; nil otherwise
	Containers []Container // new or changed
	Gone       []string    // ids of containers that are no longer live
}

const lookers = 8 // parallel inspects

// Watch tells sink what the engine has, until ctx ends: a full listing after each connect and every minute, changes in
// between. sink is called from one goroutine at a time and must not block for long. A lost engine is dialled again with
// growing, jittered pauses.
func (e *Engine) Watch(ctx context.Context, sink func(Update)) {
	pause := e.pace.backoffMin
	for ctx.Err() == nil {
		started := time.Now()
		err := e.session(ctx, sink)
		if ctx.Err() != nil {
			return
		}
		sink(Update{Down: err})
		if time.Since(started) > e.pace.backoffMax {
			pause = e.pace.backoffMin
		}
		select {
		case <-ctx.Done():
		case <-e.hurry:
			pause = e.pace.backoffMin
		case <-time.After(pause/2 + rand.N(pause)):
			pause = min(2*pause, e.pace.backoffMax)
		}
	}
}

// Hurry has Watch look at once whether the engine still answers, or answers again: this host slept, or its links changed.
func (e *Engine) Hurry() {
	select {
	case e.hurry <- struct{}{}:
	default:
	}
}

// Snapshot is one full listing, for a single look.
func (e *Engine) Snapshot(ctx context.Context) (Update, error) {
	c, err := e.dial(ctx)
	if err != nil {
		return Update{}, err
	}
	defer c.Close()
	s := &session{Engine: e, conn: c}
	u, err := s.list(ctx)
	u.Info = &c.info
	return u, err
}

// session is one connection's life: subscribe, then list, then follow.
type session struct {
	*Engine
	conn  *connection
	known map[string]Container // what sink was told, by id
	// sharers are the ids in known that use another container's network, by that one's id.
	sharers map[string]map[string]bool
	born    map[string]Container // created, not started: their labels and names, ready for the moment they get an address

	mu       sync.Mutex      // guards what the event reader writes
	hinted   map[string]bool // containers to look at again
	joining  []joining       // containers that were just given an address
	networks bool            // the networks are to be listed again
	looks    int             // containers being looked at, or just looked at and not told
	pending  atomic.Bool     // whether any of these are, for those who must not wait
	poke     chan struct{}
}

// unlock ends a change of what mu guards.
func (s *session) unlock() {
	s.pending.Store(len(s.hinted) > 0 || s.networks || s.looks > 0)
	s.mu.Unlock()
}

type joining struct{ network, container string }

// looked is the outcome of looking at one container.
type looked struct {
	id      string
	c       Container
	live    bool
	born    bool // exists, but was never started
	early   bool // seen by its network before the engine says that it runs
	unknown bool // the engine answers, but cannot tell about this one
	err     error
}

func (e *Engine) session(ctx context.Context, sink func(Update)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn, err := e.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()

	s := &session{Engine: e, conn: conn, known: map[string]Container{}, born: map[string]Container{}, hinted: map[string]bool{}, poke: make(chan struct{}, 1)}
	go s.ping(ctx, cancel)
	opts := events.ListOptions{
		Filters: filters.NewArgs(filters.Arg("type", string(events.ContainerEventType)), filters.Arg("type", string(events.NetworkEventType))),
	}
	if !conn.systemTime.IsZero() {
		// The engine's clock, not ours; a second earlier closes the gap between its answer header and its subscription.
		since := conn.systemTime.Add(-time.Second)
		opts.Since = fmt.Sprintf("%d.%09d", since.Unix(), since.Nanosecond())
	}
	subscribed := make(chan struct{})
	go func() {
		stream, errs := conn.Events(ctx, opts) // returns when the answer's header is here
		close(subscribed)
		for {
			select {
			case m := <-stream:
				s.hint(m)
			case err := <-errs:
				if err == nil || errors.Is(err, io.EOF) {
					err = errors.New("engine closed its event stream")
				}
				cancel(err)
				return
			case <-ctx.Done():
				return
			}
		}
	}()

	select {
	case <-subscribed:
	case <-time.After(s.pace.pingTimeout): // an engine that sends no header before the first event; Since has us miss none
	case <-ctx.Done():
	}

	u, err := s.list(ctx)
	if err != nil {
		return causeOr(ctx, err)
	}
	u.Info = &conn.info
	sink(u)
	e.live.Store(s)
	defer e.live.Store(nil)
	return s.follow(ctx, sink)
}

func causeOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// ping notices an engine that holds its connections open and answers nothing: the event stream itself is silent by nature.
func (s *session) ping(ctx context.Context, cancel context.CancelCauseFunc) {
	t := time.NewTicker(s.pace.pingEvery)
	defer t.Stop()
	for strikes := 0; ; {
		if strikes == 0 {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			case <-s.hurry:
			}
		}
		err := s.alive(ctx)
		if err == nil {
			strikes = 0
			continue
		}
		if strikes++; strikes == 2 {
			cancel(fmt.Errorf("engine does not answer pings: %w", err))
			return
		}
	}
}

func (s *session) alive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.pace.pingTimeout)
	defer cancel()
	_, err := s.conn.Ping(ctx)
	return err
}

// hint notes which objects an event is about. Podman puts the container's id where Docker has the network's, so either is taken.
func (s *session) hint(m events.Message) {
	if m.Actor.ID == "" {
		return
	}
	s.mu.Lock()
	switch m.Type {
	case events.ContainerEventType:
		if action := string(m.Action); !strings.HasPrefix(action, "exec_") && action != "top" && action != "resize" && action != "attach" {
			s.hinted[m.Actor.ID] = true
		}
	case events.NetworkEventType:
		switch m.Action {
		case events.ActionConnect:
			if c := m.Actor.Attributes["container"]; c != "" {
				s.joining = append(s.joining, joining{m.Actor.ID, c})
				s.hinted[c] = true
			} else {
				s.hinted[m.Actor.ID] = true
			}
		case events.ActionDisconnect:
			s.hinted[cmp.Or(m.Actor.Attributes["container"], m.Actor.ID)] = true
		default:
			s.networks = true
		}
	}
	s.unlock()
	s.nudge()
}

// nudge has follow see what was noted.
func (s *session) nudge() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// follow looks at every hinted object until the connection ends. Hints that come while an object is being looked at
// cause one more look, however many they are: bursts coalesce, and the last look wins.
func (s *session) follow(ctx context.Context, sink func(Update)) error {
	results := make(chan looked)
	slots := make(chan struct{}, lookers)
	looking, again := map[string]bool{}, map[string]bool{}
	look := func(id string) {
		looking[id] = true
		go func() {
			slots <- struct{}{}
			r := s.look(ctx, id, 3*s.pace.call) // the engine holds an inspect back while it starts the container
			<-slots
			select {
			case results <- r:
			case <-ctx.Done():
			}
		}()
	}
	unborn := map[string][]looked{}
	tellEarly := func(r looked) bool {
		_, ok := s.bornOrKnown(r.id)
		if ok {
			s.tell(sink, r)
		}
		return ok
	}
	relist := time.NewTicker(s.pace.relistEvery)
	defer relist.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-relist.C:
			u, err := s.list(ctx)
			if err != nil {
				return causeOr(ctx, err)
			}
			sink(u)
		case <-s.poke:
			s.mu.Lock()
			hinted, joins, networks := s.hinted, s.joining, s.networks
			s.hinted, s.joining, s.networks = map[string]bool{}, nil, false
			s.looks++ // until what was taken is being looked at
			s.unlock()
			if networks {
				nets, err := s.listNetworks(ctx)
				if err != nil {
					return causeOr(ctx, err)
				}
				sink(Update{Networks: nets})
			}
			for _, j := range joins {
				go func() {
					if r, ok := s.peek(ctx, j); ok {
						select {
						case results <- r:
						case <-ctx.Done():
						}
					}
				}()
			}
			for id := range hinted {
				if looking[id] {
					again[id] = true
				} else {
					look(id)
				}
			}
			s.setLooks(len(looking))
		case r := <-results:
			if r.early {
				// A look that ended meanwhile knows more. Before the first one it is not known whether it wants to be seen.
				if looking[r.id] && !tellEarly(r) {
					unborn[r.id] = append(unborn[r.id], r)
				}
				continue
			}
			delete(looking, r.id)
			if r.err != nil {
				return causeOr(ctx, r.err)
			}
			if !r.unknown {
				s.tell(sink, r)
			}
			if again[r.id] {
				for _, e := range unborn[r.id] {
					tellEarly(e)
				}
				delete(again, r.id)
				look(r.id)
			}
			delete(unborn, r.id)
			s.setLooks(len(looking))
		}
	}
}

func (s *session) setLooks(n int) {
	s.mu.Lock()
	s.looks = n
	s.unlock()
}

// tell turns the outcome of a look into an Update, for the container and for those that share its network.
func (s *session) tell(sink func(Update), r looked) {
	var u Update
	switch {
	case r.early:
		before, _ := s.bornOrKnown(r.id)
		r.c, r.live = before.withAttachment(r.c.Endpoints[0]), true
	case r.born:
		s.born[r.id] = r.c
	default:
		delete(s.born, r.id)
	}
	_, was := s.known[r.id]
	switch {
	case r.live:
		s.keep(r.c)
		u.Containers = append(u.Containers, s.shared(r.c))
	case was:
		s.drop(r.id)
		u.Gone = []string{r.id}
	default:
		return
	}
	for id := range s.sharers[r.id] {
		u.Containers = append(u.Containers, s.shared(s.known[id]))
	}
	sink(u)
}

func (s *session) keep(c Container) {
	s.drop(c.ID)
	s.known[c.ID] = c
	if c.sharesWith != "" {
		if s.sharers[c.sharesWith] == nil {
			s.sharers[c.sharesWith] = map[string]bool{}
		}
		s.sharers[c.sharesWith][c.ID] = true
	}
}

func (s *session) drop(id string) {
	if with := s.known[id].sharesWith; with != "" {
		delete(s.sharers[with], id)
		if len(s.sharers[with]) == 0 {
			delete(s.sharers, with)
		}
	}
	delete(s.known, id)
}

func (s *session) bornOrKnown(id string) (Container, bool) {
	if c, ok := s.known[id]; ok {
		return c, true
	}
	c, ok := s.born[id]
	return c, ok
}

func (c Container) withAttachment(a Attachment) Container {
	c.State = "running"
	c.Endpoints = slices.Clone(c.Endpoints)
	for i, e := range c.Endpoints {
		if e.NetworkID == a.NetworkID || e.Network == a.Network {
			a.Aliases = e.Aliases
			c.Endpoints[i] = a
			return c
		}
	}
	c.Endpoints = append(c.Endpoints, a)
	slices.SortFunc(c.Endpoints, func(a, b Attachment) int { return strings.Compare(a.Network, b.Network) })
	return c
}

// shared gives a container in another's network that one's endpoints.
func (s *session) shared(c Container) Container {
	if c.sharesWith != "" {
		if other, ok := s.known[c.sharesWith]; ok {
			c.Endpoints, c.HostNetwork = other.Endpoints, other.HostNetwork
		}
	}
	return c
}

// look inspects one container, for as long as patience. An error means that the engine is gone, not just this answer: one
// container that it cannot tell about must hide no other.
func (s *session) look(ctx context.Context, id string, patience time.Duration) looked {
	lctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	in, err := s.conn.ContainerInspect(lctx, id)
	if cerrdefs.IsNotFound(err) {
		return looked{id: id}
	}
	c, live, ok := containerOf(in)
	if err == nil && !ok {
		err = errors.New("the answer is no container")
	}
	if err != nil {
		if s.alive(ctx) != nil {
			return looked{id: id, err: fmt.Errorf("inspecting container %.12s: %w", id, err)}
		}
		s.log.Warn("inspecting container", "id", id, "err", err)
		return looked{id: id, unknown: true}
	}
	if c.Labels[PilotLabel] != "" {
		return looked{id: id}
	}
	return looked{id: id, c: c, live: live, born: !live && c.State == "created"}
}

// peek reads a joining container's address from its network: the engine answers that at once, while it holds back an
// inspect of the container until its process runs.
func (s *session) peek(ctx context.Context, j joining) (looked, bool) {
	ctx, cancel := context.WithTimeout(ctx, s.pace.call)
	defer cancel()
	n, err := s.conn.NetworkInspect(ctx, j.network, network.InspectOptions{})
	if err != nil {
		return looked{}, false // the look at the container itself will tell
	}
	e, ok := n.Containers[j.container]
	if !ok {
		return looked{}, false
	}
	a := Attachment{NetworkID: n.ID, Network: n.Name}
	for _, s := range []string{e.IPv4Address, e.IPv6Address} {
		s, _, _ = strings.Cut(s, "/")
		if ip, ok := addrOf(s); ok {
			a.Addrs = append(a.Addrs, ip)
		}
	}
	return looked{id: j.container, c: Container{Endpoints: []Attachment{a}}, early: true}, len(a.Addrs) > 0
}

func (s *session) listNetworks(ctx context.Context) ([]Network, error) {
	ctx, cancel := context.WithTimeout(ctx, s.pace.call)
	defer cancel()
	in, err := s.conn.NetworkList(ctx, network.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing networks: %w", err)
	}
	out := make([]Network, 0, len(in))
	for _, n := range in {
		out = append(out, networkOf(n))
	}
	slices.SortFunc(out, func(a, b Network) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// list is the full picture: every network, and every live container by inspect, as a list lacks aliases and host names.
func (s *session) list(ctx context.Context) (Update, error) {
	nets, err := s.listNetworks(ctx)
	if err != nil {
		return Update{}, err
	}
	lctx, cancel := context.WithTimeout(ctx, 3*s.pace.call)
	defer cancel()
	sums, err := s.conn.ContainerList(lctx, container.ListOptions{})
	if err != nil {
		return Update{}, fmt.Errorf("listing containers: %w", err)
	}
	found := make([]looked, len(sums))
	var wg sync.WaitGroup
	slots := make(chan struct{}, lookers)
	for i, sum := range sums {
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer wg.Done()
			found[i] = s.look(ctx, sum.ID, s.pace.look)
			<-slots
		}()
	}
	wg.Wait()
	before := s.known
	s.known, s.sharers = map[string]Container{}, map[string]map[string]bool{}
	for i, f := range found {
		if f.err != nil {
			return Update{}, f.err
		}
		if f.unknown {
			if f.c, f.live = before[f.id]; !f.live {
				f.c, f.live = containerOfSummary(sums[i])
				f.live = f.live && f.c.Labels[PilotLabel] == ""
			}
		}
		if f.live {
			s.keep(f.c)
		}
	}
	u := Update{Full: true, Networks: nets}
	for _, c := range s.known {
		u.Containers = append(u.Containers, s.shared(c))
	}
	slices.SortFunc(u.Containers, func(a, b Container) int { return strings.Compare(a.ID, b.ID) })
	return u, nil
}
