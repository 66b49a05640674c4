package resolver

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

const block = `# fairlead: begin (names below docker are asked here first; removed by: fairlead teardown-network)
nameserver 127.0.0.1
# fairlead: end
`

func TestRender(t *testing.T) {
	for _, c := range []struct {
		method  Method
		domains string
		server  string
		want    string // value, or "error: " and a part of it
	}{
		{Resolved, "docker", "127.0.0.1:55353", "127.0.0.1:55353 ~docker"},
		{Resolved, "Docker. 17.172.in-addr.arpa docker", "127.0.0.1:55353", "127.0.0.1:55353 ~17.172.in-addr.arpa ~docker"},
		{Resolved, "docker", "[::1]:55353", "[::1]:55353 ~docker"},
		{Resolved, "docker", "[::ffff:127.0.0.1]:55353", "127.0.0.1:55353 ~docker"},
		{Resolved, "", "127.0.0.1:55353", ""},
		{None, "docker", "127.0.0.1:55353", ""},
		{ResolvConf, "docker", "127.0.0.1:53", block},
		{ResolvConf, "docker", "[::1]:53", strings.ReplaceAll(block, "127.0.0.1", "::1")},
		{ResolvConf, "docker dev", "127.0.0.1:53", strings.ReplaceAll(block, "below docker", "below dev, docker")},
		{ResolvConf, "docker", "127.0.0.1:55353", "error: cannot carry port 55353; use --dns-listen 127.0.0.1:53"},
		{Resolved, "docker", "0.0.0.0:53", "error: no address that can be asked"},
		{Resolved, "docker", "127.0.0.1:0", "error: no address that can be asked"},
		{Resolved, "docker", "[fe80::1%eth0]:53", "error: no address that can be asked"},
		{Resolved, ".", "127.0.0.1:53", `error: label "" is not`},
		{Resolved, "a..b", "127.0.0.1:53", `error: label "" is not`},
		{ResolvConf, "docker\nnameserver", "127.0.0.1:53", "error: letters, digits"},
		{ResolvConf, "~docker", "127.0.0.1:53", "error: letters, digits"},
		{Resolved, strings.Repeat("a", 64), "127.0.0.1:53", "error: 1 to 63"},
		{Resolved, strings.Repeat("a.", 127) + "a", "127.0.0.1:53", "error: longer than 253"},
		{"dnsmasq", "docker", "127.0.0.1:53", "error: no such method"},
	} {
		t.Run(fmt.Sprint(c.method, " ", c.domains), func(t *testing.T) {
			domains := strings.FieldsFunc(c.domains, func(r rune) bool { return r == ' ' })
			items, err := Render(c.method, Want{domains, netip.MustParseAddrPort(c.server)})
			if part, ok := strings.CutPrefix(c.want, "error: "); ok {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Fatalf("Render = %v, %v; want an error with %q", items, err, part)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, i := range items {
				if i.Method != c.method || i.Key == "" {
					t.Errorf("item %+v", i)
				}
				got += i.Value
			}
			if got != c.want {
				t.Errorf("Render = %q\nwant     %q", got, c.want)
			}
		})
	}
}

func TestParse(t *testing.T) {
	for _, m := range append([]Method{Auto, None}, methods...) {
		if got, err := Parse(string(m)); got != m || err != nil {
			t.Errorf("Parse(%q) = %q, %v", m, got, err)
		}
	}
	_, err := Parse("dnsmasq")
	if err == nil || !strings.Contains(err.Error(), "one of: auto none") {
		t.Errorf("Parse(dnsmasq) = %v", err)
	}
}

// An item in these tables is "method value"; each method has one place.
func item(s string) Item {
	method, value, _ := strings.Cut(s, " ")
	return Item{Method(method), map[Method]string{Resolved: linkName, ResolvConf: resolvConfPath}[Method(method)], value}
}

func itemsOf(lines []string) (items []Item) {
	for _, s := range lines {
		items = append(items, item(s))
	}
	return items
}

// describe is a plan as one line per decision.
func describe(p Plan) (lines []string) {
	short := func(i Item) string { return string(i.Method) + " " + i.Value }
	for _, s := range p.Steps {
		switch {
		case s.Old == Item{}:
			lines = append(lines, "add "+short(s.New))
		case s.New == Item{}:
			lines = append(lines, "delete "+short(s.Old))
		default:
			lines = append(lines, "replace "+short(s.Old)+" by "+short(s.New))
		}
	}
	for _, i := range p.Keep {
		lines = append(lines, "keep "+short(i))
	}
	for _, i := range p.Foreign {
		lines = append(lines, "foreign "+short(i))
	}
	for _, b := range p.Blocked {
		lines = append(lines, "blocked "+short(b.Item))
	}
	for _, i := range p.Owned {
		lines = append(lines, "owned "+short(i))
	}
	return lines
}

func TestDiff(t *testing.T) {
	type l = []string
	for _, c := range []struct {
		name               string
		want, owned, found []string // found: a leading "!" makes it foreign
		plan               []string
	}{
		{"first start", l{"resolved a ~d"}, nil, nil, l{"add resolved a ~d", "owned resolved a ~d"}},
		{"nothing to do", l{"resolved a ~d"}, l{"resolved a ~d"}, l{"resolved a ~d"}, l{"keep resolved a ~d", "owned resolved a ~d"}},
		{"lost from the OS", l{"resolved a ~d"}, l{"resolved a ~d"}, nil, l{"add resolved a ~d", "owned resolved a ~d"}},
		{"gone and unwanted", nil, l{"resolved a ~d"}, nil, nil},
		{"domain added", l{"resolved a ~d ~e"}, l{"resolved a ~d"}, l{"resolved a ~d"},
			l{"replace resolved a ~d by resolved a ~d ~e", "owned resolved a ~d", "owned resolved a ~d ~e"}},
		{"teardown", nil, l{"resolved a ~d"}, l{"resolved a ~d"}, l{"delete resolved a ~d", "owned resolved a ~d"}},
		{"bare link after a crash", l{"resolved a ~d"}, l{"resolved a ~d"}, l{"resolved "},
			l{"replace resolved  by resolved a ~d", "owned resolved a ~d"}},
		{"bare link after a crash, teardown", nil, l{"resolved a ~d"}, l{"resolved "}, l{"delete resolved ", "owned resolved a ~d"}},
		{"crash between old and new", nil, l{"resolved a ~d", "resolved a ~e"}, l{"resolved a ~e"},
			l{"delete resolved a ~e", "owned resolved a ~d", "owned resolved a ~e"}},
		{"mixture of old and new", l{"resolved b ~e"}, l{"resolved a ~d", "resolved b ~e"}, l{"resolved a ~e"},
			l{"replace resolved a ~e by resolved b ~e", "owned resolved a ~d", "owned resolved b ~e"}},
		{"server added by somebody", l{"resolved a ~d"}, l{"resolved a ~d"}, l{"resolved a x ~d"}, l{"blocked resolved a ~d"}},
		{"bare link not in the journal", l{"resolved a ~d"}, nil, l{"resolved "}, l{"blocked resolved a ~d"}},
		{"foreign link", l{"resolved a ~d"}, l{"resolved a ~d"}, l{"!resolved "}, l{"blocked resolved a ~d"}},
		{"foreign link, nothing wanted", nil, l{"resolved a ~d"}, l{"!resolved "}, nil},
		{"in place, journal lost", l{"resolved a ~d"}, nil, l{"resolved a ~d"}, l{"foreign resolved a ~d"}},
		{"in place, journal lost, teardown", nil, nil, l{"resolved a ~d"}, l{"blocked resolved a ~d"}},
		{"edited block", l{"resolv.conf B"}, l{"resolv.conf B"}, l{"resolv.conf B'"}, l{"blocked resolv.conf B"}},
		{"a part of a block is edited, not unfinished", nil, l{"resolv.conf B C"}, l{"resolv.conf B"}, l{"blocked resolv.conf B"}},
		{"block copied by somebody", nil, l{"resolv.conf B"}, l{"resolv.conf B", "resolv.conf B"},
			l{"delete resolv.conf B", "delete resolv.conf B", "owned resolv.conf B"}},
		{"edited copy beside ours", nil, l{"resolv.conf B"}, l{"resolv.conf B", "resolv.conf B'"},
			l{"delete resolv.conf B", "blocked resolv.conf B'", "owned resolv.conf B"}},
		{"file kept by another", l{"resolv.conf B"}, nil, l{"!resolv.conf "}, l{"blocked resolv.conf B"}},
		{"method changed", l{"resolved a ~d"}, l{"resolv.conf B"}, l{"resolv.conf B"},
			l{"delete resolv.conf B", "add resolved a ~d", "owned resolv.conf B", "owned resolved a ~d"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var found []Entry
			for _, s := range c.found {
				s, foreign := strings.CutPrefix(s, "!")
				e := Entry{Item: item(s)}
				if foreign {
					e.Foreign = "somebody else's"
				}
				found = append(found, e)
			}
			got := describe(Diff(itemsOf(c.want), itemsOf(c.owned), found))
			if !slices.Equal(got, c.plan) {
				t.Errorf("plan:\n\t%s\nwant:\n\t%s", strings.Join(got, "\n\t"), strings.Join(c.plan, "\n\t"))
			}
		})
	}
}

// model is an OS with the OS's rules: one link at most, any number of blocks in a file, a foreign link or file not touched.
type model []Entry

func (m *model) apply(t *testing.T, s Step) {
	t.Helper()
	at := slices.IndexFunc(*m, func(e Entry) bool { return e.Item == s.Old })
	if s.Old == (Item{}) {
		if slices.ContainsFunc(*m, func(e Entry) bool { return e.Method == s.New.Method }) {
			t.Fatalf("%v: the place is taken in %v", s, *m)
		}
		*m = append(*m, Entry{Item: s.New})
		return
	}
	if at < 0 || (*m)[at].Foreign != "" {
		t.Fatalf("%v: not there, or foreign, in %v", s, *m)
	}
	if s.New == (Item{}) {
		*m = slices.Delete(*m, at, at+1)
	} else {
		(*m)[at].Item = s.New
	}
}

func TestDiffProperties(t *testing.T) {
	values := map[Method][]string{
		Resolved:   {"", "a", "a ~d", "a ~d ~e", "b ~d", "a x ~d", "~d"},
		ResolvConf: {"A", "B", "C"},
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	some := func(m Method, max int) (items []Item) {
		for range rnd.IntN(max + 1) {
			items = append(items, item(string(m)+" "+values[m][rnd.IntN(len(values[m]))]))
		}
		return items
	}
	for range 20_000 {
		var want, owned []Item
		var os model
		for _, m := range []Method{Resolved, ResolvConf} {
			want = append(want, slices.DeleteFunc(some(m, 1), func(i Item) bool { return i.Value == "" })...)
			owned = append(owned, some(m, 2)...)
			there := some(m, map[Method]int{Resolved: 1, ResolvConf: 3}[m])
			for _, i := range there {
				os = append(os, Entry{Item: i})
			}
			if len(there) == 0 && rnd.IntN(3) == 0 {
				os = append(os, Entry{item(string(m) + " "), "somebody else's"})
			}
		}
		before := slices.Clone(os)
		p := Diff(want, owned, before)
		for k, s := range p.Steps {
			// kill -9 before any step: what the journal holds by then is enough to take everything back.
			crashed := slices.Clone(os)
			back := Diff(nil, p.Owned, crashed)
			for _, b := range back.Steps {
				crashed.apply(t, b)
			}
			for _, e := range crashed {
				if e.Foreign == "" && !slices.Contains(before, e) {
					t.Fatalf("want %v owned %v found %v: after a crash at step %d and teardown %v is left", want, owned, before, k, e)
				}
			}
			if s.Old != (Item{}) && !slices.Contains(owned, s.Old) && !unfinished(s.Old, pick(owned, place{s.Old.Method, s.Old.Key})) {
				t.Fatalf("want %v owned %v found %v: %v touches what is not ours", want, owned, before, s)
			}
			if s.New != (Item{}) && !slices.Contains(p.Owned, s.New) {
				t.Fatalf("%v is not in the journal", s)
			}
			os.apply(t, s)
		}
		for _, w := range want {
			there := slices.Contains(os, Entry{Item: w})
			if blocked := slices.ContainsFunc(p.Blocked, func(b Blocked) bool { return b.Item.Method == w.Method && b.Why != "" }); !there && !blocked {
				t.Fatalf("want %v owned %v found %v: %v is neither there nor explained: %v", want, owned, before, w, p)
			}
		}
		if again := Diff(want, p.Owned, os); len(again.Steps) > 0 {
			t.Fatalf("want %v owned %v found %v: not idempotent: %v", want, owned, before, again.Steps)
		}
	}
}

func TestBlocks(t *testing.T) {
	for _, c := range []struct{ name, content string }{
		{"user's own comment", "# fairlead is nice\nnameserver 1.1.1.1\n"},
		{"no newline at the end", "nameserver 1.1.1.1"},
		{"CRLF", "nameserver 1.1.1.1\r\nsearch lan\r\n"},
		{"empty", ""},
	} {
		if found := blocks(c.content); len(found) > 0 {
			t.Errorf("%s: blocks = %q", c.name, found)
		}
		if found := blocks(block + c.content); !slices.Equal(found, []string{block}) {
			t.Errorf("%s: blocks = %q", c.name, found)
		}
	}
	for _, c := range []struct {
		name, content string
		want          []string
	}{
		{"made CRLF by an editor", strings.ReplaceAll(block, "\n", "\r\n"), []string{strings.ReplaceAll(block, "\n", "\r\n")}},
		{"end deleted", "# fairlead: begin\nnameserver 127.0.0.1\nsearch lan\n", []string{"# fairlead: begin\n"}},
		{"begin deleted", "nameserver 127.0.0.1\n# fairlead: end\nsearch lan\n", []string{"# fairlead: end\n"}},
		{"two begins", "# fairlead: begin\nsearch lan\n" + block, []string{"# fairlead: begin\n", block}},
		{"line put in", strings.Replace(block, "nameserver", "search lan\nnameserver", 1), []string{strings.Replace(block, "nameserver", "search lan\nnameserver", 1)}},
		{"indented", "  " + block, []string{"  " + block}},
	} {
		if found := blocks(c.content + "nameserver 1.1.1.1\n"); !slices.Equal(found, c.want) {
			t.Errorf("%s: blocks = %q, want %q", c.name, found, c.want)
		}
	}
}

func TestUnfit(t *testing.T) {
	const three = "nameserver 1.1.1.1\nnameserver\t8.8.8.8\nnameserver 9.9.9.9\n"
	for _, c := range []struct{ content, want string }{
		{"nameserver 1.1.1.1\nnameserver 8.8.8.8\n", ""},
		{"", ""},
		{"# my own file\nnameserver 1.1.1.1 # generated by me\n", ""},
		{"search lan\n# Generated by a later comment\n", ""},
		{" nameserver 1.1.1.1\n#nameserver 1.1.1.1\nnameserver1.1.1.1\nnameserver x\nnameserver\n", ""}, // none of them counts
		{three, "9.9.9.9"},
		{"options timeout:1 rotate\n", "rotate"},
		{"\n# Generated by NetworkManager\nnameserver 1.1.1.1\n", "Generated by NetworkManager"},
		{"# This is /run/systemd/resolve/stub-resolv.conf managed by man:systemd-resolved(8).\n# Do not edit.\n", "systemd-resolved"},
		{"# Dynamic resolv.conf(5) file for glibc resolver(3) generated by resolvconf(8)\n", "resolvconf(8)"},
		{"# Generated by resolvconf\n", "resolvconf"},
		{"# This file was automatically generated by WSL. To stop automatic generation\n", "WSL"},
		{"; Generated by dhcpcd from eth0.dhcp\n", "dhcpcd"},
	} {
		got := unfit(c.content)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("unfit(%q) = %q, want %q in it", c.content, got, c.want)
		}
	}
}

// FuzzBlock: whatever a file holds, our block goes in and comes out without a trace, and a cut takes our block and nothing else.
func FuzzBlock(f *testing.F) {
	f.Add("nameserver 1.1.1.1\n", 0)
	f.Add("no newline", 3)
	f.Add("# fairlead: begin\n", 0)
	f.Add("# fairlead: end\n# fairlead: begin", 16)
	f.Add(block+block, len(block))
	f.Add("a\r\n\x00\xff# fairlead: begin\r\n", 3)
	f.Fuzz(func(t *testing.T, content string, offset int) {
		cut := func(s string) string {
			at := locate(s, block)
			if at < 0 {
				t.Fatalf("block not found in %q", s)
			}
			return s[:at] + s[at+len(block):]
		}
		if got := cut(block + content); got != content {
			t.Errorf("insert, then remove: %q became %q", content, got)
		}
		if offset >= 0 && offset <= len(content) { // moved by somebody, between hostile lines
			s := content[:offset] + block + content[offset:]
			if at := locate(s, block); at >= 0 && (s[at:at+len(block)] != block || at > 0 && s[at-1] != '\n') {
				t.Errorf("cut at %d of %q is not our block on its own lines", at, s)
			}
		}
		rest := content
		for _, b := range blocks(content) {
			i := strings.Index(rest, b)
			if b == "" || i < 0 {
				t.Fatalf("blocks(%q) has %q", content, b)
			}
			rest = rest[i+len(b):]
			if locate(content, b) < 0 {
				t.Errorf("locate(%q, %q) does not find what blocks did", content, b)
			}
		}
		nameservers(content)
		unfit(content)
	})
}
