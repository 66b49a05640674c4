package e2e

import (
	"syscall"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/lab"
)

// A container inside a VM answers by name and address, and everything is as before when the agent ends.
func TestMainJob(t *testing.T) {
	h := newHost(t)
	vm := h.StartVM(t, lab.VMOptions{TCP: true})
	h.watch("dev=" + vm.URL())
	docker(t, vm, "run", "-d", "--name", "web", "web")

	r := h.start("--resolver", "none")
	ip := docker(t, vm, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "web")
	h.answers("web.docker", ip)
	h.ping(ip)
	t.Log(h.must("status"))
	t.Log(h.must("ls"))
	r.signal(syscall.SIGTERM)
	t.Log(r.log.String())
}
