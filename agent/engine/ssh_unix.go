//go:build unix

package engine

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// asOwner has cmd run with the rights and the surroundings of the home's owner, where this process is root and the home
// is not root's. Call started when it was.
func asOwner(cmd *exec.Cmd, home string) (started func(), err error) {
	started = func() {}
	if home == "" || os.Geteuid() != 0 {
		return started, nil
	}
	fi, err := os.Stat(home)
	if err != nil {
		return nil, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || st.Uid == 0 {
		return started, nil
	}
	u, err := user.LookupId(strconv.Itoa(int(st.Uid)))
	if err != nil {
		return nil, fmt.Errorf("the owner of %s: %w", home, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("the owner of %s: %w", home, err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: st.Uid, Gid: uint32(gid)}}
	cmd.Dir = home
	cmd.Env = []string{"HOME=" + home, "USER=" + u.Username, "LOGNAME=" + u.Username, "PATH=/usr/local/bin:/usr/bin:/bin"}
	if agent := os.Getenv("SSH_AUTH_SOCK"); agent != "" {
		cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+agent)
	}
	return started, nil
}
