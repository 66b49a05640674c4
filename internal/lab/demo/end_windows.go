package main

import (
	"os/exec"
	"syscall"
)

// apart keeps Ctrl-C from a command that is to be started.
func apart(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// end has the agent take everything back. Windows has no signal to ask it to end, so then it is ended.
func end(agent *exec.Cmd, fairlead string) {
	exec.Command(fairlead, "teardown-network").Run()
	agent.Process.Kill()
}
