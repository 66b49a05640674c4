package engine

import (
	"io"
	"net"
	"syscall"
	"unsafe"
)

// quiet gives a connection for one reader and one writer. Of a unix socket's calls Go's runtime is not told: they never wait,
// and what would is left to its poller. To be told wakes a thread that watches, which for a tunnel's packets costs more than
// many of the calls.
func quiet(c net.Conn) net.Conn {
	socket, ok := c.(*net.UnixConn)
	if !ok {
		return c
	}
	conn, err := socket.SyscallConn()
	if err != nil {
		return c
	}
	q := &quietConn{Conn: c, in: transfer{call: syscall.SYS_READ, await: conn.Read}, out: transfer{call: syscall.SYS_WRITE, await: conn.Write}}
	q.in.try, q.out.try = q.in.once, q.out.once
	return q
}

type quietConn struct {
	net.Conn
	in, out transfer
}

func (q *quietConn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := q.in.do(b)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

func (q *quietConn) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = q.out.do(b[n:])
		n += m
	}
	return n, err
}

// transfer is one direction: its system call, and how one that would wait is tried again.
type transfer struct {
	call  uintptr
	await func(try func(fd uintptr) bool) error // as syscall.RawConn's Read
	try   func(fd uintptr) bool
	b     []byte
	n     int
	errno syscall.Errno
}

func (t *transfer) do(b []byte) (int, error) {
	t.b, t.n, t.errno = b, 0, 0
	err := t.await(t.try)
	t.b = nil
	if err == nil && t.errno != 0 {
		err = t.errno
	}
	return t.n, err
}

func (t *transfer) once(fd uintptr) (done bool) {
	for {
		switch n, _, errno := syscall.RawSyscall(t.call, fd, uintptr(unsafe.Pointer(&t.b[0])), uintptr(len(t.b))); errno {
		case 0:
			t.n = int(n)
			return true
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			t.errno = errno
			return true
		}
	}
}
