package firewall

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tries is how often a change is attempted: the engine changes its rules at the same time, and what is to be removed may go
// by itself.
const tries = 3

// Detect tells by which firewall generation the engine of this machine closes its containers.
func Detect() (Backend, error) {
	p, err := look("")
	return p.backend(), err
}

// Admit makes a true and returns what the kernel holds then. Doing it again changes nothing; doing it after the engine made
// its chains anew repairs them. Where it cannot open it changes nothing, and the error says why: ErrForeign, or one without
// a name.
func Admit(a Admission) (State, error) {
	if err := a.check(); err != nil {
		return State{}, err
	}
	devs, astray := ways(a.Sources)
	p, c, changed, err := settle(a.Tag, func(p picture) []rule { return p.plan(a, devs) })
	s := p.state(a, c)
	s.Changed = changed
	if err != nil {
		return s, err
	}
	if closed := p.strangers(a); closed != nil {
		s.Hint = "let fairlead go around the VM's firewall: --gateway tunnel; or, in the VM, end the firewall that made these chains"
		return s, fmt.Errorf("%w: %v", ErrForeign, closed)
	}
	if astray != nil {
		s.Open = false
		return s, astray
	}
	if err := forwards(a); err != nil {
		s.Open = false
		s.Hint = "in the VM: sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; the engine sets it when it starts"
		return s, err
	}
	if _, translates := p.nat("ip", a.Tag); s.Open && !translates {
		s.Hint = "the VM's kernel has no nf_tables: containers on several networks may not answer on each"
	}
	return s, nil
}

// Release removes every rule under tag, and its table. That there is none is success.
func Release(tag string) error {
	if err := checkTag(tag); err != nil {
		return err
	}
	_, _, _, err := settle(tag, func(picture) []rule { return nil })
	return err
}

// settle changes the kernel's rules under tag until they are what plan wants of the picture, and returns the last picture
// and what it still lacks.
func settle(tag string, plan func(picture) []rule) (p picture, c change, changed bool, err error) {
	var failed error
	for try := 0; ; try++ {
		if p, err = look(tag); err != nil {
			return p, c, changed, err
		}
		if c = p.diff(plan(p), tag); c.empty() {
			return p, c, changed, nil
		}
		if try == tries {
			if failed == nil {
				failed = errors.New("somebody changes them back")
			}
			return p, c, changed, fmt.Errorf("settle the rules: %w", failed)
		}
		failed = p.apply(c, tag)
		changed = true
	}
}

// ways asks the route table by which interface this machine would reach each source: theirs is where the packets come in.
// The error is about those that it leaves out.
func ways(sources []netip.Addr) (map[netip.Addr]string, error) {
	devs := make(map[netip.Addr]string)
	var astray error
	for _, s := range sources {
		dev, err := way(s)
		if err != nil {
			astray = fmt.Errorf("find the way to %v: %w", s, err)
			continue
		}
		devs[s] = dev
	}
	return devs, astray
}

func way(to netip.Addr) (string, error) {
	found, err := netlink.RouteGet(to.AsSlice())
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", errors.New("no route")
	case found[0].Type == unix.RTN_LOCAL:
		return "", errors.New("it is an address of this machine itself")
	}
	dev, err := net.InterfaceByIndex(found[0].LinkIndex)
	if err != nil {
		return "", err
	}
	return dev.Name, nil
}

// forwards tells whether this machine forwards packets at all.
func forwards(a Admission) error {
	for _, s := range a.Sources {
		file := "/proc/sys/net/ipv4/ip_forward"
		if s.Is6() {
			file = "/proc/sys/net/ipv6/conf/all/forwarding"
		}
		if on, err := os.ReadFile(file); err == nil && bytes.Equal(bytes.TrimSpace(on), []byte("0")) {
			return fmt.Errorf("%s is 0: the VM forwards nothing", file)
		}
	}
	return nil
}
