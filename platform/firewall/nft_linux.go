package firewall

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

var tableFamily = map[string]nftables.TableFamily{"ip": nftables.TableFamilyIPv4, "ip6": nftables.TableFamilyIPv6}

func (at place) nft() (*nftables.Table, *nftables.Chain) {
	t := &nftables.Table{Family: tableFamily[at.family], Name: at.table}
	return t, &nftables.Chain{Table: t, Name: at.chain}
}

// look takes the picture of this kernel's rules, in this thread's network namespace. With an error it is the zero picture.
func look(tag string) (p picture, err error) {
	defer func() {
		// The library indexes into other people's rules without asking for their length.
		if r := recover(); r != nil {
			err = fmt.Errorf("read the rules: %v", r)
		}
		if err != nil {
			p = picture{}
		}
	}()
	p.chains = make(map[place]chain)
	conn, err := nftables.New()
	if err != nil {
		return p, fmt.Errorf("open nf_tables: %w", err)
	}
	chains, err := conn.ListChains()
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		p.noNFT = true // no nfnetlink, or no nf_tables behind it
	case err != nil:
		return p, fmt.Errorf("list chains: %w", err)
	}
	tables, err := conn.ListTables()
	if err != nil && !p.noNFT {
		return p, fmt.Errorf("list tables: %w", err)
	}
	for _, f := range families {
		if slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Family == tableFamily[f] && t.Name == ownTable(tag) }) {
			p.own = append(p.own, f)
		}
	}
	for _, at := range places(tag) {
		i := slices.IndexFunc(chains, func(c *nftables.Chain) bool {
			return c.Table != nil && c.Table.Family == tableFamily[at.family] && c.Table.Name == at.table && c.Name == at.chain
		})
		if i < 0 {
			continue
		}
		rules, err := conn.GetRules(at.nft())
		if err != nil {
			return p, fmt.Errorf("list rules of %s %s %s: %w", at.family, at.table, at.chain, err)
		}
		c := chain{drops: chains[i].Policy != nil && *chains[i].Policy == nftables.ChainPolicyDrop}
		for _, r := range rules {
			l := decode(at, r.Exprs)
			l.handle = r.Handle
			if s := parseComment(r.UserData); s != "" {
				l.comment = s
			}
			c.lines = append(c.lines, l)
		}
		p.chains[at] = c
	}
	if p.legacy, err = legacyCloses(); err != nil {
		return p, fmt.Errorf("read iptables-legacy: %w", err)
	}
	return p, nil
}

// apply makes the change, first what opens and closes, then what masquerades: a kernel without NAT for a family still opens.
func apply(c change, tag string) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nf_tables: %w", err)
	}
	// Requests are echoed, and the echoes of a large batch overflow the socket's receive buffer.
	const batch = 64
	pending := 0
	step := func() error {
		if pending++; pending < batch {
			return nil
		}
		pending = 0
		return conn.Flush()
	}
	for _, s := range c.remove {
		t, ch := s.at.nft()
		if err := conn.DelRule(&nftables.Rule{Table: t, Chain: ch, Handle: s.handle}); err != nil {
			return fmt.Errorf("remove rule: %w", err)
		}
		if err := step(); err != nil {
			return fmt.Errorf("remove rules: %w", err)
		}
	}
	for _, f := range c.drop {
		conn.DelTable(&nftables.Table{Family: tableFamily[f], Name: ownTable(tag)})
	}
	made := make(map[string]bool)
	for _, masquerade := range []bool{false, true} {
		for _, r := range slices.Backward(c.add) { // each goes to the head
			if r.masquerade != masquerade {
				continue
			}
			t, ch := r.at.nft()
			if masquerade && !made[r.at.family] {
				made[r.at.family] = true
				// One before docker's own source NAT, whose masquerade then has nothing left to do.
				ch.Type, ch.Hooknum, ch.Priority = nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityRef(99)
				conn.AddTable(t)
				conn.AddChain(ch)
			}
			conn.InsertRule(&nftables.Rule{Table: t, Chain: ch, Exprs: encode(r), UserData: formatComment(comment(tag))})
			if err := step(); err != nil {
				return fmt.Errorf("add rules: %w", err)
			}
		}
		pending = 0
		if err := conn.Flush(); err != nil {
			return fmt.Errorf("change rules: %w", err)
		}
	}
	return nil
}

