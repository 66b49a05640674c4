package agent

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// replacedFile is a file of another tool's that the user let us move out of the way (Config.Replace). It is moved, never
// copied: it comes back with all that it had, and at no moment is there half of it.
type replacedFile struct {
	Path   string `json:"path"`
	Backup string `json:"backup"` // below the state folder, on the same volume
}

// replace moves files away. The journal knows of each before it goes. What cannot be moved is a problem, and stays.
func (a *Agent) replace(paths []string) {
	for _, path := range paths {
		if err := a.replaceFile(path); err != nil {
			a.log.Warn("not replaced", "file", path, "err", err)
		} else {
			a.log.Info("replaced", "file", path)
		}
	}
}

func (a *Agent) replaceFile(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	r := replacedFile{Path: path, Backup: filepath.Join(a.cfg.StateDir, "replaced", fmt.Sprintf("%s.%.4x", filepath.Base(path), sha256.Sum256([]byte(path))))}
	if _, err := os.Lstat(r.Backup); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("an earlier one is in %s", r.Backup)
	}
	if err := os.MkdirAll(filepath.Dir(r.Backup), 0o700); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	err = a.journal.change(func(d *journalDoc) {
		d.Replaced = append(slices.DeleteFunc(slices.Clone(d.Replaced), func(o replacedFile) bool { return o == r }), r)
	})
	if err != nil {
		return err
	}
	return os.Rename(path, r.Backup)
}

// restore puts back what replace has moved away. Where somebody has made another file meanwhile both stay. The caller holds mu.
func (a *Agent) restore(u *Undone) {
	for _, r := range a.journal.doc.Replaced {
		moved, err := os.Lstat(r.Backup)
		if err == nil {
			// A link never takes another file's place, as a rename would.
			err = os.Link(r.Backup, r.Path)
			if there, lerr := os.Lstat(r.Path); lerr == nil && os.SameFile(there, moved) {
				err = os.Remove(r.Backup)
			}
		}
		switch {
		case err == nil:
			u.Back = append(u.Back, r.Path)
		case errors.Is(err, fs.ErrNotExist) && moved == nil: // it was never moved, or is back already
		default:
			u.left("file "+r.Path, &Problem{Err: fmt.Errorf("it cannot be put back: %w", err), Hint: "it is kept as " + r.Backup})
			continue
		}
		u.left("the journal", a.journal.change(func(d *journalDoc) {
			d.Replaced = slices.DeleteFunc(slices.Clone(d.Replaced), func(o replacedFile) bool { return o == r })
		}))
	}
	_ = os.Remove(filepath.Join(a.cfg.StateDir, "replaced")) // once it is empty
}
