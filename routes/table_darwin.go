package routes

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	xroute "golang.org/x/net/route"
	"golang.org/x/sys/unix"
)

// List returns the IPv4 and IPv6 rows of this host's table, in the kernel's order. Rows for single neighbours and for own
// addresses, broadcast and multicast are left out. The list is one consistent picture or an error.
func List() ([]Entry, error) {
	rib, err := xroute.FetchRIB(unix.AF_UNSPEC, xroute.RIBTypeRoute, 0)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	rows, err := decodeDump(rib)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	links, err := linkNames() // after the rows, so that every row that still lives finds its link
	if err != nil {
		return nil, err
	}
	var table []Entry
	for _, row := range rows {
		if e, ok := row.entry(links); ok {
			table = append(table, e)
		}
	}
	return table, nil
}

func add(r Route) error { return explain(r, insert(r)) }

// insert asks the kernel for the row and looks what became of it. RTM_ADD fails where any row of the same destination is.
func insert(r Route) error {
	r, ok := r.canonical()
	if !ok {
		return unix.EINVAL
	}
	link, err := findLink(r.Dev)
	if err != nil {
		return err
	}
	// What cannot be on this link the kernel puts on another, rather than to fail: it would leak to the LAN.
	if link.Flags&net.FlagUp == 0 {
		return unix.ENETDOWN
	}
	if r.Via.IsValid() {
		err = onLink(r.Via, link.Index)
	} else {
		err = hasFamily(link, r.Dst)
	}
	if err != nil {
		return err
	}
	if err := tell(rtMessage{Type: rtmAdd, Flags: rtfUp | rtfOurs, Link: link.Index, Dst: r.Dst, Gateway: r.Via}); err != nil {
		return err
	}
	table, err := List()
	if err != nil {
		return err
	}
	astray, err := made(r, table)
	if astray {
		err = errors.Join(err, tell(rtMessage{Type: rtmDelete, Link: link.Index, Dst: r.Dst}))
	}
	return err
}

// made looks for r, which the kernel has said to have taken, in the table; astray is a row of ours that came of it and is not r.
func made(r Route, table []Entry) (astray bool, err error) {
	// A row with our mark, gateway and destination is the one just made, whatever link it is on.
	i := slices.IndexFunc(table, func(e Entry) bool { return e.Marked && e.Dst == r.Dst && e.Via == r.Via })
	if i < 0 {
		return false, errors.New("the kernel took it and does not show it")
	}
	if is := table[i].Dev; is != r.Dev {
		return true, fmt.Errorf("the kernel put the row on link %q: %w", is, unix.ENETUNREACH)
	}
	return false, nil
}

// remove deletes r. RTM_DELETE takes the row of that destination whatever its gateway, so it is looked at first.
func remove(r Route) error {
	r, ok := r.canonical()
	if !ok {
		return explain(r, unix.EINVAL)
	}
	link, err := findLink(r.Dev)
	if errors.Is(err, unix.ENODEV) {
		return nil // rows go with their link
	}
	if err != nil {
		return err
	}
	table, err := List()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(table, func(e Entry) bool { return e.Marked && e.Route == r }) {
		return nil
	}
	if err := tell(rtMessage{Type: rtmDelete, Link: link.Index, Dst: r.Dst}); !errors.Is(err, unix.ESRCH) {
		return explain(r, err)
	}
	return nil
}

func findLink(name string) (net.Interface, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return net.Interface{}, fmt.Errorf("list links: %w", err)
	}
	i := slices.IndexFunc(ifs, func(i net.Interface) bool { return i.Name == name })
	if i < 0 {
		return net.Interface{}, unix.ENODEV
	}
	return ifs[i], nil
}

// onLink returns nil when packets for via leave by that link without another gateway.
func onLink(via netip.Addr, link int) error {
	way, err := lookUp(via, link)
	if errors.Is(err, unix.ESRCH) {
		return unix.ENETUNREACH
	}
	if err != nil {
		return err
	}
	if way.Link != link {
		by := fmt.Sprintf("link %d", way.Link)
		if i, err := net.InterfaceByIndex(way.Link); err == nil {
			by = i.Name
		}
		return fmt.Errorf("packets for it leave by %s: %w", by, unix.ENETUNREACH)
	}
	// A neighbour that did not answer lately has REJECT in its own row (LLINFO), and may well come back.
	dead := way.Flags&(rtfReject|rtfBlackhole) != 0 && way.Flags&rtfLLInfo == 0
	if dead || way.Flags&rtfGateway != 0 {
		return unix.ENETUNREACH
	}
	return nil
}

// hasFamily returns nil when the link has an address of dst's family.
func hasFamily(link net.Interface, dst netip.Prefix) error {
	addrs, err := link.Addrs()
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", link.Name, err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() == dst.Addr().Is4() {
			return nil
		}
	}
	return unix.ENETUNREACH
}

// routingSocket opens a route(4) socket.
func routingSocket() (*os.File, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.Socket(unix.AF_ROUTE, unix.SOCK_RAW, unix.AF_UNSPEC)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil { // so that Close ends a Read
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "routing socket"), nil
}

// tell makes the kernel do what m says. The write itself fails when the kernel does not.
func tell(m rtMessage) error {
	s, err := routingSocket()
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Write(m.encode())
	return err
}

var seq atomic.Int32

// lookUp asks by which row packets for addr leave; link is the zone of a link-local one.
func lookUp(addr netip.Addr, link int) (rtMessage, error) {
	s, err := routingSocket()
	if err != nil {
		return rtMessage{}, err
	}
	defer s.Close()
	m := rtMessage{Type: rtmGet, Seq: seq.Add(1), Link: link, Dst: netip.PrefixFrom(addr, addr.BitLen())}
	if _, err := s.Write(m.encode()); err != nil {
		return rtMessage{}, err
	}
	// The answer is there when the write returns, unless a flood of others' messages has pushed it out.
	if err := s.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return rtMessage{}, err
	}
	for b := make([]byte, 4096); ; {
		n, err := s.Read(b)
		if err != nil {
			return rtMessage{}, fmt.Errorf("ask the way to %v: %w", addr, err)
		}
		if n < 4 || b[3] != rtmGet {
			continue
		}
		if way, err := decode(b[:n]); err == nil && way.Pid == int32(os.Getpid()) && way.Seq == m.Seq {
			return way, nil
		}
	}
}

// explain says for people what the kernel means by err; errors.Is still finds the errno.
func explain(r Route, err error) error {
	switch {
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("somebody's row for this destination is there and stays: %w", err)
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
		if !r.Via.IsValid() {
			return fmt.Errorf("link %s has no address of that family: %w", r.Dev, err)
		}
		return fmt.Errorf("gateway %v is not on-link at %s: %w", r.Via, r.Dev, err)
	case errors.Is(err, unix.EADDRINUSE), errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("gateway %v is in the destination itself: %w", r.Via, err)
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("link %s is gone: %w", r.Dev, err)
	case errors.Is(err, unix.ENETDOWN):
		return fmt.Errorf("link %s is down: %w", r.Dev, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("changing routes needs root: %w", err)
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("the kernel has no room for it now; it is tried again with the next look: %w", err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("the kernel finds no sense in it: %w", err)
	}
	return err
}
