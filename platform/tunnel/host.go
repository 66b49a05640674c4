package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.zx2c4.com/wireguard/tun"
)

// Tunnel is a TUN device on this host whose packets go to the VM and come from there, over the stream of a lease. It needs
// the lease's admission too, or the VM's firewall drops them.
type Tunnel struct {
	lease *Lease
	pump  *pump
	dev   string
	addrs []netip.Addr
	lacks error
}

// Tunnel makes both ends of a link and lets packets flow: a device here with the addresses link.Host, one in the VM with
// link.Pilot, each with a way to the other's. Routes beyond these are the caller's. A lease has one tunnel in its life, and
// ends with it; after an error it has had it. The error is errors.ErrUnsupported where this host's OS has no tunnel yet.
func (l *Lease) Tunnel(ctx context.Context, link Link) (*Tunnel, error) {
	return l.tunnel(ctx, link, openHost, configureHost)
}

func (l *Lease) tunnel(ctx context.Context, link Link, open func(mtu int) (*hostEnd, error), configure func(dev string, link Link) ([]netip.Addr, error)) (_ *Tunnel, err error) {
	if link.MTU == 0 {
		link.MTU = maxPacket
	}
	if err := link.check(); err != nil {
		return nil, fmt.Errorf("make a tunnel: %w", err)
	}
	end, err := open(link.MTU)
	if err != nil {
		return nil, fmt.Errorf("make a tun device: %w", err)
	}
	defer func() {
		if err != nil {
			end.port.Close()
		}
	}()
	link.MTU = min(end.mtu, maxPacket)
	link.Partial = end.partial != nil
	got, err := l.ask(ctx, request{Link: &link})
	if err != nil {
		return nil, fmt.Errorf("ask the pilot: %w", err)
	}
	there := got.Linked
	if there == nil {
		return nil, errors.New("the pilot answered something else")
	}
	if there.Error != "" {
		err := fmt.Errorf("the pilot made no link: %s", there.Error)
		if there.Hint != "" {
			err = fmt.Errorf("%w; hint: %s", err, there.Hint)
		}
		return nil, err
	}
	if end.partial != nil {
		*end.partial = there.Partial
	}
	t := &Tunnel{lease: l, dev: end.name}
	if there.Lacks != "" {
		t.lacks = fmt.Errorf("in the VM: %s", there.Lacks)
	}
	link.MTU = min(link.MTU, max(there.MTU, minMTU))
	link = link.only(there.Addrs)
	var lacks error
	if t.addrs, lacks = configure(end.name, link); len(t.addrs) == 0 {
		return nil, fmt.Errorf("configure %s: %w", end.name, errors.Join(lacks, t.lacks))
	}
	t.lacks = errors.Join(t.lacks, lacks)
	link = link.only(t.addrs)
	t.pump = startPump(l.wire, end.port, link.toVM, link.toHost)
	return t, nil
}

// only gives the link with those pairs of which addrs has one.
func (l Link) only(addrs []netip.Addr) Link {
	only := Link{Tag: l.Tag, MTU: l.MTU, Inject: l.Inject}
	for i, a := range l.Host {
		if slices.Contains(addrs, a) || slices.Contains(addrs, l.Pilot[i]) {
			only.Host = append(only.Host, a)
			only.Pilot = append(only.Pilot, l.Pilot[i])
		}
	}
	return only
}

// Dev is the name of the device on this host, for routes.
func (t *Tunnel) Dev() string { return t.dev }

// Addrs are the addresses of this host in the tunnel: those of Link.Host whose family works on both sides.
func (t *Tunnel) Addrs() []netip.Addr { return slices.Clone(t.addrs) }

// Lacks says why Addrs are not all of Link.Host; nil when they are.
func (t *Tunnel) Lacks() error { return t.lacks }

// Stats counts the packets so far.
func (t *Tunnel) Stats() Stats { return Stats{t.pump.sent.traffic(), t.pump.arrived.traffic()} }

// Done is closed when the tunnel has ended and its device, with its routes, is gone from this host.
func (t *Tunnel) Done() <-chan struct{} { return t.pump.done }

// Err says why the tunnel ended, as Lease.Err.
func (t *Tunnel) Err() error { return t.lease.Err() }

// Close ends the tunnel and its lease, and returns when the device is gone.
func (t *Tunnel) Close() {
	t.lease.Close()
	<-t.Done()
}

// hostEnd is this host's end of a link.
type hostEnd struct {
	port    port
	name    string
	mtu     int
	partial *bool // says whether the other side takes unsummed packets; nil where this side gives none and takes none
}

// openDevice makes the end of a tun.Device, one packet at a time.
func openDevice(dev tun.Device) (*hostEnd, error) {
	name, err := dev.Name()
	if err != nil {
		dev.Close()
		return nil, fmt.Errorf("name the tun device: %w", err)
	}
	mtu, err := dev.MTU()
	if err != nil {
		dev.Close()
		return nil, fmt.Errorf("read the mtu of %s: %w", name, err)
	}
	return &hostEnd{port: &devicePort{dev: dev}, name: name, mtu: mtu}, nil
}

type devicePort struct {
	dev     tun.Device
	in, out [1][]byte
	size    [1]int
}

func (p *devicePort) read(b []byte, idle func()) (int, bool, error) {
	p.in[0] = b
	for {
		idle() // whether there is another packet shows only by reading it
		n, err := p.dev.Read(p.in[:], p.size[:], lengthLen)
		if n > 0 || err != nil {
			return p.size[0], false, err
		}
	}
}

func (p *devicePort) write(b []byte, at int, _ header, partial bool) error {
	if partial {
		return errNoSum
	}
	p.out[0] = b
	_, err := p.dev.Write(p.out[:], at)
	return err
}

func (p *devicePort) Close() error { return p.dev.Close() }
