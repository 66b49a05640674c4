package installer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	managerName  = "launchd"
	place        = "/Library/LaunchDaemons/" + label + ".plist"
	target       = "system/" + label
	launchctl    = "/bin/launchctl"
	programPlace = "/Library/PrivilegedHelperTools/" + label // /usr/local is often a user's
)

// installed is our property list; nil where there is none.
func installed() (*definition, error) { return readFile(place, plistMark) }

func loaded() bool { _, err := tell(launchctl, "print", target); return err == nil }

func running() (bool, error) {
	out, err := tell(launchctl, "print", target)
	return err == nil && strings.Contains(out, "state = running"), nil // an error: not loaded
}

// atBoot is false where the user has switched the service off (System Settings, Login Items).
func atBoot() (bool, error) {
	out, err := tell(launchctl, "print-disabled", "system")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(out) {
		name, is, ok := strings.Cut(strings.TrimSpace(line), " => ")
		if ok && strings.Trim(name, `"`) == label {
			return is != "disabled" && is != "true", nil
		}
	}
	return true, nil
}

func write(d definition, _ bool) error {
	if err := replaceFile(place, []byte(plist(d)), 0o644); err != nil { // launchd refuses one that others can write
		return err
	}
	// Only where it is needed: launchd never forgets it.
	if on, err := atBoot(); err != nil || on {
		return err
	}
	_, err := tell(launchctl, "enable", target)
	return err
}

func start() error {
	args := []string{"bootstrap", "system", place}
	if loaded() {
		args = []string{"kickstart", target}
	}
	if _, err := tell(launchctl, args...); err != nil {
		return err
	}
	if !until(10*time.Second, func() bool { up, _ := running(); return up }) {
		return fmt.Errorf("launchd does not run it; its log is %s", logFile)
	}
	return nil
}

// stop unloads the service, or KeepAlive could start it again. launchd does that in its own time.
func stop() error {
	if !loaded() {
		return nil
	}
	if _, err := tell(launchctl, "bootout", target); err != nil && loaded() {
		return err
	}
	if !until(30*time.Second, func() bool { return !loaded() }) {
		return errors.New("launchd does not unload it")
	}
	return nil
}

func remove() error {
	if err := stop(); err != nil {
		return err
	}
	if err := os.Remove(logFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Remove(place)
}

// LogCommand is the command that prints the last lines of the service's log, and with follow also those to come.
func LogCommand(lines int, follow bool) ([]string, error) {
	c := []string{"/usr/bin/tail", "-n", strconv.Itoa(lines)}
	if follow {
		c = append(c, "-F")
	}
	return append(c, logFile), nil
}
