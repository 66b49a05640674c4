// Package installer makes fairlead a service of this host: launchd, Windows service or systemd.
package installer

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/kardianos/service"
)

// ErrNotYet: installing on this OS is not built yet.
var ErrNotYet = errors.New("installing the service is not on this OS yet")

const serviceName = "fairlead"

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
	p := &program{body: body, done: make(chan error, 1)}
	s, err := service.New(p, &service.Config{Name: serviceName})
	if err != nil {
		return err
	}
	if err := s.Run(); err != nil {
		return err
	}
	return p.err
}

// program is body as kardianos/service wants it.
type program struct {
	body func(context.Context) error
	stop context.CancelFunc
	done chan error
	err  error
}

func (p *program) Start(s service.Service) error {
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	go func() {
		p.done <- p.body(ctx)
		if ctx.Err() == nil {
			_ = s.Stop() // body ended by itself
		}
	}()
	return nil
}

func (p *program) Stop(service.Service) error {
	p.stop()
	p.err = <-p.done
	return nil
}
