package platform

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Ping sends ICMP echo requests to addr until one is answered or ctx ends, and returns the round-trip time. It needs
// the right to open raw sockets.
func Ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	addr = addr.Unmap()
	network, request, reply, protocol := "ip4:icmp", icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply), 1
	if addr.Is6() {
		network, request, reply, protocol = "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58
	}
	conn, err := icmp.ListenPacket(network, "")
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
		if _, err := conn.WriteTo(msg, &net.IPAddr{IP: addr.AsSlice(), Zone: addr.Zone()}); err != nil {
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
			if ip, isIP := from.(*net.IPAddr); ok && isIP && echo.ID == id && echo.Seq < len(sent) && ip.IP.Equal(addr.AsSlice()) {
				return time.Since(sent[echo.Seq]), nil // perhaps to an earlier request
			}
		}
	}
}
