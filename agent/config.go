package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/dnsserver"
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/fairlead-dev/fairlead/resolver"
)

// Config is what the user asked for, checked.
type Config struct {
	Engines   []EngineConfig    // in order of priority, names are unique; none: they are discovered
	Gateways  []GatewayFor      // for discovered engines
	Homes     []string          // whose files tell of engines; none: platform.Homes, at each look
	DockerEnv map[string]string // of platform.Variables, where engines are discovered
	Domains   []string          // lower-case, without dots at the ends
	DNSListen netip.AddrPort    // zero: the resolver method's own default
	Resolver  string            // a word that resolver.Detect takes
	Allow     []netip.Prefix    // public or otherwise unusual container subnets that may be routed all the same
	TTL       time.Duration     // of answers
	Negative  time.Duration     // TTL of denials
	Patience  time.Duration     // of questions for unknown names; 0: they do not wait
	StateDir  string
	Control   string
	LogLevel  slog.Level
	LogFormat string   // "text" or "json"
	Replace   []string // files of other tools that the user lets us move away until we are gone; no setting

	ReplaceRoutes bool // the same of routes that somebody made by hand to an engine's VM; no setting
}

// EngineConfig is one engine to watch.
type EngineConfig struct {
	engine.Endpoint
	Gateway string // "auto", "native", "tunnel" or the VM's address
}

// GatewayFor says how packets reach one engine's containers.
type GatewayFor struct {
	Engine string // empty: of any that is not named, and an address of the first
	Where  string // as EngineConfig.Gateway
}

// Key is one setting: a flag --Name, a variable FAIRLEAD_NAME and a key of the config file.
type Key struct {
	Name    string
	Multi   bool
	Default string
	Arg     string // what its value is called in help texts
	Help    string
}

// Keys are all settings, in the order in which they are shown.
var Keys = []Key{
	{Name: "engine", Multi: true, Arg: "[NAME=]URL", Help: "an engine's endpoint: unix:///path, tcp://host:port[?certs=DIR], ssh://user@host, wsl://distribution (repeatable; default: all that are found, $DOCKER_HOST first)"},
	{Name: "home", Multi: true, Arg: "DIR", Help: "the home of a user whose docker contexts and VMs are looked for (repeatable; default: yours, and that of the user at the screen)"},
	{Name: "docker-env", Multi: true, Arg: "NAME=VALUE", Help: "a variable of docker's or of a VM tool's, as the shell of its user has it (repeatable; default: those of this shell)"},
	{Name: "gateway", Multi: true, Arg: "[NAME=]WHERE", Help: "how packets reach an engine's containers: auto, native, tunnel or the VM's address (repeatable; default auto)"},
	{Name: "domain", Multi: true, Default: "docker", Arg: "DOMAIN", Help: "a domain to serve (repeatable)"},
	{Name: "dns-listen", Arg: "ADDR:PORT", Help: "where the DNS server listens (default: what the resolver method can point at)"},
	{Name: "resolver", Default: "auto", Arg: "MODE", Help: "how the OS is told to ask us: auto, none or a method of this OS"},
	{Name: "ttl", Default: "1s", Arg: "TIME", Help: "how long an answer may be kept: 0s to 5s"},
	{Name: "negative-ttl", Default: "1s", Arg: "TIME", Help: "how long the news that a name does not exist may be kept: 0s or 1s"},
	{Name: "patience", Default: "250ms", Arg: "TIME", Help: "how long a question for an unknown name waits for news of it: 0s to 2s"},
	{Name: "allow-subnet", Multi: true, Arg: "PREFIX", Help: "route container subnets in PREFIX though it is not a private range, or lies in a wider route of others (repeatable)"},
	{Name: "state-dir", Default: platform.DefaultStateDir, Arg: "DIR", Help: "where the journal of our own changes lies"},
	{Name: "control", Default: platform.DefaultControl, Arg: "PATH", Help: "the agent's control endpoint"},
	{Name: "log-level", Default: "info", Arg: "LEVEL", Help: "debug, info, warn or error"},
	{Name: "log-format", Default: "text", Arg: "FORMAT", Help: "text or json"},
}

