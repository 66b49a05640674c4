package platform

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// PortHolder finds the process that has addr, of network "udp" or "tcp", on this host. ok is false when nobody has it, or
// when the OS does not tell us who: others' processes are told to root alone.
func PortHolder(network string, addr netip.AddrPort) (p Process, ok bool) {
	listening := map[string]string{"udp": "07", "tcp": "0A"}[network]
	var inodes []string
	for _, table := range []string{network, network + "6"} {
		if b, err := os.ReadFile("/proc/net/" + table); err == nil {
			inodes = append(inodes, procNetInodes(string(b), listening, addr)...)
		}
	}
	if len(inodes) == 0 {
		return p, false
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		inode, isSocket := strings.CutPrefix(readlink(fd), "socket:[")
		if isSocket && slices.Contains(inodes, strings.TrimSuffix(inode, "]")) {
			dir := filepath.Dir(filepath.Dir(fd))
			name, _ := os.ReadFile(dir + "/comm")
			p.PID, _ = strconv.Atoi(filepath.Base(dir))
			p.Name = strings.TrimSpace(string(name))
			return p, true
		}
	}
	return p, false
}

func readlink(path string) string {
	to, _ := os.Readlink(path)
	return to
}

// Processes are the names of this host's processes, each once.
func Processes() (names []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil {
			names = append(names, strings.TrimSpace(string(b)))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
