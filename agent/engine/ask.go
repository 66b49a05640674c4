package engine

import (
	"context"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

const maxFound = 16 // containers that one question leads to

// Pending tells whether the engine has hinted at something that was not yet looked at, or not yet told. It neither locks nor waits.
func (e *Engine) Pending() bool {
	s := e.live.Load()
	return s != nil && s.pending.Load()
}

// Promising tells whether something is Pending that may give a container an address: anything but a container's end.
func (e *Engine) Promising() bool {
	s := e.live.Load()
	return s != nil && s.promising.Load()
}

// LookAt makes the watch look at one container without waiting for an event.
func (e *Engine) LookAt(id string) {
	if s := e.live.Load(); s != nil {
		s.note(note{id: id})
	}
}

// Ask makes the watch look at the running containers that wanted holds for, without waiting for an event: those whose name in
// Docker's sense matches the pattern (RE2), of which wanted sees what a list tells, and the one whose id is, or begins with, one of
// the names. It costs the engine two calls, and one for each container found, of which there are no more than maxFound. One that
// does not heed the pattern, and lists all it has, is asked about the names alone from then on.
func (e *Engine) Ask(ctx context.Context, names []string, pattern string, wanted func(Container) bool) {
	s := e.live.Load()
	if s == nil || !s.told.Load() { // else its list will tell
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var found []string
	var failed error
	if !s.listsAll.Load() {
		listing, stop := context.WithCancel(ctx)
		matches := sync.OnceValues(func() (*regexp.Regexp, error) { return regexp.Compile(pattern) }) // mostly nothing is listed
		failed = s.conn.eachListed(listing, url.Values{"filters": {`{"name":[` + strconv.Quote(pattern) + `]}`}}, func(c Container) {
			switch heeded, err := matches(); {
			case err == nil && !heeded.MatchString(c.Name):
				s.listsAll.Store(true)
				stop() // it may be 100,000
			case len(found) < maxFound && wanted(c):
				found = append(found, c.ID)
			}
		})
		stop()
	}
	for _, name := range names {
		isID := len(name) >= 12 && strings.Trim(name, "0123456789abcdef") == ""
		if !isID && !s.listsAll.Load() {
			continue
		}
		if c, _, _, err := s.conn.inspect(ctx, name); err == nil {
			found = append(found, c.ID)
		}
	}
	if ctx.Err() != nil || failed != nil && !s.listsAll.Load() {
		e.Attend() // it may be frozen
	} else {
		s.vital.answered()
	}
	for _, id := range found {
		s.note(note{id: id}) // older engines still list who has just died
	}
}
