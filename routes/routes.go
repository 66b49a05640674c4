// Package routes reads and changes this host's route table, so that packets for containers leave by the right neighbour.
//
// Diff decides and is pure; List, Apply and Watch touch the OS, one file per OS. A row that somebody else made is never
// replaced and never deleted.
package routes

import (
	"cmp"
	"fmt"
	"net/netip"
)

// Route is a row that fairlead wants or made: packets for Dst leave by Dev, through the neighbour Via.
// The zero Via means that Dev itself takes the packets (a tunnel).
type Route struct {
	Dst netip.Prefix `json:"dst"`
	Via netip.Addr   `json:"via,omitzero"`
	Dev string       `json:"dev"`
}

// String is the row as `ip route` prints it: "172.17.0.0/16 via 192.168.99.100 dev vboxnet0".
func (r Route) String() string {
	s := r.Dst.String()
	if r.Via.IsValid() {
		s += fmt.Sprintf(" via %v", r.Via)
	}
	if r.Dev != "" {
		s += " dev " + r.Dev
	}
	return s
}

// canonical returns r in the one spelling that tables use: masked destination, unmapped gateway without zone (Dev says it).
// It reports false for what no table can hold: no destination, no link, a gateway of the other family or unspecified.
func (r Route) canonical() (Route, bool) {
	if !r.Dst.IsValid() || r.Dst.Addr().Is4In6() || r.Dev == "" {
		return Route{}, false
	}
	r.Dst = r.Dst.Masked()
	r.Via = r.Via.Unmap().WithZone("")
	if r.Via.IsValid() && (r.Via.Is4() != r.Dst.Addr().Is4() || r.Via.IsUnspecified()) {
		return Route{}, false
	}
	return r, true
}

func compare(a, b Route) int {
	return cmp.Or(a.Dst.Compare(b.Dst), a.Via.Compare(b.Via), cmp.Compare(a.Dev, b.Dev))
}

// Entry is a row as the OS's table shows it. A row that is no plain "via dev" (blackhole, multipath, source-specific...)
// has Dst, Owner and Metric only: enough to see a clash, never equal to a Route that can be wanted.
type Entry struct {
	Route
	Marked bool   `json:"marked"`           // carries fairlead's mark; a mark helps to find a row, the journal decides whose it is
	Owner  string `json:"owner"`            // who made it, as far as the OS tells: "kernel", "static", "dhcp", "protocol 77", "boot (blackhole)"
	Metric int    `json:"metric,omitempty"` // 0 is the most preferred
}
