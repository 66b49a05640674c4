package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/network"
)

// Update is one step of what Watch sees. Down comes alone.
type Update struct {
	Info *Info // the engine answered, a full listing begins
	Down error // the engine does not answer any more; what was said before stays the last known picture

	Networks   []Network   // all networks, when any of them may have changed; nil otherwise
	Containers []Container // new or changed
	Gone       []string    // ids of containers that are no longer live
	Full       bool        // a full listing ends: all that there is has been told
	Settled    bool        // nothing is Pending any more; comes alone
	Hints      int         // events of so many objects are to be looked at, where they are many; comes alone

	// Coming may be live any moment: containers that were created, or ended, and exist, as far as is known about each. Of those
	// from before the connection the newest few thousand are told, some time after its first listing.
	Coming    []Container
	Destroyed []string // ids of containers that do not exist; they may have been Coming
}

// Take brings s to what u says.
func (s *Store) Take(u Update) {
	for _, c := range u.Containers {
		s.Put(c)
	}
	for _, id := range u.Gone {
		s.Delete(id)
	}
}

const (
	lookers   = 8                      // parallel inspects
	perBatch  = 128                    // containers that are told at once
	storm     = 64                     // hints that may wait for a looker; with more, a list costs less
	stormRest = 5 * time.Millisecond   // without a hint, and a storm is over
	stormMax  = 100 * time.Millisecond // that a storm is waited for
	fillAfter = 100 * time.Millisecond // from the end of the first list to the first inspect of what it told: names go first
	hurried   = 2000                   // containers of a list that are inspected as fast as can be
	fillBatch = 16                     // of the others, together: one by itself finds all caches cold, and takes several times the CPU
	fillPause = 640 * time.Millisecond // between them, at least: there is no hurry, and the machine has other work
	maxNotes  = 1 << 16                // events that wait to be looked at; with more, a list costs less
	maxComing = 1 << 12                // containers that ended before the connection, of which is told
)

