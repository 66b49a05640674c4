package main

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/agent"
)

func ls(s *settings) *cobra.Command {
	var asJSON, hosts bool
	c := &cobra.Command{
		Use:   "ls",
		Short: "Every name, with addresses, networks, ports and engine",
		RunE: func(c *cobra.Command, _ []string) error {
			client, _, err := dial(c, s)
			if err != nil {
				return err
			}
			names, err := client.Names(c.Context())
			if err != nil {
				return err
			}
			if hosts {
				printHosts(c.OutOrStdout(), names)
				return nil
			}
			st, err := client.Status(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), struct {
					Schema    int               `json:"schema"`
					Names     []agent.Name      `json:"names"`
					Unreached []agent.Unreached `json:"unreached"`
				}{1, names, st.Unreached})
			}
			printNames(c.OutOrStdout(), names)
			printUnreached(c.OutOrStdout(), st.Unreached)
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	c.Flags().BoolVar(&hosts, "hosts", false, "print as a hosts file")
	return c
}

func printNames(w io.Writer, names []agent.Name) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tADDRESSES\tNETWORKS\tPORTS\tENGINE")
	for _, n := range names {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", n.Name, strings.Trim(fmt.Sprint(n.Addrs), "[]"), strings.Join(n.Networks, ","), strings.Join(n.Ports, ","), n.Engine)
	}
	tw.Flush()
}

// printUnreached says of the containers that have no names why.
func printUnreached(w io.Writer, list []agent.Unreached) {
	for _, u := range list {
		fmt.Fprintf(w, "no name  %s/%s on %s: %s\n", u.Engine, u.Container, strings.Join(u.Networks, ","), u.Why)
	}
}

// printHosts writes hosts(5): an address, then all its names.
func printHosts(w io.Writer, names []agent.Name) {
	byAddr := map[netip.Addr][]string{}
	var order []netip.Addr
	for _, n := range names {
		for _, a := range n.Addrs {
			if byAddr[a] == nil {
				order = append(order, a)
			}
			byAddr[a] = append(byAddr[a], n.Name)
		}
	}
	slices.SortFunc(order, netip.Addr.Compare)
	for _, a := range order {
		fmt.Fprintf(w, "%v\t%s\n", a, strings.Join(byAddr[a], " "))
	}
}
