package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(content, "#!") {
			mode = 0o755
		}
		if err := os.MkdirAll(filepath.Join(root, path.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func sample(t *testing.T) product {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no file of Windows says that it can be run")
	}
	p := product{ID: "dev.example", Version: "1.2.3", Arch: "arm64", Title: "A & B", date: time.Unix(1700000000, 0).UTC()}
	var err error
	if p.root, err = read(tree(t, map[string]string{"usr/local/bin/x": "#!/bin/sh\n", "usr/local/share/doc": "text", "usr/a": "", "usr-b": "dash sorts before slash"})); err != nil {
		t.Fatal(err)
	}
	if p.scripts, err = read(tree(t, map[string]string{"postinstall": "#!/bin/sh\nexit 0\n"})); err != nil {
		t.Fatal(err)
	}
	return p
}

// A stranger unpacks it: libarchive's tar, which is macOS' own.
func TestUnpacks(t *testing.T) {
	if _, err := exec.LookPath("bsdtar"); err != nil {
		if os.Getenv("CI") == "true" && os.Getenv("RUNNER_OS") == "Linux" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	b, err := sample(t).pack()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	pkg := filepath.Join(dir, "x.pkg")
	if err := os.WriteFile(pkg, b, 0o644); err != nil {
		t.Fatal(err)
	}
	tar := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("bsdtar", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("bsdtar %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	tar("-xf", pkg, "-C", dir)
	var lines []string
	for line := range strings.Lines(tar("--numeric-owner", "-tvf", filepath.Join(dir, "dev.example.pkg/Payload"))) {
		f := strings.Fields(line)
		lines = append(lines, strings.Join([]string{f[0], f[2], f[3], f[4], f[len(f)-1]}, " "))
	}
	want := []string{"drwxr-xr-x 0 0 0 .", "drwxr-xr-x 0 0 0 ./usr", "-rw-r--r-- 0 0 0 ./usr/a", "drwxr-xr-x 0 0 0 ./usr/local", "drwxr-xr-x 0 0 0 ./usr/local/bin",
		"-rwxr-xr-x 0 0 10 ./usr/local/bin/x", "drwxr-xr-x 0 0 0 ./usr/local/share", "-rw-r--r-- 0 0 4 ./usr/local/share/doc", "-rw-r--r-- 0 0 23 ./usr-b"}
	slices.Sort(lines)
	slices.Sort(want)
	if !slices.Equal(lines, want) {
		t.Errorf("the payload has\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	if got := tar("-xOf", filepath.Join(dir, "dev.example.pkg/Scripts"), "./postinstall"); got != "#!/bin/sh\nexit 0\n" {
		t.Errorf("postinstall is %q", got)
	}
	for file, want := range map[string][]string{
		"Distribution":                {"<title>A &amp; B</title>", `hostArchitectures="arm64"`, `installKBytes="3" auth="root">#dev.example.pkg<`},
		"dev.example.pkg/PackageInfo": {`identifier="dev.example" version="1.2.3"`, `numberOfFiles="9"`, `<postinstall file="./postinstall"/>`},
	} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		for _, w := range want {
			if err != nil || !strings.Contains(string(b), w) {
				t.Errorf("%s lacks %q (%v):\n%s", file, w, err, b)
			}
		}
	}
}

// list reads a bill of materials from its names on, as lsbom(8) does, and prints it as that one would.
func list(t *testing.T, b []byte) (lines []string) {
	t.Helper()
	word := func(b []byte, i int) uint32 { return binary.BigEndian.Uint32(b[4*i:]) }
	index := b[word(b, 4):][:word(b, 5)]
	block := func(n uint32) []byte { return b[word(index, 1+2*int(n)):][:word(index, 2+2*int(n))] }
	vars, at := map[string]uint32{}, b[word(b, 6):][:word(b, 7)]
	rest := at[4:]
	for range word(at, 0) {
		n := int(rest[4])
		vars[string(rest[5:5+n])] = word(rest, 0)
		rest = rest[5+n:]
	}
	paths := block(vars["Paths"])
	leaf := block(word(paths, 2))
	names := map[uint32]string{}
	var before string
	for i := range int(binary.BigEndian.Uint16(leaf[2:])) {
		info, file := block(word(leaf, 3+2*i)), block(word(leaf, 4+2*i))
		id, about := word(info, 0), block(word(info, 1))
		key := fmt.Sprintf("%08x%s", word(file, 0), file[4:])
		if key <= before {
			t.Errorf("%q is out of order", file[4:])
		}
		before = key
		name := string(bytes.TrimSuffix(file[4:], []byte{0}))
		if parent := word(file, 0); parent != 0 {
			name = names[parent] + "/" + name
		}
		names[id] = name
		lines = append(lines, fmt.Sprintf("%s %o %d/%d %d %d", name, binary.BigEndian.Uint16(about[4:]), word(about[6:], 0), word(about[6:], 1),
			word(about[6:], 3), word(about[23:], 0)))
	}
	return lines
}

func TestBom(t *testing.T) {
	p := sample(t)
	got := list(t, bom(p.root, p.date))
	want := []string{
		". 40755 0/0 0 0", "./usr 40755 0/0 0 0", "./usr-b 100644 0/0 23 " + posix(t, "dash sorts before slash"), "./usr/a 100644 0/0 0 4294967295",
		"./usr/local 40755 0/0 0 0", "./usr/local/bin 40755 0/0 0 0", "./usr/local/share 40755 0/0 0 0",
		"./usr/local/bin/x 100755 0/0 10 " + posix(t, "#!/bin/sh\n"), "./usr/local/share/doc 100644 0/0 4 " + posix(t, "text"),
	}
	if !slices.Equal(got, want) {
		t.Errorf("the bill says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// posix is what cksum(1) says.
func posix(t *testing.T, s string) string {
	t.Helper()
	c := exec.Command("cksum")
	c.Stdin = strings.NewReader(s)
	out, err := c.Output()
	if err != nil {
		t.Skip(err)
	}
	return strings.Fields(string(out))[0]
}

// The same files give the same bytes, whenever and by whomever it is built.
func TestReproducible(t *testing.T) {
	a, err := sample(t).pack()
	if err != nil {
		t.Fatal(err)
	}
	b, err := sample(t).pack()
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("they differ (%v)", err)
	}
}

func TestRefuses(t *testing.T) {
	for what, spoil := range map[string]func(*product){
		"id":      func(p *product) { p.ID = `a"b.c` },
		"version": func(p *product) { p.Version = "1 2" },
		"arch":    func(p *product) { p.Arch = "amd64" },
		"title":   func(p *product) { p.Title = "" },
	} {
		p := sample(t)
		spoil(&p)
		if _, err := p.pack(); err == nil || !strings.Contains(err.Error(), "-"+what) {
			t.Errorf("bad %s: %v", what, err)
		}
	}
	dir := t.TempDir()
	if err := os.Symlink("/", filepath.Join(dir, "link")); err != nil {
		t.Skip(err)
	}
	if _, err := read(dir); err == nil {
		t.Error("a symlink is packed as something")
	}
}
