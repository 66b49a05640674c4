package dnsserver

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/tools/txtar"
)

// TestAnswer replays testdata/zone: what each question brings back, in zone-file text. Every reply is also checked whole.
func TestAnswer(t *testing.T) {
	files, err := filepath.Glob("testdata/zone/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("glob testdata: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var cfg ZoneConfig
			var z *Zone
			for _, f := range archive.Files {
				switch f.Name {
				case "config":
					cfg = parseConfig(t, string(f.Data))
					z = NewZone(cfg)
				case "names":
					z.Update(parseRecords(t, string(f.Data)))
				case "domains":
					z.SetDomains(strings.Fields(string(f.Data)))
				case "removed":
					removed := make(map[string]*Record)
					for name := range strings.FieldsSeq(string(f.Data)) {
						removed[name] = nil
					}
					z.Update(removed)
				case "digs":
					z.serial.Store(7)
					for line := range strings.Lines(string(f.Data)) {
						if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
							dig(t, z, line)
						}
					}
				default:
					t.Fatalf("unknown section %q", f.Name)
				}
			}
		})
	}
}

// exchange asks from bytes to bytes.
func exchange(t *testing.T, z *Zone, req *dns.Msg, udp bool) *dns.Msg {
	t.Helper()
	packed, err := req.Pack()
	if err != nil {
		t.Fatal(err)
	}
	m := new(dns.Msg)
	if err := m.Unpack(z.wire(packed, make([]byte, ednsSize), udp)); err != nil {
		t.Fatalf("unpack reply to %v: %v", req, err)
	}
	return m
}

// dig checks one line: NAME TYPE RESULT, then the answers parted by " ; ", or the owner of the SOA in authority; "+" marks an
// additional record.
func dig(t *testing.T, z *Zone, line string) {
	t.Helper()
	f := strings.Fields(line)
	if len(f) < 3 {
		t.Fatalf("need NAME TYPE RESULT: %q", line)
	}
	want := strings.Join(f[2:], " ")
	m := exchange(t, z, question(f[0], dns.StringToType[f[1]]), false)

	var got []string
	for _, rr := range m.Answer {
		got = append(got, strings.Join(strings.Fields(rr.String()), " "))
	}
	for _, rr := range m.Extra {
		got = append(got, "+ "+strings.Join(strings.Fields(rr.String()), " "))
	}
	result := dns.RcodeToString[m.Rcode]
	if m.Rcode == dns.RcodeSuccess && len(m.Answer) == 0 {
		result = "NODATA"
	}
	negative := result == "NODATA" || result == "NXDOMAIN"
	if negative != (len(m.Ns) == 1) {
		t.Errorf("%s: authority %v with %s", line, m.Ns, result)
	}
	if negative && len(m.Ns) == 1 {
		soa := m.Ns[0].(*dns.SOA)
		got = append(got, strings.ToLower(soa.Hdr.Name)) // may take the question's spelling
		if soa.Hdr.Ttl != z.negativeTTL || soa.Minttl != z.negativeTTL {
			t.Errorf("%s: SOA TTL %d and minimum %d, want %d", line, soa.Hdr.Ttl, soa.Minttl, z.negativeTTL)
		}
	}
	if got := strings.TrimSpace(result + " " + strings.Join(got, " ; ")); got != want {
		t.Errorf("dig %s %s\n got %s\nwant %s", f[0], f[1], got, want)
	}
	if m.Authoritative == (m.Rcode == dns.RcodeRefused) {
		t.Errorf("%s: aa is %v", line, m.Authoritative)
	}
	if !m.Response || m.RecursionAvailable || !m.RecursionDesired || m.Truncated || m.Question[0].Name != dns.Fqdn(f[0]) {
		t.Errorf("%s: header or question wrong:\n%v", line, m)
	}
}

