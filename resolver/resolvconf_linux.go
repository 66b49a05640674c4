package resolver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// confFile is a resolv.conf(5).
type confFile struct{ path string } // default: resolvConfPath

// entries are our blocks, and a foreign entry where a block could not go.
func (f confFile) entries() ([]Entry, error) {
	content, foreign, err := f.read()
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, b := range blocks(content) {
		entries = append(entries, Entry{Item: Item{ResolvConf, f.path, b}})
	}
	if foreign == "" && len(entries) == 0 {
		foreign = unfit(content)
	}
	if foreign != "" {
		entries = append(entries, Entry{Item{ResolvConf, f.path, ""}, f.path + ": " + foreign})
	}
	return entries, nil
}

// read returns the content, or why this is no file for us to change.
func (f confFile) read() (content, foreign string, err error) {
	info, err := os.Lstat(f.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", "it does not exist", nil
	case err != nil:
		return "", "", fmt.Errorf("read resolv.conf: %w", err)
	case info.Mode()&os.ModeSymlink != 0:
		target, _ := os.Readlink(f.path)
		return "", fmt.Sprintf("it is a symlink to %s, which another program keeps; let that program ask us, or use --resolver none", target), nil
	case !info.Mode().IsRegular():
		return "", "it is no regular file", nil
	}
	file, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", "", fmt.Errorf("read resolv.conf: %w", err)
	}
	defer file.Close()
	const limit = 1 << 20
	b, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return "", "", fmt.Errorf("read resolv.conf: %w", err)
	}
	if len(b) > limit {
		return "", "it is larger than 1 MiB", nil
	}
	return string(b), "", nil
}

// apply makes one step and reads it back.
func (f confFile) apply(s Step) error {
	old, foreign, err := f.read()
	if err != nil {
		return err
	}
	add, del := s.Old == Item{}, s.New == Item{}
	at := locate(old, s.Old.Value)
	switch {
	case add && foreign == "" && len(blocks(old)) > 0:
		return errChanged
	case add && foreign == "":
		foreign, at = unfit(old), 0
	case del && foreign == "" && len(blocks(old)) == 0:
		return nil // deleting the absent
	case at < 0 && foreign == "":
		return errChanged
	}
	if foreign != "" {
		return fmt.Errorf("%s: %s", f.path, foreign)
	}
	head, tail := old[:at], old[at+len(s.Old.Value):]
	if err := f.write(old, head+s.New.Value+tail, head+tail, s.Old.Value); err != nil {
		return fmt.Errorf("write resolv.conf: %w", err)
	}
	if now, _, err := f.read(); err != nil || now != head+s.New.Value+tail {
		return errors.Join(errChanged, err)
	}
	return nil
}

// write replaces old by next, as a whole: a reader, or we after a crash, sees one or the other. rest is what both have in
// common, and block what old has beside it; they are for writing in place.
func (f confFile) write(old, next, rest, block string) error {
	info, err := os.Lstat(f.path)
	if err != nil {
		return err
	}
	if st := info.Sys().(*syscall.Stat_t); st.Nlink > 1 {
		return f.writeInPlace(old, next, rest, block) // a rename would cut the hard link
	}
	err = f.writeBeside(info, old, next)
	// EBUSY: a mount point, as in a container or under `ip netns exec`. EROFS: only the file itself is mounted writable.
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EROFS) {
		return f.writeInPlace(old, next, rest, block)
	}
	return err
}

// temp is always the same name, so that sweep finds what a kill left behind.
func (f confFile) temp() string {
	return filepath.Join(filepath.Dir(f.path), "."+filepath.Base(f.path)+".fairlead")
}

func (f confFile) sweep() error {
	if err := os.Remove(f.temp()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("sweep resolv.conf: %w", err)
	}
	return nil
}

