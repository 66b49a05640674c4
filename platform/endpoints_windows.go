package platform

import (
	"fmt"
	"io/fs"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"
)

// openNonblock is for FIFOs, which no folder has here.
const openNonblock = 0

// ownerOf does not tell: who may write into a profile is what its access list says.
func ownerOf(fs.FileInfo) int { return -1 }

var waitNamedPipe = windows.NewLazySystemDLL("kernel32.dll").NewProc("WaitNamedPipeW")

// socketAt asks for a pipe without opening it, which would take one of its server's instances.
// https://learn.microsoft.com/windows/win32/api/namedpipeapi/nf-namedpipeapi-waitnamedpipew
func socketAt(path string) (real string, uid int, err error) {
	if !strings.HasPrefix(path, `\\.\pipe\`) {
		return "", -1, fmt.Errorf("not a pipe: %w", fs.ErrNotExist)
	}
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return "", -1, err
	}
	const wait = 1                                                                                                          // ms; 0 would be the server's own choice
	if ok, _, err := waitNamedPipe.Call(uintptr(unsafe.Pointer(name)), wait); ok == 0 && err != windows.ERROR_SEM_TIMEOUT { // which is: all instances are busy
		return "", -1, &fs.PathError{Op: "WaitNamedPipe", Path: path, Err: err}
	}
	return path, -1, nil
}