func parseConfig(t *testing.T, text string) (cfg ZoneConfig) {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		var err error
		switch key {
		case "domain":
			cfg.Domains = append(cfg.Domains, value)
		case "server":
			cfg.Server, err = netip.ParseAddr(value)
		case "ttl":
			cfg.TTL, err = time.ParseDuration(value)
		case "negative-ttl":
			cfg.NegativeTTL, err = time.ParseDuration(value)
		default:
			t.Fatalf("unknown config line %q", line)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return cfg
}

// parseRecords reads lines of NAME ITEM...: an address, ptr=NAME, srv=PRIORITY,WEIGHT,PORT,TARGET, txt=TEXT, ttl=DURATION, or * for
// a wildcard.
func parseRecords(t *testing.T, text string) map[string]*Record {
	records := make(map[string]*Record)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		r := new(Record)
		for _, item := range f[1:] {
			key, value, _ := strings.Cut(item, "=")
			var err error
			switch key {
			case "*":
				r.Wildcard = true
			case "ptr":
				r.PTR = append(r.PTR, value)
			case "txt":
				r.TXT = append(r.TXT, value)
			case "ttl":
				r.TTL, err = time.ParseDuration(value)
			case "srv":
				var s SRV
				_, err = fmt.Sscanf(value, "%d,%d,%d,%s", &s.Priority, &s.Weight, &s.Port, &s.Target)
				r.SRV = append(r.SRV, s)
			default:
				var a netip.Addr
				a, err = netip.ParseAddr(item)
				r.Addrs = append(r.Addrs, a)
			}
			if err != nil {
				t.Fatalf("%q: %v", item, err)
			}
		}
		records[f[0]] = r
	}
	return records
}

func question(name string, qtype uint16) *dns.Msg {
	return new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
}

// TestEveryType asks all 65,535 types of a name with A only, of one that exists without records, and of none.
func TestEveryType(t *testing.T) {
	z := NewZone(ZoneConfig{Domains: []string{"docker"}})
	z.Update(map[string]*Record{"api.shop.docker": {Addrs: addrs("172.17.0.2")}})
	for qtype := uint16(1); qtype != 0; qtype++ {
		refused := qtype == dns.TypeAXFR || qtype == dns.TypeIXFR
		for name, want := range map[string]int{
			"api.shop.docker": dns.RcodeSuccess, "shop.docker": dns.RcodeSuccess, "nope.docker": dns.RcodeNameError,
		} {
			answers := 0
			if name == "api.shop.docker" && (qtype == dns.TypeA || qtype == dns.TypeANY) {
				answers = 1
			}
			if refused {
				want = dns.RcodeRefused
			}
			m := z.answer(question(name, qtype), false)
			if m.Rcode != want || len(m.Answer) != answers || (len(m.Ns) == 1) != (answers == 0 && !refused) {
				t.Fatalf("%s TYPE%d:\n%v", name, qtype, m)
			}
		}
	}
}

// TestHeader covers the requests that are wrong before their question is looked at.
func TestHeader(t *testing.T) {
	z := NewZone(ZoneConfig{Domains: []string{"docker"}})
	z.Update(map[string]*Record{"web.docker": {Addrs: addrs("172.17.0.2")}})
	opt := func(name string, version uint8, do bool) *dns.OPT {
		o := &dns.OPT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeOPT}}
		o.SetUDPSize(4096)
		o.SetVersion(version)
		o.SetDo(do)
		return o
	}
	for name, c := range map[string]struct {
		change func(*dns.Msg)
		rcode  int // -1: no reply
		opt    bool
	}{
		"plain":         {func(m *dns.Msg) {}, dns.RcodeSuccess, false},
		"edns":          {func(m *dns.Msg) { m.Extra = []dns.RR{opt(".", 0, false)} }, dns.RcodeSuccess, true},
		"edns do":       {func(m *dns.Msg) { m.Extra = []dns.RR{opt(".", 0, true)} }, dns.RcodeSuccess, true},
		"edns 1":        {func(m *dns.Msg) { m.Extra = []dns.RR{opt(".", 1, false)} }, dns.RcodeBadVers, true},
		"edns 255":      {func(m *dns.Msg) { m.Extra = []dns.RR{opt(".", 255, true)} }, dns.RcodeBadVers, true},
		"two opt":       {func(m *dns.Msg) { m.Extra = []dns.RR{opt(".", 0, false), opt(".", 0, false)} }, dns.RcodeFormatError, false},
		"opt with name": {func(m *dns.Msg) { m.Extra = []dns.RR{opt("x.", 0, false)} }, dns.RcodeFormatError, false},
		"reply":         {func(m *dns.Msg) { m.Response = true }, -1, false},
		"no question":   {func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError, false},
		"two questions": {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError, false},
		"class CH":      {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused, false},
		"class ANY":     {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }, dns.RcodeRefused, false},
		"opcode UPDATE": {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented, false},
		"opcode NOTIFY": {func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented, false},
		"opcode 15":     {func(m *dns.Msg) { m.Opcode = 15 }, dns.RcodeNotImplemented, false},
		"cd, ad, tc, ra": {func(m *dns.Msg) {
			m.CheckingDisabled, m.AuthenticatedData, m.Truncated, m.RecursionAvailable = true, true, true, true
		}, dns.RcodeSuccess, false},
		"rd not set":      {func(m *dns.Msg) { m.RecursionDesired = false }, dns.RcodeSuccess, false},
		"rcode set":       {func(m *dns.Msg) { m.Rcode = dns.RcodeRefused }, dns.RcodeSuccess, false},
		"stray in answer": {func(m *dns.Msg) { m.Answer = []dns.RR{opt(".", 1, false)} }, dns.RcodeSuccess, false},
	} {
		t.Run(name, func(t *testing.T) {
			req := question("wEb.docker", dns.TypeA)
			c.change(req)
			packed, err := req.Pack()
			if err != nil {
				t.Fatal(err)
			}
			reply := z.wire(packed, nil, true)
			if c.rcode < 0 {
				if reply != nil {
					t.Fatalf("answered a reply with %x", reply)
				}
				return
			}
			var m dns.Msg
			if err := m.Unpack(reply); err != nil {
				t.Fatal(err)
			}
			if m.Rcode != c.rcode || m.Id != req.Id || !m.Response || m.Opcode != req.Opcode || m.RecursionDesired != req.RecursionDesired ||
				m.Truncated || m.RecursionAvailable || m.AuthenticatedData || m.CheckingDisabled || m.Zero {
				t.Errorf("got\n%v", &m)
			}
			if m.Authoritative != (c.rcode == dns.RcodeSuccess) || (len(m.Answer) == 1) != (c.rcode == dns.RcodeSuccess) {
				t.Errorf("got\n%v", &m)
			}
			if got := m.IsEdns0(); (got != nil) != c.opt {
				t.Errorf("opt in reply: %v", got)
			} else if got != nil && (got.UDPSize() != ednsSize || got.Version() != 0 || got.Do() != req.IsEdns0().Do()) {
				t.Errorf("opt: %v", got)
			}
		})
	}
}

