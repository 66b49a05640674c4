package resolver

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// newFolder is a folder of resolver files that does not exist yet, in a folder of its own.
func newFolder(t *testing.T) folder {
	t.Helper()
	dir := t.TempDir()
	return folder{filepath.Join(dir, "resolver"), filepath.Join(dir, ".temp")}
}

func (f folder) item(domain, value string) Item {
	return Item{EtcResolver, filepath.Join(f.path, domain), value}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// tree is all that is below the folder above f, one line each: mode, name, content.
func tree(t *testing.T, f folder) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(filepath.Dir(f.path), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(b)
		}
		lines = append(lines, info.Mode().String()+" "+path+" "+content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

func found(t *testing.T, f folder) []Entry {
	t.Helper()
	entries, err := f.entries()
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// run is one pass: it returns what the journal holds afterwards.
func run(t *testing.T, f folder, want, owned []Item) (Plan, []Item) {
	t.Helper()
	p := Diff(want, owned, found(t, f))
	for _, s := range p.Steps {
		if err := f.apply(s); err != nil {
			t.Errorf("%v: %v", s, err)
		}
	}
	if err := f.sweep(); err != nil {
		t.Error(err)
	}
	return p, Diff(want, p.Owned, found(t, f)).Owned
}

func TestFolderRoundTrip(t *testing.T) {
	for _, before := range []string{"no folder", "empty folder", "folder in use"} {
		f := newFolder(t)
		if before != "no folder" {
			write(t, filepath.Join(f.path, "puma"), "nameserver 127.0.0.1\nport 9253\n")
		}
		if before == "empty folder" {
			if err := os.Remove(filepath.Join(f.path, "puma")); err != nil {
				t.Fatal(err)
			}
		}
		start := tree(t, f)
		want := []Item{f.item("docker", fileV4), f.item("17.172.in-addr.arpa", fileV4)}
		_, owned := run(t, f, want, nil)
		for _, i := range want {
			b, err := os.ReadFile(i.Key)
			info, _ := os.Stat(i.Key)
			if err != nil || string(b) != fileV4 || info.Mode() != 0o644 {
				t.Errorf("%s: %q, %v, %v", i.Key, b, info.Mode(), err)
			}
		}
		if info, err := os.Stat(f.path); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("folder: %v, %v", info.Mode(), err)
		}
		if p, _ := run(t, f, want, owned); len(p.Steps) > 0 || len(p.Keep) != 2 {
			t.Errorf("second time: %+v", p)
		}
		moved := []Item{f.item("docker", strings.Replace(fileV4, "55353", "5300", 1))}
		p, owned := run(t, f, moved, owned)
		if len(p.Steps) != 2 || !slices.Equal(owned, moved) {
			t.Errorf("moved: %+v, then %v", p, owned)
		}
		run(t, f, nil, owned)
		if now := tree(t, f); now != start {
			t.Errorf("%s: not as at the start:\n%s\nwas:\n%s", before, now, start)
		}
	}
}

func TestFolderKeepsWhatIsNotOurs(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	write(t, outside, fileV4)
	for name, there := range map[string]func(t *testing.T, at string){
		"foreign file":       func(t *testing.T, at string) { write(t, at, "nameserver 10.0.0.1\n") },
		"empty file":         func(t *testing.T, at string) { write(t, at, "") },
		"edited":             func(t *testing.T, at string) { write(t, at, fileV4+"timeout 5\n") },
		"folder":             func(t *testing.T, at string) { write(t, filepath.Join(at, "x"), "x") },
		"symlink to our own": func(t *testing.T, at string) { symlink(t, outside, at) },
		"dangling symlink":   func(t *testing.T, at string) { symlink(t, outside+"-not", at) },
		"fifo":               func(t *testing.T, at string) { fifo(t, at) },
		"other case": func(t *testing.T, at string) {
			write(t, filepath.Join(filepath.Dir(at), "DOCKER"), "nameserver 10.0.0.1\n")
		},
		"other name": func(t *testing.T, at string) {
			write(t, filepath.Join(filepath.Dir(at), "x"), "domain docker.\nport 1\n")
		},
		"larger than a file should be": func(t *testing.T, at string) { write(t, at, fileV4+strings.Repeat("#\n", 40_000)) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFolder(t)
			if err := os.Mkdir(f.path, 0o755); err != nil {
				t.Fatal(err)
			}
			there(t, filepath.Join(f.path, "docker"))
			start, want := tree(t, f), []Item{f.item("docker", fileV4)}

			// A journal that lies is the hardest case.
			p, _ := run(t, f, want, want)
			if len(p.Steps) > 0 || len(p.Blocked) != 1 || p.Blocked[0].Why == "" {
				t.Errorf("plan %+v", p)
			}
			run(t, f, nil, want)
			// Steps that should never be planned do no harm.
			for _, s := range []Step{{Item{}, want[0]}, {want[0], f.item("docker", "x")}, {want[0], Item{}}} {
				err := f.apply(s)
				if there := name != "other case" && name != "other name"; there && err == nil {
					t.Errorf("%v was done", s)
				} else if !there && s.Old == (Item{}) {
					os.Remove(want[0].Key)
				}
			}
			if err := f.sweep(); err != nil {
				t.Error(err)
			}
			if now := tree(t, f); now != start {
				t.Errorf("changed to:\n%s\nwas:\n%s", now, start)
			}
		})
	}
}

func symlink(t *testing.T, to, at string) {
	t.Helper()
	if err := os.Symlink(to, at); err != nil {
		t.Fatal(err)
	}
}

func fifo(t *testing.T, at string) {
	t.Helper()
	if err := syscall.Mkfifo(at, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFolderThatIsNone(t *testing.T) {
	elsewhere := t.TempDir()
	write(t, filepath.Join(elsewhere, "docker"), fileV4)
	for name, make := range map[string]func(f folder){
		"symlink": func(f folder) { symlink(t, elsewhere, f.path) },
		"file":    func(f folder) { write(t, f.path, "x") },
	} {
		f := newFolder(t)
		make(f)
		start, item := tree(t, f), f.item("docker", fileV4)
		if entries := found(t, f); len(entries) > 0 {
			t.Errorf("%s: found %v", name, entries)
		}
		for _, s := range []Step{{Item{}, item}, {item, Item{}}} {
			if err := f.apply(s); err == nil || !strings.Contains(err.Error(), "--resolver none") {
				t.Errorf("%s: %v: %v", name, s, err)
			}
		}
		if err := f.sweep(); err != nil {
			t.Error(err)
		}
		if now := tree(t, f); now != start {
			t.Errorf("%s: changed to:\n%s", name, now)
		}
	}
	if b, err := os.ReadFile(filepath.Join(elsewhere, "docker")); err != nil || string(b) != fileV4 {
		t.Errorf("behind the symlink: %q, %v", b, err)
	}
}

func TestFolderOfOurOwn(t *testing.T) {
	f := newFolder(t)
	start, item := tree(t, f), f.item("docker", fileV4)
	if err := f.apply(Step{Item{}, item}); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(f.path, "puma")
	write(t, theirs, "nameserver 10.0.0.1\n")
	run(t, f, nil, []Item{item})
	if _, err := os.Stat(theirs); err != nil {
		t.Errorf("their file in our folder: %v", err)
	}
	if err := os.Remove(theirs); err != nil {
		t.Fatal(err)
	}

	// What a kill leaves: a temporary file, a folder half made, a folder of ours that is empty.
	write(t, f.temp, "half")
	if err := f.sweep(); err != nil {
		t.Error(err)
	}
	if now := tree(t, f); now != start {
		t.Errorf("after the first sweep:\n%s", now)
	}
	if err := os.Mkdir(f.temp, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.apply(Step{Item{}, item}); err != nil {
		t.Error(err)
	}
	if err := f.apply(Step{item, Item{}}); err != nil {
		t.Error(err)
	}
	if err := f.apply(Step{item, Item{}}); err != nil {
		t.Errorf("deleting the absent: %v", err)
	}
	if err := f.sweep(); err != nil {
		t.Error(err)
	}
	if now := tree(t, f); now != start {
		t.Errorf("after the second sweep:\n%s", now)
	}
	for _, key := range []string{filepath.Dir(f.path) + "/hosts", f.path + "/../hosts", f.path + "/.hidden"} {
		if err := f.apply(Step{Item{}, Item{EtcResolver, key, fileV4}}); err == nil {
			t.Errorf("%s was written", key)
		}
	}
}

func TestFolderNotPermitted(t *testing.T) {
	f := newFolder(t)
	item := f.item("docker", fileV4)
	if err := f.apply(Step{Item{}, item}); err != nil {
		t.Fatal(err)
	}
	start := tree(t, f)
	give, take := func() error { return os.Chmod(f.path, 0o555) }, func() error { return os.Chmod(f.path, 0o755) }
	if os.Getuid() == 0 { // whom modes do not stop
		for dir := filepath.Dir(f.path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		start = tree(t, f)
		give, take = func() error { return syscall.Seteuid(-2 & 0xffff) }, func() error { return syscall.Seteuid(0) }
	}
	if err := give(); err != nil {
		t.Fatal(err)
	}
	del, add := f.apply(Step{item, Item{}}), f.apply(Step{Item{}, f.item("dev", fileV4)})
	if err := take(); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{del, add} {
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "needs root") {
			t.Errorf("without rights: %v", err)
		}
	}
	if now := tree(t, f); now != start {
		t.Errorf("changed to:\n%s", now)
	}
}

// TestFolderNeverShowsHalfAFile looks at the folder all the time while a file is changed: whatever is there is whole.
func TestFolderNeverShowsHalfAFile(t *testing.T) {
	f := newFolder(t)
	a, b := f.item("docker", fileV4), f.item("docker", strings.Replace(fileV4, "55353", "5300", 1))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 50 {
			for _, s := range []Step{{Item{}, a}, {a, b}, {b, Item{}}} {
				if err := f.apply(s); err != nil {
					t.Error(err)
				}
			}
			if err := f.sweep(); err != nil {
				t.Error(err)
			}
		}
	}()
	for looks := 0; ; looks++ {
		select {
		case <-done:
			if looks == 0 {
				t.Error("never looked")
			}
			return
		default:
		}
		names, _ := os.ReadDir(f.path)
		for _, n := range names {
			content, err := os.ReadFile(filepath.Join(f.path, n.Name()))
			if err == nil && (n.Name() != "docker" || string(content) != a.Value && string(content) != b.Value) {
				t.Errorf("seen: %s %q", n.Name(), content)
			}
		}
	}
}

func TestFolderWatch(t *testing.T) {
	f := newFolder(t)
	ctx, cancel := context.WithCancel(t.Context())
	fired, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- f.watch(ctx, func() {
			select {
			case fired <- struct{}{}:
			default:
			}
		})
	}()
	await := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.After(30 * time.Second); ; {
			select {
			case <-fired:
				if done() {
					return
				}
			case err := <-ended:
				t.Fatalf("%s: Watch ended: %v", what, err)
			case <-deadline:
				t.Fatalf("not told: %s", what)
			}
		}
	}
	has := func(value string) func() bool {
		return func() bool {
			b, err := os.ReadFile(filepath.Join(f.path, "docker"))
			return err == nil && string(b) == value || err != nil && value == ""
		}
	}
	item := f.item("docker", fileV4)
	await("start", has(""))
	if err := f.apply(Step{Item{}, item}); err != nil {
		t.Fatal(err)
	}
	await("folder and file made", has(fileV4))
	write(t, item.Key, fileV4+"timeout 5\n")
	await("file edited in place", has(fileV4+"timeout 5\n"))
	write(t, item.Key, fileV4)
	await("file edited back", has(fileV4))
	if err := os.Remove(item.Key); err != nil {
		t.Fatal(err)
	}
	await("file removed", has(""))
	if err := f.sweep(); err != nil {
		t.Fatal(err)
	}
	if err := f.apply(Step{Item{}, item}); err != nil {
		t.Fatal(err)
	}
	await("folder removed and made again", has(fileV4))
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Watch returned %v", err)
	}
	if err := f.watch(ctx, func() { t.Error("called after the end") }); err != nil {
		t.Error(err)
	}
}