// Watch tells sink what the engine has, until ctx ends: a full listing after each connect and every minute, changes in
// between. sink is called from one goroutine at a time, must not block for long, and has known Take each update before it returns:
// Watch reads known, and writes nothing there. A lost engine is dialled again with growing, jittered pauses.
//
// ended is called with the id of a container as soon as the engine says that it died, or with that of a network that it left, from another
// goroutine, and must not wait for anything: that would hold up all events. sink is told in any case, mostly soon after. Until the time given,
// if there is one, no container that has ended or not been created by then runs without being Promising.
func (e *Engine) Watch(ctx context.Context, known *Store, sink func(Update), ended func(id, network string, until time.Time)) {
	pause := e.pace.backoffMin
	for ctx.Err() == nil {
		started := time.Now()
		err := e.session(ctx, known, sink, ended)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errHurried) { // nobody knows yet whether it is lost
			continue
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

// Hurry has Watch connect anew at once, as this host slept: the event stream may lead nowhere, to an address that the engine
// had, and says nothing of that for minutes, while what is asked on other connections is answered.
func (e *Engine) Hurry() {
	poke(e.hurry)
}

var errHurried = errors.New("it may be elsewhere by now")

// Snapshot is one full listing, for a single look: without what only an inspect tells.
func (e *Engine) Snapshot(ctx context.Context) (Update, error) {
	c, err := e.dial(ctx)
	if err != nil {
		return Update{}, err
	}
	defer c.Close()
	known, u := &Store{}, Update{Info: &c.info, Full: true}
	s := e.newSession(c, known, func(part Update) {
		known.Take(part)
		if part.Networks != nil {
			u.Networks = part.Networks
		}
	})
	if err := s.list(ctx, s.listed); err != nil {
		return Update{}, err
	}
	for _, c := range known.All() {
		u.Containers = append(u.Containers, c)
	}
	slices.SortFunc(u.Containers, func(a, b Container) int { return strings.Compare(a.ID, b.ID) })
	return u, nil
}

// session is one connection's life: subscribe, then list, then follow.
type session struct {
	*Engine
	conn  *connection
	known *Store // what sink was told
	sink  func(Update)
	ended func(id, network string, until time.Time)
	// sharers are the ids in known that use another container's network, by that one's id.
	sharers  map[string]map[string]bool
	overlays atomic.Pointer[map[string]bool] // ids of networks
	born     map[string]Container            // created, not started: their labels and names, ready for the moment they get an address

	// What follow is at.
	listing  chan batch           // nil: no listing is under way
	begun    time.Time            // of it
	first    bool                 // it is the session's first
	hushed   map[string]bool      // what it is to tell of in place of looks: a storm's
	touched  map[string]bool      // hinted since it began: it may tell what was before
	stirred  bool                 // something happened since the last list began, or one told what no event had told
	seen     Numbers              // those in known that were told since it began
	due      map[string]bool      // to be looked at
	stormed  time.Time            // when due became a storm
	looking  map[string]news      // being looked at: what was said of it since the look began
	joining  map[string]bool      // given an address, and not looked at since
	dead     map[string]time.Time // a look at them is nothing to wait for: they left a network, or died, and until when that cannot be otherwise
	killed   map[string]killing   // and not said to have died, or to have begun anything since
	peeking  map[string][]string  // by network that is being looked at: who joined it meanwhile
	filling  map[string]bool      // looked at only because a list does not tell all
	fillNext uint32               // number in known from which on some may have to be filled
	fillLeft int                  // how many more are looked at without a pause
	fillMore int                  // after the next pause
	fillFrom time.Time            // when the last pause ended
	fillRest <-chan time.Time

	mu    sync.Mutex // guards what the event reader writes
	notes []note
	lost  bool // there were too many notes
	ends  int  // how many of notes tell only of an end
	busy  int  // how many things are hinted at or looked at, and not told
	dying bool // all that is busy is ends
	poke  chan struct{}

	vital  vital
	relook chan struct{} // somebody looks for the first time in a while; holds one

	timeless bool // it is not known how old events are; the event reader's

	pending   atomic.Bool // whether there are notes, or busy is not 0: for those who must not wait
	promising atomic.Bool // the same without ends
	listsAll  atomic.Bool // the engine heeds no pattern of names
	allComing atomic.Bool // every container that may be started was told
	told      atomic.Bool // all of the first listing was told
}

// unlock ends a change of what mu guards.
func (s *session) unlock() {
	s.pending.Store(len(s.notes) > 0 || s.busy > 0)
	s.promising.Store(len(s.notes) > s.ends || s.busy > 0 && !s.dying)
	s.mu.Unlock()
}

// note is what an event says of one container, or of the networks.
type note struct {
	what    what
	id      string // of the container
	network string // of the network that it joined or left
	born    *Container
	killed  time.Time // by the engine's clock, when that is all that is known of its end
	until   time.Time // when it died a moment ago: it does not run again before
}

type what int

const (
	hinted what = iota // something happened: look
	created
	joined
	started
	left
	died
	networksChanged
)

// batch is a part of a listing: first the networks, then containers, then the end.
type batch struct {
	networks   []Network
	containers []Container
	end        bool
	err        error
}

// killing is when a container was sent a signal that it cannot outlive, by the engine's clock and by ours.
type killing struct{ at, heard time.Time }

// doomed tells whether a container is about to end although the engine says that it runs, since that time.
func (s *session) doomed(id string, started time.Time) bool {
	k, ok := s.killed[id]
	return ok && k.at.After(started) && time.Since(k.heard) < s.pace.kill
}

// looked is the outcome of looking at one container.
type looked struct {
	id      string
	c       Container
	started time.Time
	live    bool
	born    bool // exists, but was never started
	unknown bool // the engine answers, but cannot tell about this one
	err     error
}

// news is what events say of a container while it is being looked at.
type news struct {
	joined []string // ids of networks
	runs   bool
	other  bool
}

func (w news) and(n note) news {
	switch n.what {
	case joined:
		w.joined = append(w.joined, n.network)
	case started:
		w.runs = true
	default:
		w.other = true
	}
	return w
}

// seen tells whether a look has seen all of the news: an engine holds many an inspect back until what they tell of is done.
func (w news) seen(r looked) bool {
	for _, network := range w.joined {
		if !slices.ContainsFunc(r.c.Endpoints, func(a Attachment) bool { return a.NetworkID == network && len(a.Addrs) > 0 }) {
			return false
		}
	}
	return !w.other && (r.live && r.c.State == "running" || !w.runs && w.joined == nil)
}

// peeked is what a network tells of those that just joined it.
type peeked struct {
	network string
	found   []Container // each with one attachment, and where that was asked for with what a list tells
}

func (e *Engine) newSession(conn *connection, known *Store, sink func(Update)) *session {
	return &session{
		Engine: e, conn: conn, known: known, sink: sink, sharers: map[string]map[string]bool{}, born: map[string]Container{}, poke: make(chan struct{}, 1),
		vital: vital{news: make(chan struct{})}, relook: make(chan struct{}, 1),
		first: true, touched: map[string]bool{}, due: map[string]bool{}, looking: map[string]news{}, joining: map[string]bool{}, dead: map[string]time.Time{}, killed: map[string]killing{}, peeking: map[string][]string{}, filling: map[string]bool{}, fillMore: hurried, busy: 1,
	}
}

func (e *Engine) session(ctx context.Context, known *Store, sink func(Update), ended func(id, network string, until time.Time)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn, err := e.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()

	s := e.newSession(conn, known, sink)
	s.ended = ended
	s.pending.Store(true)
	go s.keepPulse(ctx, cancel)
	since := conn.systemTime
	if !since.IsZero() { // a second earlier closes the gap between the answer's header and the subscription
		since = since.Add(-time.Second)
	}
	subscribed := make(chan struct{})
	go func() {
		cancel(conn.eachEvent(ctx, since, func() { close(subscribed) }, func(e event) {
			if n, ok := s.noteOf(e); ok {
				s.note(n)
			}
		}))
	}()

	if since.IsZero() { // else what happens before the subscription is told by it
		select {
		case <-subscribed:
		case <-time.After(s.pace.pingTimeout): // an engine that sends no header before the first event
		case <-ctx.Done():
		}
	}
	e.live.Store(s)
	defer e.live.Store(nil)
	return s.follow(ctx)
}

func causeOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// note has follow see n.
func (s *session) note(n note) {
	s.mu.Lock()
	if len(s.notes) < maxNotes {
		if s.notes = append(s.notes, n); n.what == died || n.what == left {
			s.ends++
		}
	} else {
		s.lost = true
	}
	s.unlock()
	if n.what == died || n.what == left { // before follow, which has to be woken
		if !s.allComing.Load() {
			n.until = time.Time{}
		}
		s.ended(n.id, n.network, n.until)
	}
	poke(s.poke)
}

// follow lists all, and then looks at every object that events hint at, until the connection ends. Hints that come while an object is
// being looked at cause one more look, however many they are: bursts coalesce, and the last look wins. A storm of them causes one list.
//
// What events missed is told by one more list a minute after there were some; where there are none, there are none to miss, and lists are rare.
func (s *session) follow(ctx context.Context) error {
	results, peeks, coming := make(chan looked), make(chan peeked), make(chan batch)
	s.beginListing(ctx)
	relist := time.NewTimer(s.pace.relistEvery)
	defer relist.Stop()
	soon := s.pace.relistEvery // from one list to the next where something happens
	for {
		var calm <-chan time.Time
		if s.storm() {
			calm = time.After(min(stormRest, stormMax-time.Since(s.stormed)))
		} else {
			s.lookOn(ctx, results)
		}
		s.setBusy()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-relist.C:
			if s.listing == nil {
				s.beginListing(ctx)
			}
		case <-calm:
			s.hushed, s.due = s.due, map[string]bool{}
			s.beginListing(ctx)
		case b := <-s.listing:
			if b.err != nil {
				return causeOr(ctx, b.err)
			}
			if b.end && s.first {
				go s.listComing(ctx, coming)
			}
			s.listed(b)
			if b.end {
				soon = max(s.pace.relistEvery, 60*time.Since(s.begun)) // an engine that lists slowly is asked seldom
				next := soon
				if !s.stirred {
					next = soon + UntilNext(time.Now().Add(soon), s.pace.restEvery)
				}
				relist.Reset(next)
			}
		case <-s.relook:
			if s.listing == nil {
				relist.Reset(max(0, soon-time.Since(s.begun)))
			}
		case <-s.poke:
			if s.listing == nil && !s.stirred {
				relist.Reset(soon)
			}
			s.stirred = true
			if err := s.takeNotes(ctx, peeks); err != nil {
				return causeOr(ctx, err)
			}
		case p := <-peeks:
			s.early(ctx, p, peeks)
		case b := <-coming:
			cs := slices.DeleteFunc(b.containers, func(c Container) bool { // those of which is known more by now
				_, born := s.born[c.ID]
				_, known := s.known.Find(c.ID)
				return born || known
			})
			s.send(Update{Coming: cs})
			s.allComing.Store(b.err == nil)
		case <-s.fillRest:
			s.fillRest, s.fillLeft, s.fillMore, s.fillFrom = nil, s.fillMore, fillBatch, time.Now()
		case r := <-results:
			if r.err != nil {
				return causeOr(ctx, r.err)
			}
			s.outcome(r)
		}
	}
}

// storm tells whether so many containers are to be looked at that the next list shall tell of them.
func (s *session) storm() bool {
	if len(s.due) <= storm || s.listing == nil && 16*len(s.due) < s.known.Len() {
		s.stormed = time.Time{}
		return false
	}
	if s.stormed.IsZero() {
		s.stormed = time.Now()
	}
	return s.listing == nil
}

func (s *session) setBusy() {
	busy := len(s.due) + len(s.looking) - len(s.filling) + len(s.peeking)
	for id := range s.dead {
		if _, looking := s.looking[id]; s.due[id] || looking && !s.filling[id] {
			busy--
		}
	}
	if s.listing != nil && (s.first || s.hushed != nil) {
		busy++
	}
	s.mu.Lock()
	s.busy, s.dying = busy, false
	was := s.pending.Load()
	s.unlock()
	if was && !s.pending.Load() {
		s.sink(Update{Settled: true})
	}
}

// takeNotes takes in what the events said.
func (s *session) takeNotes(ctx context.Context, peeks chan<- peeked) error {
	s.mu.Lock()
	notes, lost := s.notes, s.lost
	s.dying = s.busy == 0 && len(notes) == s.ends
	s.notes, s.ends, s.lost = nil, 0, false
	s.busy++ // until what was taken is being looked at
	s.unlock()
	if len(notes) > storm {
		s.sink(Update{Hints: len(notes)})
	}
	networks := false
	var coming []Container
	var ended []string
	for _, n := range notes {
		switch n.what {
		case networksChanged:
			networks = true
			continue
		case created:
			delete(s.dead, n.id)
			delete(s.killed, n.id)
			if _, ok := s.known.Find(n.id); !ok {
				s.born[n.id] = *n.born
				if n.born.Labels[PilotLabel] == "" {
					coming = append(coming, *n.born)
				}
			}
		case started:
			delete(s.dead, n.id)
			delete(s.killed, n.id)
		case hinted:
			if !time.Now().Before(s.dead[n.id]) { // who asks may know more than the events that were read
				delete(s.dead, n.id)
			}
		case joined:
			delete(s.dead, n.id)
			delete(s.killed, n.id)
			s.joining[n.id] = true
			s.peek(ctx, n.network, n.id, peeks)
		case left:
			delete(s.joining, n.id)
			_, looking := s.looking[n.id]
			if _, ok := s.dead[n.id]; !ok && !looking && !s.due[n.id] {
				s.dead[n.id] = time.Time{}
			}
		case died:
			delete(s.joining, n.id)
			ended = append(ended, n.id)
			if delete(s.killed, n.id); !n.killed.IsZero() {
				s.killed[n.id] = killing{n.killed, time.Now()}
			}
			if s.dead[n.id] = n.until; n.until.IsZero() { // an old story: it may run again
				delete(s.dead, n.id)
			}
		}
		if s.listing != nil {
			s.touched[n.id] = true
		}
		if since, ok := s.looking[n.id]; ok {
			s.looking[n.id] = since.and(n)
		} else {
			s.due[n.id] = true
		}
	}
	s.gone(ended...)
	coming = slices.DeleteFunc(coming, func(c Container) bool { return s.joining[c.ID] }) // they have come
	if len(coming) > 0 {
		s.send(Update{Coming: coming})
	}
	if lost && s.listing == nil {
		s.beginListing(ctx)
	} else if lost {
		s.mu.Lock()
		s.lost = true // what is listed now may be what was before
		s.unlock()
	}
	if networks {
		nets, err := s.listNetworks(ctx)
		if err != nil {
			return err
		}
		s.send(Update{Networks: nets})
	}
	return nil
}

// lookOn begins to look at what is due, as far as there are lookers, and else at what a list has told of.
func (s *session) lookOn(ctx context.Context, results chan<- looked) {
	look := func(id string) {
		s.looking[id] = news{}
		go func() {
			r := s.look(ctx, id)
			select {
			case results <- r:
			case <-ctx.Done():
			}
		}()
	}
	for id := range s.due {
		if s.listing != nil && len(s.due) > storm || len(s.looking)-len(s.filling) >= lookers {
			return
		}
		delete(s.due, id)
		look(id)
	}
	for s.listing == nil && s.fillLeft > 0 && len(s.filling) < lookers/2 {
		id, next, ok := s.known.nextPart(s.fillNext)
		if s.fillNext = next; !ok {
			return
		}
		if _, twice := s.looking[id]; !twice {
			s.fillLeft--
			s.filling[id] = true
			look(id)
		}
	}
}

// outcome takes in what a look has found.
func (s *session) outcome(r looked) {
	stale := !s.looking[r.id].seen(r)
	delete(s.looking, r.id)
	if s.filling[r.id] {
		delete(s.filling, r.id)
		if s.fillLeft == 0 && s.fillRest == nil {
			s.fillRest = time.After(max(fillPause, 20*time.Since(s.fillFrom)))
		}
	}
	if stale {
		s.due[r.id] = true
	} else {
		delete(s.dead, r.id)
	}
	if !r.live && !r.unknown {
		delete(s.killed, r.id)
	}
	before, was := s.known.ByID(r.id)
	switch {
	case r.unknown:
	case r.born:
		if s.born[r.id] = r.c; was && s.joining[r.id] { // it was told early
			s.tell(before.withDetails(r.c))
			return
		} else if was && !stale {
			s.gone(r.id)
		}
		s.send(Update{Coming: []Container{r.c}})
		return
	case stale: // the next look knows more
	case r.live && s.doomed(r.id, r.started):
	case r.live && was && !r.c.whole:
		s.tell(r.c.withDetails(before))
	case r.live:
		s.tell(r.c)
	case r.c.ID != "": // it ended
		delete(s.born, r.id)
		s.gone(r.id)
		s.send(Update{Coming: []Container{r.c}})
	default:
		delete(s.born, r.id)
		if !s.gone(r.id) {
			s.send(Update{Destroyed: []string{r.id}})
		}
	}
	if !stale {
		delete(s.joining, r.id)
	}
}

// tell tells of one container, and of those that share its network.
func (s *session) tell(c Container) {
	s.send(Update{Containers: s.withSharers(nil, c)})
}

// gone tells that containers are no longer live, and whether any was.
func (s *session) gone(ids ...string) (was bool) {
	var u Update
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		if !s.forget(id) {
			continue
		}
		u.Gone = append(u.Gone, id)
		for other := range s.sharers[id] {
			if c, ok := s.known.ByID(other); ok {
				c.Endpoints, c.HostNetwork = nil, false
				u.Containers = append(u.Containers, c)
			}
		}
	}
	if u.Gone != nil {
		s.send(u)
	}
	return u.Gone != nil
}

