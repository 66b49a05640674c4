package routes

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/windows"
	"golang.zx2c4.com/wireguard/windows/tunnel/winipcfg"
)

// mark is the route metric of our rows: a Windows row has no field for its maker. Windows' own defaults are 0 (API),
// 1 (route.exe) and 256 (New-NetRoute); the number is that of our protocol on Linux. It decides little: a longer prefix
// beats any metric, and where another row of the same destination is, ours is never added.
const mark = 208

// List returns the IPv4 and IPv6 rows of the active store, in Windows' order. Windows' own rows for its addresses,
// broadcast, multicast and loopback are left out. Entry.Metric is the one that Windows goes by: the row's and the
// adapter's added up.
func List() ([]Entry, error) {
	rows, err := winipcfg.GetIPForwardTable2(windows.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	adapters, err := winipcfg.GetIPInterfaceTable(windows.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list adapters: %w", err)
	}
	// Names after rows, so that every row that still lives finds its adapter.
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list adapters: %w", err)
	}
	names := make(map[uint32]string, len(ifs))
	for _, i := range ifs {
		names[uint32(i.Index)] = i.Name
	}
	metrics := make(map[stack]uint32, len(adapters))
	for _, a := range adapters {
		metrics[stack{a.InterfaceLUID, a.Family}] = a.Metric
	}
	var table []Entry
	for i := range rows {
		if e, ok := parseRow(&rows[i], names, metrics); ok {
			table = append(table, e)
		}
	}
	return table, nil
}

// stack is IPv4 or IPv6 on one adapter; each has a metric of its own.
type stack struct {
	adapter winipcfg.LUID
	family  winipcfg.AddressFamily
}

// parseRow reads one MIB_IPFORWARD_ROW2. ok is false for a row that List does not show.
func parseRow(row *winipcfg.MibIPforwardRow2, names map[uint32]string, metrics map[stack]uint32) (e Entry, ok bool) {
	e.Dst = row.DestinationPrefix.Prefix().Masked()
	if !e.Dst.IsValid() {
		return Entry{}, false
	}
	if row.Protocol == winipcfg.RouteProtocolLocal &&
		(e.Dst.IsSingleIP() || e.Dst.Addr().IsMulticast() || e.Dst.Addr().IsLoopback()) {
		return Entry{}, false
	}
	if via := row.NextHop.Addr(); !via.IsUnspecified() {
		e.Via = via.WithZone("") // Dev says it
	}
	e.Dev = names[row.InterfaceIndex]
	e.Metric = int(row.Metric) + int(metrics[stack{row.InterfaceLUID, row.DestinationPrefix.RawPrefix.Family}])
	e.Marked = marked(row)
	e.Owner = owner(row)
	return e, true
}

func marked(row *winipcfg.MibIPforwardRow2) bool {
	return row.Protocol == winipcfg.RouteProtocolNetMgmt && row.Metric == mark
}

// protocols are the names that Get-NetRoute shows, in lower case. Whatever people and programs make is netmgmt.
var protocols = map[winipcfg.RouteProtocol]string{
	winipcfg.RouteProtocolOther: "other", winipcfg.RouteProtocolLocal: "local", winipcfg.RouteProtocolNetMgmt: "netmgmt",
	winipcfg.RouteProtocolIcmp: "icmp", winipcfg.RouteProtocolRip: "rip", winipcfg.RouteProtocolOspf: "ospf",
	winipcfg.RouteProtocolBgp: "bgp", winipcfg.RouteProtocolDHCP: "dhcp", winipcfg.RouteProtocolNTAutostatic: "autostatic",
	winipcfg.RouteProtocolNTStatic: "static", winipcfg.RouteProtocolNTStaticNonDOD: "static",
}

func owner(row *winipcfg.MibIPforwardRow2) string {
	name, known := protocols[row.Protocol]
	if !known {
		name = "protocol " + strconv.Itoa(int(row.Protocol))
	}
	if marked(row) {
		name += ", fairlead's mark"
	}
	return name
}

