package resolver

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// etcResolverPath is the folder of resolver(5) on macOS. configd takes every file in it for a resolver, hidden and
// half-written ones too; the file's name is the domain, unless a line in it says another.
const etcResolverPath = "/etc/resolver"

// fileMark starts each file of ours.
const (
	fileMark = "# fairlead:"
	fileHead = fileMark + " names in this domain are asked here; removed by: fairlead teardown-network\n"
)

// multicastDomains are asked by multicast on macOS, whatever a file says; localhost is answered without asking.
var multicastDomains = []string{"local", "localhost", "254.169.in-addr.arpa", "8.e.f.ip6.arpa", "9.e.f.ip6.arpa", "a.e.f.ip6.arpa", "b.e.f.ip6.arpa"}

// renderEtcResolver is one file for each domain.
func renderEtcResolver(domains []string, server netip.AddrPort) (items []Item, err error) {
	switch addr := server.Addr(); {
	case addr != netip.AddrFrom4([4]byte{127, 0, 0, 1}) && addr != netip.IPv6Loopback():
		// configd compares with these two: another server's A and AAAA are not asked for while the Mac is offline.
		return nil, fmt.Errorf("macOS asks %v only while the network has that family; use --dns-listen 127.0.0.1:%d", addr, DefaultListen(EtcResolver).Port())
	case server.Port() == 5353:
		return nil, fmt.Errorf("macOS takes port 5353 for multicast and never asks it; use --dns-listen %v", DefaultListen(EtcResolver))
	case server.Port() == 53:
		return nil, fmt.Errorf("port 53 takes the DNS from VMs and from Internet Sharing; use --dns-listen %v", DefaultListen(EtcResolver))
	}
	for _, d := range domains {
		if i := slices.IndexFunc(multicastDomains, func(m string) bool { return d == m || strings.HasSuffix(d, "."+m) }); i >= 0 {
			return nil, fmt.Errorf("domain %q: macOS asks for names in %s without resolver files; use another domain", d, multicastDomains[i])
		}
		items = append(items, Item{EtcResolver, etcResolverPath + "/" + d, fmt.Sprintf("%snameserver %v\nport %d\n", fileHead, server.Addr(), server.Port())})
	}
	return items, nil
}

// resolverFile is what configd reads in a file of /etc/resolver.
type resolverFile struct {
	domain  string   // lower case
	servers []string // three at most
	port    uint16   // 0: not said, which is 53
}

// parseResolverFile reads a file by the rules of configd's dnsinfo_flatfile.c: exactly one blank or tab between keyword and
// value, the first line of a keyword wins, three nameservers. ok is false when the file makes no resolver.
func parseResolverFile(name, content string) (f resolverFile, ok bool) {
	f.domain = strings.ToLower(name)
	seen := map[string]bool{}
	for line := range strings.Lines(content) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		i := strings.IndexAny(line, " \t")
		if i < 0 {
			continue
		}
		keyword, value := strings.ToLower(line[:i]), line[i+1:]
		if keyword != "options" && keyword != "search" && keyword != "sortlist" { // those go to the line's end
			if end := strings.IndexAny(value, " \t"); end >= 0 {
				value = value[:end]
			}
		}
		if value == "" {
			continue
		}
		switch keyword {
		case "nameserver":
			if len(f.servers) < 3 {
				f.servers = append(f.servers, value)
			}
		case "domain":
			if !seen[keyword] {
				f.domain = strings.ToLower(strings.TrimRight(value, "."))
			}
		case "port":
			if n, err := strconv.ParseUint(value, 10, 16); err == nil && !seen[keyword] {
				f.port = uint16(n)
			}
		case "flags", "interface", "options", "search", "search_order", "sortlist", "timeout":
		default:
			continue
		}
		seen[keyword], ok = true, true
	}
	return f, ok
}

// fileEntries is what a regular file in the folder dir means for us: ours by its mark, or in the way of the domain that it
// is named for, and of the one that it says.
func fileEntries(dir, name, content string) []Entry {
	if strings.HasPrefix(content, fileMark) && name == strings.ToLower(name) {
		return []Entry{{Item: Item{EtcResolver, path.Join(dir, name), content}}}
	}
	f, resolves := parseResolverFile(name, content)
	why := "fairlead did not make it"
	if resolves {
		why += fmt.Sprintf(", and it says where names in %.253q are asked", f.domain)
		if len(f.servers) > 0 {
			why += fmt.Sprintf(" (%.60q)", f.servers[0])
		}
	}
	entries := []Entry{foreignFile(dir, name, why)}
	if at := path.Join(dir, path.Base(path.Clean("/"+f.domain))); resolves && at != entries[0].Key {
		entries = append(entries, Entry{Item{EtcResolver, at, ""}, entries[0].Foreign})
	}
	return entries
}

// foreignFile is an entry for the domain that a name says; names and domains are the same in upper and lower case.
func foreignFile(dir, name, why string) Entry {
	at := path.Join(dir, name)
	return Entry{Item{EtcResolver, path.Join(dir, strings.ToLower(name)), ""}, fmt.Sprintf("%s: %s; if you do not need it: rm %s", at, why, at)}
}

// nameOf returns the file name of a key of ours; a key from elsewhere (a journal is a file) is refused.
func nameOf(dir, key string) (string, error) {
	name, below := strings.CutPrefix(key, dir+"/")
	if good, err := canonical([]string{name}); !below || err != nil || good[0] != name {
		return "", errors.New("no name for a file of " + dir)
	}
	return name, nil
}
