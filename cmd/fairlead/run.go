package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/agent/doctor"
	"github.com/fairlead-dev/fairlead/installer"
)

func runAgent(s *settings) *cobra.Command {
	var replace bool
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the agent in the foreground: routes and names, kept up to date",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := s.load()
			if err != nil {
				return err
			}
			replacing(&cfg, replace)
			// As in `fairlead run 2>&1 | tee log`: whoever reads the log may be gone before everything is taken back.
			signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
			log := logger(installer.Log(), cfg, cfg.LogLevel)
			return installer.Run(func(ctx context.Context) error {
				return agent.Run(ctx, cfg, log, version, func() {
					log.Info("ready", "version", version, "control", cfg.Control)
					installer.Ready()
				})
			})
		},
	}
	replaceFlag(c, &replace)
	return c
}

// replaceFlag lets the user say that what other tools left may be moved aside.
func replaceFlag(c *cobra.Command, replace *bool) {
	c.Flags().BoolVar(replace, "replace", false, "move aside what other tools and hands have left in the way (files, routes to an engine's own VM) until teardown-network or uninstall; fairlead doctor lists it")
}

func replacing(cfg *agent.Config, replace bool) {
	if replace {
		cfg.Replace, cfg.ReplaceRoutes = doctor.Movable(*cfg), true
	}
}
