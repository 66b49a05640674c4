package engine

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// event is what an engine says happened to an object. It is valid as long as what it was read from.
type event struct {
	kind, action string // "container" or "network"; "start", "health_status: healthy"
	id           string // of the object
	name, image  string // of a container
	container    string // id of the one that a network gained or lost
	signal       string // that one was sent, a number
	labels       []byte // JSON object, with more in it
	at           int64  // by the engine's clock, ns since 1970
}

// eventOf reads an event; of what is none, nothing. Source: Engine API, SystemEvents.
func eventOf(told []byte) (e event) {
	for k, v := range members(told) {
		switch string(k) {
		case `"Type"`:
			e.kind = glance(v)
		case `"Action"`:
			e.action = glance(v)
		case `"timeNano"`:
			e.at, _ = strconv.ParseInt(string(v), 10, 64)
		case `"Actor"`:
			for k, v := range members(v) {
				switch string(k) {
				case `"ID"`:
					e.id = glance(v)
				case `"Attributes"`:
					e.labels = v
				}
			}
		}
	}
	for k, v := range members(e.labels) {
		switch string(k) {
		case `"name"`:
			e.name = glance(v)
		case `"image"`:
			e.image = glance(v)
		case `"container"`:
			e.container = glance(v)
		case `"signal"`:
			e.signal = glance(v)
		}
	}
	return e
}

// eachEvent has do called with what happens to containers and networks, from a time on by the engine's clock, after it has called opened, when
// the engine has answered. It returns when the stream ends.
func (c *connection) eachEvent(ctx context.Context, since time.Time, opened func(), do func(event)) error {
	query := url.Values{"filters": {`{"type":["container","network"]}`}}
	if !since.IsZero() {
		query.Set("since", fmt.Sprintf("%d.%09d", since.Unix(), since.Nanosecond()))
	}
	answer, err := c.get(ctx, "/events", query)
	if err != nil {
		return err
	}
	defer answer.Close()
	opened()
	in := bufio.NewReaderSize(answer, 32<<10)
	for told := []byte(nil); ; {
		first, err := nextByte(in)
		if err == nil {
			told, err = object(in, append(told[:0], first))
		}
		switch {
		case err == io.EOF:
			return errors.New("engine closed its event stream")
		case err != nil:
			return fmt.Errorf("reading the engine's events: %w", err)
		}
		do(eventOf(told))
	}
}

// noteOf is what follow is to know of an event; ok is false for nothing. Podman puts the container's id where Docker has the network's, so
// either is taken.
func (s *session) noteOf(e event) (n note, ok bool) {
	age := s.age(e)
	switch e.kind {
	case "container":
		n.id = strings.Clone(e.id)
		switch {
		case strings.HasPrefix(e.action, "exec_") || e.action == "top" || e.action == "resize" || e.action == "attach" || e.action == "kill" && e.signal != "9":
			return n, false
		case e.action == "create":
			// An inspect of it may have to wait until it has started, but here are its labels.
			n.what, n.born = created, &Container{ID: n.id, Name: strings.Clone(e.name), Image: strings.Clone(e.image)}
			for k, v := range members(e.labels) {
				n.born.setLabel(glance(k), glance(v))
			}
		case e.action == "start" || e.action == "restart":
			n.what = started
		case (e.action == "die" || e.action == "kill") && e.at > s.conn.systemTime.UnixNano(): // else it is an old story, and may run again
			if e.action == "kill" { // nothing outlives that, but the engine needs up to 100 ms to notice
				n.killed = time.Unix(0, e.at)
			}
			if n.what = died; age < s.pace.restart {
				n.until = time.Now().Add(s.pace.restart - age)
			}
		}
	case "network":
		n.id = strings.Clone(cmp.Or(e.container, e.id))
		switch {
		case e.action == "connect" && e.container != "":
			n.what, n.network = joined, strings.Clone(e.id)
		case e.action == "connect":
		case e.action == "disconnect":
			n.what, n.network = left, strings.Clone(e.id)
		default:
			n.what = networksChanged
		}
	}
	return n, n.id != ""
}

// unsure is an age at which nothing can be said.
const unsure = time.Hour

// age is how long ago an event was, at most, however late it comes. What seems to come from the future tells that a clock was set.
func (s *session) age(e event) time.Duration {
	age := time.Since(time.Unix(0, e.at)) - s.conn.ahead
	if age < 0 || s.conn.systemTime.IsZero() {
		s.timeless = true
	}
	if s.timeless {
		return unsure
	}
	return age
}
