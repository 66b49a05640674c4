package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// x_tables has no calls for single rules: a table is read as one piece of memory and replaced as one
// (include/uapi/linux/netfilter_ipv4/ip_tables.h). It is a row of entries, each of
//
//	struct ipt_entry   what of the packet's header must match; the offsets of the next two; counters
//	matches            each a header of 32 bytes (size, name, revision) and its data
//	target             the same once; the standard target's data is a verdict: -1-NF_DROP, -1-NF_ACCEPT, or a jump
//
// Jumps, and what is known of the hooks, are offsets into that memory. All is in this machine's byte order; sizes are those
// of 64-bit machines, the only ones that the pilot is built for.
//
// A chain is what lies between two marks: built-in ones from a hook's entry to its policy, others from behind an entry with
// the target ERROR, whose data is the chain's name, to the RETURN before the next ERROR.

// Sizes, and places within the structures.
const (
	hookCount      = 5  // NF_INET_NUMHOOKS
	infoSize       = 84 // struct ipt_getinfo
	replaceSize    = 96 // struct ipt_replace without the entries
	replaceOldPtr  = 88 // in it: where the old counters go
	countersSize   = 16 // struct xt_counters
	tableNameSize  = 32
	headerSize     = 32 // struct xt_entry_match, xt_entry_target
	headerName     = 2
	headerNameSize = 29
	commentSize    = 256
	ifNameSize     = 16
	alignment      = 8
)

// Names and verdicts. MASQUERADE's data is the range that it may use: none, but written.
const (
	standardTarget   = ""
	errorTarget      = "ERROR"
	rejectTarget     = "REJECT"
	masqueradeTarget = "MASQUERADE"
	commentMatch     = "comment"
	verdictDrop      = -1
	verdictAccept    = -2
)

var hookOf = map[string]int{"PREROUTING": 0, "INPUT": 1, "FORWARD": 2, "OUTPUT": 3, "POSTROUTING": 4}

// shape is what differs between struct ipt_entry and ip6t_entry.
type shape struct {
	address  int // bytes of an address; first come source, destination, and their masks
	target   int // where the offset of the target stands, and behind it the next entry's
	counters int
	size     int
	masq     int // bytes of MASQUERADE's data
}

var shapes = map[string]shape{
	"ip":  {address: 4, target: 88, counters: 96, size: 112, masq: 20},    // struct nf_nat_ipv4_multi_range_compat
	"ip6": {address: 16, target: 140, counters: 152, size: 168, masq: 40}, // struct nf_nat_range
}

// Where the interfaces stand, their masks, and the protocol and flags behind them.
func (s shape) in() int     { return 4 * s.address }
func (s shape) inMask() int { return s.in() + 2*ifNameSize }
func (s shape) flags() int  { return s.in() + 4*ifNameSize }

// invertIn is the flag, in the byte of inverse flags, that asks for another interface than the named one.
const invertIn = 0x01

// invert is where the inverse flags stand.
func (s shape) invert() int {
	if s.address == 4 {
		return s.flags() + 3
	}
	return s.flags() + 4
}

// table is one of x_tables' tables.
type table struct {
	family, name string
	hooks        uint32         // bit n: it has hook n
	entry        [hookCount]int // of a hook it has: the index of its first entry
	policy       [hookCount]int // and of its policy
	entries      []entry
	was          int // entries that the kernel had
}

type entry struct {
	raw  []byte // as the kernel gave it; where it jumps to is written when the table is built
	jump int    // index of the entry that it jumps to, or -1
	was  int    // its index in the kernel's table, or -1
}

