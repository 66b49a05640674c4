package engine

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
)

// eachListed goes through the containers that the engine lists, those that live or all that the filters name, without ever
// having the whole answer: 100,000 containers are 64 MB of JSON. A list lacks what only an inspect tells: variables, host names, aliases.
func (c *connection) eachListed(ctx context.Context, query url.Values, yield func(Container)) error {
	answer, err := c.get(ctx, "/containers/json", query)
	if err != nil {
		return err
	}
	return eachIn(answer, yield)
}

// eachIn goes through a list of containers, and closes it.
func eachIn(list io.ReadCloser, yield func(Container)) error {
	defer list.Close()
	err := eachElement(list, func(element []byte) {
		if sum, ok := containerOfSummary(element); ok {
			yield(sum)
		}
	})
	if err == nil {
		_, _ = list.Read(make([]byte, 1)) // to its end, or the connection is of no more use
	}
	return err
}

// get asks for what lies at a path, in its own bytes: the client's types would have all of it, and take many times as long. What is not
// there is cerrdefs.ErrNotFound.
func (c *connection) get(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	return c.ask(ctx, http.MethodGet, path, query)
}

func (c *connection) ask(ctx context.Context, method, path string, query url.Values) (io.ReadCloser, error) {
	to := c.to
	to.Path, to.RawQuery = to.Path+path, query.Encode()
	answer, err := c.bare.RoundTrip((&http.Request{Method: method, URL: &to, Host: to.Host, Header: http.Header{}}).WithContext(ctx))
	if err != nil {
		return nil, err
	}
	if answer.StatusCode == http.StatusOK {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(answer.Body, 512))
	why := string(bytes.TrimSpace(said))
	for key, value := range members(said) {
		if string(key) == `"message"` {
			why = cmp.Or(text(value), why)
		}
	}
	if err = fmt.Errorf("the engine says %s: %q", answer.Status, why); answer.StatusCode == http.StatusNotFound {
		err = errors.Join(err, cerrdefs.ErrNotFound)
	}
	return nil, err
}

