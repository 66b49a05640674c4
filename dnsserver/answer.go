package dnsserver

import (
	"encoding/binary"
	"net/netip"

	"github.com/miekg/dns"
)

// ednsSize is the largest UDP reply that we send or ask for, in bytes: it crosses any path unfragmented (DNS flag day 2020).
const ednsSize = 1232

// wire answers one message as it came off a socket. It returns nil where silence is the answer: to what is too short
// to be a message, and to replies, lest two servers keep each other talking. The result may use the space of buf.
func (z *Zone) wire(msg, buf []byte, udp bool) []byte {
	if len(msg) < headerSize {
		return nil
	}
	var req dns.Msg
	questions := binary.BigEndian.Uint16(msg[4:]) // Unpack takes as many as there are, whatever the header says
	if err := req.Unpack(msg); err != nil || questions != 1 {
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

const headerSize = 12 // RFC 1035, 4.1.1

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
			size = min(max(int(opt.UDPSize()), dns.MinMsgSize), ednsSize)
		}
	}
	if opt != nil && opt.Version() != 0 {
		m.Rcode = dns.RcodeBadVers
	} else {
		z.resolve(m, req.Question[0])
	}
	m.Truncate(size)
	return m
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

// resolve fills in rcode, aa, answer and authority. Owner names keep the case of the question.
func (z *Zone) resolve(m *dns.Msg, q dns.Question) {
	name := canonical(q.Name)
	d := z.domainOf(name)
	if d == nil || q.Qclass != dns.ClassINET || q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR {
		m.Rcode = dns.RcodeRefused
		return
	}
	m.Authoritative = true
	r, exists, serial := z.find(name)
	if !exists {
		m.Rcode = dns.RcodeNameError
	}
	atApex := name == d.apex
	header := func(rrtype uint16) dns.RR_Header {
		return dns.RR_Header{Name: q.Name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: z.ttl}
	}
	switch {
	case q.Qtype == dns.TypeA, q.Qtype == dns.TypeAAAA:
		m.Answer = addrRRs(header(q.Qtype), r)
	case q.Qtype == dns.TypeANY && (atApex || len(r.addrs) > 0):
		m.Answer = []dns.RR{&dns.HINFO{Hdr: header(dns.TypeHINFO), Cpu: "RFC8482"}} // RFC 8482, 4.2
	case q.Qtype == dns.TypeNS && atApex:
		m.Answer = []dns.RR{&dns.NS{Hdr: header(q.Qtype), Ns: d.ns + "."}}
	case q.Qtype == dns.TypeSOA && atApex:
		m.Answer = []dns.RR{z.soa(d, q.Name, serial)}
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{z.soa(d, d.apex+".", serial)} // says how long the "no" may be kept: RFC 2308, 3
	}
}

// addrRRs gives the A or AAAA records of r, whichever type h has.
func addrRRs(h dns.RR_Header, r *record) []dns.RR {
	first, then := r.rotated(h.Rrtype == dns.TypeAAAA)
	if len(first) == 0 {
		return nil
	}
	rrs := make([]dns.RR, 0, len(first)+len(then))
	for _, run := range [2][]netip.Addr{first, then} {
		for _, addr := range run {
			if addr.Is4() {
				rrs = append(rrs, &dns.A{Hdr: h, A: addr.AsSlice()})
			} else {
				rrs = append(rrs, &dns.AAAA{Hdr: h, AAAA: addr.AsSlice()})
			}
		}
	}
	return rrs
}

// soa is a domain's SOA record. Its TTL equals its minimum, the negative TTL; refresh, retry and expire are for secondaries,
// of which there are none.
func (z *Zone) soa(d *domain, owner string, serial uint32) *dns.SOA {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: z.negativeTTL},
		Ns:  d.ns + ".", Mbox: "hostmaster." + d.apex + ".",
		Serial: serial, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: z.negativeTTL,
	}
}
