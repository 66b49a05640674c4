package platform

import (
	"slices"
	"testing"
)

func TestSpansOf(t *testing.T) {
	const maps = `00400000-00b6a000 r-xp 00000000 fe:00 1180 /opt/fair lead
00b6a000-0166a000 r--p 0076a000 fe:00 1180 /opt/fair lead
0166a000-016cf000 rw-p 0126a000 fe:00 1180 /opt/fair lead
392099c00000-39209b000000 rw-p 00000000 00:00 0
7f0000000000-7f0000001000 r--p 00000000 fe:00 1181 /usr/lib/libc.so.6
7f0000002000-7f0000001000 r--p 00000000 fe:00 1180 /opt/fair lead
odd r--p 00000000 fe:00 1180 /opt/fair lead
7ffebb941000-7ffebb962000 r-xp 00000000 00:00 0 [vdso]
`
	want := []span{{0x400000, 0xb6a000}, {0xb6a000, 0x166a000}}
	if got := spansOf(maps, "/opt/fair lead"); !slices.Equal(got, want) {
		t.Errorf("got %x", got)
	}
}

// TestShrinkProgram: what is given back comes back.
func TestShrinkProgram(t *testing.T) {
	if len(programMaps()) == 0 {
		t.Fatal("the program is nowhere")
	}
	for range 3 {
		ShrinkProgram()
		if got := spansOf("0-ff r--p 0 0:0 0 self\n", "self"); !slices.Equal(got, []span{{0, 0xff}}) {
			t.Fatal(got)
		}
	}
}
