package engine

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/api/types/versions"
	"github.com/docker/docker/client"
)

// MinAPI is the oldest API that fairlead speaks: Engine 17.06.
const MinAPI = "1.30"

// ErrTooOld: the engine speaks an API older than MinAPI.
var ErrTooOld = errors.New("engine is older than 17.06 (API " + MinAPI + ")")

// ErrNoAnswer: nobody answers at the endpoint.
var ErrNoAnswer = errors.New("engine does not answer")

// ErrNotLinux: the engine runs Windows containers.
var ErrNotLinux = errors.New("engine runs no Linux containers")

// Endpoint says where an engine's API is.
type Endpoint struct {
	Name  string `json:"name"`            // unique among the watched engines, a DNS label
	URL   string `json:"url"`             // unix:///path, npipe:////./pipe/name, tcp://host:port, ssh://user@host, wsl://distribution
	Certs string `json:"certs,omitempty"` // folder with ca.pem, cert.pem, key.pem; empty means no TLS
	// Home is that of the user whose files told all this: no link leads out of it to certificates that are not the user's,
	// and ssh and wsl run as its owner. Empty: whoever runs fairlead told.
	Home string `json:"home,omitempty"`
}

// ParseEndpoint reads "[NAME=]URL". A tcp URL may end in "?certs=DIR" to be spoken to by TLS. Without NAME the engine is
// called fallback.
func ParseEndpoint(s, fallback string) (Endpoint, error) {
	ep := Endpoint{Name: fallback, URL: s}
	if name, rest, ok := strings.Cut(s, "="); ok && name != "" && !strings.ContainsAny(name, ":/?") {
		ep.Name, ep.URL = name, rest
	}
	u, err := url.Parse(ep.URL)
	if err != nil || u.Scheme == "" {
		return ep, fmt.Errorf("engine %q: not a URL such as unix:///var/run/docker.sock or tcp://192.168.99.100:2376", s)
	}
	switch u.Scheme {
	case "unix", "npipe":
		if !strings.HasPrefix(ep.URL, u.Scheme+"://") || u.Path == "" || u.Host != "" && u.Scheme == "unix" {
			return ep, fmt.Errorf("engine %q: a socket is written unix:///path/to/docker.sock", s)
		}
	case "tcp":
		if port, err := strconv.ParseUint(u.Port(), 10, 16); u.Hostname() == "" || err != nil || port == 0 {
			return ep, fmt.Errorf("engine %q: a TCP endpoint is written tcp://HOST:PORT, its port from 1 to 65535", s)
		}
		query, err := url.ParseQuery(u.RawQuery)
		delete(query, "certs")
		if err != nil || len(query) > 0 { // a misspelt "certs" must not mean: without TLS
			return ep, fmt.Errorf("engine %q: all that may follow the address is ?certs=DIR", s)
		}
		ep.Certs = u.Query().Get("certs")
		u.RawQuery = ""
		ep.URL = u.String()
	case "ssh":
		if _, err := sshArgs(ep.URL); err != nil {
			return ep, fmt.Errorf("engine %q: %w", s, err)
		}
	case "wsl":
		if _, err := wslArgs(ep.URL); err != nil {
			return ep, fmt.Errorf("engine %q: %w", s, err)
		}
	default:
		return ep, fmt.Errorf("engine %q: %s:// is not spoken, only unix://, npipe://, tcp://, ssh:// and wsl://", s, u.Scheme)
	}
	return ep, nil
}

// Host is the address in a tcp endpoint's URL. It is the zero Addr for sockets, pipes and host names.
func (e Endpoint) Host() netip.Addr {
	u, err := url.Parse(e.URL)
	if err != nil || u.Scheme != "tcp" {
		return netip.Addr{}
	}
	a, _ := netip.ParseAddr(u.Hostname())
	return a
}

// Engine speaks to the engine at one endpoint.
type Engine struct {
	Endpoint
	log  *slog.Logger
	pace pace
	live atomic.Pointer[session] // while the watch follows the engine

	hurry  chan struct{} // holds one
	attend chan struct{} // holds one
}

