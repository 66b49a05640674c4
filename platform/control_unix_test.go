//go:build !windows

package platform

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestControlMode(t *testing.T) {
	defer unix.Umask(unix.Umask(0)) // the process's mask is no help
	path := endpoint(t)
	l, err := ListenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	i, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := fs.ModeSocket | 0o600; i.Mode() != want {
		t.Errorf("mode %v, want %v", i.Mode(), want)
	}
	if mask := unix.Umask(0); mask != 0 {
		t.Errorf("ListenControl leaves umask %#o behind", mask)
	}
}

// leave makes a socket of type kind at path, as a process that was killed leaves it: nobody listens.
func leave(t *testing.T, path string, kind int) (close func()) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	return func() { unix.Close(fd) }
}

func TestControlStale(t *testing.T) {
	path := endpoint(t)
	leave(t, path, unix.SOCK_STREAM)()
	if _, err := DialControl(t.Context(), path); !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatalf("DialControl to a leftover: %v, want ECONNREFUSED", err)
	}
	l, err := ListenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := ClearControl(path); !errors.Is(err, ErrBusy) {
		t.Errorf("ClearControl of one in use: %v, want ErrBusy", err)
	}
	c, err := DialControl(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	check(t, l.Close())
	leave(t, path, unix.SOCK_STREAM)()
	for range 2 { // the second time there is none
		if err := ClearControl(path); err != nil {
			t.Errorf("ClearControl of a leftover: %v", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a leftover is still there: %v", err)
		}
	}
}

// TestControlForeign: what is no leftover of ours stays where it is.
func TestControlForeign(t *testing.T) {
	write := func(t *testing.T, path string) {
		if err := os.WriteFile(path, []byte("mine"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, put := range map[string]func(t *testing.T, path string){
		"file":      write,
		"folder":    func(t *testing.T, path string) { check(t, os.Mkdir(path, 0o755)) },
		"pipe":      func(t *testing.T, path string) { check(t, unix.Mkfifo(path, 0o644)) },
		"link":      func(t *testing.T, path string) { write(t, path+".target"); check(t, os.Symlink(path+".target", path)) },
		"dead link": func(t *testing.T, path string) { check(t, os.Symlink(path+".none", path)) },
		"link to a leftover": func(t *testing.T, path string) {
			leave(t, path+".s", unix.SOCK_STREAM)()
			check(t, os.Symlink(path+".s", path))
		},
		"datagram socket": func(t *testing.T, path string) { t.Cleanup(leave(t, path, unix.SOCK_DGRAM)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := endpoint(t)
			check(t, os.MkdirAll(filepath.Dir(path), 0o755))
			put(t, path)
			before := tree(t, filepath.Dir(path))
			if l, err := ListenControl(path); err == nil {
				l.Close()
				t.Error("no error")
			} else if errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %q", err)
			} else {
				t.Log(err)
			}
			if after := tree(t, filepath.Dir(path)); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	check(t, filepath.Walk(dir, func(path string, i fs.FileInfo, err error) error {
		if err == nil {
			b.WriteString(path + " " + i.Mode().String() + " " + i.ModTime().String() + "\n")
		}
		return err
	}))
	return b.String()
}

func TestControlPath(t *testing.T) {
	dir, err := os.MkdirTemp("", "fl")
	check(t, err)
	defer os.RemoveAll(dir)
	long := filepath.Join(dir, "d", strings.Repeat("x", 120))
	for path, want := range map[string]string{
		long:           "too long",
		"":             "no path",
		"@fairlead":    "no path", // Linux: an abstract socket, open to everybody
		"@/run/x.sock": "no path",
	} {
		if l, err := ListenControl(path); err == nil {
			l.Close()
			t.Errorf("ListenControl(%q): no error", path)
		} else if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "invalid argument") {
			t.Errorf("ListenControl(%q): %v, want ...%s...", path, err, want)
		}
		if c, err := DialControl(t.Context(), path); err == nil {
			c.Close()
			t.Errorf("DialControl(%q): no error", path)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("DialControl(%q): %v, want ...%s...", path, err, want)
		}
	}
	if _, err := os.Stat(filepath.Dir(long)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder was made for a socket that cannot be: %v", err)
	}

	// The longest path that is taken is one that the OS takes.
	fits := filepath.Join(dir, strings.Repeat("x", len(unix.RawSockaddrUnix{}.Path)-1-len(dir)-1))
	l, err := ListenControl(fits)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", fits)
	check(t, err)
	c.Close()
	if _, err := ListenControl(fits + "x"); err == nil {
		t.Errorf("a path of %d bytes is taken", len(fits)+1)
	}
}
