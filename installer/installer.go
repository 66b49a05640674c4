// Package installer makes fairlead a service of this host: systemd, launchd or Windows service.
//
// What install writes carries a sealed record of itself (see definition). Only what still fits its seal is ours: anything
// else of the same name is named and left alone. kardianos/service speaks to Windows' service manager; on systemd and
// launchd it cannot upgrade in place and uses load and unload, so these two are told by their own tools.
package installer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/kardianos/service"
)

const serviceName = "fairlead"

// Errors that a caller can tell apart.
var (
	ErrNotInstalled = errors.New("the service is not installed")
	ErrNoManager    = errors.New("this host has no service manager that fairlead knows")
	ErrForeign      = errors.New("it was not written by fairlead install, or was changed since")
)

// notPermitted is an error of kind fs.ErrPermission that says what it takes.
type notPermitted string

func (e notPermitted) Error() string      { return string(e) }
func (notPermitted) Is(target error) bool { return target == fs.ErrPermission }

// Options are what the service is to run.
type Options struct {
	Program  string              // an absolute path; "" is the running program
	Args     []string            // what follows the program's name: run --domain docker ...
	Writable []string            // folders that the service writes to; it may not write elsewhere where the OS can hold it to that
	Stopping func(args []string) // called before a running service, with these Args, is stopped to be started anew; may be nil
}

// State is what the service manager says.
type State struct {
	Manager   string // "systemd", "launchd" or "Windows service"
	Place     string // where the service is defined
	Installed bool
	Running   bool
	Program   string // that an installed service of ours runs
	Args      []string
}

// Result is what an Install or Uninstall did.
type Result struct {
	State          // read back afterwards
	Done  []string // in order, as in "wrote /etc/systemd/system/fairlead.service"; empty: all was so already
	Left  []string // what could not be removed, and when it will go
}

func (r *Result) did(format string, args ...any) {
	r.Done = append(r.Done, fmt.Sprintf(format, args...))
}

// Look returns what is installed. The error wraps ErrForeign for a service of our name that is not ours, ErrNoManager
// where there is nothing to install to.
func Look() (State, error) {
	st := State{Manager: managerName, Place: place}
	d, err := installed()
	if err != nil {
		return st, err
	}
	if d == nil {
		return st, nil
	}
	st.Installed, st.Program, st.Args = true, d.Program, d.Args
	st.Running, err = running()
	return st, err
}

// Install makes the service, starts it, and has it started at each boot. A program that lies where others than root could
// replace it is copied to a place of its own. Done again it changes nothing; with another program or other arguments it
// upgrades in place. It needs root: the error is of kind fs.ErrPermission without.
func Install(o Options) (r Result, err error) {
	if err := privileged(); err != nil {
		return r, err
	}
	was, err := installed()
	if err != nil {
		return r, err
	}
	d, source, err := define(o)
	if err != nil {
		return r, err
	}
	if err := d.inherit(was, source); err != nil {
		return r, err
	}
	up, err := running()
	if err != nil {
		return r, err
	}
	boot := false
	if was != nil {
		if boot, err = atBoot(); err != nil {
			return r, err
		}
	}
	same := was != nil && was.equal(d)
	if stale := slices.DeleteFunc(d.files(source), file.intact); !same || len(stale) > 0 {
		for _, f := range stale {
			if was == nil || !slices.ContainsFunc(was.files(""), func(w file) bool { return w.to == f.to && w.intact() }) {
				if _, err := os.Lstat(f.to); err == nil {
					return r, fmt.Errorf("%s is in the way: %w", f.to, ErrForeign)
				}
			}
		}
		if up { // a running program's file is busy
			if o.Stopping != nil && was != nil {
				o.Stopping(was.Args)
			}
			if err := stop(); err != nil {
				return r, err
			}
			up = false
			r.did("stopped the service of before")
		}
		for _, f := range stale {
			if err := copyFile(f); err != nil {
				return r, err
			}
			r.did("copied %s to %s, where only root can change it", f.from, f.to)
		}
	}
	if !same || !boot {
		if err := write(d, was != nil); err != nil {
			return r, err
		}
		r.did("wrote %s", place)
	}
	if was != nil && was.Program != d.Program {
		r.drop(*was)
	}
	if !up {
		if err := start(); err != nil {
			return r, fmt.Errorf("it is installed, but does not start: %w", err)
		}
		r.did("started it")
	}
	if r.State, err = Look(); err == nil && !r.Running {
		err = errors.New("it is installed and was started, but does not run")
	}
	return r, err
}

// Uninstall stops the service and removes what Install made, and only that. Where nothing is installed it does nothing.
func Uninstall() (r Result, err error) {
	if err := privileged(); err != nil {
		return r, err
	}
	was, err := installed()
	if err != nil || was == nil {
		r.State, _ = Look()
		return r, err
	}
	if err = remove(); err != nil && !lingers(err) {
		return r, err
	}
	r.did("removed %s", place)
	r.drop(*was)
	if err != nil {
		return r, err
	}
	if r.State, err = Look(); err == nil && r.Installed {
		err = fmt.Errorf("%s is still there", place)
	}
	return r, err
}

