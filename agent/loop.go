package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/dnsserver"
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/fairlead-dev/fairlead/platform/tunnel"
	"github.com/fairlead-dev/fairlead/resolver"
	"github.com/fairlead-dev/fairlead/routes"
)

const (
	relookEvery = 30 * time.Second // every source of hints can lose some; while somebody looks
	verifyEvery = 2 * time.Minute  // nobody tells when the OS ceases to go by its entries, or begins to; likewise
	downTimeout = 20 * time.Second // for taking everything back at the end

	// Most of what is kept has no pointers, so that looking for garbage often costs little; but not while many names are waited for.
	garbageAtStart, garbage = 400, 15         // percent of what is kept
	someContainers          = 1 << 12         // take as much as garbage may at most
	throng                  = 64              // containers that are told at once
	calm                    = 2 * time.Second // without many new containers, and what loading them took is given back
)

// Agent is the desired and the seen state of this host, and the loop that makes them one.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	version string
	journal *journal
	unlock  func()
	wake    chan struct{} // a pass is due; holds one
	forget  chan struct{} // the OS's cache is to be flushed; holds one
	doubled chan struct{} // an engine turned out to be another by a second way; holds one
	changed chan struct{} // the OS's resolver entries are other ones now; holds one

	zone      *dnsserver.Zone
	server    *dnsserver.Server // nil in Once
	method    resolver.Method
	methodWhy string

	apis      atomic.Pointer[[]*engine.Engine] // of all in engines, for those who do not lock
	attention attention
	homes     chan struct{} // somebody asks for what no engine that is known has; holds one
	clocks    chan struct{} // this host may have slept; holds one
	asking    asking
	together  together
	piloting  sync.RWMutex // written by a teardown, so that no pilot is started meanwhile; taken before mu

	mu        sync.Mutex // guards what is below, and the journal
	engines   []*watched
	twins     map[string]string // endpoints of engines that are watched by another way, which is named
	skipped   []Skipped
	names     *directory
	subnets   []Subnet
	reverse   []string       // the served domains of addresses
	noReverse []netip.Prefix // reachable subnets without one
	dirty     dirty
	wanted    map[string]bool // containers that were asked for while names wait to be made, by their names
	sought    bool            // there are new ones, to be looked for among all
	seen      time.Time       // when that was last done
	paused    bool            // by teardown-network: nothing is wanted until the next setup-network
	problems  []string
	entries   []resolver.Item    // what the OS has of ours
	blocked   []resolver.Blocked // what it should have and does not
	takenOut  []routes.Route     // rows of others, in this life
	passed    chan struct{}      // closed and renewed after every pass, and when an engine has nothing more to tell
	proofs    map[string]proven  // by Subnet.key: what became of real packets

	shrink  *time.Timer // nil where nobody runs for long
	shrunk  int         // how often since many containers came
	garbage int         // percent of what is kept that may lie about now
	rest    rest

	due atomic.Bool // a pass is due or under way, or a VM is asked for more than before; written under mu, read without

	ineffective string // why the OS does not go by its entries of ours

	heir time.Time // until when the end of this agent is the start of another
}

// dirty says what the next pass has to look at again.
type dirty struct{ routes, names, resolver bool }

// watched is one engine and what was last heard of it.
type watched struct {
	cfg      EngineConfig
	eng      *engine.Engine
	found    *platform.Endpoint // nil when it was named
	missed   int                // looks in a row that did not find it
	twin     string             // the engine that it is by another way
	priority int
	kick     chan struct{} // the pilot's keeper should look again; holds one

	up         bool
	err        error // why it is not up
	listed     bool  // its networks are known, if only from before
	info       engine.Info
	connects   int        // how often it was connected to anew: its firewall may be another by then
	host       netip.Addr // of its API, when that is not a socket
	networks   []engine.Network
	containers *engine.Store
	slot       int                         // its owners begin with
	placed     place                       // what the directory has of its containers was claimed from here
	moving     map[uint32]bool             // while that changes: numbers of containers whose claims are from the new place
	coming     map[string][]string         // by container's id: names that the zone expects because of it
	listing    bool                        // its first list since it was connected to is being read
	backlog    engine.Numbers              // of its containers whose names are still to be made: nobody has asked for them
	changed    map[uint32]engine.Container // by number: what the next pass has to look at, as it was at the last
	reach      platform.Reach
	pilot      pilotState
	tunnel     *tunnel.Tunnel // while one is up
	peer       netip.Addr     // the VM's end of it
	closed     string         // why the VM cannot be opened for packets that come by its address
	vmAddrs    []netip.Addr   // the VM's, on its link to this host; nil while its pilot was not asked
	noTunnel   string         // why there is none for the IP version that the VM's address is not of

	tunnelPause time.Duration // how long was gone without it last
}

