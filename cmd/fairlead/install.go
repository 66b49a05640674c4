package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/agent/doctor"
	"github.com/fairlead-dev/fairlead/installer"
	"github.com/fairlead-dev/fairlead/platform"
)

const lookTimeout = 5 * time.Second // for the service's first look at its engines

func install(s *settings) *cobra.Command {
	var replace bool
	c := &cobra.Command{
		Use:   "install",
		Short: "Make fairlead a service of this host, and start it",
		Long: `Make fairlead a service of this host, started now and at each boot. Done again with other flags, or by another version, it
upgrades the service in place.

The service runs with the flags given here. It reads the config file too, but knows nothing of your shell: what FAIRLEAD_*
and docker's variables say now is kept as flags, as is whose docker contexts and VMs it is to look for: yours. Mind that sudo may hide them: sudo -E fairlead install.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := s.load()
			if err != nil {
				return err
			}
			if _, err := agent.Dial(c.Context(), cfg.Control); err == nil {
				if was, err := installer.Look(); err == nil && !was.Running {
					return &agent.Problem{Code: agent.ExitFailed, Err: errors.New("an agent runs already, and not as this service"),
						Hint: "end it first: Ctrl-C where fairlead run was typed, or " + platform.Sudo + "brew services stop fairlead"}
				}
			}
			o := installer.Options{Args: []string{"run"}, Writable: writable(cfg)}
			flags, from, err := s.forService(cfg)
			if err != nil {
				return err
			}
			o.Args = append(o.Args, flags...)
			if replace {
				o.Args = append(o.Args, "--replace")
			}
			handed := func() {}
			o.Stopping = func(was []string) {
				if slices.Equal(was, o.Args) { // else the new one may look for things elsewhere
					handed = s.handOver(c, was)
				}
			}
			r, err := installer.Install(o)
			w := c.OutOrStdout()
			printDone(w, r)
			if err != nil {
				handed()
				return explainService(err)
			}
			if err := s.answers(c.Context(), r.State); err != nil {
				handed()
				return err
			}
			now := "now"
			if len(r.Done) == 0 {
				now = "already"
			}
			fmt.Fprintf(w, "the service is %s installed (%s), and it runs\n", now, r.Manager)
			if len(from) > 0 {
				fmt.Fprintf(w, "note: a service does not see your shell's variables; kept as flags: %s\n", strings.Join(from, ", "))
			}
			if !replace {
				s.noteLeft(c.Context(), w, cfg, r.State)
			}
			return nil
		},
	}
	replaceFlag(c, &replace)
	return c
}

// noteLeft says what other tools and hands have left. Of routes only the agent knows which are for containers.
func (s *settings) noteLeft(ctx context.Context, w io.Writer, cfg agent.Config, is installer.State) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var st agent.Status
	if s.adopt(is.Args) == nil {
		if its, err := s.load(); err == nil {
			if client, err := agent.Dial(ctx, its.Control); err == nil {
				st, _ = client.Reconcile(ctx)
			}
		}
	}
	left := doctor.Left(cfg, st)
	if len(left) == 0 {
		return
	}
	fmt.Fprintln(w, "note: left by other tools or made by hand, and perhaps in the way:")
	for _, l := range left {
		fmt.Fprintf(w, "  %s: %s\n", l.What, l.Why)
	}
	fmt.Fprintf(w, "hint: %sfairlead install --replace moves aside what can be moved back by uninstall; fairlead doctor has a command for each\n", platform.Sudo)
}

// answers waits for the service's agent where the service manager does not: launchd is content with a process.
func (s *settings) answers(ctx context.Context, is installer.State) error {
	if is.Manager != "launchd" {
		return nil
	}
	if err := s.adopt(is.Args); err != nil {
		return err
	}
	cfg, err := s.load()
	if err != nil {
		return err
	}
	const patience = 20 * time.Second
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		_, err := agent.Dial(ctx, cfg.Control)
		if err == nil {
			return nil
		}
		if now, look := installer.Look(); look == nil && !now.Running {
			return explainService(errors.New("the service was started, and has ended"))
		}
		if time.Now().After(deadline) {
			return explainService(fmt.Errorf("the service runs, but has not answered for %v: %w", patience, err))
		}
	}
}

func uninstall(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "uninstall",
		Short: "Remove the service and everything it made",
		Long: `Stop the service, undo everything that fairlead ever did on this host, as teardown-network does, and remove what install
made. Config files are yours and stay.`,
		RunE: func(c *cobra.Command, _ []string) error {
			was, err := installer.Look()
			if err != nil {
				return explainService(err)
			}
			// What the service made lies where its flags say.
			if err := s.adopt(was.Args); err != nil {
				return err
			}
			cfg, err := s.load()
			if err != nil {
				return err
			}
			if was.Running {
				if err := installer.Stop(); err != nil {
					return explainService(err)
				}
			}
			u, err := takeBack(c.Context(), cfg, c.ErrOrStderr())
			if err != nil {
				return err
			}
			w := c.OutOrStdout()
			if len(u.Done)+len(u.Back)+len(u.Left) > 0 {
				printUndone(w, u)
			}
			r, err := installer.Uninstall()
			printDone(w, r)
			if err != nil {
				return explainService(err)
			}
			if len(u.Left) == 0 {
				agent.Forget(cfg)
			}
			if was.Installed {
				fmt.Fprintf(w, "the service is no longer installed (%s)\n", r.Manager)
			} else {
				fmt.Fprintf(w, "the service is not installed (%s)\n", r.Manager)
			}
			if len(u.Left)+len(r.Left) > 0 {
				return quiet(agent.ExitPartly)
			}
			return nil
		},
	}
}

// serviceVerb is start, stop and restart: do, and afterwards the service has to run or not.
func serviceVerb(s *settings, name, short, already, now string, runs bool, do func() error) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short,
		RunE: func(c *cobra.Command, _ []string) (failed error) {
			before, err := installer.Look()
			foreign := errors.Is(err, installer.ErrForeign) // a package's, say: it can be started all the same
			if err != nil && !foreign {
				return explainService(err)
			}
			if name == "restart" && !foreign {
				handed := s.handOver(c, before.Args)
				defer func() {
					if failed != nil {
						handed()
					}
				}()
			}
			if err := do(); err != nil {
				return explainService(err)
			}
			after, err := installer.Look()
			if err == nil && runs {
				if err := s.answers(c.Context(), after); err != nil {
					return err
				}
			}
			switch {
			case foreign:
			case err != nil:
				return explainService(err)
			case after.Running != runs:
				return &agent.Problem{Code: agent.ExitFailed, Err: fmt.Errorf("the service was told to %s, and did not", name), Hint: "fairlead logs"}
			case before.Running == runs && already != "":
				now = already
			}
			fmt.Fprintln(c.OutOrStdout(), "the service", now)
			return nil
		},
	}
}

func printDone(w io.Writer, r installer.Result) {
	for _, d := range r.Done {
		fmt.Fprintln(w, d)
	}
	for _, l := range r.Left {
		fmt.Fprintln(w, "left", l)
	}
}

// handOver announces to the service, which was started with args, that it is about to be restarted: what it made stays for its successor.
// If that does not come, the returned function takes it back.
func (s *settings) handOver(c *cobra.Command, args []string) (handed func()) {
	handed = func() {}
	if s.adopt(args) != nil {
		return handed
	}
	cfg, err := s.load()
	if err != nil {
		return handed // nor could it be taken back
	}
	client, err := agent.Dial(c.Context(), cfg.Control)
	if err != nil || client.HandOver(c.Context()) != nil { // an older one takes all back when it ends
		return handed
	}
	return func() {
		u, err := takeBack(c.Context(), cfg, c.ErrOrStderr())
		if err != nil {
			fmt.Fprintf(c.ErrOrStderr(), "fairlead: what the service made is still there: %v; hint: %sfairlead teardown-network\n", err, platform.Sudo)
		}
		printUndone(c.ErrOrStderr(), u)
	}
}

// explainService gives the installer's errors the hints that belong to them.
func explainService(err error) error {
	p := &agent.Problem{Code: agent.ExitFailed, Err: err}
	switch {
	case errors.Is(err, os.ErrPermission), strings.Contains(err.Error(), "; hint: "): // it says what to do
		return err
	case errors.Is(err, installer.ErrNoManager):
		p.Hint = "let this host's own init run: fairlead run"
	case errors.Is(err, installer.ErrNotInstalled):
		p.Hint = platform.Sudo + "fairlead install"
	case errors.Is(err, installer.ErrForeign):
		p.Hint = "use it as it is with fairlead start, stop and logs, or remove it and run: " + platform.Sudo + "fairlead install"
	default:
		p.Hint = "fairlead logs tells more"
	}
	return p
}

// takeBack undoes what fairlead did on this host: by way of the running agent, else by the journal.
func takeBack(ctx context.Context, cfg agent.Config, log io.Writer) (agent.Undone, error) {
	var u agent.Undone
	client, err := agent.Dial(ctx, cfg.Control)
	if err == nil {
		u, err = client.TearDown(ctx)
	}
	if errors.Is(err, agent.ErrNotRunning) { // or it was just ending
		return agent.TearDown(ctx, cfg, logger(log, cfg, slog.LevelWarn+1), version)
	}
	return u, err
}

// forService returns the flags that have the same effect on a service, which sees neither this shell's variables nor its
// working folder, and names the variables among them.
func (s *settings) forService(cfg agent.Config) (flags, from []string, err error) {
	add := func(name, value string) { flags = append(flags, "--"+name+"="+value) }
	if path, asked := s.configFile(); asked {
		if path, err = filepath.Abs(path); err != nil {
			return nil, nil, err
		}
		add("config", path)
		if s.flags["config"].values == nil {
			from = append(from, "FAIRLEAD_CONFIG")
		}
	}
	for i, e := range cfg.Engines {
		if e.Certs != "" {
			if cfg.Engines[i].Certs, err = filepath.Abs(e.Certs); err != nil {
				return nil, nil, err
			}
		}
	}
	shown := cfg.Settings()
	engines, _ := shown["engine"].([]string)
	for _, k := range agent.Keys {
		values := s.flags[k.Name].values
		if values == nil {
			if v, ok := agent.FromEnv(os.LookupEnv)(k); ok {
				values = v
				from = append(from, k.Env())
			}
		}
		switch {
		case k.Name == "docker-env":
			values = nil
			for _, name := range slices.Sorted(maps.Keys(cfg.DockerEnv)) {
				values = append(values, name+"="+cfg.DockerEnv[name])
				from = append(from, name)
			}
		case values == nil:
		case k.Name == "engine":
			values = engines
		case k.Name == "state-dir":
			values = []string{cfg.StateDir}
		case k.Name == "control" && !strings.HasPrefix(cfg.Control, `\\`):
			path, err := filepath.Abs(cfg.Control)
			if err != nil {
				return nil, nil, err
			}
			values = []string{path}
		}
		for _, v := range values {
			add(k.Name, v)
		}
	}
	if len(cfg.Homes) == 0 && (len(cfg.Engines) == 0 || slices.ContainsFunc(cfg.Engines, func(e agent.EngineConfig) bool { return e.AsUser() })) {
		for _, h := range platform.Homes() {
			add("home", h.Dir)
		}
	}
	return flags, from, nil
}

// adopt takes the settings of an installed service for those that are not given here.
func (s *settings) adopt(args []string) error {
	if len(args) == 0 {
		return nil
	}
	other, c := &settings{}, &cobra.Command{}
	other.register(c)
	replaceFlag(c, new(bool)) // run's own
	if err := c.ParseFlags(args[1:]); err != nil {
		return fmt.Errorf("reading the service's flags: %w", err)
	}
	for name, f := range other.flags {
		if s.flags[name].values == nil {
			s.flags[name].values = f.values
		}
	}
	return nil
}

// writable are the folders that the agent writes to, beside /run/fairlead and /var/lib/fairlead, which systemd makes for it.
func writable(cfg agent.Config) []string {
	var dirs []string
	if cfg.StateDir != platform.DefaultStateDir {
		dirs = append(dirs, cfg.StateDir)
	}
	if dir, err := filepath.Abs(filepath.Dir(cfg.Control)); err == nil && cfg.Control != platform.DefaultControl {
		dirs = append(dirs, dir)
	}
	if cfg.Resolver == "resolv.conf" {
		dirs = append(dirs, "/etc")
		if file, err := filepath.EvalSymlinks("/etc/resolv.conf"); err == nil && filepath.Dir(file) != "/etc" {
			dirs = append(dirs, filepath.Dir(file))
		}
	}
	return dirs
}
