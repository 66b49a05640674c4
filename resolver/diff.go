package resolver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Entry is what Read found in the OS: something that carries our mark, or something foreign in the place where ours would go.
type Entry struct {
	Item
	Foreign string `json:"foreign,omitempty"` // why this place is not ours to change, and what to do; "" = carries our mark
}

// Step is one change: the zero Old means add, the zero New means delete, both set mean replace.
type Step struct {
	Old Item `json:"old,omitzero"`
	New Item `json:"new,omitzero"`
}

// String is one line for people: "add resolved fairlead0: 127.0.0.1:55353 ~docker".
func (s Step) String() string {
	switch {
	case s.Old == Item{}:
		return "add " + s.New.String()
	case s.New == Item{}:
		return "delete " + s.Old.String()
	}
	return fmt.Sprintf("replace %v by %q", s.Old, s.New.Value)
}

// Blocked is something that stays as it is, because it is not provably ours.
type Blocked struct {
	Item Item   `json:"item"` // what was wanted; where nothing was, what was found
	Why  string `json:"why"`  // whose it is, and the way out
}

// Plan is the difference between what is wanted and what is there.
type Plan struct {
	Steps   []Step    `json:"steps"`
	Keep    []Item    `json:"keep"`    // wanted, ours and there
	Foreign []Item    `json:"foreign"` // wanted and there, but not made by this journal: satisfied, not ours, never deleted
	Blocked []Blocked `json:"blocked"`

	// Owned is what the journal must hold before the plan is applied: what is ours still, and what we are about to make. It
	// stays right until the next Diff, whatever becomes of the steps: that one drops what it does not find.
	Owned []Item `json:"-"`
}

// Result is what became of one step. Err nil means that the OS was read again and shows it.
type Result struct {
	Step Step
	Err  error
}

// errChanged stops a step whose object is not what the plan saw; the next pass plans anew.
var errChanged = errors.New("changed by somebody since it was looked at")

// Diff compares what is wanted with what Read found. owned is the journal: what we made, or were about to.
//
// Only what the journal and the OS agree on is deleted or replaced. What was edited is not ours any more. An unwanted item
// that carries our mark without being in the journal (lost journal, a second fairlead) stays too, and is reported.
func Diff(want, owned []Item, found []Entry) Plan {
	var p Plan
	want, p.Blocked = expandRules(want, found)
	for _, at := range places(want, owned, found) {
		p.diffPlace(at, pick(want, at), pick(owned, at), slices.DeleteFunc(slices.Clone(found), func(e Entry) bool { return !at.holds(e.Item) }))
	}
	return p
}

// diffPlace is Diff for the items of one place.
func (p *Plan) diffPlace(at place, want, owned []Item, found []Entry) {
	var mine, others []Item
	foreign := ""
	for _, e := range found {
		switch {
		case e.Foreign != "":
			foreign = e.Foreign
		case slices.Contains(owned, e.Item), unfinished(e.Item, owned):
			mine = append(mine, e.Item)
		default:
			others = append(others, e.Item)
		}
	}
	for _, w := range want {
		switch {
		case slices.Contains(mine, w):
			mine = slices.Delete(mine, slices.Index(mine, w), slices.Index(mine, w)+1)
			p.Keep = append(p.Keep, w)
			p.Owned = append(p.Owned, w)
		case slices.Contains(others, w):
			others = slices.Delete(others, slices.Index(others, w), slices.Index(others, w)+1)
			p.Foreign = append(p.Foreign, w)
		case foreign != "":
			p.Blocked = append(p.Blocked, Blocked{w, foreign})
		case len(mine) > 0:
			p.step(Step{mine[0], w}, owned)
			mine = mine[1:]
		case len(others) > 0:
			p.Blocked = append(p.Blocked, Blocked{w, edited(others[0])})
			others = others[1:]
		default:
			p.step(Step{Item{}, w}, nil)
		}
	}
	for _, m := range mine {
		p.step(Step{m, Item{}}, owned)
	}
	for _, o := range others {
		p.Blocked = append(p.Blocked, Blocked{o, edited(o)})
	}
}

// step plans s. Whatever the journal says of its place stays owned until the change has been seen.
func (p *Plan) step(s Step, owned []Item) {
	p.Steps = append(p.Steps, s)
	for _, i := range append(slices.Clone(owned), s.New) {
		if i != (Item{}) && !slices.Contains(p.Owned, i) {
			p.Owned = append(p.Owned, i)
		}
	}
}

// unfinished tells whether found is a part of what the journal says, with nothing added: what a crash in the middle or a
// restarted systemd-resolved leaves of our link, or a crash of our rule. A file changes as a whole, so its block has no such state.
func unfinished(found Item, owned []Item) bool {
	if found.Method != Resolved && found.Method != NRPT || len(owned) == 0 {
		return false
	}
	var words []string
	for _, o := range owned {
		words = append(words, strings.Fields(o.Value)...)
	}
	return !slices.ContainsFunc(strings.Fields(found.Value), func(w string) bool { return !slices.Contains(words, w) })
}

func edited(i Item) string {
	undo := "delete our lines, from \"" + blockBegin + "\" to \"" + blockEnd + "\", in " + i.Key
	switch i.Method {
	case Resolved:
		undo = "ip link delete " + i.Key
	case EtcResolver:
		undo = "rm " + i.Key
	case NRPT:
		undo = `reg delete "` + i.Key + `" /f`
	}
	return fmt.Sprintf("%v: not what the journal says that we made, so it is left alone; to be rid of it: %s", i, undo)
}

// place is where an item is. It holds one item of ours, or copies of it where somebody made copies.
type place struct {
	method Method
	key    string
}

func (at place) holds(i Item) bool { return at == place{i.Method, i.Key} }

func pick(items []Item, at place) []Item {
	return slices.DeleteFunc(slices.Clone(items), func(i Item) bool { return !at.holds(i) })
}

// places are those of all arguments, deletions' first: a name is asked in one place at a time when the method changes.
func places(want, owned []Item, found []Entry) []place {
	var unwanted, wanted []place
	for _, w := range want {
		wanted = append(wanted, place{w.Method, w.Key})
	}
	for _, e := range found {
		owned = append(slices.Clone(owned), e.Item)
	}
	for _, i := range owned {
		if at := (place{i.Method, i.Key}); !slices.Contains(wanted, at) {
			unwanted = append(unwanted, at)
		}
	}
	all, seen := append(unwanted, wanted...), []place{}
	for _, at := range all {
		if !slices.Contains(seen, at) {
			seen = append(seen, at)
		}
	}
	return seen
}
