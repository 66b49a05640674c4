//go:build !linux && !darwin && !windows

package installer

import (
	"io"
	"os"
)

const managerName, place, programPlace = "", "", ""

func installed() (*definition, error)        { return nil, ErrNoManager }
func running() (bool, error)                 { return false, ErrNoManager }
func atBoot() (bool, error)                  { return false, ErrNoManager }
func write(definition, bool) error           { return ErrNoManager }
func remove() error                          { return ErrNoManager }
func start() error                           { return ErrNoManager }
func stop() error                            { return ErrNoManager }
func LogCommand(int, bool) ([]string, error) { return nil, ErrNoManager }

// Log returns where a running program's log goes.
func Log() io.Writer { return os.Stderr }
