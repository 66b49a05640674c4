package main

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/platform/tunnel"
)

// pilot is the built binary.
var pilot string

// TestMain builds the pilot as it is shipped, then runs the tests again in a fresh network namespace: that is the VM.
func TestMain(m *testing.M) {
	const inside = "FAIRLEAD_TEST_PILOT"
	if pilot = os.Getenv(inside); pilot != "" || os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "fairlead-pilot-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := func() int {
		pilot = filepath.Join(dir, "pilot")
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=1.2.3", "-o", pilot, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the pilot: %v\n%s", err, out)
			return 1
		}
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inside+"="+pilot)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		err := cmd.Run()
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			return exit.ExitCode()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "run the tests in a namespace:", err)
			return 1
		}
		return 0
	}()
	os.RemoveAll(dir)
	os.Exit(code)
}

var admission = tunnel.Admission{
	Tag:     "0123abcd",
	Sources: []netip.Addr{netip.MustParseAddr("192.168.93.1")},
	Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")},
}

// vm gives this namespace an engine's rules and a way to the host, and returns the ruleset.
func vm(t *testing.T) (before string) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	run(t, "nft", "flush", "ruleset")
	if err := exec.Command("ip", "link", "show", "eth1").Run(); err != nil {
		run(t, "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth0")
		run(t, "ip", "addr", "add", "192.168.93.100/24", "dev", "eth1")
		run(t, "ip", "link", "set", "eth0", "up")
		run(t, "ip", "link", "set", "eth1", "up")
		run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	}
	run(t, "iptables", "-P", "FORWARD", "DROP")
	run(t, "iptables", "-N", "DOCKER-USER")
	run(t, "iptables", "-A", "FORWARD", "-j", "DOCKER-USER")
	return ruleset(t)
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func ruleset(t *testing.T) string { return run(t, "nft", "-s", "list", "ruleset") }

// process is a running pilot with the one capability that it is given in the VM.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.ReadCloser
	stderr strings.Builder
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command("setpriv", append([]string{"--bounding-set", "-all,+net_admin", pilot}, args...)...)}
	p.cmd.Stderr = &p.stderr
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if p.stdout, err = p.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill() })
	return p
}

func (p *process) Read(b []byte) (int, error)  { return p.stdout.Read(b) }
func (p *process) Write(b []byte) (int, error) { return p.stdin.Write(b) }
func (p *process) Close() error                { return errors.Join(p.stdin.Close(), p.stdout.Close()) }

func (p *process) wantExit(code int) {
	p.t.Helper()
	watchdog := time.AfterFunc(12*time.Second, func() { p.cmd.Process.Signal(syscall.SIGQUIT) })
	defer watchdog.Stop()
	p.cmd.Wait()
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Errorf("exit code %d (%v), want %d\n%s", got, p.cmd.ProcessState, code, p.stderr.String())
	}
}

func wantOpen(t *testing.T, r tunnel.Report, err error) {
	t.Helper()
	if err != nil || !r.Open || r.Error != "" || r.Backend != "iptables-nft" || len(r.Rules) != 3 {
		t.Fatalf("report %+v, %v, want it open", r, err)
	}
	if now := ruleset(t); !strings.Contains(now, `ip saddr 192.168.93.1 counter accept comment "fairlead:0123abcd"`) {
		t.Fatalf("reported open with the rules\n%s", now)
	}
}

func wantRuleset(t *testing.T, want string) {
	t.Helper()
	if got := ruleset(t); got != want {
		t.Errorf("the rules are now\n%s\nand were\n%s", got, want)
	}
}

func TestALeaseEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*process)
	}{
		{"host gone", func(p *process) { p.Close() }},
		{"host writes no more", func(p *process) { p.stdin.Close() }},
		{"host reads no more", func(p *process) {
			p.stdout.Close()
			run(p.t, "iptables", "-F", "DOCKER-USER") // which the pilot repairs and wants to tell
		}},
		{"nonsense", func(p *process) { io.WriteString(p.stdin, "GET / HTTP/1.1\r\n") }},
		{"SIGTERM", func(p *process) { p.cmd.Process.Signal(syscall.SIGTERM) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := vm(t)
			p := start(t, "lead")
			// The lease has its own way out of the stream, so that end does to the process what it says.
			lease := tunnel.Lead(t.Context(), struct {
				io.Reader
				io.Writer
				io.Closer
			}{p, p, io.NopCloser(nil)})
			r, err := lease.Admit(t.Context(), admission)
			wantOpen(t, r, err)
			c.end(p)
			p.wantExit(0)
			wantRuleset(t, before)
			lease.Close()
		})
	}
}

func TestALeaseRepairsAndTells(t *testing.T) {
	before := vm(t)
	p := start(t, "lead")
	lease := tunnel.Lead(t.Context(), p)
	r, err := lease.Admit(t.Context(), admission)
	wantOpen(t, r, err)
	run(t, "iptables", "-F", "DOCKER-USER")
	select {
	case r := <-lease.Reports():
		if !r.Changed {
			t.Errorf("report %+v, want it changed", r)
		}
		wantOpen(t, r, nil)
	case <-lease.Done():
		t.Fatalf("lease ended: %v", lease.Err())
	case <-time.After(30 * time.Second):
		t.Fatal("no report")
	}
	lease.Close()
	p.wantExit(0)
	wantRuleset(t, before)
}

func TestARefusalIsReported(t *testing.T) {
	before := vm(t)
	p := start(t, "lead")
	lease := tunnel.Lead(t.Context(), p)
	bad := admission
	bad.Subnets = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	if r, err := lease.Admit(t.Context(), bad); err != nil || r.Open || r.Error == "" {
		t.Errorf("report %+v, %v, want an error in it", r, err)
	}
	r, err := lease.Admit(t.Context(), admission)
	wantOpen(t, r, err)
	lease.Close()
	p.wantExit(0)
	wantRuleset(t, before)
}

func TestHold(t *testing.T) {
	before := vm(t)
	arg, err := json.Marshal(admission)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, "hold", string(arg))
	r, err := tunnel.ReadReport(p.stdout)
	wantOpen(t, r, err)
	p.Close() // nobody listens to a held pilot
	open := ruleset(t)
	run(t, "iptables", "-F", "DOCKER-USER")
	for deadline := time.Now().Add(30 * time.Second); ruleset(t) != open; {
		if time.Now().After(deadline) {
			t.Fatalf("not repaired:\n%s", ruleset(t))
		}
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.wantExit(0)
	wantRuleset(t, before)
}

func TestReleaseCleansUpAfterAKill(t *testing.T) {
	before := vm(t)
	arg, err := json.Marshal(admission)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, "hold", string(arg))
	r, err := tunnel.ReadReport(p.stdout)
	wantOpen(t, r, err)
	p.cmd.Process.Kill()
	p.cmd.Wait()
	if ruleset(t) == before {
		t.Fatal("a killed pilot left nothing: this tests nothing")
	}
	p = start(t, "release", admission.Tag)
	r, err = tunnel.ReadReport(p.stdout)
	if err != nil || r.Open || len(r.Rules) != 0 || r.Error != "" || r.Backend != "iptables-nft" {
		t.Errorf("report %+v, %v", r, err)
	}
	p.wantExit(0)
	wantRuleset(t, before)
}

func TestUsage(t *testing.T) {
	vm(t)
	for _, args := range [][]string{nil, {"hold"}, {"hold", "{"}, {"lead", "me"}, {"--help"}} {
		start(t, args...).wantExit(2)
	}
	start(t, "release", "x' or 1").wantExit(1)
}

func TestThePilotNeedsNoLibraries(t *testing.T) {
	vm(t)
	f, err := elf.Open(pilot)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("it asks for a dynamic loader; an image from scratch has none")
		}
	}
}
