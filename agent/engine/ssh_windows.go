package engine

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

// asOwner has cmd run in the session of the home's owner, with that user's rights and surroundings. Only the system, as which
// the service runs, may do so; others run what is their own. Call started when it was.
func asOwner(cmd *exec.Cmd, home string) (started func(), err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{HideWindow: true}
	if home == "" {
		return func() {}, nil
	}
	token, err := loggedOn(home)
	if err != nil {
		if own, lost := os.UserHomeDir(); lost == nil && strings.EqualFold(own, home) {
			return func() {}, nil
		}
		return nil, err
	}
	if cmd.Env, err = token.Environ(false); err != nil {
		token.Close()
		return nil, err
	}
	cmd.SysProcAttr.Token, cmd.Dir = syscall.Token(token), home
	return func() { token.Close() }, nil
}

// loggedOn is the token of who is logged on, at the screen or from afar, and has this home.
func loggedOn(home string) (windows.Token, error) {
	sessions := []uint32{windows.WTSGetActiveConsoleSessionId()}
	var first *windows.WTS_SESSION_INFO
	var n uint32
	if err := windows.WTSEnumerateSessions(0, 0, 1, &first, &n); err == nil {
		for _, s := range unsafe.Slice(first, n) {
			sessions = append(sessions, s.SessionID)
		}
		windows.WTSFreeMemory(uintptr(unsafe.Pointer(first)))
	}
	for _, session := range sessions {
		var token windows.Token
		if err := windows.WTSQueryUserToken(session, &token); err != nil {
			continue
		}
		if dir, err := token.GetUserProfileDirectory(); err == nil && strings.EqualFold(dir, home) {
			return token, nil
		}
		token.Close()
	}
	return 0, errors.New("ssh and wsl run as their user only, and the user of " + home + " is not logged on at this host")
}
