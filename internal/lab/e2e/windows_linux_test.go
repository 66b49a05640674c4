package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/internal/lab"
)

// winelab runs Windows programs here, and lends them what Wine lacks; internal/lab/test.sh puts it there.
const winelab = "../../../bin/winelab/winelab.sh"

// pc is a host whose fairlead is the Windows program: the network is this world's, registry, services and files of C: are
// those of a Windows session of its own.
type pc struct {
	*host
	session []string // how that session's verbs are called
	exe     string
}

// Where an installed fairlead is at home.
const (
	installedExe = `C:\Program Files\Fairlead\fairlead.exe`
	dnscache     = `HKLM\SYSTEM\CurrentControlSet\Services\Dnscache\Parameters`
	policy       = `HKLM\SOFTWARE\Policies\Microsoft\Windows NT\DNSClient\DnsPolicyConfig`
)

// windowsFairlead is the agent as a windows/amd64 program, built once, in a folder that goes with the tests.
var windowsFairlead = sync.OnceValues(func() (string, error) {
	file := fairlead + ".exe"
	build := exec.Command("go", "build", "-o", file, "github.com/fairlead-dev/fairlead/cmd/fairlead")
	build.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building fairlead for windows: %w\n%s", err, out)
	}
	return file, nil
})

func newPC(t testing.TB) *pc {
	script, err := filepath.Abs(winelab)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(script); err != nil {
		if os.Getenv("CI") == "true" && os.Getenv("FAIRLEAD_LABS") != "none" {
			t.Fatalf("no windows lab: %v", err)
		}
		t.Skipf("no windows lab: %v", err)
	}
	exe, err := windowsFairlead()
	if err != nil {
		t.Fatal(err)
	}
	p := &pc{host: newHost(t), exe: exe}
	// A program that ends by Wine's fault says so.
	p.session = []string{"env", "WINELAB_PREFIX=" + p.prefix(), "WINEDEBUG=-all,err+all", "bash", script}
	p.program, p.args = append(slices.Clone(p.session), "run", exe), nil // the default places
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what the lab saw:\n%s", p.lab("log"))
		}
		p.lab("stop")
	})
	p.lab("start")
	for _, key := range []string{dnscache, policy[:strings.LastIndexByte(policy, '\\')]} { // always there in Windows
		p.windows("reg", "add", key, "/f")
	}
	return p
}

func (p *pc) prefix() string { return filepath.Join(p.dir, "prefix") }

func (p *pc) in(t testing.TB) *pc {
	sub := *p
	sub.host = p.host.in(t)
	return &sub
}

// installed is the same PC, where the installed program is run.
func (p *pc) installed() *pc {
	sub := p.in(p.t)
	sub.program = append(slices.Clone(p.session), "run", installedExe)
	return sub
}

