package installer

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"
)

// hangs is what a service of the tests is told that does not end when it is told to.
const hangs = "hangs"

// The service that the tests install is this test binary. With a file's name it fails when that file goes.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || os.Args[1] != "run" {
		os.Exit(m.Run())
	}
	err := Run(func(ctx context.Context) error {
		Ready()
		slog.New(slog.NewTextHandler(Log(), nil)).Info("at work", "program", os.Args[0])
		if len(os.Args) < 3 {
			<-ctx.Done()
			return nil
		}
		if os.Args[2] == hangs {
			stopLimit = 300 * time.Millisecond
			select {}
		}
		there := func() bool { _, err := os.Stat(os.Args[2]); return err == nil }
		for was := there(); ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
			if was && !there() {
				return errors.New("out of order")
			}
		}
		return nil
	})
	if err != nil {
		os.Exit(1)
	}
}

// system allows a test to install a service on this machine.
func system(t *testing.T) {
	t.Helper()
	if os.Getenv("FAIRLEAD_TEST_SYSTEM") != "windows" {
		t.Skip("installs a service on this machine: set FAIRLEAD_TEST_SYSTEM=windows to allow that")
	}
	if st, err := Look(); err != nil || st.Installed {
		t.Fatalf("this machine is no place for the test: %+v, %v", st, err)
	}
	t.Cleanup(func() {
		if _, err := Uninstall(); err != nil {
			t.Error(err)
		}
		for _, key := range []string{serviceKey, `SYSTEM\CurrentControlSet\Services\EventLog\Application\` + serviceName} {
			if k, err := registry.OpenKey(registry.LOCAL_MACHINE, key, registry.QUERY_VALUE); err == nil {
				k.Close()
				t.Errorf("left: %s", key)
			}
		}
		if _, err := os.Stat(filepath.Dir(programPlace)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("left: %s (%v)", filepath.Dir(programPlace), err)
		}
	})
}

// newProgram makes a copy of this binary, for Install to copy.
func newProgram(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "fairlead.exe")
	copyTo(t, self, to)
	return to
}

func copyTo(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func mustInstall(t *testing.T, o Options) Result {
	t.Helper()
	r, err := Install(o)
	if err != nil || !r.Installed || !r.Running {
		t.Fatalf("%+v, %v", r, err)
	}
	return r
}

func TestSystemService(t *testing.T) {
	system(t)
	o := Options{Program: newProgram(t), Args: []string{"run"}}
	mustInstall(t, o)
	m, s, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Disconnect()
	defer s.Close()
	c, err := s.Config()
	if err != nil || c.StartType != mgr.StartAutomatic || !c.DelayedAutoStart || c.BinaryPathName != `"`+programPlace+`" run` {
		t.Errorf("%+v, %v", c, err)
	}
	actions, err1 := s.RecoveryActions()
	always, err2 := s.RecoveryActionsOnNonCrashFailures()
	if err := errors.Join(err1, err2); err != nil || !slices.Equal(actions, recovery) || !always {
		t.Errorf("%+v, %v, %v", actions, always, err)
	}
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, `SYSTEM\CurrentControlSet\Services\EventLog\Application\`+serviceName, registry.QUERY_VALUE)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if file, _, err := k.GetStringValue("EventMessageFile"); err != nil || !strings.HasSuffix(file, `\EventCreate.exe`) {
		t.Errorf("messages in %q, %v", file, err)
	}
	told(t, `msg="at work"`)
	if r := mustInstall(t, o); len(r.Done) > 0 {
		t.Errorf("done again: %q", r.Done)
	}

	// An exit code counts as a failure: it is restarted.
	mark := filepath.Join(t.TempDir(), "works")
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := mustInstall(t, Options{Program: o.Program, Args: []string{"run", mark}}); !slices.Contains(r.Done, "stopped the service of before") {
		t.Errorf("%q", r.Done)
	}
	before, err := s.Query()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	again := func() bool {
		now, err := s.Query()
		return err == nil && now.State == svc.Running && now.ProcessId != before.ProcessId && alive(now.ProcessId)
	}
	if !until(time.Minute, again) {
		now, err := s.Query()
		t.Errorf("it ended with an exit code, and is not restarted: %+v, %v", now, err)
	}
}

// A service whose body does not end is ended all the same, says so, and is not restarted as if it had failed.
func TestSystemStopOfOneThatHangs(t *testing.T) {
	system(t)
	mustInstall(t, Options{Program: newProgram(t), Args: []string{"run", hangs}})
	m, s, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Disconnect()
	defer s.Close()
	before, err := s.Query()
	if err != nil {
		t.Fatal(err)
	}
	if err := Stop(); err != nil {
		t.Error(err)
	}
	now, err := s.Query()
	if err != nil || now.State != svc.Stopped || now.Win32ExitCode != 0 || now.ServiceSpecificExitCode != 0 || alive(before.ProcessId) {
		t.Errorf("%+v, %v; its process lives: %v", now, err, alive(before.ProcessId))
	}
	told(t, "has not ended in time")
}

// told looks for an event of the service's.
func told(t *testing.T, want string) {
	t.Helper()
	if wine() { // which has no event log, and a wevtutil that does nothing; internal/lab/windows.sh looks at what was given to it
		return
	}
	words, err := LogCommand(50, false)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	if !until(20*time.Second, func() bool {
		out, err = exec.Command(words[0], words[1:]...).CombinedOutput()
		return err == nil && strings.Contains(string(out), want)
	}) {
		t.Errorf("the event log has %s (%v), not %q", out, err, want)
	}
}

func alive(pid uint32) bool {
	h, err := windows.OpenProcess(windows.SYNCHRONIZE, false, pid)
	if err != nil {
		return false
	}
	defer windows.CloseHandle(h)
	e, err := windows.WaitForSingleObject(h, 0)
	return err == nil && e == uint32(windows.WAIT_TIMEOUT)
}

// Wintun's DLL beside the program becomes a part of the service if Windows trusts its signature.
func TestSystemDriver(t *testing.T) {
	signed := os.Getenv("FAIRLEAD_TEST_SIGNED")
	if signed == "" {
		t.Skip("FAIRLEAD_TEST_SIGNED names no file that is signed")
	}
	system(t)
	o := Options{Program: newProgram(t), Args: []string{"run"}}
	dll, installed := beside(o.Program), beside(programPlace)
	refused := func(why string) {
		t.Helper()
		r, err := Install(o)
		if err == nil || len(r.Done) > 0 || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), "; hint: take the one of https://www.wintun.net") {
			t.Errorf("%+v, %v", r, err)
		}
	}
	copyTo(t, o.Program, dll)
	refused("its signature is not trusted")
	if _, err := os.Stat(filepath.Dir(programPlace)); err == nil {
		t.Error("something was installed")
	}
	copyTo(t, signed, dll)
	b, err := os.ReadFile(dll)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/3] ^= 1
	if err := os.WriteFile(dll, b, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("its signature is not trusted")

	copyTo(t, signed, dll)
	mustInstall(t, o)
	want, err := sum(signed)
	if err != nil || !sumIs(installed, want) {
		t.Errorf("it is not copied, or not as it is (%v)", err)
	}
	if r := mustInstall(t, o); len(r.Done) > 0 {
		t.Errorf("done again: %q", r.Done)
	}
	if err := os.Remove(dll); err != nil {
		t.Fatal(err)
	}
	mustInstall(t, Options{Program: o.Program, Args: []string{"run", os.DevNull}})
	if !sumIs(installed, want) {
		t.Error("an upgrade without it has taken it away")
	}
	// The installed program itself makes other settings: the copies stay ours.
	mustInstall(t, Options{Program: programPlace, Args: []string{"run"}})
	if !sumIs(installed, want) {
		t.Error("gone")
	}
	if _, err := Uninstall(); err != nil {
		t.Error(err)
	}

	// What somebody has put there himself stays his.
	if err := os.MkdirAll(filepath.Dir(installed), 0o755); err != nil {
		t.Fatal(err)
	}
	copyTo(t, signed, installed)
	copyTo(t, signed, dll)
	mustInstall(t, o)
	if r, err := Uninstall(); err != nil || !sumIs(installed, want) {
		t.Errorf("%+v, %v", r, err)
	}
	if err := errors.Join(os.Remove(installed), os.Remove(filepath.Dir(installed))); err != nil {
		t.Error(err)
	}
}

// A service at which another program looks goes only when that lets go.
func TestSystemMarkedForDeletion(t *testing.T) {
	system(t)
	o := Options{Program: newProgram(t), Args: []string{"run"}}
	mustInstall(t, o)
	m, s, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Disconnect()
	let := func() { s.Close() }
	defer let()
	for _, do := range []func() error{
		func() error { _, err := Uninstall(); return err },
		func() error { _, err := Install(o); return err },
	} {
		if err := do(); !errors.Is(err, windows.ERROR_SERVICE_MARKED_FOR_DELETE) || !strings.Contains(err.Error(), "; hint: close Services") {
			t.Error(err)
		}
	}
	let()
	if !until(20*time.Second, func() bool { st, err := Look(); return err == nil && !st.Installed }) {
		t.Error("it does not go")
	}
	mustInstall(t, o)
}

// wine tells whether this is not Windows, but Wine.
func wine() bool {
	return windows.NewLazySystemDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil
}
