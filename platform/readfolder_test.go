package platform

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestReadFolder(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "secret.plist")
	for path, text := range map[string]string{
		outside: "not theirs to show", filepath.Join(dir, "a.plist"): "a", filepath.Join(dir, "b.txt"): "b",
		filepath.Join(dir, "huge.plist"): strings.Repeat("x", maxFile+1),
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder.plist"), 0o755); err != nil {
		t.Fatal(err)
	}
	_ = os.Symlink(outside, filepath.Join(dir, "link.plist")) // where the OS lets us
	got := ReadFolder(dir, func(name string) bool { return strings.HasSuffix(name, ".plist") })
	if names := slices.Collect(maps.Keys(got)); len(names) != 1 || got[filepath.Join(dir, "a.plist")] != "a" {
		t.Errorf("read %q", names)
	}
	if got := ReadFolder(filepath.Join(dir, "none"), func(string) bool { return true }); len(got) > 0 {
		t.Errorf("a folder that is not there holds %v", got)
	}
}