// TestSystemFiles goes the whole way in /etc/resolver itself, up to a lookup by the system's own resolver.
func TestSystemFiles(t *testing.T) {
	if os.Getenv("FAIRLEAD_TEST_SYSTEM") != "darwin" {
		t.Skip("writes to /etc/resolver: runs where FAIRLEAD_TEST_SYSTEM is darwin, as in internal/lab/darwin.sh")
	}
	ctx := t.Context()
	if _, err := os.Lstat(etcResolverPath); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%s is there already: %v", etcResolverPath, err)
	}
	m, why, err := Detect(ctx, "auto")
	if err != nil || m != EtcResolver || why == "" {
		t.Fatalf("Detect = %v, %q, %v", m, why, err)
	}
	server := serveOne(t)
	want, err := Render(m, Want{[]string{"docker", "17.172.in-addr.arpa"}, server})
	if err != nil {
		t.Fatal(err)
	}
	var owned []Item
	pass := func(want []Item) {
		t.Helper()
		entries, err := Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		p := Diff(want, owned, entries)
		for _, r := range Apply(ctx, p) {
			if r.Err != nil {
				t.Error(r.Err)
			}
		}
		owned = p.Owned
	}
	pass(want)
	if err := Flush(ctx, m); err != nil {
		t.Error(err)
	}
	flushed, err := os.ReadFile("/var/log/flushed") // what the lab's commands write
	if err != nil || string(flushed) != "dscacheutil -flushcache\nkillall -HUP mDNSResponder\n" {
		t.Errorf("flush: %q, %v", flushed, err)
	}
	addrs, err := net.DefaultResolver.LookupHost(ctx, "web.docker")
	if err != nil || !slices.Equal(addrs, []string{"172.17.0.2"}) {
		t.Errorf("web.docker is %v, %v", addrs, err)
	}
	pass(nil)
	if _, err := os.Lstat(etcResolverPath); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", etcResolverPath, err)
	}
	if err := os.Symlink("/tmp", etcResolverPath); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(etcResolverPath)
	if m, why, err := Detect(ctx, "auto"); err != nil || m != None || !strings.Contains(why, "symlink") {
		t.Errorf("with a symlink: %v, %q, %v", m, why, err)
	}
	if _, _, err := Detect(ctx, string(EtcResolver)); err == nil || !strings.Contains(err.Error(), "symlink") {
		t.Errorf("asked for, with a symlink: %v", err)
	}
	if m, _, err := Detect(ctx, "none"); err != nil || m != None {
		t.Errorf("none, with a symlink: %v, %v", m, err)
	}
}

// serveOne answers every A question with 172.17.0.2, and every other with nothing.
func serveOne(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		for b := make([]byte, 1500); ; {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Additionals = true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
					Body:   &dnsmessage.AResource{A: [4]byte{172, 17, 0, 2}},
				}}
			}
			if answer, err := m.Pack(); err == nil {
				_, _ = c.WriteTo(answer, from)
			}
		}
	}()
	return netip.MustParseAddrPort(c.LocalAddr().String())
}
