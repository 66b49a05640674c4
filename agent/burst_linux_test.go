package agent

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/dnsserver"
)

// crowded is an engine that does nothing but start containers, many at once. What it says is ready before it is asked.
type crowded struct {
	mu      sync.Mutex
	byID    map[string]string    // inspects
	list    string               // of containers
	joined  string               // what its network has of containers
	streams map[chan string]bool // of events
}

func crowdAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 213, byte(i >> 8), byte(i)}) }

// starting makes a function that starts containers PREFIX-0 and on at once, beside those that run, and tells of it.
func (e *crowded) starting(prefix string, from, n int) (start func()) {
	var list, joined, events strings.Builder
	byID := maps.Clone(e.byID)
	event := func(action, id, name string) {
		fmt.Fprintf(&events, `{"Type":"container","Action":%q,"Actor":{"ID":%q,"Attributes":{"name":%q,"image":"nginx"}},"timeNano":%d}`+"\n", action, id, name, time.Now().UnixNano())
	}
	comma := ""
	if len(byID) > 0 {
		comma = ","
	}
	for i := range n {
		name := fmt.Sprintf("%s-%d", prefix, i)
		id := fmt.Sprintf("%x", sha256.Sum256([]byte(name)))
		networks := fmt.Sprintf(`"NetworkSettings":{"Networks":{"bridge":{"NetworkID":"n1","IPAddress":"%v"}}}`, crowdAddr(from+i))
		fmt.Fprintf(&list, `%s{"Id":%q,"Names":["/%s"],"Image":"nginx","Labels":{},"State":"running","Status":"Up 1 second","Ports":[],"HostConfig":{"NetworkMode":"bridge"},%s}`, comma, id, name, networks)
		byID[id] = fmt.Sprintf(`{"Id":%q,"Name":"/%s","State":{"Status":"running"},"Config":{"Image":"nginx","Hostname":%q,"Labels":{}},"HostConfig":{"NetworkMode":"bridge"},%s}`, id, name, name, networks)
		fmt.Fprintf(&joined, `%s%q:{"Name":%q,"IPv4Address":"%v/16"}`, comma, id, name, crowdAddr(from+i))
		event("create", id, name)
		fmt.Fprintf(&events, `{"Type":"network","Action":"connect","Actor":{"ID":"n1","Attributes":{"container":%q,"name":"bridge","type":"bridge"}},"timeNano":%d}`+"\n", id, time.Now().UnixNano())
		event("start", id, name)
		comma = ","
	}
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.byID, e.list, e.joined = byID, e.list+list.String(), e.joined+joined.String()
		for s := range e.streams {
			s <- events.String()
		}
	}
}

func (e *crowded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	const network = `{"Id":"n1","Name":"bridge","Driver":"bridge","IPAM":{"Config":[{"Subnet":"10.213.0.0/16","Gateway":"10.213.255.254"}]},"Containers":{%s}}`
	e.mu.Lock()
	list, joined, byID := e.list, e.joined, e.byID
	e.mu.Unlock() // before anything is written: who asked may not read yet
	switch {
	case r.URL.Path == "/_ping":
		w.Header().Set("Api-Version", "1.41")
	case path == "version":
		io.WriteString(w, `{"Version":"20.10.24","ApiVersion":"1.41","Os":"linux","Arch":"amd64"}`)
	case path == "info":
		fmt.Fprintf(w, `{"ID":"crowded","Name":"vm","SystemTime":%q}`, time.Now().Format(time.RFC3339Nano))
	case path == "networks":
		fmt.Fprintf(w, "["+network+"]", "")
	case path == "networks/n1":
		fmt.Fprintf(w, network, joined)
	case path == "containers/json":
		fmt.Fprint(w, "[", list, "]")
	case path == "events":
		events := make(chan string, 64)
		e.mu.Lock()
		e.streams[events] = true
		e.mu.Unlock()
		w.(http.Flusher).Flush()
		for done := false; !done; {
			select {
			case text := <-events:
				io.WriteString(w, text)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				done = true
			}
		}
		e.mu.Lock()
		delete(e.streams, events)
		e.mu.Unlock()
	default:
		id, _, _ := strings.Cut(strings.TrimPrefix(path, "containers/"), "/")
		if c, ok := byID[id]; ok {
			io.WriteString(w, c)
		} else {
			http.Error(w, `{"message":"no such container"}`, http.StatusNotFound)
		}
	}
}

// BenchmarkBurst starts many containers at once beside a hundred others, and tells how long after that all their names are answered
// right by the whole agent; list-ms is what the engine takes to list them, to a reader that only reads. Needs root.
func BenchmarkBurst(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var took, lists []time.Duration
			for range b.N {
				t, l := burst(b, n)
				took, lists = append(took, t), append(lists, l)
			}
			for _, m := range []struct {
				name string
				of   []time.Duration
			}{{"", took}, {"list-", lists}} {
				total, most := time.Duration(0), time.Duration(0)
				for _, d := range m.of {
					total, most = total+d, max(most, d)
				}
				b.ReportMetric(float64(total)/float64(len(m.of))/1e6, m.name+"mean-ms")
				b.ReportMetric(float64(most)/1e6, m.name+"max-ms")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func burst(b *testing.B, n int) (took, list time.Duration) {
	dir := b.TempDir()
	e := &crowded{byID: map[string]string{}, streams: map[chan string]bool{}}
	socket, err := net.Listen("unix", filepath.Join(dir, "engine"))
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: e}
	go server.Serve(socket)
	defer server.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	free.Close()
	dns := netip.MustParseAddrPort(free.Addr().String())
	cfg := Config{
		Engines: []EngineConfig{{Endpoint: engine.Endpoint{Name: "default", URL: "unix://" + filepath.Join(dir, "engine")}, Gateway: "native"}},
		Domains: []string{"docker"}, DNSListen: dns, Resolver: "none", TTL: time.Second, Negative: time.Second, Patience: 250 * time.Millisecond,
		StateDir: filepath.Join(dir, "state"), Control: filepath.Join(dir, "control"),
	}
	e.starting("old", 1, 100)()
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error)
	go func() { ended <- Run(ctx, cfg, slog.New(slog.DiscardHandler), "bench", func() {}) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}()
	right := func(name string, i int) bool {
		r, err := dnsserver.Query(ctx, dns, name, "A")
		return err == nil && len(r.Answers) == 1 && strings.HasSuffix(r.Answers[0], "\t"+crowdAddr(i).String())
	}
	until := func(name string, i int) {
		for began := time.Now(); !right(name, i); {
			if time.Since(began) > 20*time.Second {
				b.Fatalf("%s is not answered right", name)
			}
		}
	}
	for i := range 100 {
		until(fmt.Sprintf("old-%d.docker", i), 1+i)
	}
	start := e.starting("new", 101, n)
	time.Sleep(2 * calm) // what follows a start is over
	began := time.Now()
	start()
	for i := n - 1; i >= 0; i -= n / 20 { // as few questions as do, for they take their time
		until(fmt.Sprintf("new-%d.docker", i), 101+i)
	}
	took = time.Since(began)
	for i := range n {
		if name := fmt.Sprintf("new-%d.docker", i); !right(name, 101+i) {
			b.Errorf("%s is not answered right when others are", name)
		}
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, "engine"))
	}}}
	began = time.Now()
	answer, err := client.Get("http://docker/v1.41/containers/json")
	if err != nil {
		b.Fatal(err)
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	if list = time.Since(began); err != nil {
		b.Fatal(err)
	}
	return took, list
}
