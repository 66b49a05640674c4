package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fairlead-dev/fairlead/agent/doctor"
)

// What the old recipes left on a Mac is found, and moved aside with --replace; when fairlead goes it is back, to the last bit.
func TestMacReplace(t *testing.T) {
	t.Parallel()
	m := newMac(t)
	m.watch("dev=unix:///nowhere/docker.sock")
	for _, dir := range []string{"/etc/resolver", "/Library/LaunchDaemons"} {
		m.done(os.MkdirAll(m.root+dir, 0o755))
	}
	const plist = "/Library/LaunchDaemons/com.docker.route.plist"
	m.put("/etc/resolver/docker", "nameserver 172.17.0.1\n")
	m.put("/etc/resolver/corp.example.com", "nameserver 10.0.0.53\n")
	m.put(plist, `<plist version="1.0"><dict><key>Label</key><string>com.docker.route</string><key>ProgramArguments</key><array>`+
		`<string>/sbin/route</string><string>add</string><string>172.17.0.0/16</string><string>192.168.59.103</string></array></dict></plist>`)
	before := m.state()

	leftovers := func() (found []string) {
		m.t.Helper()
		for _, c := range m.report("doctor").Checks {
			for _, l := range c.Checks {
				if c.Name == "leftovers" && l.State == doctor.Warn {
					file, _, _ := strings.Cut(l.Says, ":")
					found = append(found, file)
				}
			}
		}
		return found
	}
	if got := leftovers(); !slices.Equal(got, []string{plist, "/etc/resolver/docker"}) {
		t.Errorf("doctor finds %q", got)
	}
	m.same(before)

	r := m.start()
	m.eventually("doctor names the file in the way", func() error {
		for _, c := range m.report("doctor").Checks {
			for _, e := range c.Checks {
				if e.Name == "entry docker" && e.State == doctor.Fail && e.Hint == "sudo rm /etc/resolver/docker" {
					return nil
				}
			}
		}
		return fmt.Errorf("%v", m.report("doctor"))
	})
	r.signal(syscall.SIGTERM)
	m.same(before)

	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		r := m.start("--replace")
		m.eventually("the resolver file is ours", func() error {
			if b, err := os.ReadFile(m.root + "/etc/resolver/docker"); err != nil || string(b) != resolverFile {
				return fmt.Errorf("%q, %v", b, err)
			}
			return nil
		})
		if _, err := os.Stat(m.root + plist); err == nil {
			t.Error("the property list is still there")
		}
		if got := leftovers(); len(got) > 0 {
			t.Errorf("doctor still finds %q", got)
		}
		r.signal(end)
		if end == syscall.SIGKILL {
			m.must("teardown-network")
		}
		m.same(before)
	}
}
