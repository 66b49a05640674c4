package resolver

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
)

// Windows' name resolution policy table is made of the subkeys of two registry keys ([MS-GPNRPT] 2.2.2). Where group
// policy's key exists, even empty, Windows ignores all local rules; so ours are in both then. That key is never made
// by us: it would switch off everybody's local rules.
const (
	localRules  = `HKLM\SYSTEM\CurrentControlSet\Services\Dnscache\Parameters\DnsPolicyConfig`
	policyRules = `HKLM\SOFTWARE\Policies\Microsoft\Windows NT\DNSClient\DnsPolicyConfig`
)

// ourRules begins the names of our subkeys; a number follows. Fixed, so that a rule is found again without a journal.
const ourRules = "{f1ea1ead-d05e-4e52-a57b-"

// maxNames is how many names a rule can hold: Microsoft does not say, but rules with more were seen not to work.
const maxNames = 50

func ruleKey(store string, n int) string { return fmt.Sprintf(`%s\%s%012x}`, store, ourRules, n) }

func renderRules(domains []string, server netip.Addr) (items []Item) {
	for chunk := range slices.Chunk(domains, maxNames) {
		names := make([]string, len(chunk))
		for i, d := range chunk {
			names[i] = "." + d // the name itself alone without the dot
		}
		r := rule{ // the values of Add-DnsClientNrptRule, so that Get-DnsClientNrptRule shows a rule like any other
			"Version":            dword(2),
			"Comment":            sz("https://github.com/fairlead-dev/fairlead"),
			"DisplayName":        sz("fairlead"),
			"ConfigOptions":      dword(0x8), // the generic DNS server counts, and nothing else
			"GenericDNSServers":  sz(server.String()),
			"IPSECCARestriction": sz(""),
			nameValue:            multiSZ(names),
		}
		items = append(items, Item{NRPT, ruleKey(localRules, len(items)), r.String()})
	}
	return items
}

// expandRules completes what is wanted of the policy table: a copy of each rule for group policy's key where there is
// one. Beside a foreign rule for the same name in the same key no rule of ours is made, as nobody says which counts.
func expandRules(want []Item, found []Entry) (expanded []Item, blocked []Blocked) {
	governed := slices.ContainsFunc(found, func(e Entry) bool { return e.Method == NRPT && e.Key == policyRules })
	for _, w := range want {
		wants := []Item{w}
		if suffix, local := strings.CutPrefix(w.Key, localRules); w.Method == NRPT && local && governed {
			wants = append(wants, Item{NRPT, policyRules + suffix, w.Value})
		}
		for _, w := range wants {
			why := rival(w, found)
			if why != "" {
				blocked = append(blocked, Blocked{w, why})
			}
			if why == "" || slices.Contains(found, Entry{Item: w}) {
				expanded = append(expanded, w)
			}
		}
	}
	return expanded, blocked
}

// rival says which foreign rule has a name of w, in the same key, and what to do; "" = none.
func rival(w Item, found []Entry) string {
	if w.Method != NRPT {
		return ""
	}
	names := namesOf(w.Value)
	for _, e := range found {
		store, _ := splitKey(w.Key)
		in, id := splitKey(e.Key)
		if e.Method != NRPT || e.Foreign == "" || in != store {
			continue
		}
		for _, n := range namesOf(e.Value) {
			if slices.Contains(names, n) {
				undo := fmt.Sprintf("delete it (Remove-DnsClientNrptRule -Name '%s') or choose another --domain", id)
				if store == policyRules {
					undo = "ask those who keep the group policy, or choose another --domain"
				}
				return fmt.Sprintf("a rule for %s exists and fairlead did not make it: %s; %s", n, e.Item, undo)
			}
		}
	}
	return ""
}

// namesOf are the names, in lower case, of a rule as rule.String says it; none of what cannot be read.
func namesOf(value string) (names []string) {
	r, err := parseRule(value)
	if err != nil {
		return nil
	}
	names, _ = r[nameValue].strings()
	for i, n := range names {
		names[i] = strings.ToLower(n)
	}
	return names
}

func splitKey(key string) (parent, name string) {
	i := strings.LastIndexByte(key, '\\')
	return key[:max(i, 0)], key[i+1:]
}

// decideNRPT is Detect's decision; dnscache is why the DNS Client service does not run, nil = it does.
func decideNRPT(mode Method, dnscache error) (Method, string, error) {
	switch {
	case mode == None:
		return None, "asked for: names are answered to whoever asks our port", nil
	case dnscache == nil:
		return NRPT, "the DNS Client service asks the servers that the name resolution policy table says", nil
	case mode == Auto:
		return None, fmt.Sprintf("%v, and nothing else here can ask one server for some names only; hint: enable the service Dnscache and restart Windows", dnscache), nil
	}
	return "", "", fmt.Errorf("use resolver %s: %w; hint: enable the service Dnscache and restart Windows", mode, dnscache)
}

