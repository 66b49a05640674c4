package lab

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

//go:embed systemd.sh
var systemdScript string

// Systemd is a real systemd on a host. What it keeps in /etc, /var/lib and /usr/local is there again when another is started; the
// rest goes with it.
type Systemd struct {
	Resolved bool // systemd-resolved is part of it

	w     *World
	cmd   *exec.Cmd
	pid   string // its own, seen from outside
	ended <-chan struct{}
}

// StartSystemd boots a systemd, with systemd-resolved where the tests have it at hand, and returns when all is started. It ends
// with the test at the latest. Without systemd the test is skipped, or with CI=true fails.
func (w *World) StartSystemd(t testing.TB) *Systemd {
	t.Helper()
	s, err := w.bootSystemd(t.Context())
	if errors.Is(err, errNoSystemd) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

var errNoSystemd = errors.New("no systemd: run internal/lab/prepare.sh")

func (w *World) bootSystemd(ctx context.Context) (*Systemd, error) {
	if _, err := os.Stat("/lib/systemd/systemd"); err != nil {
		return nil, errNoSystemd
	}
	name := w.id + "-systemd"
	if err := w.atEnd("cgroup " + name); err != nil {
		return nil, err
	}
	unpacked := os.Getenv("FAIRLEAD_TEST_RESOLVED")
	_, missing := os.Stat("/lib/systemd/systemd-resolved")
	s := &Systemd{w: w, Resolved: unpacked != "" || missing == nil}
	s.cmd = w.Command(context.WithoutCancel(ctx), "/bin/sh", "-c", systemdScript, "systemd.sh", name, filepath.Join(w.own, "systemd"), unpacked)
	s.cmd.Env = append(s.cmd.Env, "SYSTEMD_SH="+systemdScript)
	var said bytes.Buffer
	s.cmd.Stdout, s.cmd.Stderr = &said, &said
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("boot systemd: %w", err)
	}
	ended := make(chan struct{})
	s.ended = ended
	go func() {
		_ = s.cmd.Wait()
		close(ended)
	}()
	var state string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		select {
		case <-ended:
			return nil, fmt.Errorf("boot systemd: %s", strings.TrimSpace(said.String()))
		default:
		}
		pid := s.cmd.Process.Pid // nsenter's, sh's and unshare's, one after the other
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		if s.pid = strings.TrimSpace(string(children)); s.pid == "" {
			continue
		}
		if comm, _ := os.ReadFile("/proc/" + s.pid + "/comm"); string(comm) != "systemd\n" {
			continue
		}
		out, _ := s.Command(ctx, "systemctl", "is-active", "lab.target").CombinedOutput()
		if state = strings.TrimSpace(string(out)); state == "active" {
			return s, nil
		}
	}
	units, _ := s.Command(context.WithoutCancel(ctx), "systemctl", "--no-pager", "list-jobs").CombinedOutput()
	s.Kill()
	return nil, fmt.Errorf("boot systemd: it is %q, and has to do %s", state, units)
}

// Enter is what goes before a command that is to run under this systemd: with its processes and files.
func (s *Systemd) Enter() []string {
	return []string{"nsenter", "--target=" + s.pid, "--mount", "--pid", "--wd=/"}
}

// Command is World.Command under this systemd.
func (s *Systemd) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	words := slices.Concat(s.Enter(), []string{name}, args)
	return s.w.Command(ctx, words[0], words[1:]...)
}

// Run is World.Run under this systemd.
func (s *Systemd) Run(ctx context.Context, name string, args ...string) (string, error) {
	words := slices.Concat(s.Enter(), []string{name}, args)
	return s.w.Run(ctx, words[0], words[1:]...)
}

// Kill ends this systemd and all that it has started, as a power cut does.
func (s *Systemd) Kill() {
	_ = s.cmd.Process.Kill()
	<-s.ended
}
