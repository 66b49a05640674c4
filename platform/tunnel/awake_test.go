package tunnel

import (
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// What may be kept awake follows from what passes.
func TestBudget(t *testing.T) {
	for _, c := range []struct {
		name        string
		bytes       int64 // a vigil
		least, most float64
	}{
		{"a trickle", 100, 0.04, 0.06},
		{"ten Mbit/s", 10e6 / 8 * 15 / 1000, 0.07, 0.1},
		{"a Gbit/s", 1e9 / 8 * 15 / 1000, 0.995, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := budget{credit: mostCredit}
			var now, awake time.Duration
			was := false
			for now < mostCredit {
				if was = b.spend(now, was, c.bytes); !was {
					t.Fatalf("its credit has ended after %v", now)
				}
				now += vigil
			}
			for ; now < time.Hour; now += vigil {
				if was = b.spend(now, was, c.bytes); was {
					awake += vigil
				}
			}
			if part := float64(awake) / float64(time.Hour-mostCredit); part < c.least || part > c.most+0.005 {
				t.Errorf("awake for %.3f of the time, want %v to %v", part, c.least, c.most)
			}
			now += 2 * mostCredit * trickle
			if b.spend(now, false, 0); b.credit != mostCredit {
				t.Errorf("a rest gives it %v", b.credit)
			}
		})
	}
}

func TestWakeful(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now atomic.Bool
		var turns atomic.Int32
		w := newWakeful(void{}, func(awake bool) {
			if now.Swap(awake) == awake {
				t.Errorf("told twice that it is %v", awake)
			}
			turns.Add(1)
		})
		want := func(awake bool, after int32) {
			t.Helper()
			synctest.Wait()
			if now.Load() != awake || turns.Load() != after {
				t.Errorf("awake %v after %d turns, want %v after %d", now.Load(), turns.Load(), awake, after)
			}
		}
		want(false, 0)
		w.write(make([]byte, 100), 0, header{}, false)
		want(true, 1)
		for range 100 {
			time.Sleep(vigil * 2 / 3)
			w.read(make([]byte, slotLen), nil)
		}
		want(true, 1)
		time.Sleep(2 * vigil)
		want(false, 2)
		time.Sleep(time.Hour)
		want(false, 2)
		w.read(make([]byte, slotLen), nil)
		want(true, 3)
		time.Sleep(2 * vigil)
		want(false, 4)
	})
}

// void takes and gives packets of 100 bytes.
type void struct{ io.Closer }

func (void) read([]byte, func()) (int, bool, error) { return 100, false, nil }
func (void) write([]byte, int, header, bool) error  { return nil }
