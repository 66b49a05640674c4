package platform

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestControlModeAtBirth: the socket is never open to others, not even between bind and a chmod: there is no chmod.
func TestControlModeAtBirth(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	path := endpoint(t)
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	check(t, err)
	defer unix.Close(fd)
	_, err = unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_CREATE|unix.IN_ATTRIB|unix.IN_MOVED_TO)
	check(t, err)
	l, err := ListenControl(path)
	check(t, err)
	defer l.Close()

	var events []uint32
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	check(t, err)
	for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
		name := int(binary.NativeEndian.Uint32(b[12:]))
		if string(bytes.TrimRight(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+name], "\x00")) == filepath.Base(path) {
			events = append(events, binary.NativeEndian.Uint32(b[4:]))
		}
		b = b[unix.SizeofInotifyEvent+name:]
	}
	if len(events) != 1 || events[0] != unix.IN_CREATE {
		t.Errorf("what happened to the socket: %#x, want IN_CREATE alone", events)
	}
	if i, err := os.Lstat(path); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", i.Mode(), err)
	}
}

// TestControlQueueFull: somebody who is too busy to accept is still somebody.
func TestControlQueueFull(t *testing.T) {
	path := endpoint(t)
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(fd)
	check(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	check(t, unix.Listen(fd, 0))
	for full := false; !full; {
		c, err := DialControl(t.Context(), path)
		switch {
		case err == nil:
			defer c.Close()
		case errors.Is(err, unix.EAGAIN):
			full = true
		default:
			t.Fatal(err)
		}
	}
	if _, err := ListenControl(path); !errors.Is(err, ErrBusy) {
		t.Errorf("ListenControl: %v, want ErrBusy", err)
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		t.Error("the socket of somebody who listens was removed")
	}
}
