// Package tunnel carries frames between fairlead on the host and its pilot in the engine's VM, over one byte stream: what
// is asked and answered, and IP packets between a TUN device on each side.
//
// The stream is a lease. Lead, on the host, asks the pilot to admit this host's packets; Follow, in the VM, does so and
// returns when the stream ends or falls silent, and then the pilot takes everything back. Both sides say that they are
// alive every 5 s and give the other up after 15 s without a byte: a stream can hang without ending (the engine restarted
// with live-restore, half-open TCP).
package tunnel

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
)

// Admission is what the host asks of the VM: let packets from Sources through to the container Subnets, and the answers
// back. It replaces the admission before it; one without sources takes everything back.
type Admission struct {
	Tag     string         `json:"tag"` // 8 lower-case hex digits: whose rules
	Sources []netip.Addr   `json:"sources"`
	Subnets []netip.Prefix `json:"subnets"`
	// Probe are containers in Subnets, to be asked for a sign of life where no rule tells whether they are reached: over a
	// link with Inject.
	Probe []netip.Addr `json:"probe,omitempty"`
}

// Report is what the VM's firewall was seen to be afterwards: read back, not remembered.
type Report struct {
	Backend string   `json:"backend"`         // "none", "iptables-nft", "iptables-legacy", "nftables", "inject" (no rules: Link.Inject); "" when it could not be read
	Open    bool     `json:"open"`            // the sources' packets get through to the subnets, of one IP version at least
	Changed bool     `json:"changed"`         // something had to be added or removed just now
	Rules   []string `json:"rules,omitempty"` // ours, as nft would print them
	Error   string   `json:"error,omitempty"`
	Hint    string   `json:"hint,omitempty"` // what to do about it, for people
	// Silent are those of Admission.Probe that were asked and gave no answer, with the backend "inject": what else is in
	// their subnets is not reached either, as in an internal network.
	Silent []netip.Addr   `json:"silent,omitempty"`
	Closed []Closed       `json:"closed,omitempty"` // the IP versions that were asked for and do not get through; Open is about the other
	Deaf   []netip.Prefix `json:"deaf,omitempty"`   // subnets of which the VM forwards nothing, not even answers
	// Addrs are the VM's lasting addresses where the sources' packets come in; nil when it was not asked for an admission.
	Addrs []netip.Addr `json:"addrs,omitempty"`
}

// Closed is an IP version whose packets do not get through.
type Closed struct {
	IPv6  bool   `json:"ipv6"`
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"` // what to do about it, for people
}

// Link is a point-to-point link for IP packets between the host and the VM: one IPv4 address and one IPv6 address at each
// end, or one of a family that both ends have. They should be private and nobody else's.
type Link struct {
	Tag   string       `json:"tag"` // as in Admission
	Host  []netip.Addr `json:"host"`
	Pilot []netip.Addr `json:"pilot"`
	MTU   int          `json:"mtu"` // 1280 to 65535; 0 is the largest that both ends can
	// Inject asks that the host's packets enter the VM as its own, past all rules about forwarding, and that no rule is
	// made. Only what was admitted is let in. The pilot needs CAP_NET_RAW for it. Internal networks do not answer then, and
	// TCP to the containers comes in segments of their networks' size.
	Inject bool `json:"inject,omitempty"`
	// Partial says that the host gives and takes packets whose TCP or UDP checksum is yet to be completed. Tunnel sets it.
	Partial bool `json:"partial,omitempty"`
}

