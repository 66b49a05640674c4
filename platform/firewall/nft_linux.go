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
		// The library indexes into what the kernel says without asking for its length.
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
		if at.legacy {
			continue
		}
		i := slices.IndexFunc(chains, func(c *nftables.Chain) bool {
			return c.Table != nil && c.Table.Family == tableFamily[at.family] && c.Table.Name == at.table && c.Name == at.chain
		})
		if i < 0 {
			continue
		}
		if p.chains[at], err = readChain(conn, at, chains[i]); err != nil {
			return p, err
		}
	}
	for _, c := range chains {
		at, isOther := otherForward(c)
		if !isOther {
			continue
		}
		// One that cannot be read is taken by its policy.
		if read, _ := readChain(conn, at, c); read.closes() {
			p.others = append(p.others, at)
		}
	}
	for _, f := range families {
		tables, err := lookLegacy(f)
		if err != nil {
			return p, fmt.Errorf("read iptables-legacy: %w", err)
		}
		p.see(tables, tag)
	}
	p.oneNAT = oneNAT()
	return p, nil
}

func readChain(conn *nftables.Conn, at place, nft *nftables.Chain) (c chain, err error) {
	defer func() {
		// The library indexes into other people's rules without asking for their length.
		if r := recover(); r != nil {
			err = fmt.Errorf("read rules of %v: %v", at, r)
		}
	}()
	c.drops = nft.Policy != nil && *nft.Policy == nftables.ChainPolicyDrop
	rules, err := conn.GetRules(nft.Table, nft)
	if err != nil {
		return c, fmt.Errorf("list rules of %v: %w", at, err)
	}
	for _, r := range rules {
		l := decode(at, r.Exprs)
		l.handle = r.Handle
		if s := parseComment(r.UserData); s != "" {
			l.comment = s
		}
		c.lines = append(c.lines, l)
	}
	return c, nil
}

// otherForward tells whether a chain can close forwarding and is of neither the engine's nor iptables' making.
func otherForward(c *nftables.Chain) (at place, ok bool) {
	if c.Table == nil || c.Type != nftables.ChainTypeFilter || c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward {
		return at, false
	}
	at = place{table: c.Table.Name, chain: c.Name}
	switch c.Table.Family {
	case nftables.TableFamilyIPv4:
		at.family = "ip"
	case nftables.TableFamilyIPv6:
		at.family = "ip6"
	case nftables.TableFamilyINet:
		at.family = "inet"
	default:
		return at, false
	}
	known := at.family != "inet" && (at.table == dockerTable || at.table == "filter" && at.chain == "FORWARD")
	return at, !known
}

// apply makes the change.
func (p picture) apply(c change, tag string) error {
	rewrites, err := p.rewrites(c, tag)
	if err != nil {
		return err
	}
	for _, r := range rewrites {
		if err := applyLegacy(r.was, r.next); err != nil {
			return err
		}
	}
	c.remove = slices.DeleteFunc(slices.Clone(c.remove), func(s spot) bool { return s.at.legacy })
	c.add = slices.DeleteFunc(slices.Clone(c.add), func(r rule) bool { return r.at.legacy })
	if c.empty() {
		return nil
	}
	return applyNFT(c, tag)
}

// applyNFT makes a change of nf_tables, first what opens and closes, then what masquerades: a kernel without NAT for a family
// still opens.
func applyNFT(c change, tag string) error {
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
	switch {
	case r.as.IsValid():
		return append(e, &expr.Immediate{Register: register, Data: r.as.AsSlice()}, sourceNAT(r.at.family))
	case r.masquerade:
		return append(e, &expr.Masq{})
	default:
		return append(e, &expr.Verdict{Kind: expr.VerdictAccept})
	}
}

func sourceNAT(family string) *expr.NAT {
	return &expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(tableFamily[family]), RegAddrMin: register, RegAddrMax: register}
}

// decode reads a rule at a place back. Its line has a rule only if encode would have written the like; iptables-restore
// rewrites ours with the comment as a match.
func decode(at place, exprs []expr.Any) (l line) {
	r := rule{at: at}
	where := addressIn[at.family]
	ours := true    // so far
	all := true     // it asks for nothing, so far
	done := false   // the last word has been said
	notBy := false  // it asks for another interface than one
	var dev *string // what the register holds: an interface name
	var net *netip.Prefix
	bits := 0
	for _, e := range exprs {
		ours = ours && !done
		switch e.(type) {
		case *expr.Counter, *expr.Log, *expr.Verdict, *expr.Reject, *expr.Match, *expr.Target:
		default:
			all = false
		}
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
				ours, all = false, false
			}
		case *expr.Counter:
		case *expr.Verdict:
			done = true
			ours = ours && e.Kind == expr.VerdictAccept
			l.guard = notBy && e.Kind == expr.VerdictDrop
			l.bars = all && e.Kind == expr.VerdictDrop
		case *expr.Reject:
			ours, l.bars = false, all
		case *expr.Target:
			ours, l.bars = false, all && e.Name == rejectTarget
		case *expr.Masq:
			done = true
			r.masquerade = true
			ours = ours && !r.as.IsValid() && *e == expr.Masq{}
		case *expr.Immediate:
			dev, net = nil, nil
			addr, isAddr := netip.AddrFromSlice(e.Data)
			r.as, ours = addr, ours && isAddr
		case *expr.NAT:
			done = true
			r.masquerade = true
			ours = ours && r.as.IsValid() && *e == *sourceNAT(at.family)
		default:
			ours = false
		}
	}
	if ours && done {
		l.rule = r
	}
	return l
}