// pace is how long is waited for what. A stopped engine or VM must be noticed within 10 s while somebody looks: two pings of
// pingTimeout, the first at most pingEvery after the stop.
type pace struct {
	call                   time.Duration // for calls that answer in milliseconds on a healthy engine
	pingEvery, pingTimeout time.Duration
	relistEvery            time.Duration // corrects what hints missed (the engine drops events that a subscriber is slow to take)
	attention              time.Duration // how long somebody who has looked is taken to look on
	restEvery              time.Duration // in place of pingEvery while nobody looks, and of relistEvery while nothing happens
	backoffMin, backoffMax time.Duration
	kill                   time.Duration // in which what was killed ends: else it does not, as it hangs in the kernel
	restart                time.Duration // less than an engine takes from a container's end until it runs again: there is a process to be made
}

var usual = pace{
	call:      10 * time.Second,
	pingEvery: 4 * time.Second, pingTimeout: 2500 * time.Millisecond,
	relistEvery: time.Minute,
	attention:   time.Minute, restEvery: 2 * time.Minute,
	backoffMin: 250 * time.Millisecond, backoffMax: 15 * time.Second,
	kill: 10 * time.Second, restart: 20 * time.Millisecond,
}

// New returns an Engine; nothing is dialled yet.
func New(ep Endpoint, log *slog.Logger) *Engine {
	return &Engine{Endpoint: ep, log: log.With("engine", ep.Name), pace: usual, hurry: make(chan struct{}, 1), attend: make(chan struct{}, 1)}
}

// connection is one client with a negotiated API; it is made anew after every loss, as the engine may have been upgraded.
type connection struct {
	*client.Client
	bare       http.RoundTripper                       // as the client's, without what that does for tracing
	to         url.URL                                 // the API
	open       func(context.Context) (net.Conn, error) // one more way to the engine, under HTTP
	info       Info
	traits     traits
	systemTime time.Time     // the engine's clock when it answered
	ahead      time.Duration // at least, of this host's clock before the engine's
}

// keepAlive has the kernel notice within 9 s that nobody is at the other end of a connection any more, as where a VM lost power or its
// address: the process need not be woken to ask. Local sockets and pipes tell of that by themselves.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 4 * time.Second, Interval: time.Second, Count: 5}

// dial connects, negotiates the API and asks the engine who it is. The error is ErrNoAnswer, ErrTooOld or ErrNotLinux
// where that is the reason.
func (e *Engine) dial(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, e.pace.call)
	defer cancel()
	transport := &http.Transport{MaxIdleConns: 6, IdleConnTimeout: 30 * time.Second} // as the client's own
	opts := []client.Opt{client.WithHTTPClient(&http.Client{Transport: transport, CheckRedirect: client.CheckRedirect}), client.WithHost(e.URL)}
	if e.AsUser() {
		transport.MaxConnsPerHost = 6 // sshd takes ten that are not let in yet
		opts = append(opts[:1], client.WithHost("http://docker.invalid"), client.WithDialContext(e.dialProgram))
	}
	if e.Certs != "" {
		var err error
		if transport.TLSClientConfig, err = e.tls(); err != nil {
			return nil, fmt.Errorf("reading TLS certificates: %w", err)
		}
	}
	c, err := client.NewClientWithOpts(opts...)
	if err != nil {
		return nil, err
	}
	tcp := net.Dialer{Timeout: e.pace.call, KeepAliveConfig: keepAlive}
	if strings.HasPrefix(e.URL, "tcp:") {
		transport.DialContext = tcp.DialContext
	}
	h := c.HTTPClient()
	h.Transport = anyAge{bounded{h.Transport}}
	if err := client.WithHTTPClient(h)(c); err != nil { // after the client has learned how to dial
		return nil, err
	}
	ping, err := c.Ping(ctx)
	if err != nil {
		c.Close()
		if distrusted(err) {
			return nil, outlived(transport.TLSClientConfig, time.Now(), err)
		}
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	c.NegotiateAPIVersionPing(ping)
	conn := &connection{Client: c, bare: bounded{transport}, to: url.URL{Scheme: "http", Host: client.DummyHost}, open: c.Dialer()}
	if host, err := client.ParseHostURL(c.DaemonHost()); err == nil && host.Scheme == "tcp" {
		conn.to.Host, conn.to.Path = host.Host, strings.TrimRight(host.Path, "/")
	}
	conn.to.Path += "/v" + c.ClientVersion()
	if e.Certs != "" {
		conn.to.Scheme = "https"
		secure := tls.Dialer{NetDialer: &tcp, Config: transport.TLSClientConfig}
		conn.open = func(ctx context.Context) (net.Conn, error) {
			return secure.DialContext(ctx, "tcp", strings.TrimPrefix(c.DaemonHost(), "tcp://"))
		}
	}
	if err := conn.introduce(ctx, ping.APIVersion); err != nil {
		c.Close()
		return nil, err
	}
	return conn, nil
}

