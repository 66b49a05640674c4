package platform

import (
	"context"
	"net/netip"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

const toolTimeout = 5 * time.Second

// PortHolder finds the process that has addr, of network "udp" or "tcp", on this host. ok is false when nobody has it, or
// when the OS does not tell us who: others' processes are told to root alone.
func PortHolder(network string, addr netip.AddrPort) (p Process, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	args := []string{"-nP", "-FpcPn", "-i" + strings.ToUpper(network) + ":" + strconv.Itoa(int(addr.Port()))}
	if network == "tcp" {
		args = append(args, "-sTCP:LISTEN")
	}
	out, _ := exec.CommandContext(ctx, "/usr/sbin/lsof", args...).Output() // it exits with 1 when it finds nothing
	return parseLsof(string(out), network, addr)
}

// Processes are the names of this host's processes, each once.
func Processes() (names []string) {
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "/bin/ps", "-axo", "comm=").Output()
	for line := range strings.Lines(string(out)) {
		names = append(names, path.Base(strings.TrimSpace(line)))
	}
	slices.Sort(names)
	return slices.Compact(names)
}
