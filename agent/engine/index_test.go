package engine

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
)

// TestIndex: whatever is added and removed, the index has what a map has, and no more.
func TestIndex(t *testing.T) {
	t.Parallel()
	type pair struct {
		text   string
		number uint32
	}
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		var x Index
		want := map[pair]bool{}
		some := func() pair {
			return pair{[]string{"", "web", fmt.Sprint(r.IntN(1 + int(seed)*10))}[r.IntN(3)], []uint32{0, 1, 1<<32 - 1, r.Uint32N(50)}[r.IntN(4)]}
		}
		for range 2000 {
			switch p := some(); {
			case want[p] || r.IntN(4) == 0:
				if had := x.Remove(p.text, p.number); had != want[p] {
					t.Fatalf("seed %d: removing %v: %v", seed, p, had)
				}
				delete(want, p)
			default:
				x.Add(p.text, p.number)
				want[p] = true
			}
			if p := some(); x.Has(p.text, p.number) != want[p] || x.Len() != len(want) {
				t.Fatalf("seed %d: %v is there: %v; %d, want %d", seed, p, !want[p], x.Len(), len(want))
			}
		}
		got := map[pair]bool{}
		for p := range want {
			x.Find(p.text, func(number uint32) bool {
				got[pair{p.text, number}] = true
				return false
			})
			if n, ok := x.Find(p.text, func(number uint32) bool { return number == p.number }); n != p.number || !ok {
				t.Fatalf("seed %d: %v is found as %d, %v", seed, p, n, ok)
			}
		}
		if !maps.Equal(got, want) {
			t.Fatalf("seed %d: %v, want %v", seed, got, want)
		}
		for p := range want {
			x.Remove(p.text, p.number)
		}
		for _, w := range x.words {
			if w != 0 || x.Len() != 0 {
				t.Fatalf("seed %d: %x is left", seed, w)
			}
		}
	}
}

// TestIndexSize: an index takes at most 20 bytes for a number once it has many.
func TestIndexSize(t *testing.T) {
	t.Parallel()
	var x Index
	for i := range uint32(100_000) {
		if x.Add(fmt.Sprint(i), i); i > 1000 && 8*len(x.words) > 20*x.Len() {
			t.Fatalf("%d words for %d", len(x.words), x.Len())
		}
	}
}
