package doctor

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/fairlead-dev/fairlead/routes"
)

// Leftover is something of another tool that does, or did, what fairlead does.
type Leftover struct {
	What string `json:"what"` // where it is
	Why  string `json:"why"`  // whose it is, and what it does to us
	Hint string `json:"hint"` // the command that puts it out of the way; what it moves can be moved back

	movable bool // What is one file, where only root writes, and does nothing any more once that is moved away
}

// Movable are the files of other tools that --replace may move away, as agent.Config takes them: those alone that lie where
// only root writes, and that are nothing but what the tool does.
func Movable(cfg agent.Config) (paths []string) {
	for _, l := range leftovers(findTraces(Facts{OS: runtime.GOOS, Config: cfg})) {
		if l.movable {
			paths = append(paths, l.What)
		}
	}
	return paths
}

// Left is all that other tools and hands have left on this host; st is what the agent says, which tells of routes what they are in
// the way of.
func Left(cfg agent.Config, st agent.Status) []Leftover {
	table, _ := routes.List()
	return leftovers(findTraces(Facts{OS: runtime.GOOS, Config: cfg, Status: st, Table: table}))
}

// traces are where other tools leave themselves.
type traces struct {
	os         string
	files      map[string]string // by path; only of the folders that are looked at below
	processes  []string
	persistent []routes.Persistent
	table      []routes.Entry
	subnets    []agent.Subnet
	domains    []string       // that we serve
	listen     netip.AddrPort // our DNS server
	replace    string         // the command that has us take over what somebody did by hand
}

// homebrew's folders, on both kinds of Macs, and Linux's.
var prefixes = []string{"", "/usr/local", "/opt/homebrew"}

// findTraces reads what leftovers judges.
func findTraces(f Facts) traces {
	t := traces{
		os: f.OS, files: map[string]string{}, processes: platform.Processes(), persistent: routes.PersistentRows(),
		table: f.Table, subnets: f.Status.Subnets, domains: f.Config.Domains, listen: f.Status.DNS.Listen,
		replace: f.run("--replace"),
	}
	read := func(dir string, suffixes ...string) {
		maps.Copy(t.files, platform.ReadFolder(dir, func(name string) bool {
			return len(suffixes) == 0 || slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(name, s) })
		}))
	}
	if runtime.GOOS == "windows" {
		return t
	}
	for _, prefix := range prefixes {
		read(filepath.Join(prefix, "/etc"), "dnsmasq.conf", "rc.local")
		read(filepath.Join(prefix, "/etc/dnsmasq.d"))
	}
	if runtime.GOOS == "darwin" {
		homes := platform.Homes()
		for _, dir := range f.Config.Homes {
			homes = append(homes, platform.Home{Dir: dir})
		}
		for _, h := range homes {
			read(filepath.Join(h.Dir, "Library/LaunchAgents"), ".plist")
		}
		read("/Library/LaunchDaemons", ".plist")
		read("/Library/LaunchAgents", ".plist")
		read("/etc/resolver")
		return t
	}
	read("/etc/NetworkManager/dnsmasq.d")
	read("/etc/systemd/system", ".service")
	if b, err := os.ReadFile("/etc/resolv.conf"); err == nil && len(b) < 1<<16 {
		t.files["/etc/resolv.conf"] = string(b)
	}
	return t
}

// leftovers judges what was found. It is pure.
func leftovers(t traces) (out []Leftover) {
	for _, file := range slices.Sorted(maps.Keys(t.files)) {
		text := t.files[file]
		if len(text) > 1<<16 {
			text = text[:1<<16]
		}
		var l []Leftover
		switch dir := path.Dir(file); {
		case strings.HasSuffix(file, ".plist"):
			l = plistLeftover(file, text)
		case strings.HasSuffix(file, ".service") || path.Base(file) == "rc.local":
			l = bootLeftover(file, text)
		case dir == "/etc/resolver":
			l = resolverLeftover(t, file, text)
		case file == "/etc/resolv.conf":
			l = resolvConfLeftover(file, text)
		case strings.Contains(file, "dnsmasq"):
			l = dnsmasqLeftover(t, file, text)
		}
		out = append(out, l...)
	}
	for _, p := range t.processes {
		if r, ok := rivals[strings.TrimSuffix(p, ".exe")]; ok {
			out = append(out, Leftover{What: "process " + p, Why: r.why, Hint: r.hint})
		}
	}
	out = append(out, routeLeftovers(t)...)
	return append(out, persistentLeftovers(t)...)
}

