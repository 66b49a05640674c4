package e2e

import (
	"crypto/ecdh"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// wireguardEnv makes the test binary one end of a WireGuard tunnel in user space, as docker-mac-net-connect has it between
// macOS and the VM: "vm/192.168.99.1" is the end in the VM, with its peer's address. It runs until its input ends.
const wireguardEnv = "FAIRLEAD_E2E_WIREGUARD"

const (
	wireguardDev  = "wg-lab"
	wireguardPort = 3333
)

// wireguardKey is a key that everybody may know.
func wireguardKey(end string) *ecdh.PrivateKey {
	sum := sha256.Sum256([]byte(end))
	key, err := ecdh.X25519().NewPrivateKey(sum[:])
	if err != nil {
		panic(err)
	}
	return key
}

func wireguard() error {
	end, peer, ok := strings.Cut(os.Getenv(wireguardEnv), "/")
	if !ok {
		return errors.New("no peer")
	}
	dev, bind, err := wireguardEnd(end)
	if err != nil {
		return err
	}
	wg := device.NewDevice(dev, bind, device.NewLogger(device.LogLevelError, end+": "))
	defer wg.Close()
	other := "vm"
	if end == "vm" {
		other = "host"
	}
	err = wg.IpcSet(fmt.Sprintf("private_key=%x\nlisten_port=%d\npublic_key=%x\nendpoint=%s:%d\nallowed_ip=0.0.0.0/0\n",
		wireguardKey(end).Bytes(), wireguardPort, wireguardKey(other).PublicKey().Bytes(), peer, wireguardPort))
	if err != nil {
		return err
	}
	if err := wg.Up(); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// wireguardEnd gives the VM's end all offloads of Linux, in place of the kernel's WireGuard, which not every kernel has. The
// host's end does as macOS: one packet at a time.
func wireguardEnd(end string) (tun.Device, conn.Bind, error) {
	if end == "vm" {
		dev, err := tun.CreateTUN(wireguardDev, device.DefaultMTU)
		return dev, conn.NewDefaultBind(), err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	ifr, err := unix.NewIfreq(wireguardDev)
	if err != nil {
		return nil, nil, err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return nil, nil, err
	}
	dev, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	return dev, &plainBind{}, err
}

// plainBind is a UDP socket that takes and gives one packet at a call.
type plainBind struct{ socket *net.UDPConn }

type plainEndpoint netip.AddrPort

func (b *plainBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	s, err := net.ListenUDP("udp4", &net.UDPAddr{Port: int(port)})
	if err != nil {
		return nil, 0, err
	}
	b.socket = s
	return []conn.ReceiveFunc{func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		n, from, err := s.ReadFromUDPAddrPort(packets[0])
		if err != nil {
			return 0, err
		}
		sizes[0], eps[0] = n, plainEndpoint(from)
		return 1, nil
	}}, port, nil
}

func (b *plainBind) Send(packets [][]byte, ep conn.Endpoint) error {
	for _, p := range packets {
		if _, err := b.socket.WriteToUDPAddrPort(p, netip.AddrPort(ep.(plainEndpoint))); err != nil {
			return err
		}
	}
	return nil
}

func (b *plainBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	return plainEndpoint(a), err
}

func (b *plainBind) Close() error {
	if b.socket == nil {
		return nil
	}
	return b.socket.Close()
}

func (b *plainBind) SetMark(uint32) error { return nil }
func (b *plainBind) BatchSize() int       { return 1 }

func (e plainEndpoint) ClearSrc()           {}
func (e plainEndpoint) SrcToString() string { return "" }
func (e plainEndpoint) DstToString() string { return netip.AddrPort(e).String() }
func (e plainEndpoint) DstToBytes() []byte  { b, _ := netip.AddrPort(e).MarshalBinary(); return b }
func (e plainEndpoint) DstIP() netip.Addr   { return netip.AddrPort(e).Addr() }
func (e plainEndpoint) SrcIP() netip.Addr   { return netip.Addr{} }
