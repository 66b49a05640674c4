package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Whatever command of fairlead's a page tells its reader to type has to be one.
func TestDocumentedCommands(t *testing.T) {
	written := regexp.MustCompile("(?:^ {4}|`|sudo |sudo -E |hint: )((?:bin/)?fairlead [^`#|>&;\n]*)")
	seen := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "bin"):
			return fs.SkipDir
		case filepath.Ext(path) != ".md" || filepath.Base(path) == "design.md": // which has a grammar
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			for _, m := range written.FindAllStringSubmatch(strings.TrimRight(line, "\r\n"), -1) {
				words := strings.Fields(m[1])[1:]
				if len(words) == 0 || strings.ContainsAny(m[1], "…") {
					continue
				}
				if i := len(words) - 1; strings.HasPrefix(words[i], "(") { // a remark
					words = words[:i]
				}
				seen++
				c, args, err := command().Find(words)
				if err == nil {
					err = c.ParseFlags(args)
				}
				if err != nil {
					t.Errorf("%s: %q: %v", path, m[1], err)
				}
			}
		}
		return nil
	})
	if err != nil || seen < 50 {
		t.Errorf("%d commands: %v", seen, err)
	}
}
