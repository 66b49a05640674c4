package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/dnsserver"
)

func query(s *settings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "query NAME [TYPE]",
		Short: "What our server answers, without the OS in between",
		Long:  "What our server answers, without the OS in between. Without a TYPE a name is asked for A, an address for the PTR of its reverse name.",
		Args:  cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return exactly(1, "a name, and perhaps a type: fairlead query web.docker AAAA")(c, nil)
			}
			name, qtype := args[0], "A"
			if addr, err := netip.ParseAddr(name); err == nil { // as dig -x
				name, qtype = dnsserver.ReverseName(addr.WithZone("")), "PTR"
			}
			if len(args) == 2 {
				qtype = strings.ToUpper(args[1])
			}
			if err := dnsserver.CheckQuestion(name, qtype); err != nil {
				return err
			}
			client, _, err := dial(c, s)
			if err != nil {
				return err
			}
			st, err := client.Status(c.Context())
			if err != nil {
				return err
			}
			r, err := dnsserver.Query(c.Context(), st.DNS.Listen, name, qtype)
			if err != nil {
				return &agent.Problem{Code: agent.ExitFailed, Err: err, Hint: "fairlead status shows where the server listens"}
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), struct {
					Schema int `json:"schema"`
					dnsserver.Reply
				}{1, r})
			}
			for _, a := range r.Answers {
				fmt.Fprintln(c.OutOrStdout(), a)
			}
			if len(r.Answers) > 0 {
				return nil
			}
			fmt.Fprintf(c.OutOrStdout(), "%s, no answer\n", r.Rcode)
			for _, a := range r.Authority {
				fmt.Fprintln(c.OutOrStdout(), a)
			}
			if name != args[0] {
				fmt.Fprintf(c.ErrOrStderr(), "hint: whose an address is: fairlead trace %s\n", args[0])
			} else if r.Rcode == "REFUSED" {
				fmt.Fprintf(c.ErrOrStderr(), "hint: it is in none of the served domains: %s\n", strings.Join(st.Resolver.Domains, ", "))
			}
			return quiet(agent.ExitFailed)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return c
}
