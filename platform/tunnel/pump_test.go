package tunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/tuntest"
)

// ends are both ends of a tunnel over a pipe, with channels where the kernels are.
type ends struct {
	tunnel   *Tunnel
	host, vm *tuntest.ChannelTUN
	stream   net.Conn // the pilot's
	followed chan error
}

func openEnds(t *testing.T) *ends {
	t.Helper()
	ours, theirs := net.Pipe()
	e := &ends{host: tuntest.NewChannelTUN(), vm: tuntest.NewChannelTUN(), stream: theirs, followed: make(chan error, 1)}
	go func() {
		e.followed <- follow(t.Context(), theirs, nil, echo, func(l Link, _ *prover) (port, linked, error) {
			return &hostPort{dev: e.vm.TUN()}, linked{Dev: "vm", MTU: l.MTU, Addrs: l.Pilot}, nil
		})
	}()
	var err error
	e.tunnel, err = Lead(t.Context(), ours).tunnel(t.Context(), someLink, e.open, all)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *ends) open(int) (tun.Device, error) { return e.host.TUN(), nil }

func all(_ string, l Link) ([]netip.Addr, error) { return l.Host, nil }

var someLink = Link{
	Tag:   "0123abcd",
	Host:  []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")},
	Pilot: []netip.Addr{netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("fd09::2")},
}

func TestPacketsCross(t *testing.T) {
	e := openEnds(t)
	const count = 1000
	var out, back [][]byte
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range count {
		load := make([]byte, rnd.IntN(min(65000, 64<<(i%11))))
		for i := range load {
			load[i] = byte(rnd.Uint32())
		}
		out = append(out, udp("10.9.0.1", "172.17.0.2", load))
		back = append(back, udp("fd17::2", "fd09::1", load))
	}
	go func() {
		e.host.Outbound <- udp("192.168.1.1", "172.17.0.2", nil) // not ours to send
		for _, p := range out {
			e.host.Outbound <- p
		}
	}()
	go func() {
		e.vm.Outbound <- []byte("not a packet at all")
		for _, p := range back {
			e.vm.Outbound <- p
		}
	}()
	arrive := func(where string, at <-chan []byte, want [][]byte) <-chan struct{} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i, p := range want {
				if got := <-at; !bytes.Equal(got, p) {
					t.Errorf("packet %d arrived %s as another", i, where)
				}
			}
		}()
		return done
	}
	there, here := arrive("in the VM", e.vm.Inbound, out), arrive("at the host", e.host.Inbound, back)
	for range 20 { // what is asked meanwhile is answered
		if _, err := e.tunnel.lease.Admit(t.Context(), admission); err != nil {
			t.Fatal(err)
		}
	}
	<-there
	<-here
	if _, err := e.tunnel.lease.Admit(t.Context(), admission); err != nil { // what came before is counted
		t.Fatal(err)
	}
	e.tunnel.Close()
	size := func(packets [][]byte) (n uint64) {
		for _, p := range packets {
			n += uint64(len(p))
		}
		return n
	}
	want := Stats{Sent: Traffic{count, size(out), 1}, Received: Traffic{count, size(back), 0}}
	if got := e.tunnel.Stats(); got != want {
		t.Errorf("stats %+v, want %+v", got, want)
	}
	if err := <-e.followed; err != nil {
		t.Errorf("Follow = %v", err)
	}
}

// TestHostTrustsNoPilot has the pilot's side send what no honest one does.
func TestHostTrustsNoPilot(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	host := tuntest.NewChannelTUN()
	go func() {
		r := frameReader{Reader: theirs}
		f, err := r.next()
		if err != nil {
			return
		}
		var req request
		parseJSON(f, kindRequest, &req)
		answered, _ := answerFrame(answer{ID: req.ID, Linked: &linked{MTU: 1500, Addrs: someLink.Pilot}})
		theirs.Write(appendFrame(nil, answered))
		io.Copy(io.Discard, theirs)
	}()
	tunnel, err := Lead(t.Context(), ours).tunnel(t.Context(), someLink, func(int) (tun.Device, error) { return host.TUN(), nil }, all)
	if err != nil {
		t.Fatal(err)
	}
	good := udp("172.17.0.2", "10.9.0.1", []byte("good"))
	batch := func(packets ...[]byte) (b []byte) {
		for _, p := range packets {
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(p))), p...)
		}
		return b
	}
	for _, b := range [][]byte{
		batch(udp("10.9.0.1", "10.9.0.1", nil)),    // from ourselves
		batch(udp("172.17.0.2", "127.0.0.1", nil)), // to another address of ours
		batch([]byte("junk")),
		batch(nil),
		[]byte("\x00"),
		[]byte("\x00\x00\x00\x09 short"),
		append(batch(good), "\xff\xff\xff\xff"...),
	} {
		theirs.Write(appendFrame(nil, frame{kindPackets, b}))
	}
	if got := <-host.Inbound; !bytes.Equal(got, good) {
		t.Errorf("got %x", got)
	}
	theirs.Write(appendFrame(nil, frame{kind: kindPing})) // the frame before it is done with
	if got := tunnel.Stats().Received; got.Packets != 1 || got.Drops != 7 {
		t.Errorf("received %+v, want 1 packet and 7 drops", got)
	}
	tunnel.Close()
}

