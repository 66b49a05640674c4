package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-dev/fairlead/agent"
)

// ranges proposes ranges that are free on this host, and what to write where, when a network clashes with something here.
func (f Facts) ranges() (c Check, any bool) {
	var refused []agent.Subnet
	for _, s := range f.Status.Subnets {
		if s.State == agent.Refused && s.Prefix.Addr().Is4() {
			refused = append(refused, s)
		}
	}
	if len(refused) == 0 || f.TableErr != nil {
		return c, false
	}
	taken := slices.Clone(f.Status.Subnets)
	free := func(bits int) (netip.Prefix, bool) {
		p, ok := agent.FreeRange(bits, f.Links, f.Nameservers, f.Table, taken)
		taken = append(taken, agent.Subnet{Prefix: p})
		return p, ok
	}
	var lines []string
	settings, below := map[string][]string{}, map[string][]string{} // by engine: of daemon.json, and what stands for it elsewhere
	var engines []string
	for _, s := range refused[:min(len(refused), 8)] {
		p, ok := free(24)
		if !ok {
			return warn("free ranges", "ip route", "no private range of this host has room"), true
		}
		if !slices.Contains(engines, s.Engine) {
			engines = append(engines, s.Engine)
		}
		bip := netip.PrefixFrom(p.Addr().Next(), p.Bits())
		if s.Network == "bridge" {
			settings[s.Engine] = append(settings[s.Engine], fmt.Sprintf(`"bip": "%v"`, bip))
			below[s.Engine] = append(below[s.Engine],
				fmt.Sprintf("  a new docker-machine:   docker-machine create --engine-opt bip=%v NAME", bip),
				fmt.Sprintf("  boot2docker's profile:  EXTRA_ARGS=\"--bip=%v\"", bip),
				fmt.Sprintf("  dvm.conf:               export DOCKER0_CIDR=%v", bip))
			continue
		}
		name := word(s.Network)
		_, key, composed := strings.Cut(name, "_") // shop_default is the network "default" of the project "shop"
		if !composed {
			key = name
		}
		lines = append(lines,
			fmt.Sprintf("network %s, by hand:  docker network create --subnet %v %s", s.Network, p, name),
			fmt.Sprintf("  in a compose file:  networks: {%s: {ipam: {config: [{subnet: %v}]}}}", key, p))
	}
	var whole []string // for an engine that chose the range of a network itself, ranges for all new ones, too
	for _, e := range engines {
		if slices.ContainsFunc(refused, func(s agent.Subnet) bool { return s.Engine == e && s.Network != "bridge" }) {
			if pool, ok := free(16); ok {
				settings[e] = append(settings[e], fmt.Sprintf(`"default-address-pools": [{"base": "%v", "size": 24}]`, pool))
			}
		}
		if len(settings[e]) > 0 {
			whole = append(append(whole, fmt.Sprintf("engine %s, daemon.json:   {%s}", e, strings.Join(settings[e], ", "))), below[e]...)
		}
	}
	lines = append(whole, lines...)
	c = warn("free ranges", "docker network rm NETWORK", "restart the engine after a change of its settings; a network takes a new range when it is removed and made anew")
	c.Lines = lines
	return c, true
}