// parseTable reads a family's table from IPT_SO_GET_INFO's and IPT_SO_GET_ENTRIES' answers.
func parseTable(family string, info, entries []byte) (t table, err error) {
	if len(info) != infoSize {
		return t, errors.New("table info of a wrong size")
	}
	word := binary.NativeEndian.Uint32
	t = table{family: family, name: cString(info[:tableNameSize]), hooks: word(info[32:]), was: int(word(info[76:]))}
	s := shapes[family]
	index := make(map[uint32]int) // of an offset
	for at := 0; at < len(entries); {
		raw := entries[at:]
		if len(raw) < s.size {
			return t, fmt.Errorf("entry at %d is cut off", at)
		}
		target, next := s.offsets(raw)
		if target < s.size || next < target+headerSize || next > len(raw) || next%alignment != 0 {
			return t, fmt.Errorf("entry at %d has its target at %d and ends at %d", at, target, next)
		}
		raw = raw[:next:next]
		for m := s.size; m < target; {
			size := 0
			if target-m >= headerSize {
				size = int(binary.NativeEndian.Uint16(raw[m:]))
			}
			if size < headerSize || size > target-m {
				return t, fmt.Errorf("entry at %d has a match of size %d", at, size)
			}
			m += size
		}
		index[uint32(at)] = len(t.entries)
		t.entries = append(t.entries, entry{raw: raw, jump: -1, was: len(t.entries)})
		at += next
	}
	if len(t.entries) != t.was {
		return t, fmt.Errorf("table has %d entries instead of %d", len(t.entries), t.was)
	}
	for i, e := range t.entries {
		verdict, standard := s.verdict(e.raw)
		if !standard || verdict < 0 {
			continue
		}
		to, ok := index[uint32(verdict)]
		if !ok {
			return t, fmt.Errorf("entry %d jumps to %d, into the middle of something", i, verdict)
		}
		t.entries[i].jump = to
	}
	for h := range hookCount {
		if !t.has(h) {
			continue
		}
		var first, last bool
		t.entry[h], first = index[word(info[36+4*h:])]
		t.policy[h], last = index[word(info[56+4*h:])]
		if !first || !last || t.entry[h] > t.policy[h] {
			return t, fmt.Errorf("hook %d is no chain", h)
		}
	}
	return t, nil
}

// holds tells whether a place is one of the table's.
func (t table) holds(at place) bool { return at.legacy && at.family == t.family && at.table == t.name }

func (t table) has(hook int) bool { return t.hooks>>hook&1 == 1 }

// build is the argument of IPT_SO_SET_REPLACE, but for the pointer to the old counters.
func (t table) build() []byte {
	s := shapes[t.family]
	offset := make([]uint32, len(t.entries))
	size := 0
	for i, e := range t.entries {
		offset[i] = uint32(size)
		size += len(e.raw)
	}
	put := binary.NativeEndian.PutUint32
	b := make([]byte, replaceSize, replaceSize+size)
	copy(b[:tableNameSize-1], t.name)
	put(b[32:], t.hooks)
	put(b[36:], uint32(len(t.entries)))
	put(b[40:], uint32(size))
	for h := range hookCount {
		if t.has(h) {
			put(b[44+4*h:], offset[t.entry[h]])
			put(b[64+4*h:], offset[t.policy[h]])
		}
	}
	put(b[84:], uint32(t.was))
	for _, e := range t.entries {
		at := len(b)
		b = append(b, e.raw...)
		if e.jump >= 0 {
			target, _ := s.offsets(e.raw)
			put(b[at+target+headerSize:], offset[e.jump])
		}
	}
	return b
}

// restore is the argument of IPT_SO_SET_ADD_COUNTERS that gives each entry what it had counted: old holds the counters as
// the kernel returned them when it replaced the table, in the old order.
func (t table) restore(old []byte) []byte {
	b := make([]byte, tableNameSize+8, tableNameSize+8+len(t.entries)*countersSize)
	copy(b[:tableNameSize-1], t.name)
	binary.NativeEndian.PutUint32(b[tableNameSize:], uint32(len(t.entries)))
	for _, e := range t.entries {
		if at := e.was * countersSize; e.was >= 0 && at+countersSize <= len(old) {
			b = append(b, old[at:at+countersSize]...)
		} else {
			b = append(b, make([]byte, countersSize)...)
		}
	}
	return b
}

// bare is the table without its counters, to tell whether anything else changed.
func (t table) bare() []byte {
	b := t.build()
	s := shapes[t.family]
	at := replaceSize
	for _, e := range t.entries {
		clear(b[at+s.counters:][:countersSize])
		at += len(e.raw)
	}
	return b
}

