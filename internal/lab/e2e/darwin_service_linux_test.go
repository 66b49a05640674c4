package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/internal/lab"
)

const (
	macJob    = "dev.fairlead.agent"
	macCopy   = "/Library/PrivilegedHelperTools/dev.fairlead.agent"
	macLog    = "/var/log/fairlead.log"
	macConfig = "/etc/fairlead/fairlead.toml"
)

// does runs a command that has to succeed and to say all of that.
func (m mac) does(command string, says ...string) {
	m.t.Helper()
	out := m.must(strings.Fields(command)...)
	for _, want := range says {
		if !strings.Contains(out, want) {
			m.t.Errorf("fairlead %s does not say %q:\n%s", command, want, out)
		}
	}
}

// The service's whole life under launchd's rules, and nothing left of it.
func TestMacService(t *testing.T) {
	t.Parallel()
	m := newMac(t)
	l := m.launchd()
	vm := m.StartVM(t, lab.VMOptions{TCP: true})
	docker(t, vm, "run", "-d", "--name", "web", "web")
	ip := address(t, vm, "bridge", "web")
	m.done(os.MkdirAll(m.root+"/etc/newsyslog.d", 0o755))
	before := m.state()
	engine := " --engine dev=" + vm.URL()

	const byHand = " 172.17.3.0/24 via 192.168.99.100 proto static"
	m.ip("route add" + byHand)
	m.does("install"+engine, "to "+macCopy+", where only root can change it", "wrote /Library/LaunchDaemons/dev.fairlead.agent.plist", "started it", "now installed (launchd), and it runs",
		"route 172.17.3.0/24 via 192.168.99.100 dev bridge100: somebody made it by hand", "hint: sudo fairlead install --replace")
	m.ip("route del" + byHand)
	m.answers("web.docker", ip)
	m.resolves("17.172.in-addr.arpa", "docker")
	m.ping(ip)
	for path, mode := range map[string]os.FileMode{"/Library/LaunchDaemons/dev.fairlead.agent.plist": 0o644, macCopy: 0o755, "/etc/newsyslog.d/fairlead.conf": 0o644} {
		i, err := os.Lstat(m.root + path)
		if err != nil || i.Mode() != mode || i.Sys().(*syscall.Stat_t).Uid != 0 || i.Sys().(*syscall.Stat_t).Gid != 0 {
			t.Errorf("%s: %v %+v", path, err, i)
		}
	}
	first := l.pid(macJob)
	m.does("install"+engine, "already installed (launchd), and it runs")
	m.does("start", "already") // runs
	if now := l.pid(macJob); now != first {
		t.Errorf("doing it again has started it anew: %d, %d", first, now)
	}

	t.Run("a crash", func(t *testing.T) {
		m := m.in(t)
		m.done(syscall.Kill(first, syscall.SIGKILL))
		m.eventually("launchd starts it again", func() error {
			if now := l.pid(macJob); now == 0 || now == first {
				return fmt.Errorf("pid %d", now)
			}
			return nil
		})
		m.up()
		m.answers("web.docker", ip)
	})

	t.Run("stop and start", func(t *testing.T) {
		m := m.in(t)
		m.does("stop")
		m.resolves()
		if l.loaded(macJob) {
			t.Error("it is still loaded")
		}
		m.does("start")
		m.answers("web.docker", ip)
		m.does("restart")
		m.answers("web.docker", ip)
	})

	t.Run("upgrade", func(t *testing.T) {
		m := m.in(t)
		b, err := os.ReadFile(m.program[len(m.program)-1])
		m.done(err)
		newer := m.dir + "/fairlead-newer"
		m.done(os.WriteFile(newer, append(b, 0), 0o755)) // other bytes of the same program
		sub := *m.host
		sub.program = append(append([]string{}, m.program[:len(m.program)-1]...), newer)
		(mac{&sub, m.root}).does("install"+engine+" --domain lab", "stopped the service of before", "copied "+newer, "it runs")
		m.answers("web.lab", ip)
		m.resolves("17.172.in-addr.arpa", "lab")
		if text(m.root+macCopy) != text(newer) {
			t.Error("the copy is not the new program")
		}
	})

	t.Run("upgrade by the macOS package", func(t *testing.T) {
		m := m.in(t)
		m.script("/usr/local/bin/fairlead", "exec "+strings.Join(m.program, " ")+` "$@"`)
		before := text(m.root + "/Library/LaunchDaemons/dev.fairlead.agent.plist")
		out, err := m.Run(t.Context(), "../../../packaging/macos/postinstall", "dev.fairlead.pkg", "/", m.root)
		m.done(err)
		m.answers("web.lab", ip)
		args := func(list string) string { _, list, _ = strings.Cut(list, "<key>ProgramArguments"); return list }
		if now := text(m.root + "/Library/LaunchDaemons/dev.fairlead.agent.plist"); args(now) != args(before) || now == before {
			t.Errorf("it says %s and leaves\n%s\nof\n%s", out, now, before)
		}
		m.done(os.Remove(m.root + "/usr/local/bin/fairlead"))
	})

	t.Run("the log is rotated", func(t *testing.T) {
		m := m.in(t)
		m.done(os.Rename(m.root+macLog, m.root+macLog+".0")) // as newsyslog does
		docker(t, vm, "network", "create", "--subnet", "172.30.5.0/24", "shop")
		m.eventually("a new log", func() error {
			if !strings.Contains(text(m.root+macLog), "172.30.5.0/24") {
				return errors.New("nothing in it")
			}
			return nil
		})
		if out := m.must("logs", "-n", "1000"); !strings.Contains(out, "172.30.5.0/24") {
			t.Errorf("logs: %q", out)
		}
		docker(t, vm, "network", "rm", "shop")
	})

	t.Run("switched off in System Settings", func(t *testing.T) {
		m := m.in(t)
		m.does("stop")
		l.ctl([]string{"disable", "system/" + macJob})
		if _, errs, code := m.fairlead("start"); code != agent.ExitFailed || !strings.Contains(errs, "Login Items") {
			t.Errorf("start: exit %d\n%s", code, errs)
		}
		m.does("install"+engine, "it runs")
		m.answers("web.docker", ip)
	})

	t.Run("settings that cannot be", func(t *testing.T) {
		m := m.in(t)
		m.done(os.MkdirAll(m.root+filepath.Dir(macConfig), 0o755))
		m.put(macConfig, "ttl = \"a while\"\n")
		m.done(syscall.Kill(l.pid(macJob), syscall.SIGKILL))
		m.eventually("launchd leaves it alone", func() error { // it would not after any other code
			out, said, _ := l.ctl([]string{"print", "system/" + macJob})
			if !strings.Contains(out, "state = not running\n\tlast exit code = 0\n") {
				return errors.New(out + said)
			}
			return nil
		})
		if out := m.must("logs"); !strings.Contains(out, `ttl "a while"`) || !strings.Contains(out, "once more would not help") {
			t.Errorf("logs: %s", out)
		}
		m.done(os.RemoveAll(m.root + filepath.Dir(macConfig)))
		m.does("start", "now runs")
		m.answers("web.docker", ip)
	})

	t.Run("one that does not come up", func(t *testing.T) {
		m := m.in(t)
		out, errs, code := m.fairlead("install", "--engine", "dev="+vm.URL(), "--dns-listen", "127.0.0.2:55353") // which no Mac has
		if code != agent.ExitFailed || strings.Contains(errs, "has not answered") || !strings.Contains(errs, "hint: fairlead logs") {
			t.Errorf("install: exit %d\n%s%s", code, out, errs)
		}
		m.does("install"+engine, "it runs")
		m.answers("web.docker", ip)
	})

	m.does("uninstall", "removed /Library/LaunchDaemons/dev.fairlead.agent.plist", "removed "+macCopy, "no longer installed (launchd)")
	_ = os.RemoveAll(l.state)
	m.same(before)
	left, _ := filepath.Glob(m.root + macLog + "*")
	state, _ := filepath.Glob(m.root + "/var/db/fairlead*")
	if left = append(left, state...); len(left) > 0 {
		t.Error(text(m.root + "/var/db/fairlead/journal.json"))
	}
	if len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	m.does("uninstall", "is not installed")
}

