package main

import (
	"fmt"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/agent"
)

func config(s *settings) *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Check or show the settings, or print a config file to start from",
	}
	c.AddCommand(
		&cobra.Command{Use: "check", Short: "Check the settings, change nothing", RunE: func(c *cobra.Command, _ []string) error {
			if _, err := s.load(); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "the settings are good")
			return nil
		}},
		&cobra.Command{Use: "show", Short: "Show the settings in force, as a config file", RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := s.load()
			if err != nil {
				return err
			}
			return toml.NewEncoder(c.OutOrStdout()).Encode(cfg.Settings())
		}},
		&cobra.Command{Use: "init", Short: "Print a config file with every key, commented out", RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(c.OutOrStdout(), agent.Sample())
			return err
		}},
	)
	return c
}
