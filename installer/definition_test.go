package installer

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

var plain = definition{
	Program: "/usr/local/lib/fairlead/fairlead", Sum: strings.Repeat("0123456789abcdef", 4), Copied: true,
	Args: []string{"run", "--engine=dev=tcp://192.0.2.1:2376?certs=/home/a b/100%/$HOME"},
}

// awkward is whatever a command line can hold and a unit or XML could take for something else.
var awkward = definition{
	Program: `/opt/a "b" 'c' <d>&e;%i\x/fairlead`, Sum: "", Args: []string{"run", "", `\`, `$X ${Y} $$`, "-->", `%%n "`, "a;b", "ü€ ]]>"},
	Writable: []string{"/srv/a b%c", "/x"},
}

// TestGolden compares with texts that were read by a person and, the unit, by systemd-analyze (below).
func TestGolden(t *testing.T) {
	for file, got := range map[string]string{"fairlead.service": unit(plain), "dev.fairlead.agent.plist": plist(plain)} {
		path := filepath.Join("testdata", file)
		if os.Getenv("FAIRLEAD_TEST_UPDATE") != "" {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.ReplaceAll(string(b), "\r\n", "\n"); got != want {
			t.Errorf("%s differs:\n%s", file, got)
		}
	}
}

// TestSeal: what was written is read back; with any byte changed, added or taken away it is not ours.
func TestSeal(t *testing.T) {
	for _, d := range []definition{plain, awkward} {
		for _, c := range []struct {
			text string
			mark [2]string
		}{{unit(d), unitMark}, {plist(d), plistMark}} {
			got, err := readText(c.text, c.mark)
			if err != nil {
				t.Fatal(err)
			}
			if !got.equal(d) {
				t.Errorf("read back %+v, want %+v", got, d)
			}
			for i := range c.text {
				for _, other := range []string{c.text[:i] + c.text[i+1:], c.text[:i] + "#" + c.text[i:], c.text[:i]} {
					if d, err := readText(other, c.mark); err == nil && other != c.text {
						t.Fatalf("changed at byte %d, and still ours: %+v", i, d)
					}
				}
			}
		}
	}
	for _, text := range []string{"", "[Unit]\n", unitMark[0], unitMark[0] + "{}\n", unitMark[0] + "null\n[Unit]\n"} {
		if _, err := readText(text, unitMark); !errors.Is(err, ErrForeign) {
			t.Errorf("readText(%q): %v, want ErrForeign", text, err)
		}
	}
}

func FuzzReadText(f *testing.F) {
	f.Add(unit(plain), true)
	f.Add(plist(awkward), false)
	f.Add(`# fairlead: {"seal":""}`+"\n", true)
	f.Fuzz(func(t *testing.T, text string, isUnit bool) {
		mark := plistMark
		if isUnit {
			mark = unitMark
		}
		d, err := readText(text, mark)
		if err == nil && !strings.Contains(text, d.Seal) {
			t.Errorf("%+v has a seal that is not in the text", d)
		}
	})
}

// TestPlist reads the property list as XML, as launchd does.
func TestPlist(t *testing.T) {
	var doc struct {
		Keys    []string `xml:"dict>key"`
		Strings []string `xml:"dict>array>string"`
	}
	if err := xml.Unmarshal([]byte(plist(awkward)), &doc); err != nil {
		t.Fatal(err)
	}
	if want := append([]string{awkward.Program}, awkward.Args...); !slices.Equal(doc.Strings, want) {
		t.Errorf("ProgramArguments are %q, want %q", doc.Strings, want)
	}
	if want := []string{"Label", "ProgramArguments", "RunAtLoad", "KeepAlive", "ThrottleInterval", "ProcessType", "StandardOutPath", "StandardErrorPath"}; !slices.Equal(doc.Keys, want) {
		t.Errorf("keys are %q, want %q", doc.Keys, want)
	}
}

func TestQuote(t *testing.T) {
	for _, c := range []struct {
		in, path, arg string
	}{
		{"/usr/bin/x", "/usr/bin/x", "/usr/bin/x"},
		{"", `""`, `""`},
		{"a b", `"a b"`, `"a b"`},
		{`a"b\`, `"a\"b\\"`, `"a\"b\\"`},
		{"100%n", "100%%n", "100%%n"},
		{"$HOME", "$HOME", "$$HOME"},
		{";", `";"`, `";"`},
	} {
		if got := quote(c.in, false); got != c.path {
			t.Errorf("quote(%q, false) = %s, want %s", c.in, got, c.path)
		}
		if got := quote(c.in, true); got != c.arg {
			t.Errorf("quote(%q, true) = %s, want %s", c.in, got, c.arg)
		}
	}
}

// TestUnitIsUnderstood asks systemd itself, where it is at hand.
func TestUnitIsUnderstood(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("needs systemd-analyze")
	}
	program := filepath.Join(t.TempDir(), `a b %i $HOME`, "fairlead")
	if err := errors.Join(os.Mkdir(filepath.Dir(program), 0o755), os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, d := range []definition{
		{Program: program, Args: plain.Args, Writable: []string{"/srv/a b%c"}},
		{Program: "/bin/true", Args: awkward.Args, Writable: awkward.Writable},
	} {
		file := filepath.Join(t.TempDir(), "fairlead.service")
		if err := os.WriteFile(file, []byte(unit(d)), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("systemd-analyze", "verify", "--man=no", file).CombinedOutput()
		if err != nil || strings.Contains(string(out), "fairlead.service") {
			t.Errorf("systemd-analyze verify: %v\n%s", err, out)
		}
	}
}

func TestDefine(t *testing.T) {
	program := filepath.Join(t.TempDir(), "fairlead")
	if err := os.WriteFile(program, []byte("abc"), 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := filepath.EvalSymlinks(program)
	if err != nil {
		t.Fatal(err)
	}
	d, source, err := define(Options{Program: program, Args: []string{"run"}, Writable: []string{"/b", "/a"}})
	want := definition{
		Program: programPlace, Copied: true, Args: []string{"run"}, Writable: []string{"/a", "/b"},
		Sum: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", // FIPS 180-2, B.1
	}
	if err != nil || source != program || !reflect.DeepEqual(d, want) {
		t.Errorf("define = %+v, %s, %v, want %+v", d, source, err, want)
	}
	for _, bad := range []string{"a\nb", "a\x00", "\xff", "\x1b[2J"} {
		if _, _, err := define(Options{Program: program, Args: []string{bad}}); err == nil {
			t.Errorf("define takes %q", bad)
		}
	}
	if _, _, err := define(Options{Program: program + "-none"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("define without a program: %v", err)
	}
}

func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "x")
	for _, s := range []string{"one", "two"} {
		if err := os.WriteFile(file+".new", []byte("a leftover of a crash"), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := replaceFile(file, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(file); err != nil || string(b) != s {
			t.Errorf("%q, %v, want %q", b, err, s)
		}
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
		t.Errorf("the folder has %v, %v", all, err)
	}
}

// An event of Windows has its own time and level.
func TestParseEvent(t *testing.T) {
	var b bytes.Buffer
	said := map[string]*slog.Logger{"text": slog.New(slog.NewTextHandler(&b, nil)), "json": slog.New(slog.NewJSONHandler(&b, nil))}
	for _, c := range []struct {
		handler, level, text string
		log                  func(*slog.Logger)
	}{
		{"text", "INFO", `msg="serving names" dns=127.0.0.153:53`, func(l *slog.Logger) { l.Info("serving names", "dns", "127.0.0.153:53") }},
		{"text", "WARN", `msg=pilot err="level=ERROR "`, func(l *slog.Logger) { l.Warn("pilot", "err", "level=ERROR ") }},
		{"json", "ERROR", `{"msg":"routes","err":"\"x\""}`, func(l *slog.Logger) { l.Error("routes", "err", `"x"`) }},
		{"text", "ERROR", `msg=odd`, func(l *slog.Logger) { l.Log(context.Background(), slog.LevelError+2, "odd") }},
	} {
		b.Reset()
		c.log(said[c.handler])
		if level, text := parseEvent(b.String()); level != c.level || text != c.text {
			t.Errorf("%s is %q, %q", b.String(), level, text)
		}
	}
	if level, text := parseEvent("panic: \x00something else\n"); level != "" || text != "panic: something else" {
		t.Errorf("%q, %q", level, text)
	}
	if _, text := parseEvent(strings.Repeat("\u00fc", 40000)); len(text) > 31000 || !utf8.ValidString(text) {
		t.Errorf("%d bytes", len(text))
	}
}

// The log is that of the service there is.
func TestLogOf(t *testing.T) {
	const apple, intel = "/opt/homebrew/var/log/fairlead.log", "/usr/local/var/log/fairlead.log"
	for _, c := range []struct {
		there []string
		want  string
	}{
		{nil, logFile},
		{[]string{launchdPlace, apple}, logFile},
		{[]string{apple, intel}, apple},
		{[]string{intel}, intel},
	} {
		if got := logOf(func(path string) bool { return slices.Contains(c.there, path) }); got != c.want {
			t.Errorf("with %v it is %s, want %s", c.there, got, c.want)
		}
	}
}
