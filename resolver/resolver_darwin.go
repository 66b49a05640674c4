package resolver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

var methods = []Method{EtcResolver}

// Detect turns a --resolver word into a method that works on this host, and says why.
func Detect(_ context.Context, mode string) (m Method, why string, err error) {
	m, err = Parse(mode)
	if err != nil {
		return "", "", err
	}
	foreign, err := theFolder.foreign()
	switch {
	case m == None:
		return None, "asked for: names are answered to whoever asks our port", nil
	case err == nil && foreign == "":
		return EtcResolver, "macOS asks for each domain the server that a file in " + etcResolverPath + " names", nil
	case err == nil:
		err = errors.New(foreign)
	}
	if m == EtcResolver {
		return "", "", fmt.Errorf("use resolver %s: %w", m, err)
	}
	return None, err.Error(), nil
}

// folder is a folder of resolver(5) files.
type folder struct {
	path string
	// temp is on the same volume and not inside: what is inside is a resolver at once. It is always the same, so that sweep
	// finds what a kill left behind.
	temp string
}

var theFolder = folder{etcResolverPath, "/var/db/.fairlead-resolver"}

// Read finds all files in /etc/resolver: ours by their mark, and the foreign ones in the place of the domain that they are for.
func Read(context.Context) ([]Entry, error) { return theFolder.entries() }

// Apply makes the steps in their order and reads each back; one that fails holds back none of the others. A step whose file
// has changed since Read fails; without the right to change things the error is fs.ErrPermission. Flush afterwards. Call it
// with an empty plan, too: it sweeps what a kill left, and a folder that we made and that is empty.
func Apply(_ context.Context, p Plan) []Result {
	var results []Result
	for _, s := range p.Steps {
		if err := theFolder.apply(s); err != nil {
			results = append(results, Result{s, fmt.Errorf("%v: %w", s, err)})
		} else {
			results = append(results, Result{s, nil})
		}
	}
	if err := theFolder.sweep(); err != nil {
		results = append(results, Result{Err: err})
	}
	return results
}

// Flush makes the OS forget answers that it has cached, negative ones too, once it has noticed the changed files. What fails
// of it is logged only: those answers end by themselves, and nothing of ours is in the OS because of it.
func Flush(ctx context.Context, m Method) error {
	if m != EtcResolver {
		return nil
	}
	const (
		notice = 300 * time.Millisecond // until configd and mDNSResponder have the new files
		limit  = 2 * time.Second        // for each command
	)
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(notice):
	}
	for _, args := range [][]string{{"/usr/bin/dscacheutil", "-flushcache"}, {"/usr/bin/killall", "-HUP", "mDNSResponder"}} {
		ctx, cancel := context.WithTimeout(ctx, limit)
		c := exec.CommandContext(ctx, args[0], args[1:]...)
		c.WaitDelay = limit
		if out, err := c.CombinedOutput(); err != nil {
			slog.Warn("resolver: old answers may live on for a minute", "command", c.String(), "err", err, "output", string(out))
		}
		cancel()
	}
	return nil
}

// Verify reads back, for some seconds, whom macOS asks for w's domains, and returns at last why that is not w.Server: configd may
// not have taken up the files, and another program's entry may come first.
func Verify(ctx context.Context, m Method, w Want) error {
	if m != EtcResolver || len(w.Domains) == 0 {
		return nil
	}
	for tries := 8; ; tries-- {
		out, err := exec.CommandContext(ctx, "/usr/sbin/scutil", "--dns").Output()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			slog.Warn("resolver: cannot see whether macOS goes by its files", "command", "scutil --dns", "err", err)
			return nil
		}
		if err = inForce(parseScutil(string(out)), w); err == nil || tries == 0 {
			if err != nil {
				err = fmt.Errorf("the files are in place, but macOS does not go by them: %w; hint: scutil --dns shows whom it asks", err)
			}
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// Watch calls changed when something happened after which Read may find less than before: a file came or went in
// /etc/resolver, or one of ours was written to; and once when it has begun to look. It returns nil when ctx ends. Its hints can
// be lost; read on a timer, too.
func Watch(ctx context.Context, m Method, changed func()) error {
	if m != EtcResolver {
		<-ctx.Done()
		return nil
	}
	return theFolder.watch(ctx, changed)
}

// foreign says why the folder is not for us to use; "" = it is, or it can be made.
func (f folder) foreign() (string, error) {
	info, err := os.Lstat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look at the resolver folder: %w", err)
	case info.Mode()&fs.ModeSymlink != 0:
		target, _ := os.Readlink(f.path)
		return fmt.Sprintf("%s is a symlink to %s, which somebody else keeps; make it a folder, or use --resolver none", f.path, target), nil
	case !info.IsDir():
		return fmt.Sprintf("%s is no folder; remove it, or use --resolver none", f.path), nil
	}
	return "", nil
}

func (f folder) entries() ([]Entry, error) {
	foreign, err := f.foreign()
	if err != nil || foreign != "" { // behind a symlink nothing is ours
		return nil, err
	}
	files, err := os.ReadDir(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read resolver files: %w", err)
	}
	var entries []Entry
	for _, file := range files {
		content, foreign, err := f.read(file.Name())
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone since
		case err != nil:
			return nil, err
		case foreign != "":
			entries = append(entries, foreignFile(f.path, file.Name(), foreign))
		default:
			entries = append(entries, fileEntries(f.path, file.Name(), content)...)
		}
	}
	return entries, nil
}

