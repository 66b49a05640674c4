package platform

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"unsafe"

	"golang.org/x/sys/windows"
)

var programData = func() string {
	if p, err := windows.KnownFolderPath(windows.FOLDERID_ProgramData, 0); err == nil {
		return p
	}
	return os.Getenv("ProgramData")
}()

// Default places on this OS.
var (
	DefaultConfig   = filepath.Join(programData, "fairlead", "fairlead.toml")
	DefaultStateDir = filepath.Join(programData, "fairlead")
)

// Default places on this OS.
const (
	DefaultControl = `\\.\pipe\ProtectedPrefix\Administrators\fairlead` // where Windows lets only administrators make one
	DefaultEngine  = "npipe:////./pipe/docker_engine"
)

// Sudo goes before a command that needs this host's rights, where a command can ask for them. Here the prompt has them.
const Sudo = ""

// Privileged returns nil when this process may change routes, else what it lacks.
func Privileged() error {
	if !windows.GetCurrentProcessToken().IsElevated() {
		return errors.New("changing routes needs an elevated prompt (Run as Administrator)")
	}
	return nil
}

// BootID changes with every boot of this host, and with nothing else. It is "" when the OS does not tell.
func BootID() string {
	// SYSTEM_TIMEOFDAY_INFORMATION. The boot's time follows the clock whenever that is set; the bias is the sum of these steps.
	var t struct {
		BootTime, CurrentTime, TimeZoneBias int64
		TimeZoneID, _                       uint32
		BootTimeBias, SleepTimeBias         int64
	}
	if err := windows.NtQuerySystemInformation(windows.SystemTimeOfDayInformation, unsafe.Pointer(&t), uint32(unsafe.Sizeof(t)), nil); err != nil {
		return ""
	}
	return strconv.FormatInt(t.BootTime-t.BootTimeBias, 10)
}

// Kernel is "": engines run on other kernels than this host's.
func Kernel() string { return "" }