// check refuses what is no link.
func (l Link) check() error {
	if !tagForm.MatchString(l.Tag) {
		return fmt.Errorf("tag %q is not 8 lower-case hex digits", l.Tag)
	}
	if len(l.Host) == 0 || len(l.Host) > 2 || len(l.Pilot) != len(l.Host) {
		return fmt.Errorf("a link has an address of one or two families at each end, not %v and %v", l.Host, l.Pilot)
	}
	for i, a := range slices.Concat(l.Host, l.Pilot) {
		if !a.IsGlobalUnicast() || a.Zone() != "" || a.Is4In6() {
			return fmt.Errorf("%v is no address for a link", a)
		}
		if o := l.Pilot[i%len(l.Host)]; a.Is6() != o.Is6() || i < len(l.Host) && a == o {
			return fmt.Errorf("%v and %v do not make a link", a, o)
		}
	}
	if len(l.Host) == 2 && l.Host[0].Is6() == l.Host[1].Is6() {
		return fmt.Errorf("%v and %v are of one family", l.Host[0], l.Host[1])
	}
	if l.MTU < minMTU || l.MTU > maxPacket {
		return fmt.Errorf("mtu %d is not from %d to %d", l.MTU, minMTU, maxPacket)
	}
	return nil
}

const minMTU = 1280 // IPv6 needs it (RFC 8200 5)

var tagForm = regexp.MustCompile(`^[0-9a-f]{8}$`)

// linked is what the VM's end of a link was seen to be.
type linked struct {
	Dev     string       `json:"dev"`
	MTU     int          `json:"mtu"`
	Partial bool         `json:"partial,omitempty"` // Link.Partial was asked for, and the pilot does so too
	Addrs   []netip.Addr `json:"addrs,omitempty"`   // those of Link.Pilot whose peer is behind Dev
	Lacks   string       `json:"lacks,omitempty"`   // why they are not all
	Error   string       `json:"error,omitempty"`   // why there is no link
	Hint    string       `json:"hint,omitempty"`    // what to do about it, for people
}

// The control frames' payloads. A request is for a link, or else an admission. An answer bears the ID of its request; 0 is
// a report nobody asked for.
type (
	request struct {
		ID        uint64    `json:"id"`
		Admission Admission `json:"admission"`
		Link      *Link     `json:"link,omitempty"`
	}
	answer struct {
		ID     uint64  `json:"id"`
		Of     string  `json:"of"` // the sender's sources
		Report Report  `json:"report"`
		Linked *linked `json:"linked,omitempty"`
	}
)

// WriteReport writes one report frame, for a pilot that is held without a stream.
func WriteReport(w io.Writer, r Report) error {
	f, err := answerFrame(answer{Report: r})
	if err != nil {
		return err
	}
	_, err = w.Write(appendFrame(nil, f))
	return err
}

// ReadReport reads the one report frame of a pilot that is held without a stream. The error is io.EOF when the stream
// ends before it.
func ReadReport(r io.Reader) (Report, error) {
	f, err := (&frameReader{Reader: r}).next()
	if err != nil {
		return Report{}, err
	}
	a, err := parseAnswer(f)
	return a.Report, err
}

func answerFrame(a answer) (frame, error) {
	// Rules may be many more than people read; a frame is bounded.
	const most = 256
	if n := len(a.Report.Rules); n > most {
		a.Report.Rules = append(a.Report.Rules[:most:most], fmt.Sprintf("and %d more", n-most))
	}
	a.Of = sourcesSum()
	return jsonFrame(kindAnswer, a)
}

func parseAnswer(f frame) (a answer, err error) {
	if err = parseJSON(f, kindAnswer, &a); err == nil && a.Of != sourcesSum() {
		err = ErrStale
	}
	return a, err
}

func jsonFrame(k kind, v any) (frame, error) {
	payload, err := json.Marshal(v)
	if err != nil {
		return frame{}, fmt.Errorf("encode %v: %w", k, err)
	}
	if len(payload) > maxPayload {
		return frame{}, fmt.Errorf("encode %v: %d bytes exceed the %d of a frame", k, len(payload), maxPayload)
	}
	return frame{k, payload}, nil
}

func parseJSON(f frame, want kind, v any) error {
	if f.kind != want {
		return fmt.Errorf("got %v where %v was due", f.kind, want)
	}
	if err := json.Unmarshal(f.payload, v); err != nil {
		return fmt.Errorf("decode %v: %w", f.kind, err)
	}
	return nil
}
