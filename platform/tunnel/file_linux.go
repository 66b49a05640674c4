package tunnel

import (
	"errors"
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// file is a descriptor that does not block, for one reader and one writer. What would wait is left to the runtime's poller;
// the calls themselves it is not told of, as they never wait: telling it wakes a thread that watches, which on an idle
// machine costs more than the call.
type file struct {
	*os.File
	in, out call
}

func newFile(fd int, name string, read, write uintptr) *file {
	f := &file{File: os.NewFile(uintptr(fd), name)}
	conn, err := f.SyscallConn()
	if err != nil {
		panic(err) // it has just been made
	}
	f.in = call{number: read, await: conn.Read}
	f.in.try = f.in.once
	f.out = call{number: write, await: conn.Write}
	f.out.try = f.out.once
	return f
}

func (f *file) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := f.in.do(unsafe.Pointer(&b[0]), len(b), true)
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return n, err
}

func (f *file) Write(b []byte) (n int, err error) {
	for n < len(b) {
		m, err := f.out.do(unsafe.Pointer(&b[n]), len(b)-n, true)
		if err != nil {
			return n, err
		}
		n += m
	}
	return n, nil
}

// call is a system call on a descriptor: its number, what it is given, and what came of it.
type call struct {
	number uintptr
	await  func(try func(fd uintptr) bool) error // as RawConn.Read
	try    func(fd uintptr) bool
	at     unsafe.Pointer
	len    uintptr
	wait   bool
	n      int
	err    syscall.Errno
}

// do makes the call. Where it would block it waits for its turn, or the error is EAGAIN.
func (c *call) do(at unsafe.Pointer, n int, wait bool) (int, error) {
	c.at, c.len, c.wait = at, uintptr(n), wait
	if err := c.await(c.try); err != nil {
		return 0, err
	}
	if c.err != 0 {
		return 0, c.err
	}
	return c.n, nil
}

// once tells whether there is something to tell.
func (c *call) once(fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall(c.number, fd, uintptr(c.at), c.len)
		switch c.n, c.err = int(n), errno; errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return !c.wait
		}
		return true
	}
}

// Stdio is this process's standard input and output as a stream. Close frees a blocked Read or Write. As large pipes they
// carry half as much again as of their usual 64 KB; where that cannot be had it works without.
func Stdio() io.ReadWriteCloser {
	open := func(fd int, name string) *file {
		_ = unix.SetNonblock(fd, true)
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, 1<<20)
		return newFile(fd, name, unix.SYS_READ, unix.SYS_WRITE)
	}
	return pipes{open(unix.Stdin, "stdin"), open(unix.Stdout, "stdout")}
}

type pipes struct{ in, out *file }

func (p pipes) Read(b []byte) (int, error)  { return p.in.Read(b) }
func (p pipes) Write(b []byte) (int, error) { return p.out.Write(b) }
func (p pipes) Close() error                { return errors.Join(p.in.Close(), p.out.Close()) }
