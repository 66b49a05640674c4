package platform

import (
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const procNetUDP = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  303: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1001 2 0000000000000000 0
  304: 0100007F:D83B 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1002 2 0000000000000000 0
  305: 0100007F:D83B 0100007F:0035 01 00000000:00000000 00:00000000 00000000     0        0 1003 2 0000000000000000 0
  306: 0100007F:9999 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2 0000000000000000 0
`

const procNetTCP6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2001 1 0000000000000000 100 0 0 10 0
   1: 0000000000000000FFFF00000100007F:0036 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2002 1 0000000000000000 100 0 0 10 0
`

const lsofPort53 = `p412
cmDNSResponder
f9
PUDP
n*:53
f10
PTCP
n192.168.64.1:53
p733
cdnsmasq
f4
PTCP
n127.0.0.1:53
`

// ownerTable is a table of IP Helper's: a count, then rows of words, given in hexadecimal as they lie in memory.
func ownerTable(t testing.TB, words string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(words), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	ownersUDP  = "02000000 00000000 00350000 1c0c0000 7f000001 d83b0000 c4090000"
	ownersUDP6 = "01000000 00000000000000000000000000000001 00000000 076c0000 800c0000"
	ownersTCP  = "01000000 02000000 7f000099 00350000 00000000 00000000 60090000"
	ownersTCP6 = "01000000 00000000000000000000000000000000 00000000 00350000 00000000000000000000000000000000 00000000 00000000 02000000 b0040000"
)

func TestPortHolderTables(t *testing.T) {
	at := netip.MustParseAddrPort
	inodes := func(table, listening, addr string) string {
		return strings.Join(procNetInodes(table, listening, at(addr)), " ")
	}
	lsof := func(network, addr string) string {
		p, ok := parseLsof(lsofPort53, network, at(addr))
		if !ok {
			return ""
		}
		return p.String()
	}
	owner := func(words, network, addr string) int {
		pid, _ := parseOwners(ownerTable(t, words), network, words == ownersUDP || words == ownersTCP, at(addr))
		return pid
	}
	for _, c := range []struct{ got, want any }{
		{inodes(procNetUDP, "07", "127.0.0.1:53"), "1001"}, // by whoever has all addresses
		{inodes(procNetUDP, "07", "127.0.0.1:55355"), "1002"},
		{inodes(procNetUDP, "07", "127.0.0.2:55355"), ""},
		{inodes(procNetUDP, "07", "127.0.0.1:39321"), ""}, // without an inode it is nobody's any more
		{inodes(procNetTCP6, "0A", "127.0.0.1:53"), "2001"},
		{inodes(procNetTCP6, "0A", "127.0.0.1:54"), "2002"},
		{inodes(procNetTCP6, "07", "127.0.0.1:54"), ""},
		{lsof("udp", "127.0.0.1:53"), "mDNSResponder (pid 412)"},
		{lsof("tcp", "127.0.0.1:53"), "dnsmasq (pid 733)"},
		{lsof("tcp", "127.0.0.1:54"), ""},
		{owner(ownersUDP, "udp", "127.0.0.153:53"), 3100}, // by whoever has all addresses
		{owner(ownersUDP, "udp", "127.0.0.1:55355"), 2500},
		{owner(ownersUDP, "udp", "127.0.0.2:55355"), 0},
		{owner(ownersUDP6, "udp", "[::1]:1900"), 3200},
		{owner(ownersUDP6, "udp", "127.0.0.1:1900"), 0},
		{owner(ownersTCP, "tcp", "127.0.0.153:53"), 2400},
		{owner(ownersTCP, "tcp", "127.0.0.1:53"), 0},
		{owner(ownersTCP6, "tcp", "[::1]:53"), 1200},
		{Process{PID: 7, Name: "x\x1b[2J"}.String(), "x?[2J (pid 7)"},
	} {
		if c.got != c.want {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
}

// TestPortHolder: the OS says that this very process has a socket that it has just opened.
func TestPortHolder(t *testing.T) {
	if runtime.GOOS == "darwin" {
		t.Skip("lsof is tried by its output alone")
	}
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p, ok := PortHolder("udp", netip.MustParseAddrPort(c.LocalAddr().String()))
	if !ok || p.PID != os.Getpid() || p.Name == "" {
		t.Errorf("PortHolder = %v, %v, want pid %d", p, ok, os.Getpid())
	}
	if !slices.Contains(Processes(), p.Name) {
		t.Errorf("no %q among the processes", p.Name)
	}
}

func FuzzPortHolderTables(f *testing.F) {
	for _, s := range []string{procNetUDP, procNetTCP6, lsofPort53, string(ownerTable(f, ownersUDP)), "\xff\xff\xff\xff" + strings.Repeat("\x00", 99)} {
		f.Add(s)
	}
	addr := netip.MustParseAddrPort("127.0.0.1:53")
	f.Fuzz(func(t *testing.T, text string) {
		procNetInodes(text, "07", addr)
		if p, ok := parseLsof(text, "udp", addr); ok && strings.ContainsAny(p.String(), "\n\x1b") {
			t.Errorf("%q", p)
		}
		for _, network := range []string{"udp", "tcp"} {
			parseOwners([]byte(text), network, true, addr)
			parseOwners([]byte(text), network, false, addr)
		}
	})
}
