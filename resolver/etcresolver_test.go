package resolver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

const fileV4 = "# fairlead: names in this domain are asked here; removed by: fairlead teardown-network\nnameserver 127.0.0.1\nport 55353\n"

func TestRenderEtcResolver(t *testing.T) {
	for _, c := range []struct{ domains, server, want string }{
		{"docker", "127.0.0.1:55353", "/etc/resolver/docker: " + fileV4},
		{"Docker. 17.172.in-addr.arpa", "127.0.0.1:55353", "/etc/resolver/17.172.in-addr.arpa: " + fileV4 + "/etc/resolver/docker: " + fileV4},
		{"docker", "[::1]:5300", "/etc/resolver/docker: " + strings.NewReplacer("127.0.0.1", "::1", "55353", "5300").Replace(fileV4)},
		{"docker", "[::ffff:127.0.0.1]:55353", "/etc/resolver/docker: " + fileV4},
		{"", "127.0.0.1:53", ""},
		{"docker", "127.0.0.1:53", "error: port 53 takes the DNS from VMs"},
		{"docker", "127.0.0.1:5353", "error: port 5353 for multicast"},
		{"docker", "127.0.0.2:55353", "error: macOS asks 127.0.0.2 only while"},
		{"docker", "192.168.64.2:55353", "error: macOS asks 192.168.64.2 only while"},
		{"docker", "[fd00::1]:55353", "error: use --dns-listen 127.0.0.1:55353"},
		{"local", "127.0.0.1:55353", "error: names in local without"},
		{"a.local", "127.0.0.1:55353", "error: names in local without"},
		{"1.254.169.in-addr.arpa", "127.0.0.1:55353", "error: names in 254.169.in-addr.arpa without"},
		{"notlocal", "127.0.0.1:55353", "/etc/resolver/notlocal: " + fileV4},
		{"../hosts", "127.0.0.1:55353", "error: letters, digits"},
		{".", "127.0.0.1:55353", "error: letters, digits"},
	} {
		items, err := Render(EtcResolver, Want{strings.Fields(c.domains), netip.MustParseAddrPort(c.server)})
		if part, ok := strings.CutPrefix(c.want, "error: "); ok {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s %s: %v, %v; want an error with %q", c.domains, c.server, items, err, part)
			}
			continue
		}
		got := ""
		for _, i := range items {
			got += i.Key + ": " + i.Value
			f, ok := parseResolverFile(i.Key[len("/etc/resolver/"):], i.Value)
			server := netip.MustParseAddrPort(c.server)
			want := resolverFile{strings.TrimPrefix(i.Key, "/etc/resolver/"), []string{server.Addr().Unmap().String()}, server.Port()}
			if !ok || fmt.Sprint(f) != fmt.Sprint(want) {
				t.Errorf("configd reads %+v, want %+v", f, want)
			}
		}
		if err != nil || got != c.want {
			t.Errorf("%s %s: %q, %v; want %q", c.domains, c.server, got, err, c.want)
		}
	}
	if got := DefaultListen(EtcResolver); got.String() != "127.0.0.1:55353" {
		t.Errorf("DefaultListen = %v", got)
	}
}

func TestParseResolverFile(t *testing.T) {
	for _, c := range []struct{ content, want string }{
		{"nameserver 127.0.0.1\nport 55353\n", "docker [127.0.0.1] 55353"},
		{"NameServer\t127.0.0.1", "docker [127.0.0.1] 0"},
		{"domain Dev.\nnameserver 1.1.1.1\n", "dev [1.1.1.1] 0"},
		{"domain a\ndomain b\nport 1\nport 2\n", "a [] 1"},
		{"nameserver 1\nnameserver 2\nnameserver 3\nnameserver 4\n", "docker [1 2 3] 0"},
		{"nameserver 1.1.1.1\r\n", "docker [1.1.1.1\r] 0"},
		{"nameserver  1.1.1.1\n", "none"}, // two blanks: the value is empty
		{" nameserver 1.1.1.1\n", "none"},
		{"# nameserver 1.1.1.1\n; port 5\n", "none"},
		{"nameserver\nport\n", "none"},
		{"unknown 1\n", "none"},
		{"", "none"},
		{"search_order 1\n", "docker [] 0"},
	} {
		f, ok := parseResolverFile("docker", c.content)
		got := "none"
		if ok {
			got = fmt.Sprintf("%s %v %d", f.domain, f.servers, f.port)
		}
		if got != c.want {
			t.Errorf("%q: %s, want %s", c.content, got, c.want)
		}
	}
}

