package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/lab"
)

// What docs/from promises those who come from elsewhere, with a real engine, ssh and curl.
func TestDropIns(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{TCP: true})
	h.watch("dev=" + vm.URL())
	docker(t, vm, "network", "create", "dcos")
	docker(t, vm, "run", "-d", "--name", "dcos-e2e-1-agent-0", "--network", "dcos", "web")
	for name, network := range map[string]string{"dcos-e2e-1-master-0": "dcos", "kitchen": "bridge"} {
		h.node(vm, name, network)
	}
	before, vmBefore := h.state(), firewall(t, vm)

	// ssh as test-kitchen and minidcos do: by address, as root, port 22.
	ssh := func(addr, want string) {
		t.Helper()
		h.eventually("ssh to "+addr, func() error {
			out, err := h.Run(t.Context(), "ssh", "-F", "none", "-i", h.dir+"/key", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
				"-o", "ConnectTimeout=5", "-o", "LogLevel=ERROR", "root@"+addr, "cat /etc/hostname")
			if err != nil || strings.TrimSpace(out) != want {
				return fmt.Errorf("%q, %v", out, err)
			}
			return nil
		})
	}
	node, web, kitchen := address(t, vm, "dcos", "dcos-e2e-1-master-0"), address(t, vm, "dcos", "dcos-e2e-1-agent-0"), address(t, vm, "bridge", "kitchen")

	t.Run("a build job", func(t *testing.T) { // docs/from/ci.md: one script, no service, nothing left
		h := h.in(t)
		own := strings.Join(append(h.program, "$0"), " ") + " " + strings.Join(h.args, " ")
		job := fmt.Sprintf("set -e\n%s\ncurl -sS --max-time 20 http://%s/\n%s\n", strings.Replace(own, "$0", "setup-network", 1), web, strings.Replace(own, "$0", "teardown-network", 1))
		out, err := h.Run(t.Context(), "sh", "-c", job)
		proved := strings.Contains(out, web+" answered in") || strings.Contains(out, node+" answered in") // whichever is first
		if err != nil || !proved || !strings.Contains(out, docker(t, vm, "inspect", "-f", "{{.Config.Hostname}}", "dcos-e2e-1-agent-0")) {
			t.Errorf("the job: %v\n%s", err, out)
		}
		if after := h.state(); after != before {
			t.Errorf("after the job the host is\n%s\nand was\n%s", after, before)
		}
		if after := firewall(t, vm); after != vmBefore {
			t.Errorf("after the job the VM's firewall is\n%s\nand was\n%s", after, vmBefore)
		}
	})

	t.Run("whoever reads the log is gone first", func(t *testing.T) { // fairlead run 2>&1 | tee log, and Ctrl-C
		h := h.in(t)
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := h.command("run", "--resolver", "none")
		cmd.Stderr = write
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		write.Close()
		h.up()
		h.answers("dcos-e2e-1-agent-0.docker", web)
		read.Close()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the agent ended with %v", err)
		}
		if after := h.state(); after != before {
			t.Errorf("the host is\n%s\nand was\n%s", after, before)
		}
	})

	t.Run("setup-mac-network", func(t *testing.T) { // docs/from/minidcos.md, docs/from/test-kitchen.md
		h := h.in(t)
		h.must("setup-network")
		ssh(node, docker(t, vm, "inspect", "-f", "{{.Config.Hostname}}", "dcos-e2e-1-master-0"))
		ssh(kitchen, docker(t, vm, "inspect", "-f", "{{.Config.Hostname}}", "kitchen"))
		if out, err := h.Run(t.Context(), "curl", "-sS", "--max-time", "20", "http://"+web+"/"); err != nil {
			t.Errorf("curl: %v %s", err, out)
		}
		h.must("teardown-network")
	})

	t.Run("the office has Docker's ranges", func(t *testing.T) { // docs/from/dvm.md: what doctor prints is free, and an engine takes it
		h := h.in(t)
		h.ip("link add eth9 type veth peer name office")
		h.ip("addr add 10.255.1.1/32 dev eth9")
		h.ip("link set office up")
		h.ip("link set eth9 up")
		h.ip("route add 172.16.0.0/12 dev eth9 proto static")
		config := ""
		for _, c := range h.report("doctor").Checks {
			for _, line := range c.Lines {
				if text, ok := strings.CutPrefix(line, "engine dev, daemon.json:"); ok {
					config = text
				}
			}
		}
		if !strings.Contains(config, "bip") || !strings.Contains(config, "default-address-pools") {
			t.Fatalf("doctor prints for daemon.json %q", config)
		}
		if err := vm.StopDockerd(t.Context()); err != nil {
			t.Fatal(err)
		}
		vm.Config = config
		if err := vm.StartDockerd(t.Context()); err != nil {
			t.Fatal(err)
		}
		docker(t, vm, "rm", "-f", "dcos-e2e-1-agent-0", "dcos-e2e-1-master-0")
		docker(t, vm, "network", "rm", "dcos")
		docker(t, vm, "network", "create", "dcos")
		docker(t, vm, "run", "-d", "--name", "agent", "--network", "dcos", "web")
		docker(t, vm, "run", "-d", "--name", "plain", "web")
		out := h.must("setup-network") // nothing is refused
		for network, container := range map[string]string{"bridge": "plain", "dcos": "agent"} {
			addr := address(t, vm, network, container)
			if strings.HasPrefix(addr, "172.1") || strings.HasPrefix(addr, "172.2") {
				t.Errorf("%s has %s", container, addr)
			}
			h.ping(addr)
		}
		if !strings.Contains(out, "installed") {
			t.Errorf("setup-network says\n%s", out)
		}
		h.must("teardown-network")
	})
}

// node runs a container with a real sshd for root, made of the VM's own programs.
func (h *host) node(vm *lab.VM, name, network string) {
	h.t.Helper()
	etc := "/etc/" + name
	key := h.dir + "/key"
	if _, err := os.Stat(key); err != nil {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
			h.t.Fatalf("ssh-keygen: %v %s", err, out)
		}
	}
	dir := vm.Root() + etc
	for _, sub := range []string{"run", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir+"/host").CombinedOutput(); err != nil {
		h.t.Fatalf("ssh-keygen: %v %s", err, out)
	}
	appendTo(h.t, dir+"/passwd", "root:x:0:0::/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n")
	appendTo(h.t, dir+"/admitted", string(must(os.ReadFile(key+".pub"))(h.t)))
	args := []string{"run", "-d", "--name", name, "--network", network, "--entrypoint", "/usr/sbin/sshd",
		"-v", etc + "/passwd:/etc/passwd", "-v", etc + "/host:/etc/host", "-v", etc + "/admitted:/etc/admitted", "-v", etc + "/run:/run/sshd", "-v", etc + "/root:/root"}
	for _, top := range []string{"/usr", "/bin", "/lib", "/lib64"} {
		if from, err := filepath.EvalSymlinks(top); err == nil { // links into /usr, as a rule
			args = append(args, "-v", from+":"+top+":ro")
		}
	}
	docker(h.t, vm, append(args, "web", "-D", "-e", "-f", "/dev/null", "-h", "/etc/host", "-o", "AuthorizedKeysFile=/etc/admitted", "-o", "PidFile=none", "-o", "StrictModes=no")...)
}
