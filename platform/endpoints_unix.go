//go:build unix

package platform

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// openNonblock lets an open of a FIFO return at once.
const openNonblock = syscall.O_NONBLOCK

func ownerOf(fi fs.FileInfo) int {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

func socketAt(path string) (real string, uid int, err error) {
	if real, err = filepath.EvalSymlinks(path); err != nil {
		return "", -1, err
	}
	fi, err := os.Lstat(real)
	if err != nil {
		return "", -1, err
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return "", -1, errors.New("not a socket")
	}
	return real, ownerOf(fi), nil
}
