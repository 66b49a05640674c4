// Package resolver tells this host's OS to ask fairlead for names below the served domains, and only for those.
//
// Render decides what should be there and is pure, as is Diff; Read, Apply and Flush touch the OS, one file per method.
// An entry that somebody else made or edited is never replaced and never deleted.
//
//	Detect -> Method      Want -> Render -> Items wanted
//	Read   -> Entries     Diff(wanted, journal, entries) -> Plan -> journal Plan.Owned -> Apply -> Flush
package resolver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Method is a way in which an OS can be told to ask us.
type Method string

const (
	Auto        Method = "auto"         // a mode only: Detect turns it into one of the others
	None        Method = "none"         // nobody is told; names are answered to whoever asks our port
	Resolved    Method = "resolved"     // Linux: a link of our own in systemd-resolved, with routing-only domains
	EtcResolver Method = "etc-resolver" // macOS: a marked file for each domain in /etc/resolver
	ResolvConf  Method = "resolv.conf"  // Linux: a marked block at the top of /etc/resolv.conf; REFUSED sends glibc on to the next server
	NRPT        Method = "nrpt"         // Windows: rules of our own in the name resolution policy table
)

const (
	linkName       = "fairlead0"        // Item.Key of Resolved
	resolvConfPath = "/etc/resolv.conf" // Item.Key of ResolvConf
)

// Parse reads a --resolver word. The error lists the words that this OS knows.
func Parse(mode string) (Method, error) {
	words := append([]Method{Auto, None}, methods...)
	if m := Method(mode); slices.Contains(words, m) {
		return m, nil
	}
	return "", fmt.Errorf("resolver %q is not known on this OS; it can be one of: %s", mode, strings.Trim(fmt.Sprint(words), "[]"))
}

// DefaultListen is the address on which the DNS server must listen for the OS to be able to ask it with m.
func DefaultListen(m Method) netip.AddrPort {
	switch m {
	case ResolvConf:
		return netip.MustParseAddrPort("127.0.0.1:53") // resolv.conf(5) cannot say a port
	case NRPT:
		return netip.MustParseAddrPort("127.0.0.153:53") // neither can a rule, and 127.0.0.1:53 is every resolver's first choice
	}
	return netip.MustParseAddrPort("127.0.0.1:55353") // free of mDNS (5353) and of other resolvers (53)
}

// Want is what the OS should be told: ask Server for every name in or below Domains.
type Want struct {
	Domains []string // "docker", "17.172.in-addr.arpa"; case and a final dot do not matter
	Server  netip.AddrPort
}

// Item is one thing in the OS that sends names to us. Two Items are the same thing when they are equal.
//
//	{resolved     fairlead0         "127.0.0.1:55353 ~docker ~17.172.in-addr.arpa"}   as resolvectl prints it, one line
//	{resolv.conf  /etc/resolv.conf  "# fairlead: begin ...\nnameserver 127.0.0.1\n# fairlead: end\n"}   the exact bytes
//	{nrpt         HKLM\SYSTEM\...\{GUID}  `ConfigOptions=0x8 ... Name=[".docker"] Version=0x1`}   all values of the key, one line
//	{etc-resolver /etc/resolver/docker  "# fairlead: ...\nnameserver 127.0.0.1\nport 55353\n"}   the exact bytes
type Item struct {
	Method Method `json:"method"`
	Key    string `json:"key"`
	Value  string `json:"value"`
}

// String is one line for people: "resolved fairlead0: 127.0.0.1:55353 ~docker". Comments of a file are not part of it.
func (i Item) String() string {
	var lines []string
	for line := range strings.Lines(i.Value) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return fmt.Sprintf("%s %s: %s", i.Method, i.Key, strings.Join(lines, ", "))
}

// Render says what should be there for w: nothing for None or without domains. It fails where m cannot express w.
func Render(m Method, w Want) ([]Item, error) {
	domains, err := canonical(w.Domains)
	if err != nil {
		return nil, fmt.Errorf("render %s entry: %w", m, err)
	}
	if m == None || len(domains) == 0 {
		return nil, nil
	}
	if !w.Server.IsValid() || w.Server.Port() == 0 || w.Server.Addr().IsUnspecified() || w.Server.Addr().IsMulticast() || w.Server.Addr().Zone() != "" {
		return nil, fmt.Errorf("render %s entry: %v is no address that can be asked; give one like %v", m, w.Server, DefaultListen(m))
	}
	server := netip.AddrPortFrom(w.Server.Addr().Unmap(), w.Server.Port())
	switch m {
	case Resolved:
		return []Item{{m, linkName, server.String() + " ~" + strings.Join(domains, " ~")}}, nil
	case ResolvConf:
		if server.Port() != 53 {
			return nil, fmt.Errorf("render %s entry: a nameserver line cannot carry port %d; use --dns-listen %v",
				m, server.Port(), netip.AddrPortFrom(server.Addr(), 53))
		}
		return []Item{{m, resolvConfPath, renderBlock(domains, server.Addr())}}, nil
	case EtcResolver:
		items, err := renderEtcResolver(domains, server)
		if err != nil {
			return nil, fmt.Errorf("render %s entry: %w", m, err)
		}
		return items, nil
	case NRPT:
		if server.Port() != 53 {
			return nil, fmt.Errorf("render %s entry: a rule cannot carry port %d; use --dns-listen %v", m, server.Port(), DefaultListen(m))
		}
		return renderRules(domains, server.Addr()), nil
	}
	return nil, fmt.Errorf("render %s entry: no such method", m)
}

// canonical lowers, sorts and checks domains. What passes holds letters, digits, "-", "_" and "." alone, so that it can
// neither break out of a line of a file nor name the root and make us the machine's default server.
func canonical(domains []string) ([]string, error) {
	var out []string
	for _, d := range domains {
		name := strings.ToLower(strings.TrimSuffix(d, "."))
		if len(name) > 253 {
			return nil, fmt.Errorf("domain %.40q...: longer than 253 bytes", d)
		}
		for label := range strings.SplitSeq(name, ".") {
			if len(label) == 0 || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
				return nil, fmt.Errorf("domain %q: label %q is not 1 to 63 letters, digits, - or _", d, label)
			}
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
