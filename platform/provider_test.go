package platform

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// pairs prints a map in the order of its keys.
func pairs(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%s=%q", k, m[k]))
	}
	return strings.Join(out, " ")
}

func TestParseText(t *testing.T) {
	for _, c := range []struct {
		name  string
		parse func(string) map[string]string
		text  string
		want  string
	}{
		{"TOML", parsePairs, "\ufeffVM = \"a # b\" # c\nLowerIP='10.0.0.1'\r\n#X = 1\nMask = [255, 0]\n[Driver.vbox]\n  LowerIP = 2 ; c\n", `driver.vbox.lowerip="2" lowerip="10.0.0.1" mask="[255, 0]" vm="a # b"`},
		{"a quote that does not end", parsePairs, "VM = \"a\nX=", `vm="\"a" x=""`},
		{"the last wins", parsePairs, "a=1\nA=2\n", `a="2"`},
		{"a section that does not end", parsePairs, "[x\na=1\n", `x.a="1"`},
		{"shell", parseExports, "export A=\"1 2\"\nB='x' # c\n  C=a;rm -rf /\n#D=1\nset -x E 7\nexport F\nif [ $X = 1 ]; then\nG=$(id)\n1 2=3\n", `A="1 2" B="x" C="a" E="7" G="$(id)"`},
		{"YAML", parseScalars, "a: 1\nb:\n  c: 'x' # c\n  d:\n    c: deep\n  e: 2\n# f: 3\n- g: 4\nh: {i: 5}\nb2:\n      c: far\n", `a="1" b="" b.c="x" b.d="" b.e="2" b2="" b2.c="far" h="{i: 5}"`},
		{"YAML, lists and text", parseScalars, "network:\n  dns: [1.1.1.1]\n  hosts:\n    address: true\nscript: |\n  address: true\n", `network="" network.dns="[1.1.1.1]" network.hosts="" script="|" script.address="true"`},
	} {
		if got := pairs(c.parse(c.text)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestParseDVM(t *testing.T) {
	for _, c := range []struct{ conf, vagrantfile, want string }{
		{"", "", "192.168.42.43:2375"},
		{"", `ENV.fetch("DOCKER_PORT", "4243") ENV.fetch("DOCKER_IP", "10.0.0.2")`, "10.0.0.2:4243"},
		{"export DOCKER_PORT=\n", `ENV.fetch("DOCKER_PORT", "4243")`, "192.168.42.43:4243"},
		{"export DOCKER_PORT=65536\n", "", ""},
		{"export DOCKER_PORT=0\n", "", ""},
		{"export DOCKER_IP=0.0.0.0\n", "", ""},
		{"export DOCKER_IP=host\n", "", ""},
		{"export DOCKER_ARGS='-H tcp://0.0.0.0:1 -H tcp://127.0.0.1:2'\n", "", "192.168.42.43:2"},
	} {
		at, err := parseDVM(c.conf, c.vagrantfile)
		if got := at.String(); (err == nil) != (c.want != "") || err == nil && got != c.want {
			t.Errorf("%q, %q: %s, %v; want %q", c.conf, c.vagrantfile, got, err, c.want)
		}
	}
}

// FuzzParseText: a line that we understand is understood after whatever comes before it, as long as that leaves no section.
func FuzzParseText(f *testing.F) {
	f.Add("a=1\n[x]\nb: 2\n")
	f.Add("export A='\n set -x \x00")
	f.Fuzz(func(t *testing.T, text string) {
		for name, m := range map[string]map[string]string{
			"pairs": parsePairs(text + "\n[s]\nkey = \"v\"\n"), "exports": parseExports(text + "\nexport key=v\n"), "scalars": parseScalars(text + "\ns:\n  key: v\n"),
		} {
			if key := map[string]string{"pairs": "s.key", "exports": "key", "scalars": "s.key"}[name]; m[key] != "v" {
				t.Errorf("%s: after %q the key is %q", name, text, m[key])
			}
		}
		parseColima(text)
	})
}

func FuzzParseAddresses(f *testing.F) {
	f.Add("export DOCKER_IP=10.0.0.1\nLowerIP = \"10.0.0.2\"\n", `ENV.fetch("DOCKER_PORT", "4243")`)
	f.Add(`config.vm.network "private_network", ip: "192.168.56.10"`, "tcp://0.0.0.0:2375")
	f.Fuzz(func(t *testing.T, a, b string) {
		if at, err := parseDVM(a, b); err == nil && (!at.IsValid() || at.Port() == 0 || at.Addr().IsUnspecified()) {
			t.Errorf("dvm: %v", at)
		}
		if at, err := parseVagrantfile(a + "\n" + b); err == nil && (!at.IsValid() || at.Port() == 0 || at.Addr().IsUnspecified()) {
			t.Errorf("vagrant: %v", at)
		}
		if vm, addr, err := parseBoot2docker(a); err == nil && (vm == "" || !addr.Is4()) {
			t.Errorf("boot2docker: %q at %v", vm, addr)
		}
	})
}

func FuzzParseJSON(f *testing.F) {
	for _, s := range []string{
		`{"currentContext":"x","Name":"x","Endpoints":{"docker":{"Host":"tcp://h"}}}`,
		`{"DriverName":"none","Driver":{"IPAddress":"::ffff:10.0.0.1","EnginePort":1,"URL":"tcp://h"}}`,
		`{"version":1,"machines":{"a":{"name":"x","state":"running","vagrantfile_name":["V"],"vagrantfile_path":"/x"}}}`,
		`{"KubernetesConfig":{"ContainerRuntime":"docker"},"containerEngine":{"name":"moby"},"HostUser":{"Rootful":true}}`,
		"\xef\xbb\xbfnull", "[]", `{"Driver":[]}`, `{"machines":null}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		parseDockerConfig(b)
		parseMinikubeProfile(b)
		parseRancher(b)
		if c, err := parseContext(b); err == nil && c.Name == "" {
			t.Error("a context without a name")
		}
		if m, err := parsePodmanMachine(b); err == nil && (m.Name == "" || strings.ContainsAny(m.Name, "/\\\n")) {
			t.Errorf("podman machine %q", m.Name)
		}
		if m, err := parseMachine(b); err == nil && m.addr.IsValid() {
			if u, err := normalURL(m.url(), true); err != nil || u != m.url() {
				t.Errorf("%q is written %q, %v", m.url(), u, err)
			}
		}
		machines, err := parseVagrantIndex(b)
		for _, m := range machines {
			if strings.ContainsAny(m.VagrantfileName, `/\`) || err != nil {
				t.Errorf("%+v, %v", m, err)
			}
		}
	})
}
