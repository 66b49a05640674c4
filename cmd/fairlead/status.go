package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/agent/doctor"
	"github.com/fairlead-dev/fairlead/platform"
)

func status(s *settings) *cobra.Command {
	var asJSON, watch bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Engines, subnets, routes, resolver, DNS; what was refused and why",
		RunE: func(c *cobra.Command, _ []string) error {
			client, _, err := dial(c, s)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt)
			defer stop()
			for last := []byte(nil); ; {
				st, err := client.Status(ctx)
				if err != nil && ctx.Err() == nil {
					return err
				}
				var b bytes.Buffer
				if asJSON {
					err = printJSON(&b, st)
				} else {
					printStatus(&b, st)
				}
				if ctx.Err() != nil {
					return nil
				}
				if err != nil {
					return err
				}
				if !bytes.Equal(b.Bytes(), last) {
					if watch && !asJSON && last != nil {
						fmt.Fprintln(c.OutOrStdout())
					}
					last = b.Bytes()
					if _, err := c.OutOrStdout().Write(last); err != nil {
						return err
					}
				}
				if !watch {
					return nil
				}
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(time.Second):
				}
			}
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	c.Flags().BoolVar(&watch, "watch", false, "print again whenever something changed")
	return c
}

func printStatus(w io.Writer, st agent.Status) {
	if st.Paused {
		fmt.Fprintln(w, "paused by teardown-network; go on with: "+platform.Sudo+"fairlead setup-network")
	}
	for _, e := range st.Engines {
		state := "up"
		switch {
		case e.Stale:
			state = "lost (last known picture)"
		case e.Off:
			state = "does not run"
		case !e.Up:
			state = "down"
		}
		fmt.Fprintf(w, "engine   %s: %s, %s", e.Name, state, e.URL)
		if e.Info.Version != "" {
			fmt.Fprintf(w, ", Docker %s (API %s), %s, %s", e.Info.Version, e.Info.API, doctor.Count(e.Networks, "network"), doctor.Count(e.Containers, "container"))
		}
		fmt.Fprintln(w)
		if e.Found != "" {
			fmt.Fprintf(w, "found    %s: %s\n", e.Name, e.Found)
		}
		for _, url := range e.Also {
			fmt.Fprintf(w, "found    %s: %s leads there, too\n", e.Name, url)
		}
		switch e.Reach.Kind {
		case "":
		case platform.Gateway:
			fmt.Fprintf(w, "reach    %s: gateway %v on %s, as %v (%s)\n", e.Name, e.Reach.Via, e.Reach.Dev, e.Reach.Source, e.Reach.Why)
			printOther(w, e)
		case platform.Tunnel:
			fmt.Fprintf(w, "reach    %s: tunnel (%s)\n", e.Name, e.Reach.Why)
			if e.Tunnel != nil {
				fmt.Fprintf(w, "tunnel   %s: %s\n", e.Name, trafficLine(e))
			}
		default:
			fmt.Fprintf(w, "reach    %s: %s (%s)\n", e.Name, e.Reach.Kind, e.Reach.Why)
		}
		if e.Pilot != nil && e.Pilot.Open {
			fmt.Fprintf(w, "pilot    %s: the VM lets this host through (%s)\n", e.Name, e.Pilot.Backend)
		}
	}
	printSubnets(w, st, false)
	fmt.Fprintf(w, "dns      %v, %s\n", st.DNS.Listen, doctor.Count(st.DNS.Names, "name"))
	for _, p := range st.DNS.NoReverse {
		fmt.Fprintf(w, "dns      %v has no names for its addresses: too many reverse domains\n", p)
	}
	fmt.Fprintf(w, "resolver %s: %s\n", st.Resolver.Method, st.Resolver.Why)
	for _, i := range st.Resolver.Entries {
		fmt.Fprintln(w, "entry   ", i)
	}
	if st.Resolver.Problem != "" {
		fmt.Fprintln(w, "problem: resolver:", st.Resolver.Problem)
	}
	for _, b := range st.Resolver.Blocked {
		fmt.Fprintf(w, "blocked  %v: %s\n", b.Item, b.Why)
	}
	const most = 10
	printUnreached(w, st.Unreached[:min(most, len(st.Unreached))])
	if n := len(st.Unreached) - most; n > 0 {
		fmt.Fprintf(w, "no name  and %d more containers; see: fairlead ls\n", n)
	}
	for _, l := range st.Losers {
		fmt.Fprintf(w, "name     %s is not %v's: %s\n", l.Name, l.Containers, l.Why)
	}
}

// printOther says how the IP version that a gateway's address is not of gets to its engine, where it has networks of that.
func printOther(w io.Writer, e agent.EngineStatus) {
	version, o := "IPv6", e.Reach.Other
	if e.Reach.Via.Is6() {
		version = "IPv4"
	}
	switch {
	case o.Kind == "":
	case o.Kind == platform.Gateway && o.Via.IsValid():
		fmt.Fprintf(w, "reach    %s: %s by gateway %v on %s, as %v (%s)\n", e.Name, version, o.Via, o.Dev, o.Source, o.Why)
	case o.Kind == platform.Tunnel:
		fmt.Fprintf(w, "reach    %s: %s by tunnel (%s)\n", e.Name, version, o.Why)
		if e.Tunnel != nil {
			fmt.Fprintf(w, "tunnel   %s: %s\n", e.Name, trafficLine(e))
		}
	default:
		fmt.Fprintf(w, "reach    %s: no way for %s (%s)\n", e.Name, version, o.Why)
	}
}

// trafficLine says what went through an engine's tunnel.
func trafficLine(e agent.EngineStatus) string {
	st := e.Tunnel.Stats
	return fmt.Sprintf("%s, sent %d packets (%d bytes, %d dropped), received %d (%d bytes, %d dropped)", e.Tunnel.Dev,
		st.Sent.Packets, st.Sent.Bytes, st.Sent.Drops, st.Received.Packets, st.Received.Bytes, st.Received.Drops)
}