// Env is the variable of the same name as the key: FAIRLEAD_DNS_LISTEN for dns-listen.
func (k Key) Env() string {
	return "FAIRLEAD_" + strings.ToUpper(strings.ReplaceAll(k.Name, "-", "_"))
}

// Source looks a setting up, as flags or variables do; ok is false where it is not set.
type Source func(k Key) (values []string, ok bool)

// FromEnv reads FAIRLEAD_* variables; the values of a repeatable setting are separated by commas.
func FromEnv(lookup func(string) (string, bool)) Source {
	return func(k Key) ([]string, bool) {
		v, ok := lookup(k.Env())
		if !ok || v == "" {
			return nil, false
		}
		if !k.Multi {
			return []string{v}, true
		}
		return strings.Split(v, ","), true
	}
}

// FromFile reads a TOML file whose keys are the Keys. A file that does not exist is an empty one, unless it was asked for.
func FromFile(path string, asked bool) (Source, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !asked {
		return func(Key) ([]string, bool) { return nil, false }, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("reading the config file: %w", err)
	}
	if err != nil {
		return nil, usage("write one with: fairlead config init", "reading the config file: %w", err)
	}
	return parseFile(path, b)
}

func parseFile(path string, b []byte) (Source, error) {
	var raw map[string]any
	if _, err := toml.Decode(string(b), &raw); err != nil {
		return nil, usage("see: fairlead config init", "%s: %w", path, err)
	}
	set := map[string][]string{}
	for name, v := range raw {
		i := slices.IndexFunc(Keys, func(k Key) bool { return k.Name == name })
		if i < 0 {
			return nil, usage(suggest(name), "%s: unknown key %q", path, name)
		}
		switch v := v.(type) {
		case string:
			set[name] = []string{v}
		case []any:
			if !Keys[i].Multi {
				return nil, usage("write: "+name+" = \"...\"", "%s: %s takes one value, not a list", path, name)
			}
			for _, e := range v {
				s, ok := e.(string)
				if !ok {
					return nil, usage("write: "+name+" = [\"...\"]", "%s: %s takes strings", path, name)
				}
				set[name] = append(set[name], s)
			}
		default:
			return nil, usage("write: "+name+" = \"...\"", "%s: %s takes a string", path, name)
		}
	}
	return func(k Key) ([]string, bool) { v, ok := set[k.Name]; return v, ok }, nil
}

// suggest names the key that was probably meant.
func suggest(name string) string {
	best, dist := "", 4
	var all []string
	for _, k := range Keys {
		all = append(all, k.Name)
		if d := distance(name, k.Name); d < dist && d <= len(k.Name)/2 {
			best, dist = k.Name, d
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	return "keys are: " + strings.Join(all, ", ")
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost = 1 + min(diagonal, row[j], row[j-1])
			}
			diagonal, row[j] = row[j], cost
		}
	}
	return row[len(b)]
}