// TestBroken covers what a message can have wrong that no packer writes.
func TestBroken(t *testing.T) {
	z := NewZone(ZoneConfig{Domains: []string{"docker"}})
	whole, err := question("web.docker", dns.TypeA).SetEdns0(1232, false).Pack()
	if err != nil {
		t.Fatal(err)
	}
	with := func(at int, b byte) []byte {
		msg := slices.Clone(whole)
		msg[at] = b
		return msg
	}
	for name, c := range map[string]struct {
		msg   []byte
		rcode int
	}{
		"whole":                    {whole, dns.RcodeNameError},
		"cut in the OPT":           {whole[:len(whole)-2], dns.RcodeFormatError},
		"cut in the question":      {whole[:headerSize+3], dns.RcodeFormatError},
		"header alone":             {whole[:headerSize], dns.RcodeFormatError},
		"no type and class":        {whole[:headerSize+len("\x03web\x06docker\x00")], dns.RcodeFormatError},
		"a name in the header":     {append(slices.Clone(whole[:headerSize]), 0xc0, 9, 0, 1, 0, 1), dns.RcodeFormatError},
		"says two questions":       {with(5, 2), dns.RcodeFormatError},
		"label beyond the end":     {with(headerSize, 63), dns.RcodeFormatError},
		"label of a reserved kind": {with(headerSize, 0x80), dns.RcodeFormatError},
		"cut, but an update":       {with(2, dns.OpcodeUpdate<<3)[:headerSize+3], dns.RcodeNotImplemented},
	} {
		reply := z.wire(c.msg, nil, true)
		var m dns.Msg
		if err := m.Unpack(reply); err != nil || m.Rcode != c.rcode || m.Id != binary.BigEndian.Uint16(whole) {
			t.Errorf("%s: %v\n%v", name, err, &m)
		}
	}
}

func TestValidName(t *testing.T) {
	label := strings.Repeat("a", 63)
	long := strings.Join([]string{label, label, label, label[:61]}, ".") // 253
	for name, want := range map[string]bool{
		"docker": true, "web.docker": true, "my_app-1.docker": true, "_http._tcp.web.docker": true, "1.2.3": true, "a--b": true,
		label: true, label + "a": false, long: true, long + "a": false,
		"": false, ".": false, "web.docker.": false, ".docker": false, "a..b": false, "Web.docker": false,
		"-a.docker": false, "a-.docker": false, "-": false, "a b": false, "a\\.b": false, "ä.docker": false, "a/b": false, "*.docker": false,
	} {
		if got := ValidName(name); got != want {
			t.Errorf("ValidName(%q) = %v", name, got)
		}
	}
}