func (f confFile) writeBeside(info os.FileInfo, old, next string) (err error) {
	if err := f.sweep(); err != nil {
		return err
	}
	tmp, err := os.OpenFile(f.temp(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		tmp.Close()
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	if _, err := tmp.WriteString(next); err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	if err := tmp.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(int(tmp.Fd()), st.Mode&0o7777); err != nil { // not by umask: resolv.conf must stay readable to all
		return err
	}
	if err := copyXattrs(f.path, int(tmp.Fd())); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if now, foreign, err := f.read(); err != nil || foreign != "" || now != old {
		return errors.Join(errChanged, err)
	}
	if err := os.Rename(tmp.Name(), f.path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// copyXattrs keeps the SELinux label (a resolv.conf without its own is closed to confined programs) and ACLs.
func copyXattrs(from string, to int) error {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(from, names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listxattr %s: %w", from, err)
	}
	value := make([]byte, 64<<10)
	for name := range strings.FieldsFuncSeq(string(names[:n]), func(r rune) bool { return r == 0 }) {
		size, err := unix.Lgetxattr(from, name, value)
		if err != nil {
			return fmt.Errorf("getxattr %s %s: %w", from, name, err)
		}
		if err := unix.Fsetxattr(to, name, value[:size], 0); err != nil {
			return fmt.Errorf("setxattr %s %s: %w", from, name, err)
		}
	}
	return nil
}

// writeInPlace takes the file through stages, one system call each.
func (f confFile) writeInPlace(old, next, rest, block string) error {
	file, err := os.OpenFile(f.path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if now, err := io.ReadAll(file); err != nil || string(now) != old {
		return errors.Join(errChanged, err)
	}
	for _, content := range stages(old, next, rest, block) {
		if len(content) >= len(old) {
			_, err = file.WriteAt([]byte(content), 0)
		} else {
			err = file.Truncate(int64(len(content))) // content is the start of old
		}
		if err != nil {
			return err
		}
		old = content
	}
	return file.Sync()
}

// stages are the contents that a file goes through when it is changed in place. A kill after any of them leaves what the next pass
// mends: growing is one write; shrinking moves the block to the end, by a write of the same length, and then cuts it off. (Where
// the last line lacks its newline, a kill between the two leaves a block that is glued to it: reported, not mended.)
func stages(old, next, rest, block string) []string {
	switch {
	case len(next) >= len(old):
		return []string{next}
	case next == rest:
		return []string{rest + block, rest}
	}
	return []string{rest + block, rest, next}
}

// watch calls changed when somebody has written, replaced or removed the file (inotify(7)). The folder shows a new file by the
// old name; the file itself shows writes through a bind mount, whose real folder is elsewhere.
func (f confFile) watch(ctx context.Context, changed func()) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch resolv.conf: inotify_init1: %w", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer events.Close()
	defer context.AfterFunc(ctx, func() { events.Close() })()
	const writes = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_CREATE | unix.IN_DELETE
	dir, err := unix.InotifyAddWatch(fd, filepath.Dir(f.path), writes)
	if err != nil {
		return fmt.Errorf("watch %s: %w", filepath.Dir(f.path), err)
	}
	if _, err := unix.InotifyAddWatch(fd, f.path, unix.IN_CLOSE_WRITE|unix.IN_DONT_FOLLOW); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("watch %s: %w", f.path, err)
	}
	changed()
	buf := make([]byte, 64<<10)
	for {
		n, err := events.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch resolv.conf: %w", err)
		}
		if concerns(buf[:n], dir, filepath.Base(f.path)) {
			changed()
		}
	}
}

// concerns tells whether one of the inotify events is about the file of that name in dir, or about a watch other than dir.
func concerns(events []byte, dir int, name string) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		watch := int32(binary.NativeEndian.Uint32(events))
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		if end > len(events) {
			return true // not what the kernel sends; better look
		}
		if watch != int32(dir) || string(bytes.TrimRight(events[unix.SizeofInotifyEvent:end], "\x00")) == name {
			return true
		}
		events = events[end:]
	}
	return false
}
