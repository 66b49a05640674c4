package main

import (
	"bytes"
	"cmp"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/fairlead-dev/fairlead/"

// ours is who may import whom of our own packages ("Where things live" in docs/design.md). It is as narrow as it can be: what
// nobody imports any more does not stand here. A package's tests may import what the package may, and internal/lab; those
// in internal/lab and cmd may import all.
var ours = []struct{ pkg, imports, why string }{
	{"cmd/fairlead", "agent agent/doctor dnsserver installer platform", "flags and printing: it runs the agent or asks it; query speaks to our server, platform has the default places"},
	{"cmd/pilot", "platform/firewall platform/tunnel", "it is sent into VMs and has to stay small"},
	{"agent", "agent/engine dnsserver platform platform/tunnel resolver routes", "the loop is the only place that knows all the parts"},
	{"agent/doctor", "agent platform resolver routes", "it looks at the same links as the agent, and works with that dead"},
	{"agent/engine", "", "a leaf: Docker only, it has no opinion about this host"},
	{"dnsserver", "", "a leaf: it answers from the zone that it is given"},
	{"installer", "", "a leaf: it runs whatever body it is given"},
	{"platform", "", "a leaf: facts about this host"},
	{"platform/firewall", "", "a leaf: it runs in VMs"},
	{"platform/tunnel", "", "a leaf: its pilot's side runs in VMs"},
	{"resolver", "", "a leaf: tables of this OS, thinking in pure functions"},
	{"routes", "", "a leaf: tables of this OS, thinking in pure functions"},
	{"internal/lab", "", "the world around fairlead: it must not be built of fairlead"},
	{"internal/lab/demo", "internal/lab", "it runs the command as a user does"},
	{"internal/lab/startbench", "dnsserver", "it asks as fairlead query does"},
	{"packaging/macpkg", "", "it packs files, whatever they are"},
	{"internal/lab/guest", "", "it stands in for somebody's container"},
}

// foreign is where a module of others may be imported: packages of ours, in files that match. Its types stop there, so that
// leaving it behind is one edit. golang.org/x is as good as the standard library.
var foreign = []struct{ prefix, pkgs, files, why string }{
	{"github.com/docker/docker/", "agent/engine", "*", "Docker's types stop at agent/engine"},
	{"github.com/containerd/errdefs", "agent/engine", "*", "the Docker client's errors are of its kinds"},
	{"github.com/miekg/dns", "dnsserver", "*", "DNS messages stop at dnsserver"},
	{"github.com/kardianos/service", "installer", "*", "service managers stop at installer"},
	{"github.com/vishvananda/netlink", "routes resolver platform/firewall platform/tunnel", "*_linux.go", "netlink is Linux's, and the thinking is OS-free"},
	{"github.com/google/nftables", "platform/firewall", "*_linux.go", "the VM's packet filter stops at platform/firewall"},
	{"github.com/godbus/dbus/", "resolver", "*_linux.go", "D-Bus is how systemd-resolved is told"},
	{"github.com/Microsoft/go-winio", "platform", "*_windows.go", "named pipes stop at the control endpoint"},
	{"golang.zx2c4.com/wireguard/tun", "platform/tunnel", "*", "TUN devices stop at platform/tunnel"},
	{"golang.zx2c4.com/wireguard/windows/tunnel/winipcfg", "routes platform/tunnel", "*_windows.go", "Windows' IP Helper calls for the table of routes, and for a tunnel's addresses"},
	{"github.com/spf13/cobra", "cmd/fairlead", "*", "flags stop at the command"},
	{"github.com/spf13/pflag", "cmd/fairlead", "*", "cobra's errors about flags are its"},
	{"github.com/BurntSushi/toml", "agent cmd/fairlead", "*", "settings are read in agent and shown by the command"},
}

// forTests may be imported by all tests.
var forTests = []string{
	"github.com/google/go-cmp/", "github.com/miekg/dns", "github.com/rogpeppe/go-internal/", "github.com/spf13/", "github.com/vishvananda/netlink",
	"github.com/godbus/dbus/", "golang.zx2c4.com/wireguard/",
}

// source is one Go file of the project.
type source struct {
	path, pkg, name string // "routes/diff.go", "routes", "diff.go"
	text            []byte
	syntax          *ast.File
}

func (s source) test() bool { return strings.HasSuffix(s.name, "_test.go") }

// matches tells whether the file's name is of a pattern such as *_linux.go; its tests are, too.
func (s source) matches(pattern string) bool {
	ok, _ := path.Match(pattern, strings.Replace(s.name, "_test.go", ".go", 1))
	return ok
}

func sources(t *testing.T) []source {
	t.Helper()
	all, err := readSources()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var readSources = sync.OnceValues(func() ([]source, error) {
	root, files := filepath.Join("..", ".."), token.NewFileSet()
	var out []source
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != root && (slices.Contains([]string{"testdata", "bin", "dist"}, d.Name()) || strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "_")) {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		s := source{path: filepath.ToSlash(rel), pkg: path.Dir(filepath.ToSlash(rel)), name: d.Name()}
		if s.text, err = os.ReadFile(p); err != nil {
			return err
		}
		s.syntax, err = parser.ParseFile(files, p, s.text, parser.ParseComments)
		out = append(out, s)
		return err
	})
	return out, err
})

