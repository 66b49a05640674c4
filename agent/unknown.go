package agent

import (
	"context"
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
		c.Unknown, c.Settled, c.Patience = a.unknown, a.nothingNew, a.cfg.Patience
	}
	return c
}

// asks and askEvery bound what questions for names that nobody has cost the engines: so many at once, then one at a time.
const (
	asks     = 4
	askEvery = 250 * time.Millisecond
)

// asking holds the pace of asking the engines.
type asking struct{ out atomic.Int32 }

// may tells whether the engines may be asked now.
func (q *asking) may() bool { return q.out.Load() < asks }

// begin reports whether the engines may be asked now, and counts it if so.
func (q *asking) begin() bool {
	for {
		n := q.out.Load()
		if n >= asks {
			return false
		}
		if q.out.CompareAndSwap(n, n+1) {
			time.AfterFunc(time.Duration(n+1)*askEvery, func() { q.out.Add(-1) })
			return true
		}
	}
}

// nothingNew tells that unknown would find nothing out about any name: there is nothing to wait for, and the engines were asked
// often enough. A flood of questions asks it every time, so it neither locks nor reads a clock.
func (a *Agent) nothingNew() bool {
	if a.asking.may() {
		return false
	}
	for _, e := range *a.apis.Load() { // first: what an engine has told is due before it ceases to be pending
		if e.Pending() {
			return false
		}
	}
	return !a.due.Load()
}

// unknown is called before a name is denied. It waits for what the engines have hinted at and we have not told yet, and,
// within the pace of asking, asks the engines for a container of that name: the answer to the first question after `docker
// run` is never too early. It returns when somebody has the name, when there is
// nothing to wait for, or when ctx ends.
func (a *Agent) unknown(ctx context.Context, name string) {
	if stands := a.candidates(name); len(stands) > 0 && a.asking.begin() {
		var asked sync.WaitGroup // at once: one that hangs must not hide what another knows
		for _, e := range *a.apis.Load() {
			asked.Go(func() { e.Ask(ctx, stands, stands.pattern(), stands.of) })
		}
		asked.Wait()
	}
	for ctx.Err() == nil {
		a.mu.Lock()
		passed := a.passed
		busy := a.dirty != (dirty{})
		for _, w := range a.engines {
			busy = busy || w.eng.Pending() || len(w.changed) > 0
		}
		known := a.knows(name)
		a.mu.Unlock()
		if known || !busy {
			return
		}
		select {
		case <-passed:
		case <-ctx.Done():
		}
	}
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
