package doctor

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// message is a reply with this id, rcode and addresses.
func message(t testing.TB, id uint16, rcode dnsmessage.RCode, addrs ...string) []byte {
	name := dnsmessage.MustNewName("web.docker.")
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, Response: true, RCode: rcode},
		Questions: []dnsmessage.Question{{Name: name, Type: typeA, Class: dnsmessage.ClassINET}},
	}
	for _, a := range addrs {
		addr := netip.MustParseAddr(a)
		r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET}}
		if addr.Is4() {
			r.Body = &dnsmessage.AResource{A: addr.As4()}
		} else {
			r.Body = &dnsmessage.AAAAResource{AAAA: addr.As16()}
		}
		m.Answers = append(m.Answers, r)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadReply(t *testing.T) {
	for _, c := range []struct {
		name  string
		reply []byte
		rcode string
		addrs string
		fails bool
	}{
		{"addresses", message(t, 7, dnsmessage.RCodeSuccess, "172.17.0.3", "fd00::2", "172.17.0.2", "172.17.0.2"), "NOERROR", "172.17.0.2, 172.17.0.3, fd00::2", false},
		{"none", message(t, 7, dnsmessage.RCodeSuccess), "NOERROR", "", false},
		{"denied", message(t, 7, dnsmessage.RCodeNameError), "NXDOMAIN", "", false},
		{"refused", message(t, 7, dnsmessage.RCodeRefused), "REFUSED", "", false},
		{"odd", message(t, 7, 11), "RCODE11", "", false},
		{"another's", message(t, 8, dnsmessage.RCodeSuccess), "", "", true},
		{"no DNS", []byte("220 mail.example.com ESMTP\r\n"), "", "", true},
		{"nothing", nil, "", "", true},
	} {
		rcode, addrs, err := readReply(c.reply, 7)
		if rcode != c.rcode || show(addrs) != c.addrs || (err != nil) != c.fails {
			t.Errorf("%s: %q, %v, %v", c.name, rcode, addrs, err)
		}
	}
}

// TestAsk: a lost packet is asked for again; who closes the connection is told as an error.
func TestAsk(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go func() {
		buf := make([]byte, 512)
		for n := 0; ; n++ {
			_, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if n > 0 { // the first is lost
				pc.WriteTo(message(t, uint16(buf[0])<<8|uint16(buf[1]), dnsmessage.RCodeSuccess, "172.17.0.2"), from)
			}
		}
	}()
	r := ask(context.Background(), "udp", netip.MustParseAddrPort(pc.LocalAddr().String()), "web.docker", typeA)
	if r.Err != nil || r.Rcode != "NOERROR" || show(r.Addrs) != "172.17.0.2" {
		t.Errorf("udp: %+v", r)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	if r := ask(context.Background(), "tcp", netip.MustParseAddrPort(l.Addr().String()), "web.docker", typeA); r.Err == nil {
		t.Errorf("tcp: %+v", r)
	}
	if r := ask(context.Background(), "udp", netip.MustParseAddrPort("127.0.0.1:1"), string(make([]byte, 300)), typeA); r.Err == nil {
		t.Errorf("a name of 300 bytes: %+v", r)
	}
}

func FuzzReadReply(f *testing.F) {
	f.Add(message(f, 7, dnsmessage.RCodeSuccess, "172.17.0.2", "fd00::2"))
	f.Add(message(f, 7, dnsmessage.RCodeNameError))
	f.Fuzz(func(t *testing.T, b []byte) { readReply(b, 7) })
}
