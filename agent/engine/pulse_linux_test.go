package engine

import (
	"crypto/tls"
	"net"
	"net/http/httptrace"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKeepAlive reads back what the kernel was told of connections to an engine's address.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	c := dialSound(t, listenTCP)
	want := map[int]int{unix.TCP_KEEPIDLE: 4, unix.TCP_KEEPINTVL: 1, unix.TCP_KEEPCNT: 5}
	check := func(what string, conn net.Conn) {
		if secure, ok := conn.(*tls.Conn); ok {
			conn = secure.NetConn()
		}
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			if on, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE); err != nil || on != 1 {
				t.Errorf("%s: SO_KEEPALIVE is %d, %v", what, on, err)
			}
			for option, value := range want {
				if got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option); err != nil || got != value {
					t.Errorf("%s: option %d is %d, want %d, %v", what, option, got, value, err)
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := c.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	check("the pings' connection", conn)

	traced := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		traced++
		check("the events' connection", i.Conn)
	}})
	if err := c.eachEvent(ctx, time.Time{}, func() {}, func(event) {}); err == nil {
		t.Error("an engine without events has some")
	}
	if traced == 0 {
		t.Error("no connection was seen")
	}
}
