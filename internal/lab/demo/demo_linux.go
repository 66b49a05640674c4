package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lab"
)

// demo plays on Linux: a namespace is the VM, as docker-machine's VirtualBox VM was, another is the host.
func demo(ctx context.Context) (err error) {
	fairlead, err := fairleadPath()
	if err != nil {
		return err
	}
	if err := lab.Check(); err != nil {
		return err
	}
	world, err := lab.New(ctx, lab.Options{})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, world.Close())
		if err == nil {
			say("removed: namespaces, engine, links, files; this machine is as before")
		}
	}()
	vm, err := world.VM(ctx, lab.VMOptions{TCP: true})
	if err != nil {
		return err
	}
	say("a VM is up: engine at %s, behind vboxnet0, with its own kernel routes and firewall", vm.URL())
	if err := vm.LoadImages(ctx); err != nil {
		return err
	}
	before, err := world.State(ctx)
	if err != nil {
		return err
	}
	state, err := os.MkdirTemp("", "fairlead-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(state)
	flags := []string{"--engine", "dev=" + vm.URL(), "--state-dir", state, "--control", filepath.Join(state, "control.sock")}

	var log bytes.Buffer
	agent := world.Command(context.WithoutCancel(ctx), fairlead, append([]string{"run", "--resolver", "resolv.conf"}, flags...)...)
	agent.Stderr = &log
	if err := agent.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- agent.Wait() }()
	defer func() {
		agent.Process.Kill()
		if err != nil && ctx.Err() == nil {
			<-ended
			fmt.Fprint(os.Stderr, log.String())
		}
	}()
	say("the agent is started on the host: fairlead run --engine dev=%s", vm.URL())

	docker := func(args ...string) error {
		_, err := vm.Docker(ctx, args...)
		show("docker "+strings.Join(args, " "), "")
		return err
	}
	// run shows a command on the host; it is asked again while the agent starts up.
	run := func(name string, args ...string) error {
		for deadline := time.Now().Add(time.Minute); ; {
			out, err := world.Run(ctx, name, args...)
			if err == nil || time.Now().After(deadline) || ctx.Err() != nil {
				show(strings.Join(append([]string{filepath.Base(name)}, args...), " "), out)
				return err
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	ask := func(verb string) error {
		out, err := world.Run(ctx, fairlead, append([]string{verb}, flags...)...)
		show("fairlead "+verb, out)
		return err
	}
	for _, step := range []func() error{
		func() error { return docker("run", "-d", "--name", "web", "web") },
		func() error { return run("ping", "-c1", "-w5", "web.docker") },
		func() error { return run("curl", "-sS", "--max-time", "5", "http://web.docker") },
		func() error { return docker("network", "create", "shop") },
		func() error { return docker("run", "-d", "--name", "cart", "--network", "shop", "web") },
		func() error { return run("ping", "-c1", "-w5", "cart.docker") },
		func() error { return run("curl", "-sS", "--max-time", "5", "http://cart.shop.docker") },
		func() error { return ask("status") },
		func() error { return ask("ls") },
	} {
		if err := step(); err != nil {
			return err
		}
	}

	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := <-ended; err != nil {
		return fmt.Errorf("the agent: %w", err)
	}
	ended <- nil
	after, err := world.State(ctx)
	if err != nil {
		return err
	}
	if after != before {
		return fmt.Errorf("the host is not as before:\n%s\nbefore:\n%s", after, before)
	}
	say("the agent is stopped: routes, rules and resolv.conf of the host are byte for byte as before")
	return nil
}
