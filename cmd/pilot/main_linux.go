// Command pilot is fairlead's hand inside the engine's VM: it lets one host's packets through the VM's firewall to the
// containers, for as long as the host holds it to that, and is the VM's end of the host's tunnel where there is one.
//
//	pilot lead           serve a host over stdin and stdout; when the stream ends or falls silent, take everything back
//	pilot hold JSON      admit what JSON says (tunnel.Admission), report once on stdout, stay until SIGTERM, take it back
//	pilot release TAG    take back what an earlier pilot left under TAG, report on stdout
//
// Exit codes: 0 everything was taken back; 1 it was not; 2 usage.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/fairlead-dev/fairlead/platform/firewall"
	"github.com/fairlead-dev/fairlead/platform/tunnel"
)

func main() {
	// The host may be gone before we are: writing to it must not kill us with the rules still in place.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 1 && args[0] == "lead":
		err = lead(ctx)
	case len(args) == 2 && args[0] == "hold":
		err = hold(ctx, args[1])
	case len(args) == 2 && args[0] == "release":
		err = release(args[1])
	default:
		err = usage{errors.New("pilot lead | pilot hold JSON | pilot release TAG")}
	}
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "pilot:", err)
	if errors.As(err, new(usage)) {
		os.Exit(2)
	}
	os.Exit(1)
}

type usage struct{ error }

func lead(ctx context.Context) error {
	// Packets come and go one after the other: a goroutine woken on another CPU costs more than it brings.
	runtime.GOMAXPROCS(1)
	tags := make(map[string]bool)
	err := tunnel.Follow(ctx, tunnel.Stdio(), watch(ctx), func(a tunnel.Admission) tunnel.Report {
		tags[a.Tag] = true
		return admit(a)
	})
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "pilot: the host's stream:", err)
	}
	var left error
	for tag := range tags {
		left = errors.Join(left, firewall.Release(tag))
	}
	return left
}

func hold(ctx context.Context, arg string) error {
	var a tunnel.Admission
	if err := json.Unmarshal([]byte(arg), &a); err != nil {
		return usage{fmt.Errorf("decode admission: %w", err)}
	}
	wake := watch(ctx)
	if err := tunnel.WriteReport(os.Stdout, admit(a)); err != nil {
		fmt.Fprintln(os.Stderr, "pilot: report:", err)
	}
	for {
		select {
		case <-wake:
			if r := admit(a); r.Changed || r.Error != "" {
				fmt.Fprintf(os.Stderr, "pilot: looked again: open %v, changed %v, error %q\n", r.Open, r.Changed, r.Error)
			}
		case <-ctx.Done():
			return firewall.Release(a.Tag)
		}
	}
}

func release(tag string) error {
	err := firewall.Release(tag)
	backend, lost := firewall.Detect()
	r := report(firewall.State{Backend: backend}, errors.Join(err, lost))
	return errors.Join(err, tunnel.WriteReport(os.Stdout, r))
}

func admit(a tunnel.Admission) tunnel.Report {
	return report(firewall.Admit(firewall.Admission{Tag: a.Tag, Sources: a.Sources, Subnets: a.Subnets}))
}

func report(s firewall.State, err error) tunnel.Report {
	r := tunnel.Report{Backend: string(s.Backend), Open: s.Open, Changed: s.Changed, Rules: s.Rules, Hint: s.Hint, Addrs: s.Addrs, Deaf: s.Deaf}
	for _, c := range s.Closed {
		r.Closed = append(r.Closed, tunnel.Closed{IPv6: c.IPv6, Error: c.Err.Error(), Hint: c.Hint})
	}
	if err != nil {
		r.Error = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return r
}

func watch(ctx context.Context) <-chan struct{} {
	wake, err := firewall.Watch(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "pilot:", err)
	}
	return wake
}
