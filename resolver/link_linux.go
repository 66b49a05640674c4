package resolver

import (
	"bytes"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Our link carries no packets. It exists because resolved keeps servers and domains per link, only uses links that are up
// with an address, and forgets them with the link.
const (
	linkAlias = "fairlead"
	peerName  = linkName + "-peer" // the other end, where the link had to be a veth
)

// linkMAC marks the link from the moment it exists, which the alias cannot: it is set by a second call, and a kill may fall
// between. Locally administered, then "flead".
var linkMAC = net.HardwareAddr{0x02, 'f', 'l', 'e', 'a', 'd'}

// linkAddr is the IPv4 dummy address (RFC 7600): never a destination and in nobody's subnet, so it clashes with nothing.
// Its scope is site: below link, as resolved wants it, yet the kernel does not pick it as the source of other links' packets.
var linkAddr = netlink.Addr{
	IPNet: &net.IPNet{IP: net.IPv4(192, 0, 0, 8).To4(), Mask: net.CIDRMask(32, 32)},
	Scope: unix.RT_SCOPE_SITE,
}

type link struct {
	index   int
	foreign string // why it is not ours, and what to do; "" = ours
}

// findLink returns nil when there is no link of our name.
func findLink() (*link, error) {
	l, err := netlink.LinkByName(linkName)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", linkName, err)
	}
	attrs := l.Attrs()
	found := &link{index: attrs.Index}
	if attrs.Alias != linkAlias && (attrs.Alias != "" || !bytes.Equal(attrs.HardwareAddr, linkMAC)) {
		found.foreign = fmt.Sprintf("a %s link %s exists and fairlead did not make it (its alias is %q); rename it: ip link set %s down name OTHER",
			l.Type(), linkName, attrs.Alias, linkName)
	}
	return found, nil
}

// makeLink makes our link, or finishes one that is there, and returns its index.
func makeLink() (int, error) {
	found, err := findLink()
	if err != nil {
		return 0, err
	}
	if found == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = linkName, linkMAC
		err := netlink.LinkAdd(&netlink.Dummy{LinkAttrs: attrs})
		if errors.Is(err, unix.EOPNOTSUPP) { // a kernel without dummy links; a veth pair with both ends up does the same
			err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peerName})
		}
		if err != nil {
			return 0, fmt.Errorf("add link %s: %w", linkName, err)
		}
	} else if found.foreign != "" {
		return 0, errors.New(found.foreign)
	}
	l, err := netlink.LinkByName(linkName)
	if err != nil {
		return 0, fmt.Errorf("find link %s: %w", linkName, err)
	}
	if err := netlink.LinkSetAlias(l, linkAlias); err != nil {
		return 0, fmt.Errorf("set alias of link %s: %w", linkName, err)
	}
	addr := linkAddr
	if err := netlink.AddrAdd(l, &addr); err != nil && !errors.Is(err, unix.EEXIST) {
		return 0, fmt.Errorf("add address %v to link %s: %w", linkAddr.IPNet, linkName, err)
	}
	ends := []netlink.Link{l}
	if l.Type() == "veth" {
		peer, err := netlink.LinkByName(peerName)
		if err != nil {
			return 0, fmt.Errorf("find link %s: %w", peerName, err)
		}
		if peer.Attrs().ParentIndex != l.Attrs().Index {
			return 0, fmt.Errorf("link %s is not the other end of %s; rename it: ip link set %s down name OTHER", peerName, linkName, peerName)
		}
		ends = append(ends, peer)
	}
	for _, end := range ends {
		const addrGenModeNone = 1                               // IN6_ADDR_GEN_MODE_NONE: no fe80:: address, no router solicitations
		_ = netlink.LinkSetIP6AddrGenMode(end, addrGenModeNone) // fails where IPv6 is off, and is not needed there
		if err := netlink.LinkSetUp(end); err != nil {
			return 0, fmt.Errorf("set link %s up: %w", end.Attrs().Name, err)
		}
	}
	return l.Attrs().Index, nil
}

// removeLink deletes our link; a foreign or absent one is left.
func removeLink() error {
	found, err := findLink()
	if err != nil || found == nil || found.foreign != "" {
		return err
	}
	l, err := netlink.LinkByIndex(found.index)
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) && !errors.As(err, &netlink.LinkNotFoundError{}) {
		return fmt.Errorf("delete link %s: %w", linkName, err)
	}
	return nil
}
