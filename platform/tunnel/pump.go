package tunnel

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
)

// port is where packets leave and enter this machine: its TUN device.
type port interface {
	// read reads one packet to b[lengthLen:] and returns its length, and whether it is unsummed. Before it waits for one, it
	// calls idle.
	read(b []byte, idle func()) (n int, partial bool, err error)
	// write writes the packet b[at:] with the header h. It may write over the headroom bytes before that.
	write(b []byte, at int, h header, partial bool) error
	Close() error // frees a blocked read
}

// errNoSum: the packet has no checksum that could be completed.
var errNoSum = errors.New("the packet's checksum cannot be completed")

// pump moves packets between a port and a wire, until either ends.
type pump struct {
	port          port
	wire          *wire
	outward       func(header) bool // what may leave this machine by the wire
	inward        func(header) bool // what may enter it
	sent, arrived counters
	done          chan struct{} // closed when the port is
}

// Stats counts IP packets since the tunnel began.
type Stats struct {
	Sent     Traffic // to the VM
	Received Traffic // from the VM
}

// Traffic is what went one way.
type Traffic struct {
	Packets, Bytes uint64
	// Drops were refused: not of this tunnel's addresses, not whole, or not taken by the device. What the kernel dropped
	// because nobody took it stands in the device's own counters.
	Drops uint64
}

type counters struct{ packets, bytes, drops atomic.Uint64 }

func (c *counters) traffic() Traffic {
	return Traffic{c.packets.Load(), c.bytes.Load(), c.drops.Load()}
}

func (c *counters) count(n int) {
	c.packets.Add(1)
	c.bytes.Add(uint64(n))
}

// startPump lets packets flow. The port belongs to the pump, and the end of one is the end of wire and pump.
func startPump(w *wire, p port, outward, inward func(header) bool) *pump {
	m := &pump{port: p, wire: w, outward: outward, inward: inward, done: make(chan struct{})}
	w.pump.Store(m)
	pulled := make(chan struct{})
	go func() {
		defer close(pulled)
		if err := m.pull(); err != nil {
			w.end(fmt.Errorf("read packets: %w", err))
		}
	}()
	go func() {
		<-w.done
		p.Close()
		<-pulled
		close(m.done)
	}()
	return m
}

func (m *pump) pull() error {
	q := m.wire.packets
	var failed error
	idle := func() {
		if err := m.wire.soon(); err != nil {
			failed = err
		}
	}
	for {
		slot := q.slot(m.wire.done)
		if slot == nil {
			return nil
		}
		n, partial, err := m.port.read(slot, idle)
		if failed != nil {
			return failed
		}
		if err != nil {
			return err
		}
		p := slot[lengthLen:][:n]
		h, ok := parse(p)
		if !ok || !m.outward(h) {
			m.sent.drops.Add(1)
			continue
		}
		length := uint32(n)
		if partial {
			length |= unsummed
		}
		m.sent.count(n)
		if waiting := q.add(length, h.flow(p)); waiting >= prompt && !m.wire.full.Load() {
			poke(q.more)
		}
	}
}

// push hands a frame of packets, b[at:], to the port.
func (m *pump) push(b []byte, at int) {
	whole := packets(b, at, func(b []byte, at int, partial bool) {
		h, ok := parse(b[at:])
		if !ok || !m.inward(h) {
			m.arrived.drops.Add(1)
			return
		}
		switch err := m.port.write(b, at, h, partial); {
		case err == nil:
			m.arrived.count(len(b) - at)
		case !errors.Is(err, os.ErrClosed):
			m.arrived.drops.Add(1)
		}
	})
	if !whole {
		m.arrived.drops.Add(1)
	}
}

// toVM tells whether a packet may go from the host into the VM. Neither side trusts the other to have asked.
func (l Link) toVM(h header) bool {
	return slices.Contains(l.Host, h.src) && h.dst.IsGlobalUnicast() && !h.dst.Is4In6() && !slices.Contains(l.Host, h.dst)
}

// toHost tells whether a packet may come from the VM to the host.
func (l Link) toHost(h header) bool {
	return slices.Contains(l.Host, h.dst) && h.src.IsGlobalUnicast() && !h.src.Is4In6() && !slices.Contains(l.Host, h.src)
}