// chain finds a chain: the index of its first rule, and that of its policy or last RETURN.
func (t table) chain(name string) (first, last int, ok bool) {
	if h, builtin := hookOf[name]; builtin {
		return t.entry[h], t.policy[h], t.has(h)
	}
	s := shapes[t.family]
	for i, e := range t.entries {
		head, isHead := s.chainHead(e.raw)
		switch {
		case !isHead:
		case ok:
			return first, i - 1, i > first
		case head == name:
			first, ok = i+1, true
		}
	}
	return 0, 0, false
}

// chainHead tells whether an entry is the head of a chain, and of which; the table's last entry is the head of ERROR.
func (s shape) chainHead(raw []byte) (name string, ok bool) {
	target, next := s.offsets(raw)
	return cString(raw[target+headerSize : next]), nameOf(raw[target:]) == errorTarget
}

func (s shape) offsets(raw []byte) (target, next int) {
	return int(binary.NativeEndian.Uint16(raw[s.target:])), int(binary.NativeEndian.Uint16(raw[s.target+2:]))
}

// verdict is the standard target's; a jump is not negative.
func (s shape) verdict(raw []byte) (verdict int32, ok bool) {
	target, next := s.offsets(raw)
	if nameOf(raw[target:]) != standardTarget || next < target+headerSize+4 {
		return 0, false
	}
	return int32(binary.NativeEndian.Uint32(raw[target+headerSize:])), true
}

// nameOf is the name of a match or target.
func nameOf(header []byte) string { return cString(header[headerName:][:headerNameSize]) }

