//go:build !linux && !darwin && !windows

package platform

import "errors"

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
func Privileged() error { return errors.ErrUnsupported }

// BootID changes with every boot of this host.
func BootID() string { return "" }

// Kernel is "": engines run on other kernels than this host's.
func Kernel() string { return "" }