// open prepares an Agent: state folder, lock, journal. Nothing of the host is changed.
func open(cfg Config, log *slog.Logger, version string) (*Agent, error) {
	if err := permitted(); err != nil {
		return nil, err
	}
	if err := platform.MakeStateDir(cfg.StateDir); err != nil {
		return nil, &Problem{Code: ExitFailed, Err: fmt.Errorf("making the state folder: %w", err), Hint: "choose another, where only root writes: --state-dir DIR"}
	}
	unlock, err := platform.Lock(filepath.Join(cfg.StateDir, "lock"))
	if err != nil {
		return nil, err
	}
	j, err := openJournal(cfg.StateDir)
	if err != nil {
		unlock()
		return nil, err
	}
	a := newAgent(cfg, log, version, j)
	a.unlock = unlock
	return a, nil
}

func newAgent(cfg Config, log *slog.Logger, version string, j *journal) *Agent {
	a := &Agent{
		cfg: cfg, log: log, version: version, journal: j,
		wake: make(chan struct{}, 1), forget: make(chan struct{}, 1), doubled: make(chan struct{}, 1), changed: make(chan struct{}, 1), homes: make(chan struct{}, 1), clocks: make(chan struct{}, 1), passed: make(chan struct{}),
		proofs: map[string]proven{}, twins: map[string]string{},
	}
	a.names = newDirectory(a.claimsOf)
	a.together.do = a.lookAt
	for i, e := range cfg.Engines {
		w := newWatched(e, log)
		w.priority = i
		a.setEngines(append(a.engines, w))
	}
	return a
}

// setEngines replaces the list.
func (a *Agent) setEngines(list []*watched) {
	a.engines = list
	var apis []*engine.Engine
	for _, w := range list {
		apis = append(apis, w.eng)
	}
	a.apis.Store(&apis)
}

func newWatched(cfg EngineConfig, log *slog.Logger) *watched {
	return &watched{
		cfg: cfg, eng: engine.New(cfg.Endpoint, log), err: errNotHeard, listing: true,
		containers: &engine.Store{}, coming: map[string][]string{}, changed: map[uint32]engine.Container{}, kick: make(chan struct{}, 1),
	}
}

func permitted() error {
	if err := platform.Privileged(); err != nil {
		return &Problem{Code: ExitNotPermitted, Err: err, Hint: asRoot()}
	}
	return nil
}

// Run is the agent: it keeps this host in step with the engines until ctx ends, then takes back all it made, unless another
// agent follows at once (Client.HandOver). ready is called when names are served and the control endpoint answers.
func Run(ctx context.Context, cfg Config, log *slog.Logger, version string, ready func()) error {
	if err := permitted(); err != nil {
		return err
	}
	method, why, err := resolver.Detect(ctx, cfg.Resolver)
	if err != nil {
		return err
	}
	listen := cfg.DNSListen
	if !listen.IsValid() {
		listen = resolver.DefaultListen(method)
	}
	if _, err := resolver.Render(method, resolver.Want{Domains: cfg.Domains, Server: listen}); err != nil {
		return &Problem{Code: ExitUsage, Err: err, Hint: "choose another --resolver or --dns-listen"}
	}
	a, err := open(cfg, log, version)
	if err != nil {
		return err
	}
	defer a.unlock()
	a.method, a.methodWhy = method, why
	found, skipped := discover(cfg)
	if err := stray(cfg, found); err != nil {
		log.Warn("a setting waits for its engine", "err", err)
	}
	a.take(found, skipped)
	if a.server, err = dnsserver.Listen(listen); err != nil {
		return explainListen(err, listen, platform.PortHolder)
	}
	a.zone = dnsserver.NewZone(a.zoneConfig())
	control, status, err := listenControl(cfg.Control)
	if err != nil {
		closed, cancel := context.WithCancel(ctx)
		cancel()
		_ = a.server.Serve(closed, a.zone)
		return err
	}

	a.replace(cfg.Replace)
	work, stop := context.WithCancel(ctx)
	defer stop()
	// The servers outlive the work: names are answered until the OS no longer asks us.
	serving, quiet := context.WithCancel(context.WithoutCancel(ctx))
	defer quiet()
	var jobs, servers sync.WaitGroup
	failed := make(chan error, 3)
	servers.Go(func() { failed <- a.server.Serve(serving, a.zone) })
	servers.Go(func() { failed <- a.serveControl(serving, control, false) })
	if status != nil {
		servers.Go(func() { failed <- a.serveControl(serving, status, true) })
	}

	a.garbage = garbageAtStart
	debug.SetGCPercent(a.garbage)
	a.shrink = time.AfterFunc(calm, a.calmed)
	if err := engine.Carries(); err != nil {
		a.log.Warn("engines in VMs are not reached", "err", err, "hint", Explain(err).Hint)
	}
	a.log.Info("serving names", "domains", cfg.Domains, "dns", a.server.Addr(), "resolver", a.method, "why", a.methodWhy)
	a.mark(dirty{routes: true, names: true, resolver: true})
	jobs.Go(func() { a.hints(routes.Watch, work, "routes", dirty{routes: true}) })
	jobs.Go(func() {
		a.hints(func(ctx context.Context, changed func()) error { return resolver.Watch(ctx, a.method, changed) }, work, "resolver", dirty{resolver: true})
	})
	jobs.Go(func() { a.keepEngines(work) })
	jobs.Go(func() { a.keepForgetting(work) })
	jobs.Go(func() { a.keepVerifying(work) })
	jobs.Go(func() { a.keepProving(work) })
	jobs.Go(func() { a.keepAwake(work) })
	jobs.Go(func() {
		a.attention.each(work, relookEvery, restEvery, nil, func(time.Time) { a.mark(dirty{routes: true, resolver: true}) })
	})
	jobs.Go(func() { a.loop(work) })
	ready()

	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
		err = fmt.Errorf("serving: %w", err)
	}
	stop()
	jobs.Wait()
	downCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
	defer cancel()
	var undone Undone
	if err != nil || !a.succeeded() {
		undone = a.takeDown(downCtx)
	}
	quiet()
	servers.Wait()
	for _, u := range undone.Left {
		a.log.Warn("left behind", "what", u.What, "why", u.Why, "hint", u.Hint)
	}
	return err
}

