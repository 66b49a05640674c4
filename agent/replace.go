package agent

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/fairlead-dev/fairlead/routes"
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

// save notes all about the rows that the wanted routes take the place of.
func (a *Agent) save() (saved []routes.Saved) {
	for _, s := range a.subnets {
		for _, r := range s.Replaces {
			if s.State != Wanted || slices.ContainsFunc(saved, func(o routes.Saved) bool { return o.Route == r }) {
				continue
			}
			row, err := routes.Save(r)
			if err != nil {
				a.log.Warn("not replaced", "route", r, "err", err)
				continue
			}
			saved = append(saved, row)
		}
	}
	return saved
}

// takeOut takes each row out once in a life of ours: who makes it again means it.
func (a *Agent) takeOut(saved []routes.Saved) {
	for _, s := range saved {
		a.log.Info("replaced", "route", s.Route, "made by", s.Owner, "err", s.TakeOut())
		a.takenOut = append(a.takenOut, s.Route)
	}
}

// giveUp puts back rows that were taken out for a route which the OS then did not take.
func (a *Agent) giveUp(saved []routes.Saved) {
	for _, s := range saved {
		if slices.ContainsFunc(a.subnets, func(n Subnet) bool { return n.State == Failed && slices.Contains(n.Replaces, s.Route) }) {
			_, err := s.PutBack()
			a.log.Warn("put back, as the OS did not take ours", "route", s.Route, "err", err)
		}
	}
}

// stillOut are the rows that are not in the table: one that is there was made again, or we were killed before we took it out.
func stillOut(saved []routes.Saved, table []routes.Entry) (out []routes.Saved) {
	for _, s := range saved {
		if !slices.ContainsFunc(table, func(e routes.Entry) bool { return e.Route == s.Route && !e.Marked }) {
			out = append(out, s)
		}
	}
	return out
}

// putBack puts back the rows that were taken out, once ours are gone. The caller holds mu.
func (a *Agent) putBack(u *Undone) {
	for _, s := range a.journal.doc.TakenOut {
		back, err := s.PutBack()
		if err != nil {
			u.left("route "+s.Route.String(), &Problem{Err: fmt.Errorf("it cannot be put back: %w", err), Hint: "fairlead teardown-network tries again, until this host's next start"})
			continue
		}
		if back {
			u.Back = append(u.Back, "route "+s.Route.String())
		}
		u.left("the journal", a.journal.change(func(d *journalDoc) {
			d.TakenOut = slices.DeleteFunc(slices.Clone(d.TakenOut), func(o routes.Saved) bool { return o.Route == s.Route })
		}))
	}
}

// replaced is what is aside now, for people.
func (a *Agent) replaced() []string {
	out := []string{}
	for _, r := range a.journal.doc.Replaced {
		out = append(out, "file "+r.Path)
	}
	for _, s := range a.journal.doc.TakenOut {
		out = append(out, "route "+s.Route.String())
	}
	return out
}
