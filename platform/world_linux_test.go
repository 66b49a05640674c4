package platform

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// As root, the tests run in a network namespace of their own, where only loopback is up.
const worldEnv = "FAIRLEAD_TEST_WORLD" // "" outside, "new" on the way in, "in" inside

func inWorld(m *testing.M) int {
	switch {
	case os.Getenv(worldEnv) == "new":
		os.Setenv(worldEnv, "in") // for fuzz workers and children, which inherit the namespace
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bring up loopback:", err)
			return 1
		}
	case os.Getenv(worldEnv) == "" && os.Getuid() == 0:
		inside := exec.Command("/proc/self/exe", os.Args[1:]...)
		inside.Args[0] = os.Args[0]
		inside.Stdin, inside.Stdout, inside.Stderr = os.Stdin, os.Stdout, os.Stderr
		inside.Env = append(os.Environ(), worldEnv+"=new")
		inside.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		err := inside.Run()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			return exit.ExitCode()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "make the tests' namespace:", err)
			return 1
		}
		return 0
	}
	return m.Run()
}

func needWorld(t *testing.T) {
	t.Helper()
	if os.Getenv(worldEnv) != "in" {
		lacking(t, "needs root, for a network namespace of its own")
	}
}

// lacking ends a test that this machine cannot do: as skipped, or as failed on CI, where all is promised.
func lacking(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}
