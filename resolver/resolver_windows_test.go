package resolver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
)

// system allows a test to change this machine's name resolution policy table.
func system(t *testing.T) {
	t.Helper()
	if os.Getenv("FAIRLEAD_TEST_SYSTEM") != "windows" {
		t.Skip("changes resolver rules of this machine: set FAIRLEAD_TEST_SYSTEM=windows to allow that")
	}
	for _, e := range read(t) {
		if e.Foreign == "" || e.Key == policyRules {
			t.Fatalf("this machine is no place for the test: it has %v", e.Item)
		}
	}
	parameters, _ := splitKey(localRules)
	plant(t, parameters) // always there in Windows
	t.Cleanup(func() {
		for _, e := range read(t) {
			if e.Foreign == "" {
				t.Errorf("left: %v", e.Item)
				_ = hklm{}.remove(e.Key)
			}
		}
	})
}

func read(t *testing.T) []Entry {
	t.Helper()
	found, err := Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// pass is what the agent does, with every step expected to succeed.
func pass(t *testing.T, want, owned []Item) Plan {
	t.Helper()
	p := Diff(want, owned, read(t))
	for _, r := range Apply(t.Context(), p) {
		if r.Err != nil {
			t.Error(r.Err)
		}
	}
	return Diff(want, p.Owned, read(t))
}

// plant makes a key that lasts, as group policy does, with what is missing above it; it goes with the test.
func plant(t *testing.T, key string) {
	t.Helper()
	parent, _ := splitKey(key)
	if _, err := (hklm{}).subkeys(parent); errors.Is(err, fs.ErrNotExist) {
		plant(t, parent)
	}
	k, existed, err := registry.CreateKey(registry.LOCAL_MACHINE, strings.TrimPrefix(key, `HKLM\`), registry.SET_VALUE)
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
	if !existed {
		t.Cleanup(func() {
			if err := (hklm{}).remove(key); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("remove %s: %v", key, err)
			}
		})
	}
}

func TestHive(t *testing.T) {
	const root = `HKLM\SOFTWARE\fairlead test`
	k, _, err := registry.CreateKey(registry.LOCAL_MACHINE, strings.TrimPrefix(root, `HKLM\`), registry.SET_VALUE)
	if errors.Is(err, fs.ErrPermission) && os.Getenv("CI") != "true" {
		t.Skip("needs an elevated prompt")
	}
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
	t.Cleanup(func() {
		if err := (hklm{}).remove(root); err != nil {
			t.Error(err)
		}
	})
	testHive(t, hklm{}, root)
	if _, err := (hklm{}).values(`HKCU\Software`); err == nil {
		t.Error("HKCU is below HKLM")
	}
}

func TestSystemRules(t *testing.T) {
	for _, governed := range []bool{false, true} {
		t.Run(map[bool]string{false: "local", true: "under group policy"}[governed], func(t *testing.T) {
			system(t)
			stores := []string{localRules}
			if governed {
				plant(t, policyRules)
				stores = append(stores, policyRules)
			}
			before := read(t)
			_, err := hklm{}.subkeys(localRules)
			hadTable := err == nil

			want := renderNRPT(t, "docker", "17.172.in-addr.arpa")
			p := pass(t, want, nil)
			if len(p.Keep) != len(stores) || len(p.Steps)+len(p.Blocked)+len(p.Foreign) > 0 {
				t.Errorf("after the first pass: %+v", p)
			}
			for _, store := range stores {
				key, err := openKey(ruleKey(store, 0), registry.QUERY_VALUE)
				if err != nil {
					t.Fatal(err)
				}
				defer key.Close()
				names, _, err1 := key.GetStringsValue("Name")
				servers, _, err2 := key.GetStringValue("GenericDNSServers")
				options, _, err3 := key.GetIntegerValue("ConfigOptions")
				if err := errors.Join(err1, err2, err3); err != nil || !slices.Equal(names, []string{".17.172.in-addr.arpa", ".docker"}) || servers != "127.0.0.153" || options != 8 {
					t.Errorf("%s: %q, %q, %#x, %v", store, names, servers, options, err)
				}
				if err := (hklm{}).create(ruleKey(store, 0)+`\below`, false); err == nil {
					t.Errorf("%s: the rule outlives a reboot", store)
				}
			}
			if err := Flush(t.Context(), NRPT); err != nil {
				t.Error(err)
			}
			moved := renderNRPT(t, "docker", "dev")
			if p = pass(t, moved, p.Owned); len(p.Keep) != len(stores) || len(p.Steps)+len(p.Blocked) > 0 {
				t.Errorf("after another domain: %+v", p)
			}
			if again := Diff(moved, p.Owned, read(t)); len(again.Steps) > 0 {
				t.Errorf("not idempotent: %v", again.Steps)
			}
			var many []string // more than one rule holds
			for i := range 2*maxNames + 1 {
				many = append(many, fmt.Sprintf("d%03d", i))
			}
			if p = pass(t, renderNRPT(t, many...), p.Owned); len(p.Keep) != 3*len(stores) || len(p.Steps)+len(p.Blocked) > 0 {
				t.Errorf("with many domains: %+v", p)
			}
			if p = pass(t, nil, p.Owned); len(p.Steps)+len(p.Blocked)+len(p.Owned) > 0 {
				t.Errorf("after teardown: %+v", p)
			}
			if after := read(t); !slices.Equal(before, after) {
				t.Errorf("before %v\nafter  %v", before, after)
			}
			if _, err := (hklm{}).subkeys(localRules); (err == nil) != hadTable {
				t.Errorf("the table was there: %v; now: %v", hadTable, err)
			}
		})
	}
}

func TestSystemEditedRuleStays(t *testing.T) {
	system(t)
	want := renderNRPT(t, "docker")
	p := pass(t, want, nil)
	key := ruleKey(localRules, 0)
	stale := Diff(nil, p.Owned, read(t))
	if err := (hklm{}).set(key, "Comment", sz("mine now")); err != nil {
		t.Fatal(err)
	}
	edited, err := hklm{}.values(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range Apply(t.Context(), stale) {
		if !errors.Is(r.Err, errChanged) {
			t.Errorf("%v: %v", r.Step, r.Err)
		}
	}
	p = pass(t, nil, p.Owned)
	if now, err := (hklm{}).values(key); err != nil || now.String() != edited.String() {
		t.Errorf("%v became %v, %v", edited, now, err)
	}
	if len(p.Blocked) != 1 || !strings.Contains(p.Blocked[0].Why, `reg delete "`+key+`" /f`) {
		t.Errorf("blocked: %+v", p.Blocked)
	}
	if err := (hklm{}).remove(key); err != nil {
		t.Error(err)
	}
	pass(t, nil, nil)
}

// A key that group policy's keepers, or others, let nobody write: it is named with the way out, the other rule is made all the same, and
// nothing is left.
func TestSystemReadOnly(t *testing.T) {
	for sealed, hint := range map[string]string{policyRules: "ask those who keep the group policy", localRules: "write access to the key"} {
		t.Run(sealed, func(t *testing.T) {
			system(t)
			plant(t, localRules)
			plant(t, policyRules)
			before := read(t)
			key, err := openKey(sealed, windows.WRITE_DAC|windows.READ_CONTROL)
			if err != nil {
				t.Fatal(err)
			}
			defer key.Close()
			rights := func(sddl string) {
				t.Helper()
				sd, err := windows.SecurityDescriptorFromString(sddl)
				if err != nil {
					t.Fatal(err)
				}
				dacl, _, err := sd.DACL()
				if err == nil {
					err = windows.SetSecurityInfo(windows.Handle(key), windows.SE_REGISTRY_KEY, windows.DACL_SECURITY_INFORMATION|windows.PROTECTED_DACL_SECURITY_INFORMATION, nil, nil, dacl, nil)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			rights("D:P(A;CI;KR;;;WD)")
			defer rights("D:P(A;CI;KA;;;SY)(A;CI;KA;;;BA)(A;CI;KR;;;BU)")
			p := Diff(renderNRPT(t, "docker"), nil, read(t))
			var said []string
			for _, r := range Apply(t.Context(), p) {
				if r.Err != nil {
					said = append(said, r.Err.Error())
					if !errors.Is(r.Err, fs.ErrPermission) {
						t.Errorf("%v is no fs.ErrPermission", r.Err)
					}
				}
			}
			made := slices.DeleteFunc(read(t), func(e Entry) bool { return e.Foreign != "" })
			if len(said) != 1 || !strings.Contains(said[0], hint) || len(made) != 1 || strings.HasPrefix(made[0].Key, sealed) {
				t.Errorf("says %q, has %v", said, made)
			}
			if p = pass(t, nil, p.Owned); len(p.Owned) > 0 || !slices.Equal(before, read(t)) {
				t.Errorf("left %+v: %v, before %v", p, read(t), before)
			}
		})
	}
}

func TestSystemWatch(t *testing.T) {
	system(t)
	ctx, cancel := context.WithCancel(t.Context())
	fired, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- Watch(ctx, NRPT, func() {
			select {
			case fired <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Watch returned %v", err)
		}
	})
	await := func(what string, done func() bool) {
		t.Helper()
		deadline := time.After(30 * time.Second)
		for {
			select {
			case <-fired:
				if done() {
					return
				}
			case <-deadline:
				t.Fatalf("not told: %s", what)
			}
		}
	}
	has := func(key string) bool { return slices.ContainsFunc(read(t), func(e Entry) bool { return e.Key == key }) }
	await("start", func() bool { return true })

	want := renderNRPT(t, "docker")
	key, copied := ruleKey(localRules, 0), ruleKey(policyRules, 0)
	p := pass(t, want, nil)
	await("our rule", func() bool { return has(key) })
	if err := (hklm{}).remove(key); err != nil {
		t.Fatal(err)
	}
	await("rule deleted behind our back", func() bool { return !has(key) })
	plant(t, policyRules)
	await("group policy's key came", func() bool { return has(policyRules) })
	p = pass(t, want, p.Owned)
	await("the copy", func() bool { return has(copied) })
	for _, k := range []string{copied, policyRules} { // as when a policy is applied again
		if err := (hklm{}).remove(k); err != nil {
			t.Fatal(err)
		}
	}
	await("group policy's key went", func() bool { return !has(policyRules) })
	plant(t, policyRules)
	await("group policy's key came again", func() bool { return has(policyRules) })
	if err := (hklm{}).set(key, "Version", dword(1)); err != nil {
		t.Fatal(err)
	}
	await("a value changed", func() bool {
		return slices.Contains(Diff(nil, p.Owned, read(t)).Blocked, Blocked{read(t)[0].Item, edited(read(t)[0].Item)})
	})
	if err := (hklm{}).set(key, "Version", dword(2)); err != nil {
		t.Fatal(err)
	}
	pass(t, nil, p.Owned)
	await("taken back", func() bool { return !has(key) })
}

func TestWatchEnds(t *testing.T) {
	for _, m := range []Method{NRPT, None} {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(0, cancel)
		if err := Watch(ctx, m, cancel); err != nil {
			t.Errorf("%s: %v", m, err)
		}
		calls := 0
		if err := Watch(ctx, m, func() { calls++ }); err != nil || calls > 0 {
			t.Errorf("%s, with a context that is done: %v, %d calls", m, err, calls)
		}
	}
}

func TestDetect(t *testing.T) {
	m, why, err := Detect(t.Context(), "auto")
	if err != nil || why == "" || m != NRPT && m != None {
		t.Errorf("auto: %q, %q, %v", m, why, err)
	}
	if os.Getenv("FAIRLEAD_TEST_SYSTEM") == "windows" && m != NRPT {
		t.Errorf("auto: %q, %q, though Windows runs Dnscache", m, why)
	}
	if m, _, err := Detect(t.Context(), "resolv.conf"); err == nil || !strings.Contains(err.Error(), "auto none nrpt") {
		t.Errorf("resolv.conf: %q, %v", m, err)
	}
}

// Windows goes by a rule of ours when it is there, and not when it is gone; Verify tells which.
func TestSystemVerify(t *testing.T) {
	system(t)
	if windows.NewLazySystemDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil {
		t.Skip("Wine has no policy table: names go to Linux's resolver")
	}
	server := DefaultListen(NRPT)
	conn, err := net.ListenPacket("udp", server.String())
	if err != nil {
		t.Fatal(err)
	}
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: server.Addr().AsSlice()}}
		}
		_ = w.WriteMsg(m)
	})
	s := &dns.Server{PacketConn: conn, Handler: answer}
	done := make(chan error, 1)
	go func() { done <- s.ActivateAndServe() }()
	t.Cleanup(func() {
		if err := errors.Join(s.Shutdown(), <-done); err != nil {
			t.Error(err)
		}
	})
	p := pass(t, renderNRPT(t, "fairlead-test"), nil)
	if err := Verify(t.Context(), NRPT, Want{[]string{"fairlead-test"}, server}); err != nil {
		t.Error(err)
	}
	pass(t, nil, p.Owned)
	if err := Verify(t.Context(), NRPT, Want{[]string{"fairlead-test"}, server}); err == nil {
		t.Error("Windows still goes by the rule")
	}
}
