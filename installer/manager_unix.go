//go:build !windows

package installer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

func privileged() error {
	if os.Geteuid() != 0 {
		return notPermitted("changing this host's services needs root")
	}
	return nil
}

// onlyRootWrites tells whether neither the file nor a folder above it can be changed by anybody but root and its group.
func onlyRootWrites(path string) bool {
	for {
		i, err := os.Lstat(path)
		if err != nil {
			return false
		}
		owner, ok := i.Sys().(*syscall.Stat_t)
		if !ok || owner.Uid != 0 || i.Mode().Perm()&0o002 != 0 || i.Mode().Perm()&0o020 != 0 && owner.Gid != 0 {
			return false
		}
		up := filepath.Dir(path)
		if up == path {
			return true
		}
		path = up
	}
}

// removeProgram removes a copy, and its folder if that is ours and empty now.
func removeProgram(path string) (later string, err error) {
	if err := os.Remove(path); err != nil {
		return "", err
	}
	if dir := filepath.Dir(path); filepath.Base(dir) == serviceName {
		_ = os.Remove(dir)
	}
	return "", nil
}

// readFile reads a definition; nil where there is none. A link, as systemctl mask makes, is somebody else's.
func readFile(path string, mark [2]string) (*definition, error) {
	i, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !i.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", path, ErrForeign)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d, err := readText(string(b), mark)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

// tell runs a tool of the OS. Its error has what the tool said.
func tell(tool string, args ...string) (out string, err error) {
	b, err := exec.Command(tool, args...).CombinedOutput()
	out = strings.TrimSpace(string(b))
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", filepath.Base(tool), strings.Join(args, " "), err, out)
	}
	return out, err
}

// These are Windows' alone.
func arm()                {}
func signed(string) error { return nil }
func lingers(error) bool  { return false }
