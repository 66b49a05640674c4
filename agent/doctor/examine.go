package doctor

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/fairlead-dev/fairlead/resolver"
)

// Examine makes the tree of checks. It is pure.
func Examine(f Facts) Report {
	checks := []Check{f.host(), f.agent()}
	if f.LookErr != nil {
		p := agent.Explain(f.LookErr)
		checks = append(checks, fail("engines", p.Hint, "cannot be looked at: %v", p))
	}
	for _, e := range f.Status.Engines {
		checks = append(checks, f.engine(e))
	}
	for _, s := range f.Status.Skipped {
		checks = append(checks, warn("engine of "+s.Provider, s.Hint, "%s: %s", s.Path, s.Why))
	}
	checks = append(checks, f.server(), f.resolver())
	if c, any := f.routes(); any {
		checks = append(checks, c)
	}
	if c, any := f.ranges(); any {
		checks = append(checks, c)
	}
	if len(f.Leftovers) > 0 {
		c := warn("leftovers", "", "of %d other tools, which may stand in the way", len(f.Leftovers))
		if len(f.Leftovers) == 1 {
			c.Says = "of another tool, which may stand in the way"
		}
		for _, l := range f.Leftovers {
			kind, which, ok := strings.Cut(l.What, " ")
			if !ok || strings.HasPrefix(l.What, "/") {
				kind, which = "file", l.What
			}
			c = c.with(warn(kind, l.Hint, "%s: %s", which, l.Why))
		}
		checks = append(checks, c)
	}
	return report(f.Version, checks)
}

// asRoot is how a command is run with the rights that it needs.
func (f Facts) asRoot(command string) string {
	if f.OS == "windows" {
		return command // in a prompt that was started by Run as Administrator
	}
	return "sudo " + command
}

// run is how the agent is given other settings.
func (f Facts) run(flags string) string {
	verb := "run"
	if f.Service.Installed {
		verb = "install" // again: it upgrades the service in place
	}
	return f.asRoot("fairlead " + verb + " " + flags)
}

// away says why nothing is known of a running agent.
func (f Facts) away() string {
	if f.AgentErr != nil {
		return "the agent could not be asked"
	}
	return "the agent is not running"
}

// Count is a number of things, such as "1 network" and "2 networks".
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (f Facts) host() Check {
	switch {
	case f.TableErr != nil:
		return fail("host", f.asRoot("fairlead doctor"), "its table of routes cannot be read: %v", f.TableErr)
	case f.Rights != nil && f.OS == "windows":
		return warn("host", "run it in a prompt started by: Run as Administrator", "not an Administrator's prompt: less can be seen")
	case f.Rights != nil:
		return warn("host", "sudo fairlead doctor", "not root: less can be seen")
	}
	return ok("host", "%s, %s, %s", f.OS, strings.Replace(Count(len(f.Links), "addresse"), "1 addresse", "1 address", 1), Count(len(f.Table), "route"))
}

func (f Facts) agent() Check {
	s := f.Service
	byService := ""
	if s.Installed && s.Running {
		byService = ", as a service (" + s.Manager + ")"
	}
	start := f.asRoot("fairlead install")
	if s.Installed {
		start = f.asRoot("fairlead start")
	}
	switch {
	case f.Running && f.Status.Paused:
		return warn("agent", f.asRoot("fairlead setup-network"), "paused by teardown-network: no routes, no names")
	case f.Running && f.Status.Version != f.Version:
		return warn("agent", f.asRoot("fairlead restart"), "it is version %s, this is %s", f.Status.Version, f.Version)
	case f.Running:
		c := ok("agent", "runs, version %s%s", f.Status.Version, byService)
		for _, p := range f.Status.Problems {
			c = c.with(fail("last pass", f.asRoot("fairlead logs"), "%s", p))
		}
		return c
	case f.AgentErr != nil:
		p := agent.Explain(f.AgentErr)
		if p.Code == agent.ExitNotPermitted {
			return warn("agent", f.asRoot("fairlead doctor"), "only root may ask it: %v", p)
		}
		return fail("agent", f.asRoot("fairlead restart"), "it is there, and does not answer: %v", p)
	case f.Holder != "": // it has a check of its own
		return warn("agent", start, "not running: it cannot start while its DNS address is taken")
	case s.Installed && s.Running:
		return fail("agent", f.asRoot("fairlead restart"), "the service (%s) runs, and nobody answers at %s", s.Manager, f.Config.Control)
	case s.Installed:
		return fail("agent", start, "the service (%s) is stopped; why, fairlead logs may tell", s.Manager)
	case slices.ContainsFunc(f.Status.Subnets, made):
		return warn("agent", start, "not running: the routes of setup-network stand, names are not answered")
	}
	return fail("agent", start, "not running")
}

