package agent

import (
	"testing"
	"time"
)

// TestAskingPace: some questions at once reach the engines, then none, and after a while one again.
func TestAskingPace(t *testing.T) {
	var q asking
	for range asks {
		if !q.may() || !q.begin() {
			t.Fatal("not allowed at first")
		}
	}
	if q.may() || q.begin() {
		t.Error("allowed for ever")
	}
	for deadline := time.Now().Add(20 * time.Second); !q.begin(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never allowed again")
		}
	}
}

// TestNothingNew: a flood waits for nothing once the engines were asked, but for a pass that is due.
func TestNothingNew(t *testing.T) {
	a := &Agent{names: newDirectory(), wake: make(chan struct{}, 1), passed: make(chan struct{})}
	a.setEngines(nil)
	if a.nothingNew() {
		t.Error("nothing new before anybody was asked")
	}
	a.asking.out.Store(asks)
	if !a.nothingNew() {
		t.Error("something new, but what?")
	}
	a.mark(dirty{names: true})
	if a.nothingNew() {
		t.Error("nothing new while a pass is due")
	}
	a.pass(t.Context())
	if !a.nothingNew() {
		t.Error("something new after the pass")
	}
}
