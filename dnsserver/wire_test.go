package dnsserver

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// FuzzWire sends any bytes. There is no panic, and a reply is well-formed, belongs to the request and fits.
func FuzzWire(f *testing.F) {
	z := NewZone(ZoneConfig{Domains: []string{"docker", "17.172.in-addr.arpa"}, Server: netip.MustParseAddr("127.0.0.1")})
	many := new(Record)
	for i := range 5000 { // too many even for TCP
		many.Addrs = append(many.Addrs, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
	}
	z.Update(map[string]*Record{
		"web.docker":              {Addrs: addrs("172.17.0.2 fd00::2"), Wildcard: true},
		"_http._tcp.web.docker":   {SRV: []SRV{{1, 2, 80, "web.docker"}}, TXT: []string{"a", strings.Repeat("b", 700)}},
		"2.0.17.172.in-addr.arpa": {PTR: []string{"web.docker"}},
		"api.shop.docker":         {}, "many.docker": many,
	})
	for _, name := range []string{"_http._tcp.web.docker.", "2.0.17.172.in-addr.arpa.", "x.y.web.docker.", ".", "docker.", "web.docker.", "WEB.docker.", "many.docker.", "nope.docker.", `a\.b\000.docker.`, "example.com."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeANY, dns.TypeSOA, dns.TypeSRV, dns.TypePTR, dns.TypeTXT, dns.TypeAXFR} {
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
			fastEqualsSlow(t, z, msg, udp)
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

// inside gives the served domain that a name lies in.
func (n naive) inside(name string) (apex string) {
	for _, d := range n.cfg.Domains {
		if dns.IsSubDomain(d+".", name+".") && len(d) > len(apex) {
			apex = d
		}
	}
	return apex
}

// find gives a name's record, or nil and whether the name exists all the same.
func (n naive) find(name string) (r *Record, exists bool) {
	names := map[string]*Record{}
	for name, r := range n.names {
		if r != nil && claimable(n.cfg, name) {
			names[name] = r
		}
	}
	for _, d := range n.cfg.Domains {
		names["ns."+d] = &Record{Addrs: []netip.Addr{n.cfg.Server}}
	}
	for _, d := range n.cfg.Domains {
		names[d] = &Record{}
	}
	there := func(name string) (is bool) {
		for other := range names {
			is = is || dns.IsSubDomain(name+".", other+".")
		}
		return is
	}
	if there(name) {
		return names[name], true
	}
	for labels := dns.SplitDomainName(name); len(labels) > 0; labels = labels[1:] {
		if up := strings.Join(labels, "."); there(up) {
			if r := names[up]; r != nil && r.Wildcard {
				return r, true
			}
			break
		}
	}
	return nil, false
}

// records gives a record's lines from the TTL on.
func (n naive) records(r *Record) (lines []string) {
	if r == nil {
		return nil
	}
	ttl := max(int(r.TTL/time.Second), 1) // 0 is the default, which is 1
	add := func(format string, args ...any) {
		lines = append(lines, fmt.Sprintf("%d IN ", ttl)+fmt.Sprintf(format, args...))
	}
	for _, a := range r.Addrs {
		if a.Is4() {
			add("A %s", a)
		} else if a.IsValid() {
			add("AAAA %s", a)
		}
	}
	for _, name := range r.PTR {
		add("PTR %s.", name)
	}
	for _, s := range r.SRV {
		add("SRV %d %d %d %s.", s.Priority, s.Weight, s.Port, s.Target)
	}
	for _, text := range r.TXT {
		parts := ""
		for ; len(text) > 255; text = text[255:] {
			parts += fmt.Sprintf(" %q", text[:255])
		}
		add("TXT%s %q", parts, text)
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

func (n naive) answer(req *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(req)
	q := req.Question[0]
	add := func(section *[]dns.RR, owner, line string) {
		rr, err := dns.NewRR(owner + " " + line)
		if err != nil {
			panic(err)
		}
		*section = append(*section, rr)
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	apex := n.inside(name)
	if apex == "" || q.Qclass != dns.ClassINET || q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR {
		m.Rcode = dns.RcodeRefused
		return m
	}
	m.Authoritative = true
	soa := "1 IN SOA ns." + apex + ". hostmaster." + apex + ". 0 3600 600 86400 1"
	r, exists := n.find(name)
	lines := n.records(r)
	if name == apex {
		lines = append(lines, "1 IN NS ns."+apex+".", soa)
	}
	if q.Qtype == dns.TypeANY && len(lines) > 0 {
		add(&m.Answer, q.Name, `1 IN HINFO "RFC8482" ""`)
	}
	for _, line := range lines {
		if strings.Contains(line, " IN "+dns.TypeToString[q.Qtype]+" ") {
			add(&m.Answer, q.Name, line)
		}
	}
	if len(m.Answer) == 0 {
		add(&m.Ns, apex+".", soa)
	}
	if !exists {
		m.Rcode = dns.RcodeNameError
	}
	targets := map[string]bool{}
	for _, rr := range m.Answer {
		if srv, is := rr.(*dns.SRV); is && !targets[srv.Target] {
			targets[srv.Target] = true
			target := strings.TrimSuffix(srv.Target, ".")
			if r, _ := n.find(target); n.inside(target) != "" {
				for _, line := range n.records(r) {
					if strings.Contains(line, " A ") || strings.Contains(line, " AAAA ") {
						add(&m.Extra, srv.Target, line)
					}
				}
			}
		}
	}
	return m
}

// compare asks a random zone and the naive one over the wire.
func compare(t *testing.T, rnd *rand.Rand, qname string, qtype, qclass, size uint16, do bool) {
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
		n.names[strings.ToLower(qname)] = r
	}
	z := NewZone(n.cfg)
	z.Update(n.names)

	req := question(qname, qtype)
	req.Question[0].Qclass = qclass
	req.RecursionDesired = rnd.IntN(2) == 0
	if size > 0 {
		req.SetEdns0(size, do)
	}
	packed, err := req.Pack()
	if err != nil {
		return // not a name
	}
	if err := req.Unpack(packed); err != nil {
		return
	}
	odd := slices.Clone(packed) // none of these says anything in a query: AA, TC, RA, Z, AD, CD, rcode
	odd[2] |= byte(rnd.IntN(4)) << 1
	odd[3] = byte(rnd.IntN(256))

	for _, udp := range []bool{false, true} {
		limit := dns.MaxMsgSize
		if udp && size > 0 {
			limit = min(max(int(size), dns.MinMsgSize), ednsSize)
		} else if udp {
			limit = dns.MinMsgSize
		}
		want := n.answer(req)
		want.CheckingDisabled = false // SetReply copies it
		extra := want.Extra
		want.Compress = true
		if size > 0 {
			want.SetEdns0(ednsSize, do)
		}
		if want.Len() > limit { // addresses of targets are left out first
			want.Extra = want.Extra[len(extra):]
		}
		reply := z.wire(odd, make([]byte, ednsSize), udp)
		var got dns.Msg
		if err := got.Unpack(reply); err != nil {
			t.Fatalf("unpack: %v", err)
		}
		normalise(&got)
		cut := want.Len() > limit
		if got.Truncated != cut || len(reply) > limit {
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
		fastEqualsSlow(t, z, odd, udp)
	}
}

// normalise takes out what may differ between equal replies: the serial, and how the SOA's owner is spelt.
func normalise(m *dns.Msg) {
	for _, rr := range slices.Concat(m.Answer, m.Ns) {
		if soa, ok := rr.(*dns.SOA); ok {
			soa.Serial = 0
		}
	}
	for _, rr := range m.Ns {
		rr.Header().Name = strings.ToLower(rr.Header().Name)
		if soa, ok := rr.(*dns.SOA); ok {
			soa.Ns, soa.Mbox = strings.ToLower(soa.Ns), strings.ToLower(soa.Mbox)
		}
	}
}

// fastEqualsSlow compares the two ways to an answer, and reports whether there were two.
func fastEqualsSlow(t *testing.T, z *Zone, msg []byte, udp bool) bool {
	t.Helper()
	var q query
	q.parse(msg, udp)
	buf := make([]byte, ednsSize)
	n := z.fast(&q, msg, buf)
	if n == 0 {
		return false
	}
	var fast, slow dns.Msg
	if err := fast.Unpack(buf[:n]); err != nil {
		t.Fatalf("unpack fast's reply to %x: %v", msg, err)
	}
	if err := slow.Unpack(z.slow(msg, nil, udp)); err != nil {
		t.Fatalf("unpack slow's reply to %x: %v", msg, err)
	}
	normalise(&fast)
	normalise(&slow)
	if fast.MsgHdr != slow.MsgHdr || !slices.Equal(fast.Question, slow.Question) || !slices.Equal(texts(fast.Answer), texts(slow.Answer)) ||
		!slices.Equal(texts(fast.Ns), texts(slow.Ns)) || !slices.Equal(texts(fast.Extra), texts(slow.Extra)) {
		t.Fatalf("udp %v\nfast %v\nslow %v", udp, &fast, &slow)
	}
	if !q.ordinary {
		t.Fatalf("fast answered what is not ordinary:\n%v", &fast)
	}
	return true
}

// TestFastIsUsed: the usual questions do not take the slow way, and cost no allocation.
func TestFastIsUsed(t *testing.T) {
	z := NewZone(ZoneConfig{Domains: []string{"docker", "17.172.in-addr.arpa"}})
	z.Update(map[string]*Record{
		"web.docker":              {Addrs: addrs("172.17.0.2 172.17.0.3 fd00::2"), TXT: []string{"x"}, Wildcard: true},
		"2.0.17.172.in-addr.arpa": {PTR: []string{"web.docker"}},
		"api.shop.docker":         {},
	})
	for _, name := range []string{"web.docker", "WEB.dOCKER", "any.web.docker", "shop.docker", "docker", "nope.docker", "2.0.17.172.in-addr.arpa", "3.0.17.172.in-addr.arpa"} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypePTR, dns.TypeTXT, dns.TypeHTTPS} {
			for _, edns := range []uint16{0, 512, 4096} {
				req := question(name, qtype)
				if edns > 0 {
					req.SetEdns0(edns, true)
				}
				msg, err := req.Pack()
				if err != nil {
					t.Fatal(err)
				}
				if !fastEqualsSlow(t, z, msg, true) || !fastEqualsSlow(t, z, msg, false) {
					t.Errorf("slow: %v", req)
				}
				buf := make([]byte, ednsSize)
				if n := testing.AllocsPerRun(10, func() { z.wire(msg, buf, true) }); n > 0 {
					t.Errorf("%v allocations: %v", n, req)
				}
			}
		}
	}
}

func TestLower8(t *testing.T) {
	for c := range 256 {
		b := []byte{byte(c), 'A', 'Z', '@', '[', 0xc1, 0, 0xff}
		want := slices.Clone(b)
		lower(want)
		if got := binary.NativeEndian.AppendUint64(nil, lower8(binary.NativeEndian.Uint64(b))); !slices.Equal(got, want) {
			t.Errorf("lower8(%x) = %x", b, got)
		}
	}
}

func texts(rrs []dns.RR) []string {
	ts := recordTexts(rrs)
	slices.Sort(ts)
	return ts
}

func TestAgainstNaive(t *testing.T) {
	qtypes := []uint16{dns.TypeA, dns.TypeA, dns.TypeAAAA, dns.TypeANY, dns.TypeSOA, dns.TypeNS, dns.TypeTXT, dns.TypePTR, dns.TypeSRV, dns.TypeHTTPS, dns.TypeMX, dns.TypeAXFR}
	for seed := range uint64(2000) {
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
		compare(t, rnd, string(qname), qtypes[rnd.IntN(len(qtypes))], qclass, size, rnd.IntN(2) == 0)
	}
}

func FuzzAgainstNaive(f *testing.F) {
	f.Add(uint64(1), "web.docker", dns.TypeA, uint16(dns.ClassINET), uint16(0), false)
	f.Add(uint64(2), `a\.b.\255.docker`, dns.TypeANY, uint16(dns.ClassINET), uint16(1232), true)
	f.Add(uint64(3), "ns.b.c.DOCKER.", dns.TypeA, uint16(dns.ClassCHAOS), uint16(100), true)
	f.Add(uint64(4), "x.a.b.docker.", dns.TypeSRV, uint16(dns.ClassINET), uint16(600), false)
	f.Fuzz(func(t *testing.T, seed uint64, qname string, qtype, qclass, size uint16, do bool) {
		compare(t, rand.New(rand.NewPCG(seed, 3)), qname, qtype, qclass, size, do)
	})
}

// TestSetName: a name of any length with anything behind it is read in lower case, and given so.
func TestSetName(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		rest := make([]byte, 1+r.IntN(255)+r.IntN(16))
		size := min(len(rest), 255) - r.IntN(min(len(rest), 16))
		few := r.IntN(2) > 0 // with letters that change
		for i := range rest {
			if rest[i] = "abyz09-_\x05\x00"[r.IntN(10)]; few {
				rest[i] = "aAZz@[`{\x80\xff"[r.IntN(10)]
			}
		}
		before, want := bytes.Clone(rest), bytes.Clone(rest[:size])
		lower(want)
		var q query
		if got := q.setName(rest, size); !bytes.Equal(got, want) || !bytes.Equal(q.name(), want) || !bytes.Equal(rest, before) {
			t.Fatalf("%q with %q behind: %q, kept as %q", rest[:size], rest[size:], got, q.name())
		}
	}
}
