package routes

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Saved is a row of somebody else's, exactly as it was: it can be taken out of the table, and put back.
type Saved struct {
	Entry
	Lasting []string `json:"lasting,omitempty"` // Windows: the names of the persistent rows that make it anew at each start
	Exact   []byte   `json:"exact"`             // the row in the OS's own words
}

// ByHand tells whether a person or a script made the row with `route add` or the like, as far as the OS tells. The kernel's
// own rows are not, nor those of DHCP, of routing daemons and of VPNs that say whose they are.
func (e Entry) ByHand() bool {
	return !e.Marked && e.Via.IsValid() && e.Dev != "" && slices.Contains([]string{"boot", "static", "netmgmt"}, e.Owner)
}

// Save looks at a row that was made by hand, and at all that the OS knows of it. The table is not changed.
func Save(r Route) (Saved, error) {
	table, err := List()
	if err != nil {
		return Saved{}, err
	}
	i := slices.IndexFunc(table, func(e Entry) bool { return e.Route == r && e.ByHand() })
	if i < 0 {
		return Saved{}, fmt.Errorf("save route %v: nobody made it by hand, or it is gone: %w", r, fs.ErrNotExist)
	}
	s := Saved{Entry: table[i]}
	if s.Exact, err = exact(s.Entry); err != nil {
		return Saved{}, fmt.Errorf("save route %v: %w", r, err)
	}
	for _, p := range PersistentRows() {
		if p.Dst == r.Dst && p.Via == r.Via {
			s.Lasting = append(s.Lasting, p.Name)
		}
	}
	return s, nil
}

// TakeOut deletes the row, if it is there exactly as it was saved.
func (s Saved) TakeOut() error {
	now, err := Save(s.Route)
	switch {
	case err != nil:
	case now.Entry != s.Entry || !slices.Equal(now.Exact, s.Exact) || !slices.Equal(now.Lasting, s.Lasting):
		err = errors.New("somebody changed it meanwhile: it stays")
	default:
		if err = s.takeOut(); err == nil {
			err = forgetPersistent(s.Lasting)
		}
	}
	if err != nil {
		return fmt.Errorf("take out route %v: %w", s.Route, err)
	}
	return nil
}

// PutBack makes the row again, if nothing else is there for its destination: else errors.Is fs.ErrExist. A row whose link is
// gone has gone with that: it is not put back, which is no error.
func (s Saved) PutBack() (back bool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("put back route %v: %w", s.Route, err)
		}
	}()
	if err := restorePersistent(s.Lasting); err != nil {
		return false, err
	}
	table, err := List()
	if err != nil {
		return false, err
	}
	for _, e := range table {
		switch {
		case e.Route == s.Route && !e.Marked:
			return true, nil
		case e.Dst == s.Dst:
			return false, fmt.Errorf("%v (made by %s) is there: %w", e.Route, e.Owner, fs.ErrExist)
		}
	}
	if link, err := net.InterfaceByName(s.Dev); err != nil || link.Flags&net.FlagUp == 0 {
		return len(s.Lasting) > 0, nil
	}
	if err := s.putBack(); err != nil {
		return false, err
	}
	if table, err = List(); err != nil {
		return false, err
	}
	if !slices.ContainsFunc(table, func(e Entry) bool { return e.Route == s.Route && !e.Marked }) {
		return false, errors.New("the OS took it and does not show it")
	}
	return true, nil
}

// Persistent is a row that Windows makes at each start, as `route -p add` wrote it down.
type Persistent struct {
	Name string // "172.17.0.0,255.255.0.0,192.168.18.2,1"
	Dst  netip.Prefix
	Via  netip.Addr
}

// parsePersistent reads the name of a persistent row: "dst,mask,gateway,metric".
func parsePersistent(name string) (p Persistent, ok bool) {
	w := strings.Split(name, ",")
	if len(w) != 4 {
		return p, false
	}
	dst, err := netip.ParseAddr(w[0])
	if err != nil || !dst.Is4() {
		return p, false
	}
	m, err := netip.ParseAddr(w[1])
	if err != nil || !m.Is4() {
		return p, false
	}
	bits := 0
	for b := m.AsSlice(); bits < 32 && b[bits/8]&(0x80>>(bits%8)) != 0; {
		bits++
	}
	p = Persistent{Name: name, Dst: netip.PrefixFrom(dst, bits)}
	if mask(p.Dst) != m || p.Dst.Masked() != p.Dst {
		return p, false
	}
	if p.Via, err = netip.ParseAddr(w[2]); err != nil || !p.Via.Is4() {
		return p, false
	}
	_, err = strconv.ParseUint(w[3], 10, 32)
	return p, err == nil
}
