package platform

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Default places on this OS.
const (
	DefaultConfig   = "/etc/fairlead/fairlead.toml"
	DefaultStateDir = "/var/db/fairlead"
	DefaultControl  = "/var/run/fairlead.sock"
	DefaultEngine   = "unix:///var/run/docker.sock"
)

// Privileged returns nil when this process may change routes, else what it lacks.
func Privileged() error {
	if os.Geteuid() != 0 {
		return errors.New("changing routes needs root")
	}
	return nil
}

// BootID changes with every boot of this host.
func BootID() string {
	tv, err := unix.SysctlTimeval("kern.boottime")
	if err != nil {
		return ""
	}
	return strconv.FormatInt(tv.Sec, 10)
}
