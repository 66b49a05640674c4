package agent

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/fairlead-dev/fairlead/resolver"
	"github.com/fairlead-dev/fairlead/routes"
	"github.com/google/go-cmp/cmp"
)

// full has something of each kind to undo.
func full(d *journalDoc) {
	d.Routes = []ownedRoute{{Engine: "dev", Route: routes.Route{Dst: netip.MustParsePrefix("172.17.0.0/16"), Via: netip.MustParseAddr("192.168.99.100"), Dev: "vboxnet0"}},
		{Engine: "six", Route: routes.Route{Dst: netip.MustParsePrefix("fd01::/64"), Dev: "utun7"}}}
	d.Resolver = []resolver.Item{{Method: resolver.ResolvConf, Key: "/etc/resolv.conf", Value: "# fairlead: begin\nnameserver 127.0.0.1\n"}}
	d.Pilots = []engine.Endpoint{{Name: "dev", URL: "tcp://192.168.99.100:2376", Certs: "/c"}}
	d.Untouched = d.Pilots
}

func mustOpen(t *testing.T, dir string) *journal {
	t.Helper()
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func mustChange(t *testing.T, j *journal, f func(*journalDoc)) {
	t.Helper()
	if err := j.change(f); err != nil {
		t.Fatal(err)
	}
}

// values lets cmp look at addresses by value.
var values = cmp.Options{cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })}

func TestJournalRoundTrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "deep")
	j := mustOpen(t, dir)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("opening alone made something: %v", err)
	}
	if !j.empty() || len(j.doc.Instance) != 8 || j.doc.Boot != platform.BootID() {
		t.Errorf("a new journal: %+v", j.doc)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(j.path+".new", []byte(strings.Repeat("left by a crash ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	mustChange(t, j, full)
	again := mustOpen(t, dir)
	if d := cmp.Diff(j.doc, again.doc, values); d != "" {
		t.Errorf("read back: %s", d)
	}
	if got := again.routes(); len(got) != 2 || got[0] != j.doc.Routes[0].Route {
		t.Errorf("routes: %v", got)
	}
	names := listing(t, dir)
	if !slices.Equal(names, []string{"journal.json"}) {
		t.Errorf("in the folder are %v", names)
	}
}

func listing(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestJournalEmpty(t *testing.T) {
	for what, f := range map[string]func(*journalDoc){
		"route":    func(d *journalDoc) { full(d); d.Resolver, d.Pilots = nil, nil },
		"resolver": func(d *journalDoc) { full(d); d.Routes, d.Pilots = nil, nil },
		"pilot":    func(d *journalDoc) { full(d); d.Routes, d.Resolver = nil, nil },
	} {
		j := mustOpen(t, t.TempDir())
		if mustChange(t, j, f); j.empty() {
			t.Errorf("with a %s there is something to undo", what)
		}
		if mustChange(t, j, func(d *journalDoc) { d.Routes, d.Resolver, d.Pilots = nil, nil, nil }); !j.empty() {
			t.Errorf("all is undone, and %+v is left", j.doc)
		}
	}
}

func TestJournalAnotherBoot(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir)
	mustChange(t, j, func(d *journalDoc) { full(d); d.Boot = "another" })
	again := mustOpen(t, dir)
	want := j.doc
	want.Boot, want.Routes = platform.BootID(), nil
	if d := cmp.Diff(want, again.doc, values); d != "" {
		t.Errorf("after another boot (-want +got): %s", d)
	}
}

func TestJournalUnchanged(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir)
	mustChange(t, j, full)
	path := filepath.Join(dir, "journal.json")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	mustChange(t, j, full)
	mustChange(t, j, func(*journalDoc) {})
	if names := listing(t, dir); len(names) > 0 {
		t.Errorf("nothing changed, and %v was written", names)
	}
	mustChange(t, j, func(d *journalDoc) { d.Pilots = nil })
	if again := mustOpen(t, dir); len(again.doc.Pilots) != 0 || len(again.doc.Routes) != 2 {
		t.Errorf("a change was not written: %+v", again.doc)
	}
}

func TestJournalDamaged(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "journal.json")
	j := mustOpen(t, dir)
	mustChange(t, j, full)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "null", "{}", "[]", "no", `{"schema": 2}`, `{"schema": 1, "routes": [{"dst": "172.17.0.0/99"}]}`, string(whole[:len(whole)/2]), string(whole) + "{"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := openJournal(dir)
		var p *Problem
		if !errors.As(err, &p) || p.Code != ExitFailed || p.Hint == "" || !strings.Contains(p.Error(), "journal.json") {
			t.Errorf("%.40q: %v", text, err)
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != text {
			t.Errorf("%.40q became %.40q, %v", text, now, err)
		}
	}

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := openJournal(dir); err == nil {
		t.Error("a folder was read")
	}
	if err := j.change(func(d *journalDoc) { d.Pilots = nil }); err == nil {
		t.Error("a folder was written")
	} else if len(j.doc.Pilots) != 1 {
		t.Error("what could not be written is believed to be")
	}
	if names := listing(t, dir); !slices.Equal(names, []string{"journal.json"}) {
		t.Errorf("a writing that failed left %v", names)
	}
}

const writerDir = "FAIRLEAD_TEST_JOURNAL_DIR"

// TestJournalWriter is the victim of TestJournalCrash: it writes version after version, and says which one is safe.
func TestJournalWriter(t *testing.T) {
	dir := os.Getenv(writerDir)
	if dir == "" {
		t.Skip("run by TestJournalCrash")
	}
	j := mustOpen(t, dir)
	for v := version(j); v < 10_000; {
		v++
		mustChange(t, j, func(d *journalDoc) {
			full(d)
			d.Pilots[0].Name, d.Pilots[0].Certs = strconv.Itoa(v), strings.Repeat("x", v%7*5000)
		})
		fmt.Println("version", v)
	}
}

func version(j *journal) int {
	if len(j.doc.Pilots) == 0 {
		return 0
	}
	v, _ := strconv.Atoi(j.doc.Pilots[0].Name)
	return v
}

// TestJournalCrash kills a writer at any instruction: the journal is that of the last change that returned or of the one after.
func TestJournalCrash(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, last := t.TempDir(), 0
	for range 15 {
		writer := exec.Command(self, "-test.run=^TestJournalWriter$")
		writer.Env = append(os.Environ(), writerDir+"="+dir)
		out, err := writer.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		killAt, said := 1+rand.IntN(20), 0
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if v, ok := strings.CutPrefix(lines.Text(), "version "); ok {
				if last, err = strconv.Atoi(v); err != nil {
					t.Fatal(err)
				}
				if said++; said == killAt {
					if err := writer.Process.Kill(); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		_ = writer.Wait() // it was killed
		if said < killAt {
			t.Fatalf("the writer ended by itself after version %d", last)
		}
		j := mustOpen(t, dir)
		if v := version(j); v != last && v != last+1 {
			t.Fatalf("version %d was safe, and the journal has %d", last, v)
		}
		last = version(j)
	}
	j := mustOpen(t, dir)
	mustChange(t, j, func(d *journalDoc) { d.Pilots = nil })
	if names := listing(t, dir); !slices.Equal(names, []string{"journal.json"}) {
		t.Errorf("crashes left %v", names)
	}
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"schema":1,"instance":"01234567","boot":"b","routes":[{"engine":"dev","dst":"172.17.0.0/16","via":"192.168.99.100","dev":"v"}],"resolver":[],"pilots":[{"name":"dev","url":"unix:///x"}]}`))
	f.Add([]byte(`{"schema":1,"routes":[{"dst":"","via":"fe80::1%x"}]}`))
	f.Add([]byte("null"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, "journal.json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := openJournal(dir)
		if err != nil {
			if p := Explain(err); p.Hint == "" {
				t.Errorf("%v has no hint", err)
			}
			return
		}
		// What was believed must neither break those who use it nor change when it is written.
		routes.Diff(nil, j.routes(), nil)
		mustChange(t, j, func(d *journalDoc) { d.Pilots = append(d.Pilots, engine.Endpoint{Name: "added"}) })
		if d := cmp.Diff(j.doc, mustOpen(t, dir).doc, values); d != "" {
			t.Errorf("written and read: %s", d)
		}
	})
}

// empty tells whether there is nothing to undo.
func (j *journal) empty() bool {
	return len(j.doc.Routes) == 0 && len(j.doc.Resolver) == 0 && len(j.doc.Pilots) == 0
}