// hints turns a source of hints into marks for the next pass. What gives none is looked at often.
func (a *Agent) hints(watch func(context.Context, func()) error, ctx context.Context, name string, d dirty) {
	told := func() {
		a.mark(d)
		poke(a.clocks)
	}
	if err := watch(ctx, told); err != nil && ctx.Err() == nil {
		a.log.Warn("changes are noticed only every "+relookEvery.String(), "of", name, "err", err)
		a.attention.each(ctx, relookEvery, relookEvery, nil, func(time.Time) { a.mark(d) })
	}
}

// woke looks at everything again, as nothing that was known before the sleep needs to be true.
func (a *Agent) woke() {
	a.log.Info("this host slept")
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.proofs)
	for _, w := range a.engines {
		w.eng.Hurry()
		w.noTunnel, w.tunnelPause = "", 0
		poke(w.kick)
	}
	a.markLocked(dirty{routes: true, names: true, resolver: true})
}

// mark says what the next pass has to look at, and that one is due.
func (a *Agent) mark(d dirty) {
	a.mu.Lock()
	a.markLocked(d)
	a.mu.Unlock()
}

func (a *Agent) markLocked(d dirty) {
	a.dirty = dirty{a.dirty.routes || d.routes, a.dirty.names || d.names, a.dirty.resolver || d.resolver}
	a.due.Store(true)
	poke(a.wake)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (a *Agent) loop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
			a.pass(ctx)
			runtime.Gosched() // who waited for it goes before the next one
		}
	}
}

// heard takes in what an engine says.
func (a *Agent) heard(w *watched, u engine.Update) {
	var host netip.Addr
	if u.Info != nil {
		host = lookUp(w.cfg.Endpoint)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case u.Down != nil:
		if w.up || w.err == nil || w.err.Error() != u.Down.Error() {
			a.log.Warn("engine lost", "engine", w.cfg.Name, "err", u.Down)
		}
		w.up, w.err = false, u.Down
		if w.listing = false; w.backlog != nil {
			a.markLocked(dirty{})
		}
		a.wakeWaiting()
		return // nothing is deleted on ignorance
	case u.Settled:
		a.wakeWaiting()
		return
	case u.Hints > 0:
		a.hurry(u.Hints)
		return
	case u.Info != nil:
		a.log.Info("engine found", "engine", w.cfg.Name, "version", u.Info.Version, "api", u.Info.API)
		w.up, w.err, w.info, w.host = true, nil, *u.Info, host
		w.connects++
		w.closed, w.noTunnel, w.tunnelPause = "", "", 0 // its VM may be another by now
	}
	if u.Networks != nil && a.findTwins(w, u.Networks) {
		poke(a.doubled)
	}
	if w.twin != "" {
		return // until it is given up
	}
	a.rest.from()
	a.expect(w, u)
	d := dirty{}
	if u.Networks != nil {
		w.networks, w.listed, d.routes = u.Networks, true, true
	}
	d.routes = d.routes || u.Full
	a.keep(w, u)
	a.hurry(len(u.Containers) + len(u.Coming))
	if u.Networks == nil && a.dirty == (dirty{}) && !(w.listing && len(w.changed) == 0) { // no route changes, and names are waited for
		a.passNames(false)
		a.wakeWaiting()
	}
	if d != (dirty{}) || a.dirty != (dirty{}) || a.sought {
		a.markLocked(d)
	}
}

