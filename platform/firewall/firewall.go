// Package firewall lets one host's packets through to the containers of the engine beside it, and takes that back.
//
// It runs in the VM, in the pilot. It changes as little as the engine's firewall generation needs, for given source
// addresses only; every rule carries our tag and nothing without the tag is touched. What is needed is decided by pure
// functions (plan.go) from a picture of the kernel's rules; the *_linux.go files take that picture and make the changes.
package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
)

// Admission is what shall be true: packets from Sources reach the container Subnets, and the answers come back. Without
// sources nothing is let through.
type Admission struct {
	Tag     string         `json:"tag"` // 8 lower-case hex digits: whose rules
	Sources []netip.Addr   `json:"sources"`
	Subnets []netip.Prefix `json:"subnets"`
}

// Backend is the firewall generation by which the engine closes its containers.
type Backend string

const (
	None           Backend = "none"            // forwarding is not closed: no engine, or Engine 1.12 and older
	IPTablesNFT    Backend = "iptables-nft"    // iptables rules kept by nf_tables
	IPTablesLegacy Backend = "iptables-legacy" // iptables rules kept by x_tables: boot2docker, Alpine, LinuxKit
	NFTables       Backend = "nftables"        // Engine 29's own nf_tables table
	Unknown        Backend = "unknown"         // forwarding is closed, by somebody else than the engine
)

// State is what the kernel was seen to hold afterwards.
type State struct {
	Backend Backend
	Open    bool           // the sources' packets get through, those of one family at least
	Closed  []Closed       // the families that were asked for and are not open, IPv4 first
	Changed bool           // something had to be added or removed
	Rules   []string       // ours, as nft would print them; "legacy" before those of x_tables
	Hint    string         // what to do where Open is not enough, for people
	Deaf    []netip.Prefix // subnets of which this machine forwards nothing, not even answers
	Addrs   []netip.Addr   // this machine's lasting addresses where the sources' packets come in, sorted; not nil once they were asked for
}

// Closed is an IP version whose packets do not get through.
type Closed struct {
	IPv6 bool
	Err  error
	Hint string // what to do about it, for people
}

// ErrForeign says that chains close forwarding which are not the engine's, such as firewalld's. Into them Admit does not
// write, and an accept elsewhere does not help against them.
var ErrForeign = errors.New("forwarding is closed by rules that are not the engine's")

// Bounds of an admission: an engine has some thirty networks unless it is told otherwise.
const (
	maxSources = 16
	maxSubnets = 1024
)

// of is the part of a that is of one family.
func (a Admission) of(family string) Admission {
	a.Sources = slices.DeleteFunc(slices.Clone(a.Sources), func(s netip.Addr) bool { return familyOf(s) != family })
	a.Subnets = slices.DeleteFunc(slices.Clone(a.Subnets), func(n netip.Prefix) bool { return familyOf(n.Addr()) != family })
	return a
}

// nothing tells whether a lets nothing through.
func (a Admission) nothing() bool { return len(a.Sources) == 0 || len(a.Subnets) == 0 }

var tagForm = regexp.MustCompile(`^[0-9a-f]{8}$`)

func checkTag(tag string) error {
	if !tagForm.MatchString(tag) {
		return fmt.Errorf("tag %q is not 8 lower-case hex digits", tag)
	}
	return nil
}

// check refuses what could open more than a host's way to its containers.
func (a Admission) check() error {
	if err := checkTag(a.Tag); err != nil {
		return err
	}
	if len(a.Sources) > maxSources || len(a.Subnets) > maxSubnets {
		return fmt.Errorf("%d sources and %d subnets exceed %d and %d", len(a.Sources), len(a.Subnets), maxSources, maxSubnets)
	}
	for _, n := range a.Subnets {
		if !n.IsValid() || n != n.Masked() || n.Bits() == 0 || n.Addr().Is4In6() {
			return fmt.Errorf("%v is not a subnet", n)
		}
	}
	for _, s := range a.Sources {
		if !s.IsGlobalUnicast() || s.Zone() != "" || s.Is4In6() {
			return fmt.Errorf("source %v is not the address of a host", s)
		}
		for _, n := range a.Subnets {
			if n.Contains(s) {
				return fmt.Errorf("source %v lies in the container subnet %v", s, n)
			}
		}
	}
	return nil
}
