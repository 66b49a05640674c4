package installer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	managerName  = "launchd"
	place        = launchdPlace
	target       = "system/" + label
	launchctl    = "/bin/launchctl"
	programPlace = "/Library/PrivilegedHelperTools/" + label // /usr/local is often a user's

	rotation = "/etc/newsyslog.d/fairlead.conf"
	// newsyslog.conf(5): five old ones of 1 MB, by bzip2; N: nobody has to be told.
	rotationRules = "# Written by: fairlead install. Removed by: fairlead uninstall.\n" + logFile + "\t644\t5\t1000\t*\tJN\n"
)

// installed is our property list; nil where there is none.
func installed() (*definition, error) { return readFile(place, plistMark) }

func loaded() bool { _, err := tell(launchctl, "print", target); return err == nil }

func running() (bool, error) {
	out, err := tell(launchctl, "print", target)
	return err == nil && strings.Contains(out, "state = running"), nil // an error: not loaded
}

// ended tells whether the program has ended since it was loaded, however often it was started.
func ended() bool {
	out, err := tell(launchctl, "print", target)
	_, code, _ := strings.Cut(out, "last exit code = ") // until then it is "(never exited)"
	return err == nil && code != "" && code[0] >= '0' && code[0] <= '9'
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
	if err := stop(); err != nil { // launchd keeps the list that it has read, also while the program does not run
		return err
	}
	if err := replaceFile(place, []byte(plist(d)), 0o644); err != nil { // launchd refuses one that others can write
		return err
	}
	if err := os.Chown(place, 0, 0); err != nil { // or that is not root:wheel's
		return err
	}
	if err := rotate(); err != nil {
		return err
	}
	// Only where it is needed: launchd never forgets it.
	if on, err := atBoot(); err != nil || on {
		return err
	}
	_, err := tell(launchctl, "enable", target)
	return err
}

// rotate has newsyslog(8) rotate the log. Rules that are there already are somebody's own and stay.
func rotate() error {
	if _, err := os.Lstat(rotation); err == nil {
		return nil
	}
	if _, err := os.Stat(filepath.Dir(rotation)); err != nil {
		return nil // nobody would read it
	}
	return replaceFile(rotation, []byte(rotationRules), 0o644)
}

// forgetLogs removes the log, its rotated parts, and the rules for that unless somebody has changed them.
func forgetLogs() error {
	logs, err := filepath.Glob(logFile + ".[0-9]*")
	if err != nil {
		return err
	}
	if b, err := os.ReadFile(rotation); err == nil && string(b) == rotationRules {
		logs = append(logs, rotation)
	}
	for _, file := range append(logs, logFile) {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func start() error {
	if on, err := atBoot(); err == nil && !on {
		return errors.New("macOS has it switched off (System Settings, General, Login Items); install switches it on")
	}
	fresh := !loaded()
	args := []string{"bootstrap", "system", place}
	if !fresh {
		args = []string{"kickstart", target}
	}
	if _, err := tell(launchctl, args...); err != nil {
		return err
	}
	if !until(10*time.Second, func() bool { up, _ := running(); return up || fresh && ended() }) {
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
	if err := forgetLogs(); err != nil {
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
	return append(c, logOf(exists)), nil
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// Log returns where a running program's log goes.
func Log() io.Writer { return &logWriter{path: logFile} }

// logWriter writes to standard error. Where launchd has made that the log file, and newsyslog has moved that away since, it
// makes a new one in its place: launchd itself never would.
type logWriter struct {
	path string
	ours bool // standard error has been that file
}

func (w *logWriter) Write(b []byte) (int, error) {
	w.follow()
	return os.Stderr.Write(b)
}

func (w *logWriter) follow() {
	is, err := os.Stderr.Stat()
	if err != nil || !is.Mode().IsRegular() {
		return
	}
	at, err := os.Lstat(w.path)
	switch {
	case err == nil && os.SameFile(is, at):
		w.ours = true
		return
	case !w.ours, err != nil && !errors.Is(err, fs.ErrNotExist):
		return
	}
	f, err := os.OpenFile(w.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return // the old one is better than none
	}
	defer f.Close()
	_ = unix.Dup2(int(f.Fd()), 2) // what the runtime says of a crash, too
}
