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
			return &devicePort{dev: e.vm.TUN()}, linked{Dev: "vm", MTU: l.MTU, Addrs: l.Pilot}, nil
		})
	}()
	var err error
	e.tunnel, err = Lead(t.Context(), ours).tunnel(t.Context(), someLink, e.open, all)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *ends) open(int) (*hostEnd, error) { return openDevice(e.host.TUN()) }

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
	tunnel, err := Lead(t.Context(), ours).tunnel(t.Context(), someLink, func(int) (*hostEnd, error) { return openDevice(host.TUN()) }, all)
	if err != nil {
		t.Fatal(err)
	}
	good := udp("172.17.0.2", "10.9.0.1", []byte("good"))
	batch := func(packets ...[]byte) []byte {
		b := make([]byte, ackLen)
		for _, p := range packets {
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(p))), p...)
		}
		return b
	}
	notAgreed := batch(good)
	notAgreed[ackLen] |= 0x80 // unsummed
	for _, b := range [][]byte{
		batch(udp("10.9.0.1", "10.9.0.1", nil)),    // from ourselves
		batch(udp("172.17.0.2", "127.0.0.1", nil)), // to another address of ours
		batch([]byte("junk")),
		batch(nil),
		append(batch(), "\x00"...),
		append(batch(), "\x00\x00\x00\x09 short"...),
		notAgreed,
		append(batch(good), "\xff\xff\xff\xff"...),
	} {
		theirs.Write(appendFrame(nil, frame{kindPackets, b}))
	}
	if got := <-host.Inbound; !bytes.Equal(got, good) {
		t.Errorf("got %x", got)
	}
	theirs.Write(appendFrame(nil, frame{kind: kindPing})) // the frame before it is done with
	if got := tunnel.Stats().Received; got.Packets != 1 || got.Drops != 8 {
		t.Errorf("received %+v, want 1 packet and 8 drops", got)
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
		return &devicePort{dev: tuntest.NewChannelTUN().TUN()}, linked{MTU: l.MTU, Addrs: l.Pilot}, nil
	}
	for _, c := range []struct {
		name, want string
		link       Link
		pilot      func(Link, *prover) (port, linked, error)
		open       func(int) (*hostEnd, error)
		configure  func(string, Link) ([]netip.Addr, error)
	}{
		{"no address", "one or two families", Link{Tag: "0123abcd"}, fine, nil, all},
		{"one-sided", "one or two families", Link{Tag: "0123abcd", Host: someLink.Host}, fine, nil, all},
		{"crossed", "do not make a link", Link{Tag: "0123abcd", Host: someLink.Host[:1], Pilot: someLink.Pilot[1:]}, fine, nil, all},
		{"the same", "do not make a link", Link{Tag: "0123abcd", Host: someLink.Host, Pilot: someLink.Host}, fine, nil, all},
		{"one family twice", "of one family", Link{Tag: "0123abcd", Host: addrs("10.0.0.1", "10.0.0.2"), Pilot: addrs("10.0.0.3", "10.0.0.4")}, fine, nil, all},
		{"loopback", "no address for a link", Link{Tag: "0123abcd", Host: addrs("127.0.0.1"), Pilot: addrs("127.0.0.2")}, fine, nil, all},
		{"mtu", "mtu 600 is not", Link{Tag: "0123abcd", Host: addrs("10.0.0.1"), Pilot: addrs("10.0.0.2"), MTU: 600}, fine, nil, all},
		{"no device here", "no such driver", someLink, fine, func(int) (*hostEnd, error) { return nil, errors.New("no such driver") }, all},
		{"no device there", "no /dev/net/tun", someLink, func(Link, *prover) (port, linked, error) { return nil, linked{}, errors.New("no /dev/net/tun") }, nil, all},
		{"no address here", "denied", someLink, fine, nil, func(string, Link) ([]netip.Addr, error) { return nil, errors.New("denied") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			host := tuntest.NewChannelTUN()
			if c.open == nil {
				c.open = func(int) (*hostEnd, error) { return openDevice(host.TUN()) }
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

// TestQueue runs a reader and a sender against each other, and compares what goes in and comes out of each flow.
func TestQueue(t *testing.T) {
	q := newQueue()
	const count, flows = 20000, 50
	rnd := rand.New(rand.NewPCG(3, 4))
	sizes := make([]int, count)
	for i := range sizes {
		sizes[i] = 4 + rnd.IntN(1<<(1+rnd.IntN(15)))
		if i%100 == 0 {
			sizes[i] = maxPacket
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i, n := range sizes {
			s := q.slot(nil)[lengthLen:]
			for j := range s[:n] {
				s[j] = byte(i)
			}
			binary.BigEndian.PutUint32(s, uint32(i))
			length := uint32(n)
			if i%3 == 0 {
				length |= unsummed
			}
			q.add(length, uint32(i%flows))
			poke(q.more)
		}
	}()
	var came int
	var last [flows]int
	for came < count {
		<-q.more
		for {
			b := q.take(true, true)
			if b == nil {
				break
			}
			if !packets(b, frontLen, func(b []byte, at int, partial bool) {
				p := b[at:]
				i := int(binary.BigEndian.Uint32(p))
				if len(p) != sizes[i] || partial != (i%3 == 0) || !bytes.Equal(p[4:], bytes.Repeat([]byte{byte(i)}, len(p)-4)) {
					t.Fatalf("packet %d of %d bytes came out as %d others", i, sizes[i], len(p))
				}
				if l := &last[i%flows]; i < *l {
					t.Fatalf("packet %d came after %d of its flow", i, *l)
				} else {
					*l = i
				}
				came++
			}) {
				t.Fatal("bad lengths")
			}
			q.release()
		}
	}
	<-done
	if q.take(true, true) != nil || !q.empty() {
		t.Error("more came out than went in")
	}
}

// put adds a packet that begins with name.
func (q *queue) put(name string, size int, flow uint32) {
	copy(q.slot(nil)[lengthLen:], name)
	q.add(uint32(size), flow)
}

// next takes a frame and gives the names of its packets.
func (q *queue) next(bulk, fast bool) (names string) {
	b := q.take(bulk, fast)
	if b == nil {
		return ""
	}
	packets(b, frontLen, func(b []byte, at int, _ bool) { names += string(b[at]) })
	q.release()
	return names
}

func TestSmallPacketsOvertake(t *testing.T) {
	q := newQueue()
	q.put("A", 60000, 1)
	q.put("B", 60000, 1)
	q.put("c", 100, 1) // of a flow that has others waiting
	q.put("d", 100, 2)
	q.put("E", fastMost+1, 3)
	for i, c := range []struct {
		bulk, fast bool
		want       string
	}{
		{true, false, "AB"},
		{false, false, ""},
		{false, true, "d"},
		{false, true, ""},
		{true, true, "cE"},
		{true, true, ""},
	} {
		if got := q.next(c.bulk, c.fast); got != c.want {
			t.Errorf("take %d: %q, want %q", i, got, c.want)
		}
	}
	q.put("f", 100, 1) // none of them is waiting now
	q.put("G", 60000, 4)
	if got := q.next(true, true); got != "f" {
		t.Errorf("take: %q", got)
	}

	q = newQueue()
	for range fastLen / 1000 { // more than the fast lane holds
		q.put("s", 1000, 5)
	}
	q.put("t", 10, 6)
	var all string
	for !q.empty() {
		all += q.next(true, true)
	}
	if want := strings.Repeat("s", fastLen/1000); strings.ReplaceAll(all, "t", "") != want || len(all) != len(want)+1 {
		t.Errorf("of %d packets %q came out", len(want)+1, all)
	}
}

func TestAFullQueueMakesTheReaderWait(t *testing.T) {
	q := newQueue()
	done := make(chan struct{})
	n := 0
	for ; q.bulk.free(slotLen) != nil; n++ {
		q.slot(done)
		q.add(maxPacket, 1)
	}
	if want := bulkLen / slotLen; n != want && n != want-1 {
		t.Errorf("%d of the largest packets fit, want %d", n, want)
	}
	close(done)
	if q.slot(done) != nil {
		t.Error("a slot without room")
	}
	q.take(true, true)
	q.release()
	q.take(true, true)
	q.release()
	if q.slot(nil) == nil {
		t.Error("no slot with all room")
	}
}

// sinkPort gives the same packet for ever, and counts what it takes.
type sinkPort struct {
	packet []byte
	taken  int
}

func (p *sinkPort) read(b []byte, _ func()) (int, bool, error) {
	return copy(b[lengthLen:], p.packet), false, nil
}
func (p *sinkPort) write([]byte, int, header, bool) error { p.taken++; return nil }
func (p *sinkPort) Close() error                          { return nil }

func TestPacketsCostNoGarbage(t *testing.T) {
	port := &sinkPort{packet: tcp("10.9.0.1", "172.17.0.2", 0x10, nil, make([]byte, 3000))}
	w := &wire{packets: newQueue()}
	m := &pump{port: port, wire: w, outward: someLink.toVM, inward: someLink.toVM}
	w.pump.Store(m)
	frames := &frameReader{}
	var cut segmenter
	input := new(bytes.Reader)
	frames.Reader = input
	once := func() {
		slot := w.packets.slot(nil)
		n, _, _ := port.read(slot, nil)
		p := slot[lengthLen:][:n]
		h, ok := parse(p)
		if !ok || !m.outward(h) {
			t.Fatal("refused")
		}
		cut.fromHost(p, h, false)
		w.packets.add(uint32(n), h.flow(p))
		b := w.packets.take(true, true)
		w.sent.Add(uint32(len(b) - frontLen))
		input.Reset(w.front(b))
		f, err := frames.next()
		if err != nil {
			t.Fatal(err)
		}
		if err := w.arrived(frames.room[:headroom+len(f.payload)]); err != nil {
			t.Fatal(err)
		}
		w.packets.release()
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