// Offsets of the addresses in the network header, and their length.
var addressIn = map[string]struct{ from, to, size uint32 }{"ip": {12, 16, 4}, "ip6": {8, 24, 16}}

const register = 1

// encode writes a rule in the expressions that iptables-nft uses for the same.
func encode(r rule) (e []expr.Any) {
	for _, dev := range []struct {
		key  expr.MetaKey
		name string
	}{{expr.MetaKeyIIFNAME, r.in}, {expr.MetaKeyOIFNAME, r.out}} {
		if dev.name != "" {
			e = append(e,
				&expr.Meta{Key: dev.key, Register: register},
				&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte(dev.name + "\x00")})
		}
	}
	where := addressIn[r.at.family]
	for _, net := range []struct {
		offset uint32
		prefix netip.Prefix
	}{{where.from, r.from}, {where.to, r.to}} {
		if !net.prefix.IsValid() {
			continue
		}
		e = append(e, &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: net.offset, Len: where.size})
		if !net.prefix.IsSingleIP() {
			e = append(e, &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: where.size,
				Mask: mask(net.prefix.Bits(), where.size), Xor: make([]byte, where.size)})
		}
		e = append(e, &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: net.prefix.Masked().Addr().AsSlice()})
	}
	e = append(e, &expr.Counter{})
	if r.masquerade {
		return append(e, &expr.Masq{})
	}
	return append(e, &expr.Verdict{Kind: expr.VerdictAccept})
}

func mask(bits int, size uint32) []byte {
	m := make([]byte, size)
	for i := range bits {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

// decode reads a rule at a place back. Its line has a rule only if encode would have written the like; iptables-restore
// rewrites ours with the comment as a match.
func decode(at place, exprs []expr.Any) (l line) {
	r := rule{at: at}
	where := addressIn[at.family]
	ours := true    // so far
	done := false   // the last word has been said
	notBy := false  // it asks for another interface than one
	var dev *string // what the register holds: an interface name
	var net *netip.Prefix
	bits := 0
	for _, e := range exprs {
		ours = ours && !done
		switch e := e.(type) {
		case *expr.Meta:
			dev, net = nil, nil
			switch {
			case e.SourceRegister:
			case e.Key == expr.MetaKeyIIFNAME:
				dev = &r.in
			case e.Key == expr.MetaKeyOIFNAME:
				dev = &r.out
			}
		case *expr.Payload:
			dev, net, bits = nil, nil, int(where.size)*8
			switch {
			case e.OperationType != expr.PayloadLoad || e.Base != expr.PayloadBaseNetworkHeader || e.Len != where.size:
			case e.Offset == where.from:
				net = &r.from
			case e.Offset == where.to:
				net = &r.to
			}
		case *expr.Bitwise:
			bits = ones(e.Mask)
			if net == nil || bits < 0 || len(e.Mask) != int(where.size) || len(bytes.Trim(e.Xor, "\x00")) != 0 {
				ours = false
			}
		case *expr.Cmp:
			addr, isAddr := netip.AddrFromSlice(e.Data)
			switch {
			case dev == &r.in && e.Op == expr.CmpOpNeq:
				notBy, ours = true, false
			case e.Op != expr.CmpOpEq:
				ours = false
			case dev != nil:
				*dev = strings.TrimRight(string(e.Data), "\x00")
			case net != nil && isAddr && bits >= 0:
				*net = netip.PrefixFrom(addr, bits)
			default:
				ours = false
			}
		case *expr.Match:
			if c, ok := e.Info.(*xt.Comment); ok {
				l.comment = string(*c)
			} else {
				ours = false
			}
		case *expr.Counter:
		case *expr.Verdict:
			done = true
			ours = ours && e.Kind == expr.VerdictAccept
			l.guard = notBy && e.Kind == expr.VerdictDrop
		case *expr.Masq:
			done = true
			r.masquerade = true
			ours = ours && *e == expr.Masq{}
		default:
			ours = false
		}
	}
	if ours && done {
		l.rule = r
	}
	return l
}

// ones counts the leading one bits of a mask; it is -1 when others follow.
func ones(m []byte) int {
	n := 0
	for n < len(m)*8 && m[n/8]&(0x80>>(n%8)) != 0 {
		n++
	}
	if !bytes.Equal(m, mask(n, uint32(len(m)))) {
		return -1
	}
	return n
}