// forget notes that a container is about to be told gone.
func (s *session) forget(id string) bool {
	number, ok := s.known.Find(id)
	if ok {
		s.seen.Remove(number)
		s.share(s.known.Get(number), false)
	}
	return ok
}

// share notes whose network c uses, or that it does so no more.
func (s *session) share(c Container, does bool) {
	with := c.sharesWith
	switch {
	case with == "":
	case !does:
		if delete(s.sharers[with], c.ID); len(s.sharers[with]) == 0 {
			delete(s.sharers, with)
		}
	default:
		if s.sharers[with] == nil {
			s.sharers[with] = map[string]bool{}
		}
		s.sharers[with][c.ID] = true
	}
}

// withSharers adds to what is to be told c, with the endpoints of the one whose network it uses, and those that use c's.
func (s *session) withSharers(told []Container, c Container) []Container {
	delete(s.born, c.ID)
	s.share(c, true)
	if c.sharesWith != "" && c.sharesWith != c.ID {
		other, _ := s.known.ByID(c.sharesWith)
		c.Endpoints, c.HostNetwork = other.Endpoints, other.HostNetwork
	}
	told = append(told, c)
	for id := range s.sharers[c.ID] {
		if other, ok := s.known.ByID(id); ok && id != c.ID {
			other.Endpoints, other.HostNetwork = c.Endpoints, c.HostNetwork
			told = append(told, other)
		}
	}
	return told
}

