package dnsserver

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// FuzzWire sends any bytes. There is no panic, and a reply is well-formed, belongs to the request and fits.
func FuzzWire(f *testing.F) {
	z := NewZone(ZoneConfig{Domains: []string{"docker", "17.172.in-addr.arpa"}, Server: netip.MustParseAddr("127.0.0.1")})
	many := new(Record)
	for i := range 5000 { // too many even for TCP
		many.Addrs = append(many.Addrs, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
	}
	z.Update(map[string]*Record{"web.docker": {Addrs: addrs("172.17.0.2 fd00::2")}, "api.shop.docker": {}, "many.docker": many})
	for _, name := range []string{".", "docker.", "web.docker.", "WEB.docker.", "many.docker.", "nope.docker.", `a\.b\000.docker.`, "example.com."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeANY, dns.TypeSOA, dns.TypeAXFR} {
			m := question(name, qtype)
			packed, _ := m.Pack()
			f.Add(packed)
			m.SetEdns0(4096, true)
			packed, _ = m.Pack()
			f.Add(packed)
			f.Add(packed[:len(packed)-3])
			f.Add(append(packed, packed...))
		}
	}
	f.Add([]byte{})
	f.Add(make([]byte, headerSize))
	f.Add([]byte{0, 1, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0})                // a reply
	f.Add([]byte{0, 1, 0x28, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xff})          // an update, cut
	f.Add([]byte{0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12})         // a pointer to itself
	f.Add([]byte{0, 1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0}) // counts that lie
	f.Fuzz(func(t *testing.T, msg []byte) {
		for _, udp := range []bool{true, false} {
			reply := z.wire(msg, make([]byte, ednsSize), udp)
			if silent := len(msg) < headerSize || msg[2]&0x80 != 0; silent != (reply == nil) {
				t.Fatalf("reply is %x", reply)
			}
			if reply == nil {
				continue
			}
			var m dns.Msg
			if err := m.Unpack(reply); err != nil {
				t.Fatalf("unpack %x: %v", reply, err)
			}
			if id := binary.BigEndian.Uint16(msg); m.Id != id || !m.Response || m.RecursionAvailable {
				t.Fatalf("header:\n%v", &m)
			}
			limit := ednsSize
			if m.IsEdns0() == nil {
				limit = dns.MinMsgSize
			}
			if !udp {
				limit = dns.MaxMsgSize
			}
			if len(reply) > limit {
				t.Fatalf("%d bytes, udp %v", len(reply), udp)
			}
			if len(m.Question) > 0 && !strings.Contains(string(msg[headerSize:]), string(reply[headerSize:headerSize+1+int(reply[headerSize])])) {
				t.Fatalf("question not echoed:\n%v", &m)
			}
		}
	})
}

// naive answers as plainly as can be: it walks all names and prints records as text.
type naive struct {
	cfg   ZoneConfig
	names map[string]*Record
}

func (n naive) answer(req *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(req)
	q := req.Question[0]
	add := func(section *[]dns.RR, format string, args ...any) {
		rr, err := dns.NewRR(fmt.Sprintf(format, args...))
		if err != nil {
			panic(err)
		}
		*section = append(*section, rr)
	}
	apex := ""
	for _, d := range n.cfg.Domains {
		if dns.IsSubDomain(d+".", strings.ToLower(q.Name)) && len(d) > len(apex) {
			apex = d
		}
	}
	if apex == "" || q.Qclass != dns.ClassINET || q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR {
		m.Rcode = dns.RcodeRefused
		return m
	}
	m.Authoritative = true

	exists := false
	records := []string{}
	if strings.EqualFold(q.Name, apex+".") {
		exists = true
		records = append(records, "NS ns."+apex+".", "SOA ns."+apex+". hostmaster."+apex+". 0 3600 600 86400 1")
	}
	names := map[string]*Record{}
	for name, r := range n.names {
		names[name] = r
	}
	for _, d := range n.cfg.Domains {
		delete(names, d)
	}
	for _, d := range n.cfg.Domains {
		names["ns."+d] = &Record{Addrs: []netip.Addr{n.cfg.Server}}
	}
	for _, d := range n.cfg.Domains {
		exists = exists || dns.IsSubDomain(q.Name, d+".")
	}
	for name, r := range names {
		inside := slices.ContainsFunc(n.cfg.Domains, func(d string) bool { return strings.HasSuffix(name, "."+d) })
		if r == nil || !inside {
			continue
		}
		exists = exists || dns.IsSubDomain(q.Name, name+".")
		if strings.EqualFold(name+".", q.Name) {
			for _, a := range r.Addrs {
				if a.Is4() {
					records = append(records, "A "+a.String())
				} else {
					records = append(records, "AAAA "+a.String())
				}
			}
		}
	}
	slices.Sort(records)
	records = slices.Compact(records)
	if q.Qtype == dns.TypeANY && len(records) > 0 {
		add(&m.Answer, `%s 1 IN HINFO "RFC8482" ""`, q.Name)
	}
	for _, r := range records {
		if strings.HasPrefix(r, dns.TypeToString[q.Qtype]+" ") {
			add(&m.Answer, "%s 1 IN %s", q.Name, r)
		}
	}
	if len(m.Answer) == 0 {
		add(&m.Ns, "%s. 1 IN SOA ns.%s. hostmaster.%s. 0 3600 600 86400 1", apex, apex, apex)
	}
	if !exists {
		m.Rcode = dns.RcodeNameError
	}
	return m
}