// rivals are processes that route to containers, or answer their names.
var rivals = map[string]struct{ why, hint string }{
	"docker-mac-net-connect": {"it routes to Docker Desktop's containers itself, through a tunnel of its own; fairlead leaves that to it, and takes over when it is stopped", "sudo brew services stop docker-mac-net-connect"},
	"docker-connector":       {"mac-docker-connector routes to Docker Desktop's containers itself; the later of two routes is refused", "sudo brew services stop docker-connector"},
	"dnsdock":                {"it answers names of containers, perhaps the same as ours", "sudo killall dnsdock"},
	"docker-spy":             {"it answers names of containers, perhaps the same as ours", "sudo killall docker-spy"},
}

// addsRoute matches a command, or the words of a property list, that make a route to what Docker's networks usually have
// (moby's default pools, and dvm's, boot2docker's and skydock's 172.17.42.1).
var addsRoute = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?s)\broute\b.{0,200}\badd\b.{0,200}\b(172\.(1[6-9]|2[0-9]|3[01]|0)\.|boot2docker|docker-machine|dvm)|` +
		`docker.{0,200}\broute\b.{0,200}\badd\b`)
})

func plistLeftover(file, text string) []Leftover {
	name := strings.TrimSuffix(path.Base(file), ".plist")
	for brew := range rivals {
		if strings.HasSuffix(name, "."+brew) {
			return []Leftover{{What: file, Why: brew + " is started at each boot: " + rivals[brew].why, Hint: rivals[brew].hint}}
		}
	}
	if !addsRoute().MatchString(text) && !strings.HasSuffix(name, "docker.route") {
		return nil
	}
	sudo := ""
	if strings.HasPrefix(file, "/Library/") {
		sudo = "sudo "
	}
	return []Leftover{{What: file, Why: "it makes a route to containers by hand, at each boot or login: that is refused or refuses ours",
		Hint:    fmt.Sprintf("%slaunchctl unload %s; %smv %s %s.before-fairlead", sudo, word(file), sudo, word(file), word(file)),
		movable: sudo != ""}}
}

func bootLeftover(file, text string) []Leftover {
	if !addsRoute().MatchString(text) {
		return nil
	}
	hint := "sudo systemctl disable --now " + word(path.Base(file))
	if path.Base(file) == "rc.local" {
		hint = "sudo sed -i.before-fairlead '/route.*add.*172\\./s/^/#/' " + word(file)
	}
	return []Leftover{{What: file, Why: "it makes a route to containers by hand, at each boot: that is refused or refuses ours", Hint: hint}}
}

// hackPorts are the DNS ports of tools for containers and VMs.
var hackPorts = map[string]string{"10053": "landrush", "19323": "dory", "5300": "dinghy"}

// resolverLeftover looks at a file of resolver(5) that is not ours.
func resolverLeftover(t traces, file, text string) []Leftover {
	if strings.HasPrefix(text, "# fairlead:") {
		return nil
	}
	domain, server, port := path.Base(file), "", ""
	for line := range strings.Lines(text) {
		switch w := strings.Fields(line); {
		case len(w) < 2:
		case w[0] == "domain":
			domain = strings.TrimSuffix(w[1], ".")
		case w[0] == "nameserver" && server == "":
			server = w[1]
		case w[0] == "port":
			port = w[1]
		}
	}
	whose := hackPorts[port]
	addr, _ := netip.ParseAddr(server)
	switch {
	case server == "":
		return nil
	case whose != "":
	case inDocker(addr):
		whose = "dnsdock, skydock or the like"
	case slices.Contains(t.domains, domain):
		whose = "somebody"
	default:
		return nil
	}
	return []Leftover{{What: file, Why: fmt.Sprintf("%s has names in %.80s asked at %.60s, and not at us", whose, domain, server),
		Hint: fmt.Sprintf("sudo mv %s /etc/%s.resolver.before-fairlead", word(file), word(path.Base(file))), movable: true}} // in the folder every file counts
}

// inDocker tells whether an address is where containers, or the VMs of old tools, usually are.
func inDocker(a netip.Addr) bool {
	return slices.ContainsFunc([]string{"172.17.0.0/16", "192.168.59.0/24", "192.168.42.43/32", "10.0.75.0/24"}, func(p string) bool {
		return netip.MustParsePrefix(p).Contains(a)
	})
}

func resolvConfLeftover(file, text string) (out []Leftover) {
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		if len(w) < 2 || w[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(w[1]); err == nil && inDocker(a) {
			out = append(out, Leftover{What: file, Why: fmt.Sprintf("all names are asked at %v first, a container's address: dnsdock, skydock or the like", a),
				Hint: fmt.Sprintf("sudo sed -i.before-fairlead '/^nameserver %s$/d' %s", strings.ReplaceAll(a.String(), ".", `\.`), file)})
		}
	}
	return out
}

// dnsmasqLeftover looks for lines that send names in our domains elsewhere: server=/docker/172.17.42.1, address=/docker/127.0.0.1.
func dnsmasqLeftover(t traces, file, text string) []Leftover {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		key, value, _ := strings.Cut(line, "=")
		if key = strings.TrimSpace(key); key != "server" && key != "address" && key != "local" {
			continue
		}
		parts := strings.Split(strings.TrimSpace(value), "/")
		if len(parts) < 3 {
			continue
		}
		to := parts[len(parts)-1]
		if t.listen.IsValid() && key == "server" && (to == fmt.Sprintf("%v#%d", t.listen.Addr(), t.listen.Port()) || to == t.listen.Addr().String() && t.listen.Port() == 53) {
			continue // that is us
		}
		for _, d := range parts[1 : len(parts)-1] {
			if slices.Contains(t.domains, d) {
				return []Leftover{{What: file, Why: fmt.Sprintf("dnsmasq has names in %s asked elsewhere: %.80s", d, line),
					Hint: fmt.Sprintf("sudo sed -i.before-fairlead '/^%s=.*\\/%s\\//d' %s", key, d, word(file))}}
			}
		}
	}
	return nil
}

// routeLeftovers are rows that somebody made by hand, and that keep a container network from us or lead nowhere any more.
func routeLeftovers(t traces) (out []Leftover) {
	for _, s := range t.subnets {
		for _, r := range s.ByHand {
			l := Leftover{What: "route " + r.String(), Hint: t.replace,
				Why: fmt.Sprintf("somebody made it by hand; it leads to the VM of engine %s for as long as that keeps its address", s.Engine)}
			if !slices.Contains(out, l) {
				out = append(out, l)
			}
		}
	}
	for _, e := range t.table {
		if slices.ContainsFunc(out, func(l Leftover) bool { return l.What == "route "+e.Route.String() }) {
			continue
		}
		if e.Marked || !e.Via.Is4() || e.Dst.Bits() < 8 || e.Owner == "kernel" || e.Owner == "dhcp" {
			continue
		}
		why := ""
		for _, s := range t.subnets {
			if s.State == agent.Refused && s.Network != "" && s.Prefix.Masked() == e.Dst {
				why = fmt.Sprintf("somebody made it by hand for containers; it keeps network %s of engine %s from us", s.Network, s.Engine)
			}
		}
		switch {
		case e.Via == dockerNAT:
			why = "it leads to Docker for Windows' VM of before 2020, which is no more"
		case e.Dst == netip.MustParsePrefix("172.0.0.0/8"):
			why = "somebody made it by hand for containers; it hides a part of the Internet, too"
		}
		if why != "" {
			out = append(out, Leftover{What: "route " + e.Route.String(), Why: why, Hint: t.deleteRoute(e.Dst, e.Via)})
		}
	}
	return out
}

// dockerNAT is the address of Docker for Windows' VM until version 2.1.
var dockerNAT = netip.MustParseAddr("10.0.75.2")

func (t traces) deleteRoute(dst netip.Prefix, via netip.Addr) string {
	switch t.os {
	case "darwin":
		return fmt.Sprintf("sudo route -n delete -net %v %v", dst, via)
	case "windows":
		return fmt.Sprintf("route delete %v mask %s %v", dst.Addr(), mask(dst), via)
	}
	return fmt.Sprintf("sudo ip route del %v via %v", dst, via)
}

func mask(p netip.Prefix) string {
	bits := uint32(0xffffffff) << (32 - p.Bits())
	return netip.AddrFrom4([4]byte{byte(bits >> 24), byte(bits >> 16), byte(bits >> 8), byte(bits)}).String()
}

// persistentLeftovers are Windows' rows for containers, made anew at each start.
func persistentLeftovers(t traces) (out []Leftover) {
	for _, p := range t.persistent {
		dst := p.Dst.Addr()
		containers := dst.As4()[0] == 172 && (dst.As4()[1] == 0 || dst.As4()[1] >= 16 && dst.As4()[1] < 32)
		for _, s := range t.subnets {
			containers = containers || s.Prefix.Contains(dst)
		}
		l := Leftover{What: "persistent route " + p.Name, Hint: fmt.Sprintf("route delete %v", dst)}
		switch {
		case p.Via == dockerNAT:
			l.Why = "it leads to Docker for Windows' VM of before 2020, which is no more"
		case containers:
			l.Why = "somebody made it by hand, perhaps for containers; it comes back at each start"
		default:
			continue
		}
		out = append(out, l)
	}
	return out
}
