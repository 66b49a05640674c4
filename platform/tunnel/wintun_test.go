package tunnel

import (
	"regexp"
	"strings"
	"testing"
)

func TestFreeAdapter(t *testing.T) {
	for _, c := range []struct {
		names []string
		want  int
	}{
		{nil, 0},
		{[]string{"Ethernet", "vEthernet (WSL)"}, 0},
		{[]string{"Ethernet", "fairlead0"}, 1},
		{[]string{"fairlead2", "FAIRLEAD1", "fairlead0"}, 3},
		{[]string{"fairlead1"}, 0},
	} {
		if got := freeAdapter(c.names); got != c.want {
			t.Errorf("freeAdapter(%q) = %d, want %d", c.names, got, c.want)
		}
	}
	form := regexp.MustCompile(`^\{[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\}$`)
	for n := range 300 {
		if g := adapterGUID(n); !form.MatchString(g) || n > 0 && g == adapterGUID(n-1) {
			t.Errorf("adapterGUID(%d) = %s", n, g)
		}
	}
}

func TestWintunTrouble(t *testing.T) {
	for _, c := range []struct {
		code       uint32
		what, hint string
	}{
		{126, "missing", `from the archive's folder wintun\bin\arm64, and put it into C:\Program Files\fairlead`},
		{127, "too old", "wintun.net"},
		{193, "another processor", "arm64"},
		{216, "another processor", "arm64"},
		{577, "trust", "wintun.net"},
		{5, "Administrators", "fairlead install"},
		{1314, "Administrators", "fairlead install"},
		{0, "", ""},
		{31, "", ""},
	} {
		what, hint := wintunTrouble(c.code, `C:\Program Files\fairlead`, "arm64")
		if !strings.Contains(what, c.what) || !strings.Contains(hint, c.hint) || (what == "") != (c.what == "") || (hint == "") != (what == "") {
			t.Errorf("code %d: %q, hint %q", c.code, what, hint)
		}
	}
}