// try runs one of the lab's verbs and returns what it says.
func (p *pc) try(args ...string) (string, error) {
	// Into a file: what a session leaves running would keep a pipe open.
	said, err := os.CreateTemp(p.dir, "said")
	if err != nil {
		return "", err
	}
	defer said.Close()
	words := slices.Concat(p.session, args)
	cmd := p.Command(context.Background(), words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = said, said
	err = cmd.Run()
	out, readErr := os.ReadFile(said.Name())
	return strings.ReplaceAll(string(out), "\r\n", "\n"), cmp.Or(err, readErr)
}

func (p *pc) lab(args ...string) string {
	p.t.Helper()
	out, err := p.try(args...)
	if err != nil {
		p.t.Fatalf("winelab %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// windows runs one of Windows' own programs.
func (p *pc) windows(args ...string) string {
	p.t.Helper()
	return p.lab(append([]string{"run"}, args...)...)
}

// limited is the same PC, where fairlead runs from a prompt that nobody has elevated.
func (p *pc) limited() *pc {
	p.t.Helper()
	dll := must(os.ReadFile(p.path(`C:\windows\system32\bcryptprimitives.dll`)))(p.t)
	honest := bytes.ReplaceAll(dll, []byte("GetTokenInformation\x00"), []byte("getTokenInformation\x00")) // which no program asks it for
	if bytes.Equal(honest, dll) {
		p.t.Fatal("the lab does not answer for GetTokenInformation any more")
	}
	if err := os.WriteFile(p.path(`C:\winelab\honest.dll`), honest, 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.build("limited", p.path(`C:\winelab\limited.exe`))
	sub := p.in(p.t)
	sub.program = append(slices.Clone(p.session), "run", `C:\winelab\limited.exe`, `C:\winelab\honest.dll`, p.exe)
	return sub
}

// build makes a program of testdata for the PC.
func (p *pc) build(name, file string) {
	p.t.Helper()
	build := exec.Command("go", "build", "-o", file, "./testdata/"+name)
	build.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		p.t.Fatalf("%v\n%s", err, out)
	}
}

// path is where Linux sees a file of C:.
func (p *pc) path(file string) string {
	return p.prefix() + "/drive_c/" + strings.ReplaceAll(strings.TrimPrefix(file, `C:\`), `\`, "/")
}

// state is what fairlead could have changed: the network as Linux sees it, the registry, the files of C:.
func (p *pc) state() string {
	p.t.Helper()
	p.windows("reg", "export", "HKLM", `C:\winelab\state.reg`, "/y")
	b, err := os.ReadFile(p.path(`C:\winelab\state.reg`))
	if err != nil {
		p.t.Fatal(err)
	}
	var units []uint16
	for ; len(b) >= 2; b = b[2:] {
		units = append(units, uint16(b[0])|uint16(b[1])<<8)
	}
	state := p.host.state() + "# registry\n"
	for key := range strings.SplitSeq(string(utf16.Decode(units)), "\r\n\r\n") {
		if !strings.Contains(key, `\WineLab`) && !strings.Contains(key, `\ServiceCurrent`) { // the lab's own, a counter of services' processes
			state += key + "\n"
		}
	}
	state += "# files\n"
	drive := p.path(`C:\`)
	err = fs.WalkDir(os.DirFS(drive), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == "winelab" || strings.HasSuffix(path, "/Temp"):
			return fs.SkipDir
		}
		state += path + "\n"
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return state
}

// as complains about what is not as it was.
func (p *pc) as(before string) {
	p.t.Helper()
	after := p.state()
	was, is := slices.Sorted(strings.Lines(before)), slices.Sorted(strings.Lines(after))
	for _, l := range was {
		if !slices.Contains(is, l) {
			p.t.Errorf("gone: %s", l)
		}
	}
	for _, l := range is {
		if !slices.Contains(was, l) {
			p.t.Errorf("left behind: %s", l)
		}
	}
	if !p.t.Failed() && after != before {
		p.t.Errorf("not as before:\n%s\nbefore:\n%s", after, before)
	}
}

func (p *pc) answers(name, want string) {
	p.t.Helper()
	p.eventually("dig "+name, func() error {
		out, err := p.Run(context.Background(), "dig", "@127.0.0.153", "+short", "+tries=1", "+time=5", name)
		if got := strings.TrimSpace(out); err != nil || got != want {
			return fmt.Errorf("got %q (%v), want %q", got, err, want)
		}
		return nil
	})
}

var nrptValue = regexp.MustCompile(`(?m)^    (\S+)    (\S+)    ?(.*)$`)

// rules are the rules in a table of name resolution policies: values as `reg query` prints them, by the names of the keys.
func (p *pc) rules(table string) map[string]string {
	p.t.Helper()
	rules := map[string]string{}
	out, err := p.try("run", "reg", "query", table, "/s")
	if err != nil {
		return rules // no such table
	}
	for block := range strings.SplitSeq(out, "\n\n") {
		key, values, _ := strings.Cut(strings.TrimSpace(block), "\n")
		var lines []string
		for _, m := range nrptValue.FindAllStringSubmatch(values+"\n", -1) {
			lines = append(lines, strings.TrimSpace(m[1]+" "+m[2]+" "+m[3]))
		}
		if i := strings.LastIndexByte(key, '\\'); strings.HasSuffix(key, "}") {
			slices.Sort(lines)
			rules[key[i+1:]] = strings.Join(lines, "\n")
		}
	}
	return rules
}

// agents are the processes of this PC's that are the service's.
func (p *pc) agents() (pids []int) {
	p.t.Helper()
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		p.t.Fatal(err)
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		words, _ := os.ReadFile(filepath.Join("/proc", d.Name(), "cmdline"))
		env, _ := os.ReadFile(filepath.Join("/proc", d.Name(), "environ"))
		if w := bytes.Split(words, []byte{0}); len(w) > 1 && strings.EqualFold(string(w[0]), installedExe) && string(w[1]) == "run" &&
			bytes.Contains(env, []byte("WINEPREFIX="+p.prefix()+"\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// The whole agent as the program that Windows gets: routes, names, policy rules, service, from install to uninstall.
func TestWindows(t *testing.T) {
	p := newPC(t)
	vm := p.StartVM(t, lab.VMOptions{TCP: true, Addr6: netip.MustParseAddr("fd99::100"), HostAddr6: netip.MustParsePrefix("fd99::1/64"),
		Args: []string{"--ipv6", "--fixed-cidr-v6=fd17::/64"}})
	docker(t, vm, "run", "-d", "--name", "web", "web")
	web := address(t, vm, "bridge", "web")
	web6 := docker(t, vm, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.GlobalIPv6Address}}", "web")
	before, vmBefore := p.state(), firewall(t, vm)

	t.Run("not running", func(t *testing.T) {
		p := p.in(t)
		_, errs, code := p.fairlead("status")
		if code != agent.ExitFailed || errs != "fairlead: the agent is not running\nhint: start it with: fairlead install, or fairlead run\n" {
			t.Errorf("exit %d: %s", code, errs)
		}
		if _, errs, code := p.fairlead("query", "web.docker"); code != agent.ExitFailed || !strings.Contains(errs, "not running") {
			t.Errorf("exit %d: %s", code, errs)
		}
	})

	t.Run("setup-network and teardown-network", func(t *testing.T) {
		p := p.in(t)
		if out := p.must("setup-network", "--dry-run", "--engine", vm.URL()); !strings.Contains(out, "would add") {
			t.Error(out)
		}
		if err := p.lacksRoute("172.17.0.0/16"); err != nil {
			t.Error(err)
		}
		for range 2 {
			if out := p.must("setup-network", "--engine", vm.URL()); !strings.Contains(out, web+" answered in") {
				t.Errorf("not verified:\n%s", out)
			}
			if err := p.hasRoute("172.17.0.0/16"); err != nil {
				t.Error(err)
			}
			p.ping(web)
			p.ping(web6)
		}
		p.must("teardown-network")
		if err := p.lacksRoute("172.17.0.0/16"); err != nil {
			t.Error(err)
		}
		if after := firewall(t, vm); sortedLines(after) != sortedLines(vmBefore) {
			t.Errorf("the VM's firewall is not as before:\n%s\nbefore:\n%s", after, vmBefore)
		}
		if out := p.must("teardown-network"); !strings.Contains(out, "nothing to undo") {
			t.Error(out)
		}
	})

	t.Run("install", func(t *testing.T) {
		p := p.in(t)
		if out := p.must("install", "--engine", vm.URL()); !strings.Contains(out, "it runs") {
			t.Error(out)
		}
		p.answers("web.docker", web)
		p.ping(web)
		p.eventually("IPv6 by the VM's address of that version", func() error {
			rows, err := p.Routes(context.Background())
			if !slices.ContainsFunc(rows, func(r string) bool { return strings.HasPrefix(r, "fd17::/64 via fd99::100 ") }) {
				return fmt.Errorf("%q, %v", rows, err)
			}
			return nil
		})
		p.ping(web6)
		if out, err := p.Run(context.Background(), "dig", "@127.0.0.153", "+short", "web.docker", "AAAA"); err != nil || strings.TrimSpace(out) != web6 {
			t.Errorf("AAAA: %q, %v", out, err)
		}
		p.installed().follows(vm)
	})

	t.Run("policy rules", func(t *testing.T) {
		p := p.in(t)
		// As Add-DnsClientNrptRule makes one of -Namespace, -NameServers, -DisplayName and -Comment.
		want := map[string]string{"{f1ea1ead-d05e-4e52-a57b-000000000000}": `Comment REG_SZ https://github.com/fairlead-dev/fairlead
ConfigOptions REG_DWORD 0x8
DisplayName REG_SZ fairlead
GenericDNSServers REG_SZ 127.0.0.153
IPSECCARestriction REG_SZ
Name REG_MULTI_SZ .0.0.0.0.0.0.0.0.0.0.0.0.7.1.d.f.ip6.arpa\0.17.172.in-addr.arpa\0.docker
Version REG_DWORD 0x2`}
		if got := p.rules(dnscache + `\DnsPolicyConfig`); !maps.Equal(got, want) {
			t.Errorf("rules %v, want %v", got, want)
		}
		if got := p.rules(policy); len(got) > 0 {
			t.Errorf("group policy's key was made: %v", got)
		}
		p.windows("reg", "add", policy, "/f") // from now on Windows would ignore all other rules
		p.eventually("the copy", func() error {
			if got := p.rules(policy); !maps.Equal(got, want) {
				return fmt.Errorf("rules %v", got)
			}
			return nil
		})
		p.windows("reg", "delete", policy, "/f")
		p.windows("reg", "delete", dnscache+`\DnsPolicyConfig`, "/f")
		p.eventually("the rule is back", func() error {
			if got := p.rules(dnscache + `\DnsPolicyConfig`); !maps.Equal(got, want) {
				return fmt.Errorf("rules %v", got)
			}
			return nil
		})
		// Wine has no policy table, so that the rule is there, and has no effect: fairlead has to notice.
		p.eventually("it is noticed that the rule has no effect", func() error {
			if s := p.status(); !strings.Contains(s.Resolver.Problem, "Windows does not go by them") {
				return fmt.Errorf("%+v", s.Resolver)
			}
			return nil
		})
	})

	t.Run("killed", func(t *testing.T) {
		p := p.in(t)
		old := p.agents()
		if len(old) != 1 {
			t.Fatalf("agents: %v", old)
		}
		if err := syscall.Kill(old[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := p.hasRoute("172.17.0.0/16"); err != nil {
			t.Error(err)
		}
		p.eventually("the service comes back", func() error {
			if now := p.agents(); len(now) != 1 || now[0] == old[0] {
				return fmt.Errorf("agents: %v", now)
			}
			return nil
		})
		p.answers("web.docker", web)
		p.ping(web)
	})

	t.Run("upgrade in place", func(t *testing.T) {
		p := p.in(t)
		if out := p.must("install", "--engine", vm.URL(), "--domain", "box"); !strings.Contains(out, "stopped the service of before\n") || !strings.Contains(out, "it runs") {
			t.Error(out)
		}
		p.answers("web.box", web)
		if out := p.must("install", "--engine", vm.URL(), "--domain", "box"); !strings.Contains(out, "already installed") {
			t.Error(out)
		}
	})

	t.Run("stop and start", func(t *testing.T) {
		p := p.in(t)
		p.must("stop")
		if rules := p.rules(dnscache + `\DnsPolicyConfig`); len(rules) > 0 {
			t.Errorf("rules: %v", rules)
		}
		if err := p.lacksRoute("172.17.0.0/16"); err != nil {
			t.Error(err)
		}
		if after := firewall(t, vm); sortedLines(after) != sortedLines(vmBefore) {
			t.Errorf("the VM's firewall is not as before:\n%s\nbefore:\n%s", after, vmBefore)
		}
		if out := p.must("stop"); !strings.Contains(out, "does not run anyway") {
			t.Error(out)
		}
		p.must("start")
		p.answers("web.box", web)
	})

	t.Run("uninstall", func(t *testing.T) {
		p := p.in(t)
		p.must("uninstall")
		p.as(before)
		if out := p.must("uninstall"); !strings.Contains(out, "not installed") {
			t.Error(out)
		}
	})

	t.Run("in the foreground", func(t *testing.T) {
		p := p.in(t)
		p.pipe(`\\.\pipe\docker_engine`, vm.Socket())
		r := p.start("--gateway", vm.Addr().String()) // the pipe, being the default engine's, tells no address of the VM
		p.answers("web.docker", web)
		p.ping(web)
		p.follows(vm)
		r.signal(syscall.SIGKILL)
		if err := p.hasRoute("172.17.0.0/16"); err != nil {
			t.Error(err)
		}
		r = p.start("--gateway", vm.Addr().String())
		p.answers("web.docker", web)
		r.signal(syscall.SIGINT) // Ctrl-C
		if code := r.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("Ctrl-C: exit %d\n%s", code, r.log)
		}
		if out := p.must("teardown-network"); !strings.Contains(out, "nothing to undo") {
			t.Error(out)
		}
	})

	t.Run("in the way", func(t *testing.T) { p.in(t).inTheWay(t, before) })
}

// Engines that are a user's, watched by a service that is nobody's: docker-machine's, by TLS, and one inside a WSL distribution, by
// way of wsl.exe in the user's session.
func TestWindowsUsersEngines(t *testing.T) {
	p := newPC(t)
	certs, ca := t.TempDir(), newAuthority(t)
	ca.write(t, certs, "server", time.Hour, "192.168.99.100")
	vm := p.StartVM(t, lab.VMOptions{Args: []string{"--host=tcp://0.0.0.0:2376", "--tlsverify", "--tlscacert=" + certs + "/ca.pem", "--tlscert=" + certs + "/cert.pem", "--tlskey=" + certs + "/key.pem"}})
	docker(t, vm, "run", "-d", "--name", "web", "web")
	web := address(t, vm, "bridge", "web")
	before := p.state()

	t.Run("docker-machine", func(t *testing.T) {
		p := p.in(t)
		me := &home{t: t, dir: p.path(`C:\users\root`)}
		me.machine(".docker/machine", "default", vm.Addr().String())
		ca.write(t, me.path(".docker/machine/machines/default"), "client", time.Hour)
		p.must("install")
		p.answers("web.docker", web)
		p.ping(web)
		if s := p.status(); len(s.Engines) != 1 || s.Engines[0].URL != "tcp://"+vm.Addr().String()+":2376" {
			t.Errorf("engines %+v", s.Engines)
		}
		p.must("uninstall")
		if err := os.RemoveAll(me.path(".docker")); err != nil {
			t.Error(err)
		}
	})

	t.Run("WSL", func(t *testing.T) {
		p := p.in(t)
		wsl := p.path(`C:\windows\system32\wsl.exe`)
		p.build("wsl", wsl)
		me := &home{t: t, dir: p.path(`C:\`)}
		local := func(addr string) string { return "        |-- " + addr + "\n           /32 host LOCAL\n" }
		me.write("lab/fib_trie", local("127.0.0.1")+local("172.17.0.1")+local(vm.Addr().String()))
		me.write("lab/running", "")
		p.pipe(`\\.\pipe\distribution`, vm.Socket())
		p.must("install", "--engine", "distro=wsl://Ubuntu")
		p.eventually("it is told that the distribution does not run", func() error {
			if s := p.status(); len(s.Engines) != 1 || !strings.Contains(s.Engines[0].Error, "the WSL distribution Ubuntu does not run") {
				return fmt.Errorf("%+v", s.Engines)
			}
			return nil
		})
		me.write("lab/running", "Ubuntu\r\n")
		p.answers("web.docker", web)
		p.ping(web)
		if s := p.status(); s.Engines[0].Reach.Kind != "gateway" || s.Engines[0].Reach.Via != vm.Addr() {
			t.Errorf("%+v", s.Engines[0].Reach)
		}
		calls := string(must(os.ReadFile(me.path("lab/calls")))(t))
		for call := range strings.Lines(calls) {
			if !strings.HasPrefix(call, `C:\users\root --`) {
				t.Errorf("called for somebody else: %s", call)
			}
		}
		if was := strings.Index(calls, "dial-stdio"); was < 0 || strings.Count(calls[:was], "--list") < 2 {
			t.Errorf("a distribution that does not run was called:\n%s", calls)
		}

		// Mirrored networking: the VM's addresses are this host's own.
		me.write("lab/fib_trie", local("192.168.99.1"))
		p.must("restart")
		p.eventually("the way is a tunnel", func() error {
			if s := p.status(); len(s.Engines) != 1 || s.Engines[0].Reach.Kind != "tunnel" || !strings.Contains(s.Engines[0].Reach.Why, "mirrored networking") {
				return fmt.Errorf("%+v", s.Engines)
			}
			return nil
		})
		p.must("uninstall")
		if err := errors.Join(os.Remove(wsl), os.RemoveAll(me.path("lab"))); err != nil {
			t.Error(err)
		}
	})
	p.as(before)
}

// pipe lends the PC a named pipe that leads to a socket, until the test ends.
func (p *pc) pipe(name, socket string) {
	p.t.Helper()
	words := slices.Concat(p.session, []string{"npipe", name, socket})
	cmd := p.Command(context.Background(), words[0], words[1:]...)
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
}

// follows makes names and routes come and go with docker, and asks the agent about them.
func (p *pc) follows(vm *lab.VM) {
	p.t.Helper()
	docker(p.t, vm, "network", "create", "--subnet", "172.30.5.0/24", "shop")
	docker(p.t, vm, "run", "-d", "--name", "db", "--network", "shop", "web")
	db := address(p.t, vm, "shop", "db")
	p.answers("db.shop.docker", db)
	if err := p.hasRoute("172.30.5.0/24"); err != nil {
		p.t.Error(err)
	}
	p.ping(db)
	if out := p.must("query", "db.docker"); !strings.Contains(out, db) {
		p.t.Error(out)
	}
	if out := p.must("ls"); !strings.Contains(out, "db.docker") {
		p.t.Error(out)
	}
	if out := p.must("setup-network"); !strings.Contains(out, db+" answered in") {
		p.t.Error(out)
	}
	docker(p.t, vm, "rename", "db", "base")
	p.answers("base.docker", db)
	p.answers("db.docker", "")
	docker(p.t, vm, "rm", "-f", "base")
	p.answers("base.docker", "")
	docker(p.t, vm, "network", "rm", "shop")
	p.eventually("route goes", func() error { return p.lacksRoute("172.30.5.0/24") })
}

// What can be in the way of an agent on Windows is named, with the way out.
func (p *pc) inTheWay(t *testing.T, before string) {
	refused := func(p *pc, code int, want string, args ...string) {
		t.Helper()
		out, errs, got := p.fairlead(args...)
		if got != code || !strings.Contains(errs, want) || !strings.Contains(errs, "\nhint: ") {
			t.Errorf("fairlead %s: exit %d, want %d and %q\n%s%s", strings.Join(args, " "), got, code, want, out, errs)
		}
	}

	t.Run("no Administrator", func(t *testing.T) {
		p := p.in(t).limited()
		for _, verb := range []string{"run", "setup-network", "teardown-network", "install", "uninstall", "start", "stop", "restart"} {
			refused(p, agent.ExitNotPermitted, "needs an elevated prompt (Run as Administrator)", verb)
		}
	})

	t.Run("port 53 held", func(t *testing.T) {
		p := p.in(t)
		r := p.start("--engine", "tcp://192.0.2.1:2375", "--state-dir", `C:\other`, "--control", `\\.\pipe\other`)
		refused(p, agent.ExitFailed, "fairlead (pid ", "run", "--engine", "tcp://192.0.2.1:2375")
		refused(p, agent.ExitFailed, "--dns-listen 127.0.0.154:53", "run", "--engine", "tcp://192.0.2.1:2375")
		r.signal(syscall.SIGINT)
		p.must("teardown-network", "--state-dir", `C:\other`)
		if err := os.RemoveAll(p.path(`C:\other`)); err != nil {
			t.Error(err)
		}
	})

	t.Run("pipe taken", func(t *testing.T) {
		p := p.in(t)
		p.pipe(`\\.\pipe\taken`, "/nowhere")
		p.eventually("the pipe is there", func() error {
			_, errs, _ := p.fairlead("status", "--control", `\\.\pipe\taken`)
			if strings.Contains(errs, "not running") {
				return errors.New(errs)
			}
			return nil
		})
		refused(p, agent.ExitFailed, "labhost (pid ", "run", "--engine", "tcp://192.0.2.1:2375", "--control", `\\.\pipe\taken`)
	})

	t.Run("DNS Client service off", func(t *testing.T) {
		p := p.in(t)
		p.windows("net", "stop", "Dnscache")
		refused(p, agent.ExitFailed, "Dnscache", "run", "--engine", "tcp://192.0.2.1:2375", "--resolver", "nrpt")
		r := p.start("--engine", "tcp://192.0.2.1:2375")
		if s := p.status(); s.Resolver.Method != "none" || !strings.Contains(s.Resolver.Why, "Dnscache") || !strings.Contains(s.Resolver.Why, "hint: enable") {
			t.Errorf("%+v", s.Resolver)
		}
		r.signal(syscall.SIGINT)
		p.windows("net", "start", "Dnscache")
	})

	p.must("uninstall") // takes the state folder
	p.as(before)
}
