package platform

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Process is a process of this host.
type Process struct {
	PID  int    `json:"pid"`
	Name string `json:"name"` // "" where the OS does not tell
}

// String is "dnsmasq (pid 812)".
func (p Process) String() string {
	name := printable(p.Name)
	if name == "" {
		name = "a process"
	}
	return fmt.Sprintf("%s (pid %d)", name, p.PID)
}

// takes tells whether a socket bound to at keeps addr from others: the same address, or all of them.
func takes(at, addr netip.AddrPort) bool {
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	return at.Port() == addr.Port() && (at.Addr() == addr.Addr().Unmap() || at.Addr().IsUnspecified())
}

// procNetInodes are the inodes of the sockets that listen at addr, in a table of /proc/net/udp's or tcp's form (proc(5)).
// listening is the state that counts: 07 for UDP, 0A for TCP.
func procNetInodes(table, listening string, addr netip.AddrPort) (inodes []string) {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != listening || f[9] == "0" {
			continue
		}
		host, port, ok := strings.Cut(f[1], ":")
		b, err := hex.DecodeString(host)
		n, perr := strconv.ParseUint(port, 16, 16)
		if !ok || err != nil || perr != nil || len(b)%4 != 0 {
			continue
		}
		for i := 0; i < len(b); i += 4 { // words in this machine's order, which is little-endian wherever we run
			b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
		}
		if a, ok := netip.AddrFromSlice(b); ok && takes(netip.AddrPortFrom(a, uint16(n)), addr) {
			inodes = append(inodes, f[9])
		}
	}
	return inodes
}

// parseLsof reads the output of lsof -nP -FpcPn and finds who has addr.
func parseLsof(text, network string, addr netip.AddrPort) (p Process, ok bool) {
	proto := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		switch value := line[1:]; line[0] {
		case 'p':
			p = Process{}
			p.PID, _ = strconv.Atoi(value)
		case 'c':
			p.Name = value
		case 'P':
			proto = strings.ToLower(value)
		case 'n':
			value = strings.Replace(value, "*:", "0.0.0.0:", 1)
			if at, err := netip.ParseAddrPort(value); err == nil && proto == network && takes(at, addr) {
				return p, true
			}
		}
	}
	return Process{}, false
}

// parseOwners reads a table of GetExtendedUdpTable or GetExtendedTcpTable (MIB_UDPTABLE_OWNER_PID and its kin: a count, then
// rows of 32-bit words, ports in network order) and finds who has addr.
func parseOwners(table []byte, network string, is4 bool, addr netip.AddrPort) (pid int, ok bool) {
	// Where in a row, in bytes, its address, port and process are.
	row := struct{ size, addr, port, pid int }{12, 0, 4, 8}
	switch {
	case network == "tcp" && is4:
		row.size, row.addr, row.port, row.pid = 24, 4, 8, 20
	case network == "tcp":
		row.size, row.addr, row.port, row.pid = 56, 0, 20, 52
	case !is4:
		row.size, row.addr, row.port, row.pid = 28, 0, 20, 24
	}
	if len(table) < 4 {
		return 0, false
	}
	rows := int(binary.LittleEndian.Uint32(table))
	for table = table[4:]; rows > 0 && len(table) >= row.size; rows, table = rows-1, table[row.size:] {
		host := netip.AddrFrom4([4]byte(table[row.addr:]))
		if !is4 {
			host = netip.AddrFrom16([16]byte(table[row.addr:]))
		}
		if takes(netip.AddrPortFrom(host, binary.BigEndian.Uint16(table[row.port:])), addr) {
			return int(binary.LittleEndian.Uint32(table[row.pid:])), true
		}
	}
	return 0, false
}
