package engine

import (
	"context"
	"encoding/json"
	"net/url"
	"time"
)

const maxFound = 16 // containers that one question leads to

// Pending tells whether the engine has hinted at something that was not yet looked at, or not yet told. It neither locks nor waits.
func (e *Engine) Pending() bool {
	s := e.live.Load()
	return s != nil && s.pending.Load()
}

// Ask makes the watch look at the running containers that wanted holds for, without waiting for an event: among those whose name
// matches the pattern (RE2), of which wanted sees what a list tells, and the one whose id is, or begins with, id unless that
// is "". It costs the engine two calls, and one for each container found, of which there are no more than maxFound.
func (e *Engine) Ask(ctx context.Context, pattern, id string, wanted func(Container) bool) {
	s := e.live.Load()
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var found []string
	filters, _ := json.Marshal(map[string][]string{"name": {pattern}})
	_ = s.conn.eachListed(ctx, url.Values{"filters": {string(filters)}}, func(c Container) {
		if len(found) < maxFound && wanted(c) {
			found = append(found, c.ID)
		}
	})
	if id != "" {
		if in, err := s.conn.ContainerInspect(ctx, id); err == nil && in.ContainerJSONBase != nil && in.ID != "" {
			found = append(found, in.ID)
		}
	}
	for _, id := range found {
		s.note(note{id: id})
	}
}