// ended takes the names that a container alone has from the zone as soon as it is said to have died, or left the only network it was on: heard and its pass say the same, and
// who has the rest, some wake-ups later. While the agent is at work it leaves all to them. Nobody needs to ask the engine for these names
// until the time given, if it is the only engine, as of another it is not known how late its events come, and all that may come is known.
func (a *Agent) ended(w *watched, id, network string, until time.Time) {
	if a.zone == nil || len(id) < 12 || !a.mu.TryLock() {
		return
	}
	defer a.mu.Unlock()
	number, ok := w.containers.Find(id)
	if !ok || !a.names.alone.Has(id[:12], uint32(ownerOf(w.slot, number))) { // else the name may be somebody else's
		return
	}
	c := w.containers.Get(number)
	if network != "" && (c.HostNetwork || slices.ContainsFunc(c.Endpoints, func(e engine.Attachment) bool { return e.NetworkID != network })) {
		return
	}
	if len(a.engines) > 1 || len(w.coming) >= maxComing {
		until = time.Time{}
	}
	var names []string
	for _, d := range a.cfg.Domains {
		names = append(names, id[:12]+"."+d)
	}
	a.zone.Withdraw(names, a.isShared, until)
	w.change(number, c) // if it lives after all, the next pass gives them back
}

// isShared tells whether several containers claim a name.
func (a *Agent) isShared(name string) bool {
	return slices.ContainsFunc(a.cfg.Domains, func(d string) bool {
		rest, ok := strings.CutSuffix(name, "."+d)
		return ok && a.names.shared[rest] != nil
	})
}

// hurry leaves more garbage lying about while many containers come, or are hinted at, as their names are waited for, until it is calm again.
func (a *Agent) hurry(many int) {
	if a.shrink == nil || many < throng {
		return
	}
	a.shrunk = 0
	a.shrink.Reset(calm)
	if p := a.percent(garbageAtStart, 8*someContainers); p > a.garbage || p < a.garbage*3/4 { // to set it stops all that runs
		a.garbage = p
		debug.SetGCPercent(p)
	}
}

// percent is how much garbage may lie about: at most so much of what is kept, and what so many containers take, however many there are.
func (a *Agent) percent(most, containers int) int {
	n := 1
	for _, w := range a.engines {
		n += w.containers.Len()
	}
	return max(5, min(most, 100*containers/n))
}

// calmed gives back what loading took, and 4, 12 and 28 s later what the inspects that follow it took.
func (a *Agent) calmed() {
	a.mu.Lock()
	a.garbage = a.percent(garbage, someContainers)
	debug.SetGCPercent(a.garbage)
	if a.shrunk++; a.shrunk < 4 {
		a.shrink.Reset(calm << a.shrunk)
	}
	a.mu.Unlock()
	platform.Shrink()
}

// rest gives the pages of the program back when for some time nothing was done that an agent at rest does not do.
type rest struct {
	mu    sync.Mutex
	timer *time.Timer
}

const restAfter = 10 * time.Second

// from says that something was done.
func (r *rest) from() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer == nil {
		r.timer = time.AfterFunc(restAfter, platform.ShrinkProgram)
	} else {
		r.timer.Reset(restAfter)
	}
}

func (w *watched) change(number uint32, before engine.Container) {
	if _, ok := w.changed[number]; !ok {
		w.changed[number] = before
	}
}

