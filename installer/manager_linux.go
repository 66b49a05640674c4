package installer

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

const (
	managerName  = "systemd"
	place        = "/etc/systemd/system/" + unitName
	unitName     = serviceName + ".service"
	programPlace = "/usr/local/lib/fairlead/fairlead"
)

// installed is our unit; nil where there is none.
func installed() (*definition, error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil { // sd_booted(3)
		return nil, fmt.Errorf("%w: it was not started by systemd", ErrNoManager)
	}
	for _, dir := range []string{"/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"} {
		if _, err := os.Lstat(filepath.Join(dir, unitName)); err == nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, unitName), ErrForeign)
		}
	}
	return readFile(place, unitMark)
}

func running() (bool, error) {
	out, err := tell("systemctl", "is-active", unitName)
	switch out {
	case "active", "reloading", "activating", "deactivating":
		return true, nil
	case "inactive", "failed", "unknown":
		return false, nil
	}
	return false, err
}

func atBoot() (bool, error) {
	out, err := tell("systemctl", "is-enabled", unitName)
	switch out {
	case "enabled":
		return true, nil
	case "disabled", "not-found":
		return false, nil
	}
	return false, err
}

func write(d definition, _ bool) error {
	if err := replaceFile(place, []byte(unit(d)), 0o644); err != nil {
		return err
	}
	if _, err := tell("systemctl", "daemon-reload"); err != nil {
		return err
	}
	_, err := tell("systemctl", "enable", unitName)
	return err
}

func remove() error {
	if _, err := tell("systemctl", "disable", "--now", unitName); err != nil {
		return err
	}
	if err := os.Remove(place); err != nil {
		return err
	}
	_ = os.Remove("/var/lib/fairlead") // its StateDirectory, if it is empty
	_, err := tell("systemctl", "daemon-reload")
	return err
}

func start() error { _, err := tell("systemctl", "start", unitName); return err }
func stop() error  { _, err := tell("systemctl", "stop", unitName); return err }

// LogCommand is the command that prints the last lines of the service's log, and with follow also those to come.
func LogCommand(lines int, follow bool) ([]string, error) {
	c := []string{"journalctl", "--unit=" + unitName, "--lines=" + strconv.Itoa(lines)}
	if follow {
		return append(c, "--follow"), nil
	}
	return append(c, "--no-pager"), nil
}

// Log returns where a running program's log goes.
func Log() io.Writer { return os.Stderr }
