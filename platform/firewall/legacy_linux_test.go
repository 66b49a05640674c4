package firewall

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/legacy.* anew from this kernel")

// TestGoldenTablesAreTheKernels makes the golden tables with iptables-legacy and compares what this kernel gives.
func TestGoldenTablesAreTheKernels(t *testing.T) {
	t.Parallel()
	l := newLegacyLab(t)
	l.load("legacy.iptables", "legacy.ip6tables")
	for _, g := range golden {
		var got []byte
		l.vmDo(func() {
			x, err := openLegacy(g.family)
			if err != nil {
				t.Error(err)
				return
			}
			defer x.close()
			info, entries, err := x.read(g.name)
			if err != nil {
				t.Error(err)
				return
			}
			read, err := parseTable(g.family, info, entries)
			if err != nil {
				t.Error(err)
				return
			}
			got = append(info, read.bare()[replaceSize:]...) // the VM sends, and that is counted
		})
		if *update {
			if err := os.WriteFile(goldenFile(g.family, g.name), got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		info, entries := goldenTable(t, g.family, g.name)
		if want := append(info, entries...); !bytes.Equal(got, want) {
			t.Errorf("this kernel's %s %s differs from the golden one", g.family, g.name)
		}
	}
}

// counted is what iptables-legacy-save says, its counters too, but for the dates, our rules, and the counters of what the VM
// itself sends: that never rests.
func (l *lab) counted() string {
	l.t.Helper()
	var b strings.Builder
	for _, save := range []string{"iptables-legacy-save", "ip6tables-legacy-save"} {
		for line := range strings.Lines(l.vmRun("", save, "-c")) {
			if !strings.HasPrefix(line, "#") && !strings.Contains(line, "fairlead:89abcdef") {
				b.WriteString(sent.ReplaceAllString(line, "$1$2 "))
			}
		}
	}
	return b.String()
}

var sent = regexp.MustCompile(`^(:(?:OUTPUT|INPUT|POSTROUTING) \w+) \[.*\]|^\[.*\] (-A (?:OUTPUT|BEFORE|ZLAST|POSTROUTING)) `)

// TestLegacyRulesOfOthers holds that rules and counters of others stay, and that iptables-legacy goes on working.
func TestLegacyRulesOfOthers(t *testing.T) {
	t.Parallel()
	l := newLegacyLab(t)
	l.load("legacy.iptables", "legacy.ip6tables")
	l.ping("192.168.93.2", web, "0.2")
	l.ping("fd00:93::2", webSix, "0.2")
	before, rules := l.counted(), l.rules()
	for _, line := range []string{":FORWARD DROP [1:84]", ":FORWARD DROP [1:104]", "[1:84] -A FORWARD -j DOCKER-USER", "[1:104] -A FORWARD -j DOCKER-USER"} {
		if !strings.Contains(before, line) {
			t.Fatalf("not counted: %s\n%s", line, before)
		}
	}
	a := theirs
	a.Sources = addrs("192.168.93.2", "fd00:93::2")
	l.mustAdmit(a, IPTablesLegacy, true)
	if after := l.counted(); after != before {
		t.Fatalf("rules or counters of others were\n%s\nand are\n%s", before, after)
	}

	l.vmRun("", "iptables-legacy", "-N", "USERS")
	l.vmRun("", "iptables-legacy", "-I", "FORWARD", "2", "-s", "10.5.5.5", "-j", "USERS")
	l.vmRun("", "iptables-legacy", "-I", "DOCKER-USER", "1", "-s", "10.5.5.5", "-j", "DROP")
	l.vmRun("", "ip6tables-legacy", "-A", "DOCKER-USER", "-s", "fd00::5", "-j", "DROP")
	with := l.counted()
	l.mustAdmit(a, IPTablesLegacy, false)
	// iptables knows ours by its own words.
	l.vmRun("", "iptables-legacy", "-D", "DOCKER-USER", "-s", "192.168.93.2", "-i", "eth1", "-m", "comment", "--comment", "fairlead:89abcdef", "-j", "ACCEPT")
	l.mustAdmit(a, IPTablesLegacy, true)
	if after := l.counted(); after != with {
		t.Fatalf("rules or counters of others were\n%s\nand are\n%s", with, after)
	}
	l.vmRun("", "iptables-legacy", "-D", "FORWARD", "-s", "10.5.5.5", "-j", "USERS")
	l.vmRun("", "iptables-legacy", "-D", "DOCKER-USER", "-s", "10.5.5.5", "-j", "DROP")
	l.vmRun("", "iptables-legacy", "-X", "USERS")
	l.vmRun("", "ip6tables-legacy", "-D", "DOCKER-USER", "-s", "fd00::5", "-j", "DROP")
	with = l.counted() // iptables itself forgets a policy's counter now and then
	l.release(a.Tag)
	if after := l.counted(); after != with {
		t.Fatalf("rules or counters of others were\n%s\nand are\n%s", with, after)
	}
	l.wantRules(rules)
}

// TestLegacyRace lets somebody who does not take the lock add rules while ours come and go: none of his is lost.
func TestLegacyRace(t *testing.T) {
	t.Parallel()
	l := newLegacyLab(t)
	l.load("28.iptables")
	before := l.rules()
	const his = 40
	done := make(chan error)
	go func() {
		for i := range his {
			for try := 0; ; try++ {
				iptables := func(verb string) ([]byte, error) {
					cmd := exec.Command("nsenter", "--net=/run/netns/"+l.vm, "iptables-legacy", verb, "DOCKER", "-s", fmt.Sprintf("10.7.0.%d", i), "-j", "DROP")
					cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE=/run/"+l.vm+".lock")
					return cmd.CombinedOutput()
				}
				out, err := iptables("-A")
				if err == nil {
					break
				}
				// Overtaken by us he is told so: before he replaced the table, or before he restored its counters.
				if _, err := iptables("-C"); err == nil {
					break
				}
				if try == 100 || !bytes.Contains(out, []byte("temporarily unavailable")) {
					done <- fmt.Errorf("add rule %d: %w: %s", i, err, out)
					return
				}
			}
		}
		done <- nil
	}()
	for running := true; running; {
		l.admit(ours) // it may give up after some tries, but not silently
		l.vmDo(func() { Release(ours.Tag) })
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			running = false
		default:
		}
	}
	l.release(ours.Tag)
	after := l.rules()
	for i := range his {
		line := fmt.Sprintf("-A DOCKER -s 10.7.0.%d/32 -j DROP\n", i)
		if strings.Count(after, line) != 1 {
			t.Errorf("lost: %s", line)
		}
		after = strings.Replace(after, line, "", 1)
	}
	if after != before {
		t.Errorf("the rules are now\n%s\nwant\n%s", after, before)
	}
}

// TestLegacyIsNotOverwritten holds that a table which changed after it was looked at is left alone, also when its length is
// the same.
func TestLegacyIsNotOverwritten(t *testing.T) {
	t.Parallel()
	l := newLegacyLab(t)
	l.load("20.10.iptables")
	var p picture
	var err error
	l.vmDo(func() { p, err = look(ours.Tag) })
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for p.tables[i].name != "filter" {
		i++
	}
	l.vmRun("", "iptables-legacy", "-R", "DOCKER-USER", "1", "-s", "10.5.5.5", "-j", "DROP")
	before := l.rules()
	l.vmDo(func() { err = applyLegacy(p.tables[i], p.tables[i]) })
	if !errors.Is(err, errMeanwhile) {
		t.Errorf("applyLegacy = %v, want %v", err, errMeanwhile)
	}
	l.wantRules(before)
}

// TestLegacyMasquerade is about kernels where nf_tables and x_tables cannot both translate.
func TestLegacyMasquerade(t *testing.T) {
	t.Parallel()
	l := newLegacyLab(t)
	l.load("28.iptables", "28.ip6tables")
	l.vmRun("*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -s fd00:17::/64 ! -o docker0 -j MASQUERADE\nCOMMIT\n", "ip6tables-legacy-restore")
	before := l.rules()
	a := ours
	a.Sources = addrs("192.168.93.1", "fd00:93::1")
	var err error
	l.vmDo(func() {
		devs, _ := ways(a.Sources)
		_, _, _, err = settle(a.Tag, func(p picture) []rule {
			p.oneNAT = true
			return p.plan(a, devs, nil)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	l.wantOpen("192.168.93.1", web, inner)
	l.wantOpen("fd00:93::1", webSix, innerSix)
	saved := l.rules()
	for _, line := range []string{
		`-A POSTROUTING -s 192.168.93.1/32 -d 172.17.0.0/16 -m comment --comment "fairlead:0123abcd" -j MASQUERADE`,
		`-A POSTROUTING -s fd00:93::1/128 -d fd00:17::/64 -m comment --comment "fairlead:0123abcd" -j MASQUERADE`,
	} {
		if strings.Count(saved, line+"\n") != 1 {
			t.Errorf("iptables-legacy-save lacks %s:\n%s", line, saved)
		}
	}
	if strings.Contains(saved, "fairlead_") {
		t.Errorf("a table of ours beside legacy nat:\n%s", saved)
	}
	l.release(a.Tag)
	l.wantRules(before)
}