// made tells whether a subnet's route was made by us, whatever became of it.
func made(s agent.Subnet) bool { return s.State == agent.Installed || s.State == agent.Failed }

func (f Facts) engine(e agent.EngineStatus) Check {
	name := "engine " + e.Name
	if !e.Up {
		said := e.Error
		if said == "" {
			said = "not heard yet"
		}
		c := fail(name, f.start(e), "%s: %s", e.URL, said)
		if !e.Expected { // it need not run: a VM of somebody's, off for now
			c.State, c.Says = Warn, c.Says+"; "+or(e.Found, "nobody named it")
		}
		if e.Stale {
			c.Says += " (its last picture is kept)"
		}
		return c.with(skip("reach", "the engine does not answer"))
	}
	c := ok(name, "Docker %s (API %s), %s, %s, %s", e.Info.Version, e.Info.API, Count(e.Networks, "network"), Count(e.Containers, "container"), e.URL)
	if f.Running && f.Status.Paused {
		return c.with(skip("reach", "the agent is paused"))
	}
	c = c.with(f.reach(e)...)
	for i, s := range f.Status.Subnets {
		if s.Engine == e.Name {
			c = c.with(f.subnet(e, i))
		}
	}
	return c
}

// start is how an engine is started, by where it is.
func (f Facts) start(e agent.EngineStatus) string {
	url := strings.ReplaceAll(e.URL, `\`, "/")
	after := func(folder string) (name string, ok bool) {
		_, rest, ok := strings.Cut(url, folder)
		name, _, _ = strings.Cut(rest, "/")
		if ok && (strings.Trim(name, wordLetters) != "" || strings.HasPrefix(name, "-")) {
			name = "NAME" // no quotes make a stranger's text safe in every shell
		}
		return name, ok
	}
	if name, ok := after("/.colima/"); ok {
		return "colima start " + name
	}
	if name, ok := after("/.lima/"); ok {
		return "limactl start " + name
	}
	switch {
	case strings.Contains(url, "/.orbstack/"):
		return "orb start"
	case strings.Contains(url, "/.rd/"):
		return "rdctl start"
	case strings.Contains(url, "podman"):
		return "podman machine start"
	case strings.Contains(url, "/.docker/run/") && f.OS == "darwin":
		return "open -a Docker"
	case strings.Contains(url, "/.docker/desktop/"):
		return "systemctl --user start docker-desktop"
	case strings.Contains(url, "dockerDesktop"):
		return "docker desktop start"
	case strings.Contains(url, "//192.168.59."):
		return "boot2docker up"
	case strings.Contains(url, "//192.168.42.43:"):
		return "dvm up"
	case strings.HasSuffix(url, "/var/run/docker.sock") && f.OS == "linux":
		return "sudo systemctl start docker"
	case e.Hint != "" && !strings.HasPrefix(e.Hint, "start the engine") && !strings.HasPrefix(e.Hint, "fairlead "): // more is known than that it is silent
		return e.Hint
	}
	return "docker -H " + word(e.URL) + " version"
}

const wordLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/"

// word is s as it may be pasted into a shell.
func word(s string) string {
	if s == "" || strings.Trim(s, wordLetters) != "" || s[0] == '-' {
		return "NAME"
	}
	return s
}

// reach are the links between here and the engine's VM.
func (f Facts) reach(e agent.EngineStatus) []Check {
	r := e.Reach
	var out []Check
	switch r.Kind {
	case platform.Native:
		return []Check{ok("reach", "native: %s", r.Why)}
	case platform.Gateway:
		out = append(out, ok("reach", "gateway %v on %s, as %v: %s", r.Via, r.Dev, r.Source, r.Why))
		switch o := r.Other; {
		case o.Kind == platform.Gateway && o.Via.IsValid():
			out = append(out, ok("reach", "gateway %v on %s, as %v: %s", o.Via, o.Dev, o.Source, o.Why))
		case o.Kind == platform.Tunnel && o.Dev != "":
			out = append(out, ok("reach", "tunnel on %s for what %v is no way to: %s", o.Dev, r.Via, o.Why))
		case o.Kind != "":
			out = append(out, skip("reach", "no way to networks of the other IP version than %v's: %s", r.Via, o.Why))
		}
		switch a := f.Gateways[e.Name]; {
		case a.OK:
			out = append(out, ok("gateway", "%s", a.Says))
			if f.OS == "darwin" { // this process may: root and what runs in Terminal is exempt (Apple's TN3179)
				out = append(out, ok("local network", "if one app alone says \"No route to host\": System Settings > Privacy & Security > Local Network"))
			}
		case !a.Asked:
			out = append(out, skip("gateway", "%s", a.Says))
		case f.anyPacket(e.Name):
			out = append(out, skip("gateway", "%v answers no ping, and lets packets through", r.Via))
		case strings.Contains(e.URL, "//"+r.Via.String()+":"):
			out = append(out, skip("gateway", "%v answers its API, and no ping", r.Via))
		default:
			out = append(out, fail("gateway", f.run("--gateway "+word(e.Name)+"=auto"),
				"%s: the VM has another address now, or drops what comes by %s", a.Says, r.Dev))
		}
	case platform.Tunnel:
		switch {
		case e.Tunnel != nil:
			out = append(out, ok("reach", "tunnel on %s: %s", e.Tunnel.Dev, r.Why))
		case !f.Running:
			out = append(out, skip("reach", "tunnel: it lives as long as an agent (%s)", r.Why))
		case e.Pilot != nil && e.Pilot.Error != "":
			out = append(out, fail("reach", or(e.Pilot.Hint, f.asRoot("fairlead setup-network")), "the tunnel does not come up: %s", e.Pilot.Error))
			return out
		default:
			out = append(out, warn("reach", f.asRoot("fairlead setup-network"), "the tunnel is not up yet: %s", r.Why))
		}
	default:
		return []Check{fail("reach", f.run("--gateway "+word(e.Name)+"=tunnel"), "no way to its containers: %s", or(r.Why, "not looked at yet"))}
	}
	if p := e.Pilot; p != nil {
		switch {
		case !f.Running:
			out = append(out, skip("pilot", "only a running agent hears it; a packet is the proof"))
		case p.Open:
			out = append(out, ok("pilot", "the VM lets this host through (%s)", p.Backend))
		case p.Error != "":
			out = append(out, fail("pilot", or(p.Hint, f.asRoot("fairlead setup-network")), "the VM's forwarding is closed: %s", p.Error))
		default:
			out = append(out, warn("pilot", f.asRoot("fairlead setup-network"), "the VM's forwarding is not open yet"))
		}
	}
	return out
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// anyPacket tells whether any container of an engine answered.
func (f Facts) anyPacket(engine string) bool {
	for i, s := range f.Status.Subnets {
		if s.Engine == engine && f.packet(i).OK {
			return true
		}
	}
	return false
}

func (f Facts) packet(i int) Answer {
	if i < len(f.Packets) {
		return f.Packets[i]
	}
	return Answer{}
}

// subnet is the route to one subnet, and the proof that packets get there.
func (f Facts) subnet(e agent.EngineStatus, i int) Check {
	s := f.Status.Subnets[i]
	name := "subnet " + s.Prefix.String()
	of := ""
	if s.Network != "" {
		of = "network " + s.Network + ": "
	}
	setup := f.asRoot("fairlead setup-network")
	var c Check
	switch s.State {
	case agent.Native:
		c = ok(name, "%son this host", of)
	case agent.Installed, agent.Foreign:
		if f.TableErr == nil && !f.inTable(s) {
			return fail(name, setup, "%sthe route %v is gone from the OS's table", of, s.Route).with(skip("packet", "there is no route"))
		}
		c = ok(name, "%s%v", of, s.Route)
		if s.State == agent.Foreign {
			c.Says += ", " + or(s.Why, "made by somebody else")
		}
	case agent.Wanted:
		if f.Running {
			return warn(name, setup, "%sits route is not made yet", of)
		}
		return skip(name, "%sno route: %s", of, f.away())
	case agent.Refused:
		return fail(name, or(s.Hint, "fairlead doctor"), "%srefused: %s", of, s.Why)
	case agent.OnLink:
		c = ok(name, "%s%s", of, s.Why)
	case agent.Closed:
		return fail(name, or(s.Hint, setup), "%sthe VM lets nothing through to it: %s", of, s.Why)
	case agent.NoWay:
		if s.Hint == "" || !f.Running || slices.ContainsFunc(f.reach(e), failed) { // then that has the hint
			return skip(name, "%s%s", of, s.Why)
		}
		return warn(name, s.Hint, "%s%s", of, s.Why)
	case agent.Unreachable:
		return skip(name, "%scannot be reached: %s", of, s.Why)
	default:
		return fail(name, or(s.Hint, setup), "%s%s", of, or(s.Why, string(s.State))).with(skip("packet", "there is no route"))
	}
	switch a := f.packet(i); {
	case a.OK:
		return c.with(ok("packet", "%s", a.Says))
	case !a.Asked:
		return c.with(skip("packet", "%s", or(a.Says, "nobody was asked")))
	case s.State == agent.Native:
		return c.with(fail("packet", "iptables-save | grep "+s.Prefix.String(), "%s: this host's own firewall, or the container's, drops it", a.Says))
	case f.Running && e.Pilot != nil && !e.Pilot.Open:
		return c.with(skip("packet", "%s: the VM's forwarding is closed", a.Says))
	case s.State == agent.Foreign:
		return c.with(fail("packet", "ip route get "+s.Prefix.Addr().Next().String(), "%s: the route is there, and not ours", a.Says))
	default:
		hint := setup
		if e.Pilot != nil && e.Pilot.Hint != "" {
			hint = e.Pilot.Hint
		}
		return c.with(fail("packet", hint, "%s: the route is there, the VM lets nothing through, or nothing back", a.Says))
	}
}

func (f Facts) inTable(s agent.Subnet) bool {
	for _, e := range f.Table {
		if e.Route == s.Route {
			return true
		}
	}
	return false
}

// server is our DNS server.
func (f Facts) server() Check {
	const name = "dns server"
	listen := f.Status.DNS.Listen
	if !f.Running {
		switch {
		case f.AgentErr != nil:
			return skip(name, "%s", f.away())
		case f.Holder != "":
			return f.portTaken(name, listen)
		}
		return skip(name, "%s; %v is free for it", f.away(), listen)
	}
	c := ok(name, "%v, %d names", listen, f.Status.DNS.Names)
	for _, r := range []struct {
		name string
		Reply
	}{{"udp", f.UDP}, {"tcp", f.TCP}} {
		question := f.Known
		if question == "" {
			question = f.Domain + " SOA"
		}
		switch {
		case !r.Asked:
			c = c.with(skip(r.name, "not asked"))
		case r.Err != nil && f.Holder != "":
			c = c.with(f.portTaken(r.name, listen))
		case r.Err != nil:
			c = c.with(fail(r.name, f.asRoot("fairlead restart"), "no answer from %v: %v", listen, r.Err))
		case r.Rcode != "NOERROR":
			c = c.with(fail(r.name, f.asRoot("fairlead restart"), "%s is answered with %s: whoever answers at %v is not this agent's server", question, r.Rcode, listen))
		case len(f.Want) > 0 && !overlap(r.Addrs, f.Want):
			c = c.with(warn(r.name, "fairlead query "+word(f.Known), "%s is %s, and was %s a moment ago", question, show(r.Addrs), show(f.Want)))
		default:
			c = c.with(ok(r.name, "%s is %s", question, or(show(r.Addrs), "answered")))
		}
	}
	return c
}

func (f Facts) portTaken(name string, listen netip.AddrPort) Check {
	hint := f.run(fmt.Sprintf("--dns-listen %v", netip.AddrPortFrom(listen.Addr(), listen.Port()+1)))
	switch {
	case strings.HasPrefix(f.Holder, "docker-proxy") || strings.HasPrefix(f.Holder, "com.docker"): // a container's published port
		hint = fmt.Sprintf("docker stop $(docker ps --quiet --filter publish=%d)", listen.Port())
	case listen.Port() == 53: // the OS cannot be told another
		hint = f.asRoot(fmt.Sprintf("kill %d", f.HolderPID))
		switch {
		case f.HolderPID == 0:
			hint = f.asRoot("fairlead doctor")
		case f.OS == "windows":
			hint = fmt.Sprintf("taskkill /pid %d", f.HolderPID)
		}
	}
	return fail(name, hint, "our address %v is taken: %s", listen, f.Holder)
}

func overlap(a, b []netip.Addr) bool {
	return slices.ContainsFunc(a, func(x netip.Addr) bool { return slices.Contains(b, x) })
}

func show(addrs []netip.Addr) string {
	var s []string
	for i, a := range addrs {
		if i == 4 {
			s = append(s, "...")
			break
		}
		s = append(s, a.String())
	}
	return strings.Join(s, ", ")
}

// resolver is whether this host's programs ask us.
func (f Facts) resolver() Check {
	const name = "resolver"
	r := f.Status.Resolver
	switch {
	case !f.Running && len(f.Strays) > 0 && f.AgentErr == nil:
		i := f.Strays[0]
		return fail(name, f.asRoot("fairlead teardown-network"), "the OS still asks an agent that is gone: %v", i)
	case !f.Running:
		return skip(name, "%s: nobody is told to ask it", f.away())
	case f.Status.Paused:
		return skip(name, "the agent is paused")
	case r.Method == resolver.None:
		why, hint, _ := strings.Cut(r.Why, "; hint: ")
		if f.Config.Resolver == string(resolver.None) {
			return skip(name, "%s", why)
		}
		return warn(name, or(hint, f.asRoot("fairlead run --resolver auto")), "programs do not ask us: %s", why)
	case f.EntriesErr != nil:
		p := agent.Explain(f.EntriesErr)
		return fail(name, p.Hint, "%s: %v", r.Method, p)
	}
	c := ok(name, "%s: %s", r.Method, r.Why)
	c = c.with(f.entries()...)
	return c.with(f.throughOS()...)
}

func (f Facts) entries() (out []Check) {
	for _, b := range f.Entries.Blocked {
		why, undo, ok := strings.Cut(b.Why, "to be rid of it: ")
		if !ok {
			why, undo, ok = strings.Cut(b.Why, "if you do not need it: ")
		}
		hint := f.asRoot("fairlead doctor")
		switch {
		case b.Item.Method == resolver.ResolvConf: // the way out is no command there
			hint = f.asRoot("sed -i --follow-symlinks '/^# fairlead: begin/,/^# fairlead: end/d' " + b.Item.Key)
		case ok:
			hint = f.asRoot(undo)
		}
		out = append(out, fail("entry "+keyName(b.Item.Key), hint, "%s; if you do not need it, remove it", strings.TrimRight(why, ";, ")))
	}
	for _, s := range f.Entries.Steps {
		item, what := s.New, "is not there"
		if s.Old != (resolver.Item{}) {
			what = "is not whole"
		}
		if item == (resolver.Item{}) {
			continue // more than is wanted: the next pass takes it away
		}
		out = append(out, fail("entry "+keyName(item.Key), f.asRoot("fairlead setup-network"), "%s: %s", what, item))
	}
	for _, i := range slices.Concat(f.Entries.Keep, f.Entries.Foreign) {
		out = append(out, ok("entry "+keyName(i.Key), "%s", i))
	}
	return out
}

func keyName(key string) string { return path.Base(strings.ReplaceAll(key, `\`, "/")) }

// throughOS is what programs get when they ask the OS.
func (f Facts) throughOS() []Check {
	const name = "through the OS"
	missing := slices.ContainsFunc(f.entries(), func(c Check) bool { return c.State == Fail })
	problem, _, _ := strings.Cut(f.Status.Resolver.Problem, "; hint: ") // as the agent saw it last
	switch {
	case missing:
		return []Check{skip(name, "an entry is missing")}
	case problem != "" && !overlap(f.Fresh.Addrs, f.Want):
		return []Check{fail(name, f.whyNotAsked(), "%s", problem)}
	case f.Known == "" || len(f.Want) == 0:
		return []Check{skip(name, "no container has a name that could be asked for")}
	case !f.Fresh.Asked:
		return []Check{skip(name, "not asked")}
	case f.Fresh.Err != nil:
		return []Check{fail(name, f.flush(), "the OS does not answer: %v", f.Fresh.Err)}
	case !overlap(f.Fresh.Addrs, f.Want) && !overlap(f.Cached.Addrs, f.Want):
		return []Check{fail(name, f.whyNotAsked(), "programs do not get %s: the OS has our entry, and asks somebody else", f.Known)}
	case !overlap(f.Cached.Addrs, f.Want):
		return []Check{fail("cache", f.flush(), "the OS remembers an old answer for %s: %s", f.Known, or(show(f.Cached.Addrs), "that there is none"))}
	}
	return []Check{ok(name, "%s is %s", f.Known, show(f.Cached.Addrs))}
}

// flush is the command that makes the OS forget its answers.
func (f Facts) flush() string {
	switch f.OS {
	case "darwin":
		return "sudo dscacheutil -flushcache; sudo killall -HUP mDNSResponder"
	case "windows":
		return "ipconfig /flushdns"
	}
	return "sudo resolvectl flush-caches"
}

// whyNotAsked is the command that shows whom the OS asks.
func (f Facts) whyNotAsked() string {
	switch f.OS {
	case "darwin":
		return "scutil --dns | grep -A4 'domain.*" + word(f.Domain) + "'"
	case "windows":
		return "powershell Get-DnsClientNrptPolicy -Effective"
	}
	if f.Status.Resolver.Method == resolver.ResolvConf {
		return "head /etc/resolv.conf; grep hosts /etc/nsswitch.conf"
	}
	return "resolvectl status"
}

// routes are the rows that are nobody's any more. What is in the way of a subnet stands with that.
func (f Facts) routes() (c Check, any bool) {
	if f.TableErr != nil || f.LookErr != nil {
		return c, false
	}
	c = ok("routes", "")
	for _, e := range f.Table {
		used := slices.ContainsFunc(f.Status.Subnets, func(s agent.Subnet) bool { return s.Route == e.Route })
		if e.Marked && !used {
			c = c.with(warn("route "+e.Dst.String(), f.asRoot("fairlead teardown-network"), "%v is fairlead's, and no network needs it", e.Route))
		}
	}
	if len(c.Checks) == 0 {
		return c, false
	}
	c.State, c.Says = Warn, "there are leftovers of our own"
	return c, true
}
