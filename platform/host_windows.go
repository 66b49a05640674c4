package platform

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"

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
	DefaultControl = `\\.\pipe\fairlead`
	DefaultEngine  = "npipe:////./pipe/docker_engine"
)

// Privileged returns nil when this process may change routes, else what it lacks.
func Privileged() error {
	if !windows.GetCurrentProcessToken().IsElevated() {
		return errors.New("changing routes needs an elevated prompt (Run as Administrator)")
	}
	return nil
}

// BootID changes with every boot of this host.
func BootID() string {
	boot := time.Now().Add(-windows.DurationSinceBoot())
	return strconv.FormatInt(boot.Round(time.Minute).Unix(), 10)
}