// FuzzValidName: whatever is valid can be asked for and is found, whatever is not never enters the zone.
func FuzzValidName(f *testing.F) {
	for _, name := range []string{"web.docker", "A.docker", "a..docker", "a\\.docker", "docker", "ns.docker", strings.Repeat("a.", 123) + "docker"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		z := NewZone(ZoneConfig{Domains: []string{"docker"}})
		z.Update(map[string]*Record{name: {Addrs: addrs("172.17.0.2")}})
		inside := strings.HasSuffix(name, ".docker") && name != "ns.docker"
		if got, want := z.Len() == 1, inside && ValidName(name); got != want {
			t.Fatalf("%q taken: %v, want %v", name, got, want)
		}
		if z.Len() == 0 {
			return
		}
		packed, err := question(name, dns.TypeA).Pack()
		if err != nil {
			t.Fatalf("pack question: %v", err)
		}
		var m dns.Msg
		if err := m.Unpack(z.wire(packed, nil, true)); err != nil || len(m.Answer) != 1 {
			t.Fatalf("%q: %v\n%v", name, err, &m)
		}
	})
}

// TestUpdateEqualsFresh: however a zone came to its names and domains, it is the one built with them at once.
func TestUpdateEqualsFresh(t *testing.T) {
	lists := [][]string{{"docker", "b.c.docker", "test"}, {"docker"}, {"b.c.docker", "c.docker", "docker"}, {"test", "ns.docker", "docker"}}
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		cfg := ZoneConfig{Domains: lists[0], Server: netip.MustParseAddr("127.0.0.1")}
		z, all := NewZone(cfg), make(map[string]*Record)
		for range 1 + rnd.IntN(40) {
			if rnd.IntN(10) == 0 {
				cfg.Domains = lists[rnd.IntN(len(lists))]
				z.SetDomains(cfg.Domains)
				maps.DeleteFunc(all, func(name string, _ *Record) bool { return !claimable(cfg, name) })
			}
			changed := make(map[string]*Record)
			for range rnd.IntN(4) {
				name := randomName(rnd)
				if rnd.IntN(3) > 0 {
					changed[name] = randomRecord(rnd)
				} else {
					changed[name] = nil
				}
				if claimable(cfg, name) {
					all[name] = changed[name]
				}
			}
			before := z.serial.Load()
			z.Update(changed)
			if z.serial.Load()-before > 1 {
				t.Fatalf("seed %d: serial moved from %d to %d", seed, before, z.serial.Load())
			}
			if rnd.IntN(4) == 0 {
				withdraw(t, z, all, randomName(rnd), randomName(rnd))
			}
		}
		fresh := NewZone(cfg)
		fresh.Update(all)
		if got, want := dump(z), dump(fresh); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d:\n got %v\nwant %v", seed, got, want)
		}
		if z.Len() != fresh.Len() {
			t.Fatalf("seed %d: Len %d, fresh %d", seed, z.Len(), fresh.Len())
		}
		// And back: nothing is left of what is removed.
		for name := range all {
			all[name] = nil
		}
		z.Update(all)
		if got, want := dump(z), dump(NewZone(cfg)); !reflect.DeepEqual(got, want) || z.Len() != 0 {
			t.Fatalf("seed %d: emptied zone:\n got %v\nwant %v", seed, got, want)
		}
	}
}

// withdraw has a name withdrawn, and of those that answer the same all but one. With it goes nothing else.
func withdraw(t *testing.T, z *Zone, all map[string]*Record, name, kept string) {
	t.Helper()
	answer := func(name string) string {
		if all[name] == nil {
			return ""
		}
		return fmt.Sprintf("%v %x", all[name].Wildcard, z.encode(all[name]))
	}
	has := func(name string) bool {
		wire := appendName(nil, name)
		n, exact := z.table.Load().lookup(wire, hashOf(wire))
		return exact && n.flags&given != 0
	}
	same := answer(name)
	z.Withdraw([]string{name}, func(n string) bool { return n == kept }, time.Time{})
	for n, r := range all {
		switch {
		case r == nil:
		case has(n):
			if n == name && n != kept {
				t.Fatalf("%s is still there", n)
			}
		case n == kept || answer(n) != same:
			t.Fatalf("%s went with %s", n, name)
		default:
			all[n] = nil
		}
	}
}

