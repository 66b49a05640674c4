// Package e2e runs the real fairlead, black box, in the lab: real kernel, real dockerd, real questions.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/internal/lab"
)

// fairlead is the binary under test, with the pilots inside.
var fairlead string

func TestMain(m *testing.M) {
	if os.Getenv(proberEnv) != "" {
		prober()
		return
	}
	if os.Getenv(wireguardEnv) != "" {
		if err := wireguard(); err != nil {
			fmt.Fprintln(os.Stderr, "wireguard:", err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(launchdEnv) != "" {
		os.Exit(launchctlMain())
	}
	dir, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		panic(err)
	}
	fairlead = filepath.Join(dir, "fairlead")
	build := exec.Command("go", "build", "-o", fairlead, "github.com/fairlead-dev/fairlead/cmd/fairlead")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building fairlead: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// host is a world whose host fairlead works on.
type host struct {
	*lab.World
	t       testing.TB
	dir     string
	program []string // how fairlead is run
	args    []string // what every fairlead here is given
}

func newHost(t testing.TB) *host {
	w := lab.Start(t, lab.Options{})
	h := &host{World: w, t: t, dir: t.TempDir(), program: []string{fairlead}}
	h.args = []string{"--state-dir", h.dir + "/state", "--control", h.dir + "/control.sock"}
	return h
}

// in is the same host for a subtest.
func (h *host) in(t testing.TB) *host {
	sub := *h
	sub.t = t
	return &sub
}

func (h *host) watch(url string) { h.args = append(h.args, "--engine", url) }

// command is a fairlead that has not been started.
func (h *host) command(args ...string) *exec.Cmd {
	words := slices.Concat(h.program, args, h.args)
	return h.Command(context.Background(), words[0], words[1:]...)
}

// fairlead runs one command to its end.
func (h *host) fairlead(args ...string) (stdout, stderr string, code int) {
	h.t.Helper()
	cmd := h.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatalf("fairlead %v: %v", args, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (h *host) must(args ...string) string {
	h.t.Helper()
	out, errs, code := h.fairlead(args...)
	if code != 0 {
		h.t.Fatalf("fairlead %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// run is a running agent.
type run struct {
	h    *host
	cmd  *exec.Cmd
	log  *syncBuffer
	done chan struct{}
}

// syncBuffer is a log that can be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

var _ io.Writer = (*syncBuffer)(nil)

// start starts the agent and waits until it is ready.
func (h *host) start(args ...string) *run {
	h.t.Helper()
	r := &run{h: h, log: &syncBuffer{}, done: make(chan struct{})}
	r.cmd = h.command(append([]string{"run", "--log-level", "debug"}, args...)...)
	r.cmd.Stderr = r.log
	if err := r.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() { r.cmd.Wait(); close(r.done) }()
	h.t.Cleanup(func() {
		r.signal(syscall.SIGKILL)
		if h.t.Failed() {
			h.t.Logf("agent's log:\n%s", r.log)
		}
	})
	h.eventually("agent is ready", func() error {
		select {
		case <-r.done:
			h.t.Fatalf("agent ended: %s", r.log)
		default:
		}
		if !strings.Contains(r.log.String(), "msg=ready") {
			return errors.New("not yet")
		}
		return nil
	})
	return r
}

// signal ends the agent and waits for its end.
func (r *run) signal(s syscall.Signal) {
	r.cmd.Process.Signal(s)
	<-r.done
}

// eventually asks until ok returns nil, for at most a minute.
func (h *host) eventually(what string, ok func() error) {
	h.t.Helper()
	h.within(time.Minute, what, ok)
}

func (h *host) within(limit time.Duration, what string, ok func() error) {
	h.t.Helper()
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	h.t.Fatalf("%s: %v", what, err)
}

func (h *host) status() (s agent.Status) {
	h.t.Helper()
	out, errs, code := h.fairlead("status", "--json")
	if code != 0 {
		h.t.Fatalf("status: %s", errs)
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		h.t.Fatal(err)
	}
	return s
}

// up waits for an agent that somebody else starts.
func (h *host) up() {
	h.t.Helper()
	h.eventually("the agent is up", func() error {
		if out, errs, code := h.fairlead("status"); code != 0 {
			return errors.New(out + errs)
		}
		return nil
	})
}

// dig asks the agent's server for a name from the host, with the real dig, and returns its short answer.
func (h *host) dig(name, qtype string) string {
	h.t.Helper()
	out, err := h.Run(context.Background(), "dig", "@127.0.0.1", "-p", "55353", "+short", "+tries=3", "+time=10", name, qtype)
	if err != nil {
		h.t.Fatalf("dig %s: %v", name, err)
	}
	return strings.TrimSpace(out)
}

func (h *host) answers(name, want string) {
	h.t.Helper()
	h.eventually("dig "+name, func() error {
		if got := h.dig(name, "A"); got != want {
			return fmt.Errorf("got %q, want %q", got, want)
		}
		return nil
	})
}

func (h *host) ping(addr string) {
	h.t.Helper()
	if out, err := h.Run(context.Background(), "ping", "-c1", "-w20", addr); err != nil {
		h.t.Fatalf("ping %s: %v\n%s", addr, err, out)
	}
}

func docker(t testing.TB, vm *lab.VM, args ...string) string {
	t.Helper()
	out, err := vm.Docker(context.Background(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}
