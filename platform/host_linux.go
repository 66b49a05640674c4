package platform

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Default places on this OS.
const (
	DefaultConfig   = "/etc/fairlead/fairlead.toml"
	DefaultStateDir = "/var/lib/fairlead"
	DefaultControl  = "/run/fairlead/control.sock"
	DefaultEngine   = "unix:///var/run/docker.sock"
)

// Sudo goes before a command that needs this host's rights, where a command can ask for them.
const Sudo = "sudo "

// Privileged returns nil when this process may change routes, else what it lacks.
func Privileged() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	if data[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return errors.New("changing routes needs root")
	}
	return nil
}

// BootID changes with every boot of this host, and with nothing else. It is "" when the OS does not tell.
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Kernel is the release of this host's kernel, as engines tell theirs: "6.1.0-18-amd64". It is "" where engines have another.
func Kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