// Load checks the settings. The first source that has a setting wins; defaults come last. dockerEnv looks up DOCKER_HOST
// and the other platform.Variables, which tell of engines when no setting names one.
func Load(dockerEnv func(string) (string, bool), sources ...Source) (Config, error) {
	get := func(name string) []string {
		k := Keys[slices.IndexFunc(Keys, func(k Key) bool { return k.Name == name })]
		for _, s := range sources {
			if v, ok := s(k); ok {
				return v
			}
		}
		if k.Default == "" {
			return nil
		}
		return []string{k.Default}
	}
	one := func(name string) string {
		if v := get(name); len(v) > 0 {
			return v[len(v)-1]
		}
		return ""
	}
	var c Config
	var err error
	if c.Engines, err = loadEngines(get("engine")); err != nil {
		return c, err
	}
	if err := c.loadGateways(get("gateway")); err != nil {
		return c, err
	}
	if err := c.loadHomes(get("home")); err != nil {
		return c, err
	}
	if len(c.Engines) == 0 {
		if err := c.loadDiscovery(get("docker-env"), dockerEnv); err != nil {
			return c, err
		}
	}
	for _, given := range get("domain") {
		d := strings.ToLower(strings.Trim(given, "."))
		if !dnsserver.ValidName(d) {
			return c, usage("a domain is written: --domain docker", "domain %q is no DNS name", given)
		}
		// The reverse zones are served by who has the addresses; so do we, of each subnet that is reached.
		if slices.Contains([]string{"local", "localhost", "com", "net", "org", "arpa"}, d) ||
			strings.HasSuffix("."+d, ".in-addr.arpa") || strings.HasSuffix("."+d, ".ip6.arpa") {
			return c, usage("choose one that nobody else serves: --domain docker", "domain %q is served by others", d)
		}
		if !slices.Contains(c.Domains, d) {
			c.Domains = append(c.Domains, d)
		}
	}
	if v := one("dns-listen"); v != "" {
		if c.DNSListen, err = netip.ParseAddrPort(v); err != nil {
			return c, usage("an address is written: --dns-listen 127.0.0.1:55353", "dns-listen %q is no ADDR:PORT", v)
		}
		c.DNSListen = netip.AddrPortFrom(c.DNSListen.Addr().Unmap(), c.DNSListen.Port())
		if c.DNSListen.Addr().IsUnspecified() {
			return c, usage("choose a loopback address: --dns-listen 127.0.0.1:55353", "dns-listen %s would serve everybody on every network", v)
		}
	}
	c.Resolver = one("resolver")
	if _, err := resolver.Parse(c.Resolver); err != nil {
		return c, usage("without a change of this host's resolver: --resolver none", "%w", err)
	}
	for _, t := range []struct {
		name      string
		to        *time.Duration
		unit, max time.Duration
	}{{"ttl", &c.TTL, time.Second, 5 * time.Second}, {"negative-ttl", &c.Negative, time.Second, time.Second}, {"patience", &c.Patience, time.Millisecond, 2 * time.Second}} {
		v := one(t.name)
		if *t.to, err = time.ParseDuration(v); err != nil || *t.to < 0 || *t.to > t.max || *t.to%t.unit != 0 {
			return c, usage(fmt.Sprintf("the most is --%s %v, the least 0s", t.name, t.max), "%s %q is no time from 0s to %v in steps of %v", t.name, v, t.max, t.unit)
		}
	}
	for _, v := range get("allow-subnet") {
		p, err := netip.ParsePrefix(v)
		if err != nil {
			return c, usage("a prefix is written: --allow-subnet 100.64.0.0/10", "allow-subnet %q is no prefix", v)
		}
		if p.Bits() == 0 {
			return c, usage("name the network that containers are in: --allow-subnet 203.0.113.0/24", "allow-subnet %v is every address there is, the Internet's too", p)
		}
		c.Allow = append(c.Allow, p.Masked())
	}
	for _, name := range []string{"state-dir", "control"} {
		if one(name) == "" {
			return c, usage("leave it out for the default, or write: --"+name+" PATH", "%s is empty", name)
		}
	}
	if c.StateDir, err = filepath.Abs(one("state-dir")); err != nil {
		return c, err
	}
	c.Control = one("control")
	if err := c.LogLevel.UnmarshalText([]byte(one("log-level"))); err != nil {
		return c, usage("use debug, info, warn or error", "log-level %q is no level", one("log-level"))
	}
	if c.LogFormat = one("log-format"); c.LogFormat != "text" && c.LogFormat != "json" {
		return c, usage("use text or json", "log-format %q is no format", c.LogFormat)
	}
	return c, nil
}

