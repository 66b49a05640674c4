// Package tunnel carries frames between fairlead on the host and its pilot in the engine's VM, over one byte stream.
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
)

// Admission is what the host asks of the VM: let packets from Sources through to the container Subnets, and the answers
// back. It replaces the admission before it; one without sources takes everything back.
type Admission struct {
	Tag     string         `json:"tag"` // 8 lower-case hex digits: whose rules
	Sources []netip.Addr   `json:"sources"`
	Subnets []netip.Prefix `json:"subnets"`
}

// Report is what the VM's firewall was seen to be afterwards: read back, not remembered.
type Report struct {
	Backend string   `json:"backend"`         // "none", "iptables-nft", "iptables-legacy", "nftables"; "" when it could not be read
	Open    bool     `json:"open"`            // the sources' packets get through to the subnets
	Changed bool     `json:"changed"`         // something had to be added or removed just now
	Rules   []string `json:"rules,omitempty"` // ours, as nft would print them
	Error   string   `json:"error,omitempty"`
	Hint    string   `json:"hint,omitempty"` // what to do about it, for people
	Version string   `json:"version"`        // the pilot's
}

// The control frames' payloads. An answer bears the ID of its request; 0 is a report nobody asked for.
type (
	request struct {
		ID        uint64    `json:"id"`
		Admission Admission `json:"admission"`
	}
	answer struct {
		ID     uint64 `json:"id"`
		Report Report `json:"report"`
	}
)

// WriteReport writes one report frame, for a pilot that is held without a stream.
func WriteReport(w io.Writer, r Report) error {
	f, err := reportFrame(0, r)
	if err != nil {
		return err
	}
	_, err = w.Write(appendFrame(nil, f))
	return err
}

// ReadReport reads the one report frame of a pilot that is held without a stream. The error is io.EOF when the stream
// ends before it.
func ReadReport(r io.Reader) (Report, error) {
	f, err := readFrame(r)
	if err != nil {
		return Report{}, err
	}
	a, err := parseReport(f)
	return a.Report, err
}

func reportFrame(id uint64, r Report) (frame, error) {
	// Rules may be many more than people read; a frame is bounded.
	const most = 256
	if n := len(r.Rules); n > most {
		r.Rules = append(r.Rules[:most:most], fmt.Sprintf("and %d more", n-most))
	}
	return jsonFrame(kindReport, answer{ID: id, Report: r})
}

func parseReport(f frame) (a answer, err error) {
	return a, parseJSON(f, kindReport, &a)
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
