package dnsserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Reply is a server's answer in text.
type Reply struct {
	Rcode     string        `json:"rcode"`     // "NOERROR", "NXDOMAIN", "REFUSED", ...
	Answers   []string      `json:"answers"`   // records in zone-file form, fields parted by tabs
	Authority []string      `json:"authority"` // likewise; the SOA when there is no answer
	Elapsed   time.Duration `json:"elapsed_ns"`
}

// ErrQuestion is wrapped by errors about a question that nobody can be asked.
var ErrQuestion = errors.New("no question")

// CheckQuestion tells whether Query can ask for name and qtype.
func CheckQuestion(name, qtype string) error {
	_, err := parseQuestion(name, qtype)
	return err
}

func parseQuestion(name, qtype string) (dns.Question, error) {
	rrtype, ok := parseType(cmp.Or(qtype, "A"))
	if !ok {
		return dns.Question{}, fmt.Errorf("%w: there is no record type %q", ErrQuestion, qtype)
	}
	if _, ok := dns.IsDomainName(name); !ok || name == "" {
		return dns.Question{}, fmt.Errorf("%w: %q is no domain name", ErrQuestion, name)
	}
	return dns.Question{Name: dns.Fqdn(name), Qtype: rrtype, Qclass: dns.ClassINET}, nil
}

// Query asks one server one question, over UDP and, when the reply was cut short, again over TCP. The type is a mnemonic ("A",
// "soa", "TYPE65"), "" means A. An rcode other than NOERROR is a Reply, not an error. Without a deadline in ctx each try
// takes 2 s at most.
func Query(ctx context.Context, server netip.AddrPort, name, qtype string) (Reply, error) {
	q, err := parseQuestion(name, qtype)
	if err != nil {
		return Reply{}, err
	}
	req := new(dns.Msg).SetQuestion(q.Name, q.Qtype)
	req.SetEdns0(ednsSize, false)

	begin := time.Now()
	var m *dns.Msg
	for _, network := range []string{"udp", "tcp"} {
		client := dns.Client{Net: network}
		m, _, err = client.ExchangeContext(ctx, req, server.String())
		if err != nil {
			return Reply{}, fmt.Errorf("query %s %s at %s over %s: %w", name, dns.Type(q.Qtype), server, network, err)
		}
		if !m.Truncated {
			break
		}
	}
	return Reply{
		Rcode:     rcodeText(m.Rcode),
		Answers:   recordTexts(m.Answer),
		Authority: recordTexts(m.Ns),
		Elapsed:   time.Since(begin),
	}, nil
}

// parseType reads a type mnemonic or the generic form of RFC 3597, 5.
func parseType(s string) (uint16, bool) {
	s = strings.ToUpper(s)
	if t, ok := dns.StringToType[s]; ok {
		return t, true
	}
	var t uint16
	n, _ := fmt.Sscanf(s, "TYPE%d", &t)
	return t, n == 1 && s == fmt.Sprintf("TYPE%d", t)
}

func rcodeText(rcode int) string {
	switch text, ok := dns.RcodeToString[rcode]; {
	case rcode == dns.RcodeBadVers:
		return "BADVERS" // shares its number with TSIG's BADSIG, which a reply's header never carries
	case ok:
		return text
	default:
		return fmt.Sprintf("RCODE%d", rcode)
	}
}

func recordTexts(rrs []dns.RR) []string {
	texts := make([]string, 0, len(rrs)) // never nil: JSON readers get [] for none
	for _, rr := range rrs {
		texts = append(texts, rr.String())
	}
	return texts
}
