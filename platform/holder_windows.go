package platform

import (
	"context"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// PortHolder finds the process that has addr, of network "udp" or "tcp", on this host. ok is false when nobody has it, or
// when the OS does not tell us who.
func PortHolder(network string, addr netip.AddrPort) (p Process, ok bool) {
	system, err := windows.GetSystemDirectory()
	if err != nil {
		return p, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, filepath.Join(system, "netstat.exe"), "-ano").Output()
	if p.PID, ok = parseNetstat(string(out), network, addr); ok {
		eachProcess(func(pid int, name string) {
			if pid == p.PID {
				p.Name = name
			}
		})
	}
	return p, ok
}

// Processes are the names of this host's processes, each once, without ".exe".
func Processes() (names []string) {
	eachProcess(func(_ int, name string) { names = append(names, name) })
	slices.Sort(names)
	return slices.Compact(names)
}

func eachProcess(do func(pid int, name string)) {
	snapshot, err := windows.CreateToolhelp32Snapshot(windows.TH32CS_SNAPPROCESS, 0)
	if err != nil {
		return
	}
	defer windows.CloseHandle(snapshot)
	e := windows.ProcessEntry32{Size: uint32(unsafe.Sizeof(windows.ProcessEntry32{}))}
	for err = windows.Process32First(snapshot, &e); err == nil; err = windows.Process32Next(snapshot, &e) {
		do(int(e.ProcessID), strings.TrimSuffix(windows.UTF16ToString(e.ExeFile[:]), ".exe"))
	}
}
