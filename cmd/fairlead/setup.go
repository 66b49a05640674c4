package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/installer"
)

func setupNetwork(s *settings) *cobra.Command {
	var dryRun, asJSON, replace bool
	c := &cobra.Command{
		Use:   "setup-network",
		Short: "Make routes to all containers now, prove them, and exit",
		Long: `Make routes to all containers now, open the VM's forwarding for this host, prove both by a real packet, and exit.

Routes and forwarding stay until teardown-network or the next start of this host. With the agent running it is asked to look
at everything again.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := s.load()
			if err != nil {
				return err
			}
			var st agent.Status
			replacing(&cfg, replace)
			client, err := agent.Dial(c.Context(), cfg.Control)
			switch {
			case err == nil && replace:
				return &agent.Problem{Code: agent.ExitFailed, Err: errors.New("the running agent replaces what others left only when it starts"), Hint: "sudo fairlead install --replace"}
			case err == nil && !dryRun:
				st, err = client.Reconcile(c.Context())
			case err == nil:
				st, err = client.Status(c.Context())
			}
			if errors.Is(err, agent.ErrNotRunning) { // or it was just ending
				err = installer.Run(func(ctx context.Context) (err error) {
					st, err = agent.Setup(ctx, cfg, logger(c.ErrOrStderr(), cfg, slog.LevelWarn+1), version, dryRun)
					return err
				})
			}
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(c.OutOrStdout(), st)
			} else {
				printSubnets(c.OutOrStdout(), st, dryRun)
			}
			if err == nil && !dryRun && !st.Clean() {
				err = quiet(agent.ExitPartly)
			}
			return err
		},
	}
	replaceFlag(c, &replace)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be done, change nothing")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return c
}

func teardownNetwork(s *settings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "teardown-network",
		Short: "Undo everything that fairlead ever did on this host",
		Long: `Undo everything that fairlead ever did on this host: resolver entries, routes, and what it opened in VMs. It needs no
running agent. A running one takes everything back and pauses until the next setup-network.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := s.load()
			if err != nil {
				return err
			}
			u, err := takeBack(c.Context(), cfg, c.ErrOrStderr())
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(c.OutOrStdout(), u)
			} else {
				printUndone(c.OutOrStdout(), u)
			}
			if err == nil && len(u.Left) > 0 {
				err = quiet(agent.ExitPartly)
			}
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return c
}

// printSubnets is what setup-network and status say about routes: a line per subnet, then why some are not reachable.
func printSubnets(w io.Writer, st agent.Status, dryRun bool) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, n := range st.Subnets {
		how := n.Route.String()
		if !n.Route.Dst.IsValid() {
			how = n.Prefix.String()
		}
		note := n.Why
		if n.State == agent.Wanted { // else st.Replaced has them
			for _, r := range n.Replaces {
				note = strings.TrimPrefix(fmt.Sprintf("%s; in place of %v, made by hand", note, r), "; ")
			}
		}
		if proof := n.Verified.String(); proof != "" {
			note = strings.TrimPrefix(note+"; "+proof, "; ")
		}
		fmt.Fprintf(tw, "%s\t%s\t%s/%s\t%s\n", stateWord(n, dryRun), how, n.Engine, n.Network, note)
	}
	tw.Flush()
	if len(st.Subnets) == 0 {
		fmt.Fprintln(w, "no container networks found")
	}
	for _, what := range st.Replaced {
		fmt.Fprintf(w, "replaced %s: it is back after teardown-network or uninstall\n", what)
	}
	seen := map[string]bool{}
	hint := func(h string) {
		if h != "" && !seen[h] {
			seen[h] = true
			fmt.Fprintf(w, "hint: %s\n", h)
		}
	}
	for _, e := range st.Engines {
		switch {
		case e.Error == "":
		case e.Off:
			fmt.Fprintf(w, "engine %s does not answer (%s)\n", e.Name, e.Found)
		default:
			fmt.Fprintf(w, "engine %s: %s\n", e.Name, e.Error)
			hint(e.Hint)
		}
		if !dryRun && e.Pilot != nil && !e.Pilot.Open {
			why := e.Pilot.Error
			if why == "" {
				why = "not open yet"
			}
			fmt.Fprintf(w, "engine %s: the VM's forwarding is closed: %s\n", e.Name, why)
			hint(e.Pilot.Hint)
		}
	}
	for _, n := range st.Subnets {
		hint(n.Hint)
		if n.Verified.Result == agent.Silent {
			hint("no packet comes back from there; fairlead doctor looks for the broken link")
		}
	}
	for _, s := range st.Skipped {
		fmt.Fprintf(w, "skipped %s: %s: %s\n", s.Provider, s.Path, s.Why)
		hint(s.Hint)
	}
	for _, p := range st.Problems {
		fmt.Fprintln(w, "problem:", p)
	}
}

func stateWord(n agent.Subnet, dryRun bool) string {
	switch {
	case dryRun && n.State == agent.Wanted:
		return "would add"
	case n.Verified.Result == agent.Silent:
		return "silent"
	}
	return string(n.State)
}

func printUndone(w io.Writer, u agent.Undone) {
	for _, d := range u.Done {
		fmt.Fprintln(w, "removed", d)
	}
	for _, f := range u.Back {
		fmt.Fprintln(w, "restored", f)
	}
	for _, l := range u.Left {
		fmt.Fprintf(w, "left    %s: %s\n", l.What, strings.TrimSpace(l.Why))
		if l.Hint != "" {
			fmt.Fprintln(w, "hint:", l.Hint)
		}
	}
	if len(u.Done)+len(u.Back)+len(u.Left) == 0 {
		fmt.Fprintln(w, "nothing to undo")
	}
}
