package agent

import (
	"context"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/dnsserver"
)

// zoneConfig is how the names are to be answered.
func (a *Agent) zoneConfig() dnsserver.ZoneConfig {
	c := dnsserver.ZoneConfig{
		Domains: a.cfg.Domains, Server: a.server.Addr().Addr(),
		TTL: max(a.cfg.TTL, 1), NegativeTTL: max(a.cfg.Negative, 1), // there 0 is the default
	}
	if a.cfg.Patience > 0 {
		c.Unknown, c.Worth, c.Patience = a.unknown, a.worth, a.cfg.Patience
	}
	return c
}

// asks and askEvery bound what questions for names that nobody has cost the engines: so many at once, then one every so often.
const (
	maxComing = 1 << 13 // of an engine's containers
	asks      = 4
	askEvery  = time.Second
)

// asking holds the pace of asking the engines, by the clock: timers would go on waking a host after a flood.
type asking struct{ free atomic.Int64 } // when all asked for were asked if it took askEvery each, one after the other; since begun

var begun = time.Now() // of the monotonic clock

// may tells whether the engines may be asked now.
func (q *asking) may() bool {
	return q.free.Load() <= int64(time.Since(begun)+(asks-1)*askEvery)
}

// begin reports whether the engines may be asked now, and counts it if so.
func (q *asking) begin() bool {
	for {
		free, now := q.free.Load(), time.Since(begun)
		if free > int64(now+(asks-1)*askEvery) {
			return false
		}
		if q.free.CompareAndSwap(free, max(free, int64(now))+int64(askEvery)) {
			return true
		}
	}
}

// worth tells for how many names at a time unknown may find anything out: for any while there is something to wait for, else for
// as many as the engines may be asked for, which is none when they were asked often enough, or for whom the engine has just said that it
// ended. A flood of questions asks it for each, so it does not lock.
func (a *Agent) worth(ended bool) int {
	for _, e := range *a.apis.Load() { // first: what an engine has told is due before it ceases to be pending
		if e.Promising() || !ended && e.Pending() {
			return math.MaxInt
		}
	}
	if a.due.Load() {
		return math.MaxInt
	}
	if !ended && a.asking.may() {
		return asks
	}
	return 0
}

// unknown is called before a name is denied. It waits for what the engines have hinted at and we have not told yet, and asks the
// engines for a container of that name: within the pace of asking, or, where such a container exists and may be started any
// moment, together with all others that are asked for so. The answer to the first question after `docker run` is never too early,
// whatever else is asked meanwhile. It returns when somebody has the name, when there is nothing to wait for, or when ctx ends.
func (a *Agent) unknown(ctx context.Context, name string) {
	a.want(name)
	var asked <-chan struct{}
	if stands := a.candidates(name); len(stands) > 0 {
		if a.asking.begin() {
			a.rest.from()
			poke(a.homes) // its engine may have come up
			a.ask(ctx, stands)
		} else if a.zone.Expects(name) {
			asked = a.together.join(name)
		}
	}
	for ctx.Err() == nil {
		a.mu.Lock()
		passed := a.passed
		busy := asked != nil || a.due.Load()
		for _, w := range a.engines {
			busy = busy || w.eng.Pending() || len(w.changed) > 0 || w.backlog != nil
		}
		known := a.knows(name)
		a.mu.Unlock()
		if known || !busy {
			return
		}
		select {
		case <-passed:
		case <-asked:
			asked = nil
		case <-ctx.Done():
		}
	}
}

// ask has the engines look for what a name stands for.
func (a *Agent) ask(ctx context.Context, stands candidates) {
	var asked sync.WaitGroup // at once: one that hangs must not hide what another knows
	for _, e := range *a.apis.Load() {
		asked.Go(func() { e.Ask(ctx, stands, stands.pattern(), stands.of) })
	}
	asked.Wait()
}

// together has done what was asked of it since it last did, for all at once: a crowd of questions costs no more than one.
type together struct {
	do func(names []string)

	mu   sync.Mutex
	next *round
	last time.Time
}

type round struct {
	names []string
	done  chan struct{}
}

const (
	togetherEvery = 50 * time.Millisecond // well below the usual patience
	maxTogether   = 64                    // names; who comes with more waits in vain
	maxLooks      = 16                    // containers that one round looks at
)

// join adds a name to the next round. The channel is closed when that was done.
func (t *together) join(name string) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next == nil {
		t.next = &round{done: make(chan struct{})}
		time.AfterFunc(togetherEvery-time.Since(t.last), t.run)
	}
	if len(t.next.names) < maxTogether && !slices.Contains(t.next.names, name) {
		t.next.names = append(t.next.names, name)
	}
	return t.next.done
}

func (t *together) run() {
	t.mu.Lock()
	r := t.next
	t.next, t.last = nil, time.Now()
	t.mu.Unlock()
	t.do(r.names)
	close(r.done)
}

