package platform

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// endpoint is a place for a control endpoint that nobody else has. It is short: a socket's address has little room.
func endpoint(t *testing.T) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		return fmt.Sprintf(`\\.\pipe\fairlead-test-%d-%s`, os.Getpid(), t.Name())
	}
	dir, err := os.MkdirTemp("", "fl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "control.sock")
}

func TestControl(t *testing.T) {
	path := endpoint(t)
	if c, err := DialControl(t.Context(), path); err == nil {
		c.Close()
		t.Fatal("DialControl before ListenControl: somebody answers")
	}
	for range 2 { // the second time where the first has been
		l, err := ListenControl(path)
		if err != nil {
			t.Fatal(err)
		}
		said := make(chan error, 1)
		go func() { said <- answer(l) }()
		c, err := DialControl(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 2)
		if n, err := c.Read(b); err != nil || string(b[:n]) != "ok" {
			t.Errorf("read %q, %v", b[:n], err)
		}
		c.Close()
		if err := <-said; err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func answer(l net.Listener) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("ok"))
	return err
}

func TestControlBusy(t *testing.T) {
	path := endpoint(t)
	l, err := ListenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if second, err := ListenControl(path); !errors.Is(err, ErrBusy) {
		t.Fatalf("second ListenControl: %v, %v, want ErrBusy", second, err)
	}
	// The first is still there, and still asked.
	said := make(chan error, 1)
	go func() {
		for {
			if err := answer(l); err == nil {
				said <- nil
				return
			} else if errors.Is(err, net.ErrClosed) {
				said <- err
				return
			}
		}
	}()
	c, err := DialControl(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 2)); err != nil { // a pipe without a reader takes nothing
		t.Error(err)
	}
	if err := <-said; err != nil {
		t.Error(err)
	}
}

func TestDialControlEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := endpoint(t)
	l, err := ListenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if c, err := DialControl(ctx, path); err == nil {
		c.Close()
		t.Error("DialControl with an ended context: no error")
	}
}