// lookUp finds the address of an endpoint that names its host, or of its distribution that this host has for a neighbour.
func lookUp(ep engine.Endpoint) netip.Addr {
	if a := ep.Host(); a.IsValid() {
		return a
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if locals, _ := ep.Locals(ctx); len(locals) > 0 {
		links, _ := platform.Links()
		return platform.Neighbour(locals, links)
	}
	u, err := url.Parse(ep.URL)
	if err != nil || u.Scheme != "tcp" {
		return netip.Addr{}
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil || len(addrs) == 0 {
		return netip.Addr{}
	}
	return addrs[0].Unmap()
}

// pass makes the host what the engines' last pictures want: first routes, then the names that became reachable by them,
// then the resolver entries.
func (a *Agent) pass(ctx context.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := a.dirty
	a.dirty = dirty{}
	if d.routes {
		before := a.reachability()
		a.problem("routes", a.passRoutes())
		d.names = d.names || before != a.reachability()
	}
	if d.names {
		d.resolver = a.passDomains() || d.resolver
	}
	left := a.promote()
	a.passNames(d.names)
	if d.resolver {
		a.problem("resolver", a.passResolver(ctx))
	}
	if left {
		poke(a.wake)
	}
	a.due.Store(left || slices.ContainsFunc(a.engines, a.behind)) // the report makes for a pass
	a.wakeWaiting()
}

// wakeWaiting has those who wait for news look again.
func (a *Agent) wakeWaiting() {
	close(a.passed)
	a.passed = make(chan struct{})
}

// awaitNews lets go of mu until wakeWaiting is called, or ctx ends.
func (a *Agent) awaitNews(ctx context.Context) {
	passed := a.passed
	a.mu.Unlock()
	defer a.mu.Lock()
	select {
	case <-passed:
	case <-ctx.Done():
	}
}

// problem notes what became of a part of a pass; it stays in the status until that part is done again.
func (a *Agent) problem(of string, err error) {
	a.problems = slices.DeleteFunc(slices.Clone(a.problems), func(p string) bool { return strings.HasPrefix(p, of+": ") })
	if err != nil {
		a.problems = append(a.problems, fmt.Sprintf("%s: %v", of, err))
		a.log.Error(of, "err", err)
	}
}

// reachability changes whenever names may have to appear or vanish because of it.
func (a *Agent) reachability() string {
	var s string
	for _, w := range a.engines {
		s += fmt.Sprint(a.openSubnets(w), w.pilot.open, w.reach.Via)
	}
	return s
}

// look reads this host's facts.
func (a *Agent) look() (host hostFacts, err error) {
	if host.links, err = platform.Links(); err != nil {
		return host, err
	}
	if host.table, err = routes.List(); err != nil {
		return host, err
	}
	host.nameservers, host.owned = platform.Nameservers(), a.journal.routes()
	host.replace, host.takenOut = a.cfg.ReplaceRoutes, a.takenOut
	return host, nil
}

// planRoutes decides anew about every subnet.
func (a *Agent) planRoutes() (routes.Plan, hostFacts, error) {
	host, err := a.look()
	if err != nil {
		return routes.Plan{}, host, err
	}
	var views []view
	for _, w := range a.engines {
		v := view{name: w.cfg.Name, listed: w.listed, networks: w.networks}
		if w.vmAddrs == nil { // what an earlier run was told holds until the VM is asked
			for _, r := range a.journal.doc.Routes {
				if r.Engine == w.cfg.Name && r.Via.IsValid() {
					w.vmAddrs = append(w.vmAddrs, r.Via)
				}
			}
		}
		if w.listed {
			reach := w.reachable(host, a.cfg.Allow)
			if reach != w.reach {
				a.log.Info("reach", "engine", w.cfg.Name, "kind", reach.Kind, "via", reach.Via, "dev", reach.Dev, "why", reach.Why, "other", reach.Other)
			}
			w.reach = reach
		} else {
			for _, r := range a.journal.doc.Routes {
				if r.Engine == w.cfg.Name {
					v.carried = append(v.carried, r.Route)
				}
			}
		}
		v.reach = w.reach
		views = append(views, v)
	}
	if a.paused {
		views = nil
	}
	a.subnets = compile(a.cfg.Allow, host, views)
	var want []routes.Route
	table := slices.Clone(host.table)
	for _, s := range a.subnets {
		if s.State == Wanted {
			want = append(want, s.Route)
			table = slices.DeleteFunc(table, func(e routes.Entry) bool { return !e.Marked && slices.Contains(s.Replaces, e.Route) })
		}
	}
	return routes.Diff(want, host.owned, table), host, nil
}

// reachable is how packets get to the engine's containers now: what Decide says, unless the VM cannot be opened for that.
func (w *watched) reachable(host hostFacts, allow []netip.Prefix) platform.Reach {
	r := platform.Decide(w.facts(host.table), host.links)
	if r.Kind == platform.Gateway && w.closed != "" && w.cfg.Gateway == "auto" {
		r = platform.Reach{Kind: platform.Tunnel, Why: "its VM cannot be opened for packets from here: " + w.closed}
	}
	if r.Kind == platform.Gateway && w.hasOther(r.Via, allow) {
		r.Other = r.Beside(w.vmAddrs, host.links)
		if r.Other.Kind == platform.Tunnel && w.noTunnel != "" {
			r.Other = platform.Path{Kind: platform.None, Why: r.Other.Why + ", and there is no tunnel: " + w.noTunnel}
		}
	}
	if w.tunnel == nil {
		return r
	}
	switch platform.Tunnel {
	case r.Kind:
		r.Dev, r.Via = w.tunnel.Dev(), w.peer
		for _, a := range w.tunnel.Addrs() {
			if a.Is4() {
				r.Source = a
			} else {
				r.Source6 = a
			}
		}
	case r.Other.Kind:
		r.Other.Dev, r.Other.Via, r.Other.Source = w.tunnel.Dev(), w.peer, w.tunnel.Addrs()[0]
	}
	return r
}

// hasOther tells whether the engine has a network of the IP version that via is not of, to which a route may lead.
func (w *watched) hasOther(via netip.Addr, allow []netip.Prefix) bool {
	return slices.ContainsFunc(w.networks, func(n engine.Network) bool {
		return n.Driver == "bridge" && slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool {
			return p.Addr().Is4() != via.Is4() && (private(p) || allowed(p, allow))
		})
	})
}

func (w *watched) facts(table []routes.Entry) platform.EngineFacts {
	f := platform.EngineFacts{Told: w.cfg.Gateway, Host: w.host, System: w.info.System}
	if w.found != nil {
		f.Known = *w.found
	}
	if u, err := url.Parse(w.cfg.URL); err == nil {
		f.SSH = u.Scheme == "ssh"
		f.WSL = u.Scheme == "wsl"
		f.Socket = u.Scheme != "tcp" && !f.SSH && !f.WSL
	}
	for _, n := range w.networks {
		if n.Driver == "bridge" {
			f.Subnets = append(f.Subnets, n.Subnets...)
			if len(n.ID) >= 12 && n.Options["com.docker.network.bridge.name"] == "" {
				f.Bridges = append(f.Bridges, "br-"+n.ID[:12])
			}
		}
	}
	for _, e := range table {
		if !e.Marked && !e.Via.IsValid() && e.Dev != "" && slices.Contains(f.Subnets, e.Dst) {
			f.Routed = append(f.Routed, e.Dev)
		}
	}
	if name, err := os.Hostname(); err == nil && w.info.Kernel != "" {
		f.Here = name == w.info.Host && platform.Kernel() == w.info.Kernel
	}
	return f
}

// passRoutes brings the OS's table to what planRoutes decides, and reads back what became of it.
func (a *Agent) passRoutes() error {
	old := a.subnets
	plan, host, err := a.planRoutes()
	if err != nil {
		a.subnets = old
		return err
	}
	saved := a.save()
	failures := map[routes.Route]error{}
	table := host.table
	if len(plan.Add)+len(plan.Delete)+len(saved) > 0 {
		err := a.journal.change(func(d *journalDoc) {
			d.Routes = a.engineOf(slices.Concat(plan.Add, host.owned))
			d.TakenOut = slices.Concat(d.TakenOut, saved)
		})
		if err != nil {
			for i := range a.subnets {
				if a.subnets[i].State == Wanted {
					a.subnets[i].State, a.subnets[i].Why = Failed, err.Error()
				}
			}
			return err
		}
		a.takeOut(saved)
		for _, r := range routes.Apply(plan) {
			a.log.Info("route", "op", r.Op, "route", r.Route, "err", r.Err)
			if r.Err != nil {
				failures[r.Route] = r.Err
			}
		}
		if table, err = routes.List(); err != nil {
			return err
		}
	}
	present := map[routes.Route]routes.Entry{}
	for _, e := range table {
		if before, ok := present[e.Route]; !ok || e.Marked && !before.Marked {
			present[e.Route] = e
		}
	}
	for i := range a.subnets {
		s := &a.subnets[i]
		if s.State != Wanted {
			continue
		}
		e, ok := present[s.Route]
		switch err := failures[s.Route]; {
		case ok && e.Marked && !slices.Contains(plan.Foreign, s.Route):
			s.State = Installed
		case ok:
			s.State, s.Why = Foreign, "made by "+e.Owner
		case err != nil:
			s.State = Failed
			s.Why, s.Hint, _ = strings.Cut(err.Error(), "; hint: ")
		default:
			s.State, s.Why = Failed, "the OS does not show it after it was added"
		}
	}
	for _, b := range plan.Blocked {
		for i := range a.subnets {
			if s := &a.subnets[i]; s.Route == b.Want {
				s.State, s.Why = Refused, fmt.Sprintf("route %v (made by %s) is in its way", b.By.Route, b.By.Owner)
			}
		}
	}
	a.giveUp(saved)
	var ours []routes.Route
	for _, r := range slices.Concat(plan.Add, host.owned) {
		if e, ok := present[r]; ok && e.Marked {
			ours = append(ours, r)
		}
	}
	for _, w := range a.engines {
		poke(w.kick)
	}
	return a.journal.change(func(d *journalDoc) { d.Routes, d.TakenOut = a.engineOf(ours), stillOut(d.TakenOut, table) })
}

// engineOf notes for the journal which engine each route is for.
func (a *Agent) engineOf(rs []routes.Route) []ownedRoute {
	var out []ownedRoute
	for _, r := range rs {
		o := ownedRoute{Route: r}
		for _, before := range a.journal.doc.Routes {
			if before.Route == r {
				o.Engine = before.Engine
			}
		}
		for _, s := range a.subnets {
			if s.Route == r {
				o.Engine = s.Engine
			}
		}
		if !slices.Contains(out, o) {
			out = append(out, o)
		}
	}
	return out
}

// passNames gives the zone the names of the changed containers, or of all.
func (a *Agent) passNames(all bool) {
	update := map[string]*dnsserver.Record{}
	crowded := map[string]bool{}
	for _, w := range a.engines {
		at := w.placed
		if all || w.slot == 0 {
			at = a.standing(w)
			w.moving = map[uint32]bool{}
		}
		if w.slot == 0 {
			for w.slot = 1; slices.ContainsFunc(a.engines, func(o *watched) bool { return o != w && o.slot == w.slot }); w.slot++ {
			}
		}
		look := func(number uint32, before engine.Container) {
			old := claims(w.placed, before)
			delete(w.changed, number)
			if w.moving != nil {
				w.moving[number] = true
			}
			names := a.names.put(ownerOf(w.slot, number), old, claims(at, w.containers.Get(number)))
			if a.zone == nil {
				return
			}
			names = slices.DeleteFunc(names, func(n string) bool {
				if a.names.crowded(n) {
					crowded[n] = true
				}
				return crowded[n]
			})
			a.names.records(update, names, a.cfg.Domains) // now, while the directory remembers this container's claims
			if len(update) > 1<<9 {                       // else all of them would lie about at once
				a.publish(update)
			}
		}
		many := len(w.changed) > 256
		for number, before := range w.changed {
			look(number, before)
		}
		if w.moving != nil {
			for number, c := range w.containers.All() {
				if !w.moving[number] && !w.backlog.Has(number) {
					look(number, c)
				}
			}
			w.placed, w.moving = at, nil
		}
		if len(w.changed) == 0 && many {
			w.changed = map[uint32]engine.Container{} // a map never gets smaller
		}
	}
	if len(crowded) > 0 {
		a.names.records(update, slices.Collect(maps.Keys(crowded)), a.cfg.Domains)
	}
	a.publish(update)
}

// claimsOf are the claims of a container as the directory last had them.
func (a *Agent) claimsOf(o owner) []claim {
	for _, w := range a.engines {
		if w.slot != o.slot() {
			continue
		}
		c, changed := w.changed[o.number()]
		if !changed {
			c = w.containers.Get(o.number())
		}
		at := w.placed
		if w.moving[o.number()] {
			at = a.standing(w)
		}
		return claims(at, c)
	}
	return nil
}

// standing is where an engine's names are claimed from: nowhere in a pause.
func (a *Agent) standing(w *watched) place {
	if a.paused {
		return place{}
	}
	return a.place(w)
}

// publish gives the zone what names answer now, and empties the map.
func (a *Agent) publish(update map[string]*dnsserver.Record) {
	if len(update) == 0 {
		return
	}
	a.zone.Update(update)
	for name, r := range update {
		if r != nil && a.zone.Denied(name) {
			poke(a.forget)
			break
		}
	}
	clear(update)
}

// keepForgetting has the OS forget its answers whenever resolver entries have changed, and when a name appears that was denied
// a moment ago: some keep the denial for a minute and more.
func (a *Agent) keepForgetting(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.forget:
		}
		flush, cancel := context.WithTimeout(ctx, 5*time.Second)
		if err := resolver.Flush(flush, a.method); err != nil && ctx.Err() == nil {
			a.log.Warn("the OS may remember a denial", "err", err)
		}
		cancel()
	}
}

