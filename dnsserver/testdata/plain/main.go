// Command plain is the DNS server that one writes with miekg/dns in ten minutes, for benchmarks: a map, and its own server
// and mux. It is given a hosts file and an address to listen on.
package main

import (
	"bufio"
	"log"
	"net/netip"
	"os"
	"strings"

	"github.com/miekg/dns"
)

func main() {
	names := map[string][]netip.Addr{}
	reverse := map[string]string{}
	f, err := os.Open(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		addr, name, _ := strings.Cut(lines.Text(), " ")
		a := netip.MustParseAddr(addr)
		names[name+"."] = append(names[name+"."], a)
		r, _ := dns.ReverseAddr(addr)
		reverse[r] = name + "."
	}
	server := &dns.Server{Addr: os.Args[2], Net: "udp", Handler: dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) {
		m := new(dns.Msg).SetReply(req)
		m.Authoritative = true
		q := req.Question[0]
		name := strings.ToLower(q.Name)
		addrs, known := names[name]
		if ptr, ok := reverse[name]; ok {
			known = true
			if q.Qtype == dns.TypePTR {
				m.Answer = append(m.Answer, &dns.PTR{Hdr: dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: q.Qclass}, Ptr: ptr})
			}
		}
		for _, a := range addrs {
			if q.Qtype == dns.TypeA && a.Is4() {
				m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: q.Qclass}, A: a.AsSlice()})
			}
		}
		if !known {
			m.Rcode = dns.RcodeNameError
		}
		if len(m.Answer) == 0 {
			m.Ns = append(m.Ns, &dns.SOA{Hdr: dns.RR_Header{Name: "docker.", Rrtype: dns.TypeSOA, Class: q.Qclass}, Ns: "ns.docker.", Mbox: "root.docker."})
		}
		if o := req.IsEdns0(); o != nil {
			m.SetEdns0(1232, o.Do())
		}
		w.WriteMsg(m)
	})}
	log.Fatal(server.ListenAndServe())
}
