package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The socket options of x_tables, the same for both families: _INFO and _ENTRIES are read, the others written.
const (
	soGetInfo     = 64
	soGetEntries  = 65
	soReplace     = 64
	soAddCounters = 65
)

var protocols = map[string]struct {
	names  string // lists the tables that are loaded in this network namespace
	domain int
	level  int
}{
	"ip":  {"/proc/thread-self/net/ip_tables_names", unix.AF_INET, unix.SOL_IP},
	"ip6": {"/proc/thread-self/net/ip6_tables_names", unix.AF_INET6, unix.SOL_IPV6},
}

var errMeanwhile = errors.New("somebody changed the table meanwhile")

// lookLegacy reads those of a family's tables that matter.
func lookLegacy(family string) (tables []table, err error) {
	// Only a table named here may be asked for: asking loads it. That it is named proves nothing, it may be empty.
	names, err := os.ReadFile(protocols[family].names)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	loaded := strings.Fields(string(names))
	x, err := openLegacy(family)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil // no IPv6
	}
	if err != nil {
		return nil, err
	}
	defer x.close()
	for _, name := range []string{"filter", "raw", "nat"} {
		if !slices.Contains(loaded, name) {
			continue
		}
		t, err := x.get(name)
		if err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// applyLegacy makes of the table t, as it was read, the table next, unless it is another by now.
func applyLegacy(t, next table) error {
	unlock := lockLegacy()
	defer unlock()
	x, err := openLegacy(t.family)
	if err != nil {
		return err
	}
	defer x.close()
	wanted := next.build()
	counters := make([]byte, max(1, t.was)*countersSize)
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&counters[0])
	binary.NativeEndian.PutUint64(wanted[replaceOldPtr:], uint64(uintptr(unsafe.Pointer(&counters[0]))))
	before := t.bare()

	// The kernel refuses to replace a table of another length (EAGAIN). Whether it is still the same is for us to ask, as
	// late as can be.
	now, err := x.get(t.name)
	if err != nil {
		return err
	}
	if !bytes.Equal(now.bare(), before) {
		return errMeanwhile
	}
	switch err := x.set(soReplace, wanted); {
	case errors.Is(err, unix.EAGAIN):
		return errMeanwhile
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("replace table %s: the kernel has no comment match or no masquerade: %w", t.name, err)
	case err != nil:
		return fmt.Errorf("replace table %s: %w", t.name, err)
	}
	if err := x.set(soAddCounters, next.restore(counters)); err != nil {
		return fmt.Errorf("restore the counters of table %s: %w", t.name, err)
	}
	return nil
}

// xtables is a socket that x_tables listens to.
type xtables struct {
	fd     int
	family string
}

func openLegacy(family string) (xtables, error) {
	fd, err := unix.Socket(protocols[family].domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return xtables{}, fmt.Errorf("socket: %w", err)
	}
	return xtables{fd, family}, nil
}

func (x xtables) close() { unix.Close(x.fd) }

func (x xtables) get(name string) (table, error) {
	info, entries, err := x.read(name)
	if err != nil {
		return table{}, err
	}
	t, err := parseTable(x.family, info, entries)
	if err != nil {
		return t, fmt.Errorf("parse table %s: %w", name, err)
	}
	return t, nil
}

// read asks for a table as parseTable takes it. It may change between the two questions; then the second fails with EAGAIN.
func (x xtables) read(name string) (info, entries []byte, err error) {
	for range tries {
		info = make([]byte, infoSize)
		copy(info, name)
		if err = x.ask(soGetInfo, info); err != nil {
			return nil, nil, fmt.Errorf("get info of table %s: %w", name, err)
		}
		const head = tableNameSize + 8 // struct ipt_get_entries
		size := binary.NativeEndian.Uint32(info[80:])
		answer := make([]byte, head+int(size))
		copy(answer, name)
		binary.NativeEndian.PutUint32(answer[tableNameSize:], size)
		if err = x.ask(soGetEntries, answer); err == nil {
			return info, answer[head:], nil
		}
	}
	return nil, nil, fmt.Errorf("get entries of table %s: %w", name, err)
}

func (x xtables) ask(option int, p []byte) error {
	length := uint32(len(p))
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(x.fd), uintptr(protocols[x.family].level), uintptr(option),
		uintptr(unsafe.Pointer(&p[0])), uintptr(unsafe.Pointer(&length)), 0); errno != 0 {
		return errno
	}
	return nil
}

func (x xtables) set(option int, p []byte) error {
	return unix.SetsockoptString(x.fd, protocols[x.family].level, option, string(p))
}

// lockLegacy takes the lock by which programs named iptables keep off each other's toes, where its file is to be seen: a
// container sees the VM's only if it is mounted. It goes without after a second.
func lockLegacy() (unlock func()) {
	f, err := os.Open("/run/xtables.lock")
	if err != nil {
		return func() {}
	}
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
	}
	return func() { f.Close() }
}

// oneNAT tells whether this kernel lets only one of nf_tables and x_tables translate addresses: until 4.18.
func oneNAT() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	return before418(unix.ByteSliceToString(u.Release[:]))
}
