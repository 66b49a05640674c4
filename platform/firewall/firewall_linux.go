package firewall

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"

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
// its chains anew repairs them. Each IP version stands for itself: where one cannot be opened nothing is changed for it, and
// the error says why: ErrForeign, or one without a name.
func Admit(a Admission) (State, error) {
	if err := a.check(); err != nil {
		return State{}, err
	}
	devs, failed := ways(a.Sources)
	bridges := addrsIn(a.of("ip6").Subnets)
	p, c, changed, err := settle(a.Tag, func(p picture) []rule { return p.plan(a, devs, bridges) })
	for _, f := range families {
		if _, ok := failed[f]; !ok && !forwards(f) {
			failed[f] = Closed{Err: fmt.Errorf("%s is 0: the VM forwards nothing", forwarding[f]),
				Hint: "in the VM: sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; the engine sets it when it starts"}
		}
	}
	s := p.state(a, c, failed)
	s.Changed, s.Addrs, s.Deaf = changed, addrsOn(devs), deaf(a.Subnets)
	if err != nil {
		if errors.Is(err, unix.EPERM) {
			s.Hint = "the pilot needs CAP_NET_ADMIN: look for what takes it away from containers, such as an authorization plugin, a runtime or a rootless engine"
		}
		return s, err
	}
	for _, closed := range s.Closed {
		err = errors.Join(err, closed.Err)
		s.Hint = cmp.Or(s.Hint, closed.Hint)
	}
	if _, translates := p.nat("ip", a.Tag); err == nil && s.Open && !translates {
		s.Hint = "the VM's kernel has no nf_tables: containers on several networks may not answer on each"
	}
	return s, err
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
// A family of which one source is left out has failed.
func ways(sources []netip.Addr) (devs map[netip.Addr]string, failed map[string]Closed) {
	devs, failed = make(map[netip.Addr]string), make(map[string]Closed)
	for _, s := range sources {
		dev, err := way(s)
		if err != nil {
			failed[familyOf(s)] = Closed{Err: fmt.Errorf("find the way to %v: %w", s, err)}
			continue
		}
		devs[s] = dev
	}
	return devs, failed
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

// addrsOn are this machine's addresses on interfaces, but for those that do not last: IPv6's temporary ones, and any that it
// is about to give up or not sure to have.
func addrsOn(devs map[netip.Addr]string) []netip.Addr {
	const passing = unix.IFA_F_TEMPORARY | unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	found := []netip.Addr{}
	for _, dev := range slices.Compact(slices.Sorted(maps.Values(devs))) {
		link, err := netlink.LinkByName(dev)
		if err != nil {
			continue // it has just gone
		}
		list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			continue
		}
		for _, a := range list {
			addr, ok := netip.AddrFromSlice(a.IP)
			addr = addr.Unmap()
			if ok && (addr.Is4() || a.Flags&passing == 0) { // IPv4 has the bit of IFA_F_TEMPORARY for second addresses
				found = append(found, addr)
			}
		}
	}
	slices.SortFunc(found, netip.Addr.Compare)
	return found
}

// addrsIn are this machine's addresses on the interfaces of IPv6 subnets, tentative ones too.
func addrsIn(subnets []netip.Prefix) map[netip.Prefix]netip.Addr {
	found := make(map[netip.Prefix]netip.Addr)
	if len(subnets) == 0 {
		return found
	}
	list, err := netlink.AddrList(nil, netlink.FAMILY_V6)
	if err != nil {
		return found
	}
	for _, a := range list {
		addr, ok := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		n := netip.PrefixFrom(addr, bits).Masked()
		const unfit = unix.IFA_F_TEMPORARY | unix.IFA_F_DEPRECATED | unix.IFA_F_DADFAILED
		if old := found[n]; ok && a.Flags&unfit == 0 && slices.Contains(subnets, n) && (!old.IsValid() || addr.Less(old)) {
			found[n] = addr
		}
	}
	return found
}

// deaf are those of the IPv4 subnets whose interface is told to forward nothing that comes in by it: Podman's internal ones.
func deaf(subnets []netip.Prefix) (closed []netip.Prefix) {
	for _, n := range subnets {
		if !n.Addr().Is4() {
			continue // for IPv6 the switch of one interface means something else
		}
		found, err := netlink.RouteGet(n.Addr().Next().Next().AsSlice()) // the one before is often this machine's own
		if err != nil || len(found) == 0 || found[0].Type == unix.RTN_LOCAL || found[0].Gw != nil {
			continue
		}
		dev, err := net.InterfaceByIndex(found[0].LinkIndex)
		if err != nil {
			continue
		}
		on, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + dev.Name + "/forwarding")
		if err == nil && bytes.Equal(bytes.TrimSpace(on), []byte("0")) {
			closed = append(closed, n)
		}
	}
	return closed
}

var forwarding = map[string]string{"ip": "/proc/sys/net/ipv4/ip_forward", "ip6": "/proc/sys/net/ipv6/conf/all/forwarding"}

// forwards tells whether this machine forwards a family's packets at all.
func forwards(family string) bool {
	on, err := os.ReadFile(forwarding[family])
	return err != nil || !bytes.Equal(bytes.TrimSpace(on), []byte("0"))
}
