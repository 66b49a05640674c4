package routes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
	"golang.zx2c4.com/wireguard/windows/tunnel/winipcfg"
)

// unused are destinations that no machine has a reason to have rows for (RFC 2544, RFC 3849); the tests do.
var unused = []netip.Prefix{netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("2001:db8:f1ea::/48")}

// system finds two adapters of this machine: one with an IPv4 subnet, and the loopback. In the routes that fill reads,
// NEAR and FAR are their names, SELF, ONE and TWO addresses in the subnet. Nobody has to be at ONE and TWO: Windows asks no gateway.
func system(t *testing.T) (fill func(string) Route) {
	t.Helper()
	if os.Getenv("FAIRLEAD_TEST_SYSTEM") != "windows" {
		t.Skip("changes routes of this machine: set FAIRLEAD_TEST_SYSTEM=windows to allow that")
	}
	ifs, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, i := range ifs {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		if i.Flags&net.FlagLoopback != 0 {
			names["FAR"] = i.Name
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			p := netip.MustParsePrefix(a.String())
			if p.Addr().Is4() && p.Bits() <= 29 && names["NEAR"] == "" {
				names["NEAR"], names["SELF"] = i.Name, p.Addr().String()
				one := p.Masked().Addr().Next()
				for _, name := range []string{"ONE", "TWO"} {
					if one == p.Addr() {
						one = one.Next()
					}
					names[name], one = one.String(), one.Next()
				}
			}
		}
	}
	if len(names) != 5 {
		t.Fatalf("no loopback adapter, or no other with an IPv4 subnet: %v", names)
	}
	fill = func(s string) Route {
		f := strings.Fields(s)
		for i := range f {
			if name, ok := names[f[i]]; ok {
				f[i] = name
			}
		}
		r := Route{Dst: netip.MustParsePrefix(f[0]), Dev: f[len(f)-1]}
		if f[1] == "via" {
			r.Via = netip.MustParseAddr(f[2])
		}
		return r
	}
	sweep(t)
	t.Cleanup(func() { sweep(t) })
	return fill
}

// rows are the rows of the unused destinations.
func rows(t *testing.T) []winipcfg.MibIPforwardRow2 {
	t.Helper()
	rows, err := winipcfg.GetIPForwardTable2(windows.AF_UNSPEC)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(rows, func(r winipcfg.MibIPforwardRow2) bool {
		return !slices.ContainsFunc(unused, r.DestinationPrefix.Prefix().Overlaps)
	})
}

func sweep(t *testing.T) {
	for _, r := range rows(t) {
		if err := r.Delete(); err != nil {
			t.Error(err)
		}
	}
}