func cString(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

// with is the table without the entries of the given indexes, and with the rules added, at the heads of their chains, in
// their order.
func (t table) with(remove []int, add []rule, tag string) (table, error) {
	t.entries = slices.Clone(t.entries)
	slices.Sort(remove)
	for _, i := range slices.Backward(remove) {
		if i >= len(t.entries)-1 {
			return t, fmt.Errorf("no rule %d", i)
		}
		t.entries = slices.Delete(t.entries, i, i+1)
		t.shift(i, -1) // what led to it now leads to the next
	}
	for len(add) > 0 {
		n := slices.IndexFunc(add, func(r rule) bool { return r.at != add[0].at })
		if n < 0 {
			n = len(add)
		}
		first, _, ok := t.chain(add[0].at.chain)
		if !ok {
			return t, fmt.Errorf("table %s has no chain %s", t.name, add[0].at.chain)
		}
		t.shift(first, n)
		var rules []entry
		for _, r := range add[:n] {
			rules = append(rules, entry{raw: encodeEntry(r, tag), jump: -1, was: -1})
		}
		t.entries = slices.Insert(t.entries, first, rules...)
		add = add[n:]
	}
	return t, nil
}

// shift moves what leads behind the entry at by n. What leads to it goes on leading there, but a policy stays itself.
func (t *table) shift(at, n int) {
	for i := range t.entries {
		if t.entries[i].jump > at {
			t.entries[i].jump += n
		}
	}
	for h := range hookCount {
		if t.entry[h] > at {
			t.entry[h] += n
		}
		if t.policy[h] >= at {
			t.policy[h] += n
		}
	}
}

// read is the picture of one of the table's chains. A rule's handle is its index.
func (t table) read(name string) (c chain, ok bool) {
	at := place{t.family, t.name, name, true}
	first, last, ok := t.chain(name)
	if !ok {
		return c, false
	}
	verdict, standard := shapes[t.family].verdict(t.entries[last].raw)
	c.drops = standard && verdict == verdictDrop
	for i := first; i < last; i++ {
		l := decodeEntry(at, t.entries[i].raw)
		l.handle = uint64(i)
		c.lines = append(c.lines, l)
	}
	return c, true
}

// see puts tables, and what places have in them, into the picture.
func (p *picture) see(tables []table, tag string) {
	p.tables = append(p.tables, tables...)
	for _, at := range places(tag) {
		for _, t := range tables {
			if !t.holds(at) {
				continue
			}
			if c, ok := t.read(at.chain); ok {
				p.chains[at] = c
			}
		}
	}
}

// rewrite replaces a table.
type rewrite struct{ was, next table }

// rewrites are x_tables' part of a change.
func (p picture) rewrites(c change, tag string) (all []rewrite, err error) {
	for _, t := range p.tables {
		var remove []int
		var add []rule
		for _, s := range c.remove {
			if t.holds(s.at) {
				remove = append(remove, int(s.handle))
			}
		}
		for _, r := range c.add {
			if t.holds(r.at) {
				add = append(add, r)
			}
		}
		if len(remove)+len(add) == 0 {
			continue
		}
		next, err := t.with(remove, add, tag)
		if err != nil {
			return nil, err
		}
		all = append(all, rewrite{t, next})
	}
	return all, nil
}

// encodeEntry writes a rule as iptables writes the same with `-m comment`.
func encodeEntry(r rule, tag string) []byte {
	s := shapes[r.at.family]
	targetData := alignment // a verdict, aligned
	if r.masquerade {
		targetData = (s.masq + alignment - 1) / alignment * alignment
	}
	target := s.size + headerSize + commentSize
	b := make([]byte, target+headerSize+targetData)
	for i, p := range []netip.Prefix{r.from, r.to} {
		if p.IsValid() {
			copy(b[i*s.address:], p.Masked().Addr().AsSlice())
			copy(b[(2+i)*s.address:], mask(p.Bits(), uint32(s.address)))
		}
	}
	for i, dev := range []string{r.in, r.out} {
		if dev != "" {
			copy(b[s.in()+i*ifNameSize:][:ifNameSize-1], dev)
			copy(b[s.inMask()+i*ifNameSize:][:ifNameSize], bytes.Repeat([]byte{0xff}, len(dev)+1))
		}
	}
	put := binary.NativeEndian.PutUint16
	put(b[s.target:], uint16(target))
	put(b[s.target+2:], uint16(len(b)))
	put(b[s.size:], headerSize+commentSize)
	copy(b[s.size+headerName:], commentMatch)
	copy(b[s.size+headerSize:], comment(tag))
	put(b[target:], uint16(headerSize+targetData))
	switch {
	case !r.masquerade:
		accept := int32(verdictAccept)
		binary.NativeEndian.PutUint32(b[target+headerSize:], uint32(accept))
	case r.at.family == "ip":
		copy(b[target+headerName:], masqueradeTarget)
		binary.NativeEndian.PutUint32(b[target+headerSize:], 1) // range
	default:
		copy(b[target+headerName:], masqueradeTarget)
	}
	return b
}

// decodeEntry reads an entry at a place back. Its line has a rule only if encodeEntry would have written the like.
func decodeEntry(at place, raw []byte) (l line) {
	s := shapes[at.family]
	target, next := s.offsets(raw)
	others := false // matches that are no comment
	for m := s.size; m < target; m += int(binary.NativeEndian.Uint16(raw[m:])) {
		size := int(binary.NativeEndian.Uint16(raw[m:]))
		if nameOf(raw[m:]) == commentMatch && size == headerSize+commentSize {
			l.comment = cString(raw[m+headerSize : m+size])
		} else {
			others = true
		}
	}
	verdict, standard := s.verdict(raw)
	l.guard = standard && verdict == verdictDrop && raw[s.invert()]&invertIn != 0
	const nfcache = 4 // stands before the offsets; it means nothing any more
	header := raw[:s.target-nfcache]
	everything := len(bytes.Trim(header, "\x00")) == 0 && !others
	l.bars = everything && (standard && verdict == verdictDrop || nameOf(raw[target:]) == rejectTarget)

	// The shortest proof that it is ours: written again from what was read, it is the same.
	r := rule{at: at, masquerade: nameOf(raw[target:next]) == masqueradeTarget}
	for i, p := range []*netip.Prefix{&r.from, &r.to} {
		addr, _ := netip.AddrFromSlice(raw[i*s.address:][:s.address])
		bits := ones(raw[(2+i)*s.address:][:s.address])
		if bits > 0 {
			*p = netip.PrefixFrom(addr, bits)
		}
	}
	for i, dev := range []*string{&r.in, &r.out} {
		*dev = cString(raw[s.in()+i*ifNameSize:][:ifNameSize])
	}
	again := encodeEntry(r, "")
	if len(again) == len(raw) && bytes.Equal(again[:len(header)], header) && bytes.Equal(again[target:], raw[target:]) {
		l.rule = r
	}
	return l
}
