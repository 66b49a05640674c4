// Command demo shows the main job: a container in a VM answers by name.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends us at once
	err := demo(ctx)
	if ctx.Err() != nil {
		fmt.Println("interrupted; everything was removed")
		os.Exit(130)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// fairleadPath is the fairlead that was built beside this program.
func fairleadPath() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), "fairlead"+filepath.Ext(self))
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w: run make build", err)
	}
	return path, nil
}

var begin = time.Now()

// say prints one plain line with the seconds since the start.
func say(format string, args ...any) {
	fmt.Printf("%5.1fs  %s\n", time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
}

// show prints a command and what it printed.
func show(command, output string) {
	say("$ %s", command)
	for line := range strings.Lines(strings.TrimSpace(output)) {
		fmt.Println("        " + strings.TrimRight(line, "\n"))
	}
}