func (s *session) send(u Update) {
	s.sink(u)
	if s.listing != nil {
		for _, c := range u.Containers {
			if number, ok := s.known.Find(c.ID); ok {
				s.seen.Add(number)
			}
		}
	}
}

func (s *session) bornOrKnown(id string) (Container, bool) {
	if c, ok := s.known.ByID(id); ok {
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

// withDetails adds to what a list tells of c what an inspect told.
func (c Container) withDetails(from Container) Container {
	if !from.whole {
		return c
	}
	c.whole, c.Image, c.Hostname, c.Domainname, c.Env, c.Ports = true, from.Image, from.Hostname, from.Domainname, from.Env, from.Ports
	c.Endpoints = slices.Clone(c.Endpoints)
	for i := range c.Endpoints {
		for _, e := range from.Endpoints {
			if e.Network == c.Endpoints[i].Network {
				c.Endpoints[i].Aliases = e.Aliases
			}
		}
	}
	return c
}

// look inspects one container. An error means that the engine is gone, not just this answer: one
// container that it cannot tell about must hide no other.
func (s *session) look(ctx context.Context, id string) looked {
	lctx, cancel := context.WithTimeout(ctx, 3*s.pace.call) // the engine holds an inspect back while it starts the container
	defer cancel()
	c, started, live, err := s.conn.inspect(lctx, id)
	if cerrdefs.IsNotFound(err) {
		return looked{id: id}
	}
	if err != nil {
		if s.alive(ctx) != nil {
			return looked{id: id, err: fmt.Errorf("inspecting container %.12s: %w", id, err)}
		}
		s.log.Warn("inspecting container", "id", id, "err", err)
		if c, live = s.conn.listOne(ctx, id, false); !live {
			return looked{id: id, unknown: true}
		}
	}
	if c.Labels[PilotLabel] != "" {
		return looked{id: id}
	}
	if live && len(c.Endpoints) > 0 {
		c = s.wayOut(lctx, c.Endpoints).of(c)
	}
	return looked{id: id, c: c, started: started, live: live, born: !live && c.State == "created"}
}

// peek reads a joining container's address from its network: the engine answers that at once, while it holds back an
// inspect of the container until its process runs. One answer serves all that joined before it was asked for.
func (s *session) peek(ctx context.Context, network, id string, peeks chan<- peeked) {
	if waiting, busy := s.peeking[network]; busy {
		s.peeking[network] = append(waiting, id)
		return
	}
	s.peeking[network] = nil
	s.peekAt(ctx, network, []string{id}, peeks)
}

func (s *session) peekAt(ctx context.Context, in string, ids []string, peeks chan<- peeked) {
	strange := map[string]bool{} // whose labels are not known
	for _, id := range ids {
		if _, ok := s.bornOrKnown(id); !ok {
			strange[id] = true
		}
	}
	go func() {
		p := peeked{network: in}
		defer func() {
			select {
			case peeks <- p:
			case <-ctx.Done():
			}
		}()
		ctx, cancel := context.WithTimeout(ctx, s.pace.call)
		defer cancel()
		found, err := s.conn.attachments(ctx, in, ids)
		if err != nil {
			return // the look at the container itself will tell
		}
		for id, a := range found {
			c := Container{ID: id}
			if len(strange) > storm && strange[id] {
				continue // the list tells
			}
			if strange[id] {
				c, _ = s.conn.listOne(ctx, id, true)
				c.ID = id
			}
			if c.Endpoints = []Attachment{a}; len(a.Addrs) > 0 {
				p.found = append(p.found, c)
			}
		}
	}()
}

// early tells of containers that have an address and do not run yet.
func (s *session) early(ctx context.Context, p peeked, peeks chan<- peeked) {
	var told []Container
	for _, c := range p.found {
		if !s.joining[c.ID] {
			continue // a look that ended meanwhile knows more
		}
		before, ok := s.bornOrKnown(c.ID)
		if !ok {
			before = c
			before.Endpoints = nil
		}
		if (ok || c.Name != "") && before.Labels[PilotLabel] == "" {
			told = s.withSharers(told, before.withAttachment(c.Endpoints[0]))
		}
	}
	if told != nil {
		s.send(Update{Containers: told})
	}
	ids := s.peeking[p.network]
	delete(s.peeking, p.network)
	if ids != nil {
		s.peeking[p.network] = nil
		s.peekAt(ctx, p.network, ids, peeks)
	}
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
	s.overlays.Store(overlaysOf(out))
	return out, nil
}

// beginListing has listed called with every network and every live container.
func (s *session) beginListing(ctx context.Context) {
	batches := make(chan batch)
	s.listing, s.begun, s.seen, s.touched, s.stirred = batches, time.Now(), nil, map[string]bool{}, false
	go func() {
		send := func(b batch) {
			select {
			case batches <- b:
			case <-ctx.Done():
			}
		}
		if err := s.list(ctx, send); err != nil {
			send(batch{err: err})
		}
	}()
}

// list is the full picture, in batches.
func (s *session) list(ctx context.Context, send func(batch)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var answer io.ReadCloser
	var refused error
	asked := make(chan struct{})
	go func() { // the engine has work to do before it says the first word
		defer close(asked)
		answer, refused = s.conn.get(ctx, "/containers/json", nil)
	}()
	nets, err := s.listNetworks(ctx)
	if err != nil {
		return err
	}
	send(batch{networks: nets})
	patience := time.AfterFunc(3*s.pace.call, cancel) // for each batch: how long all take is a matter of how many there are
	defer patience.Stop()
	out := s.wayOut(ctx, nil)
	var b batch
	if <-asked; refused != nil {
		return fmt.Errorf("listing containers: %w", refused)
	}
	if err := eachIn(answer, func(c Container) {
		if c.Labels[PilotLabel] != "" {
			return
		}
		if b.containers = append(b.containers, out.of(c)); len(b.containers) == perBatch {
			send(b)
			b = batch{}
			patience.Reset(3 * s.pace.call)
		}
	}); err != nil {
		return fmt.Errorf("listing containers: %w", err)
	}
	b.end = true
	send(b)
	return nil
}

// listComing gives the newest of the containers that do not run. An engine that does not heed what it is asked for gives none.
func (s *session) listComing(ctx context.Context, to chan<- batch) {
	listing, cancel := context.WithTimeout(ctx, 3*s.pace.call)
	defer cancel()
	var all []Container
	query := url.Values{"filters": {`{"status":["created","exited"]}`}, "limit": {strconv.Itoa(maxComing)}}
	err := s.conn.eachListed(listing, query, func(c Container) {
		if len(all) == maxComing || c.State != "created" && c.State != "exited" {
			cancel() // it may be 100,000
		} else if c.Labels[PilotLabel] == "" {
			c.Endpoints = nil
			all = append(all, c)
		}
	})
	if len(all) == maxComing {
		err = errors.New("there may be more")
	}
	select {
	case to <- batch{containers: all, err: err}:
	case <-ctx.Done():
	}
}

// listed tells of a part of a listing.
func (s *session) listed(b batch) {
	u := Update{Networks: b.networks, Full: b.end}
	if b.networks != nil && s.first {
		u.Info = &s.conn.info
	}
	for _, c := range b.containers {
		if s.touched[c.ID] || s.doomed(c.ID, time.Time{}) {
			continue
		}
		number, was := s.known.Find(c.ID)
		if was {
			before := s.known.Get(number)
			c = c.withDetails(before)
			c.whole = c.whole && !s.first && !s.hushed[c.ID]
			if c.sharesWith != "" {
				c.Endpoints, c.HostNetwork = before.Endpoints, before.HostNetwork
			}
			if s.seen.Add(number); s.known.is(number, c) {
				s.share(c, true)
				continue
			}
			s.share(before, false)
		}
		u.Containers = s.withSharers(u.Containers, c)
	}
	if b.end {
		for number, c := range s.known.All() {
			if !s.seen.Has(number) {
				s.forget(c.ID)
				u.Gone = append(u.Gone, c.ID)
			}
		}
		for id := range s.hushed { // nobody looks at them
			if c, ok := s.born[id]; ok && c.Labels[PilotLabel] == "" {
				u.Coming = append(u.Coming, c)
			}
			if !s.touched[id] {
				delete(s.dead, id)
			}
		}
		s.told.Store(true) // before: who hears of it may ask
	}
	if !s.first && s.hushed == nil && len(u.Containers)+len(u.Gone) > 0 {
		s.stirred = true
	}
	s.send(u)
	if b.end {
		if s.first {
			s.fillRest = time.After(fillAfter)
		}
		s.listing, s.hushed, s.first, s.seen, s.touched, s.fillNext = nil, nil, false, nil, map[string]bool{}, 0
		for id := range s.sharers { // some were told before the one whose network they use
			if c, ok := s.known.ByID(id); ok {
				s.tell(c)
			}
		}
	}
}
