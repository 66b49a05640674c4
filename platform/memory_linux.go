package platform

import (
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ShrinkProgram gives the pages of the program itself back, of which starting touches nearly all, and whatever is seldom done some
// more. Those that are needed again come back from the page cache, 64 KB at a time. It takes some 50 us.
func ShrinkProgram() {
	for _, m := range programMaps() { // before the first is given back: to read them takes many of the pages
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED)
	}
}

type span struct{ from, to uintptr }

// programMaps is where the program lies in memory, but for what may be written to: that would be lost.
var programMaps = sync.OnceValue(func() []span {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil
	}
	return spansOf(string(maps), self)
})

// spansOf reads which parts of a process's memory are a file's, and not to be written to. Source: proc_pid_maps(5).
func spansOf(maps, file string) (all []span) {
	for line := range strings.Lines(maps) { // 00400000-00452000 r-xp 00000000 08:02 173521 /usr/bin/dbus-daemon
		at, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		rights, _, _ := strings.Cut(rest, " ")
		if strings.Contains(rights, "w") || !strings.HasSuffix(rest, " "+file) {
			continue
		}
		first, last, _ := strings.Cut(at, "-")
		from, err1 := strconv.ParseUint(first, 16, strconv.IntSize)
		to, err2 := strconv.ParseUint(last, 16, strconv.IntSize)
		if err1 == nil && err2 == nil && from < to {
			all = append(all, span{uintptr(from), uintptr(to)})
		}
	}
	return all
}
