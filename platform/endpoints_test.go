package platform

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "rewrite the golden parts of testdata/providers")

// fixture is a host out of a txtar: the files of its homes, written as its OS writes them, and before these
//
//	goos GOOS
//	home DIR
//	env NAME=VALUE
//	socket PATH [-> REAL] [uid N]      the homes' owner's, unless it is told
func fixture(t testing.TB, a *txtar.Archive) Host {
	t.Helper()
	dir := t.TempDir()
	at := func(p string) string {
		return filepath.Join(dir, filepath.FromSlash(strings.NewReplacer(`\`, "/", ":", "").Replace(p)))
	}
	type socket struct {
		real string
		uid  int
	}
	env, sockets := map[string]string{}, map[string]socket{}
	uid := os.Getuid()
	if uid <= 0 {
		uid = 501 // root's files are believed in every home
	}
	h := Host{
		Env: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		Open: func(dir string) (*os.Root, error) {
			return os.OpenRoot(at(dir))
		},
		Socket: func(path string) (string, int, error) {
			if s, ok := sockets[path]; ok {
				return s.real, s.uid, nil
			}
			return "", -1, fs.ErrNotExist
		},
	}
	for line := range strings.Lines(string(a.Comment)) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " # ")
		word, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimSpace(rest)
		switch word {
		case "goos":
			h.GOOS = rest
		case "home":
			h.Homes = append(h.Homes, Home{Dir: rest, UID: uid})
			if err := os.MkdirAll(at(rest), 0o755); err != nil {
				t.Fatal(err)
			}
		case "env":
			name, value, _ := strings.Cut(rest, "=")
			env[name] = value
		case "socket":
			rest, n, told := strings.Cut(rest, " uid ")
			owner := uid
			if told {
				var err error
				if owner, err = strconv.Atoi(n); err != nil {
					t.Fatal(err)
				}
			}
			p, real, linked := strings.Cut(rest, " -> ")
			if !linked {
				real = p
			}
			sockets[p] = socket{real, owner}
		case "", "#":
		default:
			t.Fatalf("line %q", line)
		}
	}
	for _, f := range a.Files {
		if f.Name == "want" {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(at(f.Name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at(f.Name), f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// found prints a Discover's result.
func found(endpoints []Endpoint, problems []Problem) string {
	var b strings.Builder
	for _, e := range endpoints {
		fmt.Fprintf(&b, "%s %s\n", e.Name, e.URL)
		if e.Certs != "" {
			fmt.Fprintf(&b, "\tcerts %s\n", e.Certs)
		}
		fmt.Fprintf(&b, "\t%s", e.Provider)
		if e.Home != "" {
			fmt.Fprintf(&b, ", home %s", e.Home)
		}
		if e.Reach != "" {
			fmt.Fprintf(&b, ", reach %s", e.Reach)
		}
		if e.VM.IsValid() {
			fmt.Fprintf(&b, ", vm %v", e.VM)
		}
		fmt.Fprintf(&b, "\n\t%s\n", e.Why)
	}
	for _, p := range problems {
		fmt.Fprintf(&b, "problem: %v\n\thint: %s\n", p, p.Hint)
	}
	return b.String()
}

// TestDiscover replays testdata/providers: a folder a provider, a file a host, in each file what is found there.
func TestDiscover(t *testing.T) {
	for _, p := range append([]string{"all"}, providerNames()...) {
		files, err := filepath.Glob(filepath.Join("testdata", "providers", p, "*.txtar"))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) == 0 {
			t.Errorf("provider %s has no fixtures in testdata/providers", p)
		}
		seen := false
		for _, file := range files {
			t.Run(p+"/"+strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
				b, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				a := txtar.Parse([]byte(strings.ReplaceAll(string(b), "\r\n", "\n")))
				h := fixture(t, a)
				endpoints, problems := Discover(h)
				got := found(endpoints, problems)
				for _, e := range endpoints {
					seen = seen || e.Provider == p
					if n := label(e.Name); n != e.Name || n == "" {
						t.Errorf("name %q is no DNS label", e.Name)
					}
				}
				for _, pr := range problems {
					seen = seen || pr.Provider == p
					if pr.Hint == "" {
						t.Errorf("no hint: %v", pr)
					}
				}
				i := slices.IndexFunc(a.Files, func(f txtar.File) bool { return f.Name == "want" })
				if i < 0 {
					a.Files, i = append(a.Files, txtar.File{Name: "want"}), len(a.Files)
				}
				if *update {
					a.Files[i].Data = []byte(got)
					if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
						t.Fatal(err)
					}
				} else if want := string(a.Files[i].Data); got != want {
					t.Errorf("found\n%s\nwant\n%s", got, want)
				}
			})
		}
		if !seen && p != "all" {
			t.Errorf("no fixture of provider %s has it found", p)
		}
	}
}

func providerNames() []string {
	var out []string
	for _, p := range providers {
		out = append(out, p.name)
	}
	return out
}

// TestProvidersPage: docs/providers.md has a row for each provider, in this order.
func TestProvidersPage(t *testing.T) {
	b, err := os.ReadFile("../docs/providers.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Split(line, "|"); len(f) > 2 && strings.HasPrefix(line, "| `") {
			rows = append(rows, strings.Trim(f[1], " `"))
		}
	}
	if want := providerNames(); !slices.Equal(rows, want) {
		t.Errorf("rows %q, want %q", rows, want)
	}
}

// home is a home that is a real folder, with a machine in docker-machine's store.
func home(t *testing.T) (Host, string) {
	t.Helper()
	dir := t.TempDir()
	h := Host{GOOS: "linux", Homes: []Home{{Dir: dir, UID: os.Getuid()}}, Socket: func(string) (string, int, error) { return "", -1, fs.ErrNotExist }}
	h.Open = func(d string) (*os.Root, error) { // a Windows path is none on h's OS
		if d == filepath.ToSlash(dir) {
			d = dir
		}
		return os.OpenRoot(d)
	}
	if filepath.Separator == '\\' {
		h.GOOS = "windows"
	}
	write(t, dir, ".docker/machine/machines/dev/config.json", `{"ConfigVersion":3,"Driver":{"IPAddress":"192.168.99.100"},"DriverName":"virtualbox"}`)
	for _, name := range []string{"ca.pem", "cert.pem", "key.pem"} {
		write(t, dir, ".docker/machine/machines/dev/"+name, "fixture\n")
	}
	return h, dir
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	p := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// symlink makes a link that works. Windows lets only some users make them.
func symlink(t *testing.T, to, link string) {
	t.Helper()
	err := os.Symlink(to, link)
	if err == nil {
		_, err = os.Stat(link)
	}
	if err != nil && runtime.GOOS == "windows" {
		t.Skipf("symbolic links do not work here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
}

// TestHostileFiles: what a user may put where a product's file belongs costs that endpoint, and says so, and nothing else.
func TestHostileFiles(t *testing.T) {
	const machines = ".docker/machine/machines/"
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir string)
		want string // in the one problem
	}{
		{"a folder for a file", func(t *testing.T, dir string) { write(t, dir, machines+"bad/config.json/x", "") }, "not a regular file"},
		{"a file for a folder", func(t *testing.T, dir string) { write(t, dir, ".minikube/machines", "") }, "not a folder"},
		{"too large", func(t *testing.T, dir string) {
			write(t, dir, machines+"bad/config.json", strings.Repeat(" ", maxFile+1))
		}, "larger than 1048576 bytes"},
		{"too many", func(t *testing.T, dir string) {
			for i := range maxEntries + 1 {
				write(t, dir, fmt.Sprintf(".minikube/machines/%d", i), "")
			}
		}, "more than 1000 entries"},
		{"not JSON", func(t *testing.T, dir string) { write(t, dir, machines+"bad/config.json", "\x00{") }, "reading JSON"},
		{"nested", func(t *testing.T, dir string) {
			write(t, dir, machines+"bad/config.json", strings.Repeat("[", maxFile))
		}, "reading JSON"},
		{"no certificates", func(t *testing.T, dir string) {
			write(t, dir, machines+"bad/config.json", `{"Driver":{"IPAddress":"192.168.99.101"}}`)
		}, "ca.pem is missing"},
		{"an empty key", func(t *testing.T, dir string) {
			write(t, dir, machines+"bad/config.json", `{"Driver":{"IPAddress":"192.168.99.101"}}`)
			write(t, dir, machines+"bad/ca.pem", "x")
			write(t, dir, machines+"bad/cert.pem", "x")
			write(t, dir, machines+"bad/key.pem", "")
		}, "key.pem is empty"},
		{"a link out of the home", func(t *testing.T, dir string) {
			outside := t.TempDir()
			write(t, outside, "config.json", `{"Driver":{"IPAddress":"192.168.99.101"}}`)
			write(t, dir, machines+"bad/x", "")
			symlink(t, filepath.Join(outside, "config.json"), filepath.Join(dir, filepath.FromSlash(machines), "bad", "config.json"))
		}, "leads out"},
		{"a folder's link out of the home", func(t *testing.T, dir string) {
			outside := t.TempDir()
			write(t, outside, "machines/x/config.json", "{}")
			symlink(t, outside, filepath.Join(dir, ".minikube"))
		}, "leads out"},
		{"a name for a shell", func(t *testing.T, dir string) {
			write(t, dir, machines+"$(reboot)/config.json", `{}`)
		}, "no address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, dir := home(t)
			c.make(t, dir)
			endpoints, problems := Discover(h)
			if len(endpoints) != 1 || endpoints[0].URL != "tcp://192.168.99.100:2376" {
				t.Errorf("the rest was harmed: %v", endpoints)
			}
			if len(problems) != 1 || !strings.Contains(problems[0].Error(), c.want) {
				t.Fatalf("problems %v, want one with %q", problems, c.want)
			}
			if strings.Contains(problems[0].Hint, "$(") {
				t.Errorf("the hint runs what a name says: %s", problems[0].Hint)
			}
		})
	}
}

func TestLinkInsideHome(t *testing.T) {
	h, dir := home(t)
	if err := os.Rename(filepath.Join(dir, ".docker"), filepath.Join(dir, "dotfiles")); err != nil {
		t.Fatal(err)
	}
	symlink(t, "dotfiles", filepath.Join(dir, ".docker"))
	if endpoints, problems := Discover(h); len(endpoints) != 1 || problems != nil {
		t.Errorf("found %v, problems %v", endpoints, problems)
	}
}

func TestHomes(t *testing.T) {
	h, dir := home(t)
	h.Homes = append(h.Homes, Home{Dir: filepath.Join(dir, "nobody"), UID: 1}, Home{Dir: "relative", UID: 1})
	endpoints, problems := Discover(h)
	if len(endpoints) != 1 || len(problems) != 1 || problems[0].Path != "relative" {
		t.Errorf("found %v, problems %v", endpoints, problems)
	}
	if endpoints, problems := Discover(Host{GOOS: "linux", Socket: h.Socket}); endpoints != nil || problems != nil {
		t.Errorf("a host of nobody: found %v, problems %v", endpoints, problems)
	}
}

// TestSocketFailure: one that cannot be looked at is not one that is not there.
func TestSocketFailure(t *testing.T) {
	h := Host{GOOS: "linux", Socket: func(path string) (string, int, error) {
		if path == "/var/run/docker.sock" {
			return "", -1, &fs.PathError{Op: "lstat", Path: path, Err: errors.New("input/output error")}
		}
		return "", -1, fs.ErrNotExist
	}}
	if endpoints, problems := Discover(h); endpoints != nil || len(problems) != 1 || problems[0].Error() != "native: /var/run/docker.sock: input/output error" {
		t.Errorf("found %v, problems %v", endpoints, problems)
	}
}

func TestUnique(t *testing.T) {
	long := strings.Repeat("x", 63)
	taken := map[string]bool{}
	for _, c := range []struct{ name, provider, want string }{
		{"dev", "docker-machine", "dev"},
		{"Dev", "docker-machine", "docker-machine-dev"},
		{"dev", "docker-machine", "docker-machine-dev-2"},
		{"dev", "docker-machine", "docker-machine-dev-3"},
		{"colima", "colima", "colima"},
		{"colima", "colima", "colima-2"},
		{"my_box.local", "vagrant", "my-box-local"},
		{"--", "lima", "lima"},
		{"", "lima", "lima-2"},
		{"fährte", "lima", "f-hrte"},
		{"a\x00b\n", "lima", "a-b"},
		{long + "y", "lima", long},
		{long, "lima", "lima-" + long[:58]},
		{long, "lima", "lima-" + long[:56] + "-2"},
	} {
		got := unique(c.name, c.provider, taken)
		if got != c.want {
			t.Errorf("%q of %s is called %q, want %q", c.name, c.provider, got, c.want)
		}
		taken[got] = true
	}
}

func TestNormalURL(t *testing.T) {
	for _, c := range []struct {
		raw  string
		tls  bool
		want string // empty: an error
	}{
		{"unix:///var/run/docker.sock", false, "unix:///var/run/docker.sock"},
		{"unix:///a b/%2e?/../docker.sock", false, "unix:///a b/docker.sock"},
		{"unix://docker.sock", false, ""},
		{"unix://", false, ""},
		{"npipe:////./pipe/docker_engine", false, "npipe:////./pipe/docker_engine"},
		{`npipe://\\.\pipe\docker_engine`, false, "npipe:////./pipe/docker_engine"},
		{"npipe:////server/pipe/docker_engine", false, ""},
		{"npipe:////./pipe/../x", false, ""},
		{"npipe:////./pipe/", false, ""},
		{"tcp://192.168.99.100:2376", true, "tcp://192.168.99.100:2376"},
		{"tcp://192.168.99.100", true, "tcp://192.168.99.100:2376"},
		{"tcp://192.168.99.100", false, "tcp://192.168.99.100:2375"},
		{"tcp://Dev.Local:02375/", false, "tcp://dev.local:2375"},
		{"tcp://[fd99:0::7]:2376", true, "tcp://[fd99::7]:2376"},
		{"tcp://[::ffff:10.0.0.2]:2376", true, "tcp://10.0.0.2:2376"},
		{"http://10.0.0.2:2375", false, "tcp://10.0.0.2:2375"},
		{"https://10.0.0.2:2376", true, "tcp://10.0.0.2:2376"},
		{"https://10.0.0.2:2376", false, ""},
		{"tcp://0.0.0.0:2375", false, ""},
		{"tcp://:2375", false, ""},
		{"tcp://10.0.0.2:0", false, ""},
		{"tcp://10.0.0.2:65536", false, ""},
		{"tcp://10.0.0.2:2375/v1.41", false, ""},
		{"tcp://10.0.0.2:2375?certs=/x", false, ""},
		{"tcp://u:p@10.0.0.2:2375", false, ""},
		{"tcp://a b:1", false, ""},
		{"ssh://ann@dev", false, "ssh://ann@dev"},
		{"ssh://dev:2222/run/docker.sock", false, "ssh://dev:2222/run/docker.sock"},
		{"ssh://", false, ""},
		{"ssh://-oProxyCommand=x", false, ""},
		{"ssh://ann:secret@dev", false, ""},
		{"ssh://dev:99999", false, ""},
		{"fd://", false, ""},
		{"10.0.0.2:2375", false, ""},
		{"tcp://10.0.0.2:2375\n", false, ""},
		{"", false, ""},
	} {
		if got, err := normalURL(c.raw, c.tls); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q: %q, %v; want %q", c.raw, got, err, c.want)
		}
	}
}

func FuzzNormalURL(f *testing.F) {
	for _, s := range []string{"unix:///x", "npipe:////./pipe/x", "tcp://[fe80::1%25en0]:1", "https://h", "ssh://x", "tcp://h:1/%zz"} {
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, raw string, tls bool) {
		u, err := normalURL(raw, tls)
		if err != nil {
			if printable(err.Error()) != err.Error() {
				t.Errorf("%q", err)
			}
			return
		}
		if again, err := normalURL(u, tls); err != nil || again != u || printable(u) != u {
			t.Errorf("%q is written %q, and that %q, %v", raw, u, again, err)
		}
	})
}

