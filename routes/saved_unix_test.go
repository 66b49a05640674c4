//go:build linux || darwin

package routes

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// takenOut takes a row that somebody made by `ip route add LINE` out of the table, has ours in its place, and puts it back.
// gateway is any other on the same link.
func takenOut(t *testing.T, line, gateway string) {
	t.Helper()
	words := strings.Fields(line)
	r := route(strings.Join(words[:5], " "))
	family := "-4"
	if r.Dst.Addr().Is6() {
		family = "-6"
	}
	ip(t, family+" route add "+line)
	start := shown(t)
	s, err := Save(r)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	if d := cmp.Diff(start, shown(t)); d != "" {
		t.Errorf("%s: saving it changed the table: %s", line, d)
	}
	if back, err := s.PutBack(); !back || err != nil || start != shown(t) {
		t.Errorf("%s: put back while it is there: %v, %v", line, back, err)
	}
	if err := s.TakeOut(); err != nil || strings.Contains(shown(t), words[0]+" via") {
		t.Errorf("%s: take out: %v\n%s", line, err, shown(t))
	}
	if err := s.TakeOut(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: take out twice: %v", line, err)
	}
	if !strings.Contains(line, "onlink") { // which ours never is
		if err := add(r); err != nil { // ours is there: nothing is put back over it
			t.Fatal(err)
		}
		if back, err := s.PutBack(); back || !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: put back over ours: %v, %v", line, back, err)
		}
		if _, err := Save(r); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: ours was saved as somebody's: %v", line, err)
		}
		if err := remove(r); err != nil {
			t.Fatal(err)
		}
	}
	other := family + " route add " + words[0] + " via " + gateway + " dev " + r.Dev
	ip(t, other)
	there := shown(t)
	if back, err := s.PutBack(); back || !errors.Is(err, fs.ErrExist) || there != shown(t) {
		t.Errorf("%s: put back beside somebody's: %v, %v", line, back, err)
	}
	ip(t, strings.Replace(other, "route add", "route del", 1))
	if back, err := s.PutBack(); !back || err != nil {
		t.Errorf("%s: put back: %v, %v", line, back, err)
	}
	if d := cmp.Diff(start, shown(t)); d != "" {
		t.Errorf("%s: not as it was: %s", line, d)
	}
	ip(t, family+" route del "+words[0]+" via "+r.Via.String()+" dev "+r.Dev)
}