// read returns the content of a file, or why it is none that we could have made. An absent one is fs.ErrNotExist.
func (f folder) read(name string) (content, foreign string, err error) {
	at := filepath.Join(f.path, name)
	info, err := os.Lstat(at)
	switch {
	case err != nil:
		return "", "", fmt.Errorf("read resolver file: %w", err)
	case info.Mode()&fs.ModeSymlink != 0:
		target, _ := os.Readlink(at)
		return "", "it is a symlink to " + target, nil
	case !info.Mode().IsRegular():
		return "", "it is no regular file", nil
	}
	file, err := os.OpenFile(at, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", "", fmt.Errorf("read resolver file: %w", err)
	}
	defer file.Close()
	const limit = 64 << 10
	b, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return "", "", fmt.Errorf("read resolver file: %w", err)
	}
	if len(b) > limit {
		return "", "it is larger than 64 KiB", nil
	}
	return string(b), "", nil
}

// apply makes one step and reads it back.
func (f folder) apply(s Step) error {
	item := s.New
	if item == (Item{}) {
		item = s.Old
	}
	if item.Method != EtcResolver {
		return errors.New("no such method on this OS")
	}
	if s.Old != (Item{}) && s.New != (Item{}) && s.Old.Key != s.New.Key {
		return errors.New("one file cannot replace another")
	}
	name, err := nameOf(f.path, item.Key)
	if err != nil {
		return err
	}
	foreign, err := f.foreign()
	if foreign != "" {
		err = errors.New(foreign)
	}
	if err == nil {
		err = f.change(name, s)
	}
	switch {
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EXDEV):
		return fmt.Errorf("%s is on a read-only volume, or on one of its own; see: df %s: %w", f.path, f.path, err)
	case !errors.Is(err, fs.ErrPermission):
		return err
	case os.Geteuid() == 0: // chflags(1), or a volume that macOS seals
		return fmt.Errorf("%s is locked, even for root; see: ls -ldeO %s: %w", f.path, f.path, err)
	}
	return fmt.Errorf("changing %s needs root: %w", f.path, err)
}

func (f folder) change(name string, s Step) error {
	if s.Old == (Item{}) {
		err := f.place(name, s.New.Value, unix.RENAME_EXCL)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("somebody's file is there and stays: %w", err)
		}
		return err
	}
	now, foreign, err := f.read(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && s.New == Item{}:
		return nil // deleting the absent
	case err != nil:
		return err
	case foreign != "" || now != s.Old.Value:
		return errChanged
	case s.New != Item{}:
		return f.place(name, s.New.Value, 0)
	}
	if err := os.Remove(filepath.Join(f.path, name)); err != nil {
		return fmt.Errorf("delete resolver file: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(f.path, name)); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(errChanged, err)
	}
	return nil
}

// place puts a file with content there as a whole, by renamex_np(2) with flags, and reads it back.
func (f folder) place(name, content string, flags uint32) error {
	if err := f.make(); err != nil {
		return fmt.Errorf("make the resolver folder: %w", err)
	}
	if err := f.write(content); err != nil {
		os.Remove(f.temp)
		return fmt.Errorf("write resolver file: %w", err)
	}
	if err := unix.RenamexNp(f.temp, filepath.Join(f.path, name), flags); err != nil {
		os.Remove(f.temp)
		return &os.LinkError{Op: "rename", Old: f.temp, New: filepath.Join(f.path, name), Err: err}
	}
	if err := syncFolder(f.path); err != nil {
		return err
	}
	if now, foreign, err := f.read(name); err != nil || foreign != "" || now != content {
		return errors.Join(errChanged, err)
	}
	return nil
}

