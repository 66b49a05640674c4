package platform

import (
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/windows"
)

// openNonblock is for FIFOs, which no folder has here.
const openNonblock = 0

// ownerOf does not tell: who may write into a profile is what its access list says.
func ownerOf(fs.FileInfo) int { return -1 }

// socketAt finds a pipe by its name in the list of all: opening it would take one of its server's instances.
func socketAt(path string) (real string, uid int, err error) {
	if !strings.HasPrefix(path, `\\.\pipe\`) || strings.ContainsAny(path, "*?<>\"") {
		return "", -1, fmt.Errorf("not a pipe: %w", fs.ErrNotExist)
	}
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return "", -1, err
	}
	var data windows.Win32finddata
	h, err := windows.FindFirstFile(name, &data)
	if err != nil {
		return "", -1, &fs.PathError{Op: "FindFirstFile", Path: path, Err: err}
	}
	windows.FindClose(h)
	return path, -1, nil
}
