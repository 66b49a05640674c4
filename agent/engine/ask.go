package engine

import (
	"context"
	"time"
)

// Pending tells whether the engine has hinted at something that was not yet looked at, or not yet told. It neither locks nor waits.
func (e *Engine) Pending() bool {
	s := e.live.Load()
	return s != nil && s.pending.Load()
}

// Ask makes the watch look at the container that has one of these names, or whose id begins so, where the engine has one.
func (e *Engine) Ask(ctx context.Context, names []string) {
	s := e.live.Load()
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for _, n := range names {
		in, err := s.conn.ContainerInspect(ctx, n)
		if err != nil || in.ContainerJSONBase == nil || in.ID == "" {
			continue
		}
		s.note(note{id: in.ID})
		return
	}
}