// add makes a row that is gone after a reboot. Windows takes more than it should: a second row for a destination by
// another gateway or adapter, and a gateway that nobody can reach. So the table is looked at first.
func add(r Route) error {
	r, ok := r.canonical()
	if !ok {
		return explain(r, windows.ERROR_INVALID_PARAMETER)
	}
	luid, err := adapter(r.Dev)
	if err != nil {
		return explain(r, err)
	}
	table, err := List()
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(table, func(e Entry) bool { return e.Dst == r.Dst }); i >= 0 {
		return explain(r, windows.ERROR_OBJECT_ALREADY_EXISTS)
	}
	if r.Via.IsValid() {
		if _, err := luid.IPAddress(r.Via); err == nil {
			return fmt.Errorf("gateway %v is this host itself: %w", r.Via, windows.WSAEHOSTUNREACH)
		}
		if !onLink(r, table) {
			return explain(r, windows.WSAEHOSTUNREACH)
		}
	}
	if err := luid.AddRoute(r.Dst, nextHop(r), mark); err != nil {
		return explain(r, err)
	}
	row, err := luid.Route(r.Dst, nextHop(r))
	if err != nil {
		return fmt.Errorf("read it back: %w", err)
	}
	if !marked(row) {
		return fmt.Errorf("windows shows it as %s with metric %d, not %d: somebody changed it at once", owner(row), row.Metric, mark)
	}
	// A row under another name than the journal's would never be known as ours again.
	if now, err := adapter(r.Dev); err != nil || now != luid {
		return errors.Join(fmt.Errorf("adapter %s was renamed meanwhile", r.Dev), row.Delete())
	}
	return nil
}

// onLink tells whether r's gateway is in a subnet that r's adapter itself reaches.
func onLink(r Route, table []Entry) bool {
	return slices.ContainsFunc(table, func(e Entry) bool { return e.Dev == r.Dev && !e.Via.IsValid() && e.Dst.Contains(r.Via) })
}

// remove deletes the row if it is there as we made it. Windows deletes by adapter, destination and gateway alone.
func remove(r Route) error {
	r, ok := r.canonical()
	if !ok {
		return explain(r, windows.ERROR_INVALID_PARAMETER)
	}
	luid, err := adapter(r.Dev)
	if gone(err) {
		return nil // rows go with their adapter
	}
	if err != nil {
		return err
	}
	row, err := luid.Route(r.Dst, nextHop(r))
	if err == nil && marked(row) {
		err = row.Delete()
	}
	if gone(err) {
		return nil
	}
	return explain(r, err)
}

// gone is what Windows says of an adapter or a row that is not there.
func gone(err error) bool {
	return errors.Is(err, windows.ERROR_NOT_FOUND) || errors.Is(err, windows.ERROR_FILE_NOT_FOUND)
}

// adapter finds an adapter by its alias ("vEthernet (WSL)").
func adapter(alias string) (winipcfg.LUID, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return 0, fmt.Errorf("list adapters: %w", err)
	}
	for _, i := range ifs {
		if i.Name == alias {
			return winipcfg.LUIDFromIndex(uint32(i.Index))
		}
	}
	return 0, windows.ERROR_NOT_FOUND
}

// nextHop is r's gateway, and the unspecified address for none, as Windows writes an on-link row.
func nextHop(r Route) netip.Addr {
	switch {
	case r.Via.IsValid():
		return r.Via
	case r.Dst.Addr().Is4():
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// explain says for people what Windows means by err; errors.Is still finds the code.
func explain(r Route, err error) error {
	switch {
	case errors.Is(err, windows.ERROR_OBJECT_ALREADY_EXISTS):
		return fmt.Errorf("somebody's row for this destination is there and stays: %w", errExist{err})
	case errors.Is(err, windows.WSAEHOSTUNREACH):
		return fmt.Errorf("gateway %v is not on-link at %s: %w", r.Via, r.Dev, err)
	case gone(err):
		return fmt.Errorf("adapter %s is gone: %w; hint: start the VM or the network behind it again: the route is made when the adapter is back", r.Dev, err)
	case errors.Is(err, windows.ERROR_ACCESS_DENIED):
		return fmt.Errorf("changing routes needs an elevated prompt (Run as Administrator): %w", err)
	case errors.Is(err, windows.ERROR_NOT_SUPPORTED):
		return fmt.Errorf("adapter %s does not speak this IP version: %w", r.Dev, err)
	case errors.Is(err, windows.ERROR_INVALID_PARAMETER):
		return fmt.Errorf("windows finds no sense in it: %w", err)
	}
	return err
}

// errExist is ERROR_OBJECT_ALREADY_EXISTS, which package syscall does not count as fs.ErrExist.
type errExist struct{ error }

func (errExist) Is(target error) bool { return target == fs.ErrExist }
func (e errExist) Unwrap() error      { return e.error }
