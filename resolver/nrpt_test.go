package resolver

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// ruleOf is a rule in one line for 127.0.0.153, or what the arguments say.
func ruleOf(names ...string) string {
	return fmt.Sprintf(`Comment="https://github.com/fairlead-dev/fairlead" ConfigOptions=0x8 DisplayName="fairlead" GenericDNSServers="127.0.0.153" `+
		`IPSECCARestriction="" Name=["%s"] Version=0x2`, strings.Join(names, `","`))
}

func renderNRPT(t *testing.T, domains ...string) []Item {
	t.Helper()
	items, err := Render(NRPT, Want{domains, DefaultListen(NRPT)})
	if err != nil {
		t.Fatal(err)
	}
	return items
}

func TestRenderRules(t *testing.T) {
	want := []Item{{NRPT, localRules + `\{f1ea1ead-d05e-4e52-a57b-000000000000}`, ruleOf(".17.172.in-addr.arpa", ".docker")}}
	if got := renderNRPT(t, "Docker.", "17.172.in-addr.arpa"); !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	var many []string
	for i := range 101 {
		many = append(many, fmt.Sprintf("d%03d", i))
	}
	items := renderNRPT(t, many...)
	var names []string
	for i, item := range items {
		n := namesOf(item.Value)
		if len(n) == 0 || len(n) > 50 || item.Key != ruleKey(localRules, i) || strings.ContainsAny(item.Value, "\n\r") {
			t.Errorf("rule %d: %v", i, item)
		}
		names = append(names, n...)
	}
	if len(items) != 3 || len(names) != 101 || names[100] != ".d100" {
		t.Errorf("%d rules, names %v", len(items), names)
	}
	_, err := Render(NRPT, Want{[]string{"docker"}, netip.MustParseAddrPort("127.0.0.1:55353")})
	if err == nil || !strings.Contains(err.Error(), "cannot carry port 55353; use --dns-listen 127.0.0.153:53") {
		t.Error(err)
	}
}

func TestDecideNRPT(t *testing.T) {
	stopped := errors.New("stopped")
	for _, c := range []struct {
		mode     Method
		dnscache error
		want     Method
		text     string
	}{
		{Auto, nil, NRPT, "policy table"},
		{NRPT, nil, NRPT, "policy table"},
		{None, nil, None, "asked for"},
		{None, stopped, None, "asked for"},
		{Auto, stopped, None, "stopped, and nothing else"},
		{NRPT, stopped, "", "use resolver nrpt: stopped; hint: enable"},
	} {
		m, why, err := decideNRPT(c.mode, c.dnscache)
		if err != nil {
			why = err.Error()
		}
		if m != c.want || (err == nil) != (m != "") || !strings.Contains(why, c.text) {
			t.Errorf("%s, %v: %q, %q", c.mode, c.dnscache, m, why)
		}
	}
}

func TestRuleString(t *testing.T) {
	for _, c := range []struct {
		rule rule
		want string
	}{
		{rule{}, ""},
		{rule{"Version": dword(1), "Name": multiSZ([]string{".docker", ".x"}), "A": sz("")}, `A="" Name=[".docker",".x"] Version=0x1`},
		{rule{"": sz("two words\n\"Ü\""), "a=b": dword(0xffffffff)}, `""="two words\n\"\u00dc\"" "a=b"=0xffffffff`},
		{rule{"E": {2, utf16z("%PATH%")}}, `E=2:25005000410054004800250000 00`},
		{rule{"M": multiSZ(nil), "N": multiSZ([]string{""}), "O": multiSZ([]string{"", "a"})}, `M=[] N=[""] O=["","a"]`},
		{rule{"D": {4, "\x01\x02"}, "S": {1, "a"}, "T": {1, ""}, "U": {1, "a\x00b\x00\x00\x00\x00\x00"}, "V": {7, "\x00\xd8\x00\x00\x00\x00"}},
			`D=4:0102 S=1:61 T=1: U=1:6100620000000000 V=7:00d800000000`},
	} {
		got, want := c.rule.String(), strings.ReplaceAll(c.want, "0000 00", "000000")
		back, err := parseRule(got)
		if got != want || err != nil || !maps.Equal(back, c.rule) {
			t.Errorf("got  %s\nwant %s\nand back %v, %v", got, want, back, err)
		}
	}
	for _, s := range []string{"A", "A=", "=0x1", "A=0x1 ", "A=0x1  B=0x1", "A=0x100000000", "A=0x1 A=0x1", `A="`, `A="a`, `A="a"b`, "A=[", `A=["a"`, "A=7", "A=4:0", "A=x:00", `"A"`} {
		if r, err := parseRule(s); err == nil {
			t.Errorf("parseRule(%q) = %v", s, r)
		}
	}
}

