// Command fairlead lets this host reach containers by name and address.
//
// Each verb is one file; this one has the flags that all share, and the way errors leave.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/installer"
	"github.com/fairlead-dev/fairlead/platform"
)

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version = "dev"

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	root := command()
	root.SetArgs(args)
	return installer.Exit(report(root.ErrOrStderr(), root.ExecuteContext(context.Background())))
}

// report prints an error as the contract wants it, a line and a hint, and returns the exit code.
func report(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	var silent quiet
	if errors.As(err, &silent) {
		return int(silent)
	}
	p := agent.Explain(err)
	fmt.Fprintf(w, "fairlead: %v\n", p)
	if p.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", strings.ReplaceAll(p.Hint, "\n", " ")) // it may repeat what was typed
	}
	return p.Code
}

// quiet is an exit code whose reason has been printed already.
type quiet int

func (q quiet) Error() string { return fmt.Sprintf("exit code %d", int(q)) }

func command() *cobra.Command {
	s := &settings{}
	root := &cobra.Command{
		Use:   "fairlead",
		Short: "Reach containers by name and address, whatever VM their engine runs in",
		Long: `fairlead routes this host's packets to containers and answers their names, for every Docker engine you have.

  ` + platform.Sudo + `fairlead setup-network     routes to all containers now, once
  ` + platform.Sudo + `fairlead run               routes and names, kept up to date, until Ctrl-C
  ping web.docker                 the proof`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		if bad, ok := errors.AsType[*pflag.InvalidValueError](err); ok { // its own words are those of a Go package
			err = fmt.Errorf("--%s does not take %q", bad.GetFlag().Name, bad.GetValue())
		}
		return &agent.Problem{Code: agent.ExitUsage, Err: err, Hint: c.CommandPath() + " --help"}
	})
	root.Version = version
	root.SetVersionTemplate(versionLine())
	s.register(root)
	root.AddCommand(
		setupNetwork(s), teardownNetwork(s), runAgent(s), status(s), ls(s), query(s), config(s), versionCmd(s),
		install(s), uninstall(s), logs(),
		serviceVerb(s, "start", "Start the service", "runs already", "now runs", true, installer.Start),
		serviceVerb(s, "stop", "Stop the service until the next start or boot", "does not run anyway", "no longer runs", false, installer.Stop),
		serviceVerb(s, "restart", "Stop and start the service; what it made stays meanwhile", "", "was restarted, and runs", true, installer.Restart),
		trace(s), doctorCmd(s),
	)
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	root.SuggestionsMinimumDistance = 2
	for verb, words := range map[string][]string{"setup-network": {"up", "add", "route"}, "teardown-network": {"down", "del", "delete"}, "ls": {"list", "names", "ps"}, "query": {"dig", "lookup", "resolve"}, "doctor": {"check", "diagnose"}} {
		if c, _, err := root.Find([]string{verb}); err == nil {
			c.SuggestFor = words
		}
	}
	strict(root)
	return root
}

// strict makes c and the commands below it refuse words that they do not know. A command that does nothing by itself prints
// its help.
func strict(c *cobra.Command) {
	switch {
	case c.Name() == "help":
		c.Args = helpTopic
	case c.HasSubCommands():
		c.Args, c.RunE = noArgs, func(c *cobra.Command, _ []string) error { return c.Help() }
	case c.Args == nil || c.Parent().Name() == "completion":
		c.Args = noArgs
	}
	for _, sub := range c.Commands() {
		strict(sub)
	}
}

// helpTopic refuses to help with a command that there is not.
func helpTopic(c *cobra.Command, args []string) error {
	known, rest, err := c.Root().Find(args)
	if err == nil && len(rest) == 0 {
		return nil
	}
	return &agent.Problem{Code: agent.ExitUsage, Err: fmt.Errorf("unknown command %q", strings.Join(args, " ")), Hint: known.CommandPath() + " --help"}
}

// noArgs refuses arguments: an unknown verb where verbs can follow, a superfluous word elsewhere.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	p := &agent.Problem{Code: agent.ExitUsage, Err: fmt.Errorf("unexpected argument %q", args[0]), Hint: c.CommandPath() + " --help"}
	if c.HasSubCommands() {
		p.Err = fmt.Errorf("unknown command %q", args[0])
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			p.Hint = "did you mean: " + c.CommandPath() + " " + strings.Join(near, ", or "+c.CommandPath()+" ")
		}
	}
	return p
}

func exactly(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return &agent.Problem{Code: agent.ExitUsage, Err: fmt.Errorf("%s needs %s", c.Name(), what), Hint: c.CommandPath() + " --help"}
		}
		return nil
	}
}

// settings are the flags that every verb shares.
type settings struct{ flags map[string]*setting }

// setting is one flag; it is a pflag.Value.
type setting struct {
	agent.Key
	values []string
}

func (f *setting) String() string { return "" }
func (f *setting) Type() string   { return f.Arg }
func (f *setting) Set(v string) error {
	if !f.Multi {
		f.values = nil
	}
	f.values = append(f.values, v)
	return nil
}

func (s *settings) register(root *cobra.Command) {
	s.flags = map[string]*setting{}
	f := root.PersistentFlags()
	f.Var(&setting{Key: agent.Key{Arg: "FILE"}}, "config", "the config file (default "+platform.DefaultConfig+")")
	s.flags["config"] = f.Lookup("config").Value.(*setting)
	for _, k := range agent.Keys {
		help := k.Help
		if k.Default != "" {
			help += " (default " + k.Default + ")"
		}
		s.flags[k.Name] = &setting{Key: k}
		f.Var(s.flags[k.Name], k.Name, help)
	}
}

// load merges flags, variables, the config file and defaults, in this order.
func (s *settings) load() (agent.Config, error) {
	flags := func(k agent.Key) ([]string, bool) {
		v := s.flags[k.Name].values
		return v, v != nil
	}
	file, err := agent.FromFile(s.configFile())
	if err != nil {
		return agent.Config{}, err
	}
	return agent.Load(os.LookupEnv, flags, agent.FromEnv(os.LookupEnv), file)
}

// configFile is where the config file lies, and whether it was asked for.
func (s *settings) configFile() (path string, asked bool) {
	if v := s.flags["config"].values; v != nil {
		return v[0], true
	}
	if v := os.Getenv("FAIRLEAD_CONFIG"); v != "" {
		return v, true
	}
	return platform.DefaultConfig, false
}

// said leaves out what there is none of: no error, no address.
func said(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any(); {
	case a.Key == slog.LevelKey: // the zero one is INFO
	case v == nil, v == "", a.Value.Kind() == slog.KindAny && reflect.ValueOf(v).IsZero():
		return slog.Attr{}
	}
	return a
}

// logger writes to w as the settings say, but nothing below least.
func logger(w io.Writer, c agent.Config, least slog.Level) *slog.Logger {
	o := &slog.HandlerOptions{Level: max(c.LogLevel, least), ReplaceAttr: said}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func dial(c *cobra.Command, s *settings) (*agent.Client, agent.Config, error) {
	cfg, err := s.load()
	if err != nil {
		return nil, cfg, err
	}
	client, err := agent.Dial(c.Context(), cfg.Control)
	if errors.Is(err, agent.ErrNotRunning) {
		err = &agent.Problem{Code: agent.ExitFailed, Err: err, Hint: "start it with: " + platform.Sudo + "fairlead install, or " + platform.Sudo + "fairlead run"}
	}
	return client, cfg, err
}
