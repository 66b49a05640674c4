package engine

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"syscall"
	"testing"
)

// unixPair are the two ends of a connection by a unix socket.
func unixPair(t *testing.T) (here, there net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	here, err = net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	there, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return here, there
}

func TestQuietCarriesAllAndEnds(t *testing.T) {
	c, there := unixPair(t)
	echoed := make(chan struct{})
	go func() {
		defer close(echoed)
		io.Copy(there, there)
		there.Close()
	}()
	q := quiet(c)
	if _, ok := q.(*quietConn); !ok {
		t.Fatalf("a unix socket became %T", q)
	}
	sent := make([]byte, 4<<20) // more than both buffers hold
	rand.NewChaCha8([32]byte{}).Read(sent)
	go func() {
		if n, err := q.Write(sent); n != len(sent) || err != nil {
			t.Errorf("Write = %d, %v", n, err)
		}
		c.(*net.UnixConn).CloseWrite()
	}()
	if got, err := io.ReadAll(q); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came back, of %d: %v", len(got), len(sent), err)
	}
	<-echoed
	if _, err := q.Write([]byte("late")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write to nobody = %v", err)
	}
}

func TestQuietIsFreedByClose(t *testing.T) {
	c, there := unixPair(t)
	defer there.Close()
	q := quiet(c)
	freed := make(chan error, 2)
	go func() {
		_, err := q.Read(make([]byte, 1))
		freed <- err
	}()
	go func() {
		_, err := q.Write(make([]byte, 4<<20))
		freed <- err
	}()
	if _, err := there.Read(make([]byte, 1)); err != nil { // it has begun
		t.Fatal(err)
	}
	c.Close()
	for range 2 {
		if err := <-freed; !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}
