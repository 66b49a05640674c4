package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/installer"
)

func runAgent(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run the agent in the foreground: routes and names, kept up to date",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := s.load()
			if err != nil {
				return err
			}
			log := logger(installer.Log(), cfg, cfg.LogLevel)
			return installer.Run(func(ctx context.Context) error {
				return agent.Run(ctx, cfg, log, version, func() {
					log.Info("ready", "version", version, "control", cfg.Control)
					installer.Ready()
				})
			})
		},
	}
}
