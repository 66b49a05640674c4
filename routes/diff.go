package routes

import (
	"cmp"
	"net/netip"
	"slices"
)

// Plan is what Apply has to do (Add, Delete), and why it need not or must not do more. Each list is sorted by destination.
type Plan struct {
	Add     []Route   // wanted, and nothing else is there for this destination
	Delete  []Route   // ours, there, and no longer wanted
	Keep    []Route   // wanted, ours and there
	Foreign []Route   // wanted, and somebody else already made exactly this row: satisfied, not ours, never deleted
	Blocked []Blocked // wanted, but packets for this destination go, or would go, another way
}

// Blocked is a wanted row that must wait for another row of the same destination to go away.
type Blocked struct {
	Want Route
	By   Entry // the row with the best metric; a conflicting want has Owner "fairlead"
}

// Diff compares the rows that we want with the table. owned is what the journal says we made or were about to make.
//
// A row is ours when it is in owned and in the table, exactly equal (dst, via, dev), and Marked; only such rows are ever
// deleted. An owned row that is absent from the table is in no list: forget it. A row in Keep is in Blocked too when
// a foreign row with a better metric takes its packets.
//
// Destinations are masked and duplicates collapse. Of two wants for one destination the lower gateway wins, the other is
// Blocked. Rows that no table can hold (no Dst, no Dev, a gateway of the other family) are ignored.
func Diff(want, owned []Route, table []Entry) Plan {
	var p Plan

	mine := map[Route]bool{}
	for _, r := range owned {
		if r, ok := r.canonical(); ok {
			mine[r] = true
		}
	}
	wanted := map[netip.Prefix]Route{}
	for _, r := range canonical(want) {
		if first, taken := wanted[r.Dst]; taken {
			p.Blocked = append(p.Blocked, Blocked{Want: r, By: Entry{Route: first, Marked: true, Owner: "fairlead"}})
			continue
		}
		wanted[r.Dst] = r
	}

	staying := map[netip.Prefix][]Entry{}
	for _, e := range table {
		if e.Marked && mine[e.Route] && wanted[e.Dst] != e.Route {
			p.Delete = append(p.Delete, e.Route)
			continue
		}
		staying[e.Dst] = append(staying[e.Dst], e)
	}

	for dst, want := range wanted {
		rows := staying[dst]
		if len(rows) == 0 {
			p.Add = append(p.Add, want)
			continue
		}
		best := slices.MinFunc(rows, func(a, b Entry) int { return cmp.Compare(a.Metric, b.Metric) })
		switch {
		case slices.ContainsFunc(rows, func(e Entry) bool { return e.Marked && mine[want] && e.Route == want }):
			p.Keep = append(p.Keep, want)
		case best.Route == want:
			p.Foreign = append(p.Foreign, want)
		}
		if best.Route != want {
			p.Blocked = append(p.Blocked, Blocked{Want: want, By: best})
		}
	}

	p.Add, p.Delete, p.Keep, p.Foreign = canonical(p.Add), canonical(p.Delete), canonical(p.Keep), canonical(p.Foreign)
	slices.SortFunc(p.Blocked, func(a, b Blocked) int { return compare(a.Want, b.Want) })
	return p
}

// canonical returns the valid ones of rs, each once, sorted; nil for none.
func canonical(rs []Route) []Route {
	var out []Route
	for _, r := range rs {
		if r, ok := r.canonical(); ok {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, compare)
	return slices.Compact(out)
}

// Clashes returns the rows of table, in its order, that overlap dst: equal, wider or narrower. Default routes do not
// count, nor do the halves (0.0.0.0/1 and 128.0.0.0/1, ::/1 and 8000::/1) that VPNs put over them: those say
// "everything else". The caller decides which of the rows are its own.
func Clashes(dst netip.Prefix, table []Entry) []Entry {
	var found []Entry
	for _, e := range table {
		if e.Dst.Bits() > 1 && e.Dst.Overlaps(dst) {
			found = append(found, e)
		}
	}
	return found
}