// claimable says in plain words what Update may take.
func claimable(cfg ZoneConfig, name string) bool {
	inside := false
	for _, d := range cfg.Domains {
		if name == d || name == "ns."+d {
			return false
		}
		inside = inside || strings.HasSuffix(name, "."+d)
	}
	return inside && ValidName(name)
}

// TestTable lets names come and go by the thousand, so that the table grows, shrinks and sheds what is removed.
func TestTable(t *testing.T) {
	z := NewZone(ZoneConfig{Domains: []string{"docker"}})
	rnd := rand.New(rand.NewPCG(1, 1))
	have := make(map[string]bool)
	for step := range 40 {
		changed := make(map[string]*Record)
		for range 500 {
			name := fmt.Sprintf("n%d.docker", rnd.IntN(5000))
			changed[name] = nil
			if step < 20 {
				changed[name] = &Record{Addrs: addrs("10.0.0.1")}
			}
		}
		z.Update(changed)
		for name, r := range changed {
			have[name] = r != nil
		}
		for name, there := range have {
			wire := appendName(nil, name)
			if n, exact := z.table.Load().lookup(wire, hashOf(wire)); exact != there || n == nil {
				t.Fatalf("step %d: %s found %v, want %v", step, name, exact, there)
			}
		}
		tab := z.table.Load()
		if tab.used > len(tab.slots)/16*full || len(tab.slots) > 32768 {
			t.Fatalf("step %d: %d of %d slots", step, tab.used, len(tab.slots))
		}
	}
}

func dump(z *Zone) map[string]string {
	d := make(map[string]string)
	t := z.table.Load()
	for n := range t.all {
		for name := range t.names(n) {
			d[fmt.Sprintf("%q", name)] = fmt.Sprintf("below %d, apex %d, flags %d, %x", t.below(n, name), n.apex(), n.kind(), t.records(nil, n))
		}
	}
	return d
}

func TestSerial(t *testing.T) {
	z := NewZone(ZoneConfig{Domains: []string{"docker"}})
	for i, step := range []struct {
		changed map[string]*Record
		moves   bool
	}{
		{map[string]*Record{"web.docker": {Addrs: addrs("172.17.0.2 172.17.0.3")}}, true},
		{map[string]*Record{"web.docker": {Addrs: addrs("172.17.0.3 172.17.0.2")}}, false},
		{map[string]*Record{"web.docker": {Addrs: addrs("172.17.0.3")}}, true},
		{map[string]*Record{"nope.docker": nil, "example.com": {}}, false},
		{map[string]*Record{"web.docker": {}}, true},
		{map[string]*Record{"web.docker": nil}, true},
		{nil, false},
	} {
		before := z.answer(question("docker", dns.TypeSOA), false).Answer[0].(*dns.SOA).Serial
		z.Update(step.changed)
		after := z.answer(question("docker", dns.TypeSOA), false).Answer[0].(*dns.SOA).Serial
		if (after == before+1) != step.moves || (after == before) == step.moves {
			t.Errorf("step %d: serial %d, then %d", i, before, after)
		}
	}
}

// TestUpdateKeepsNothing changes what was given after the call.
func TestUpdateKeepsNothing(t *testing.T) {
	z := NewZone(ZoneConfig{Domains: []string{"docker"}})
	r := &Record{Addrs: addrs("172.17.0.2")}
	z.Update(map[string]*Record{"web.docker": r})
	r.Addrs[0] = netip.MustParseAddr("6.6.6.6")
	dig(t, z, "web.docker A NOERROR web.docker. 1 IN A 172.17.0.2")
}

