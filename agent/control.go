package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"syscall"
	"time"

	"github.com/fairlead-dev/fairlead/platform"
)

// ErrNotRunning: no agent answers at the control endpoint.
var ErrNotRunning = errors.New("the agent is not running")

const (
	settleTimeout = 15 * time.Second // how long a reconcile waits for engines and pilots
	heirTimeout   = 30 * time.Second // how long the end of an agent that is to hand over is waited for
)

// listenControl makes the control endpoint and, where the OS has one, that where everybody may ask.
func listenControl(path string) (control, status net.Listener, err error) {
	if control, err = platform.ListenControl(path); err != nil {
		return nil, nil, err
	}
	if status, err = platform.ListenStatus(path); err != nil {
		control.Close()
		return nil, nil, err
	}
	return control, status, nil
}

// serveControl answers status, ls, setup-network and teardown-network of other fairlead processes, as JSON over HTTP. Those
// that come by an endpoint where everybody may ask do not change anything.
func (a *Agent) serveControl(ctx context.Context, l net.Listener, everybody bool) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) { reply(w, a.Look(r.Context())) })
	mux.HandleFunc("GET /v1/names", func(w http.ResponseWriter, _ *http.Request) {
		a.attend()
		reply(w, a.Names())
	})
	mux.HandleFunc("GET /v1/whois", func(w http.ResponseWriter, r *http.Request) {
		a.attend()
		reply(w, a.Whois(r.FormValue("name")))
	})
	if everybody {
		mux.HandleFunc("POST /", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "permission denied", http.StatusForbidden) })
	} else {
		mux.HandleFunc("POST /v1/reconcile", func(w http.ResponseWriter, r *http.Request) { reply(w, a.reconcile(r.Context())) })
		mux.HandleFunc("POST /v1/teardown", func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), downTimeout)
			defer cancel()
			reply(w, a.takeDown(ctx))
		})
		mux.HandleFunc("POST /v1/handover", func(w http.ResponseWriter, _ *http.Request) {
			a.mu.Lock()
			a.heir = time.Now().Add(heirTimeout)
			a.mu.Unlock()
			reply(w, struct{}{})
		})
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control endpoint: %w", err)
	}
	return nil
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// reconcile looks at everything again, waits until engines and pilots have settled, and proves the routes by real packets.
func (a *Agent) reconcile(ctx context.Context) Status {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	a.attend()
	a.mu.Lock()
	a.paused = false
	a.markLocked(dirty{routes: true, names: true, resolver: true})
	for settled := false; !settled; {
		a.awaitNews(ctx)
		settled = ctx.Err() != nil || a.dirty == (dirty{}) && a.settled()
	}
	s := a.status(nil)
	a.mu.Unlock()
	a.verify(context.WithoutCancel(ctx), &s)
	return s
}

// succeeded tells whether another agent follows this one at once. What this one made is then in the journal, and left in place.
func (a *Agent) succeeded() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Now().Before(a.heir)
}

// settled tells whether every engine has answered or failed, and every pilot that is needed has reported on all that it is
// needed for.
func (a *Agent) settled() bool {
	for _, w := range a.engines {
		if !w.listed && (w.err == nil || w.err == errNotHeard) {
			return false
		}
		adm, needed := a.admission(w)
		idle := w.tunnel != nil && len(adm.Subnets) == 0
		if needed && !idle && w.up && (!w.pilot.open || a.behind(w)) && w.pilot.err == nil && w.pilot.report.Error == "" {
			return false
		}
	}
	return true
}

// Client speaks to the running agent.
type Client struct{ http *http.Client }

// Dial returns a Client for the agent at the control endpoint path. The error is ErrNotRunning when nobody answers there.
func Dial(ctx context.Context, path string) (*Client, error) {
	conn, err := platform.DialControl(ctx, path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, &Problem{Code: ExitNotPermitted, Err: fmt.Errorf("control endpoint %s: permission denied", path), Hint: asRoot()}
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return nil, ErrNotRunning
	case err != nil:
		return nil, fmt.Errorf("control endpoint %s: %w", path, err)
	}
	conn.Close()
	return &Client{&http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return platform.DialControl(ctx, path)
	}}}}, nil
}

// Status asks for the agent's Status.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodGet, "status", &s)
}

// Names asks for all names.
func (c *Client) Names(ctx context.Context) (n []Name, err error) {
	return n, c.call(ctx, http.MethodGet, "names", &n)
}

// Whois asks for all that is known of a name, answered or not.
func (c *Client) Whois(ctx context.Context, name string) (w Whois, err error) {
	return w, c.call(ctx, http.MethodGet, "whois?name="+url.QueryEscape(name), &w)
}

// Reconcile makes the agent look at everything again, and returns what came of it.
func (c *Client) Reconcile(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodPost, "reconcile", &s)
}

// TearDown makes the agent take everything back and pause until the next Reconcile.
func (c *Client) TearDown(ctx context.Context) (u Undone, err error) {
	return u, c.call(ctx, http.MethodPost, "teardown", &u)
}

// HandOver announces that the agent is about to be ended and another started with the same settings: what it made stays for
// that one. Where none starts then, TearDown takes it back.
func (c *Client) HandOver(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "handover", &struct{}{})
}

// ended tells from what became of a question that the agent has ended since it was dialled.
func ended(err error) bool {
	return slices.ContainsFunc([]error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNREFUSED, fs.ErrNotExist}, func(e error) bool { return errors.Is(err, e) })
}

func (c *Client) call(ctx context.Context, method, what string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://fairlead/v1/"+what, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	switch {
	case err != nil && ended(err):
		return fmt.Errorf("%w any more: %w", ErrNotRunning, err)
	case err != nil:
		return fmt.Errorf("asking the agent: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusForbidden {
		return &Problem{Code: ExitNotPermitted, Err: errors.New("the agent answers everybody, and obeys only administrators"), Hint: asRoot()}
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil && ended(err) {
		return fmt.Errorf("%w any more: %w", ErrNotRunning, err)
	}
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(string(bytes.TrimSpace(b)))
	}
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		return fmt.Errorf("asking the agent: %w", err)
	}
	return nil
}
