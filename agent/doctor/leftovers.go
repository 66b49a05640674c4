package doctor

import (
	"context"

	"github.com/fairlead-dev/fairlead/routes"
)

// Leftover is something of another tool that does, or did, what fairlead does.
type Leftover struct {
	What string `json:"what"` // where it is, and whose
	Why  string `json:"why"`  // what it does to us
	Hint string `json:"hint"` // the command that removes it
}

// traces are where other tools leave themselves.
type traces struct{}

func findTraces(context.Context, []routes.Entry) traces { return traces{} }

func leftovers(traces) []Leftover { return nil }