// TestReadersSeeWholeRecords: the addresses of one name always belong to one Update, and a name above never vanishes.
func TestReadersSeeWholeRecords(t *testing.T) {
	z := NewZone(ZoneConfig{Domains: []string{"docker"}})
	generation := func(n byte) map[string]*Record {
		changed := make(map[string]*Record)
		for i := range 20 {
			changed[fmt.Sprintf("r%d.shop.docker", i)] = &Record{Wildcard: n%2 == 0, Addrs: []netip.Addr{
				netip.AddrFrom4([4]byte{10, n, 0, 1}), netip.AddrFrom4([4]byte{10, n, 0, 2}), netip.AddrFrom4([4]byte{10, n, 0, 3})}}
		}
		return changed
	}
	z.Update(generation(0))
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			var last [20]byte
			for i := 0; ; i = (i + 1) % 20 {
				select {
				case <-done:
					return
				default:
				}
				m := exchange(t, z, question(fmt.Sprintf("r%d.shop.docker", i), dns.TypeA), true)
				if len(m.Answer) != 3 {
					t.Errorf("got\n%v", m)
					return
				}
				n := m.Answer[0].(*dns.A).A[1]
				for _, rr := range m.Answer {
					if rr.(*dns.A).A[1] != n {
						t.Errorf("two updates in one answer:\n%v", m)
						return
					}
				}
				if n < last[i] {
					t.Errorf("r%d is of update %d after it was of %d", i, n, last[i])
					return
				}
				last[i] = n
				if m := exchange(t, z, question("shop.docker", dns.TypeA), true); m.Rcode != dns.RcodeSuccess {
					t.Errorf("shop.docker: %v", m)
					return
				}
				exchange(t, z, question("y.other.docker", dns.TypeA), true) // walks up names that come and go
			}
		})
	}
	for n := byte(1); n < 200; n++ {
		z.Update(generation(n))
		z.Update(map[string]*Record{"other.docker": {}, "x.y.other.docker": {}})
		z.Update(map[string]*Record{"other.docker": nil, "x.y.other.docker": nil})
		if n%10 == 0 {
			z.SetDomains([]string{"docker", fmt.Sprintf("d%d", n)})
		}
	}
	close(done)
	readers.Wait()
}

// TestRotation: each address is first equally often, also with readers side by side that ask AAAA between.
func TestRotation(t *testing.T) {
	z := NewZone(ZoneConfig{Domains: []string{"docker"}})
	z.Update(map[string]*Record{"web.docker": {Addrs: addrs("172.17.0.2 172.17.0.3 172.17.0.4 fd00::1 fd00::2")}})
	var mu sync.Mutex
	first := make(map[string]int)
	var readers sync.WaitGroup
	for range 6 {
		readers.Go(func() {
			for range 50 {
				z.answer(question("web.docker", dns.TypeAAAA), false) // turns on its own
				m := z.answer(question("web.docker", dns.TypeA), false)
				mu.Lock()
				first[m.Answer[0].(*dns.A).A.String()]++
				mu.Unlock()
			}
		})
	}
	readers.Wait()
	if want := map[string]int{"172.17.0.2": 100, "172.17.0.3": 100, "172.17.0.4": 100}; !reflect.DeepEqual(first, want) {
		t.Errorf("first: %v", first)
	}
}

// TestRotationOfCutReplies: a reply that does not fit takes one turn, not one for each way that was tried.
func TestRotationOfCutReplies(t *testing.T) {
	z := testZone()
	for i := range 5 {
		m := exchange(t, z, question("many.docker", dns.TypeA), true)
		if got, want := m.Answer[0].(*dns.A).A.String(), fmt.Sprintf("172.18.0.%d", i); got != want || !m.Truncated {
			t.Errorf("query %d: first is %s, want %s", i, got, want)
		}
	}
}

func addrs(text string) (as []netip.Addr) {
	for a := range strings.FieldsSeq(text) {
		as = append(as, netip.MustParseAddr(a))
	}
	return as
}

// randomName comes from few labels, so that names meet, contain each other, and hit apexes and name servers.
func randomName(rnd *rand.Rand) string {
	labels := []string{"a", "b", "c", "ns", "docker", "web_1", "test"}
	name := []string{"docker", "docker", "docker", "b.c.docker", "test", "com"}[rnd.IntN(6)]
	for range rnd.IntN(4) {
		name = labels[rnd.IntN(len(labels))] + "." + name
	}
	return name
}

func randomRecord(rnd *rand.Rand) *Record {
	r := &Record{Wildcard: rnd.IntN(3) == 0, TTL: time.Duration(rnd.IntN(4)) * time.Second}
	for range rnd.IntN(4) {
		b := byte(rnd.IntN(3))
		if rnd.IntN(2) == 0 {
			r.Addrs = append(r.Addrs, netip.AddrFrom4([4]byte{172, 17, 0, b}))
		} else {
			r.Addrs = append(r.Addrs, netip.AddrFrom16([16]byte{0: 0xfd, 15: b}))
		}
	}
	for range max(0, rnd.IntN(6)-3) {
		r.PTR = append(r.PTR, randomName(rnd))
		r.TXT = append(r.TXT, strings.Repeat("x", rnd.IntN(3)*200)+fmt.Sprint(rnd.IntN(2)))
		r.SRV = append(r.SRV, SRV{uint16(rnd.IntN(2)), 1, 80, randomName(rnd)})
	}
	return r
}