// FuzzRule: whatever the registry holds is said in one line, and that line says nothing else.
func FuzzRule(f *testing.F) {
	f.Add("Name", uint32(regMultiSZ), utf16z(".docker")+"\x00\x00", "Version", uint32(regDWORD), "\x01\x00\x00\x00")
	f.Add("", uint32(regSZ), utf16z("a b\n"), "a=b\"", uint32(regSZ), "\x00\xd8\x00\x00")
	f.Add("x", uint32(3), "\xff", "X y", uint32(99), "")
	f.Fuzz(func(t *testing.T, name1 string, typ1 uint32, data1 string, name2 string, typ2 uint32, data2 string) {
		r := rule{strings.ToValidUTF8(name1, "?"): {typ1, data1}, strings.ToValidUTF8(name2, "?"): {typ2, data2}}
		s := r.String()
		if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' }) {
			t.Errorf("not one line of ASCII: %q", s)
		}
		if back, err := parseRule(s); err != nil || !maps.Equal(back, r) {
			t.Errorf("%v is %s is %v, %v", r, s, back, err)
		}
	})
}

func FuzzParseRule(f *testing.F) {
	f.Add(ruleOf(".docker", ".17.172.in-addr.arpa"))
	f.Add(`""="" "a=b"=[] c=3:00ff`)
	f.Add(`A="\xff" B=["`)
	f.Fuzz(func(t *testing.T, s string) {
		namesOf(s)
		r, err := parseRule(s)
		if err != nil {
			return
		}
		if back, err := parseRule(r.String()); err != nil || !maps.Equal(back, r) {
			t.Errorf("%q is %s is %v, %v", s, r, back, err)
		}
	})
}

// fakeHive keeps the rules of the real one: no regard to case, a parent first, nothing lasting below what is volatile, no
// deletion of a key that has subkeys.
type fakeHive struct {
	keys map[string]*fakeKey // by lower-case path
	left int                 // changes until killed; 0 = never

	sealed string // nothing below this key can be changed
}

type fakeKey struct {
	name           string
	volatile, made bool
	values         rule
}

var errKilled = errors.New("killed")

func newFakeHive(keys ...string) *fakeHive {
	h := &fakeHive{keys: map[string]*fakeKey{"hklm": {}}}
	for _, k := range keys {
		h.plant(k, rule{})
	}
	return h
}

// plant makes a lasting key with all above it, as an installer or a policy does.
func (h *fakeHive) plant(key string, r rule) {
	if parent, name := splitKey(key); h.keys[strings.ToLower(key)] == nil {
		h.plant(parent, rule{})
		h.keys[strings.ToLower(key)] = &fakeKey{name: name, values: rule{}}
	}
	maps.Copy(h.keys[strings.ToLower(key)].values, r)
}

