package routes

import (
	"slices"

	xroute "golang.org/x/net/route"
	"golang.org/x/sys/unix"
)

// exact is the message that makes e again, as route(8) sends it: its destination, gateway and flags.
func exact(e Entry) ([]byte, error) {
	rib, err := xroute.FetchRIB(unix.AF_UNSPEC, xroute.RIBTypeRoute, 0)
	if err != nil {
		return nil, err
	}
	rows, err := decodeDump(rib)
	if err != nil {
		return nil, err
	}
	links, err := linkNames()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(rows, func(m rtMessage) bool { got, ok := m.entry(links); return ok && got == e })
	if i < 0 {
		return nil, unix.ESRCH
	}
	m := rows[i]
	m.Type, m.Pid, m.Seq, m.Errno = rtmAdd, 0, 0, 0
	m.Flags &= rtfUp | rtfGateway | rtfHost | rtfStatic // the others are the kernel's
	return m.encode(), nil
}

// takeOut deletes the row of that destination; TakeOut has just seen that it is this one.
func (s Saved) takeOut() error {
	return explain(s.Route, tell(rtMessage{Type: rtmDelete, Dst: s.Dst}))
}

func (s Saved) putBack() error {
	m, err := decode(s.Exact)
	if err != nil || m.Type != rtmAdd || m.Dst != s.Dst || m.Gateway != s.Via {
		return explain(s.Route, unix.EINVAL)
	}
	link, err := findLink(s.Dev)
	if err == nil {
		err = onLink(s.Via, link.Index)
	}
	if err == nil {
		m.Link = link.Index // of a link-local gateway
		err = tell(m)
	}
	return explain(s.Route, err)
}
