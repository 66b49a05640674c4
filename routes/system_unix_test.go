//go:build linux || darwin

package routes

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func ip(t *testing.T, args string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
	return string(out)
}

func list(t *testing.T) []Entry {
	t.Helper()
	table, err := List()
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// apply applies the plan for want and reports errors of its steps.
func apply(t *testing.T, want, owned []Route) Plan {
	t.Helper()
	p := Diff(want, owned, list(t))
	for _, r := range Apply(p) {
		if r.Err != nil {
			t.Error(r.Err)
		}
	}
	return p
}

// batch runs lines by one `ip`; lines that fail do not stop it.
func batch(t *testing.T, lines string) {
	t.Helper()
	c := exec.Command("ip", "-force", "-batch", "-")
	c.Stdin = strings.NewReader(lines)
	out, err := c.CombinedOutput()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		t.Fatalf("ip -batch: %v: %s", err, out)
	}
}

// watching runs w until the test ends and returns await: it returns when done says so, asked at each call of changed only.
func watching(t *testing.T, w watcher) (await func(what string, done func() bool)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	fired, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- w.run(ctx, func() {
			select {
			case fired <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Watch returned %v", err)
		}
	})
	return func(what string, done func() bool) {
		t.Helper()
		deadline := time.After(30 * time.Second)
		for {
			select {
			case <-fired:
				if done() {
					return
				}
			case <-deadline:
				t.Fatalf("not told: %s", what)
			}
		}
	}
}
