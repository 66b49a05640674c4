package firewall

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From include/uapi/linux/netfilter_ipv4/ip_tables.h; the tail is aligned to 8.
type (
	iptGetInfo struct {
		name       [32]byte
		validHooks uint32
		hookEntry  [5]uint32
		underflow  [5]uint32 // where each hook's policy stands
		numEntries uint32
		size       uint32
	}
	iptGetEntries struct {
		name [32]byte
		size uint32
		_    uint32
	}
)

const (
	iptSoGetInfo    = 64
	iptSoGetEntries = 65
	hookForward     = 2
)

// legacyCloses tells whether x_tables' iptables closes forwarding on this machine.
func legacyCloses() (bool, error) {
	// Only a table named here may be asked for: asking loads it. That it is named proves nothing, it may be empty.
	names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !slices.Contains(strings.Fields(string(names)), "filter") {
		return false, nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	// The table may grow between the two questions; then the second fails with EAGAIN.
	for range tries {
		var info iptGetInfo
		copy(info.name[:], "filter")
		if err = getsockopt(fd, iptSoGetInfo, unsafe.Pointer(&info), unsafe.Sizeof(info)); err != nil {
			return false, fmt.Errorf("get table info: %w", err)
		}
		const head = unsafe.Sizeof(iptGetEntries{})
		table := make([]uint64, (head+uintptr(info.size)+7)/8) // aligned
		entries := (*iptGetEntries)(unsafe.Pointer(&table[0]))
		entries.name, entries.size = info.name, info.size
		if err = getsockopt(fd, iptSoGetEntries, unsafe.Pointer(&table[0]), head+uintptr(info.size)); err == nil {
			raw := unsafe.Slice((*byte)(unsafe.Pointer(&table[0])), len(table)*8)
			return closedLegacy(raw[head:], info.underflow[hookForward]), nil
		}
	}
	return false, fmt.Errorf("get table entries: %w", err)
}

func getsockopt(fd, name int, p unsafe.Pointer, size uintptr) error {
	length := uint32(size)
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_IP, uintptr(name), uintptr(p), uintptr(unsafe.Pointer(&length)), 0); errno != 0 {
		return errno
	}
	return nil
}
