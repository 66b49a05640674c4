//go:build unix

package platform

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFIFO: an open that waits for a writer would hold the agent up for ever.
func TestFIFO(t *testing.T) {
	for _, name := range []string{".docker/config.json", ".docker/machine/machines/bad/config.json", ".minikube", ".vagrant.d/data/machine-index/index"} {
		h, dir := home(t)
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(p, 0o644); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			endpoints, problems := Discover(h)
			if len(endpoints) != 1 || len(problems) > 1 || name != ".minikube" && (len(problems) != 1 || !strings.Contains(problems[0].Error(), "not a regular file")) {
				t.Errorf("%s: found %v, problems %v", name, endpoints, problems)
			}
		}()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s holds Discover up", name)
		}
	}
}

func TestOwner(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("giving files away needs root")
		}
		t.Skip("giving files away needs root")
	}
	h, dir := home(t)
	file := filepath.Join(dir, ".docker/machine/machines/dev/config.json")
	h.Homes[0].UID = 4711
	for _, c := range []struct {
		owner int
		want  string // the problem
	}{{0, ""}, {4711, ""}, {4712, "docker-machine: " + file + ": the file belongs to user 4712, not to the home's owner"}} {
		if err := os.Chown(file, c.owner, -1); err != nil {
			t.Fatal(err)
		}
		endpoints, problems := Discover(h)
		if c.want == "" && (len(endpoints) != 1 || problems != nil) || c.want != "" && (endpoints != nil || len(problems) != 1 || problems[0].Error() != c.want) {
			t.Errorf("of user %d: found %v, problems %v", c.owner, endpoints, problems)
		}
	}
}

// TestSocketAt speaks to real sockets: by links they are one, and other files are none.
func TestSocketAt(t *testing.T) {
	dir, err := os.MkdirTemp("", "fl") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, ".docker", "run", "docker.sock")
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", at)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	link := filepath.Join(dir, "link.sock")
	if err := os.Symlink(at, link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{at, link} {
		if real, uid, err := socketAt(p); real != at || uid != os.Getuid() || err != nil {
			t.Errorf("%s is %s of %d, %v", p, real, uid, err)
		}
	}
	if _, _, err := socketAt(filepath.Dir(at)); err == nil {
		t.Error("a folder is a socket")
	}
	if _, _, err := socketAt(filepath.Join(dir, "none")); !os.IsNotExist(err) {
		t.Errorf("nothing: %v", err)
	}
	endpoints, problems := Discover(Host{
		GOOS: "linux", Homes: []Home{{Dir: dir, UID: os.Getuid()}},
		Env: func(name string) (string, bool) {
			v, ok := map[string]string{"DOCKER_HOST": "unix://" + link, "XDG_RUNTIME_DIR": dir + "/none"}[name]
			return v, ok
		},
	})
	if len(endpoints) == 0 || endpoints[0].URL != "unix://"+link || endpoints[0].Provider != "rootless" || problems != nil {
		t.Errorf("found %v, problems %v", endpoints, problems)
	}
	for _, e := range endpoints[1:] { // this machine's own engines may be there as well
		if e.Provider == "rootless" {
			t.Errorf("found twice: %v", endpoints)
		}
	}
}
