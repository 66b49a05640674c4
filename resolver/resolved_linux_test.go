package resolver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// state is everything on this host that our link could change: links, addresses, and what resolved knows.
func state(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, l.Attrs().Name, l.Attrs().Alias, l.Attrs().HardwareAddr, addrs)
	}
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf", "/run/systemd/resolve/stub-resolv.conf"} {
		content, _ := os.ReadFile(path)
		fmt.Fprintf(&b, "%s: %s", path, content)
	}
	files, _ := os.ReadDir("/run/systemd/resolve/netif")
	fmt.Fprintln(&b, "netif:", len(files))
	return b.String()
}

func resolvectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(resolvedRoot(t)+"/usr/bin/resolvectl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("resolvectl %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// lostLink makes sure that a failed test leaves no link to the next.
func lostLink(t *testing.T) {
	t.Cleanup(func() {
		if l, err := netlink.LinkByName(linkName); err == nil {
			netlink.LinkDel(l)
		}
	})
}

func TestResolved(t *testing.T) {
	needWorld(t)
	resolvedRoot(t)
	lostLink(t)
	serve(t, uplinkDNS+":53", map[string]string{"other.example.": "192.0.2.1"}, 3)
	us := serve(t, ours, map[string]string{"web.docker.": "172.17.0.2", "2.0.17.172.in-addr.arpa.": "172.17.0.2"}, 3)
	startBus(t)
	stop := startResolved(t)
	whole := t
	before := state(t)

	m, why, err := Detect(t.Context(), "auto")
	if m != Resolved || err != nil {
		t.Fatalf("Detect = %v, %q, %v", m, why, err)
	}
	// resolved remembers "no such name" for a day; the first question after Apply must nevertheless get the address.
	if got := ask(t, stub, "web.docker."); got != "NXDOMAIN" {
		t.Fatalf("before: web.docker is %s", got)
	}
	want := render(t, Resolved, ours, "docker")
	h := &host{}
	h.apply(t, want)
	if got := ask(t, stub, "web.docker."); got != "172.17.0.2" {
		t.Fatalf("web.docker is %s; resolvectl status:\n%s", got, resolvectl(t, "status"))
	}
	if out := resolvectl(t, "query", "web.docker"); !strings.Contains(out, "172.17.0.2") {
		t.Errorf("resolvectl query web.docker:\n%s", out)
	}
	for _, name := range []string{"other.example.", "nothere.example.", "docker.example."} {
		ask(t, stub, name)
	}
	if got := ask(t, stub, "other.example."); got != "192.0.2.1" {
		t.Errorf("other.example is %s", got)
	}
	for _, name := range us.names() {
		if !strings.HasSuffix(name, "docker.") {
			t.Errorf("we were asked for %s, which is not ours", name)
		}
	}

	h.apply(t, nil)
	await(t, "the state of before", func() error {
		if now := state(t); now != before {
			return fmt.Errorf("before:\n%s\nnow:\n%s", before, now)
		}
		return nil
	})
	if got := ask(t, stub, "web.docker."); got != "NXDOMAIN" {
		t.Errorf("after removal: web.docker is %s", got)
	}

	t.Run("domains change", func(t *testing.T) {
		h.apply(t, want)
		p := h.apply(t, render(t, Resolved, ours, "docker", "17.172.in-addr.arpa"))
		if len(p.Steps) != 1 || p.Steps[0].Old != want[0] {
			t.Errorf("steps = %v", p.Steps)
		}
		if got := ask(t, stub, "2.0.17.172.in-addr.arpa."); got != "172.17.0.2" {
			t.Errorf("the reverse name is %s", got)
		}
		h.apply(t, want)
	})
	t.Run("restart", func(t *testing.T) {
		h.apply(t, want)
		starts := make(chan bool, 16)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- Watch(ctx, Resolved, func() { starts <- true }) }()
		receive(t, "Watch to begin", starts)
		stop()
		if m, why, err := Detect(t.Context(), "auto"); m != None || err != nil || !strings.Contains(why, "hint: ") {
			t.Errorf("Detect without resolved = %v, %q, %v", m, why, err)
		}
		if err := os.RemoveAll("/run/systemd/resolve/netif"); err != nil { // what resolved would have restored from
			t.Fatal(err)
		}
		receive(t, "Watch to see the stop", starts)
		stop = startResolved(whole)
		receive(t, "Watch to see the start", starts)
		p := h.apply(t, want)
		if len(p.Steps) != 1 || len(p.Blocked) > 0 {
			t.Errorf("after a restart that forgot: %+v", p)
		}
		if got := ask(t, stub, "web.docker."); got != "172.17.0.2" {
			t.Errorf("web.docker is %s", got)
		}
		cancel()
		if err := receive(t, "Watch to end", ended); err != nil {
			t.Errorf("Watch = %v", err)
		}
	})
	t.Run("set down by somebody", func(t *testing.T) {
		h.apply(t, want)
		l, _ := netlink.LinkByName(linkName)
		if err := netlink.LinkSetDown(l); err != nil {
			t.Fatal(err)
		}
		await(t, "resolved to notice", func() error {
			if p := h.plan(t, want); len(p.Steps) == 0 {
				return errors.New("nothing to do")
			}
			return nil
		})
		h.apply(t, want)
		if got := ask(t, stub, "web.docker."); got != "172.17.0.2" {
			t.Errorf("web.docker is %s", got)
		}
	})
	t.Run("edited", func(t *testing.T) {
		h.apply(t, want)
		for _, edit := range [][]string{
			{"dns", linkName, "127.0.0.1:55353", uplinkDNS},
			{"domain", linkName, "~docker", "~."},
			{"default-route", linkName, "yes"},
			{"dnssec", linkName, "yes"},
		} {
			resolvectl(t, edit...)
			journal := slices.Clone(h.journal)
			if p := h.plan(t, want); len(p.Steps) > 0 || len(p.Blocked) != 1 || !strings.Contains(p.Blocked[0].Why, "ip link delete fairlead0") {
				t.Errorf("after resolvectl %v: %+v", edit, p)
			}
			h.journal = journal
			if p := h.plan(t, nil); len(p.Steps) > 0 || len(p.Blocked) != 1 {
				t.Errorf("teardown after resolvectl %v: %+v", edit, p)
			}
			h.journal = journal
			resolvectl(t, "revert", linkName) // takes the edit back: now something unfinished of ours
			h.apply(t, want)
		}
	})
	t.Run("flush", func(t *testing.T) {
		h.apply(t, want)
		if got := ask(t, stub, "late.docker."); got != "NXDOMAIN" {
			t.Fatalf("late.docker is %s", got)
		}
		us.add("late.docker.", "172.17.0.3")
		if got := ask(t, stub, "late.docker."); got != "NXDOMAIN" {
			t.Fatalf("resolved has no cache: late.docker is %s", got)
		}
		if err := Flush(t.Context(), Resolved); err != nil {
			t.Fatal(err)
		}
		if got := ask(t, stub, "late.docker."); got != "172.17.0.3" {
			t.Errorf("after Flush: late.docker is %s", got)
		}
	})
	t.Run("never the default server", func(t *testing.T) {
		h.apply(t, want)
		resolvectl(t, "domain", linkName, "") // resolved would make us the default now, by its own rules
		ask(t, stub, "private.example.")
		if slices.Contains(us.names(), "private.example.") {
			t.Error("we were asked for private.example")
		}
		h.apply(t, want)
	})
	t.Run("read back", func(t *testing.T) {
		h.apply(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), patience/10) // it will never be what was asked for
		defer cancel()
		odd := Item{Resolved, linkName, ours + " ~DOCKER"} // resolved says ~docker
		if r := Apply(ctx, Plan{Steps: []Step{{New: odd}}}); len(r) != 1 || r[0].Err == nil {
			t.Errorf("Apply = %+v", r)
		}
		h.journal = want
		h.apply(t, nil)
	})
	t.Run("changed after the plan", func(t *testing.T) {
		h.apply(t, want)
		p := h.plan(t, nil)
		resolvectl(t, "dns", linkName, uplinkDNS)
		if r := Apply(t.Context(), p); len(r) != 1 || !errors.Is(r[0].Err, errChanged) {
			t.Errorf("Apply = %+v", r)
		}
		if _, err := netlink.LinkByName(linkName); err != nil {
			t.Errorf("an edited link was deleted: %v", err)
		}
		resolvectl(t, "revert", linkName)
		h.apply(t, nil)
	})
	t.Run("killed while making the link", func(t *testing.T) {
		for _, want := range [][]Item{want, nil} {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.HardwareAddr = linkName, linkMAC // no alias, no address, down
			if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peerName}); err != nil {
				t.Fatal(err)
			}
			h.journal = render(t, Resolved, ours, "docker")
			h.apply(t, want)
			h.apply(t, nil)
			if now := state(t); strings.Contains(now, "fairlead") {
				t.Errorf("left behind:\n%s", now)
			}
		}
	})
	t.Run("foreign link of our name", func(t *testing.T) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = linkName
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			t.Fatal(err)
		}
		h.journal = want
		with := state(t)
		p := h.apply(t, want)
		if len(p.Steps) > 0 || len(p.Blocked) != 1 || !strings.Contains(p.Blocked[0].Why, "bridge link fairlead0") {
			t.Errorf("plan = %+v", p)
		}
		if p := h.apply(t, nil); len(p.Steps)+len(p.Blocked) > 0 {
			t.Errorf("teardown = %+v", p)
		}
		for _, s := range []Step{{New: want[0]}, {Old: want[0]}} { // appeared after the plan
			if r := Apply(t.Context(), Plan{Steps: []Step{s}}); len(r) != 1 || r[0].Err == nil {
				t.Errorf("Apply(%v) = %+v", s, r)
			}
		}
		if now := state(t); now != with {
			t.Errorf("a foreign link was touched:\n%s\nnow:\n%s", with, now)
		}
		l, _ := netlink.LinkByName(linkName)
		netlink.LinkDel(l)
	})
	t.Run("teardown without resolved", func(t *testing.T) {
		h.apply(t, want)
		stop()
		h.apply(t, nil)
		if now := state(t); strings.Contains(now, "fairlead") {
			t.Errorf("left behind:\n%s", now)
		}
	})
}