func (s source) imports(t *testing.T) []string {
	var out []string
	for _, i := range s.syntax.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func TestOurImports(t *testing.T) {
	used := map[string]bool{}
	for _, s := range sources(t) {
		used[s.pkg] = used[s.pkg] || !s.test()
		row := slices.IndexFunc(ours, func(r struct{ pkg, imports, why string }) bool { return r.pkg == s.pkg })
		if row < 0 && !s.test() {
			t.Errorf("package %s is new: say in the table ours whom it may import, and why", s.pkg)
			continue
		}
		for _, imported := range s.imports(t) {
			to, ok := strings.CutPrefix(imported, module)
			if !ok || s.test() && (to == s.pkg || to == "internal/lab" || within("internal/lab", s.pkg) || within("cmd", s.pkg)) {
				continue
			}
			if row < 0 || !slices.Contains(strings.Fields(ours[row].imports), to) {
				why := "only tests are here"
				if row >= 0 {
					why = ours[row].why
				}
				t.Errorf("%s imports %s, and %s may import only [%s]: %s", s.path, to, s.pkg, ours[max(row, 0)].imports, why)
			} else if !s.test() {
				used[s.pkg+" "+to] = true
			}
		}
	}
	for _, r := range ours {
		if !used[r.pkg] {
			t.Errorf("package %s is gone: take it out of the table ours", r.pkg)
		}
		for to := range strings.FieldsSeq(r.imports) {
			if !used[r.pkg+" "+to] {
				t.Errorf("%s imports %s no more: take it out of the table ours", r.pkg, to)
			}
		}
	}
}

func TestForeignImports(t *testing.T) {
	used := map[string]bool{}
	for _, s := range sources(t) {
		for _, imported := range s.imports(t) {
			if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") || strings.HasPrefix(imported, module) || strings.HasPrefix(imported, "golang.org/x/") {
				continue
			}
			hasPrefix := func(p string) bool { return strings.HasPrefix(imported, p) }
			// netlink does not compile elsewhere, and that a file is Linux's has to be seen from its name.
			if s.test() && slices.ContainsFunc(forTests, hasPrefix) && (!hasPrefix("github.com/vishvananda/") || s.matches("*_linux.go")) {
				continue
			}
			row := slices.IndexFunc(foreign, func(r struct{ prefix, pkgs, files, why string }) bool { return hasPrefix(r.prefix) })
			if row < 0 {
				t.Errorf("%s imports %s, which is new here: say in the table foreign where it may be imported, and why", s.path, imported)
				continue
			}
			r := foreign[row]
			if !slices.Contains(strings.Fields(r.pkgs), s.pkg) || !s.matches(r.files) {
				t.Errorf("%s imports %s, which may be imported only in [%s], by %s: %s", s.path, imported, r.pkgs, r.files, r.why)
			}
			used[r.prefix+" "+s.pkg] = true
		}
	}
	for _, r := range foreign {
		for pkg := range strings.FieldsSeq(r.pkgs) {
			if !used[r.prefix+" "+pkg] {
				t.Errorf("%s imports %s no more: take it out of the table foreign", pkg, r.prefix)
			}
		}
	}
}

func within(dir, pkg string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

// TestPackageComments: a newcomer reads a package's first lines first.
func TestPackageComments(t *testing.T) {
	comments := map[string]string{}
	for _, s := range sources(t) {
		comments[s.pkg] += s.syntax.Doc.Text()
	}
	for _, pkg := range slices.Sorted(maps.Keys(comments)) {
		if len(comments[pkg]) == 0 {
			t.Errorf("package %s has no comment", pkg)
		}
	}
}

// TestNames: a package, folder or file is called after what it is about.
func TestNames(t *testing.T) {
	empty := regexp.MustCompile(`(?i)(^|[^a-z])(utils?|commons?|helpers?|misc)($|[^a-z])`)
	for _, s := range sources(t) {
		for _, name := range []string{s.path, s.syntax.Name.Name} {
			if empty.MatchString(name) {
				t.Errorf("%s: %q says nothing", s.path, empty.FindString(name))
			}
		}
	}
}

func TestFormat(t *testing.T) {
	for _, s := range sources(t) {
		want, err := format.Source(s.text)
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.ReplaceAll(s.text, []byte("\r\n"), []byte("\n")); !bytes.Equal(got, want) {
			t.Errorf("%s is not gofmt'ed", s.path)
		}
	}
}

// TestModule: `go install` of a module with a replacement does not work.
func TestModule(t *testing.T) {
	b, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(b, []byte("module "+strings.TrimSuffix(module, "/")+"\n")) {
		t.Errorf("go.mod begins with %q", cmp.Or(strings.SplitN(string(b), "\n", 2)[0], "nothing"))
	}
	if m := regexp.MustCompile(`(?m)^replace\b.*`).Find(b); m != nil {
		t.Errorf("go.mod: %s", m)
	}
}