// buffers are for answers that are read as a whole.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// whole has do called with all that lies at a path, which is valid until do returns.
func (c *connection) whole(ctx context.Context, path string, do func(answer []byte)) error {
	body, err := c.get(ctx, path, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	answer := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(answer)
	answer.Reset()
	if _, err := answer.ReadFrom(body); err != nil {
		return err
	}
	do(answer.Bytes())
	return nil
}

// inspect looks at one container, by its name or id. started is when it last was, by the engine's clock; live tells whether it runs, is paused or is being started again.
func (c *connection) inspect(ctx context.Context, id string) (found Container, started time.Time, live bool, err error) {
	ok := false
	if err := c.whole(ctx, "/containers/"+id+"/json", func(answer []byte) { found, started, live, ok = containerOfInspect(answer) }); err != nil {
		return Container{}, time.Time{}, false, err
	}
	if !ok {
		return Container{}, time.Time{}, false, errors.New("the answer is no container")
	}
	return found, started, live, nil
}

// attachments asks a network how containers are attached to it, by their ids: of all that are, or of some.
func (c *connection) attachments(ctx context.Context, network string, of []string) (found map[string]Attachment, err error) {
	err = c.whole(ctx, "/networks/"+network, func(answer []byte) { found = attachmentsIn(answer, of) })
	return found, err
}

// attachmentsIn reads what an inspect of a network tells of its containers. Source: Engine API, NetworkInspect.
func attachmentsIn(answer []byte, of []string) map[string]Attachment {
	var id, name string
	var all []byte
	for k, v := range members(answer) {
		switch string(k) {
		case `"Id"`:
			id = text(v)
		case `"Name"`:
			name = text(v)
		case `"Containers"`:
			all = v
		}
	}
	wanted := make(map[string]bool, len(of))
	for _, c := range of {
		wanted[c] = true
	}
	found := make(map[string]Attachment, len(of))
	for c, v := range members(all) {
		if c := text(c); of == nil || wanted[c] {
			found[c] = attachmentFrom(id, name, v)
		}
	}
	return found
}

func attachmentFrom(id, name string, endpoint []byte) Attachment {
	a := Attachment{NetworkID: id, Network: name}
	var v4, v6 string
	for k, v := range members(endpoint) {
		switch string(k) {
		case `"IPv4Address"`:
			v4, _, _ = strings.Cut(text(v), "/")
		case `"IPv6Address"`:
			v6, _, _ = strings.Cut(text(v), "/")
		}
	}
	a.setAddrs(v4, v6)
	return a
}

func (a *Attachment) setAddrs(all ...string) {
	for _, s := range all {
		if ip, ok := addrOf(s); ok {
			a.Addrs = append(a.Addrs, ip)
		}
	}
}

// listOne gives what the engine lists of one container; ok is false where it lists none.
func (c *connection) listOne(ctx context.Context, id string, all bool) (found Container, ok bool) {
	query := url.Values{"filters": {`{"id":[` + strconv.Quote(id) + `]}`}}
	if all {
		query.Set("all", "1")
	}
	_ = c.eachListed(ctx, query, func(c Container) {
		if c.ID == id {
			found, ok = c, true
		}
	})
	return found, ok
}

// containerOfInspect copies what we need out of what an inspect tells, with the time of the last start; ok is false for what is no container. Source: Engine API, ContainerInspect.
func containerOfInspect(answer []byte) (c Container, started time.Time, live, ok bool) {
	for key, v := range members(answer) {
		switch string(key) {
		case `"Id"`:
			c.ID = text(v)
		case `"Name"`:
			c.Name = strings.TrimPrefix(text(v), "/")
		case `"State"`:
			ok = isObject(v)
			for k, v := range members(v) {
				switch string(k) {
				case `"Status"`:
					c.State = text(v)
				case `"StartedAt"`:
					started, _ = time.Parse(time.RFC3339Nano, text(v))
				case `"Health"`:
					for k, v := range members(v) {
						if string(k) == `"Status"` && string(v) != `"none"` {
							c.Health = text(v)
						}
					}
				}
			}
		case `"Config"`:
			c.setConfig(v)
		case `"HostConfig"`:
			c.setHostConfig(v)
		case `"NetworkSettings"`:
			c.setNetworks(v)
		}
	}
	ok = ok && c.ID != ""
	c.whole = true
	switch c.State {
	case "running", "paused", "restarting":
		live = ok
	}
	return c, started, live, ok
}

func (c *Container) setConfig(config []byte) {
	for k, v := range members(config) {
		switch string(k) {
		case `"Image"`:
			c.Image = text(v)
		case `"Hostname"`:
			c.Hostname = text(v)
		case `"Domainname"`:
			c.Domainname = text(v)
		case `"Labels"`:
			for k, v := range members(v) {
				c.setLabel(glance(k), glance(v))
			}
		case `"Env"`:
			for variable := range elements(v) {
				c.addEnv(text(variable))
			}
		case `"ExposedPorts"`:
			for p := range members(v) {
				number, proto, _ := strings.Cut(text(p), "/")
				if n, err := strconv.ParseUint(number, 10, 16); err == nil {
					c.addPort(Port{Number: uint16(n), Proto: cmp.Or(proto, "tcp")})
				}
			}
			slices.SortFunc(c.Ports, comparePort)
		}
	}
}

func (c *Container) setHostConfig(config []byte) {
	for k, v := range members(config) {
		if string(k) == `"NetworkMode"` {
			c.setMode(container.NetworkMode(text(v)))
		}
	}
}

func (c *Container) setNetworks(settings []byte) {
	for k, v := range members(settings) {
		if string(k) != `"Networks"` {
			continue
		}
		for name, e := range members(v) {
			if isObject(e) {
				c.Endpoints = append(c.Endpoints, attachmentOf(text(name), e))
			}
		}
	}
	slices.SortFunc(c.Endpoints, func(a, b Attachment) int { return strings.Compare(a.Network, b.Network) })
}

func isObject(value []byte) bool { return len(value) > 0 && value[0] == '{' }

func (c *Container) addPort(p Port) {
	if p.Number > 0 && slices.Contains(protos[1:], p.Proto) && len(c.Ports) < maxPorts {
		c.Ports = append(c.Ports, p)
	}
}

// containerOfSummary reads one element of a list of containers: all but host name, variables and aliases. ok is false for
// what is no container. Source: Engine API, ContainerList.
func containerOfSummary(element []byte) (c Container, ok bool) {
	for key, v := range members(element) {
		switch string(key) {
		case `"Id"`:
			c.ID = text(v)
		case `"Names"`:
			for name := range elements(v) {
				if name := strings.TrimPrefix(glance(name), "/"); !strings.Contains(name, "/") { // else a link: another's name for it
					c.Name = strings.Clone(name)
				}
			}
		case `"Image"`:
			c.Image = text(v)
		case `"Labels"`:
			for k, v := range members(v) {
				c.setLabel(glance(k), glance(v))
			}
		case `"State"`:
			c.State = oneOf(states, v)
		case `"Status"`: // "Up 5 minutes (health: starting)"
			switch status := glance(v); {
			case strings.HasSuffix(status, "(healthy)"):
				c.Health = "healthy"
			case strings.HasSuffix(status, "(unhealthy)"):
				c.Health = "unhealthy"
			case strings.HasSuffix(status, "(health: starting)"):
				c.Health = "starting"
			}
		case `"Ports"`:
			for p := range elements(v) {
				var port Port
				for k, v := range members(p) {
					switch string(k) {
					case `"PrivatePort"`:
						if n, err := strconv.ParseUint(string(v), 10, 16); err == nil {
							port.Number = uint16(n)
						}
					case `"Type"`:
						port.Proto = oneOf(protos, v)
					}
				}
				c.addPort(port)
			}
			slices.SortFunc(c.Ports, comparePort)
			c.Ports = slices.Compact(c.Ports)
		case `"HostConfig"`:
			c.setHostConfig(v)
		case `"NetworkSettings"`:
			c.setNetworks(v)
		}
	}
	return c, c.ID != ""
}

func attachmentOf(network string, endpoint []byte) Attachment {
	a := Attachment{Network: network}
	var v4, v6 string
	for k, v := range members(endpoint) {
		switch string(k) {
		case `"NetworkID"`:
			a.NetworkID = text(v)
		case `"IPAddress"`:
			v4 = glance(v)
		case `"GlobalIPv6Address"`:
			v6 = glance(v)
		case `"Aliases"`:
			for alias := range elements(v) {
				if len(a.Aliases) < maxAliases {
					a.Aliases = append(a.Aliases, text(alias))
				}
			}
		}
	}
	a.setAddrs(v4, v6)
	return a
}

// eachElement goes through the elements of a JSON array, one after the other as they come: encoding/json would take thrice the time,
// which at 100,000 containers are seconds. An element is valid until do returns.
func eachElement(r io.Reader, do func(element []byte)) error {
	in := bufio.NewReaderSize(r, 32<<10)
	c, err := nextByte(in)
	if err != nil || c != '[' {
		return errors.Join(errNoList, err)
	}
	var element []byte
	for first := true; ; first = false {
		c, err := nextByte(in)
		if err != nil {
			return errors.Join(errNoList, err)
		}
		switch {
		case c == ']':
			return nil
		case first == (c == ','):
			return errNoList
		case c == ',':
			if c, err = nextByte(in); err != nil {
				return errors.Join(errNoList, err)
			}
		}
		if element, err = object(in, append(element[:0], c)); err != nil {
			return errors.Join(errNoList, err)
		}
		do(element)
	}
}

// object reads on to the end of the JSON object of which told is the first byte, and adds that to it.
func object(in *bufio.Reader, told []byte) ([]byte, error) {
	if told[0] != '{' {
		return told, errors.New("this is no object")
	}
	for depth, quoted, escaped := 1, false, false; depth > 0; {
		chunk, err := in.Peek(max(1, in.Buffered()))
		if len(chunk) == 0 {
			return told, err
		}
		n := 0
		for n < len(chunk) && depth > 0 {
			if quoted {
				if escaped {
					n, escaped = n+1, false
				}
				end := bytes.IndexByte(chunk[n:], '"')
				if end < 0 {
					escaped = escapes(chunk[n:])
					n = len(chunk)
					break
				}
				quoted = escapes(chunk[n : n+end])
				n += end + 1
				continue
			}
			switch c := chunk[n]; c {
			case '"':
				quoted = true
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			n++
		}
		if told = append(told, chunk[:n]...); len(told) > maxAnswer {
			return told, errors.New("one object's description has no end")
		}
		in.Discard(n)
	}
	return told, nil
}

var errNoList = errors.New("the engine's answer is no list of containers")

// nextByte skips white space.
func nextByte(in *bufio.Reader) (byte, error) {
	for {
		c, err := in.ReadByte()
		if err != nil || c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c, err
		}
	}
}

// members goes through the keys and values of a JSON object, each as it is written; of what is none, through nothing.
func members(object []byte) func(yield func(key, value []byte) bool) {
	return func(yield func(key, value []byte) bool) {
		if len(object) == 0 || object[0] != '{' {
			return
		}
		rest := object[1:]
		for {
			var key, value []byte
			if key, rest = cutValue(rest); key == nil {
				return
			}
			if value, rest = cutValue(rest); value == nil {
				return
			}
			if !yield(key, value) {
				return
			}
		}
	}
}

// elements goes through a JSON array, as members does.
func elements(array []byte) func(yield func(value []byte) bool) {
	return func(yield func(value []byte) bool) {
		if len(array) == 0 || array[0] != '[' {
			return
		}
		for value, rest := cutValue(array[1:]); value != nil && yield(value); {
			value, rest = cutValue(rest)
		}
	}
}

// cutValue cuts the next value off, with what parts it from the one before. It is nil at the end.
func cutValue(b []byte) (value, rest []byte) {
	i := 0
	for i < len(b) && (b[i] <= ' ' || b[i] == ',' || b[i] == ':') {
		i++
	}
	b = b[i:]
	for i, depth := 0, 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			for begin := i + 1; ; {
				end := bytes.IndexByte(b[i+1:], '"')
				if end < 0 {
					return nil, nil
				}
				if i += 1 + end; !escapes(b[begin:i]) {
					break
				}
			}
			if depth == 0 {
				return b[:i+1], b[i+1:]
			}
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				return b[:i+1], b[i+1:]
			} else if depth < 0 { // the end of what it is in, maybe of a number before it
				if i == 0 {
					return nil, nil
				}
				return b[:i], b[i:]
			}
		case depth == 0 && (c == ',' || c <= ' '):
			return b[:i], b[i:]
		}
	}
	return nil, nil
}

// escapes tells whether the part of a JSON string makes what follows it mean something else.
func escapes(part []byte) bool {
	n := len(part)
	for n > 0 && part[n-1] == '\\' {
		n--
	}
	return (len(part)-n)%2 != 0
}

// text reads a JSON string; what is none is "".
func text(value []byte) string { return strings.Clone(glance(value)) }

// glance is text for what is not kept: it is valid for as long as value.
func glance(value []byte) string {
	if len(value) < 2 || value[0] != '"' {
		return ""
	}
	if plain := value[1 : len(value)-1]; bytes.IndexByte(plain, '\\') < 0 && utf8.Valid(plain) {
		return asText(plain)
	}
	s := new(string)
	_ = json.Unmarshal(value, s)
	return *s
}

// oneOf is text that is mostly one of these words.
func oneOf(words []string, value []byte) string {
	if i := slices.Index(words, glance(value)); i >= 0 {
		return words[i]
	}
	return text(value)
}
