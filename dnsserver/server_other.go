//go:build !linux

package dnsserver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

type udpSocket = net.UDPConn

func listenUDP(addr netip.AddrPort) (*udpSocket, error) {
	return net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
}

func (s *Server) serveUDP(ctx context.Context, z *Zone) error {
	defer s.udp.Close()
	defer context.AfterFunc(ctx, func() { s.udp.SetReadDeadline(past) })()
	send := func(reply []byte, to netip.AddrPort) { s.udp.WriteToUDPAddrPort(reply, to) } // lost or not: over UDP the client asks again
	waiting := waiters{udp: true, send: send}
	defer waiting.Wait()
	in, out := make([]byte, 1<<16), make([]byte, ednsSize)
	var q query
	for failures := 0; ; {
		n, from, err := s.udp.ReadFromUDPAddrPort(in)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if failures++; !tryAgain(ctx, err, failures) {
				return fmt.Errorf("read udp %s: %w", s.addr, err)
			}
			continue
		}
		failures = 0
		if !s.admits(from.Addr()) {
			continue
		}
		q.parse(in[:n], true)
		reply := z.reply(&q, in[:n], out, true)
		if denies(reply) {
			reply = z.settle(&waiting, &q, in[:n], reply, from)
		}
		if reply != nil {
			send(reply, from)
		}
	}
}
