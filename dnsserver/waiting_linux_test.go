package dnsserver

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestWaitingThread has the thread that serves wait for a query that does not come, for an hour were it left alone; whoever stops the
// world gets it all the same.
func TestWaitingThread(t *testing.T) {
	if runtime.GOMAXPROCS(0) == 1 {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	}
	addr := serve(t, loopback, func(s *Server) {
		if err := unix.SetsockoptTimeval(s.udp.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3600}); err != nil {
			t.Fatal(err)
		}
	})
	conn, err := net.Dial("udp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	msg, err := question("web.docker", typeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, ednsSize)
	for range 3 {
		for !receives(t) {
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := conn.Write(msg); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(reply); err != nil {
				t.Fatal(err)
			}
		}
		runtime.GC()
	}
}

// receives tells whether a thread of ours waits in recvmmsg.
func receives(t *testing.T) bool {
	calls, err := filepath.Glob("/proc/self/task/*/syscall")
	if err != nil || len(calls) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	for _, call := range calls {
		text, err := os.ReadFile(call)
		if err == nil && strings.HasPrefix(string(text), fmt.Sprint(unix.SYS_RECVMMSG, " ")) {
			return true
		}
	}
	return false
}
