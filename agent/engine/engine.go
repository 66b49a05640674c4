package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

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

const callTimeout = 10 * time.Second // for calls that answer in milliseconds on a healthy engine

// Endpoint says where an engine's API is.
type Endpoint struct {
	Name  string `json:"name"`            // unique among the watched engines, a DNS label
	URL   string `json:"url"`             // unix:///path, tcp://host:port
	Certs string `json:"certs,omitempty"` // folder with ca.pem, cert.pem, key.pem; empty means no TLS
}

// ParseEndpoint reads "[NAME=]URL". A tcp URL may end in "?certs=DIR" to be spoken to by TLS. Without NAME the engine is
// called fallback.
func ParseEndpoint(s, fallback string) (Endpoint, error) {
	ep := Endpoint{Name: fallback, URL: s}
	if name, rest, ok := strings.Cut(s, "="); ok && !strings.ContainsAny(name, ":/?") {
		ep.Name, ep.URL = name, rest
	}
	u, err := url.Parse(ep.URL)
	if err != nil || u.Scheme == "" {
		return ep, fmt.Errorf("engine %q: not a URL such as unix:///var/run/docker.sock or tcp://192.168.99.100:2376", s)
	}
	switch u.Scheme {
	case "unix", "npipe":
		if u.Path == "" || u.Host != "" && u.Scheme == "unix" {
			return ep, fmt.Errorf("engine %q: a socket is written unix:///path/to/docker.sock", s)
		}
	case "tcp":
		if u.Hostname() == "" || u.Port() == "" {
			return ep, fmt.Errorf("engine %q: a TCP endpoint is written tcp://HOST:PORT", s)
		}
		ep.Certs = u.Query().Get("certs")
		u.RawQuery = ""
		ep.URL = u.String()
	default:
		return ep, fmt.Errorf("engine %q: %s:// is not spoken, only unix://, npipe:// and tcp://", s, u.Scheme)
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
	log *slog.Logger
}

// New returns an Engine; nothing is dialled yet.
func New(ep Endpoint, log *slog.Logger) *Engine {
	return &Engine{Endpoint: ep, log: log.With("engine", ep.Name)}
}

// connection is one client with a negotiated API; it is made anew after every loss, as the engine may have been upgraded.
type connection struct {
	*client.Client
	info       Info
	systemTime time.Time // the engine's clock when it answered
}

// dial connects, negotiates the API and asks the engine who it is. The error is ErrNoAnswer, ErrTooOld or ErrNotLinux
// where that is the reason.
func (e *Engine) dial(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	opts := []client.Opt{client.WithHost(e.URL)}
	if e.Certs != "" {
		for _, f := range []string{"ca.pem", "cert.pem", "key.pem"} {
			if _, err := os.Stat(filepath.Join(e.Certs, f)); err != nil {
				return nil, fmt.Errorf("reading TLS certificates: %w", err)
			}
		}
		opts = append(opts, client.WithTLSClientConfig(filepath.Join(e.Certs, "ca.pem"), filepath.Join(e.Certs, "cert.pem"), filepath.Join(e.Certs, "key.pem")))
	}
	c, err := client.NewClientWithOpts(opts...)
	if err != nil {
		return nil, err
	}
	ping, err := c.Ping(ctx)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	c.NegotiateAPIVersionPing(ping)
	conn := &connection{Client: c}
	if err := conn.introduce(ctx, ping.APIVersion); err != nil {
		c.Close()
		return nil, err
	}
	return conn, nil
}

func (c *connection) introduce(ctx context.Context, api string) error {
	v, err := c.ServerVersion(ctx)
	if err != nil {
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
	i, err := c.Info(ctx)
	if err != nil {
		return err
	}
	c.info = Info{ID: i.ID, Host: i.Name, Version: v.Version, API: c.ClientVersion(), OS: v.Os, Arch: v.Arch, System: i.OperatingSystem}
	c.systemTime, _ = time.Parse(time.RFC3339Nano, i.SystemTime)
	return nil
}
