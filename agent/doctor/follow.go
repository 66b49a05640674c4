package doctor

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/resolver"
)

const maxBearers = 8 // of one name that are followed

// Follow follows one name, or address, link by link from the question to the container, and stops at the first that is broken.
// It is pure.
func Follow(f Facts, name string, who agent.Whois) Report {
	var checks []Check
	add := func(cs ...Check) (broken bool) {
		for _, c := range cs {
			checks = append(checks, c)
			if failed(c) {
				return true
			}
		}
		return false
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	_, notAddr := netip.ParseAddr(name)
	steps := []func() []Check{
		func() []Check { return f.followName(name, who) },
		func() []Check { return f.followBearers(name, who) },
	}
	if notAddr != nil {
		steps = []func() []Check{
			func() []Check { return f.followName(name, who) },
			func() []Check { return []Check{f.followAgent()} },
			f.followResolver,
			func() []Check { return f.followAnswer(name, who) },
			func() []Check { return f.followBearers(name, who) },
		}
	}
	for _, step := range steps {
		if add(step()...) {
			break
		}
	}
	return report(f.Version, checks)
}

func failed(c Check) bool {
	return c.State == Fail || slices.ContainsFunc(c.Checks, failed)
}

// followName is whether the name can be one of ours at all.
func (f Facts) followName(name string, who agent.Whois) []Check {
	if addr, err := netip.ParseAddr(name); err == nil {
		return []Check{ok("address", "%v", addr)}
	}
	if why := malformed(name); why != "" {
		hint := "fairlead ls"
		if inner := within(name); inner != "" {
			hint = "fairlead trace " + inner
		}
		return []Check{fail("name", hint, "%.80q is no DNS name: %s", name, why)}
	}
	if strings.Trim(name, "0123456789.") == "" {
		return []Check{fail("address", "fairlead ls", "%s is no address: it has four parts, from 0 to 255 each", name)}
	}
	domains := f.Config.Domains
	if f.Running {
		domains = f.Status.Resolver.Domains
	}
	for _, d := range domains {
		if name == d {
			return []Check{fail("domain", "fairlead ls", "%s is a whole domain: it is nobody's name", name)}
		}
		if strings.HasSuffix(name, "."+d) {
			return []Check{ok("name", "%s, in the served domain %s", name, d)}
		}
	}
	return []Check{fail("domain", "fairlead trace "+name+"."+f.Domain, "%s is in none of the served domains (%s): nobody asks us for it", name, strings.Join(f.Config.Domains, ", "))}
}

// within is the name or address in a URL, or before a port; "" for none.
func within(s string) string {
	if _, rest, ok := strings.Cut(s, "://"); ok {
		s, _, _ = strings.Cut(rest, "/")
	}
	if host, _, err := net.SplitHostPort(s); err == nil {
		s = host
	}
	if _, err := netip.ParseAddr(s); err != nil && malformed(s) != "" {
		return ""
	}
	return word(s)
}

// malformed says why a name cannot be asked for (RFC 1035, 2.3.4; "_" is let pass).
func malformed(name string) string {
	if len(name) > 253 {
		return "it is longer than 253 bytes"
	}
	for label := range strings.SplitSeq(name, ".") {
		switch {
		case label == "":
			return "a part of it is empty"
		case len(label) > 63:
			return "a part of it is longer than 63 bytes"
		case strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "":
			return "its parts have letters, digits, - and _ alone"
		}
	}
	return ""
}

// followAgent is whether anybody could answer.
func (f Facts) followAgent() Check {
	c := f.agent()
	c.Checks = nil
	if !f.Running && c.State == Warn && f.AgentErr == nil {
		c.State = Fail // setup-network is enough for addresses, not for names
	}
	if f.Running && f.Status.Paused {
		c.State = Fail
	}
	return c
}

func (f Facts) followResolver() []Check {
	c := f.resolver()
	if len(c.Checks) > 0 { // what comes through the OS is worth a look when our own server answers
		c.Checks = f.entries()
	}
	return []Check{c}
}

// followAnswer is what our server says, and then what the OS makes of it.
func (f Facts) followAnswer(name string, who agent.Whois) []Check {
	const server = "dns server"
	r := f.UDP
	listen := f.Status.DNS.Listen
	switch {
	case !r.Asked:
		return []Check{skip(server, "not asked")}
	case r.Err != nil && f.Holder != "":
		return []Check{f.portTaken(server, listen)}
	case r.Err != nil:
		return []Check{fail(server, f.asRoot("fairlead restart"), "no answer from %v: %v", listen, r.Err)}
	case len(r.Addrs) > 0:
		out := []Check{ok(server, "%v answers %s", listen, show(r.Addrs))}
		if f.Status.Resolver.Method != resolver.None {
			out = append(out, f.throughOS()...)
		}
		return out
	case len(who.Bearers) == 0 && strings.HasSuffix(name, ".arpa") && r.Rcode == "NOERROR":
		return []Check{ok(server, "%v knows it", listen)}
	case len(who.Bearers) == 0:
		return []Check{f.unknown(name, who, r)}
	}
	// An answer is a promise: the name is withheld for a reason, which comes further on.
	return []Check{warn(server, "", "%v does not answer it (%s): no address of it is said to be reachable", listen, r.Rcode)}
}

// unknown is the end of the way for a name that nobody asks for.
func (f Facts) unknown(name string, who agent.Whois, r Reply) Check {
	for _, l := range f.Status.Losers {
		if l.Name+"."+who.Domain == name {
			return fail("container", "fairlead status", "%s is nobody's, though %s asked for it: %s", name, strings.Join(l.Containers, ", "), l.Why)
		}
	}
	var silent []string
	engines := 0
	for _, e := range f.Status.Engines {
		if engines++; !e.Up && e.Expected {
			silent = append(silent, e.Name)
		}
	}
	if len(silent) > 0 {
		i := slices.IndexFunc(f.Status.Engines, func(e agent.EngineStatus) bool { return !e.Up && e.Expected })
		return fail("engine "+silent[0], f.start(f.Status.Engines[i]), "nobody known has the name %s, and engine %s does not answer: %s", name, silent[0], f.Status.Engines[i].Error)
	}
	first, _, _ := strings.Cut(name, ".")
	says := fmt.Sprintf("no running container of %d engines has the name %s (%s)", engines, name, or(r.Rcode, "not asked"))
	if engines == 1 {
		says = strings.Replace(says, "1 engines", "engine "+f.Status.Engines[0].Name, 1)
	}
	c := fail("container", "docker ps --all --filter name="+word(first), "%s", says)
	if len(who.Near) > 0 {
		c.Says += "; did you mean " + strings.Join(who.Near, ", ") + "?"
		c.Hint = "fairlead trace " + word(who.Near[0])
	}
	return c
}

// followBearers goes from the name to each container that asks for it.
func (f Facts) followBearers(name string, who agent.Whois) []Check {
	if len(who.Bearers) == 0 {
		if _, err := netip.ParseAddr(name); err == nil {
			return []Check{f.unknownAddr(name)}
		}
		if len(f.UDP.Addrs) > 0 {
			return []Check{ok("container", "none: the name is fairlead's own")}
		}
		return []Check{f.unknown(name, who, Reply{})}
	}
	var out []Check
	for i, b := range who.Bearers {
		if i == maxBearers {
			out = append(out, skip("container", "and %d more", len(who.Bearers)-maxBearers))
			break
		}
		out = append(out, f.followBearer(name, who, b))
	}
	return out
}

func (f Facts) unknownAddr(name string) Check {
	if f.LookErr != nil {
		p := agent.Explain(f.LookErr)
		return fail("engines", p.Hint, "cannot be looked at: %v", p)
	}
	for _, e := range f.Status.Engines {
		if !e.Up && e.Expected {
			return fail("engine "+e.Name, f.start(e), "no running container known has the address %s, and engine %s does not answer: %s", name, e.Name, or(e.Error, "not heard yet"))
		}
	}
	return fail("container", "docker ps --all", "no running container has the address %s", name)
}

func (f Facts) followBearer(name string, who agent.Whois, b agent.Bearer) Check {
	title := "container " + b.Container
	says := "of engine " + b.Engine
	if b.State != "running" {
		says += ", " + b.State
	}
	if who.Matched != "" && who.Matched != name {
		says += ", as everything below " + who.Matched
	}
	switch {
	case b.Why != "" && len(f.UDP.Addrs) > 0:
		return warn(title, "", "%s: does not have the name, others do: %s", says, b.Why)
	case b.Why != "":
		return fail(title, "fairlead status", "%s: %s", says, b.Why)
	}
	e := f.engineOf(b.Engine)
	if !e.Up {
		e.Expected = true // it is by this name
		return f.engine(e)
	}
	c := ok(title, "%s", says)
	if b.HostNetwork {
		return c.with(f.reach(e)...)
	}
	if len(b.Addrs) == 0 {
		return fail(title, "docker inspect "+word(b.Container), "%s: it has no address: it is in no network that has some", says)
	}
	var links []Check // between here and the VM: they matter where packets have to go that way
	for _, at := range b.Addrs {
		if at.Subnet.State != agent.Refused && at.Subnet.State != agent.Native {
			links = f.reach(e)
		}
	}
	for _, l := range links {
		if c = c.with(l); l.State == Fail {
			return c
		}
	}
	for _, at := range b.Addrs {
		c = c.with(f.followAddr(e, b.Container, at))
	}
	return c
}

func (f Facts) followAddr(e agent.EngineStatus, container string, at agent.At) Check {
	i := slices.IndexFunc(f.Status.Subnets, func(s agent.Subnet) bool {
		return s.Engine == at.Subnet.Engine && s.Prefix == at.Subnet.Prefix && s.Network == at.Subnet.Network
	})
	if i < 0 {
		return fail(at.Addr.String(), "docker network inspect "+word(at.Network), "network %s has no range that holds it", at.Network)
	}
	c := f.subnet(e, i)
	c.Name = at.Addr.String()
	if c.State == Skipped { // for the way as a whole that is the end
		c.State, c.Hint = Fail, or(at.Subnet.Hint, "docker network connect bridge "+word(container))
	}
	if a, asked := f.Addrs[at.Addr]; asked && len(c.Checks) > 0 && c.State == OK {
		f.Packets = slices.Clone(f.Packets) // the packet that counts went to this very address
		f.Packets[i] = a
		c = f.subnet(e, i)
		c.Name = at.Addr.String()
	}
	return c
}

func (f Facts) engineOf(name string) agent.EngineStatus {
	for _, e := range f.Status.Engines {
		if e.Name == name {
			return e
		}
	}
	return agent.EngineStatus{Name: name, Error: "no longer watched"}
}