func list(t *testing.T) []Entry {
	t.Helper()
	table, err := List()
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// somebody adds r with a metric that is not ours.
func somebody(t *testing.T, r Route, metric uint32) {
	t.Helper()
	luid, err := adapter(r.Dev)
	if err == nil {
		err = luid.AddRoute(r.Dst, nextHop(r), metric)
	}
	if err != nil {
		t.Fatalf("add %v: %v", r, err)
	}
}

// apply applies the plan for want and reports errors of its steps.
func apply(t *testing.T, want, owned []Route) Plan {
	t.Helper()
	p := Diff(want, owned, list(t))
	for _, r := range Apply(p) {
		if r.Err != nil {
			t.Error(r.Err)
		}
	}
	return p
}

func TestSystemRoundTrip(t *testing.T) {
	fill := system(t)
	for name, tt := range map[string]struct{ first, second, also string }{
		"IPv4 by gateway": {"198.18.0.0/16 via ONE dev NEAR", "198.18.0.0/16 via TWO dev NEAR", "198.18.0.0/24 via ONE dev NEAR"},
		"IPv4 by link":    {"198.18.0.0/16 dev NEAR", "198.18.0.0/16 dev FAR", "198.18.2.3/32 dev NEAR"},
		"IPv4 both":       {"198.18.0.0/16 dev FAR", "198.18.0.0/16 via TWO dev NEAR", "198.19.0.0/16 dev FAR"},
		"IPv6 by gateway": {"2001:db8:f1ea:1::/64 via fe80::2 dev NEAR", "2001:db8:f1ea:1::/64 via fe80::3 dev NEAR", "2001:db8:f1ea:2::/64 dev FAR"},
		"IPv6 by link":    {"2001:db8:f1ea:1::/64 dev NEAR", "2001:db8:f1ea:1::/64 dev FAR", "2001:db8:f1ea::7/128 dev NEAR"},
	} {
		t.Run(name, func(t *testing.T) {
			start := list(t)
			want := []Route{fill(tt.first), fill(tt.also)}
			if p := apply(t, want, nil); len(p.Add) != 2 {
				t.Fatalf("first plan: %+v", p)
			}
			for _, r := range want {
				if !slices.ContainsFunc(list(t), func(e Entry) bool { return e.Route == r && e.Marked && e.Owner == "netmgmt, fairlead's mark" }) {
					t.Errorf("%v is not in %+v", r, list(t))
				}
			}
			standing := list(t)
			if d := cmp.Diff(Plan{Keep: canonical(want)}, apply(t, want, want), values); d != "" {
				t.Errorf("second time: %s", d)
			}
			if d := cmp.Diff(standing, list(t), values); d != "" {
				t.Errorf("second time: %s", d)
			}

			moved := []Route{fill(tt.second), fill(tt.also)}
			p := apply(t, moved, want)
			if d := cmp.Diff(Plan{Delete: want[:1], Add: moved[:1], Keep: want[1:]}, p, values); d != "" {
				t.Errorf("moved: %s", d)
			}
			p = apply(t, nil, moved)
			if d := cmp.Diff(Plan{Delete: canonical(moved)}, p, values); d != "" {
				t.Errorf("teardown: %s", d)
			}
			if d := cmp.Diff(start, list(t), values); d != "" {
				t.Errorf("not as at the start: %s", d)
			}
			for _, r := range Apply(p) {
				if r.Err != nil {
					t.Errorf("deleting the absent: %v", r.Err)
				}
			}
		})
	}
}

func TestSystemForeignRowsStay(t *testing.T) {
	fill := system(t)
	const want = "198.18.0.0/16 via ONE dev NEAR"
	for _, tt := range []struct {
		name, foreign string
		metric        uint32
		plan          string
	}{
		{"exactly equal", want, 7, "foreign"},
		{"exactly equal, our mark, not in the journal", want, mark, "foreign"},
		{"other gateway, Windows would take both", "198.18.0.0/16 via TWO dev NEAR", 7, "blocked"},
		{"other gateway, our mark", "198.18.0.0/16 via TWO dev NEAR", mark, "blocked"},
		{"other adapter", "198.18.0.0/16 dev FAR", 7, "blocked"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer sweep(t)
			somebody(t, fill(tt.foreign), tt.metric)
			before := rows(t)
			want := fill(want)

			p := apply(t, []Route{want}, nil)
			if got := map[bool]string{len(p.Foreign) == 1: "foreign", len(p.Blocked) == 1: "blocked"}[true]; got != tt.plan || len(p.Add)+len(p.Delete) > 0 {
				t.Errorf("plan %+v, want it %s", p, tt.plan)
			}
			// It came after our look at the table.
			err := Apply(Plan{Add: []Route{want}})[0].Err
			if !errors.Is(err, fs.ErrExist) || !errors.Is(err, windows.ERROR_OBJECT_ALREADY_EXISTS) || !strings.Contains(fmt.Sprint(err), "stays") {
				t.Errorf("add beside it: %v", err)
			}
			if tt.metric != mark {
				if err := Apply(Plan{Delete: []Route{fill(tt.foreign)}})[0].Err; err != nil {
					t.Errorf("delete what is not there as ours: %v", err)
				}
			}
			if !slices.Equal(before, rows(t)) {
				t.Errorf("rows %+v\nbecame %+v", before, rows(t))
			}
		})
	}
}

