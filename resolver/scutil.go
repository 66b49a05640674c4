package resolver

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// scutilResolver is one of the servers that macOS asks, as `scutil --dns` shows it.
type scutilResolver struct {
	domain  string // lower case; "" is the default
	servers []netip.Addr
	port    uint16 // 0: not shown, which is 53
	mdns    bool   // asked by multicast
	order   int    // of two for one domain the lower is asked, then the first
}

// parseScutil reads `scutil --dns` (configd's dnsinfo_internal.h prints it): who is asked by programs that bind to no link. The
// lists for queries of one link or service follow and are left out. Lines that it does not know say nothing.
func parseScutil(out string) (all []scutilResolver) {
	listed := false
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(line, "DNS configuration") {
			listed = !strings.Contains(line, "(")
		}
		if !listed {
			continue
		}
		if strings.HasPrefix(line, "resolver #") {
			all = append(all, scutilResolver{})
			continue
		}
		key, value, ok := strings.Cut(line, " : ")
		if !ok || len(all) == 0 {
			continue
		}
		r := &all[len(all)-1]
		switch key, value := strings.TrimSpace(key), strings.TrimSpace(value); key {
		case "domain":
			r.domain = strings.ToLower(strings.TrimSuffix(value, "."))
		case "options":
			r.mdns = slices.Contains(strings.Fields(value), "mdns")
		case "port":
			// Printed as a signed short (%hd): 55353 is shown as -10183.
			if n, err := strconv.ParseInt(value, 10, 32); err == nil && n >= -1<<15 && n < 1<<16 {
				r.port = uint16(n)
			}
		case "order":
			r.order, _ = strconv.Atoi(value)
		default:
			if strings.HasPrefix(key, "nameserver[") {
				if a, err := netip.ParseAddr(value); err == nil {
					r.servers = append(r.servers, a)
				}
			}
		}
	}
	return all
}

// inForce says why macOS, which asks those, does not ask w.Server for all of w.Domains; nil: it does.
func inForce(asked []scutilResolver, w Want) error {
	domains, err := canonical(w.Domains)
	if err != nil {
		return err
	}
	var missing []string
	for _, d := range domains {
		var of []scutilResolver
		for _, r := range asked {
			if r.domain == d {
				of = append(of, r)
			}
		}
		if len(of) == 0 {
			missing = append(missing, d)
			continue
		}
		r := slices.MinFunc(of, func(a, b scutilResolver) int { return cmp.Compare(a.order, b.order) }) // of equals the first
		if port := cmp.Or(r.port, 53); r.mdns || len(r.servers) == 0 || r.servers[0] != w.Server.Addr() || port != w.Server.Port() {
			whom := "nobody"
			switch {
			case r.mdns:
				whom = "all neighbours, by multicast"
			case len(r.servers) > 0:
				whom = netip.AddrPortFrom(r.servers[0], port).String()
			}
			return fmt.Errorf("for names in %s it asks %s instead of %v", d, whom, w.Server)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("it has not taken up the file for %s", strings.Join(missing, ", "))
	}
	return nil
}
