package agent

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/routes"
)

// replacer is an agent whose state folder is beside a folder of other tools' files; again is one after a restart.
type replacer struct {
	*Agent
	t   *testing.T
	dir string
}

func newReplacer(t *testing.T) replacer {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	return replacer{t: t, dir: dir}.again()
}

func (r replacer) again() replacer {
	r.t.Helper()
	state := filepath.Join(r.dir, "state")
	j, err := openJournal(state)
	if err != nil {
		r.t.Fatal(err)
	}
	r.Agent = newAgent(Config{StateDir: state}, slog.New(slog.DiscardHandler), "", j)
	return r
}

func (r replacer) path(name string) string { return filepath.Join(r.dir, "etc", name) }

func (r replacer) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(r.path(name), []byte(text), 0o640); err != nil {
		r.t.Fatal(err)
	}
}

// reads is the file's text, or "-" when it is not there.
func (r replacer) reads(name string) string {
	b, err := os.ReadFile(r.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "-"
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

func (r replacer) restored() Undone {
	var u Undone
	r.mu.Lock()
	defer r.mu.Unlock()
	r.restore(&u)
	return u
}

// wantClean: nothing is left of it in the journal and in the state folder.
func (r replacer) wantClean() {
	r.t.Helper()
	if n := len(r.again().journal.doc.Replaced); n > 0 {
		r.t.Errorf("the journal still has %d files", n)
	}
	if _, err := os.Stat(filepath.Join(r.dir, "state", "replaced")); !errors.Is(err, fs.ErrNotExist) {
		r.t.Errorf("the folder of moved files is still there: %v", err)
	}
}

func TestReplace(t *testing.T) {
	r := newReplacer(t)
	r.write("docker", "nameserver 172.17.0.1\n")
	before, err := os.Stat(r.path("docker"))
	if err != nil {
		t.Fatal(err)
	}
	r.replace([]string{r.path("docker"), r.path("none")})
	if got := r.reads("docker"); got != "-" {
		t.Errorf("docker is still there: %q", got)
	}
	r.replace([]string{r.path("docker")}) // the next start
	r = r.again()                         // after a kill
	u := r.restored()
	after, err := os.Stat(r.path("docker"))
	if err != nil || len(u.Back) != 1 || len(u.Left) > 0 || !os.SameFile(before, after) || after.Mode() != before.Mode() || r.reads("docker") != "nameserver 172.17.0.1\n" {
		t.Errorf("%+v, %v, %v", u, after, err)
	}
	r.wantClean()
	if u := r.restored(); len(u.Back)+len(u.Left) > 0 {
		t.Errorf("a second time: %+v", u)
	}
}

// What is no regular file stays, and nobody's file is ever overwritten.
func TestReplaceRefuses(t *testing.T) {
	r := newReplacer(t)
	r.write("target", "x")
	if err := os.Mkdir(r.path("folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	paths := []string{r.path("folder")}
	_ = os.Symlink(r.path("target"), r.path("link"))
	if _, err := os.Lstat(r.path("link")); err == nil { // not every OS lets everybody make one, and Wine only says so
		paths = append(paths, r.path("link"))
	}
	r.replace(paths)
	for _, p := range paths {
		if _, err := os.Lstat(p); err != nil {
			t.Errorf("%s was moved: %v", p, err)
		}
	}

	r.write("docker", "theirs")
	r.replace([]string{r.path("docker")})
	r.write("docker", "made meanwhile")
	r.replace([]string{r.path("docker")}) // there is one in the backup's place
	if got := r.reads("docker"); got != "made meanwhile" {
		t.Errorf("docker is %q", got)
	}
	u := r.restored()
	if len(u.Left) != 1 || !strings.Contains(u.Left[0].Hint, r.journal.doc.Replaced[0].Backup) || r.reads("docker") != "made meanwhile" {
		t.Errorf("%+v, docker is %q", u, r.reads("docker"))
	}
	if err := os.Remove(r.path("docker")); err != nil {
		t.Fatal(err)
	}
	if u := r.again().restored(); len(u.Back) != 1 || r.reads("docker") != "theirs" {
		t.Errorf("%+v, docker is %q", u, r.reads("docker"))
	}
	r.wantClean()
}

// Killed at any step, it leaves what the next restore puts right.
func TestReplaceKilled(t *testing.T) {
	for name, step := range map[string]func(r replacer, f replacedFile) error{
		"before the move": func(r replacer, f replacedFile) error { return os.Rename(f.Backup, f.Path) },
		"after the link":  func(r replacer, f replacedFile) error { return os.Link(f.Backup, f.Path) },
	} {
		r := newReplacer(t)
		r.write("docker", "theirs")
		r.replace([]string{r.path("docker")})
		if err := step(r, r.journal.doc.Replaced[0]); err != nil {
			t.Fatal(err)
		}
		r = r.again()
		if u := r.restored(); len(u.Left) > 0 || r.reads("docker") != "theirs" {
			t.Errorf("%s: %+v, docker is %q", name, u, r.reads("docker"))
		}
		r.wantClean()
	}
}

// What the journal says is out of the table, and is not, was made again, or was never taken out: it is nothing to put back. A row
// of an earlier start of this host is put back only if the host would have made it itself.
func TestTakenOutIsReadBack(t *testing.T) {
	row := func(dst string, lasting ...string) routes.Saved {
		return routes.Saved{Entry: routes.Entry{Route: routes.Route{Dst: netip.MustParsePrefix(dst), Via: netip.MustParseAddr("192.168.99.100"), Dev: "vboxnet0"}, Owner: "static"}, Lasting: lasting, Exact: []byte{1}}
	}
	out, again, ours := row("172.17.0.0/16"), row("172.18.0.0/16"), row("172.19.0.0/16")
	table := []routes.Entry{again.Entry, {Route: ours.Route, Marked: true}}
	if got := stillOut([]routes.Saved{out, again, ours}, table); len(got) != 2 || got[0].Route != out.Route || got[1].Route != ours.Route {
		t.Errorf("%+v", got)
	}

	dir := t.TempDir()
	j := mustOpen(t, dir)
	lasting := row("172.20.0.0/16", "172.20.0.0,255.255.0.0,192.168.99.100,1")
	mustChange(t, j, func(d *journalDoc) { d.TakenOut = []routes.Saved{out, lasting} })
	if got := mustOpen(t, dir).doc.TakenOut; len(got) != 2 || !slices.Equal(got[0].Exact, out.Exact) {
		t.Errorf("after a restart: %+v", got)
	}
	mustChange(t, j, func(d *journalDoc) { d.Boot = "another" })
	if got := mustOpen(t, dir).doc.TakenOut; len(got) != 1 || got[0].Route != lasting.Route {
		t.Errorf("after the host's next start: %+v", got)
	}
}