func TestSystemRowChangedBySomebodyIsNotOurs(t *testing.T) {
	fill := system(t)
	want := []Route{fill("198.18.0.0/16 via ONE dev NEAR")}
	apply(t, want, nil)
	row := rows(t)[0]
	row.Metric = 5
	if err := row.Set(); err != nil {
		t.Fatal(err)
	}
	before := rows(t)
	if p := apply(t, nil, want); len(p.Delete) > 0 {
		t.Errorf("plan %+v", p)
	}
	if err := remove(want[0]); err != nil || !slices.Equal(before, rows(t)) {
		t.Errorf("remove: %v, rows %+v, want %+v", err, rows(t), before)
	}
}

// A row that somebody made by hand, and that is persistent, is taken out and put back as it was.
func TestSystemTakenOut(t *testing.T) {
	fill := system(t)
	r := fill("198.18.0.0/16 via ONE dev NEAR")
	k, _, err := registry.CreateKey(registry.LOCAL_MACHINE, persistentKey, registry.ALL_ACCESS)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	name := fmt.Sprintf("198.18.0.0,255.255.0.0,%v,7", r.Via)
	if err := k.SetStringValue(name, ""); err != nil {
		t.Fatal(err)
	}
	defer k.DeleteValue(name)
	somebody(t, r, 7)
	before := rows(t)
	s, err := Save(r)
	if err != nil || !slices.Equal(s.Lasting, []string{name}) {
		t.Fatalf("%+v, %v", s, err)
	}
	if err := s.TakeOut(); err != nil || len(rows(t)) > 0 || slices.ContainsFunc(PersistentRows(), func(p Persistent) bool { return p.Name == name }) {
		t.Errorf("take out: %v, %+v, %v", err, rows(t), PersistentRows())
	}
	if back, err := s.PutBack(); !back || err != nil || !slices.ContainsFunc(PersistentRows(), func(p Persistent) bool { return p.Name == name }) {
		t.Errorf("put back: %v, %v, %v", back, err, PersistentRows())
	}
	after := rows(t)
	for i := range after {
		after[i].Age = before[i].Age
	}
	if !slices.Equal(before, after) {
		t.Errorf("rows %+v\nbecame %+v", before, after)
	}
}

func TestSystemErrors(t *testing.T) {
	fill := system(t)
	start := list(t)
	for _, tt := range []struct {
		add, text string
		is        error
	}{
		{"198.18.0.0/16 via 203.0.113.9 dev NEAR", "gateway 203.0.113.9 is not on-link at", windows.WSAEHOSTUNREACH},
		{"198.18.0.0/16 via SELF dev NEAR", "is this host itself", windows.WSAEHOSTUNREACH},
		{"198.18.0.0/16 via ONE dev GONE", "adapter GONE is gone", windows.ERROR_NOT_FOUND},
		{"198.18.0.0/16 via fe80::2 dev NEAR", "no sense", windows.ERROR_INVALID_PARAMETER},
	} {
		err := Apply(Plan{Add: []Route{fill(tt.add)}})[0].Err
		if !errors.Is(err, tt.is) || !strings.Contains(fmt.Sprint(err), tt.text) {
			t.Errorf("add %s: %v", tt.add, err)
		}
	}
	// As when the adapter goes between our look at it and the row.
	r := fill("198.18.0.0/16 dev NEAR")
	if err := explain(r, winipcfg.LUID(0xf1ea1e<<24).AddRoute(r.Dst, nextHop(r), mark)); !gone(err) || !strings.Contains(err.Error(), "is gone") || !strings.Contains(err.Error(), "; hint: ") {
		t.Errorf("add to an adapter that went meanwhile: %v", err)
	}
	if err := Apply(Plan{Delete: []Route{fill("198.18.0.0/16 via ONE dev GONE")}})[0].Err; err != nil {
		t.Errorf("delete on an adapter that is gone: %v", err)
	}
	if d := cmp.Diff(start, list(t), values); d != "" {
		t.Error(d)
	}
}

