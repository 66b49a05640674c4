package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fairlead-dev/fairlead/agent"
)

// TestReport: whatever an error says, and whoever wrote it, it leaves as one line and one hint.
func TestReport(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
		want string
	}{
		{nil, 0, ""},
		{quiet(agent.ExitPartly), 4, ""},
		{fmt.Errorf("wrapped: %w", quiet(1)), 1, ""},
		{&agent.Problem{Code: 2, Err: errors.New("no such thing"), Hint: "fairlead --help"}, 2, "fairlead: no such thing\nhint: fairlead --help\n"},
		{fmt.Errorf("run: %w", &agent.Problem{Code: 3, Err: errors.New("no rights"), Hint: "sudo"}), 3, "fairlead: no rights\nhint: sudo\n"},
		{&agent.Problem{Code: 1, Err: errors.New("two\r\n\tlines "), Hint: "sudo fairlead 'a\nb'"}, 1, "fairlead: two lines\nhint: sudo fairlead 'a b'\n"},
		{&agent.Problem{Code: 1, Err: errors.New("engine says \x1b[2Jhello\x07 wörld"), Hint: "x"}, 1, "fairlead: engine says [2Jhello wörld\nhint: x\n"},
	} {
		var b bytes.Buffer
		if code := report(&b, c.err); code != c.code || b.String() != c.want {
			t.Errorf("report(%v) = %d, %q, want %d, %q", c.err, code, b.String(), c.code, c.want)
		}
	}
	// An error that nobody has explained is a failure, and has a hint all the same.
	var b bytes.Buffer
	if code := report(&b, errors.New("boom")); code != agent.ExitFailed || !twoLines.MatchString(b.String()) {
		t.Errorf("report(boom) = %d, %q", code, b.String())
	}
}

// TestContract: what docs/design.md promises to scripts is there.
func TestContract(t *testing.T) {
	design, err := os.ReadFile("../../docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(design), "## The command")
	section, _, _ = strings.Cut(section, "\n## ")

	root := command()
	verbs := 0
	for line := range strings.Lines(section) {
		usage, ok := strings.CutPrefix(line, "    fairlead ")
		if !ok {
			continue
		}
		usage, _, _ = strings.Cut(usage, "   ")                          // what follows is prose
		usage = regexp.MustCompile(`\(.*\)`).ReplaceAllString(usage, "") // sub-verbs
		for _, verb := range regexp.MustCompile(`\s*[|,]\s*`).Split(strings.TrimSpace(usage), -1) {
			words := strings.Fields(verb)
			c, rest, err := root.Find(words[:1])
			if err != nil || len(rest) > 0 {
				t.Errorf("fairlead %s: %v", words[0], err)
				continue
			}
			verbs++
			for _, w := range words[1:] {
				flag, ok := strings.CutPrefix(strings.Trim(w, "[]"), "--")
				if ok && c.Flags().Lookup(flag) == nil && !c.FParseErrWhitelist.UnknownFlags {
					t.Errorf("fairlead %s has no --%s", words[0], flag)
				}
			}
		}
	}
	if verbs < 15 {
		t.Errorf("%d verbs found in the design", verbs)
	}
	shared := regexp.MustCompile("`--([a-z-]+)").FindAllStringSubmatch(section, -1)
	if len(shared) < 10 {
		t.Errorf("%d flags found in the design", len(shared))
	}
	for _, m := range shared {
		if f := root.PersistentFlags().Lookup(m[1]); f == nil && !slices.Contains([]string{"json", "dry-run", "hosts"}, m[1]) {
			t.Errorf("no --%s", m[1])
		}
	}
}

// TestHelp: every verb and every flag says what it is for, as a part of a sentence.
func TestHelp(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short help %q", c.CommandPath(), c.Short)
		}
		c.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || strings.HasSuffix(f.Usage, ".") {
				t.Errorf("%s --%s: help %q", c.CommandPath(), f.Name, f.Usage)
			}
		})
		var out, errs bytes.Buffer
		root := command()
		root.SetOut(&out)
		root.SetErr(&errs)
		root.SetArgs(append(strings.Fields(c.CommandPath())[1:], "--help"))
		if err := root.Execute(); err != nil || errs.Len() > 0 || !strings.Contains(out.String(), "Usage:") {
			t.Errorf("%s --help: %v, %q", c.CommandPath(), err, errs.String())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(command())
}