// compare asks a random zone and the naive one over the wire.
func compare(t *testing.T, rnd *rand.Rand, qname string, qtype, qclass, size uint16) {
	t.Helper()
	n := naive{ZoneConfig{Domains: []string{"docker", "b.c.docker", "test"}, Server: netip.MustParseAddr("127.0.0.1")}, map[string]*Record{}}
	for range rnd.IntN(12) {
		n.names[randomName(rnd)] = randomRecord(rnd)
	}
	if rnd.IntN(3) == 0 {
		r := new(Record)
		for i := range rnd.IntN(120) {
			r.Addrs = append(r.Addrs, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
		}
		n.names[qname] = r
	}
	z := NewZone(n.cfg)
	z.Update(n.names)
	for name := range n.names {
		if !ValidName(name) {
			delete(n.names, name)
		}
	}

	req := question(qname, qtype)
	req.Question[0].Qclass = qclass
	limit := dns.MinMsgSize
	if size > 0 {
		req.SetEdns0(size, false)
		limit = min(max(int(size), dns.MinMsgSize), ednsSize)
	}
	packed, err := req.Pack()
	if err != nil {
		return // not a name
	}
	if err := req.Unpack(packed); err != nil {
		return
	}
	want := n.answer(req)
	if size > 0 {
		want.SetEdns0(ednsSize, false)
	}

	for _, udp := range []bool{false, true} {
		var got dns.Msg
		reply := z.wire(packed, nil, udp)
		if err := got.Unpack(reply); err != nil {
			t.Fatalf("unpack: %v", err)
		}
		for _, rr := range append(slices.Clone(got.Answer), got.Ns...) {
			if soa, ok := rr.(*dns.SOA); ok {
				soa.Serial = 0
			}
		}
		want.Compress = true
		cut := udp && want.Len() > limit
		if got.Truncated != cut || udp && len(reply) > limit {
			t.Fatalf("tc %v, want %v; %d bytes, limit %d\n%v", got.Truncated, cut, len(reply), limit, &got)
		}
		if cut { // what is left is part of the whole
			whole := texts(want.Answer)
			for _, text := range texts(got.Answer) {
				if !slices.Contains(whole, text) {
					t.Fatalf("%s is not in\n%v", text, want)
				}
			}
			got.Answer, got.Truncated = want.Answer, false
		}
		if got.MsgHdr != want.MsgHdr || !slices.Equal(texts(got.Answer), texts(want.Answer)) ||
			!slices.Equal(texts(got.Ns), texts(want.Ns)) || !slices.Equal(texts(got.Extra), texts(want.Extra)) || got.Question[0] != want.Question[0] {
			t.Fatalf("udp %v, names %v\n got %v\nwant %v", udp, n.names, &got, want)
		}
	}
}

func texts(rrs []dns.RR) []string {
	ts := recordTexts(rrs)
	slices.Sort(ts)
	return ts
}

func TestAgainstNaive(t *testing.T) {
	qtypes := []uint16{dns.TypeA, dns.TypeA, dns.TypeAAAA, dns.TypeANY, dns.TypeSOA, dns.TypeNS, dns.TypeTXT, dns.TypePTR, dns.TypeAXFR}
	for seed := range uint64(5000) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		qname := []byte(randomName(rnd))
		for i := range qname {
			if rnd.IntN(4) == 0 {
				qname[i] = strings.ToUpper(string(qname[i]))[0]
			}
		}
		qclass, size := uint16(dns.ClassINET), uint16(rnd.IntN(2)*rnd.IntN(4096))
		if rnd.IntN(10) == 0 {
			qclass = dns.ClassCHAOS
		}
		compare(t, rnd, string(qname), qtypes[rnd.IntN(len(qtypes))], qclass, size)
	}
}

func FuzzAgainstNaive(f *testing.F) {
	f.Add(uint64(1), "web.docker", dns.TypeA, uint16(dns.ClassINET), uint16(0))
	f.Add(uint64(2), `a\.b.\255.docker`, dns.TypeANY, uint16(dns.ClassINET), uint16(1232))
	f.Add(uint64(3), "ns.b.c.DOCKER.", dns.TypeA, uint16(dns.ClassCHAOS), uint16(100))
	f.Fuzz(func(t *testing.T, seed uint64, qname string, qtype, qclass, size uint16) {
		compare(t, rand.New(rand.NewPCG(seed, 3)), qname, qtype, qclass, size)
	})
}
