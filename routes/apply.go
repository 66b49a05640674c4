package routes

import (
	"fmt"
	"slices"
)

// Op is what was done to a row: "add" or "delete".
type Op string

const (
	Add    Op = "add"
	Delete Op = "delete"
)

// Result is one step of Apply. Err is nil when the OS has confirmed it.
type Result struct {
	Route Route
	Op    Op
	Err   error
}

// Apply carries out p.Delete and p.Add, by destination and within one destination deletes first: tables are keyed by
// destination, so the row that is going would keep the new one out.
//
// Each step succeeds or fails alone; results come in the order of the steps. Adding where a row already is fails
// (errors.Is fs.ErrExist) and never replaces it. Deleting an absent row succeeds. Without the right to change
// routes errors are fs.ErrPermission; on an OS that is not covered yet, errors.ErrUnsupported.
func Apply(p Plan) []Result {
	return p.apply(add, remove)
}

func (p Plan) apply(add, remove func(Route) error) []Result {
	var steps []Result
	for _, r := range p.Delete {
		steps = append(steps, Result{Route: r, Op: Delete})
	}
	for _, r := range p.Add {
		steps = append(steps, Result{Route: r, Op: Add})
	}
	// Stable: deletes stay before adds.
	slices.SortStableFunc(steps, func(a, b Result) int { return a.Route.Dst.Compare(b.Route.Dst) })

	do := map[Op]func(Route) error{Add: add, Delete: remove}
	for i, s := range steps {
		if err := do[s.Op](s.Route); err != nil {
			steps[i].Err = fmt.Errorf("%s route %v: %w", s.Op, s.Route, err)
		}
	}
	return steps
}
