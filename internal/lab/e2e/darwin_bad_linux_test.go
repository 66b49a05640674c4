package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/internal/lab"
)

// put makes a file of the Mac.
func (m mac) put(path, text string) {
	m.t.Helper()
	if err := os.WriteFile(m.root+path, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// done fails the test when something could not be prepared.
func (m mac) done(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// Whatever is in the way in /etc/resolver: it is named in one line with a way out, and stays.
func TestMacResolverInTheWay(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		put  func(m mac)
		says []string
	}{
		"a foreign file": {func(m mac) {
			m.done(os.Mkdir(m.root+"/etc/resolver", 0o755))
			m.put("/etc/resolver/docker", "nameserver 10.0.0.1\n")
		}, []string{"/etc/resolver/docker", "fairlead did not make it", "rm /etc/resolver/docker"}},
		"a folder": {func(m mac) { m.done(os.MkdirAll(m.root+"/etc/resolver/docker", 0o755)) }, []string{"/etc/resolver/docker", "no regular file"}},
		"a symlink": {func(m mac) {
			m.done(os.Mkdir(m.root+"/etc/resolver", 0o755))
			m.done(os.Symlink("/etc/hosts", m.root+"/etc/resolver/docker"))
		}, []string{"/etc/resolver/docker", "a symlink to /etc/hosts"}},
		"the folder is a file":    {func(m mac) { m.put("/etc/resolver", "") }, []string{"/etc/resolver is no folder"}},
		"the folder is a symlink": {func(m mac) { m.done(os.Symlink("/tmp", m.root+"/etc/resolver")) }, []string{"/etc/resolver is a symlink to /tmp"}},
		"the folder is locked": {func(m mac) {
			m.done(os.Mkdir(m.root+"/etc/resolver", 0o755))
			lock := func(how string) error { return exec.Command("chattr", how, m.root+"/etc/resolver").Run() }
			if err := lock("+i"); err != nil {
				m.t.Skip("this file system has no immutable folders: ", err)
			}
			m.t.Cleanup(func() { lock("-i") })
		}, []string{"problem: resolver: ", "/etc/resolver is locked, even for root; see: ls -ldeO /etc/resolver"}},
		"the folder is on a read-only volume": {func(m mac) {
			m.done(os.Mkdir(m.root+"/etc/resolver", 0o755))
			_, err := m.Run(m.t.Context(), "mount", "-t", "tmpfs", "-o", "ro", "none", m.root+"/etc/resolver")
			m.done(err)
		}, []string{"problem: resolver: ", "/etc/resolver is on a read-only volume, or on one of its own; see: df /etc/resolver"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMac(t)
			c.put(m)
			before := m.state()
			r := m.start()
			m.eventually("status says what is in the way", func() error {
				said := m.must("status")
				for _, want := range c.says {
					if !strings.Contains(said, want) {
						return fmt.Errorf("not %q:\n%s", want, said)
					}
				}
				return nil
			})
			r.signal(syscall.SIGTERM)
			m.same(before)
		})
	}
}

// A file that macOS does not go by is said to be without effect, and no longer once it has one.
func TestMacResolverNotInForce(t *testing.T) {
	t.Parallel()
	m := newMac(t)
	m.watch("dev=unix:///nowhere/docker.sock")
	m.put(deaf, "")
	before := m.state()
	r := m.start()
	m.resolves("docker")
	const problem = "macOS does not go by them: it has not taken up the file for docker"
	m.eventually("status says so", func() error {
		if said := m.must("status"); !strings.Contains(said, "problem: resolver: ") || !strings.Contains(said, problem) {
			return errors.New(said)
		}
		return nil
	})
	if out, _, code := m.fairlead("doctor"); code != agent.ExitFailed || !strings.Contains(out, problem) {
		t.Errorf("doctor: exit %d\n%s", code, out)
	}
	m.done(os.Remove(m.root + deaf))
	m.done(os.Remove(m.root + "/etc/resolver/docker")) // which is put back, and looked at again
	m.eventually("nothing is wrong any more", func() error {
		if said := m.status().Resolver.Problem; said != "" {
			return errors.New(said)
		}
		return nil
	})
	r.signal(syscall.SIGTERM)
	m.same(before)
}

// Without root nothing is done, and one line says so.
func TestMacUnprivileged(t *testing.T) {
	t.Parallel()
	m := newMac(t)
	before := m.state()
	for _, dir := range []string{filepath.Dir(m.dir), filepath.Dir(fairlead)} {
		m.done(os.Chmod(dir, 0o755))
	}
	m.program = append([]string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"}, m.program...)
	for _, verb := range []string{"run", "setup-network", "teardown-network", "install", "uninstall", "start", "stop", "restart"} {
		out, errs, code := m.fairlead(verb)
		if code != agent.ExitNotPermitted || out != "" || strings.Count(errs, "\n") != 2 || !strings.Contains(errs, "needs root") || !strings.Contains(errs, "hint: run: sudo fairlead "+verb) {
			t.Errorf("%s: exit %d\n%s%s", verb, code, out, errs)
		}
	}
	m.same(before)
}

// An interface that goes, or gets another name, takes our rows along; they come back where the VM is, and go at the end.
func TestMacInterfaceChanges(t *testing.T) {
	t.Parallel()
	m := newMac(t)
	vm := m.StartVM(t, lab.VMOptions{TCP: true})
	m.watch(vm.URL())
	docker(t, vm, "run", "-d", "--name", "web", "web")
	ip := address(t, vm, "bridge", "web")
	before := m.state()
	r := m.start()
	m.answers("web.docker", ip)

	ipLink := func(args string) {
		t.Helper()
		if _, err := m.Run(t.Context(), "ip", strings.Fields("link set dev "+args)...); err != nil {
			t.Fatal(err)
		}
	}
	ipLink("vboxnet0 down")
	ipLink("vboxnet0 name vboxnet1") // bridge101
	ipLink("vboxnet1 up")
	m.eventually("row on the renamed link", func() error {
		s := m.status()
		if len(s.Subnets) == 0 || s.Subnets[0].State != agent.Installed || s.Subnets[0].Route.Dev != "bridge101" {
			return fmt.Errorf("%+v", s.Subnets)
		}
		return nil
	})
	m.eventually("ping", func() error {
		_, err := m.Run(t.Context(), "ping", "-c1", "-W1", ip)
		return err
	})
	ipLink("vboxnet1 down") // as when the last VM of vmnet stops
	m.eventually("no row", func() error {
		if rows, err := m.Routes(t.Context()); err != nil || strings.Contains(strings.Join(rows, "\n"), "172.17.0.0/16") {
			return errors.New(strings.Join(rows, "\n"))
		}
		return nil
	})
	ipLink("vboxnet1 name vboxnet0")
	ipLink("vboxnet0 up")
	m.eventually("row is back", func() error { return m.hasRoute("172.17.0.0/16") })
	r.signal(syscall.SIGTERM)
	m.same(before)
}

// The agent of a Mac finds the engines of who sits at its screen: of nobody, of one, or of the one of two that are logged in.
func TestMacConsoleUser(t *testing.T) {
	t.Parallel()
	m := newMac(t)
	passwd := text(m.Root()+"/etc/passwd") + "ann:x:501:20::/Users/ann:/bin/zsh\nbob:x:502:20::/Users/bob:/bin/zsh\n"
	m.done(os.WriteFile(m.Root()+"/etc/passwd", []byte(passwd), 0o644))
	for user, uid := range map[string]int{"ann": 501, "bob": 502} {
		at := m.root + "/Users/" + user + "/.docker/contexts/meta/" + fmt.Sprintf("%x", sha256.Sum256([]byte(user)))
		m.done(os.MkdirAll(at, 0o755))
		m.done(os.WriteFile(at+"/meta.json", fmt.Appendf(nil, `{"Name":%q,"Endpoints":{"docker":{"Host":"tcp://127.0.0.1:%d"}}}`, user, uid), 0o644))
		m.done(os.WriteFile(m.root+"/Users/"+user+"/.docker/config.json", fmt.Appendf(nil, `{"currentContext":%q}`, user), 0o644))
		m.done(exec.Command("chown", "-R", fmt.Sprint(uid), m.root+"/Users/"+user).Run())
	}
	m.done(os.MkdirAll(m.root+"/dev", 0o755))
	m.put("/dev/console", "")
	m.program = slices.Insert(slices.Clone(m.program), 1, "-u", "SUDO_UID", "-u", "DOCKER_HOST", "HOME=/var/root") // launchd's
	for i, v := range m.program {
		if strings.HasPrefix(v, "DARWINRUN_MAP=") {
			m.program[i] = v + ":/dev/console"
		}
	}
	before := m.state()
	r := m.start()
	for _, at := range []struct {
		uid    int
		engine string
	}{{0, "default"}, {501, "ann"}, {502, "bob"}} {
		m.done(os.Chown(m.root+"/dev/console", at.uid, -1))
		m.within(time.Minute, fmt.Sprintf("with user %d at the screen there is %s", at.uid, at.engine), func() error {
			s := m.status()
			if !slices.ContainsFunc(s.Engines, func(e agent.EngineStatus) bool { return e.Name == at.engine }) {
				return fmt.Errorf("%+v", s.Engines)
			}
			return nil
		})
	}
	r.signal(syscall.SIGTERM)
	m.done(os.Chown(m.root+"/dev/console", 0, -1))
	m.same(before)
}
