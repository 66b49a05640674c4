//go:build unix && !linux

package main

import (
	"os"
	"os/exec"
	"syscall"
)

// apart keeps signals of the terminal from a command that is to be started.
func apart(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// end asks the agent to take everything back and to end.
func end(agent *exec.Cmd, _ string) { agent.Process.Signal(os.Interrupt) }
