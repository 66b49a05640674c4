package main

import (
	"cmp"
	"encoding/binary"
	"path"
	"slices"
	"strings"
	"time"
)

// The file format of a bill of materials is not documented by Apple; this is what bom(5)'s readers were found to want
// (https://github.com/hogliux/bomutils, src/bom.h). All numbers are big-endian.

// store is a BOMStore: numbered blocks, of which some have names.
type store struct {
	blocks [][]byte // without block 0, which is empty
	names  []string // of variables
	vars   []uint32 // their blocks
}

func (s *store) add(b []byte) uint32 {
	s.blocks = append(s.blocks, b)
	return uint32(len(s.blocks))
}

func (s *store) name(name string, block uint32) {
	s.names, s.vars = append(s.names, name), append(s.vars, block)
}

var be = binary.BigEndian

// words are numbers of 32 bits, one behind the other.
func words(ns ...uint32) (b []byte) {
	for _, n := range ns {
		b = be.AppendUint32(b, n)
	}
	return b
}

func (s *store) bytes() []byte {
	const header = 512
	vars := words(uint32(len(s.vars)))
	for i, name := range s.names {
		vars = append(append(append(vars, words(s.vars[i])...), byte(len(name))), name...)
	}
	at := uint32(header + len(vars))
	index := words(uint32(len(s.blocks)+1), 0, 0)
	var data []byte
	for _, b := range s.blocks {
		index = append(index, words(at+uint32(len(data)), uint32(len(b)))...)
		data = append(data, b...)
	}
	index = append(index, words(0, 0, 0, 0, 0)...) // nothing is free
	out := append([]byte("BOMStore"), words(1, uint32(len(s.blocks)), at+uint32(len(data)), uint32(len(index)), header, uint32(len(vars)))...)
	out = append(out, make([]byte, header-len(out))...)
	return append(append(append(out, vars...), data...), index...)
}

// tree is a tree of one leaf.
func (s *store) tree(blockSize uint32, leaves ...[2]uint32) uint32 {
	leaf := be.AppendUint16(nil, 1)
	leaf = be.AppendUint16(leaf, uint16(len(leaves)))
	leaf = append(leaf, words(0, 0)...) // no leaf before or behind it
	for _, l := range leaves {
		leaf = append(leaf, words(l[0], l[1])...)
	}
	b := append([]byte("tree"), words(1, s.add(leaf), blockSize, uint32(len(leaves)))...)
	return s.add(append(b, 0))
}

// bom says what a package installs: each file and folder with mode, owner, size and checksum, in the order of parents and names.
// One leaf holds 256 of them, which is enough for us.
func bom(nodes []node, date time.Time) []byte {
	if len(nodes) > 256 {
		panic("a bill of materials of several leaves is not written yet")
	}
	level := func(n node) []string { return strings.Split(path.Clean(n.path), "/") }
	nodes = slices.SortedStableFunc(slices.Values(nodes), func(a, b node) int {
		if c := cmp.Compare(depth(a), depth(b)); c != 0 {
			return c
		}
		return slices.Compare(level(a), level(b))
	})
	var s store
	s.name("BomInfo", s.add(words(1, uint32(len(nodes)+1), 1, 0, 0, 0, 0)))
	ids := map[string]uint32{}
	var leaves [][2]uint32
	for i, n := range nodes {
		kind, sum := byte(1), uint32(0)
		if n.dir() {
			kind = 2
		} else {
			sum = cksum(n.content)
		}
		about := append([]byte{kind, 1}, 0, 3)
		about = be.AppendUint16(about, uint16(n.mode))
		about = append(about, words(0, 0, uint32(date.Unix()), uint32(len(n.content)))...)
		about = append(about, 1)
		about = append(about, words(sum, 0)...)
		ids[path.Clean(n.path)] = uint32(i + 1)
		info := s.add(words(uint32(i+1), s.add(about)))
		parent := path.Dir(n.path)
		if n.path == "." {
			parent = "" // has no id, which is 0
		}
		file := append(words(ids[parent]), path.Base(n.path)...)
		leaves = append(leaves, [2]uint32{info, s.add(append(file, 0))})
	}
	s.name("Paths", s.tree(4096, leaves...))
	s.name("HLIndex", s.tree(4096))
	s.name("VIndex", s.add(append(words(1, s.tree(128), 0), 0)))
	s.name("Size64", s.tree(4096))
	return s.bytes()
}

func depth(n node) int {
	if n.path == "." {
		return 0
	}
	return strings.Count(n.path, "/")
}

// cksum is the sum of POSIX' cksum: a CRC of the content and of its length.
func cksum(b []byte) uint32 {
	crc := uint32(0)
	add := func(c byte) {
		crc ^= uint32(c) << 24
		for range 8 {
			if crc&(1<<31) != 0 {
				crc = crc<<1 ^ 0x04c11db7
			} else {
				crc <<= 1
			}
		}
	}
	for _, c := range b {
		add(c)
	}
	for n := len(b); n > 0; n >>= 8 {
		add(byte(n))
	}
	return ^crc
}
