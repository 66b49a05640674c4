//go:build unix

package platform

import (
	"os"
	"os/user"
	"runtime"
	"strconv"
)

// callersHome is that of the user behind sudo: what sudo makes of HOME differs from host to host.
func callersHome() string {
	if uid := os.Getenv("SUDO_UID"); uid != "" && os.Geteuid() == 0 {
		if u, err := user.LookupId(uid); err == nil {
			return u.HomeDir
		}
	}
	dir, _ := os.UserHomeDir()
	return dir
}

// consoleHome is that of the user at a Mac's screen, whose /dev/console is (console_user in Apple's TN2083). Elsewhere a
// console has no one user.
func consoleHome() string {
	if runtime.GOOS != "darwin" {
		return ""
	}
	fi, err := os.Stat("/dev/console")
	if err != nil || ownerOf(fi) <= 0 { // root's while nobody is logged in
		return ""
	}
	u, err := user.LookupId(strconv.Itoa(ownerOf(fi)))
	if err != nil {
		return ""
	}
	return u.HomeDir
}
