package dnsserver

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/miekg/dns"
)

// ednsSize is the largest UDP message that we send or ask for, in bytes: it crosses any path unfragmented (DNS flag day 2020).
const ednsSize = 1232

// slow answers any message that is long enough to be one, nil when there is to be no reply. The result may use the space of buf.
func (z *Zone) slow(msg, buf []byte, udp bool) []byte {
	var req dns.Msg
	questions := binary.BigEndian.Uint16(msg[4:]) // Unpack takes as many as there are, whatever the header says
	var q query
	q.parse(msg, udp) // Unpack also takes a question without type and class, and a name that points into the header
	if err := req.Unpack(msg); err != nil || questions != 1 || q.size == 0 {
		req.Question, req.Extra = nil, nil // the header is whole, so answer still tells what is wrong
	}
	reply := z.answer(&req, udp)
	if reply == nil {
		return nil
	}
	out, err := reply.PackBuffer(buf)
	if err != nil {
		return nil
	}
	return out
}

// answer gives the reply to one request, nil when there is to be none. It touches nothing but the zone.
func (z *Zone) answer(req *dns.Msg, udp bool) *dns.Msg {
	if req.Response {
		return nil
	}
	m := &dns.Msg{MsgHdr: dns.MsgHdr{
		Id:               req.Id,
		Response:         true,
		Opcode:           req.Opcode,
		RecursionDesired: req.RecursionDesired,
	}}
	if req.Opcode != dns.OpcodeQuery {
		m.Rcode = dns.RcodeNotImplemented
		return m
	}
	opt, ok := edns(req)
	if !ok || len(req.Question) != 1 {
		m.Rcode = dns.RcodeFormatError // also RFC 9619 and RFC 6891, 6.1.1
		return m
	}
	m.Question = req.Question

	size := dns.MaxMsgSize
	if udp {
		size = dns.MinMsgSize
	}
	if opt != nil {
		own := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		own.SetUDPSize(ednsSize)
		own.SetDo(opt.Do()) // RFC 3225, 3
		m.Extra = []dns.RR{own}
		if udp {
			size = replyLimit(opt.UDPSize())
		}
	}
	if opt != nil && opt.Version() != 0 {
		m.Rcode = dns.RcodeBadVers
	} else {
		z.resolve(m, req.Question[0], size)
	}
	m.Truncate(size)
	return m
}

// replyLimit is how large a UDP reply may be for a client that says how much it takes.
func replyLimit(says uint16) int {
	return min(max(int(says), dns.MinMsgSize), ednsSize)
}

// edns finds the request's OPT record; false means that the request has two, or one that is not the root's.
func edns(req *dns.Msg) (opt *dns.OPT, ok bool) {
	for _, rr := range req.Extra {
		o, is := rr.(*dns.OPT)
		if !is {
			continue
		}
		if opt != nil || o.Hdr.Name != "." {
			return nil, false
		}
		opt = o
	}
	return opt, true
}

// resolve fills in rcode, aa, answer, authority, and what fits of the additional section. Owner names keep the case of the question.
func (z *Zone) resolve(m *dns.Msg, q dns.Question, size int) {
	t := z.table.Load()
	name := wireName(q.Name)
	n, exact := t.lookup(name, hashOf(name))
	if n == nil || q.Qclass != dns.ClassINET || q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR {
		m.Rcode = dns.RcodeRefused
		return
	}
	m.Authoritative = true
	exists, atApex := exact || n.flags&wildcard != 0, exact && n.isApex()
	if !exists {
		m.Rcode = dns.RcodeNameError
	}
	apex, _, _ := dns.UnpackDomainName(name, len(name)-len(t.domain(n)))
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: z.ttl}
	switch {
	case q.Qtype == dns.TypeANY && (atApex || exists && n.hasRecords()):
		header.Rrtype = dns.TypeHINFO
		m.Answer = []dns.RR{&dns.HINFO{Hdr: header, Cpu: "RFC8482"}} // RFC 8482, 4.2
	case q.Qtype == dns.TypeNS && atApex:
		m.Answer = []dns.RR{&dns.NS{Hdr: header, Ns: "ns." + apex}}
	case q.Qtype == dns.TypeSOA && atApex:
		m.Answer = []dns.RR{z.soa(q.Name, apex)}
	case exists:
		m.Answer = t.unpack(n, q.Name, q.Qtype)
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{z.soa(apex, apex)} // says how long the "no" may be kept: RFC 2308, 3
	}
	if q.Qtype == dns.TypeSRV {
		whole := m.Copy()
		whole.Extra = append(whole.Extra, t.targets(m.Answer)...)
		whole.Compress = true
		if whole.Len() <= size { // else left out without TC: RFC 2181, 9
			m.Extra = whole.Extra
		}
	}
}

// targets gives the addresses of SRV records' targets (RFC 2782), as far as the zone knows them.
func (t *table) targets(srvs []dns.RR) (rrs []dns.RR) {
	var seen []string
	for _, rr := range srvs {
		target := rr.(*dns.SRV).Target
		if slices.Contains(seen, target) {
			continue
		}
		seen = append(seen, target)
		name := wireName(target)
		if n, exact := t.lookup(name, hashOf(name)); n != nil && (exact || n.flags&wildcard != 0) {
			rrs = append(append(rrs, t.unpack(n, target, typeA)...), t.unpack(n, target, typeAAAA)...)
		}
	}
	return rrs
}

// unpack gives the records of one type, owned by owner.
func (f *format) unpack(n *node, owner string, rrtype uint16) (rrs []dns.RR) {
	run, _, _ := f.run(nil, n, rrtype, math.MaxInt)
	for ; len(run) > 0; run = run[rrSize(run):] {
		h := dns.RR_Header{
			Name: owner, Rrtype: rrtype, Class: dns.ClassINET,
			Ttl: binary.BigEndian.Uint32(run[6:]), Rdlength: binary.BigEndian.Uint16(run[10:]),
		}
		if rr, _, err := dns.UnpackRRWithHeader(h, run[:rrSize(run)], rrHeader); err == nil {
			rrs = append(rrs, rr)
		}
	}
	return rrs
}

// soa is a domain's SOA record. Its TTL equals its minimum, the negative TTL; refresh, retry and expire are for secondaries,
// of which there are none.
func (z *Zone) soa(owner, apex string) *dns.SOA {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: z.negativeTTL},
		Ns:  "ns." + apex, Mbox: "hostmaster." + apex,
		Serial: z.serial.Load(), Refresh: soaRefresh, Retry: soaRetry, Expire: soaExpire, Minttl: z.negativeTTL,
	}
}

const soaRefresh, soaRetry, soaExpire = 3600, 600, 86400 // seconds

// wireName gives a question's name in the form that names are compared in. A name that no message can carry is the root.
func wireName(name string) []byte {
	b := make([]byte, 256)
	end, err := dns.PackDomainName(dns.Fqdn(name), b, 0, nil, false)
	if err != nil {
		return []byte{0}
	}
	b = b[:end]
	lower(b)
	return b
}

// lower makes ASCII lower-case. The length bytes of a wire name are below 'A' and stay.
func lower(b []byte) {
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c | 0x20
		}
	}
}