// hive is what this package needs of Windows' registry. Keys are named in full, without regard to case; what is not there
// is fs.ErrNotExist.
type hive interface {
	subkeys(key string) (names []string, err error)
	values(key string) (rule, error)
	made(key string) bool                   // create made it
	create(key string, volatile bool) error // the parent has to be there; a volatile key is gone after a reboot
	set(key, name string, v regValue) error
	remove(key string) error // with its values; fails when it has subkeys
}

// nrpt is the policy table in a registry.
type nrpt struct{ reg hive }

// entries are our rules in both keys, all others as foreign, and group policy's key itself where it exists.
func (n nrpt) entries() (found []Entry, err error) {
	for _, store := range []string{localRules, policyRules} {
		names, err := n.reg.subkeys(store)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", store, err)
		}
		if store == policyRules {
			found = append(found, Entry{Item{NRPT, store, ""}, "group policy's"})
		}
		slices.Sort(names)
		for _, name := range names {
			r, err := n.reg.values(store + `\` + name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted meanwhile
			}
			if err != nil {
				return nil, fmt.Errorf("read %s\\%s: %w", store, name, err)
			}
			e := Entry{Item{NRPT, store + `\` + name, r.String()}, "somebody else's"}
			if lower := strings.ToLower(name); strings.HasPrefix(lower, ourRules) {
				e.Key, e.Foreign = store+`\`+lower, ""
			}
			found = append(found, e)
		}
	}
	return found, nil
}

// apply makes the steps, and sweeps what a kill in the middle of one left.
func (n nrpt) apply(p Plan) (results []Result) {
	for _, s := range p.Steps {
		err := errors.New("no such method on this OS")
		if s.Old.Method == NRPT || s.New.Method == NRPT {
			err = n.step(s)
		}
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%s: %w", denied(s), err)
		}
		if err != nil {
			err = fmt.Errorf("%v: %w", s, err)
		}
		results = append(results, Result{s, err})
	}
	if err := n.tidy(); err != nil {
		results = append(results, Result{Err: fmt.Errorf("sweep %s: %w", localRules, err)})
	}
	return results
}

// denied says what it takes to make a step that Windows does not let us make.
func denied(s Step) string {
	if strings.HasPrefix(s.Old.Key, policyRules) || strings.HasPrefix(s.New.Key, policyRules) {
		return "group policy has rules here, so Windows ignores all others, and its key may not be changed: " +
			"ask those who keep the group policy for this rule, or for write access of SYSTEM to the key"
	}
	return "changing rules needs an elevated prompt (Run as Administrator), and write access to the key"
}

// step makes one step and reads it back.
func (n nrpt) step(s Step) error {
	key := s.New.Key
	if s.New == (Item{}) {
		key = s.Old.Key
	}
	now, err := n.reg.values(key)
	absent := errors.Is(err, fs.ErrNotExist)
	switch {
	case err != nil && !absent:
		return err
	case absent && s.New == Item{}:
		return nil // deleting the absent
	case absent != (s.Old == Item{}), !absent && now.String() != s.Old.Value:
		return errChanged
	}
	if s.Old != (Item{}) {
		if err := n.delete(key); err != nil {
			return err
		}
	}
	if s.New != (Item{}) {
		return n.write(key, s.New.Value)
	}
	return nil
}

func (n nrpt) write(key, value string) error {
	r, err := parseRule(value)
	if err != nil {
		return err
	}
	if store, _ := splitKey(key); store == localRules {
		// Not volatile: nobody could keep a rule in it then.
		if err := n.reg.create(store, false); err != nil {
			return fmt.Errorf("create %s: %w", store, err)
		}
	}
	if err := n.reg.create(key, true); err != nil {
		return fmt.Errorf("create %s: %w", key, err)
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(r)), func(name string) bool { return name == nameValue })
	for _, name := range append(names, nameValue) { // last: until then the rule is for nobody
		if err := n.reg.set(key, name, r[name]); err != nil {
			return fmt.Errorf("set %s of %s: %w", name, key, err)
		}
	}
	if now, err := n.reg.values(key); err != nil || now.String() != value {
		return errors.Join(errChanged, err)
	}
	return nil
}

func (n nrpt) delete(key string) error {
	below, err := n.reg.subkeys(key)
	if err != nil {
		return err
	}
	if len(below) > 0 {
		return fmt.Errorf("%w: it has keys below it that fairlead did not make: %s", errChanged, strings.Join(below, ", "))
	}
	if err := n.reg.remove(key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := n.reg.values(key); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("%s is still there", key), err)
	}
	return nil
}

// tidy takes back the local rules' key where we made it and nobody uses it.
func (n nrpt) tidy() error {
	if !n.reg.made(localRules) {
		return nil
	}
	rules, err := n.reg.subkeys(localRules)
	if err != nil || len(rules) > 0 {
		return err
	}
	if values, err := n.reg.values(localRules); err != nil || len(values) > 0 {
		return err
	}
	return n.reg.remove(localRules)
}

const nameValue = "Name"

// rule is the values of a registry key, by name.
type rule map[string]regValue

// regValue is a value as the registry keeps it.
type regValue struct {
	typ  uint32 // REG_SZ...
	data string // bytes
}

const (
	regSZ      = 1
	regDWORD   = 4
	regMultiSZ = 7
)

func dword(v uint32) regValue {
	return regValue{regDWORD, string(binary.LittleEndian.AppendUint32(nil, v))}
}

func sz(s string) regValue { return regValue{regSZ, utf16z(s)} }

func multiSZ(ss []string) regValue {
	var data string
	for _, s := range ss {
		data += utf16z(s)
	}
	return regValue{regMultiSZ, data + "\x00\x00"}
}

// utf16z is s in UTF-16, little endian, with a final zero.
func utf16z(s string) string {
	var b []byte
	for _, u := range append(utf16.Encode([]rune(s)), 0) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return string(b)
}

// strings are those of a REG_SZ or REG_MULTI_SZ that is written as sz and multiSZ do. It reports false for anything else.
func (v regValue) strings() ([]string, bool) {
	var ss []string
	var units []uint16
	for b := []byte(v.data); len(b) >= 2; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u != 0 {
			units = append(units, u)
			continue
		}
		ss, units = append(ss, string(utf16.Decode(units))), nil
	}
	switch {
	case v.typ == regSZ && len(ss) == 1 && sz(ss[0]) == v:
		return ss, true
	case v.typ == regMultiSZ && len(ss) > 0 && multiSZ(ss[:len(ss)-1]) == v:
		return ss[:len(ss)-1], true
	}
	return nil, false
}

// String is "text", ["text","text"] or 0x8; what is none of these is its type and bytes: 3:00ff.
func (v regValue) String() string {
	ss, ok := v.strings()
	switch {
	case ok && v.typ == regSZ:
		return strconv.QuoteToASCII(ss[0])
	case ok:
		for i, s := range ss {
			ss[i] = strconv.QuoteToASCII(s)
		}
		return "[" + strings.Join(ss, ",") + "]"
	case v.typ == regDWORD && len(v.data) == 4:
		return fmt.Sprintf("%#x", binary.LittleEndian.Uint32([]byte(v.data)))
	}
	return fmt.Sprintf("%d:%x", v.typ, v.data)
}

// String is all values in one line, sorted: `ConfigOptions=0x8 GenericDNSServers="127.0.0.153" Name=[".docker"] Version=0x1`.
func (r rule) String() string {
	var words []string
	for name, v := range r {
		if !plain(name) {
			name = strconv.QuoteToASCII(name)
		}
		words = append(words, name+"="+v.String())
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

// plain tells whether a name needs no quotes.
func plain(name string) bool {
	return name != "" && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// parseRule is the inverse of rule.String.
func parseRule(s string) (rule, error) {
	r := rule{}
	for rest := s; rest != ""; {
		name, after, err := cutName(rest)
		if err != nil {
			return nil, fmt.Errorf("parse %q: %w", s, err)
		}
		v, after, err := cutValue(after)
		if err != nil {
			return nil, fmt.Errorf("parse %q: value of %s: %w", s, name, err)
		}
		if _, twice := r[name]; twice || after != "" && !strings.HasPrefix(after, " ") || after == " " {
			return nil, fmt.Errorf("parse %q: near %q", s, after)
		}
		r[name], rest = v, strings.TrimPrefix(after, " ")
	}
	return r, nil
}

func cutName(s string) (name, after string, err error) {
	if strings.HasPrefix(s, `"`) {
		name, after, err = cutQuoted(s)
	} else if word, _, _ := strings.Cut(s, "="); plain(word) {
		name, after = word, s[len(word):]
	}
	if err == nil && !strings.HasPrefix(after, "=") {
		err = errors.New("no name and =")
	}
	return name, strings.TrimPrefix(after, "="), err
}

func cutValue(s string) (v regValue, after string, err error) {
	switch {
	case strings.HasPrefix(s, `"`):
		text, after, err := cutQuoted(s)
		return sz(text), after, err
	case strings.HasPrefix(s, "["):
		var ss []string
		for s = s[1:]; !strings.HasPrefix(s, "]"); s = strings.TrimPrefix(s, ",") {
			text, after, err := cutQuoted(s)
			if err != nil {
				return v, s, err
			}
			ss, s = append(ss, text), after
		}
		return multiSZ(ss), s[1:], nil
	}
	word, after := s, ""
	if i := strings.IndexByte(s, ' '); i >= 0 {
		word, after = s[:i], s[i:]
	}
	if digits, ok := strings.CutPrefix(word, "0x"); ok {
		n, err := strconv.ParseUint(digits, 16, 32)
		return dword(uint32(n)), after, err
	}
	typ, digits, ok := strings.Cut(word, ":")
	if !ok {
		return v, after, fmt.Errorf("%q is no value", word)
	}
	n, err := strconv.ParseUint(typ, 10, 32)
	data, err2 := hex.DecodeString(digits)
	return regValue{uint32(n), string(data)}, after, errors.Join(err, err2)
}

func cutQuoted(s string) (text, after string, err error) {
	quoted, err := strconv.QuotedPrefix(s)
	if err != nil {
		return "", s, err
	}
	text, err = strconv.Unquote(quoted)
	return text, s[len(quoted):], err
}