// lookAt has the engines look at the containers that may be started any moment and would have one of the names then, or one that
// such a name lies below, or begins with.
func (a *Agent) lookAt(names []string) {
	var wanted []string
	for _, name := range names {
		for _, d := range a.cfg.Domains {
			rest, ok := strings.CutSuffix(name, "."+d)
			if !ok {
				continue
			}
			first, _, _ := strings.Cut(rest, ".")
			wanted = append(wanted, first+"."+d)
			for ; rest != ""; _, rest, _ = strings.Cut(rest, ".") {
				wanted = append(wanted, rest+"."+d)
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	left := maxLooks
	for _, w := range a.engines {
		for id, names := range w.coming {
			if left > 0 && slices.ContainsFunc(wanted, func(n string) bool { return slices.Contains(names, n) }) {
				w.eng.LookAt(id)
				left--
			}
		}
	}
}

// expect tells the zone which names may appear any moment: those of containers that exist and are not live.
func (a *Agent) expect(w *watched, u engine.Update) {
	forget := func(id string) {
		a.zone.Expect(w.coming[id], -1)
		delete(w.coming, id)
	}
	if a.zone == nil {
		return
	}
	if u.Info != nil { // what came to an end while nobody looked is not told
		for id := range w.coming {
			forget(id)
		}
	}
	for _, c := range u.Containers {
		forget(c.ID)
	}
	for _, id := range u.Destroyed {
		forget(id)
	}
	at := place{engine: w.cfg.Name, domains: a.cfg.Domains, several: len(a.engines) > 1, reachable: func(netip.Addr) bool { return true }}
	for _, c := range u.Coming {
		forget(c.ID)
		if len(w.coming) < maxComing {
			w.coming[c.ID] = comingNames(at, c)
			a.zone.Expect(w.coming[c.ID], 1)
		}
	}
}

// comingNames are the names that a container would ask for if it were live, in every domain.
func comingNames(at place, c engine.Container) (names []string) {
	some := []netip.Addr{netip.IPv4Unspecified()}
	c.Endpoints = slices.Clone(c.Endpoints)
	for i := range c.Endpoints {
		c.Endpoints[i].Addrs = some
	}
	c.Endpoints = append(c.Endpoints, engine.Attachment{Addrs: some})
	for _, claim := range claims(at, c) {
		if claim.deny == "" && claim.rank != byAddress {
			for _, d := range at.domains {
				names = append(names, claim.name+"."+d)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// knows tells whether somebody has name, or one above it.
func (a *Agent) knows(name string) bool {
	for _, d := range a.cfg.Domains {
		rest, ok := strings.CutSuffix(name, "."+d)
		for ; ok && rest != ""; _, rest, _ = strings.Cut(rest, ".") {
			if len(a.names.holder(rest).addrs()) > 0 {
				return true
			}
		}
	}
	return false
}

// candidates are what a container may be called that a DNS name stands for, in the form that the zone has.
type candidates []string

// candidates are all of the name, and its parts that can be a container or a service: "web" of "web.backend", "any.web" and
// "web.dev", "api.shop" of "2.api.shop".
func (a *Agent) candidates(name string) candidates {
	for _, d := range a.cfg.Domains {
		if rest, ok := strings.CutSuffix(name, "."+d); ok {
			labels := strings.Split(rest, ".")
			n := len(labels)
			c := candidates{rest, labels[0], labels[n-1], strings.Join(labels[max(n-2, 0):], ".")}
			c = slices.DeleteFunc(c, func(s string) bool { return s == "" || strings.HasPrefix(s, "_") })
			slices.Sort(c)
			return slices.Compact(c)
		}
	}
	return nil
}

// of tells whether one of the candidates is what a container is called by its name, mapped or not, or by its service.
func (c candidates) of(at engine.Container) bool {
	names := []string{at.Name}
	if service, project, ok := composed(at); ok {
		names = append(names, service, service+"."+project, mapped(service)+"."+mapped(project))
	}
	return slices.ContainsFunc(names, func(n string) bool { return slices.Contains(c, lower(n)) || slices.Contains(c, mapped(n)) })
}

// pattern matches the names in Docker's sense of all containers that of may hold for; of a few more, too, as "-" may stand for "_",
// and after a hash's beginning anything may follow. Compose calls a service's containers PROJECT-SERVICE-NUMBER, or with "_".
func (c candidates) pattern() string {
	loose := func(s string) string { return strings.ReplaceAll(regexp.QuoteMeta(s), "-", "[-_]") }
	var all []string
	for _, name := range c {
		all = append(all, loose(name))
		label, _, _ := strings.Cut(name, ".")
		if cut := len(label) - len("-01234567"); cut > 0 && label[cut] == '-' {
			all = append(all, loose(label[:cut])+".*")
		}
		service, project, ok := strings.Cut(name, ".")
		if !ok {
			project = ".+"
		} else {
			project = loose(project)
		}
		all = append(all, project+"[-_]"+loose(service)+"[-_][0-9]+")
	}
	return "(?i)^/?(" + strings.Join(all, "|") + ")$"
}