// A property list of our name that is not ours is named and stays as it is; so does a program in our place.
func TestMacServiceForeign(t *testing.T) {
	t.Parallel()
	m := newMac(t)
	m.launchd()
	for path, content := range map[string]string{
		"/Library/LaunchDaemons/dev.fairlead.agent.plist": "<plist version=\"1.0\"><dict/></plist>\n",
		macCopy: "somebody's program",
	} {
		m.put(path, content)
		before := m.state()
		if out, errs, code := m.fairlead("install"); code != agent.ExitFailed || !strings.Contains(errs, path) || !strings.Contains(errs, "hint: ") {
			t.Errorf("install: exit %d\n%s%s", code, out, errs)
		}
		m.same(before)
		m.done(os.Remove(m.root + path))
	}
}

// What `brew services start` makes of the formula runs, leaves nothing when it is stopped, and keeps install out meanwhile.
func TestMacBrew(t *testing.T) {
	t.Parallel()
	m := newMac(t)
	l := m.launchd()
	const program, list = "/opt/homebrew/opt/fairlead/bin/fairlead", "/Library/LaunchDaemons/homebrew.mxcl.fairlead.plist"
	for _, dir := range []string{filepath.Dir(program), "/opt/homebrew/var/log", "/Library/LaunchDaemons"} {
		m.done(os.MkdirAll(m.root+dir, 0o755))
	}
	m.done(os.Link(m.program[len(m.program)-1], m.root+program))
	m.put(list, `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict>
<key>KeepAlive</key><dict><key>SuccessfulExit</key><false/></dict>
<key>Label</key><string>homebrew.mxcl.fairlead</string>
<key>ProcessType</key><string>Interactive</string>
<key>ProgramArguments</key><array><string>`+program+`</string><string>run</string></array>
<key>RunAtLoad</key><true/>
<key>StandardErrorPath</key><string>/opt/homebrew/var/log/fairlead.log</string>
<key>StandardOutPath</key><string>/opt/homebrew/var/log/fairlead.log</string>
</dict></plist>
`)
	log := m.root + "/opt/homebrew/var/log"
	before := m.state()
	launchctl := func(args ...string) {
		t.Helper()
		in(t, m, m.program[0], slices.Concat(m.program[1:len(m.program)-2], []string{m.root + "/bin/launchctl"}, args)...) // with the Mac's variables
	}
	launchctl("bootstrap", "system", list)
	m.up()
	m.resolves("docker")
	if _, errs, code := m.fairlead("install"); code != agent.ExitFailed || !strings.Contains(errs, "runs already, and not as this service") || !strings.Contains(errs, "brew services stop fairlead") {
		t.Errorf("install: exit %d\n%s", code, errs)
	}
	launchctl("bootout", "system/homebrew.mxcl.fairlead")
	m.eventually("it is unloaded", func() error {
		if l.loaded("homebrew.mxcl.fairlead") {
			return errors.New("not yet")
		}
		return nil
	})
	m.done(os.Remove(log + "/fairlead.log"))
	m.same(before)
}
