// Package doctor checks every link between a name and its containers, and names the broken ones with the command that mends
// them. It works with the agent dead.
//
//	Gather (asks the agent, else the engines; the OS; our server) --> Facts --> Examine (pure) --> Report, for all
//	                                                                       \-> Follow (pure)  --> Report, for one name
//
// A new check is a line in examine.go; what it must know of this host is a field of Facts, filled in gather.go. leftovers.go
// knows what other tools leave behind. Whatever fails has a hint; what hangs on something broken is skipped, not red.
package doctor

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

const schema = 1 // grows when a reader of the JSON would misunderstand it

// State is what became of a check.
type State string

// The states of a check.
const (
	OK      State = "ok"
	Warn    State = "warn" // works, but somebody should know
	Fail    State = "fail"
	Skipped State = "skipped" // could not be looked at, Says tells why
)

// Check is one link.
type Check struct {
	Name   string   `json:"name"` // "engine dev", "subnet 172.17.0.0/16"
	State  State    `json:"state"`
	Says   string   `json:"says"`
	Hint   string   `json:"hint,omitempty"`  // the command that mends it; never empty where State is Fail
	Lines  []string `json:"lines,omitempty"` // to be copied as they are
	Checks []Check  `json:"checks,omitempty"`
}

// Report is a tree of checks.
type Report struct {
	Schema  int     `json:"schema"`
	Version string  `json:"version"`
	OK      bool    `json:"ok"` // nothing failed
	Broken  *Check  `json:"broken,omitempty"`
	Checks  []Check `json:"checks"`
	total   int
	failed  int
}

func ok(name, format string, args ...any) Check {
	return Check{Name: name, State: OK, Says: fmt.Sprintf(format, args...)}
}

func skip(name, format string, args ...any) Check {
	return Check{Name: name, State: Skipped, Says: fmt.Sprintf(format, args...)}
}

func warn(name, hint, format string, args ...any) Check {
	return Check{Name: name, State: Warn, Hint: hint, Says: fmt.Sprintf(format, args...)}
}

func fail(name, hint, format string, args ...any) Check {
	return Check{Name: name, State: Fail, Hint: hint, Says: fmt.Sprintf(format, args...)}
}

// with puts checks below c.
func (c Check) with(below ...Check) Check {
	c.Checks = append(slices.Clone(c.Checks), below...)
	return c
}

// report counts, and finds the first link that is broken.
func report(version string, checks []Check) Report {
	r := Report{Schema: schema, Version: version, Checks: checks}
	var walk func(checks []Check)
	walk = func(checks []Check) {
		for i := range checks {
			c := &checks[i]
			if r.total++; c.Says == "" && c.State != OK {
				c.Says = "nobody says why" // strangers' words may be missing
			}
			if c.State == Fail {
				if r.failed++; r.Broken == nil {
					first := *c
					first.Checks = nil
					r.Broken = &first
				}
			}
			walk(c.Checks)
		}
	}
	walk(checks)
	r.OK = r.failed == 0
	return r
}

// String is the report for people: a line for each check, indented as the tree is, and below it the hint. Whatever strangers
// chose in it is one line, without control characters.
func (r Report) String() string {
	var b strings.Builder
	width := 0
	var measure func(checks []Check, indent int)
	measure = func(checks []Check, indent int) {
		for _, c := range checks {
			width = max(width, min(indent+len([]rune(c.Name)), 32))
			measure(c.Checks, indent+2)
		}
	}
	measure(r.Checks, 0)
	var print func(checks []Check, indent int)
	print = func(checks []Check, indent int) {
		for _, c := range checks {
			line := fmt.Sprintf("%-7s  %-*s  %s", c.State, width, strings.Repeat(" ", indent)+c.Name, c.Says)
			fmt.Fprintln(&b, strings.TrimRight(plain(line), " "))
			margin := strings.Repeat(" ", 9+width+2)
			if c.Hint != "" {
				fmt.Fprintf(&b, "%shint: %s\n", margin, plain(c.Hint))
			}
			for _, l := range c.Lines {
				fmt.Fprintf(&b, "%s  %s\n", margin, plain(l))
			}
			print(c.Checks, indent+2)
		}
	}
	print(r.Checks, 0)
	return b.String()
}

// Summary is the last line of doctor: how many failed, and where to begin.
func (r Report) Summary() string {
	if r.OK {
		return fmt.Sprintf("%d checks, none failed", r.total)
	}
	return plain(fmt.Sprintf("%d checks, %d failed; begin with %s: %s", r.total, r.failed, r.Broken.Name, r.Broken.Hint))
}

// plain makes a text fit for one line of a terminal, and keeps its blanks.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
}