func TestTheTunnelEndsWithItsStream(t *testing.T) {
	e := openEnds(t)
	e.stream.Close()
	<-e.tunnel.Done()
	if e.tunnel.Err() == nil {
		t.Error("Err = nil though the pilot's side ended it")
	}
	if _, open := <-e.host.TUN().Events(); open { // the first event is "up"
		if _, open := <-e.host.TUN().Events(); open {
			t.Error("the host's device is open")
		}
	}
}

func TestTheStreamEndsWithTheDevice(t *testing.T) {
	e := openEnds(t)
	broken := errors.New("device on fire")
	e.tunnel.lease.wire.end(broken)
	<-e.tunnel.Done()
	if err := e.tunnel.Err(); !errors.Is(err, broken) {
		t.Errorf("Err = %v", err)
	}
	<-e.followed
}

func TestWhatGoesWrongAtTheBeginning(t *testing.T) {
	fine := func(l Link, _ *prover) (port, linked, error) {
		return &hostPort{dev: tuntest.NewChannelTUN().TUN()}, linked{MTU: l.MTU, Addrs: l.Pilot}, nil
	}
	for _, c := range []struct {
		name, want string
		link       Link
		pilot      func(Link, *prover) (port, linked, error)
		open       func(int) (tun.Device, error)
		configure  func(string, Link) ([]netip.Addr, error)
	}{
		{"no address", "one or two families", Link{Tag: "0123abcd"}, fine, nil, all},
		{"one-sided", "one or two families", Link{Tag: "0123abcd", Host: someLink.Host}, fine, nil, all},
		{"crossed", "do not make a link", Link{Tag: "0123abcd", Host: someLink.Host[:1], Pilot: someLink.Pilot[1:]}, fine, nil, all},
		{"the same", "do not make a link", Link{Tag: "0123abcd", Host: someLink.Host, Pilot: someLink.Host}, fine, nil, all},
		{"one family twice", "of one family", Link{Tag: "0123abcd", Host: addrs("10.0.0.1", "10.0.0.2"), Pilot: addrs("10.0.0.3", "10.0.0.4")}, fine, nil, all},
		{"loopback", "no address for a link", Link{Tag: "0123abcd", Host: addrs("127.0.0.1"), Pilot: addrs("127.0.0.2")}, fine, nil, all},
		{"mtu", "mtu 600 is not", Link{Tag: "0123abcd", Host: addrs("10.0.0.1"), Pilot: addrs("10.0.0.2"), MTU: 600}, fine, nil, all},
		{"no device here", "no such driver", someLink, fine, func(int) (tun.Device, error) { return nil, errors.New("no such driver") }, all},
		{"no device there", "no /dev/net/tun", someLink, func(Link, *prover) (port, linked, error) { return nil, linked{}, errors.New("no /dev/net/tun") }, nil, all},
		{"no address here", "denied", someLink, fine, nil, func(string, Link) ([]netip.Addr, error) { return nil, errors.New("denied") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			host := tuntest.NewChannelTUN()
			if c.open == nil {
				c.open = func(int) (tun.Device, error) { return host.TUN(), nil }
			}
			ours, theirs := net.Pipe()
			ended := make(chan error, 1)
			go func() { ended <- follow(t.Context(), theirs, nil, echo, c.pilot) }()
			l := Lead(t.Context(), ours)
			if _, err := l.tunnel(t.Context(), c.link, c.open, c.configure); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Tunnel = %v, want %q", err, c.want)
			}
			if _, err := l.Admit(t.Context(), admission); err != nil {
				t.Errorf("the lease went with it: %v", err)
			}
			l.Close()
			<-ended
		})
	}
}

