package dnsserver

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// benchZone has n names and a mix of questions for them: 7 A, 1 AAAA without data, 1 unknown, 1 of mixed case.
func benchZone(b *testing.B, n int) (*Zone, [][]byte) {
	z := NewZone(ZoneConfig{Domains: []string{"docker"}})
	records := make(map[string]*Record, n)
	for i := range n {
		records[fmt.Sprintf("perf-%d.docker", i)] = &Record{Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}}
	}
	z.Update(records)
	questions := make([][]byte, 8192)
	for i := range questions {
		name, qtype := fmt.Sprintf("perf-%d.docker", i*7919%n), dns.TypeA
		switch i % 10 {
		case 7:
			qtype = dns.TypeAAAA
		case 8:
			name = "nope-" + name
		case 9:
			name = fmt.Sprintf("Perf-%d.Docker", i*7919%n)
		}
		packed, err := question(name, qtype).Pack()
		if err != nil {
			b.Fatal(err)
		}
		questions[i] = packed
	}
	return z, questions
}

// BenchmarkAnswer is a query from bytes to bytes; its ratio to BenchmarkPlainReply is what counts on a noisy machine.
func BenchmarkAnswer(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		z, questions := benchZone(b, n)
		out := make([]byte, ednsSize)
		b.Run(fmt.Sprintf("names=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				z.wire(questions[i%len(questions)], out, true)
			}
		})
	}
}

// BenchmarkAnswerBatch is the same as a busy Linux socket does it, many at a time; the time is that of one.
func BenchmarkAnswerBatch(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		z, questions := benchZone(b, n)
		out := make([]byte, ednsSize)
		queries := make([]query, 64)
		b.Run(fmt.Sprintf("names=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%len(queries) != 0 {
					continue
				}
				batch := questions[i%len(questions):][:len(queries)]
				for j, msg := range batch {
					queries[j].parse(msg, true)
				}
				z.seek(queries)
				for j, msg := range batch {
					z.reply(&queries[j], msg, out, true)
				}
			}
		})
	}
}

// BenchmarkSlow is what the unusual costs.
func BenchmarkSlow(b *testing.B) {
	z, questions := benchZone(b, 1_000)
	out := make([]byte, ednsSize)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		z.slow(questions[i%len(questions)], out, true)
	}
}

// BenchmarkAnswerParallel shows what readers cost each other.
func BenchmarkAnswerParallel(b *testing.B) {
	z, questions := benchZone(b, 1_000)
	b.RunParallel(func(pb *testing.PB) {
		out := make([]byte, ednsSize)
		for i := 0; pb.Next(); i++ {
			z.wire(questions[i%len(questions)], out, true)
		}
	})
}

// BenchmarkPlainReply is the least that miekg/dns does for a reply: unpack, SetReply, pack; nothing is looked up.
func BenchmarkPlainReply(b *testing.B) {
	_, questions := benchZone(b, 1_000)
	out := make([]byte, ednsSize)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		var req, m dns.Msg
		if err := req.Unpack(questions[i%len(questions)]); err != nil {
			b.Fatal(err)
		}
		if _, err := m.SetReply(&req).PackBuffer(out); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUpdate gives one name among many a new address; the number of names must hardly matter.
func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		z, _ := benchZone(b, n)
		b.Run(fmt.Sprintf("names=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			changed := map[string]*Record{"perf-42.docker": {Addrs: make([]netip.Addr, 1)}}
			for i := 0; b.Loop(); i++ {
				changed["perf-42.docker"].Addrs[0] = netip.AddrFrom4([4]byte{10, 9, 0, byte(i)})
				z.Update(changed)
			}
		})
	}
}

// BenchmarkAddRemove lets one name below a fresh label come and go among many.
func BenchmarkAddRemove(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		z, _ := benchZone(b, n)
		b.Run(fmt.Sprintf("names=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			add := map[string]*Record{"api.shop.docker": {Addrs: addrs("172.17.0.2")}}
			remove := map[string]*Record{"api.shop.docker": nil}
			for b.Loop() {
				z.Update(add)
				z.Update(remove)
			}
		})
	}
}

// BenchmarkLoad gives a zone 100,000 names in one Update; readers wait for less than that.
func BenchmarkLoad(b *testing.B) {
	records := make(map[string]*Record)
	for i := range 100_000 {
		records[fmt.Sprintf("perf-%d.docker", i)] = &Record{Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}}
	}
	b.ReportAllocs()
	for b.Loop() {
		NewZone(ZoneConfig{Domains: []string{"docker"}}).Update(records)
	}
}
