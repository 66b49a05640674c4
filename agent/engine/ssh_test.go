package engine

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// ssh is what this test binary does when it is called ssh: it goes where dial-stdio of the other side would lead, or
// says why it does not.
func ssh(args []string) int {
	at := os.Getenv("TEST_SSH")
	if host := args[slices.Index(args, "--")+1]; host != "vm" || !strings.HasSuffix(strings.Join(args, " "), " docker --host unix:///run/docker.sock system dial-stdio") {
		fmt.Fprintf(os.Stderr, "Warning: this is a banner\nssh: Could not resolve hostname %s: %q\n", host, args)
		return 255
	}
	c, err := net.Dial("unix", at)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() {
		_, _ = io.Copy(c, os.Stdin)
		_ = c.(*net.UnixConn).CloseWrite()
	}()
	_, _ = io.Copy(os.Stdout, c)
	return 0
}

func TestSSH(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the test's own ssh needs a symbolic link and a unix socket")
	}
	d := newDaemon(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "ssh")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	t.Setenv("TEST_SSH", strings.TrimPrefix(d.url, "unix://"))
	id := d.run("web", "bridge")

	u, err := at("ssh://me@vm:2222/run/docker.sock").Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(u.Containers) != 1 || u.Containers[0].ID != id || len(u.Containers[0].Addrs()) == 0 {
		t.Errorf("by ssh: %+v", u.Containers)
	}
	if _, err := at("ssh://me@elsewhere/run/docker.sock").Snapshot(t.Context()); err == nil || !strings.Contains(err.Error(), "ssh: Could not resolve hostname elsewhere") {
		t.Errorf("a host that is not there: %v", err)
	}
}

func TestSSHArgs(t *testing.T) {
	for raw, want := range map[string]string{
		"ssh://vm":                        "-T -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15 -o ServerAliveCountMax=2 -- vm docker system dial-stdio",
		"ssh://me@vm:22/":                 "-T -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15 -o ServerAliveCountMax=2 -l me -p 22 -- vm docker system dial-stdio",
		"ssh://vm/run/user/1/docker.sock": "-T -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15 -o ServerAliveCountMax=2 -- vm docker --host unix:///run/user/1/docker.sock system dial-stdio",
		"ssh://[fd00::1]":                 "-T -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15 -o ServerAliveCountMax=2 -- fd00::1 docker system dial-stdio",
	} {
		got, err := sshArgs(raw)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %q, %v; want %q", raw, got, err, want)
		}
	}
}
