//go:build !windows

package engine

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

func TestDialSocket(t *testing.T) {
	t.Parallel()
	c := dialSound(t, listen)
	if c.info.ID != "the-id" {
		t.Errorf("info %+v", c.info)
	}
}

func TestNobodyAtSocket(t *testing.T) {
	t.Parallel()
	l, url := listen(t)
	if _, err := at(url + "-none").dial(t.Context()); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("no socket: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as a killed engine leaves it
	l.Close()
	path := strings.TrimPrefix(url, "unix://")
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	if _, err := at(url).dial(t.Context()); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("nobody at the socket: %v", err)
	}
	if _, err := at("unix://" + filepath.Dir(path)).dial(t.Context()); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("a folder: %v", err)
	}
	if _, err := at("unix:///" + strings.Repeat("a", 200)).dial(t.Context()); err == nil {
		t.Error("a path that no socket can have: taken")
	}
}

// A socket that this user may not use. As root, to whom nothing is forbidden, the test runs itself as nobody.
func TestForbiddenSocket(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		if runtime.GOOS != "linux" {
			t.Skip("needs a user other than root")
		}
		cmd := exec.Command("/proc/self/exe", "-test.run", "^TestForbiddenSocket$", "-test.v")
		cmd.Dir = "/"
		cmd.Env = []string{"TMPDIR=/tmp"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestForbiddenSocket") {
			t.Errorf("as nobody: %v\n%s", err, out)
		}
		return
	}
	l, url := listen(t)
	serve(t, l, sound)
	if err := os.Chmod(strings.TrimPrefix(url, "unix://"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := at(url).dial(t.Context()); !errors.Is(err, fs.ErrPermission) || !errors.Is(err, ErrNoAnswer) {
		t.Errorf("error %v, want one of permission", err)
	}
}