// drop removes what an install copied, but for what somebody has changed since.
func (r *Result) drop(d definition) {
	for _, f := range d.files("") {
		if !f.intact() {
			if _, err := os.Lstat(f.to); err == nil {
				r.Left = append(r.Left, f.to+": it is not the one that install copied")
			}
			continue
		}
		later, err := removeProgram(f.to)
		switch {
		case err != nil:
			r.Left = append(r.Left, err.Error())
		case later != "":
			r.Left = append(r.Left, f.to+": "+later)
		default:
			r.did("removed %s", f.to)
		}
	}
}

// Start starts the installed service; one that runs is left running.
func Start() error { return control(start) }

// Stop stops the service until it is started or the host boots. One that does not run is left so.
func Stop() error { return control(stop) }

// Restart stops and starts the service.
func Restart() error {
	return control(func() error {
		if err := stop(); err != nil {
			return err
		}
		return start()
	})
}

// control does what needs root and a service, whoever has installed it.
func control(do func() error) error {
	if err := privileged(); err != nil {
		return err
	}
	d, err := installed()
	if err != nil && !errors.Is(err, ErrForeign) {
		return err
	}
	if err == nil && d == nil {
		return ErrNotInstalled
	}
	return do()
}

func (d definition) equal(e definition) bool {
	return d.Program == e.Program && d.Sum == e.Sum && d.Copied == e.Copied && d.Driver == e.Driver && slices.Equal(d.Args, e.Args) && slices.Equal(d.Writable, e.Writable)
}

// Exit is what a process that would end with code ends with. launchd starts a service again after every code but 0, so there it is
// 0, too, where once more would not help: after wrong settings (2) and without rights (3).
func Exit(code int) int {
	job := os.Getenv("XPC_SERVICE_NAME") // set by launchd alone
	if (job == label || job == "homebrew.mxcl."+serviceName) && (code == 2 || code == 3) {
		fmt.Fprintf(os.Stderr, "fairlead: once more would not help, so it ends as if all were well (0 instead of %d); when it is mended: sudo fairlead start\n", code)
		return 0
	}
	return code
}

var ready = struct {
	sync.Once
	c chan struct{}
}{c: make(chan struct{})}

// Ready tells the service manager that the body of Run is at work: until then the service counts as starting. Without a
// service manager it does nothing.
func Ready() {
	ready.Do(func() {
		close(ready.c)
		if at := os.Getenv("NOTIFY_SOCKET"); at != "" { // sd_notify(3)
			if c, err := net.Dial("unixgram", at); err == nil {
				fmt.Fprint(c, "READY=1")
				c.Close()
			}
		}
	})
}

// Run runs body until it returns or the service manager, Ctrl-C, SIGTERM or the closed terminal asks it to end, which ends its context. A
// second Ctrl-C ends the process at once.
func Run(body func(context.Context) error) error {
	if service.Interactive() || service.Platform() != "windows-service" {
		asked, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		ctx, end := context.WithCancel(context.Background())
		defer end()
		context.AfterFunc(asked, func() {
			stop() // first, so that a second signal has its usual effect as soon as body can know of this one
			end()
		})
		return body(ctx)
	}
	// Windows' service manager speaks to a handler instead of sending signals.
	s, err := service.New(&program{body: body, done: make(chan error, 1)}, &service.Config{Name: serviceName})
	if err != nil {
		return err
	}
	return s.Run()
}

// program is body as kardianos/service wants it.
type program struct {
	body func(context.Context) error
	stop context.CancelFunc
	done chan error
}

// Start returns when body is ready, has ended, or takes longer than the service manager would wait.
func (p *program) Start(s service.Service) error {
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	ended := make(chan struct{})
	go func() {
		p.done <- p.body(ctx)
		close(ended)
		select {
		case <-ready.c:
			if ctx.Err() == nil {
				_ = s.Stop() // body ended by itself
			}
		default: // Start tells
		}
	}()
	select {
	case <-ended:
		if err := <-p.done; err != nil {
			return err
		}
		return errors.New("it ended at once")
	case <-ready.c:
	case <-time.After(20 * time.Second): // of 30
		Ready()
	}
	go arm()
	return nil
}

// stopLimit is how long a body that is told to stop may take: longer than the agent gives itself, shorter than Windows Installer
// (30 s) and our own stop wait. systemd and launchd have limits of their own.
var stopLimit = 25 * time.Second

// Stop returns body's error: a service that failed has to end with an exit code, or it is not restarted. One that does not end
// in time was told to stop all the same, and is not to be restarted.
func (p *program) Stop(service.Service) error {
	p.stop()
	select {
	case err := <-p.done:
		return err
	case <-time.After(stopLimit):
		logged().Error("it was told to stop and has not ended in time, so it is ended as it is; what it had not taken back yet goes with the next fairlead start or teardown-network", "limit", stopLimit)
		return nil
	}
}

// logged writes to the service's log what the installer itself has to say.
func logged() *slog.Logger { return slog.New(slog.NewTextHandler(Log(), nil)) }
