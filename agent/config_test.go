package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/dnsserver"
	"github.com/google/go-cmp/cmp"
)

// environment answers for variables as os.LookupEnv does.
func environment(pairs ...string) func(string) (string, bool) {
	vars := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		vars[pairs[i]] = pairs[i+1]
	}
	return func(name string) (string, bool) { v, ok := vars[name]; return v, ok }
}

// given is a Source with the one setting; its values are separated by commas.
func given(name, values string) Source {
	return func(k Key) ([]string, bool) { return strings.Split(values, ","), k.Name == name }
}

// tomlOf writes settings as a config file.
func tomlOf(settings map[string]any) string {
	var b strings.Builder
	for name, v := range settings {
		switch v := v.(type) {
		case []string:
			var quoted []string
			for _, s := range v {
				quoted = append(quoted, fmt.Sprintf("%q", s))
			}
			fmt.Fprintf(&b, "%s = [%s]\n", name, strings.Join(quoted, ", "))
		default:
			fmt.Fprintf(&b, "%s = %q\n", name, v)
		}
	}
	return b.String()
}

func fileSource(t *testing.T, text string) Source {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fairlead.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := FromFile(path, true)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return s
}

// examples are two values of each key, that the other settings' defaults allow on every OS.
var examples = map[string][2]string{
	"engine":       {"dev=tcp://192.168.99.100:2375", "a=unix:///a.sock,b=unix:///b.sock"},
	"home":         {os.TempDir(), os.TempDir() + "," + filepath.Join(os.TempDir(), "b")},
	"docker-env":   {"DOCKER_CONTEXT=colima", "DOCKER_HOST=unix:///a.sock,TMPDIR=/t"},
	"gateway":      {"default=tunnel", "default=192.168.99.100"},
	"domain":       {"test", "docker,shop.example"},
	"dns-listen":   {"127.0.0.1:53", "[::1]:5353"},
	"resolver":     {"none", "auto"},
	"ttl":          {"0s", "5s"},
	"negative-ttl": {"0s", "1s"},
	"patience":     {"0s", "2s"},
	"allow-subnet": {"203.0.113.0/24", "198.18.0.0/15,2001:db8::/32"},
	"state-dir":    {filepath.Join(os.TempDir(), "a"), filepath.Join(os.TempDir(), "b")},
	"control":      {"/tmp/a", "/tmp/b"},
	"log-level":    {"debug", "error"},
	"log-format":   {"json", "text"},
}