func (h *fakeHive) uproot(key string) {
	maps.DeleteFunc(h.keys, func(k string, _ *fakeKey) bool {
		return k == strings.ToLower(key) || strings.HasPrefix(k, strings.ToLower(key)+`\`)
	})
}

func (h *fakeHive) reboot() {
	for k, v := range h.keys {
		if v.volatile {
			h.uproot(k)
		}
	}
}

// act is before every change.
func (h *fakeHive) act(key string) error {
	if h.left--; h.left == 0 {
		panic(errKilled)
	}
	if h.sealed != "" && strings.HasPrefix(key, h.sealed) {
		return fs.ErrPermission
	}
	return nil
}

func (h *fakeHive) find(key string) (*fakeKey, error) {
	if k := h.keys[strings.ToLower(key)]; k != nil {
		return k, nil
	}
	return nil, fs.ErrNotExist
}

func (h *fakeHive) subkeys(key string) (names []string, err error) {
	_, err = h.find(key)
	for k, v := range h.keys {
		if parent, _ := splitKey(k); parent == strings.ToLower(key) {
			names = append(names, v.name)
		}
	}
	return names, err
}

func (h *fakeHive) values(key string) (rule, error) {
	k, err := h.find(key)
	if err != nil {
		return nil, err
	}
	return maps.Clone(k.values), nil
}

func (h *fakeHive) made(key string) bool {
	k, err := h.find(key)
	return err == nil && k.made
}

func (h *fakeHive) create(key string, volatile bool) error {
	if err := h.act(key); err != nil {
		return err
	}
	parent, name := splitKey(key)
	above, err := h.find(parent)
	if err != nil {
		return err
	}
	if _, err := h.find(key); err == nil {
		return nil
	}
	if above.volatile && !volatile {
		return errors.New("a lasting key below a volatile one")
	}
	h.keys[strings.ToLower(key)] = &fakeKey{name: name, volatile: volatile, made: true, values: rule{}}
	return nil
}

func (h *fakeHive) set(key, name string, v regValue) error {
	if err := h.act(key); err != nil {
		return err
	}
	k, err := h.find(key)
	if err == nil {
		k.values[name] = v
	}
	return err
}

func (h *fakeHive) remove(key string) error {
	if err := h.act(key); err != nil {
		return err
	}
	if below, err := h.subkeys(key); err != nil {
		return err
	} else if len(below) > 0 {
		return fs.ErrPermission
	}
	delete(h.keys, strings.ToLower(key))
	return nil
}

// testHive holds a hive to what this package relies on, in the empty key root.
func testHive(t *testing.T, h hive, root string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	is := func(got, want error) {
		t.Helper()
		if !errors.Is(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	fails := func(err error) {
		t.Helper()
		if err == nil {
			t.Error("no error")
		}
	}
	kept, lost := root+`\Kept`, root+`\Kept\{Lost}`
	is(h.create(lost, true), fs.ErrNotExist)
	for _, err := range []error{second(h.subkeys(kept)), second(h.values(kept)), h.set(kept, "a", sz("b")), h.remove(kept)} {
		is(err, fs.ErrNotExist)
	}
	if h.made(root) || h.made(kept) {
		t.Error("made by us")
	}
	must(h.create(kept, false))
	must(h.create(lost, true))
	must(h.create(lost, false)) // it is there
	fails(h.create(lost+`\below`, false))
	if !h.made(kept) || !h.made(lost) {
		t.Error("not made by us")
	}
	if names, err := h.subkeys(strings.ToUpper(kept)); err != nil || !slices.Equal(names, []string{"{Lost}"}) {
		t.Errorf("subkeys %q, %v", names, err)
	}
	want := rule{"Name": multiSZ([]string{".docker", ".\u00fc\U0001f40b"}), "Version": dword(1), "": sz(""), "b": {3, ""}, "odd": {1, "a"},
		"long": multiSZ(slices.Repeat([]string{".17.172.in-addr.arpa"}, maxNames))}
	for name, v := range want {
		must(h.set(lost, name, v))
	}
	if got, err := h.values(strings.ToUpper(lost)); err != nil || !maps.Equal(got, want) {
		t.Errorf("values %v, %v; want %v", got, err, want)
	}
	fails(h.remove(kept)) // has a subkey
	must(h.remove(strings.ToLower(lost)))
	is(h.remove(lost), fs.ErrNotExist)
	must(h.remove(kept))
	if names, err := h.subkeys(root); err != nil || len(names) > 0 {
		t.Errorf("left: %q, %v", names, err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestFakeHive(t *testing.T) {
	const root = `HKLM\SOFTWARE\root`
	testHive(t, newFakeHive(root), root)
}

// dump is all that there is, one line a key.
func (h *fakeHive) dump() string {
	var lines []string
	for k, v := range h.keys {
		lines = append(lines, fmt.Sprintf("%s %s volatile=%v %v", k, v.name, v.volatile, v.values))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// asks is the server that Windows asks for a name: local rules count only without group policy's key, the longest suffix wins,
// and a rule with too many names is none. Two rules for one name are "?".
func (h *fakeHive) asks(name string) (server string) {
	store := localRules
	if _, err := h.find(policyRules); err == nil {
		store = policyRules
	}
	longest := ""
	for k, v := range h.keys {
		if parent, _ := splitKey(k); parent != strings.ToLower(store) {
			continue
		}
		names, _ := v.values[nameValue].strings()
		servers, ok := v.values["GenericDNSServers"].strings()
		if !ok || len(names) > maxNames {
			continue
		}
		for _, n := range names {
			switch n = strings.ToLower(n); {
			case n != "." && !strings.HasSuffix(name, n), len(n) < len(longest):
			case len(n) == len(longest):
				server = "?"
			default:
				longest, server = n, servers[0]
			}
		}
	}
	return server
}

// pass is what the agent does: look, plan, journal, act, look again. Killed, it returns the journal as it was then.
func (h *fakeHive) pass(t *testing.T, want, owned []Item) (p Plan, results []Result, killed bool) {
	t.Helper()
	found, err := nrpt{h}.entries()
	if err != nil {
		t.Fatal(err)
	}
	p = Diff(want, owned, found)
	defer func() {
		if r := recover(); r != nil {
			if r != errKilled {
				panic(r)
			}
			killed = true
		}
		h.left = 0
	}()
	results = nrpt{h}.apply(p)
	if found, err = (nrpt{h}).entries(); err != nil {
		t.Fatal(err)
	}
	after := Diff(want, p.Owned, found)
	return after, results, false
}

const parameters = `HKLM\SYSTEM\CurrentControlSet\Services\Dnscache\Parameters`

func foreignRule(server string, names ...string) rule {
	return rule{nameValue: multiSZ(names), "GenericDNSServers": sz(server), "ConfigOptions": dword(8), "Version": dword(2)}
}

func TestNRPT(t *testing.T) {
	const guid = `\{0B5C3B0A-6D1C-4B2E-9D3C-1F0A9D9E7A11}`
	ours, copied := ruleKey(localRules, 0), ruleKey(policyRules, 0)
	for _, c := range []struct {
		name    string
		plant   map[string]rule
		asks    string // for web.docker, when up
		blocked string // in the reason
	}{
		{"no table yet", nil, "127.0.0.153", ""},
		{"empty table", map[string]rule{localRules: nil}, "127.0.0.153", ""},
		{"foreign rules", map[string]rule{localRules + guid: foreignRule("10.0.0.1", ".corp")}, "127.0.0.153", ""},
		{"group policy, empty", map[string]rule{policyRules: nil}, "127.0.0.153", ""},
		{"group policy with rules", map[string]rule{policyRules + guid: foreignRule("10.0.0.1", ".corp")}, "127.0.0.153", ""},
		{"our name is taken", map[string]rule{localRules + guid: foreignRule("10.0.0.1", ".x", ".Docker")}, "10.0.0.1", "Remove-DnsClientNrptRule -Name '{0B5C3B0A"},
		{"our name is taken by group policy", map[string]rule{policyRules + guid: foreignRule("10.0.0.1", ".docker")}, "10.0.0.1", "who keep the group policy"},
		{"taken, but group policy hides that", map[string]rule{policyRules: nil, localRules + guid: foreignRule("10.0.0.1", ".docker")}, "127.0.0.153", "Remove-"},
		{"everything taken", map[string]rule{localRules + guid: foreignRule("10.0.0.1", ".")}, "127.0.0.153", ""},
		{"our key, not ours by the journal", map[string]rule{ours: foreignRule("10.0.0.9", ".docker")}, "10.0.0.9", `reg delete "` + ours + `" /f`},
		{"our key in group policy, not ours by the journal", map[string]rule{copied: foreignRule("10.0.0.9", ".docker")}, "10.0.0.9", `reg delete "` + copied + `" /f`},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newFakeHive(parameters)
			for key, r := range c.plant {
				h.plant(key, r)
			}
			before := h.dump()
			want := renderNRPT(t, "docker", "17.172.in-addr.arpa")
			p, results, _ := h.pass(t, want, nil)
			for _, r := range results {
				if r.Err != nil {
					t.Error(r.Err)
				}
			}
			if got := h.asks("web.docker"); got != c.asks {
				t.Errorf("web.docker is asked at %q, want %q", got, c.asks)
			}
			why := ""
			for _, b := range p.Blocked {
				why += b.Why + "\n"
			}
			if (why == "") != (c.blocked == "") || !strings.Contains(why, c.blocked) {
				t.Errorf("blocked: %q, want %q in it", why, c.blocked)
			}
			if _, err := h.find(policyRules); err != nil && strings.Contains(h.dump(), strings.ToLower(policyRules)) {
				t.Error("group policy's key was made")
			}
			standing := h.dump()
			if again, _, _ := h.pass(t, want, p.Owned); len(again.Steps) > 0 || h.dump() != standing {
				t.Errorf("second time: %v", again.Steps)
			}
			h.pass(t, nil, p.Owned)
			if h.dump() != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, h.dump())
			}
		})
	}
}

// A key that may not be written says so, with the way out; the other one is written all the same.
func TestNRPTReadOnly(t *testing.T) {
	for sealed, hint := range map[string]string{policyRules: "ask those who keep the group policy", localRules: "Run as Administrator"} {
		h := newFakeHive(parameters)
		h.plant(localRules, nil)
		h.plant(policyRules, nil)
		before := h.dump()
		h.sealed = sealed
		p, results, _ := h.pass(t, renderNRPT(t, "docker"), nil)
		var said []string
		for _, r := range results {
			if r.Err != nil {
				said = append(said, r.Err.Error())
				if !errors.Is(r.Err, fs.ErrPermission) {
					t.Errorf("%v is no fs.ErrPermission", r.Err)
				}
			}
		}
		if len(said) != 1 || !strings.Contains(said[0], hint) || len(p.Keep) != 1 || strings.HasPrefix(p.Keep[0].Key, sealed) {
			t.Errorf("%s sealed: says %q, has %v", sealed, said, p.Keep)
		}
		h.pass(t, nil, p.Owned)
		if h.dump() != before {
			t.Errorf("%s sealed: before:\n%s\nafter:\n%s", sealed, before, h.dump())
		}
	}
}

// lacks lists the lines of small that big does not have.
func lacks(big, small string) (missing []string) {
	lines := strings.Split(big, "\n")
	for _, l := range strings.Split(small, "\n") {
		if !slices.Contains(lines, l) {
			missing = append(missing, l)
		}
	}
	return missing
}

func TestNRPTProperties(t *testing.T) {
	var many []string
	for i := range 60 {
		many = append(many, fmt.Sprintf("d%02d", i))
	}
	wants := [][]string{nil, {"docker"}, {"docker", "x"}, append([]string{"docker"}, many...)}
	var kills, reboots, edits, refusals, served int
	for seed := range uint64(500) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		h, twin := newFakeHive(parameters), newFakeHive(parameters) // twin is the same machine without us
		both := func(f func(*fakeHive)) { f(h); f(twin) }
		foreign := func() {
			key := []string{localRules, policyRules}[rnd.IntN(2)] + fmt.Sprintf(`\{%d}`, rnd.IntN(3))
			r := foreignRule("10.0.0.1", []string{".docker", ".corp", ".d07"}[rnd.IntN(3)])
			both(func(h *fakeHive) { h.plant(key, r) })
		}
		for range rnd.IntN(3) {
			foreign()
		}

		var owned []Item
		edited := false
		for range 1 + rnd.IntN(4) {
			want := renderNRPT(t, wants[rnd.IntN(len(wants))]...)
			h.left = rnd.IntN(30)
			p, _, killed := h.pass(t, want, owned)
			owned = p.Owned
			if killed {
				kills++
			}
			switch rnd.IntN(8) {
			case 0:
				both((*fakeHive).reboot)
				reboots++
			case 1:
				both(func(h *fakeHive) { h.plant(policyRules, nil) })
			case 2:
				both(func(h *fakeHive) { h.uproot(policyRules) })
			case 3:
				foreign()
			case 4:
				if k, err := h.find(ruleKey([]string{localRules, policyRules}[rnd.IntN(2)], 0)); err == nil {
					k.values["Comment"] = sz("mine now")
					edited = true
					edits++
				}
			}
			if gone := lacks(h.dump(), twin.dump()); len(gone) > 0 {
				t.Fatalf("seed %d: changed what is not ours: %v", seed, gone)
			}
		}

		want := renderNRPT(t, "docker")
		p, results, _ := h.pass(t, want, owned)
		for _, r := range results {
			if r.Err != nil {
				t.Fatalf("seed %d: %v", seed, r.Err)
			}
		}
		server := h.asks("web.docker")
		switch {
		case len(p.Blocked) > 0:
			refusals++
		case server != "127.0.0.153":
			t.Fatalf("seed %d: web.docker is asked at %q and nobody says why\n%s", seed, server, h.dump())
		default:
			served++
		}
		if found, err := (nrpt{h}).entries(); err != nil || len(Diff(want, p.Owned, found).Steps) > 0 {
			t.Fatalf("seed %d: not idempotent", seed)
		}

		owned = p.Owned
		h.left = rnd.IntN(6)
		p, _, _ = h.pass(t, nil, owned)
		h.pass(t, nil, p.Owned)
		if edited {
			for _, store := range []string{localRules, policyRules} {
				if k, err := h.find(ruleKey(store, 0)); err == nil && k.values["Comment"] != (regValue{}) {
					h.uproot(ruleKey(store, 0))
				}
			}
			h.pass(t, nil, nil)
		}
		if h.dump() != twin.dump() {
			t.Fatalf("seed %d: after teardown too much: %v, too little: %v", seed, lacks(twin.dump(), h.dump()), lacks(h.dump(), twin.dump()))
		}
	}
	for name, n := range map[string]int{"kills": kills, "reboots": reboots, "edits": edits, "refusals": refusals, "served": served} {
		if n < 30 {
			t.Errorf("only %d %s", n, name)
		}
	}
}