// TestNoBus: without a system bus there is nothing to read and nothing to fear, and an order fails with a reason.
func TestNoBus(t *testing.T) {
	needWorld(t)
	h := &host{}
	if p := h.apply(t, nil); len(p.Steps)+len(p.Blocked) > 0 {
		t.Errorf("plan = %+v", p)
	}
	_, _, err := Detect(t.Context(), "resolved")
	if err == nil || !strings.Contains(err.Error(), "systemctl enable --now systemd-resolved") {
		t.Errorf("Detect(resolved) = %v", err)
	}
	r := Apply(t.Context(), h.plan(t, render(t, Resolved, ours, "docker")))
	if len(r) != 1 || !errors.Is(r[0].Err, errNotRunning) {
		t.Errorf("Apply = %+v", r)
	}
	if _, err := netlink.LinkByName(linkName); err == nil {
		t.Error("a link without a resolved to use it")
	}
}

func TestDecide(t *testing.T) {
	const (
		stubbed = "# Generated by anybody\nnameserver 127.0.0.53\n"
		direct  = "# managed by man:systemd-resolved(8)\nnameserver 192.0.2.1\n" // a header that lies
		dnsmasq = "nameserver 127.0.0.1\n"
		nss     = "passwd: files\nhosts: mymachines resolve [!UNAVAIL=return] files dns\n"
		nssDNS  = "hosts: files dns # resolve\nhosts: files dns resolve\n"
	)
	down := fmt.Errorf("%w: nobody owns its name", errNotRunning)
	for _, c := range []struct {
		name string
		mode Method
		facts
		want Method // "" = an error
		why  string
	}{
		{"stub", Auto, facts{conf: stubbed}, Resolved, "/etc/resolv.conf asks 127.0.0.53"},
		{"nss", Auto, facts{conf: direct, nss: nss}, Resolved, "nsswitch.conf has resolve"},
		{"header lies", Auto, facts{conf: direct, nss: nssDNS}, None, "asks 192.0.2.1"},
		{"stub is second", Auto, facts{conf: "nameserver 192.0.2.1\n" + stubbed}, None, "asks 192.0.2.1"},
		{"stub without daemon", Auto, facts{conf: stubbed, resolved: down}, None, "hint: systemctl enable --now systemd-resolved"},
		{"plain", Auto, facts{conf: direct, resolved: down}, None, "or --resolver resolv.conf"},
		{"plain, file not ours", Auto, facts{conf: direct, resolved: down, file: "a symlink"}, None, "does not run"},
		{"dnsmasq", Auto, facts{conf: dnsmasq, resolved: down}, None, "server=/docker/127.0.0.1#55353"},
		{"empty", Auto, facts{}, None, "has no nameserver"},
		{"asked", Resolved, facts{conf: stubbed}, Resolved, "serves"},
		{"asked, unused", Resolved, facts{conf: direct}, Resolved, "does not see this host's lookups: /etc/resolv.conf asks 192.0.2.1; hint: ln -sf"},
		{"asked, down", Resolved, facts{conf: stubbed, resolved: down}, "", "hint: systemctl enable --now systemd-resolved"},
		{"file", ResolvConf, facts{conf: direct, resolved: down}, ResolvConf, "glibc"},
		{"file not ours", ResolvConf, facts{conf: stubbed, file: "it is a symlink"}, "", "it is a symlink"},
		{"none", None, facts{conf: stubbed}, None, "asked for"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, why, err := decide(c.mode, c.facts)
			if err != nil {
				why = err.Error()
			}
			if m != c.want || (err != nil) != (c.want == "") || !strings.Contains(why, c.why) {
				t.Errorf("decide = %q, %q, %v; want %q, %q", m, why, err, c.want, c.why)
			}
			if m == None && c.mode == Auto && !strings.Contains(why, "hint: ") {
				t.Errorf("no hint in %q", why)
			}
		})
	}
}

// FuzzValue: what is read as an order to resolved is what Render would have written, never a root or a search domain.
func FuzzValue(f *testing.F) {
	for _, s := range []string{"127.0.0.1:55353 ~docker", "[::1]:53 ~a ~b", "127.0.0.1:53", "127.0.0.1:53 docker", "127.0.0.1:53 ~.", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		addr, domains, err := parseValue(value)
		if err != nil {
			return
		}
		words := []string{addr.String()}
		for _, d := range domains {
			if d.Name == "" || d.Name == "." || !d.RouteOnly {
				t.Errorf("parseValue(%q) has the domain %+v", value, d)
			}
			words = append(words, "~"+d.Name)
		}
		again, _, err := parseValue(strings.Join(words, " "))
		if err != nil || again != addr {
			t.Errorf("%q became %q: %v", value, words, err)
		}
	})
}