// engineLike is how an engine is written that was written wrong. Only one that was given a name has one.
func engineLike(u string) string {
	name, where := "", strings.TrimPrefix(u, "=")
	if before, after, ok := strings.Cut(u, "="); ok && before != "" && plain(before) {
		name, where = before+"=", after
	}
	where = strings.TrimPrefix(strings.TrimPrefix(where, "http://"), "https://")
	switch host, port, err := net.SplitHostPort(strings.TrimPrefix(where, "tcp://")); {
	case strings.HasPrefix(where, "/") && plain(strings.ReplaceAll(where, "/", "")):
		return name + "unix://" + where
	case strings.HasPrefix(where, "unix:/") && plain(strings.ReplaceAll(where[6:], "/", "")):
		return name + "unix:///" + strings.TrimLeft(where[6:], "/")
	case strings.HasPrefix(where, "unix:"):
		return name + "unix:///var/run/docker.sock"
	case strings.HasPrefix(where, "ssh:"):
		return name + "ssh://USER@HOST"
	case err == nil && plain(host) && plain(port):
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			port = "2376"
		}
		return name + "tcp://" + net.JoinHostPort(host, port)
	case plain(strings.TrimPrefix(where, "tcp://")):
		return name + "tcp://" + strings.TrimPrefix(where, "tcp://") + ":2376"
	}
	return name + "tcp://192.168.99.100:2376"
}

func loadEngines(urls []string) ([]EngineConfig, error) {
	var engines []EngineConfig
	for _, u := range urls {
		ep, err := engine.ParseEndpoint(u, "default")
		if err != nil {
			return nil, usage("an engine is written: --engine "+engineLike(u), "%w", err)
		}
		ep.Name = strings.ToLower(ep.Name)
		if !dnsserver.ValidName(ep.Name) || strings.Contains(ep.Name, ".") {
			return nil, usage("an engine's name is one DNS label: --engine dev=URL", "engine name %q is no DNS label", ep.Name)
		}
		for _, e := range engines {
			if e.Name == ep.Name {
				return nil, usage("give each a name of its own: --engine dev=URL --engine test=URL", "two engines are called %q: %s and %s", ep.Name, e.URL, ep.URL)
			}
		}
		engines = append(engines, EngineConfig{Endpoint: ep, Gateway: "auto"})
	}
	return engines, nil
}

// loadGateways gives the engines that are named their gateways, and keeps them for those that are yet to be found.
func (c *Config) loadGateways(gateways []string) error {
	for _, g := range gateways {
		name, where, named := strings.Cut(g, "=")
		if !named {
			name, where = "", g
		}
		kind := true
		switch where {
		case "auto", "native", "tunnel":
		default:
			kind = false
			via, err := netip.ParseAddr(where)
			if err != nil {
				return usage("a gateway is written: --gateway 192.168.99.100", "gateway %q is neither an address nor auto, native or tunnel", where)
			}
			where = via.Unmap().String()
		}
		if len(c.Engines) == 0 {
			c.Gateways = append(c.Gateways, GatewayFor{Engine: strings.ToLower(name), Where: where})
			continue
		}
		found := false
		for i := range c.Engines {
			if !named || c.Engines[i].Name == strings.ToLower(name) {
				c.Engines[i].Gateway, found = where, true
			}
		}
		if !found {
			return usage("name an engine that --engine gives", "gateway %q is for an engine that is not watched", g)
		}
		if !named && len(c.Engines) > 1 && !kind {
			return usage("say for which: --gateway NAME="+where, "one gateway cannot serve %d engines", len(c.Engines))
		}
	}
	return nil
}

// gateway is what was told for an engine that was found.
func (c *Config) gateway(name string, first bool) string {
	told := "auto"
	for _, g := range c.Gateways {
		_, err := netip.ParseAddr(g.Where)
		if g.Engine == name || g.Engine == "" && (err != nil || first) {
			told = g.Where
		}
	}
	return told
}

// loadHomes notes whose files tell of engines, and whose keys ssh takes.
func (c *Config) loadHomes(homes []string) error {
	for _, h := range homes {
		if !filepath.IsAbs(h) {
			return usage("a home is written: --home /Users/me", "home %q is no absolute path", h)
		}
		c.Homes = append(c.Homes, filepath.Clean(h))
	}
	for i := range c.Engines {
		if !c.Engines[i].AsUser() {
			continue
		}
		if len(c.Homes) > 0 {
			c.Engines[i].Home = c.Homes[0]
		} else if here := platform.Homes(); len(here) > 0 {
			c.Engines[i].Home = here[0].Dir
		}
	}
	return nil
}

