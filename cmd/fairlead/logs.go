package main

import (
	"errors"
	"fmt"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/installer"
)

func logs() *cobra.Command {
	var follow bool
	var lines int
	c := &cobra.Command{
		Use:   "logs",
		Short: "Show the service's log, by this OS's own tool",
		RunE: func(c *cobra.Command, _ []string) error {
			if lines < 0 {
				return &agent.Problem{Code: agent.ExitUsage, Err: fmt.Errorf("%d lines cannot be shown", lines), Hint: "fairlead logs -n 100"}
			}
			if _, err := installer.Look(); errors.Is(err, installer.ErrNoManager) {
				return &agent.Problem{Code: agent.ExitFailed, Err: err, Hint: "fairlead run prints its log on standard error"}
			}
			args, err := installer.LogCommand(lines, follow)
			if err != nil {
				return &agent.Problem{Code: agent.ExitFailed, Err: err, Hint: "fairlead logs, without --follow"}
			}
			show := exec.CommandContext(c.Context(), args[0], args[1:]...)
			show.Stdin, show.Stdout, show.Stderr = c.InOrStdin(), c.OutOrStdout(), c.ErrOrStderr()
			if err := show.Run(); err != nil {
				var exit *exec.ExitError
				if errors.As(err, &exit) { // the tool has said why
					return quiet(agent.ExitFailed)
				}
				return &agent.Problem{Code: agent.ExitFailed, Err: fmt.Errorf("showing the log: %w", err), Hint: "fairlead run prints its log on standard error"}
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is logged from now on, until Ctrl-C")
	c.Flags().IntVarP(&lines, "lines", "n", 100, "how many of the last lines")
	return c
}
