package dnsserver

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	idleTimeout  = 10 * time.Second // how long a TCP client may take over its next query (RFC 7766, 6.2.3)
	writeTimeout = time.Second      // how long it may leave a reply unread; also bounds Serve's end
	maxConns     = 256              // TCP connections at a time; further ones wait in the kernel's queue
)

// Server is the UDP and TCP socket of one address.
type Server struct {
	addr netip.AddrPort
	udp  *udpSocket
	tcp  *net.TCPListener
	idle time.Duration
}

// Listen binds UDP and TCP on addr at once, before anything is told about it. Port 0 takes a port that is free for both. An
// unspecified address (0.0.0.0, ::) is refused: it would take the port from every other DNS server of the host. Errors
// name protocol and address and wrap the system's; a taken port is syscall.EADDRINUSE on every OS.
func Listen(addr netip.AddrPort) (*Server, error) {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	if !addr.IsValid() || addr.Addr().IsUnspecified() {
		return nil, fmt.Errorf("listen %s: need one address of this host, such as 127.0.0.1", addr)
	}
	for attempt := 1; ; attempt++ {
		s, err := listen(addr)
		// A port that the system chose for TCP can be taken for UDP.
		if err == nil || addr.Port() != 0 || attempt == 20 || !errors.Is(err, syscall.EADDRINUSE) {
			return s, err
		}
	}
}

func listen(addr netip.AddrPort) (*Server, error) {
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
	if err != nil {
		return nil, bindError(err) // "listen tcp 127.0.0.1:53: bind: address already in use"
	}
	addr = netip.AddrPortFrom(addr.Addr(), uint16(tcp.Addr().(*net.TCPAddr).Port))
	udp, err := listenUDP(addr)
	if err != nil {
		tcp.Close()
		return nil, bindError(err)
	}
	return &Server{addr: addr, udp: udp, tcp: tcp, idle: idleTimeout}, nil
}

// bindError makes Windows's errors for a port that is taken (WSAEADDRINUSE) or held exclusively or reserved (WSAEACCES) be
// EADDRINUSE, which there is a made-up number that bind never returns.
func bindError(err error) error {
	if errors.Is(err, syscall.Errno(10048)) || errors.Is(err, syscall.Errno(10013)) {
		return portTaken{err}
	}
	return err
}

type portTaken struct{ error }

func (e portTaken) Unwrap() error        { return e.error }
func (e portTaken) Is(target error) bool { return target == syscall.EADDRINUSE }

// Addr is the address that both sockets are bound to.
func (s *Server) Addr() netip.AddrPort { return s.addr }

// Serve answers from z until ctx is done, then finishes the queries in hand, closes the sockets and returns nil, within about
// a second or the zone's Patience. It returns an error when a socket fails for good. It may be called once; with a done ctx it only closes.
func (s *Server) Serve(ctx context.Context, z *Zone) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.serveUDP(ctx, z) })
	g.Go(func() error { return s.serveTCP(ctx, z) })
	return g.Wait()
}

// past as a deadline ends a read that waits, and leaves writes alone.
var past = time.Unix(1, 0)

func (s *Server) serveTCP(ctx context.Context, z *Zone) error {
	defer context.AfterFunc(ctx, func() { s.tcp.SetDeadline(past) })()
	var conns errgroup.Group
	conns.SetLimit(maxConns)
	defer conns.Wait()
	defer s.tcp.Close()
	for failures := 0; ; {
		conn, err := s.tcp.AcceptTCP()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if failures++; !tryAgain(ctx, err, failures) {
				return fmt.Errorf("accept tcp %s: %w", s.addr, err)
			}
			continue
		}
		failures = 0
		if !s.admits(conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()) {
			conn.Close()
			continue
		}
		conns.Go(func() error { s.serveConn(ctx, conn, z); return nil })
	}
}

// serveConn answers the queries of one connection in the order they come, however many are sent ahead; only those that wait for
// news of their name are overtaken (RFC 7766, 6.2.1.1).
func (s *Server) serveConn(ctx context.Context, conn net.Conn, z *Zone) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(past) })()
	var writing sync.Mutex
	var out []byte
	write := func(reply []byte) error {
		writing.Lock()
		defer writing.Unlock()
		out = append(binary.BigEndian.AppendUint16(out[:0], uint16(len(reply))), reply...)
		conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := conn.Write(out)
		return err
	}
	waiting := waiters{send: func(reply []byte, _ netip.AddrPort) { write(reply) }}
	defer waiting.Wait()
	r := bufio.NewReader(conn)
	var msg []byte
	var q query
	buf := make([]byte, ednsSize)
	for {
		conn.SetReadDeadline(time.Now().Add(s.idle))
		if ctx.Err() != nil { // asked after the deadline was set, which may have undone that of AfterFunc
			return
		}
		var size [2]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return
		}
		msg = append(msg[:0], make([]byte, binary.BigEndian.Uint16(size[:]))...)
		if _, err := io.ReadFull(r, msg); err != nil {
			return
		}
		q.parse(msg, false)
		reply := z.reply(&q, msg, buf, false)
		if reply == nil {
			return // not a DNS client
		}
		if denies(reply) {
			if reply = z.settle(&waiting, &q, msg, reply, netip.AddrPort{}); reply == nil {
				continue
			}
		}
		if write(reply) != nil {
			return
		}
	}
}

// admits reports whether a source is this host: we have nothing to tell anybody else, and nobody to amplify.
func (s *Server) admits(from netip.Addr) bool {
	from = from.Unmap()
	return from.IsLoopback() || from == s.addr.Addr()
}

// tryAgain waits a little after the nth failure in a row and reports whether to go on. Full tables (EMFILE, ENOBUFS) and
// errors of single clients pass within seconds; a closed socket stays closed.
func tryAgain(ctx context.Context, err error, n int) bool {
	if n > 100 || errors.Is(err, net.ErrClosed) {
		return false
	}
	select {
	case <-ctx.Done():
	case <-time.After(min(time.Duration(n)*5*time.Millisecond, 100*time.Millisecond)):
	}
	return true
}
