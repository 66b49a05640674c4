package platform

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A child is this test binary again, as another process of the same host.
const (
	childEnv = "FAIRLEAD_TEST_CHILD" // what it is to do, see child
	pathEnv  = "FAIRLEAD_TEST_PATH"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(childEnv); what != "" {
		child(what)
		return
	}
	os.Exit(inWorld(m))
}

func child(what string) {
	switch what {
	case "boot id":
		fmt.Println(BootID())
	case "lock": // says what came of it, then holds it until it is killed
		_, err := Lock(os.Getenv(pathEnv))
		fmt.Println(err)
		io.Copy(io.Discard, os.Stdin)
	}
}

// startChild returns a running child and its first line.
func startChild(t *testing.T, what, path string) (*exec.Cmd, string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(exe)
	c.Env = append(os.Environ(), childEnv+"="+what, pathEnv+"="+path, "GORACE=atexit_sleep_ms=0")
	c.Stderr = os.Stderr
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); c.Process.Kill(); c.Wait() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("child %q: %v", what, err)
	}
	return c, strings.TrimSpace(line)
}

func TestBootID(t *testing.T) {
	id := BootID()
	if id == "" && runtime.GOOS == "darwin" {
		t.Skip("this is no Mac: each of them tells a boot id")
	}
	if id == "" {
		t.Fatal("this OS tells no boot id")
	}
	if again := BootID(); again != id {
		t.Errorf("BootID() = %q, then %q", id, again)
	}
	if _, other := startChild(t, "boot id", ""); other != id {
		t.Errorf("BootID() = %q here, %q in another process of the same boot", id, other)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path); err != ErrBusy {
		t.Errorf("second Lock in one process: %v, want ErrBusy", err)
	}
	if _, said := startChild(t, "lock", path); said != ErrBusy.Error() {
		t.Errorf("Lock in another process said %q, want ErrBusy", said)
	}
	unlock()

	holder, said := startChild(t, "lock", path)
	if said != "<nil>" {
		t.Fatalf("Lock after unlock, in another process: %s", said)
	}
	if _, err := Lock(path); err != ErrBusy {
		t.Errorf("Lock while another process has it: %v, want ErrBusy", err)
	}
	if err := holder.Process.Kill(); err != nil { // SIGKILL, TerminateProcess
		t.Fatal(err)
	}
	holder.Wait()
	// Windows may free the locks of a process a moment after its end.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		unlock, err := Lock(path)
		if err == nil {
			unlock()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("Lock after its holder was killed: %v", err)
		}
	}
}

func TestLockWithoutFolder(t *testing.T) {
	if _, err := Lock(filepath.Join(t.TempDir(), "none", "lock")); err == nil || err == ErrBusy {
		t.Errorf("Lock in a folder that is not there: %v, want the OS's error", err)
	}
}