func (c *connection) introduce(ctx context.Context, api string) error {
	var i system.Info
	var infoErr error
	var asked sync.WaitGroup
	began := time.Now()
	asked.Go(func() { i, infoErr = c.Info(ctx) })
	v, err := c.ServerVersion(ctx)
	if asked.Wait(); err != nil {
		return err
	}
	if api == "" {
		api = v.APIVersion
	}
	if api == "" {
		return errors.New("this is not a Docker engine: it names no API version")
	}
	if versions.LessThan(api, MinAPI) {
		return fmt.Errorf("%w: it speaks API %s", ErrTooOld, api)
	}
	if v.Os != "" && v.Os != "linux" {
		return fmt.Errorf("%w: its OS is %s", ErrNotLinux, v.Os)
	}
	if infoErr != nil {
		return infoErr
	}
	c.info = Info{ID: i.ID, Host: i.Name, Kernel: i.KernelVersion, Version: v.Version, API: c.ClientVersion(), OS: v.Os, Arch: v.Arch, System: i.OperatingSystem}
	c.traits = traitsOf(i, v)
	c.systemTime, _ = time.Parse(time.RFC3339Nano, i.SystemTime)
	c.ahead = began.Sub(c.systemTime)
	return nil
}

// distrusted tells whether somebody did answer, but one side did not accept the other's certificate.
func distrusted(err error) bool {
	var certificate *tls.CertificateVerificationError
	var op *net.OpError
	return errors.As(err, &certificate) || errors.As(err, &op) && op.Op == "remote error" // a TLS alert
}

// anyAge calls capabilities what every engine calls them: NET_ADMIN. The client makes CAP_NET_ADMIN of that, which engines before
// 19.03 take for CAP_CAP_NET_ADMIN, and refuse.
type anyAge struct{ http.RoundTripper }

func (p anyAge) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "/containers/create") && r.Body != nil {
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			return nil, err
		}
		b = bytes.ReplaceAll(b, []byte(`"CAP_`), []byte(`"`))
		r = r.Clone(r.Context())
		r.Body, r.ContentLength, r.GetBody = io.NopCloser(bytes.NewReader(b)), int64(len(b)), nil
	}
	return p.RoundTripper.RoundTrip(r)
}

// bounded lets no answer, and no event, grow beyond what an engine has to say: 100,000 containers list in 90 MB.
type bounded struct{ http.RoundTripper }

const (
	maxList   = 256 << 20
	maxAnswer = 4 << 20
)

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body := &boundedBody{ReadCloser: answer.Body, left: maxAnswer}
	switch {
	case strings.HasSuffix(r.URL.Path, "/events"):
		body.line = maxAnswer
	case strings.HasSuffix(r.URL.Path, "/containers/json"), strings.HasSuffix(r.URL.Path, "/networks"):
		body.left = maxList
	}
	answer.Body = body
	return answer, nil
}

type boundedBody struct {
	io.ReadCloser
	left, line int // bytes; where line is set, each line may have that many
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left -= n
	if b.left < 0 {
		return 0, errors.New("the engine's answer has no end")
	}
	if b.line > 0 {
		if i := bytes.LastIndexByte(p[:n], '\n'); i >= 0 {
			b.left = b.line - (n - i - 1)
		}
	}
	return n, err
}
