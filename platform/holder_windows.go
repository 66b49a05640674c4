package platform

import (
	"net/netip"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"
)

var (
	iphlpapi            = windows.NewLazySystemDLL("iphlpapi.dll")
	getExtendedUDPTable = iphlpapi.NewProc("GetExtendedUdpTable")
	getExtendedTCPTable = iphlpapi.NewProc("GetExtendedTcpTable")
)

// PortHolder finds the process that has addr, of network "udp" or "tcp", on this host. ok is false when nobody has it, or
// when the OS does not tell us who. Of a process that holds services their names are told: "svchost: SharedAccess".
func PortHolder(network string, addr netip.AddrPort) (p Process, ok bool) {
	call, class := getExtendedUDPTable, uintptr(1) // UDP_TABLE_OWNER_PID
	if network == "tcp" {
		call, class = getExtendedTCPTable, 3 // TCP_TABLE_OWNER_PID_LISTENER
	}
	if call.Find() != nil {
		return p, false
	}
	for _, family := range []uintptr{windows.AF_INET, windows.AF_INET6} {
		if p.PID, ok = parseOwners(owners(call, family, class), network, family == windows.AF_INET, addr); !ok {
			continue
		}
		eachProcess(func(pid int, name string) {
			if pid == p.PID {
				p.Name = name
			}
		})
		if services := servicesOf(p.PID); len(services) > 0 {
			p.Name += ": " + strings.Join(services, ", ")
		}
		return p, true
	}
	return p, false
}

// owners is the table that call gives of a family; empty when it gives none.
func owners(call *windows.LazyProc, family, class uintptr) []byte {
	size := uint32(16 << 10)
	for range 5 { // sockets come between the calls
		b := make([]byte, size)
		code, _, _ := call.Call(uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0, family, class, 0)
		switch windows.Errno(code) {
		case 0:
			return b
		case windows.ERROR_INSUFFICIENT_BUFFER:
			size += size / 4
		default:
			return nil
		}
	}
	return nil
}

// servicesOf are the names of the services that a process runs.
func servicesOf(pid int) (names []string) {
	manager, err := windows.OpenSCManager(nil, nil, windows.SC_MANAGER_ENUMERATE_SERVICE)
	if err != nil {
		return nil
	}
	defer windows.CloseServiceHandle(manager)
	b := make([]byte, 256<<10) // what the call takes at most
	var needed, n uint32
	if err := windows.EnumServicesStatusEx(manager, windows.SC_ENUM_PROCESS_INFO, windows.SERVICE_WIN32, windows.SERVICE_ACTIVE,
		&b[0], uint32(len(b)), &needed, &n, nil, nil); err != nil {
		return nil
	}
	for _, s := range unsafe.Slice((*windows.ENUM_SERVICE_STATUS_PROCESS)(unsafe.Pointer(&b[0])), n) {
		if int(s.ServiceStatusProcess.ProcessId) == pid {
			names = append(names, windows.UTF16PtrToString(s.ServiceName))
		}
	}
	return names
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
