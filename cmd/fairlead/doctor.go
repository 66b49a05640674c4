package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/agent/doctor"
	"github.com/fairlead-dev/fairlead/installer"
)

func doctorCmd(s *settings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check every link, and say what mends the broken ones",
		Long: `Check every link between this host's programs and the containers: service, engines, the way to each VM, each subnet by a real
packet, DNS server, the OS's resolver, routes, and what other tools left behind. It changes nothing, and works without a
running agent. It exits with 1 when any check failed; each of these ends in a command to paste.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, service, err := s.forDoctor()
			if err != nil {
				return err
			}
			r := doctor.Examine(doctor.Gather(c.Context(), cfg, service, version))
			if asJSON {
				err = printJSON(c.OutOrStdout(), r)
			} else {
				_, err = fmt.Fprintf(c.OutOrStdout(), "%v%s\n", r, r.Summary())
			}
			return judge(r, err)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return c
}

func trace(s *settings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "trace NAME",
		Short: "Follow one name or address link by link, to the first that is broken",
		Args:  exactly(1, "a name or an address: fairlead trace web.docker"),
		RunE: func(c *cobra.Command, args []string) error {
			cfg, service, err := s.forDoctor()
			if err != nil {
				return err
			}
			f, who := doctor.GatherFor(c.Context(), cfg, service, version, args[0])
			r := doctor.Follow(f, args[0], who)
			if asJSON {
				err = printJSON(c.OutOrStdout(), r)
			} else {
				_, err = fmt.Fprint(c.OutOrStdout(), r)
			}
			return judge(r, err)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return c
}

// forDoctor are the settings of the installed service, if there is one, below those that are given here, and what the service
// manager says.
func (s *settings) forDoctor() (agent.Config, doctor.Service, error) {
	was, err := installer.Look()
	service := doctor.Service{Installed: was.Installed, Running: was.Running, Manager: was.Manager, Err: err}
	if err == nil {
		if err := s.adopt(was.Args); err != nil {
			return agent.Config{}, service, err
		}
	}
	cfg, err := s.load()
	return cfg, service, err
}

func judge(r doctor.Report, err error) error {
	if err == nil && !r.OK {
		err = quiet(agent.ExitFailed)
	}
	return err
}