func (f folder) write(content string) error {
	if err := f.sweepTemp(); err != nil {
		return err
	}
	tmp, err := os.OpenFile(f.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer tmp.Close()
	if _, err := tmp.WriteString(content); err != nil {
		return err
	}
	if err := tmp.Chmod(0o644); err != nil { // not by umask
		return err
	}
	return tmp.Sync()
}

// madeByUs is an extended attribute of a folder that we made. It comes with the folder and goes with it, so that no crash
// comes between the two.
const madeByUs = "dev.fairlead.made"

// make makes the folder when there is none.
func (f folder) make() error {
	if _, err := os.Lstat(f.path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := f.sweepTemp(); err != nil {
		return err
	}
	if err := os.Mkdir(f.temp, 0o755); err != nil {
		return err
	}
	err := errors.Join(os.Chmod(f.temp, 0o755), unix.Setxattr(f.temp, madeByUs, []byte("1"), unix.XATTR_NOFOLLOW))
	if err == nil {
		err = unix.RenamexNp(f.temp, f.path, unix.RENAME_EXCL)
	}
	if err != nil {
		os.Remove(f.temp)
		return err
	}
	return syncFolder(filepath.Dir(f.path))
}

// sweep removes what a kill left, and the folder when we made it and nothing is in it.
func (f folder) sweep() error {
	if err := f.sweepTemp(); err != nil {
		return err
	}
	if foreign, err := f.foreign(); err != nil || foreign != "" {
		return err
	}
	if _, err := unix.Lgetxattr(f.path, madeByUs, nil); err != nil {
		return nil // not ours, or absent
	}
	if err := unix.Rmdir(f.path); err != nil && err != unix.ENOTEMPTY && err != unix.ENOENT {
		return fmt.Errorf("sweep resolver folder: %w", &fs.PathError{Op: "rmdir", Path: f.path, Err: err})
	}
	return nil
}

func (f folder) sweepTemp() error {
	if err := os.Remove(f.temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sweep: %w", err)
	}
	return nil
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// watch calls changed when, after an event of the folder, of one of ours in it or of the folder above, there is something else.
func (f folder) watch(ctx context.Context, changed func()) error {
	kq, err := unix.Kqueue()
	if err != nil {
		return fmt.Errorf("watch %s: kqueue: %w", f.path, err)
	}
	unix.CloseOnExec(kq)
	defer unix.Close(kq)
	user := unix.Kevent_t{Ident: 1, Filter: unix.EVFILT_USER, Flags: unix.EV_ADD | unix.EV_CLEAR}
	if _, err := unix.Kevent(kq, []unix.Kevent_t{user}, nil, nil); err != nil {
		return fmt.Errorf("watch %s: kevent: %w", f.path, err)
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		user.Flags, user.Fflags = 0, unix.NOTE_TRIGGER
		_, _ = unix.Kevent(kq, []unix.Kevent_t{user}, nil, nil)
	})
	defer func() {
		if !stop() {
			<-woken // before the queue is closed
		}
	}()
	for seen := []Entry(nil); ctx.Err() == nil; {
		if seen, err = f.event(kq, seen, changed); err != nil {
			return fmt.Errorf("watch %s: %w", f.path, err)
		}
	}
	return nil
}

// event looks, calls changed when there is something else than before (nil: always), and returns at the next event what it saw.
func (f folder) event(kq int, before []Entry, changed func()) ([]Entry, error) {
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd) // which takes it out of the queue
		}
	}()
	watch := func(path string, flags int) error {
		fd, err := unix.Open(path, unix.O_EVTONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|flags, 0)
		if err != nil {
			return &fs.PathError{Op: "open", Path: path, Err: err}
		}
		fds = append(fds, fd)
		vnode := unix.Kevent_t{Ident: uint64(fd), Filter: unix.EVFILT_VNODE, Flags: unix.EV_ADD | unix.EV_CLEAR,
			Fflags: unix.NOTE_WRITE | unix.NOTE_EXTEND | unix.NOTE_DELETE | unix.NOTE_RENAME | unix.NOTE_REVOKE}
		if _, err := unix.Kevent(kq, []unix.Kevent_t{vnode}, nil, nil); err != nil {
			return &fs.PathError{Op: "kevent", Path: path, Err: err}
		}
		return nil
	}
	// Each before it is looked into, so that nothing comes unseen in between. The folder above (/etc, a symlink) shows this one
	// coming and going.
	if err := watch(filepath.Dir(f.path), 0); err != nil {
		return nil, err
	}
	if err := watch(f.path, unix.O_NOFOLLOW); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	entries, err := f.entries()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Foreign == "" {
			_ = watch(e.Key, unix.O_NOFOLLOW) // gone since, or changed into something else: the folder's event
		}
	}
	if before == nil || !slices.Equal(entries, before) {
		changed()
	}
	for {
		_, err := unix.Kevent(kq, nil, make([]unix.Kevent_t, 1), nil)
		if err != unix.EINTR {
			return append([]Entry{}, entries...), err
		}
	}
}
