//go:build !windows

package installer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A child is this test binary again, which runs one of the bodies.
const bodyEnv = "FAIRLEAD_TEST_BODY"

var bodies = map[string]func(context.Context) error{
	// ends by itself
	"done": func(context.Context) error { return nil },
	"fail": func(context.Context) error { return errors.New("out of order") },
	// takes its things back when it is asked to end
	"tidy": func(ctx context.Context) error {
		fmt.Println("ready")
		<-ctx.Done()
		fmt.Println("tidying")
		return fmt.Errorf("tidied: %w", ctx.Err())
	},
	// never comes to an end with that
	"stuck": func(ctx context.Context) error {
		fmt.Println("ready")
		<-ctx.Done()
		fmt.Println("tidying")
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	},
}

func TestMain(m *testing.M) {
	if body := bodies[os.Getenv(bodyEnv)]; body != nil {
		fmt.Println("returned:", Run(body))
		return
	}
	os.Exit(m.Run())
}

type child struct {
	*exec.Cmd
	lines *bufio.Scanner
}

func startChild(t *testing.T, body string) child {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // a child that hangs fails its test
	c := child{Cmd: exec.CommandContext(ctx, exe)}
	c.Env, c.Stderr = append(os.Environ(), bodyEnv+"="+body, "GORACE=atexit_sleep_ms=0"), os.Stderr
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); stdin.Close(); c.Wait() })
	c.lines = bufio.NewScanner(stdout)
	return c
}

func (c child) says(t *testing.T, want string) {
	t.Helper()
	if !c.lines.Scan() || c.lines.Text() != want {
		t.Fatalf("child says %q, want %q (%v)", c.lines.Text(), want, c.lines.Err())
	}
}

func (c child) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := c.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func TestRunReturns(t *testing.T) {
	for body, want := range map[string]string{"done": "returned: <nil>", "fail": "returned: out of order"} {
		c := startChild(t, body)
		c.says(t, want)
		if err := c.Wait(); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestRunIsAskedToEnd(t *testing.T) {
	for _, s := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		c := startChild(t, "tidy")
		c.says(t, "ready")
		c.signal(t, s)
		c.says(t, "tidying")
		c.says(t, "returned: tidied: context canceled")
		if err := c.Wait(); err != nil {
			t.Errorf("after %v: %v", s, err)
		}
	}
}

// TestRunIsAskedTwice: whoever does not want to wait for the end need not.
func TestRunIsAskedTwice(t *testing.T) {
	for _, first := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		for _, second := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
			c := startChild(t, "stuck")
			c.says(t, "ready")
			c.signal(t, first)
			c.says(t, "tidying")
			c.signal(t, second) // once: it must not get lost
			rest := ""
			for c.lines.Scan() {
				rest += c.lines.Text()
			}
			var exit *exec.ExitError
			if err := c.Wait(); !errors.As(err, &exit) {
				t.Fatalf("%v, then %v: ended with %v", first, second, err)
			}
			if w := exit.Sys().(syscall.WaitStatus); !w.Signaled() || w.Signal() != second || strings.Contains(rest, "returned") {
				t.Errorf("%v, then %v: ended with %v, said %q", first, second, exit, rest)
			}
		}
	}
}

// Who was not started by launchd as the service ends with its own code, and so does the service after what may mend itself.
func TestExit(t *testing.T) {
	for _, c := range []struct {
		job        string
		code, want int
	}{
		{"", 2, 2}, {"0", 3, 3}, {"application.com.apple.Terminal.1", 2, 2}, // a shell's
		{"dev.fairlead.agent", 0, 0}, {"dev.fairlead.agent", 1, 1}, {"dev.fairlead.agent", 4, 4},
		{"dev.fairlead.agent", 2, 0}, {"dev.fairlead.agent", 3, 0}, {"homebrew.mxcl.fairlead", 2, 0},
	} {
		t.Setenv("XPC_SERVICE_NAME", c.job)
		if got := Exit(c.code); got != c.want {
			t.Errorf("job %q ends with %d for %d, want %d", c.job, got, c.code, c.want)
		}
	}
}