func addrs(s ...string) (a []netip.Addr) {
	for _, s := range s {
		a = append(a, netip.MustParseAddr(s))
	}
	return a
}

// TestRing runs a reader and a sender against each other, and compares what goes in and comes out.
func TestRing(t *testing.T) {
	r := newRing()
	done := make(chan struct{})
	const count = 20000
	rnd := rand.New(rand.NewPCG(3, 4))
	sizes := make([]int, count)
	for i := range sizes {
		sizes[i] = 1 + rnd.IntN(1<<(1+rnd.IntN(15)))
		if i%100 == 0 {
			sizes[i] = maxPacket
		}
	}
	go func() {
		defer close(done)
		for i, n := range sizes {
			s := r.slot(nil)
			for j := range s[lengthLen:][:n] {
				s[lengthLen+j] = byte(i)
			}
			r.add(n)
		}
	}()
	i := 0
	for i < count {
		<-r.more
		b := r.take()
		if b == nil {
			continue
		}
		f, err := (&frameReader{Reader: bytes.NewReader(b)}).next()
		if err != nil || f.kind != kindPackets || len(f.payload) != len(b)-headerLen {
			t.Fatalf("frame %v of %d bytes: %v", f.kind, len(f.payload), err)
		}
		if !packets(b, headerLen, func(b []byte, at int) {
			want := bytes.Repeat([]byte{byte(i)}, sizes[i])
			if !bytes.Equal(b[at:], want) {
				t.Fatalf("packet %d of %d bytes came out as %d others", i, sizes[i], len(b)-at)
			}
			i++
		}) {
			t.Fatal("bad lengths")
		}
		r.release()
	}
	<-done
	if r.take() != nil {
		t.Error("more came out than went in")
	}
}

func TestAFullRingMakesTheReaderWait(t *testing.T) {
	r := newRing()
	done := make(chan struct{})
	n := 0
	for ; len(r.free()) >= slotLen; n++ {
		r.slot(done)
		r.add(maxPacket)
	}
	if want := ringLen / slotLen; n != want && n != want-1 {
		t.Errorf("%d of the largest packets fit, want %d", n, want)
	}
	close(done)
	if r.slot(done) != nil {
		t.Error("a slot without room")
	}
	r.take()
	r.release()
	if r.slot(nil) == nil {
		t.Error("no slot with all room")
	}
}

// sinkPort gives the same packet for ever, and counts what it takes.
type sinkPort struct {
	packet []byte
	taken  int
}

func (p *sinkPort) read(b []byte) (int, error) { return copy(b[lengthLen:], p.packet), nil }
func (p *sinkPort) write([]byte, int) error    { p.taken++; return nil }
func (p *sinkPort) Close() error               { return nil }

func TestPacketsCostNoGarbage(t *testing.T) {
	port := &sinkPort{packet: tcp("10.9.0.1", "172.17.0.2", 0x10, nil, make([]byte, 3000))}
	m := &pump{port: port, wire: &wire{packets: newRing()}, outward: someLink.toVM, inward: someLink.toVM}
	frames := &frameReader{}
	var cut segmenter
	input := new(bytes.Reader)
	frames.Reader = input
	once := func() {
		slot := m.wire.packets.slot(nil)
		n, _ := port.read(slot)
		p := slot[lengthLen:][:n]
		h, ok := parse(p)
		if !ok || !m.outward(h) {
			t.Fatal("refused")
		}
		cut.fromHost(p, h)
		m.wire.packets.add(n)
		b := m.wire.packets.take()
		input.Reset(b)
		f, err := frames.next()
		if err != nil {
			t.Fatal(err)
		}
		m.push(frames.room[:headroom+len(f.payload)])
		m.wire.packets.release()
	}
	if got := testing.AllocsPerRun(1000, once); got > 0 {
		t.Errorf("%v allocations for each packet", got)
	}
	if port.taken < 1000 {
		t.Errorf("%d packets arrived", port.taken)
	}
}

func TestOnly(t *testing.T) {
	for _, c := range []struct{ by, want []netip.Addr }{
		{someLink.Host, someLink.Host},
		{someLink.Pilot[1:], someLink.Host[1:]},
		{addrs("10.0.0.1"), nil},
	} {
		if got := someLink.only(c.by).Host; !slices.Equal(got, c.want) {
			t.Errorf("only %v = %v, want %v", c.by, got, c.want)
		}
	}
}