// loadDiscovery notes what else tells of engines.
func (c *Config) loadDiscovery(variables []string, dockerEnv func(string) (string, bool)) error {
	c.DockerEnv = map[string]string{}
	for _, name := range platform.Variables {
		if v, ok := dockerEnv(name); ok && v != "" {
			c.DockerEnv[name] = v
		}
	}
	for _, v := range variables {
		name, value, ok := strings.Cut(v, "=")
		if !ok || !slices.Contains(platform.Variables, name) {
			return usage("a variable is written: --docker-env DOCKER_CONTEXT=colima", "docker-env %q is none of %s", v, strings.Join(platform.Variables, ", "))
		}
		c.DockerEnv[name] = value
	}
	host := c.DockerEnv["DOCKER_HOST"]
	if host == "" {
		return nil
	}
	// Whoever sets it expects to be told here and now that it is wrong.
	if _, err := engine.ParseEndpoint(host, "default"); err != nil {
		return usage("DOCKER_HOST is written as docker takes it: tcp://192.168.99.100:2376", "DOCKER_HOST: %w", err)
	}
	if strings.HasPrefix(host, "tcp:") && c.DockerEnv["DOCKER_TLS_VERIFY"] != "" && c.DockerEnv["DOCKER_CERT_PATH"] == "" {
		return usage("say where ca.pem, cert.pem and key.pem are: export DOCKER_CERT_PATH=DIR", "DOCKER_TLS_VERIFY asks for TLS, and DOCKER_CERT_PATH is not set")
	}
	return nil
}

// Sample is a commented config file with every key.
func Sample() string {
	var b strings.Builder
	b.WriteString("# fairlead's settings. A flag or a FAIRLEAD_* variable of the same name beats what stands here.\n")
	for _, k := range Keys {
		v := fmt.Sprintf("%q", k.Default)
		if k.Multi {
			v = "[" + fmt.Sprintf("%q", k.Default) + "]"
			if k.Default == "" {
				v = "[]"
			}
		}
		fmt.Fprintf(&b, "\n# %s\n# %s = %s\n", k.Help, k.Name, v)
	}
	return b.String()
}

// Settings are the effective values, as a config file would give them.
func (c Config) Settings() map[string]any {
	var engines, gateways, allow, env []string
	for _, e := range c.Engines {
		at := e.URL
		if e.Certs != "" {
			at += "?certs=" + strings.ReplaceAll(url.QueryEscape(e.Certs), "%2F", "/")
		}
		engines = append(engines, e.Name+"="+at)
		gateways = append(gateways, e.Name+"="+e.Gateway)
	}
	for _, g := range c.Gateways {
		gateways = append(gateways, strings.TrimPrefix(g.Engine+"="+g.Where, "="))
	}
	for _, name := range slices.Sorted(maps.Keys(c.DockerEnv)) {
		env = append(env, name+"="+c.DockerEnv[name])
	}
	for _, p := range c.Allow {
		allow = append(allow, p.String())
	}
	s := map[string]any{
		"domain": c.Domains, "resolver": c.Resolver, "state-dir": c.StateDir,
		"ttl": c.TTL.String(), "negative-ttl": c.Negative.String(), "patience": c.Patience.String(),
		"control": c.Control, "log-level": strings.ToLower(c.LogLevel.String()), "log-format": c.LogFormat,
	}
	if c.DNSListen.IsValid() {
		s["dns-listen"] = c.DNSListen.String()
	}
	for name, v := range map[string][]string{"engine": engines, "gateway": gateways, "home": c.Homes, "docker-env": env, "allow-subnet": allow} {
		if v != nil {
			s[name] = v
		}
	}
	return s
}