func FuzzUnique(f *testing.F) {
	f.Add("dev", "docker-machine")
	f.Add("-é_"+strings.Repeat("-x", 60), "lima")
	f.Fuzz(func(t *testing.T, name, provider string) {
		if label(provider) != provider || provider == "" || len(provider) > 20 {
			return
		}
		taken := map[string]bool{}
		for range 12 {
			n := unique(name, provider, taken)
			if taken[n] || n == "" || len(n) > 63 || label(n) != n {
				t.Fatalf("%q of %s is called %q", name, provider, n)
			}
			taken[n] = true
		}
	})
}

// FuzzDiscover puts anything into every file that is read: nothing panics, and what comes out is fit to use.
func FuzzDiscover(f *testing.F) {
	for _, s := range []string{"", "{}", "null", "[]", `{"Name":"x","currentContext":"x"}`, "LowerIP = '1.2.3.4'", "export DOCKER_IP=1", "network:\n  address: true\n"} {
		f.Add([]byte(s))
	}
	sum := "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" // of "x"
	names := []string{
		".docker/config.json", ".docker/contexts/meta/" + sum + "/meta.json", ".docker/machine/machines/x/config.json", ".docker/machine/certs/ca.pem",
		".docker/machine/certs/cert.pem", ".docker/machine/certs/key.pem", ".minikube/machines/x/config.json", ".minikube/profiles/x/config.json",
		".boot2docker/profile", ".dvm/dvm.conf", ".dvm/Vagrantfile", ".colima/x/colima.yaml", ".config/containers/podman/machine/qemu/x.json",
		".vagrant.d/data/machine-index/index", "AppData/Roaming/rancher-desktop/settings.json", ".wslconfig", "AppData/Local/wsl/x/ext4.vhdx",
	}
	dir := f.TempDir()
	for _, n := range names {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(n)), 0o755); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, n := range names {
			if err := os.WriteFile(filepath.Join(dir, n), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for goos, home := range map[string]string{"linux": "/home/x", "darwin": "/Users/x", "windows": `C:\Users\x`} {
			endpoints, problems := Discover(Host{
				GOOS: goos, Homes: []Home{{Dir: home, UID: os.Getuid()}},
				Open:   func(string) (*os.Root, error) { return os.OpenRoot(dir) },
				Socket: func(p string) (string, int, error) { return p, os.Getuid(), nil },
			})
			taken := map[string]bool{}
			for _, e := range endpoints {
				u, err := normalURL(e.URL, e.Certs != "")
				if err != nil || u != e.URL || taken[e.Name] || taken[e.URL] || label(e.Name) != e.Name || e.Why == "" {
					t.Errorf("%+v: %v", e, err)
				}
				taken[e.Name], taken[e.URL] = true, true
			}
			for _, p := range problems {
				if p.Err == nil || printable(p.Error()) != p.Error() || printable(p.Hint) != p.Hint {
					t.Errorf("%q, hint %q", p.Error(), p.Hint)
				}
			}
		}
	})
}

// BenchmarkDiscover is a look at a home with something of every product, which the running agent takes every 5 s; and, as the
// limit, reading that home's files once.
func BenchmarkDiscover(b *testing.B) {
	text, err := os.ReadFile("testdata/providers/all/darwin.txtar")
	if err != nil {
		b.Fatal(err)
	}
	a := txtar.Parse(text)
	h := fixture(b, a)
	b.Run("look", func(b *testing.B) {
		for b.Loop() {
			if found, _ := Discover(h); len(found) == 0 {
				b.Fatal("nothing is found")
			}
		}
	})
	b.Run("read", func(b *testing.B) {
		root, err := h.Open(h.Homes[0].Dir)
		if err != nil {
			b.Fatal(err)
		}
		defer root.Close()
		var files []string
		if err := fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				files = append(files, path)
			}
			return err
		}); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			for _, f := range files {
				if _, err := root.ReadFile(f); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
