package engine

import "hash/maphash"

// Index finds numbers by texts, in 8 bytes for each: of a text it keeps 32 bits of a hash, and not the text. So whoever is given a number
// has to tell whether it is the one that is meant. The zero Index is empty. A text may have several numbers, each once.
type Index struct {
	words []uint64 // open addressing; a power of two, at most 13/16 of them used; 0 is free
	used  int
}

// A word has a hash in its upper half, the first bit of which is always set, and a number in its lower.
const inUse = 1 << 63

var seed = maphash.MakeSeed() // names come from strangers, who must not choose where they lie

func wordOf(text string, number uint32) uint64 {
	return maphash.String(seed, text)<<32 | inUse | uint64(number)
}

// Len is how many numbers there are.
func (x *Index) Len() int { return x.used }

// Find gives the first of a text's numbers that is holds for. It may be asked about those of other texts, too.
func (x *Index) Find(text string, is func(number uint32) bool) (number uint32, ok bool) {
	if x.used == 0 {
		return 0, false
	}
	sought := wordOf(text, 0)
	for at := x.home(sought); x.words[at] != 0; at = x.next(at) {
		if w := x.words[at]; w>>32 == sought>>32 && is(uint32(w)) {
			return uint32(w), true
		}
	}
	return 0, false
}

// Has tells whether a text has that number, or another text of the same hash.
func (x *Index) Has(text string, number uint32) bool {
	_, ok := x.Find(text, func(n uint32) bool { return n == number })
	return ok
}

// Add gives a text a number that it does not have.
func (x *Index) Add(text string, number uint32) {
	if x.used*16 >= len(x.words)*13 {
		old := x.words
		x.words = make([]uint64, max(16, 2*len(old)))
		for _, w := range old {
			x.put(w)
		}
	}
	x.put(wordOf(text, number))
	x.used++
}

// Remove takes a number from a text, and tells whether that had it.
func (x *Index) Remove(text string, number uint32) bool {
	if x.used == 0 {
		return false
	}
	gone := wordOf(text, number)
	at := x.home(gone)
	for x.words[at] != gone {
		if x.words[at] == 0 {
			return false
		}
		at = x.next(at)
	}
	x.words[at] = 0
	x.used--
	for at = x.next(at); x.words[at] != 0; at = x.next(at) { // who was pushed on by it comes back
		w := x.words[at]
		x.words[at] = 0
		x.put(w)
	}
	return true
}

// put writes a word to the first free place from its own on.
func (x *Index) put(w uint64) {
	if w == 0 {
		return
	}
	at := x.home(w)
	for x.words[at] != 0 {
		at = x.next(at)
	}
	x.words[at] = w
}

func (x *Index) home(w uint64) int { return int(w>>32) & (len(x.words) - 1) }
func (x *Index) next(at int) int   { return (at + 1) & (len(x.words) - 1) }
