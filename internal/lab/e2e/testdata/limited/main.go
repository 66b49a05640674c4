//go:build windows

// Limited runs a program as a prompt does that nobody has elevated: with the limited token of an administrator. The lab tells every
// program that it is elevated, by its bcryptprimitives.dll; another one has that place meanwhile. Usage: limited DLL PROGRAM ARG...
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/windows"
)

const (
	place = `C:\windows\system32\bcryptprimitives.dll`
	kept  = place + ".kept"
)

func main() {
	code, err := run(os.Args[1], os.Args[2], os.Args[3:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "limited:", err)
		code = 99
	}
	os.Exit(code)
}

func run(dll, program string, args []string) (code int, err error) {
	linked, err := windows.GetCurrentProcessToken().GetLinkedToken()
	if err != nil {
		return 0, fmt.Errorf("linked token: %w", err)
	}
	var token windows.Token
	if err := windows.DuplicateTokenEx(linked, windows.MAXIMUM_ALLOWED, nil, windows.SecurityAnonymous, windows.TokenPrimary, &token); err != nil {
		return 0, fmt.Errorf("DuplicateTokenEx: %w", err)
	}
	b, err := os.ReadFile(dll)
	if err == nil {
		err = os.Rename(place, kept)
	}
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.Remove(place), os.Rename(kept, place)) }()
	if err := os.WriteFile(place, b, 0o755); err != nil {
		return 0, err
	}
	cmd := exec.Command(program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Token: syscall.Token(token)}
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}
