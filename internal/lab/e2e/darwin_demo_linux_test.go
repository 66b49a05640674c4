package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/lab"
)

// What make demo runs on a Mac shows what it promises, and leaves nothing behind, at its end and after Ctrl-C.
func TestMacDemo(t *testing.T) {
	t.Parallel()
	m := newMac(t)
	vm := m.StartVM(t, lab.VMOptions{TCP: true})
	for program, target := range map[string]string{"demo": "darwin", "guest": "linux"} {
		build := exec.Command("go", "build", "-o", m.dir+"/"+program, "github.com/fairlead-dev/fairlead/internal/lab/"+program)
		build.Env = append(os.Environ(), "GOOS="+target, "GOARCH=amd64", "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	m.done(os.Rename(m.dir+"/guest", m.dir+"/guest-amd64"))
	m.done(os.Link(m.program[len(m.program)-1], m.dir+"/fairlead"))
	// As programs of macOS do: asked is whom a file in /etc/resolver names.
	const ask = `file=ROOT/etc/resolver/docker
ip=$(dig +short +tries=1 -p "$(sed -n 's/^port //p' $file)" "@$(sed -n 's/^nameserver //p' $file)" fairlead-demo.docker)
[ -n "$ip" ] || { echo "$0: cannot resolve fairlead-demo.docker" >&2; exit 68; }
`
	for path, command := range map[string]string{"/usr/bin/ping": "exec /bin/ping -c1 -W5 $ip", "/usr/bin/curl": "exec /usr/bin/curl -sS --max-time 5 http://$ip/"} {
		m.script(path, strings.ReplaceAll(ask, "ROOT", m.root)+command)
	}
	left := func() string {
		return docker(t, vm, "ps", "--all", "--quiet") + docker(t, vm, "images", "--quiet", "fairlead-demo")
	}
	before, leftBefore := m.state(), left()
	same := func() {
		t.Helper()
		m.same(before)
		if now := left(); now != leftBefore {
			t.Errorf("the engine has %q, and had %q", now, leftBefore)
		}
	}
	demo := func() (*exec.Cmd, *syncBuffer) {
		words := slices.Concat(m.program[:len(m.program)-1], []string{m.dir + "/demo"})
		c, out := m.Command(context.Background(), words[0], words[1:]...), &syncBuffer{}
		c.Env = append(c.Env, "DOCKER_HOST="+vm.URL())
		c.Stdout, c.Stderr = out, out
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		m.done(c.Start())
		t.Cleanup(func() { _ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) })
		return c, out
	}

	c, out := demo()
	if err := c.Wait(); err != nil || !strings.Contains(out.String(), "1 received") || !strings.Contains(out.String(), "$ curl -sS http://fairlead-demo.docker/") {
		t.Errorf("%v\n%s", err, out)
	}
	same()

	c, out = demo()
	m.eventually("the demo is under way", func() error {
		if !strings.Contains(out.String(), "op=add") {
			return errors.New(out.String())
		}
		return nil
	})
	m.done(syscall.Kill(-c.Process.Pid, syscall.SIGINT)) // as a terminal does it
	if err := c.Wait(); fmt.Sprint(err) != "exit status 130" {
		t.Errorf("%v\n%s", err, out)
	}
	same()
}