func TestSystemWatch(t *testing.T) {
	fill := system(t)
	ctx, cancel := context.WithCancel(t.Context())
	fired, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- Watch(ctx, func() {
			select {
			case fired <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Watch returned %v", err)
		}
	})
	await := func(what string, done func() bool) {
		t.Helper()
		deadline := time.After(30 * time.Second)
		for {
			select {
			case <-fired:
				if done() {
					return
				}
			case <-deadline:
				t.Fatalf("not told: %s", what)
			}
		}
	}
	await("start", func() bool { return true })

	four, six := fill("198.18.0.0/16 via ONE dev NEAR"), fill("2001:db8:f1ea:1::/64 dev NEAR")
	there := func(r Route) bool {
		return slices.ContainsFunc(list(t), func(e Entry) bool { return e.Route == r })
	}
	apply(t, []Route{four, six}, nil)
	await("our own routes", func() bool { return there(four) && there(six) })
	sweep(t)
	await("routes removed behind our back", func() bool { return !there(four) && !there(six) })
	somebody(t, four, 7)
	await("somebody's route", func() bool { return there(four) })

	luid, err := adapter(four.Dev)
	if err != nil {
		t.Fatal(err)
	}
	held := netip.MustParsePrefix("198.19.255.1/32")
	has := func() bool {
		_, err := luid.IPAddress(held.Addr())
		return err == nil
	}
	if err := luid.AddIPAddress(held); err != nil {
		t.Fatal(err)
	}
	await("address added", has)
	if err := luid.DeleteIPAddress(held); err != nil {
		t.Fatal(err)
	}
	await("address removed", func() bool { return !has() })
}

func TestWatchEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	if err := Watch(ctx, cancel); err != nil { // the first call ends it
		t.Error(err)
	}
	calls := 0
	if err := Watch(ctx, func() { calls++ }); err != nil || calls > 0 {
		t.Errorf("with a context that is done: %v, %d calls", err, calls)
	}
}

// Whatever machine this is, List finds its subnets and takes no row of it for ours.
func TestListThisMachine(t *testing.T) {
	table := list(t)
	if p := Diff(nil, nil, table); len(p.Delete) > 0 {
		t.Errorf("would delete %v", p.Delete)
	}
	for _, e := range table {
		if !e.Dst.IsValid() || e.Owner == "" || e.Via.IsUnspecified() || e.Dst.Addr().IsLoopback() && e.Dst.IsSingleIP() {
			t.Errorf("row %+v", e)
		}
	}
}

func TestExplain(t *testing.T) {
	r := route("10.1.0.0/16 via 10.0.0.2 dev a")
	for code, tt := range map[windows.Errno]struct {
		is   error
		text string
	}{
		windows.ERROR_OBJECT_ALREADY_EXISTS: {fs.ErrExist, "somebody's row for this destination"},
		windows.ERROR_ACCESS_DENIED:         {fs.ErrPermission, "Run as Administrator"},
		windows.ERROR_NOT_FOUND:             {windows.ERROR_NOT_FOUND, "adapter a is gone"},
		windows.ERROR_FILE_NOT_FOUND:        {fs.ErrNotExist, "adapter a is gone"},
		windows.ERROR_NOT_SUPPORTED:         {errors.ErrUnsupported, "adapter a does not speak this IP version"},
		windows.WSAEHOSTUNREACH:             {windows.WSAEHOSTUNREACH, "gateway 10.0.0.2 is not on-link at a"},
	} {
		err := explain(r, code)
		if !errors.Is(err, tt.is) || !errors.Is(err, code) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%d: %v", code, err)
		}
	}
	if err := explain(r, nil); err != nil {
		t.Error(err)
	}
}

