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
	var asJSON, hosts, all bool
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
			printNames(c.OutOrStdout(), names, all)
			printUnreached(c.OutOrStdout(), st.Unreached)
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	c.Flags().BoolVar(&all, "all", false, "print the names too that containers have by id, engine, network and image")
	c.Flags().BoolVar(&hosts, "hosts", false, "print as a hosts file")
	return c
}

// printNames prints a line for each name and, behind it, the others that answer the same. Names that containers have by rule alone, for
// their id, engine, network or image, are left out where there is another, unless all are asked for.
func printNames(w io.Writer, names []agent.Name, all bool) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tADDRESSES\tNETWORKS\tPORTS\tENGINE\tALSO")
	hidden := 0
	for len(names) > 0 {
		first := names[0]
		same := slices.IndexFunc(names, func(n agent.Name) bool {
			return n.Engine != first.Engine || !slices.Equal(n.Containers, first.Containers)
		})
		if same < 0 {
			same = len(names)
		}
		of := names[:same]
		names = names[same:]
		for len(of) > 0 {
			first, also := of[0], []string{}
			of = slices.DeleteFunc(slices.Clone(of[1:]), func(n agent.Name) bool {
				switch {
				case !slices.Equal(n.Addrs, first.Addrs):
					return false
				case all || !slices.Contains([]string{"id", "engine", "network", "image"}, n.Rule):
					also = append(also, n.Name)
				default:
					hidden++
				}
				return true
			})
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", first.Name, strings.Trim(fmt.Sprint(first.Addrs), "[]"),
				strings.Join(first.Networks, ","), strings.Join(first.Ports, ","), first.Engine, strings.Join(also, " "))
		}
	}
	tw.Flush()
	if hidden > 0 {
		fmt.Fprintf(w, "and %d more by id, engine, network and image: fairlead ls --all\n", hidden)
	}
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
		if strings.HasPrefix(n.Name, "*.") {
			continue // which a hosts file cannot say
		}
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