// keepVerifying asks the OS itself, after every change of its entries and now and then, whether it goes by them.
func (a *Agent) keepVerifying(ctx context.Context) {
	a.attention.each(ctx, verifyEvery, restEvery, a.changed, func(time.Time) {
		a.mu.Lock()
		wanted := len(a.entries) > 0 && len(a.blocked) == 0 // else that says it
		w := resolver.Want{Domains: a.served(), Server: a.server.Addr()}
		a.mu.Unlock()
		why := ""
		if wanted {
			err := resolver.Verify(ctx, a.method, w)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				why = oneLine(err.Error())
			}
		}
		a.mu.Lock()
		if why != "" && why != a.ineffective {
			a.log.Warn("resolver", "err", why)
		}
		a.ineffective = why
		a.mu.Unlock()
	})
}

// place says which of an engine's addresses are reachable now.
func (a *Agent) place(w *watched) place {
	at := place{engine: w.cfg.Name, domains: a.cfg.Domains, several: len(a.engines) > 1, priority: w.priority}
	open := a.openSubnets(w)
	if w.pilot.open {
		at.vm = w.reach.Via
	}
	at.reachable = func(a netip.Addr) bool {
		return slices.ContainsFunc(open, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	return at
}

// openSubnets are those of an engine's subnets whose addresses can be reached now.
func (a *Agent) openSubnets(w *watched) (open []netip.Prefix) {
	for _, s := range a.subnets {
		if s.Engine == w.cfg.Name && a.isOpen(w, s) {
			open = append(open, s.Prefix)
		}
	}
	return open
}

// unsure tells whether packets may or may not get to a subnet: only an answer tells, as the way there is not ours.
func (w *watched) unsure(s Subnet) bool {
	return s.State == OnLink || s.State == Native && w.reach.Dev != ""
}

// isOpen tells whether packets get to an engine's subnet, as far as is known.
func (a *Agent) isOpen(w *watched, s Subnet) bool {
	switch {
	case w.unsure(s):
		p := a.proofs[s.key()]
		return p.Result == Answered && p.about == w.way(s)
	case s.State == Native || !s.Reachable():
		return s.State == Native
	}
	why, _ := w.pilot.shuts(s, w.reach.To(s.Prefix))
	return w.pilot.open && why == ""
}

// passDomains makes the zone serve the reverse names of all addresses that can be reached, and tells whether that is new.
func (a *Agent) passDomains() bool {
	var open []netip.Prefix
	for _, w := range a.engines {
		for _, s := range a.subnets {
			if s.Engine == w.cfg.Name && s.State != OnLink && a.isOpen(w, s) { // on a link there are others, too
				open = append(open, s.Prefix)
			}
		}
	}
	before := a.reverse
	if a.reverse, a.noReverse = reverseDomains(open); slices.Equal(a.reverse, before) {
		return false
	}
	if a.zone != nil {
		a.zone.SetDomains(a.served())
	}
	return true
}

// served are all domains that the zone answers for.
func (a *Agent) served() []string { return slices.Concat(a.cfg.Domains, a.reverse) }

// passResolver brings the OS's resolver entries to what is wanted.
func (a *Agent) passResolver(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var want []resolver.Item
	if !a.paused {
		var err error
		if want, err = resolver.Render(a.method, resolver.Want{Domains: a.served(), Server: a.server.Addr()}); err != nil {
			return err
		}
	}
	found, err := resolver.Read(ctx)
	if err != nil {
		return err
	}
	plan := resolver.Diff(want, a.journal.doc.Resolver, found)
	if err := a.journal.change(func(d *journalDoc) { d.Resolver = plan.Owned }); err != nil {
		return err
	}
	var errs []error
	for _, r := range resolver.Apply(ctx, plan) {
		a.log.Info("resolver", "step", r.Step.String(), "err", r.Err)
		errs = append(errs, r.Err)
	}
	if len(plan.Steps) > 0 {
		if found, err = resolver.Read(ctx); err != nil {
			return err
		}
		plan = resolver.Diff(want, a.journal.doc.Resolver, found)
		if err := a.journal.change(func(d *journalDoc) { d.Resolver = plan.Owned }); err != nil {
			return err
		}
		if a.paused {
			errs = append(errs, resolver.Flush(ctx, a.method))
		} else { // it takes its time, and names are waited for
			poke(a.forget)
		}
		poke(a.changed)
	}
	entries := slices.Concat(plan.Keep, plan.Foreign)
	if !slices.Equal(entries, a.entries) {
		poke(a.changed)
	}
	a.entries, a.blocked = entries, plan.Blocked
	return errors.Join(errs...)
}
