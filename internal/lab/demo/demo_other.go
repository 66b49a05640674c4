//go:build !linux

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// demo plays on the user's own engine, with containers of its own; no registry is asked.
func demo(ctx context.Context) error {
	fairlead, err := fairleadPath()
	if err != nil {
		return err
	}
	arch, err := docker(ctx, nil, "version", "-f", "{{.Server.Arch}}")
	if err != nil {
		return err
	}
	say("your engine answers (%s)", arch)
	layer, err := guest(filepath.Join(filepath.Dir(fairlead), "guest-"+arch))
	if err != nil {
		return err
	}
	if _, err := docker(ctx, layer, "import", "--change", `ENTRYPOINT ["/guest"]`, "--change", `CMD ["serve"]`, "-", "fairlead-demo"); err != nil {
		return err
	}
	defer func() {
		clean := context.WithoutCancel(ctx)
		docker(clean, nil, "rm", "-f", "fairlead-demo")
		docker(clean, nil, "rmi", "fairlead-demo")
	}()
	if _, err := docker(ctx, nil, "run", "-d", "--name", "fairlead-demo", "fairlead-demo"); err != nil {
		return err
	}
	show("docker run -d --name fairlead-demo fairlead-demo", "")

	agent := exec.Command(fairlead, "run")
	apart(agent) // Ctrl-C is ours alone: a second one would end it before it has taken everything back
	agent.Stdout, agent.Stderr = os.Stdout, os.Stderr
	if err := agent.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- agent.Wait() }()
	defer func() {
		end(agent, fairlead)
		<-ended
		say("the agent is stopped, what it made is taken back")
	}()
	// Not before it answers: the OS would remember for a while that nobody knew the name.
	if err := try(ctx, ended, fairlead, "query", "fairlead-demo.docker"); err != nil {
		return err
	}
	count := "-c1"
	if filepath.Ext(fairlead) == ".exe" {
		count = "-n1"
	}
	if err := try(ctx, ended, "ping", count, "fairlead-demo.docker"); err != nil {
		return err
	}
	return try(ctx, ended, "curl", "-sS", "http://fairlead-demo.docker/")
}

// try runs a command until it succeeds, for at most 20 s or until the agent ends, and shows it.
func try(ctx context.Context, ended chan error, name string, args ...string) error {
	for deadline := time.Now().Add(20 * time.Second); ; {
		out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
		if err == nil || time.Now().After(deadline) || ctx.Err() != nil {
			show(strings.TrimSuffix(filepath.Base(name), ".exe")+" "+strings.Join(args, " "), string(out))
			return err
		}
		select {
		case err := <-ended:
			ended <- err
			return fmt.Errorf("the agent has ended: %v", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func docker(ctx context.Context, stdin []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", args[0], err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// guest is a tar with the lab's static program, which make demo has built for the engine's architecture: not this process, as
// root would leave files in the user's build cache.
func guest(file string) ([]byte, error) {
	program, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w: run make demo", err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "guest", Mode: 0o755, Size: int64(len(program))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
