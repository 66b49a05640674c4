package platform

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Default places on this OS.
const (
	DefaultConfig   = "/etc/fairlead/fairlead.toml"
	DefaultStateDir = "/var/db/fairlead"
	DefaultControl  = "/var/run/fairlead.sock"
	DefaultEngine   = "unix:///var/run/docker.sock"
)

// Sudo goes before a command that needs this host's rights, where a command can ask for them.
const Sudo = "sudo "

// Privileged returns nil when this process may change routes, else what it lacks.
func Privileged() error {
	if os.Geteuid() != 0 {
		return errors.New("changing routes needs root")
	}
	return nil
}

// BootID changes with every boot of this host, and with nothing else. It is "" when the OS does not tell: kern.boottime would
// not do, as it moves whenever the clock is set.
func BootID() string {
	id, _ := unix.Sysctl("kern.bootsessionuuid")
	return id
}

// Kernel is "": engines run on other kernels than this host's.
func Kernel() string { return "" }
