package engine

import (
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestCertsOfAUser: what a user's files name is read only as far as that user's own folder reaches, and not for ever.
func TestCertsOfAUser(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	home, elsewhere := t.TempDir(), a.folder(a, "")
	certs := filepath.Join(home, "certs")
	if err := os.CopyFS(certs, os.DirFS(elsewhere)); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(certs, "key.pem")
	change := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, home, certs string
		do                func()
		text              string // in the error; "": taken
	}{
		{"in the home", home, certs, func() {}, ""},
		{"where a variable has them", home, elsewhere, func() {}, ""},
		{"too large", home, certs, func() { change(os.WriteFile(key, []byte(strings.Repeat("x", maxPEM+1)), 0o600)) }, "key.pem: larger than"},
		{"garbage", home, certs, func() { change(os.WriteFile(key, []byte("x"), 0o600)) }, "key.pem: "},
		{"a folder", home, certs, func() { change(os.Remove(key)); change(os.Mkdir(key, 0o700)) }, "key.pem: not a regular file"},
		{"gone", home, certs, func() { change(os.Remove(key)) }, "key.pem: "},
		{"a link out of the home", home, certs, func() { change(os.Symlink(filepath.Join(elsewhere, "key.pem"), key)) }, "key.pem: "},
		{"the same link, told by whoever runs fairlead", "", certs, func() {}, ""},
	} {
		if runtime.GOOS == "windows" && strings.Contains(c.name, "link") {
			continue // making one needs a right that not every user has
		}
		c.do()
		config, err := Endpoint{Home: c.home, Certs: c.certs}.tls()
		switch {
		case c.text != "" && (err == nil || !strings.Contains(err.Error(), c.text)):
			t.Errorf("%s: error %v, want %q in it", c.name, err, c.text)
		case c.text == "" && (err != nil || len(config.Certificates) != 1):
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestOutlived: an engine says of an expired certificate only that it is a bad one; ours is looked at for the date.
func TestOutlived(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	config, err := Endpoint{Certs: a.folder(a, "")}.tls()
	if err != nil {
		t.Fatal(err)
	}
	end := config.Certificates[0].Leaf.NotAfter
	bad := errors.New("remote error: tls: bad certificate")
	for _, c := range []struct {
		config *tls.Config
		now    time.Time
		want   string
	}{
		{config, end.Add(-time.Second), bad.Error()},
		{config, end.Add(time.Second), "cert.pem expired on " + end.UTC().Format(time.DateOnly) + ": " + bad.Error()},
		{nil, end.Add(time.Second), bad.Error()},
		{&tls.Config{}, end.Add(time.Second), bad.Error()},
	} {
		if got := outlived(c.config, c.now, bad); got.Error() != c.want || !errors.Is(got, bad) {
			t.Errorf("at %v: %v, want %s", c.now, got, c.want)
		}
	}
}