func TestFileEntries(t *testing.T) {
	for _, c := range []struct{ name, content, ours, foreign string }{
		{"docker", fileV4, "/etc/resolver/docker", ""},
		{"docker", fileV4 + "timeout 5\n", "/etc/resolver/docker", ""}, // Diff tells that it was edited
		{"docker", "nameserver 10.0.0.1\n", "", "/etc/resolver/docker"},
		{"docker", " " + fileV4, "", "/etc/resolver/docker"},
		{"docker", "", "", "/etc/resolver/docker"},
		{"Docker", fileV4, "", "/etc/resolver/docker"},
		{"mine", "domain docker\nnameserver 10.0.0.1\n", "", "/etc/resolver/mine /etc/resolver/docker"},
		{"mine", "domain ../../hosts\n", "", "/etc/resolver/mine /etc/resolver/hosts"},
		{".DS_Store", "\x00\x01", "", "/etc/resolver/.ds_store"},
	} {
		var ours, foreign []string
		for _, e := range fileEntries("/etc/resolver", c.name, c.content) {
			if e.Foreign == "" {
				ours = append(ours, e.Key)
				if e.Value != c.content {
					t.Errorf("%s: value %q", c.name, e.Value)
				}
				continue
			}
			foreign = append(foreign, e.Key)
			if !strings.Contains(e.Foreign, "rm /etc/resolver/"+c.name) || e.Value != "" {
				t.Errorf("%s: %+v", c.name, e)
			}
		}
		if strings.Join(ours, " ") != c.ours || strings.Join(foreign, " ") != c.foreign {
			t.Errorf("%s %q: ours %q, foreign %q", c.name, c.content, ours, foreign)
		}
	}
}

func TestDiffOfFiles(t *testing.T) {
	file := func(domain, value string) Item { return Item{EtcResolver, "/etc/resolver/" + domain, value} }
	ours, other := file("docker", fileV4), file("dev", fileV4)
	edited := file("docker", fileV4+"timeout 5\n")
	foreign := foreignFile("/etc/resolver", "docker", "somebody's")
	for _, c := range []struct {
		name        string
		want, owned []Item
		found       []Entry
		plan        []string
	}{
		{"first start beside others' files", []Item{ours, other}, nil, []Entry{foreignFile("/etc/resolver", "puma", "x")}, []string{"add docker", "add dev"}},
		{"standing", []Item{ours}, []Item{ours}, []Entry{{Item: ours}}, []string{"keep docker"}},
		{"one domain less", []Item{ours}, []Item{ours, other}, []Entry{{Item: ours}, {Item: other}}, []string{"delete dev", "keep docker"}},
		{"edited", []Item{ours}, []Item{ours}, []Entry{{Item: edited}}, []string{"blocked docker"}},
		{"edited, teardown", nil, []Item{ours}, []Entry{{Item: edited}}, []string{"blocked docker"}},
		{"foreign", []Item{ours, other}, nil, []Entry{foreign}, []string{"add dev", "blocked docker"}},
		{"replaced by somebody's, teardown", nil, []Item{ours}, []Entry{foreign}, nil},
		{"ours, and a foreign file that says the same domain", []Item{ours}, []Item{ours}, []Entry{{Item: ours}, foreign}, []string{"keep docker"}},
	} {
		p := Diff(c.want, c.owned, c.found)
		var got []string
		for _, s := range p.Steps {
			if s.New == (Item{}) {
				got = append(got, "delete "+s.Old.Key)
			} else {
				got = append(got, "add "+s.New.Key)
			}
		}
		for _, i := range p.Keep {
			got = append(got, "keep "+i.Key)
		}
		for _, b := range p.Blocked {
			got = append(got, "blocked "+b.Item.Key)
			if !strings.Contains(b.Why, "rm /etc/resolver/docker") {
				t.Errorf("%s: no way out in %q", c.name, b.Why)
			}
		}
		for i := range got {
			got[i] = strings.ReplaceAll(got[i], "/etc/resolver/", "")
		}
		if !slices.Equal(got, c.plan) {
			t.Errorf("%s: %q, want %q", c.name, got, c.plan)
		}
	}
}

func TestNameOf(t *testing.T) {
	for key, want := range map[string]string{
		"/etc/resolver/docker": "docker", "/etc/resolver/17.172.in-addr.arpa": "17.172.in-addr.arpa",
		"/etc/resolver/": "", "/etc/resolver": "", "/etc/resolver/../hosts": "", "/etc/hosts": "", "/etc/resolver/a/b": "",
		"/etc/resolver/.hidden": "", "/etc/resolver/Docker": "", "/etc/resolver/docker.": "",
	} {
		if got, err := nameOf("/etc/resolver", key); got != want || (err == nil) != (want != "") {
			t.Errorf("nameOf(%q) = %q, %v", key, got, err)
		}
	}
}

// FuzzResolverFile: whatever a file is named and holds, it is ours by the mark alone, and no place is outside of the folder.
func FuzzResolverFile(f *testing.F) {
	f.Add("docker", fileV4)
	f.Add("mine", "domain docker\nnameserver 10.0.0.1\nport x\n")
	f.Add("x", "domain ../..\n")
	f.Add("..", "domain /\nport 99999\n\n \n\t")
	f.Fuzz(func(t *testing.T, name, content string) {
		if strings.ContainsAny(name, "/\x00") || name == "" || name == "." || name == ".." {
			return // no name that a folder shows
		}
		for _, e := range fileEntries("/etc/resolver", name, content) {
			if e.Foreign == "" && !strings.HasPrefix(content, fileMark) {
				t.Errorf("%q %q is taken for ours", name, content)
			}
			if e.Key != "/etc/resolver" && !strings.HasPrefix(e.Key, "/etc/resolver/") {
				t.Errorf("%q %q is in the place %q", name, content, e.Key)
			}
		}
		if parsed, ok := parseResolverFile(name, content); ok && len(parsed.servers) > 3 {
			t.Errorf("%d servers", len(parsed.servers))
		}
	})
}
