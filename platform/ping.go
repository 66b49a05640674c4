package platform

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// errMayNotPing: this process may open no ICMP socket.
var errMayNotPing = errors.New("no right to send ICMP")

// MayNotPing tells whether Ping failed for want of a right, and so says nothing about the address.
func MayNotPing(err error) bool { return errors.Is(err, errMayNotPing) }

// Ping sends ICMP echo requests to addr until one is answered or ctx ends, and returns the round-trip time. It needs
// root or Administrator, except on macOS and where Linux lets this process's group ping (net.ipv4.ping_group_range).
func Ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	addr = addr.Unmap()
	raw, datagram, request, reply, protocol := "ip4:icmp", "udp4", icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply), 1
	if addr.Is6() {
		raw, datagram, request, reply, protocol = "ip6:ipv6-icmp", "udp6", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58
	}
	var to net.Addr = &net.IPAddr{IP: addr.AsSlice(), Zone: addr.Zone()}
	conn, err := icmp.ListenPacket(raw, "")
	private := errors.Is(err, fs.ErrPermission) // a socket that only gets the answers to its own requests, whose id the OS chooses
	if private {
		to = &net.UDPAddr{IP: addr.AsSlice(), Zone: addr.Zone()}
		if conn, err = icmp.ListenPacket(datagram, ""); err != nil {
			err = fmt.Errorf("%w: %w", errMayNotPing, err)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("opening an ICMP socket: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	id, buf := os.Getpid()&0xffff, make([]byte, 1500)
	for sent := []time.Time(nil); ; {
		if ctx.Err() != nil {
			return 0, fmt.Errorf("no answer from %v", addr)
		}
		msg, err := (&icmp.Message{Type: request, Body: &icmp.Echo{ID: id, Seq: len(sent), Data: []byte("fairlead")}}).Marshal(nil)
		if err != nil {
			return 0, err
		}
		now := time.Now()
		sent = append(sent, now)
		if _, err := conn.WriteTo(msg, to); err != nil {
			return 0, fmt.Errorf("pinging %v: %w", addr, err)
		}
		conn.SetReadDeadline(now.Add(250 * time.Millisecond))
		for ctx.Err() == nil {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				break // time for the next request
			}
			m, err := icmp.ParseMessage(protocol, buf[:n])
			if err != nil || m.Type != reply {
				continue
			}
			echo, ok := m.Body.(*icmp.Echo)
			if ok && (private || echo.ID == id) && echo.Seq < len(sent) && comesFrom(from, addr) {
				return time.Since(sent[echo.Seq]), nil // perhaps to an earlier request
			}
		}
	}
}

func comesFrom(from net.Addr, addr netip.Addr) bool {
	switch f := from.(type) {
	case *net.IPAddr:
		return f.IP.Equal(addr.AsSlice())
	case *net.UDPAddr:
		return f.IP.Equal(addr.AsSlice())
	}
	return false
}