// TestPrecedence: for each key a flag beats a variable, that a file, and that the default.
func TestPrecedence(t *testing.T) {
	none := func(Key) ([]string, bool) { return nil, false }
	setting := func(name string, sources ...Source) string {
		t.Helper()
		c, err := Load(environment(), sources...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return strings.Trim(fmt.Sprint(c.Settings()[name]), "[]")
	}
	for _, k := range Keys {
		a, ok := examples[k.Name]
		if !ok {
			t.Errorf("no example of %s", k.Name)
			continue
		}
		if untouched := setting(k.Name); k.Default != "" && untouched != k.Default && !strings.HasSuffix(k.Name, "-dir") {
			t.Errorf("%s is %s by itself, want %s", k.Name, untouched, k.Default)
		}
		for i, high := range a {
			low := a[1-i]
			list := func(v string) any {
				if k.Multi {
					return strings.Split(v, ",")
				}
				return v
			}
			file := func(v string) Source { return fileSource(t, tomlOf(map[string]any{k.Name: list(v)})) }
			env := func(v string) Source { return FromEnv(environment(k.Env(), v)) }
			want := strings.Trim(strings.ReplaceAll(high, ",", " "), "[]")
			for what, sources := range map[string][]Source{
				"flag over variable and file": {given(k.Name, high), env(low), file(low)},
				"variable over file":          {none, env(high), file(low)},
				"file over default":           {none, FromEnv(environment()), file(high)},
				"empty variable is none":      {none, env(""), file(high)},
			} {
				if got := setting(k.Name, sources...); got != want {
					t.Errorf("%s: %s: got %s, want %s", k.Name, what, got, want)
				}
			}
		}
	}
}

// TestSettingsAreAConfig: what `config show` prints gives the same Config again.
func TestSettingsAreAConfig(t *testing.T) {
	settings := []map[string]any{
		{},
		{"engine": []string{"dev=tcp://192.168.99.100:2376?certs=/home/u/my%20certs/a%2Bb%26c%25", "old=unix:///a%20b.sock", "win=npipe:////./pipe/x"},
			"gateway": []string{"dev=::ffff:192.168.99.100", "old=native"}},
		{"engine": []string{`dev=tcp://vm:2376?certs=C%3A%5Cu%5Ccerts`}},
	}
	for name, values := range examples {
		k := Keys[slices.IndexFunc(Keys, func(k Key) bool { return k.Name == name })]
		for _, v := range values {
			if k.Multi {
				settings = append(settings, map[string]any{name: strings.Split(v, ",")})
			} else {
				settings = append(settings, map[string]any{name: v})
			}
		}
	}
	for _, s := range settings {
		c, err := Load(environment(), fileSource(t, tomlOf(s)))
		if err != nil {
			t.Errorf("%v: %v", s, err)
			continue
		}
		if s["gateway"] != nil && strings.Contains(fmt.Sprint(c.Settings()), "::ffff:") {
			t.Errorf("%v: an IPv4 address is written like an IPv6 one: %v", s, c.Settings())
		}
		again, err := Load(environment(), fileSource(t, tomlOf(c.Settings())))
		if err != nil {
			t.Errorf("%v: %v", c.Settings(), err)
		}
		if d := cmp.Diff(fmt.Sprintf("%+v", c), fmt.Sprintf("%+v", again)); d != "" {
			t.Errorf("%v:\n%s", s, d)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, tt := range []struct{ name, value, err, hint string }{
		{"engine", "192.168.99.100:2375", "not a URL", "--engine tcp://192.168.99.100:2375"},
		{"engine", "dev=192.168.99.100", "not a URL", "--engine dev=tcp://192.168.99.100:2376"},
		{"engine", "/var/run/docker.sock", "not a URL", "--engine unix:///var/run/docker.sock"},
		{"engine", "dev=unix:/a.sock", "a socket is written", "--engine dev=unix:///a.sock"},
		{"engine", "", "not a URL", "--engine tcp://"},
		{"engine", "ftp://vm", "ftp:// is not spoken", "--engine tcp://"},
		{"engine", "dev=ftp://vm", "ftp:// is not spoken", "--engine dev=tcp://"},
		{"engine", "tcp://vm", "tcp://HOST:PORT", "--engine tcp://vm:2376"},
		{"engine", "tcp://vm:99999", "from 1 to 65535", "--engine tcp://vm:2376"},
		{"engine", "tcp://vm:2375?cert=/c", "all that may follow", "--engine tcp://"},
		{"engine", "unix://", "a socket is written", "--engine unix:///"},
		{"engine", "dev=unix:docker.sock", "a socket is written", "--engine dev=unix:///var/run/docker.sock"},
		{"engine", "unix:///a,unix:///b", `two engines are called "default"`, "--engine dev=URL --engine test=URL"},
		{"engine", "dev=unix:///a,DEV=unix:///b", `two engines are called "dev"`, "--engine dev=URL --engine test=URL"},
		{"engine", "a.b=unix:///a", "no DNS label", "--engine dev=URL"},
		{"engine", "-a=unix:///a", "no DNS label", "--engine dev=URL"},
		{"engine", "=unix:///a", "not a URL", "--engine unix:///a"},
		{"gateway", "192.168.99", "neither an address nor", "--gateway 192.168.99.100"},
		{"gateway", "", "neither an address nor", "--gateway 192.168.99.100"},
		{"gateway", "default=", "neither an address nor", "--gateway 192.168.99.100"},
		{"home", "me", "no absolute path", "--home /Users/me"},
		{"docker-env", "DOCKER_HOST", "is none of", "--docker-env DOCKER_CONTEXT=colima"},
		{"docker-env", "PATH=/bin", "is none of", "--docker-env DOCKER_CONTEXT=colima"},
		{"docker-env", "DOCKER_HOST=nowhere", "not a URL", "DOCKER_HOST is written"},
		{"domain", "", "no DNS name", "--domain docker"},
		{"domain", ".", "no DNS name", "--domain docker"},
		{"domain", "a b", "no DNS name", "--domain docker"},
		{"domain", "docker,-x", "no DNS name", "--domain docker"},
		{"domain", "com", "served by others", "--domain docker"},
		{"domain", ".Local.", "served by others", "--domain docker"},
		{"domain", "localhost", "served by others", "--domain docker"},
		{"domain", "IN-ADDR.arpa", "served by others", "--domain docker"},
		{"domain", "17.172.in-addr.arpa", "served by others", "--domain docker"},
		{"domain", "d.f.ip6.arpa.", "served by others", "--domain docker"},
		{"dns-listen", "127.0.0.1", "no ADDR:PORT", "--dns-listen 127.0.0.1:55353"},
		{"dns-listen", "localhost:53", "no ADDR:PORT", "--dns-listen 127.0.0.1:55353"},
		{"dns-listen", ":53", "no ADDR:PORT", "--dns-listen 127.0.0.1:55353"},
		{"dns-listen", "0.0.0.0:53", "everybody", "--dns-listen 127.0.0.1:55353"},
		{"dns-listen", "[::]:53", "everybody", "--dns-listen 127.0.0.1:55353"},
		{"dns-listen", "[::ffff:0.0.0.0]:53", "everybody", "--dns-listen 127.0.0.1:55353"},
		{"resolver", "magic", "not known on this OS", "--resolver none"},
		{"resolver", "", "not known on this OS", "--resolver none"},
		{"ttl", "6s", "no time from 0s to 5s", "--ttl 5s"},
		{"ttl", "-1s", "no time", "--ttl 5s"},
		{"ttl", "1500ms", "in steps of 1s", "--ttl 5s"},
		{"ttl", "5", "no time", "--ttl 5s"},
		{"negative-ttl", "2s", "no time from 0s to 1s", "--negative-ttl 1s"},
		{"patience", "3s", "no time from 0s to 2s", "--patience 2s"},
		{"patience", "", "no time", "--patience 2s"},
		{"patience", "1us", "in steps of 1ms", "--patience 2s"},
		{"allow-subnet", "203.0.113.0", "no prefix", "--allow-subnet 100.64.0.0/10"},
		{"allow-subnet", "203.0.113.0/33", "no prefix", "--allow-subnet 100.64.0.0/10"},
		{"allow-subnet", "0.0.0.0/0", "every address there is", "--allow-subnet 203.0.113.0/24"},
		{"allow-subnet", "203.0.113.0/0", "every address there is", "--allow-subnet 203.0.113.0/24"},
		{"allow-subnet", "::/0", "every address there is", "--allow-subnet 203.0.113.0/24"},
		{"state-dir", "", "empty", "--state-dir"},
		{"control", "", "empty", "--control"},
		{"log-level", "loud", "no level", "debug, info, warn or error"},
		{"log-format", "xml", "no format", "text or json"},
	} {
		_, err := Load(environment(), given(tt.name, tt.value))
		refused(t, fmt.Sprintf("%s %q", tt.name, tt.value), err, tt.err, tt.hint)
	}
	_, err := Load(environment(), given("gateway", "test=192.168.99.100"), given("engine", "unix:///a"))
	refused(t, "a gateway for an engine that nobody named", err, "not watched", "--engine")
	_, err = Load(environment(), given("gateway", "192.168.99.100"), given("engine", "a=unix:///a,b=unix:///b"))
	refused(t, "one gateway for two engines", err, "cannot serve 2 engines", "--gateway NAME=192.168.99.100")
}

// refused checks that err is a usage Problem of one line that says text, with a hint that says hint.
func refused(t *testing.T, what string, err error, text, hint string) {
	t.Helper()
	var p *Problem
	switch {
	case !errors.As(err, &p):
		t.Errorf("%s: got %v, want a Problem", what, err)
	case p.Code != ExitUsage || p.Hint == "" || !strings.Contains(p.Hint, hint) || !strings.Contains(p.Error(), text) || strings.Contains(p.Error(), "\n"):
		t.Errorf("%s: code %d, %q, hint %q; want %d, ...%s..., ...%s...", what, p.Code, p, p.Hint, ExitUsage, text, hint)
	}
}

func TestFileRefuses(t *testing.T) {
	for _, tt := range []struct{ text, err, hint string }{
		{"domian = \"x\"", `unknown key "domian"`, "did you mean domain?"},
		{"dns_listen = \"x\"", "unknown key", "did you mean dns-listen?"},
		{"dns_listem = \"x\"", "unknown key", "did you mean dns-listen?"},
		{"Engine = \"x\"", "unknown key", "did you mean engine?"},
		{"\"a\\nb\" = \"x\"", `unknown key "a\nb"`, "keys are: engine, home, "},
		{"[engine]\nurl = \"x\"", "takes a string", "engine = \"...\""},
		{"resolver = [\"auto\"]", "one value, not a list", "resolver = \"...\""},
		{"domain = [1]", "takes strings", "domain = [\"...\"]"},
		{"dns-listen = 53", "takes a string", "dns-listen = \"...\""},
		{"log-level = true", "takes a string", "log-level = \"...\""},
		{"domain = ", "toml", "fairlead config init"},
		{"domain = \"a\"\ndomain = \"b\"", "toml", "fairlead config init"},
		{"\xff\x00", "toml", "fairlead config init"},
	} {
		_, err := parseFile("f.toml", []byte(tt.text))
		refused(t, fmt.Sprintf("%q", tt.text), err, tt.err, tt.hint)
		if err != nil && !strings.Contains(err.Error(), "f.toml") {
			t.Errorf("%q: %v names no file", tt.text, err)
		}
	}

	missing := filepath.Join(t.TempDir(), "none.toml")
	if s, err := FromFile(missing, false); err != nil {
		t.Errorf("a default file that is missing: %v", err)
	} else if _, err := Load(environment(), s); err != nil {
		t.Error(err)
	}
	_, err := FromFile(missing, true)
	refused(t, "a missing file that was asked for", err, "none.toml", "fairlead config init")
	_, err = FromFile(t.TempDir(), false)
	refused(t, "a folder", err, "reading the config file", "fairlead config init")
}

// TestDockerEnv: without a named engine the shell's variables tell of some, and are read at once where they cannot be meant.
func TestDockerEnv(t *testing.T) {
	const tcp = "tcp://192.168.99.100:2376"
	none := func(Key) ([]string, bool) { return nil, false }
	for _, tt := range []struct {
		name   string
		env    func(string) (string, bool)
		source Source
		want   map[string]string // nil: engines are named
	}{
		{"nothing", environment(), none, map[string]string{}},
		{"empty", environment("DOCKER_HOST", ""), none, map[string]string{}},
		{"nobody's", environment("PATH", "/bin"), none, map[string]string{}},
		{"socket", environment("DOCKER_HOST", "unix:///x.sock"), none, map[string]string{"DOCKER_HOST": "unix:///x.sock"}},
		{"TLS", environment("DOCKER_HOST", tcp, "DOCKER_TLS_VERIFY", "1", "DOCKER_CERT_PATH", "/c"), none,
			map[string]string{"DOCKER_HOST": tcp, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/c"}},
		{"a setting beats the shell", environment("DOCKER_CONTEXT", "a"), given("docker-env", "DOCKER_CONTEXT=b"), map[string]string{"DOCKER_CONTEXT": "b"}},
		{"an engine that was named", environment("DOCKER_HOST", "nowhere"), given("engine", "tcp://10.0.0.1:2375"), nil},
	} {
		c, err := Load(tt.env, tt.source)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if d := cmp.Diff(tt.want, c.DockerEnv); d != "" || (len(c.Engines) == 0) != (tt.want != nil) {
			t.Errorf("%s: %v, %s", tt.name, c.Engines, d)
		}
	}

	_, err := Load(environment("DOCKER_HOST", tcp, "DOCKER_TLS_VERIFY", "1"))
	refused(t, "TLS that was asked for is not left out", err, "DOCKER_CERT_PATH is not set", "export DOCKER_CERT_PATH=")
	_, err = Load(environment("DOCKER_HOST", "ftp://vm"))
	refused(t, "a DOCKER_HOST that is not spoken", err, "ftp:// is not spoken", "tcp://")
}

// TestGateway: what is told of an engine by name counts for it alone, an address without a name for the first one found.
func TestGateway(t *testing.T) {
	for _, tt := range []struct{ told, first, dev string }{
		{"", "auto", "auto"},
		{"tunnel", "tunnel", "tunnel"},
		{"192.168.99.100", "192.168.99.100", "auto"},
		{"dev=192.168.99.100", "auto", "192.168.99.100"},
		{"tunnel,Dev=native", "tunnel", "native"},
	} {
		var sources []Source
		if tt.told != "" {
			sources = append(sources, given("gateway", tt.told))
		}
		c, err := Load(environment(), sources...)
		if err != nil {
			t.Fatal(err)
		}
		if first, dev := c.gateway("default", true), c.gateway("dev", false); first != tt.first || dev != tt.dev {
			t.Errorf("%q: %s and %s, want %s and %s", tt.told, first, dev, tt.first, tt.dev)
		}
	}
}

func TestSample(t *testing.T) {
	sample := Sample()
	defaults, err := Load(environment(), fileSource(t, sample))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(sample) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			t.Errorf("%q is not commented out", line)
		}
		name, _, ok := strings.Cut(strings.TrimPrefix(line, "# "), " = ")
		if !ok || !slices.ContainsFunc(Keys, func(k Key) bool { return k.Name == name }) {
			continue
		}
		seen++
		c, err := Load(environment(), fileSource(t, strings.TrimPrefix(line, "# ")))
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if d := cmp.Diff(fmt.Sprintf("%+v", defaults), fmt.Sprintf("%+v", c)); d != "" {
			t.Errorf("%s is not the default:\n%s", line, d)
		}
	}
	if seen != len(Keys) {
		t.Errorf("the sample has %d of %d keys:\n%s", seen, len(Keys), sample)
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add([]byte(Sample()))
	f.Add([]byte(strings.ReplaceAll(Sample(), "\n# ", "\n")))
	f.Add([]byte("engine = [\"dev=tcp://192.168.99.100:2376?certs=/c\"]\ngateway = \"tunnel\"\n"))
	f.Add([]byte("a = [[], {b = 1979-05-27T07:32:00Z}]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		source, err := parseFile("f.toml", b)
		if err == nil {
			_, err = Load(environment(), source)
		}
		if err != nil {
			refused(t, "fuzz", err, "", "")
		}
	})
}

// FuzzLoad: settings are refused in words, or they are sane and come back from Settings as they are.
func FuzzLoad(f *testing.F) {
	f.Add("dev=tcp://192.168.99.100:2376?certs=/c", "dev=tunnel", "docker", "127.0.0.1:53", "none", "10.0.0.0/8", "/var/lib/x", "info")
	f.Add("unix:///a,b=unix:///b", "auto", "docker,test.", "[::1]:53", "auto", "fd00::/8", "x", "WARN+1")
	f.Add("tcp://u:p@[::1%25en0]:1/%2f?certs=%20&x=y#z", "fe80::1%en0", "a..b", "[::ffff:0.0.0.0]:53", "", "::ffff:1.2.3.4/120", "\x00", "debug")
	f.Fuzz(func(t *testing.T, engines, gateways, domains, listen, mode, allow, dir, level string) {
		set := map[string]string{"engine": engines, "gateway": gateways, "domain": domains, "dns-listen": listen, "resolver": mode, "allow-subnet": allow, "state-dir": dir, "log-level": level}
		load := func(get func(name string) ([]string, bool)) (Config, error) {
			return Load(environment(), func(k Key) ([]string, bool) { return get(k.Name) })
		}
		c, err := load(func(name string) ([]string, bool) {
			v, ok := set[name]
			return strings.Split(v, ","), ok
		})
		if err != nil {
			refused(t, "fuzz", err, "", "")
			return
		}
		names := map[string]bool{}
		for _, e := range c.Engines {
			if _, err := netip.ParseAddr(e.Gateway); names[e.Name] || !dnsserver.ValidName(e.Name) || strings.Contains(e.Name, ".") ||
				err != nil && !slices.Contains([]string{"auto", "native", "tunnel"}, e.Gateway) {
				t.Errorf("engine %+v", e)
			}
			names[e.Name] = true
		}
		for _, d := range c.Domains {
			if !dnsserver.ValidName(d) {
				t.Errorf("domain %q", d)
			}
		}
		if len(c.Engines) == 0 || len(c.Domains) == 0 || c.DNSListen.Addr().Unmap().IsUnspecified() || !filepath.IsAbs(c.StateDir) {
			t.Errorf("%+v", c)
		}
		shown := c.Settings()
		again, err := load(func(name string) ([]string, bool) {
			switch v := shown[name].(type) {
			case []string:
				return v, true
			case string:
				return []string{v}, true
			}
			return nil, false
		})
		if d := cmp.Diff(fmt.Sprintf("%+v", c), fmt.Sprintf("%+v", again)); err != nil || d != "" {
			t.Errorf("as settings again: %v\n%s\n%s", err, d, shown)
		}
	})
}
