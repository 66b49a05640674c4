package agent

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/fairlead-dev/fairlead/resolver"
	"github.com/fairlead-dev/fairlead/routes"
)

const journalSchema = 1

// journal remembers what fairlead is about to make and has made on this host. It is on disk before the OS is touched, so
// that nothing of ours is ever unknown to us; what it names and the OS does not have exactly so is not ours any more.
type journal struct {
	path string
	doc  journalDoc
}

type journalDoc struct {
	Schema   int               `json:"schema"`
	Instance string            `json:"instance"` // 8 hex digits: marks our pilots and the VM's rules as this host's
	Boot     string            `json:"boot"`     // routes of another boot are gone by themselves
	Routes   []ownedRoute      `json:"routes"`
	Resolver []resolver.Item   `json:"resolver"`
	Pilots   []engine.Endpoint `json:"pilots"` // engines whose VM may have something of ours
	// Those of them whose pilots have opened nothing so far, if any ran: a teardown needs no other.
	Untouched []engine.Endpoint `json:"untouched,omitempty"`
	Replaced  []replacedFile    `json:"replaced,omitempty"`
	TakenOut  []routes.Saved    `json:"takenOut,omitempty"` // rows that somebody made by hand, to be put back
}

type ownedRoute struct {
	Engine string `json:"engine"`
	routes.Route
}

// openJournal reads the journal in dir, or starts one. Nothing is written until something is to be made.
func openJournal(dir string) (*journal, error) {
	j := &journal{path: filepath.Join(dir, "journal.json")}
	b, err := os.ReadFile(j.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("reading the journal: %w", err)
	default:
		if err := json.Unmarshal(b, &j.doc); err != nil || j.doc.Schema != journalSchema {
			return nil, &Problem{Code: ExitFailed, Err: fmt.Errorf("journal %s is damaged or of another version", j.path),
				Hint: "look at it, then move it away; what it remembered stays as it is"}
		}
	}
	if boot := platform.BootID(); j.doc.Boot != boot {
		j.doc.Boot, j.doc.Routes = boot, nil
		// Only what the OS itself would have made again.
		j.doc.TakenOut = slices.DeleteFunc(j.doc.TakenOut, func(s routes.Saved) bool { return len(s.Lasting) == 0 })
	}
	if j.doc.Instance == "" {
		var id [4]byte
		rand.Read(id[:])
		j.doc.Instance = hex.EncodeToString(id[:])
	}
	j.doc.Schema = journalSchema
	return j, nil
}

// Forget removes the journal of a host where a teardown left nothing, and its folder; anything else in that keeps it.
func Forget(cfg Config) {
	for _, name := range []string{"journal.json", "lock", ""} {
		_ = os.Remove(filepath.Join(cfg.StateDir, name))
	}
}

// change writes the journal when f changes it: temp file, fsync, rename, fsync of the folder.
func (j *journal) change(f func(*journalDoc)) error {
	next := j.doc
	f(&next)
	if reflect.DeepEqual(next, j.doc) {
		return nil
	}
	b, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(j.path, append(b, '\n')); err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	j.doc = next
	return nil
}

func (j *journal) routes() []routes.Route {
	var out []routes.Route
	for _, r := range j.doc.Routes {
		out = append(out, r.Route)
	}
	return out
}

func writeFile(path string, b []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// Always the same name: what a crash leaves is used up by the next writing. The lock lets nobody else write.
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync() // Windows cannot; there the rename is journaled by the file system
		d.Close()
	}
	return nil
}
