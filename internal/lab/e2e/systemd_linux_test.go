package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/internal/lab"
)

// unitHost is a host whose first process is a real systemd.
type unitHost struct {
	*host
	*lab.Systemd
}

// show is a property of the service.
func (u unitHost) show(property string) string {
	u.t.Helper()
	return strings.TrimSpace(in(u.t, u.Systemd, "systemctl", "show", "--value", "--property="+property, "fairlead.service"))
}

// boot starts systemd on it.
func (u *unitHost) boot(program string) {
	u.Systemd = u.StartSystemd(u.t)
	u.program = append(u.Enter(), "env", "-u", "SUDO_UID", "-u", "DOCKER_HOST", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", program)
}

// files are all that a service can leave, beside what state shows: mode, owner and path of all in the folders that install and the
// service write to, and what systemd remembers.
func (u unitHost) files() string {
	u.t.Helper()
	return in(u.t, u.Systemd, "sh", "-c", `find /usr/local /var/lib/fairlead /run/fairlead /etc/systemd -printf '%M %U:%G %p %l\n' 2> /dev/null
		systemctl list-unit-files fairlead.service --no-legend
		systemctl --failed --no-legend`)
}

// The service's whole life under a real systemd, held to what its unit allows, with names by systemd-resolved where that is at
// hand; and nothing left of it.
func TestSystemd(t *testing.T) {
	t.Parallel()
	u := unitHost{newHost(t), nil}
	vm := u.StartVM(t, lab.VMOptions{TCP: true})
	docker(t, vm, "run", "-d", "--name", "web", "web")
	ip := address(t, vm, "bridge", "web")
	b, err := os.ReadFile(fairlead)
	if err != nil {
		t.Fatal(err)
	}
	put := func(path string, b []byte, mode os.FileMode, uid int) {
		t.Helper()
		at := u.Root() + path
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, b, mode), os.Chown(at, uid, -1)); err != nil {
			t.Fatal(err)
		}
	}
	put("/opt/fairlead", b, 0o755, 65534) // somebody's: root must not run it
	put("/opt/fairlead-newer", append(bytes.Clone(b), 0), 0o755, 0)
	u.args = nil // the default places
	u.boot("/opt/fairlead")
	state := func() string { return u.state() + u.files() }
	before := state()
	same := func() {
		t.Helper()
		if after := state(); after != before {
			t.Errorf("the host is not as before:\n%s", difference(before, after))
		}
	}
	engine := "--engine=dev=" + vm.URL()
	does := func(says string, args ...string) {
		t.Helper()
		if out := u.must(args...); !strings.Contains(out, says) {
			t.Errorf("fairlead %s does not say %q:\n%s", args, says, out)
		}
	}
	works := func() {
		t.Helper()
		u.answers("web.docker", ip)
		u.ping(ip)
		if u.Resolved {
			u.eventually("systemd-resolved answers", func() error {
				out, err := u.Run(t.Context(), "dig", "+short", "+tries=1", "+time=2", "@127.0.0.53", "web.docker")
				if err == nil && strings.TrimSpace(out) != ip {
					err = errors.New(out)
				}
				return err
			})
		}
	}

	does("to /usr/local/lib/fairlead/fairlead, where only root can change it", "install", engine)
	works()
	does("already installed (systemd), and it runs", "install", engine)
	if got := u.show("After"); !strings.Contains(got, "systemd-resolved.service") || !strings.Contains(got, "docker.service") {
		t.Errorf("it starts after %s", got)
	}
	if u.Resolved {
		does("resolver resolved: ", "status")
	}

	t.Run("it may do no more than it has to", func(t *testing.T) {
		pid := u.show("MainPID")
		status := in(t, u.Systemd, "cat", "/proc/"+pid+"/status")
		for _, want := range []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n", fmt.Sprintf("CapEff:\t%016x\n", 1<<1|1<<6|1<<7|1<<10|1<<12|1<<13)} {
			if !strings.Contains(status, want) {
				t.Errorf("no %q in\n%s", want, status)
			}
		}
		for path, writes := range map[string]bool{"/etc/x": false, "/usr/local/x": false, "/var/lib/x": false, "/home/x": false, "/sys/x": false, "/proc/sys/kernel/hostname": false,
			"/run/fairlead/x": true, "/var/lib/fairlead/x": true} {
			out, err := u.Systemd.Command(t.Context(), "nsenter", "--target="+pid, "--mount", "sh", "-c", ": > $0 && rm $0", path).CombinedOutput()
			if (err == nil) != writes || !writes && !strings.Contains(string(out), "Read-only file system") {
				t.Errorf("writing to %s: %v %s", path, err, out)
			}
		}
	})

	t.Run("killed", func(t *testing.T) {
		pid := u.show("MainPID")
		in(t, u.Systemd, "kill", "-KILL", pid)
		u.eventually("systemd starts it again", func() error {
			if now := u.show("MainPID"); now == pid || now == "0" || u.show("NRestarts") != "1" {
				return fmt.Errorf("pid %s, restarts %s", now, u.show("NRestarts"))
			}
			return nil
		})
		u.up()
		works()
	})

	t.Run("stop and start", func(t *testing.T) {
		does("no longer runs", "stop")
		if err := u.lacksRoute("172.17.0.0/16"); err != nil {
			t.Error(err)
		}
		if out := u.state(); strings.Contains(out, "fairlead0") {
			t.Errorf("left:\n%s", out)
		}
		does("now runs", "start")
		works()
		does("was restarted, and runs", "restart")
		works()
	})

	t.Run("settings that cannot be", func(t *testing.T) {
		put("/etc/fairlead/fairlead.toml", []byte("ttl = \"a while\"\n"), 0o644, 0)
		if out, errs, code := u.fairlead("restart"); code != agent.ExitFailed || !strings.Contains(errs, "fairlead logs") {
			t.Errorf("restart: exit %d\n%s%s", code, out, errs)
		}
		if got := u.show("ActiveState") + " " + u.show("ExecMainStatus"); got != "failed 2" { // "activating" where it is to be tried again
			t.Errorf("it is %s", got)
		}
		does(`ttl "a while"`, "logs")
		if err := os.RemoveAll(u.Root() + "/etc/fairlead"); err != nil {
			t.Fatal(err)
		}
		does("now runs", "start")
	})

	t.Run("a restart without a successor", func(t *testing.T) {
		works()
		put("/etc/fairlead/fairlead.toml", []byte("dns-listen = \"192.0.2.1:53\"\n"), 0o644, 0) // nobody's address here
		_, errs, code := u.fairlead("restart")
		if code != agent.ExitFailed || !strings.Contains(errs, "removed route 172.17.0.0/16") {
			t.Errorf("restart: exit %d\n%s", code, errs)
		}
		if err := u.lacksRoute("172.17.0.0/16"); err != nil {
			t.Error(err)
		}
		if out := firewall(t, vm); strings.Contains(out, "fairlead") {
			t.Errorf("left in the VM:\n%s", out)
		}
		if err := os.RemoveAll(u.Root() + "/etc/fairlead"); err != nil {
			t.Fatal(err)
		}
		u.must("stop")
		does("now runs", "start")
	})

	t.Run("upgrade", func(t *testing.T) {
		newer := *u.host
		newer.program = append(newer.program[:len(newer.program)-1:len(newer.program)-1], "/opt/fairlead-newer")
		if out := newer.must("install", engine, "--domain=lab"); !strings.Contains(out, "stopped the service of before") {
			t.Errorf("install: %s", out)
		}
		u.answers("web.lab", ip)
		if exe := in(t, u.Systemd, "readlink", "/proc/"+u.show("MainPID")+"/exe"); strings.TrimSpace(exe) != "/opt/fairlead-newer" { // which only root can change
			t.Errorf("it runs %s", exe)
		}
		does("copied", "install", engine)
	})

	t.Run("a power cut", func(t *testing.T) {
		u.Kill()
		u := unitHost{u.host.in(t), nil}
		u.boot("/opt/fairlead")
		if got := u.show("ActiveState"); got != "active" {
			t.Errorf("after the boot it is %s: %s", got, in(t, u.Systemd, "journalctl", "--no-pager", "--unit=fairlead"))
		}
	})
	u.boot("/opt/fairlead") // and another, for the rest
	u.up()
	works()
	does("removed /etc/systemd/system/fairlead.service", "uninstall")
	same()
}