func row(t *testing.T, dst, via string, index uint32, protocol winipcfg.RouteProtocol, metric uint32) *winipcfg.MibIPforwardRow2 {
	t.Helper()
	r := &winipcfg.MibIPforwardRow2{InterfaceIndex: index, InterfaceLUID: winipcfg.LUID(index) << 24, Protocol: protocol, Metric: metric}
	if err := errors.Join(r.DestinationPrefix.SetPrefix(netip.MustParsePrefix(dst)), r.NextHop.SetAddr(netip.MustParseAddr(via))); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestParseRow(t *testing.T) {
	const local, netmgmt = winipcfg.RouteProtocolLocal, winipcfg.RouteProtocolNetMgmt
	for _, tt := range []struct {
		row  *winipcfg.MibIPforwardRow2
		want string // empty: not shown
	}{
		{row(t, "10.1.0.0/16", "192.0.2.2", 2, netmgmt, mark), "10.1.0.0/16 via 192.0.2.2 dev vEthernet (WSL) by netmgmt, fairlead's mark, metric 233, marked true"},
		{row(t, "10.1.0.0/16", "192.0.2.2", 2, netmgmt, 256), "10.1.0.0/16 via 192.0.2.2 dev vEthernet (WSL) by netmgmt, metric 281, marked false"},
		{row(t, "10.1.0.0/16", "0.0.0.0", 2, winipcfg.RouteProtocolDHCP, mark), "10.1.0.0/16 dev vEthernet (WSL) by dhcp, metric 233, marked false"},
		{row(t, "fd01::/64", "fe80::2%2", 2, netmgmt, mark), "fd01::/64 via fe80::2 dev vEthernet (WSL) by netmgmt, fairlead's mark, metric 213, marked true"},
		{row(t, "fd01::/64", "::", 3, 77, 1), "fd01::/64 by protocol 77, metric 1, marked false"},
		{row(t, "10.1.0.0/16", "0.0.0.0", 2, local, 256), "10.1.0.0/16 dev vEthernet (WSL) by local, metric 281, marked false"},
		{row(t, "10.1.0.9/32", "0.0.0.0", 2, local, 256), ""},
		{row(t, "10.1.0.9/32", "0.0.0.0", 2, netmgmt, 1), "10.1.0.9/32 dev vEthernet (WSL) by netmgmt, metric 26, marked false"},
		{row(t, "127.0.0.0/8", "0.0.0.0", 1, local, 256), ""},
		{row(t, "224.0.0.0/4", "0.0.0.0", 2, local, 256), ""},
		{row(t, "ff00::/8", "::", 2, local, 256), ""},
		{&winipcfg.MibIPforwardRow2{}, ""},
	} {
		e, ok := parseRow(tt.row, map[uint32]string{2: "vEthernet (WSL)"}, map[stack]uint32{{2 << 24, windows.AF_INET}: 25, {2 << 24, windows.AF_INET6}: 5})
		got := ""
		if ok {
			got = fmt.Sprintf("%v by %s, metric %d, marked %v", e.Route, e.Owner, e.Metric, e.Marked)
		}
		if got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func FuzzParseRow(f *testing.F) {
	const size = int(unsafe.Sizeof(winipcfg.MibIPforwardRow2{}))
	f.Add(make([]byte, size))
	f.Add(slices.Repeat([]byte{0xff}, size))
	f.Add(slices.Repeat([]byte{windows.AF_INET, 0}, size/2))
	f.Add(slices.Repeat([]byte{windows.AF_INET6, 0}, size/2))
	f.Fuzz(func(t *testing.T, b []byte) {
		var row winipcfg.MibIPforwardRow2
		for i := range min(len(b), size) {
			switch uintptr(i) { // a bool that is neither is no Go value
			case unsafe.Offsetof(row.Loopback), unsafe.Offsetof(row.AutoconfigureAddress), unsafe.Offsetof(row.Publish), unsafe.Offsetof(row.Immortal):
				continue
			}
			*(*byte)(unsafe.Add(unsafe.Pointer(&row), i)) = b[i]
		}
		e, ok := parseRow(&row, map[uint32]string{2: "a"}, nil)
		switch {
		case !ok && e != Entry{}:
			t.Errorf("no row, and yet %+v", e)
		case ok && (!e.Dst.IsValid() || e.Dst != e.Dst.Masked() || e.Owner == "" || e.Via.Zone() != "" || e.Via.IsUnspecified()):
			t.Errorf("no row: %+v", e)
		case e.Marked && row.Metric != mark:
			t.Errorf("marked, and by somebody else: %+v", e)
		}
	})
}
