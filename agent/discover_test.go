package agent

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/platform"
)

// finder is an agent with nothing but engines that were found.
func finder(t *testing.T, found ...platform.Endpoint) *Agent {
	t.Helper()
	j, err := openJournal(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{
		cfg: Config{Domains: []string{"docker"}}, journal: j, log: slog.New(slog.DiscardHandler), twins: map[string]string{},
		wake: make(chan struct{}, 1), doubled: make(chan struct{}, 1), passed: make(chan struct{}),
	}
	a.names = newDirectory(a.claimsOf)
	a.take(found, nil)
	return a
}

func (a *Agent) called() (names []string) {
	for _, w := range a.engines {
		names = append(names, w.cfg.Name)
	}
	return names
}

// TestCompare: an engine is given up when nothing tells of it and it does not answer either, or when its VM has moved.
func TestCompare(t *testing.T) {
	at := func(name, url string) platform.Endpoint {
		return platform.Endpoint{Name: name, URL: url, Provider: "docker-machine"}
	}
	local, dev, moved := at("default", "unix:///a.sock"), at("dev", "tcp://192.168.99.100:2376"), at("dev", "tcp://192.168.99.101:2376")
	names := func(gone []*watched, fresh []platform.Endpoint) (s string) {
		for _, w := range gone {
			s += "-" + w.cfg.URL
		}
		for _, f := range fresh {
			s += "+" + f.URL
		}
		return s
	}
	type look struct {
		found []platform.Endpoint
		up    bool // dev answers
		times int
		want  string
	}
	for name, looks := range map[string][]look{
		"still there":                    {{[]platform.Endpoint{local, dev}, false, 20, ""}},
		"silent and told no longer":      {{[]platform.Endpoint{local}, false, goneAfter - 1, ""}, {[]platform.Endpoint{local}, false, 1, "-" + dev.URL}},
		"told again in time":             {{[]platform.Endpoint{local}, false, goneAfter - 1, ""}, {[]platform.Endpoint{local, dev}, false, 1, ""}, {[]platform.Endpoint{local}, false, goneAfter - 1, ""}},
		"answers, though told no longer": {{[]platform.Endpoint{local}, true, 20, ""}},
		"moved":                          {{[]platform.Endpoint{local, moved}, false, 1, "-" + dev.URL + "+" + moved.URL}},
		"moved, and answers still":       {{[]platform.Endpoint{local, moved}, true, 1, "+" + moved.URL}},
		"another one":                    {{[]platform.Endpoint{local, dev, at("b", "tcp://10.0.0.1:2375")}, true, 1, "+tcp://10.0.0.1:2375"}},
		"with other certificates":        {{[]platform.Endpoint{local, dev, {Name: "dev", URL: dev.URL, Certs: "/c", Provider: "context"}}, true, 1, "+" + dev.URL}},
	} {
		a := finder(t, local, dev)
		for i, l := range looks {
			for n := range l.times {
				a.engines[1].up = l.up
				fresh, gone := a.compare(l.found)
				if got := names(gone, fresh); got != l.want {
					t.Errorf("%s: look %d.%d: %q, want %q", name, i, n, got, l.want)
				}
			}
		}
	}
}

// TestTwin: an engine that is reached in two ways is watched by the first, and by the second once that one is lost.
func TestTwin(t *testing.T) {
	socket, tcp := platform.Endpoint{Name: "default", URL: "unix:///a.sock"}, platform.Endpoint{Name: "dev", URL: "tcp://192.168.99.100:2376"}
	bridge := []engine.Network{{ID: "b1", Driver: "bridge", Name: "bridge", Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")}}}
	a := finder(t, socket, tcp)
	first, second := a.engines[0], a.engines[1]
	heard := engine.Update{Full: true, Info: &engine.Info{Version: "1"}, Networks: bridge}
	a.heard(first, heard)
	a.heard(second, heard)
	if first.twin != "" || second.twin != "default" || second.listed {
		t.Fatalf("twins are %q and %q", first.twin, second.twin)
	}
	select {
	case <-a.doubled:
	default:
		t.Error("nobody is told")
	}
	if _, gone := a.compare([]platform.Endpoint{socket, tcp}); !slices.Equal(gone, []*watched{second}) {
		t.Fatalf("gone: %v", gone)
	}
	a.engines = a.engines[:1]
	if fresh, _ := a.compare([]platform.Endpoint{socket, tcp}); fresh != nil {
		t.Errorf("taken up again: %v", fresh)
	}
	if e := a.Status().Engines[0]; !slices.Equal(e.Also, []string{tcp.URL}) {
		t.Errorf("status: also %q", e.Also)
	}
	first.up = false
	if fresh, _ := a.compare([]platform.Endpoint{socket, tcp}); !slices.Equal(fresh, []platform.Endpoint{tcp}) {
		t.Errorf("not taken up when the first way is lost: %v", fresh)
	}

	// The first stays, whoever was heard first.
	a = finder(t, socket, tcp)
	first, second = a.engines[0], a.engines[1]
	a.heard(second, heard)
	if second.twin != "" || !second.listed {
		t.Fatalf("alone, it is %q", second.twin)
	}
	a.heard(first, heard)
	if first.twin != "" || second.twin != "default" {
		t.Errorf("twins are %q and %q", first.twin, second.twin)
	}
	select {
	case <-a.doubled:
	default:
		t.Error("nobody is told that the later one was the first to be heard")
	}
	if _, gone := a.compare([]platform.Endpoint{socket, tcp}); !slices.Equal(gone, []*watched{second}) {
		t.Errorf("gone: %v", gone)
	}

	// While the first was lost the second stood in for it.
	a.heard(first, engine.Update{Down: errNotHeard})
	second.twin = ""
	a.heard(second, heard)
	a.heard(first, heard)
	if first.twin != "" || second.twin != "default" {
		t.Errorf("after a while apart twins are %q and %q", first.twin, second.twin)
	}

	// Who is named twice is watched once, and nobody looks for either.
	for _, w := range []*watched{first, second} {
		w.found = nil
	}
	if _, gone := a.compare(nil); !slices.Equal(gone, []*watched{second}) {
		t.Errorf("gone: %v", gone)
	}

	// The same ranges, as all engines have, make no twins; nor does a swarm's network, one that a cloned disk has, or Podman's.
	shop := engine.Network{ID: "s", Driver: "overlay", Name: "shop"}
	cloned := engine.Network{ID: "c", Driver: "bridge", Name: "back"}
	podman := engine.Network{ID: fmt.Sprintf("%x", sha256.Sum256([]byte("podman"))), Driver: "bridge", Name: "bridge"}
	other := bridge[0]
	other.ID = "b2"
	for _, two := range [][2][]engine.Network{{{bridge[0], shop}, {other, shop}}, {{bridge[0], cloned}, {other, cloned}}, {{cloned}, {cloned}}, {{podman}, {podman}}} {
		a = finder(t, socket, tcp)
		a.heard(a.engines[0], engine.Update{Info: &engine.Info{}, Networks: two[0]})
		a.heard(a.engines[1], engine.Update{Info: &engine.Info{}, Networks: two[1]})
		if a.engines[1].twin != "" {
			t.Errorf("two engines are taken for one: %v", two)
		}
	}
}

// TestWatchNames: no two engines have one name, whenever they were found, and the first keeps priority.
func TestWatchNames(t *testing.T) {
	long := strings.Repeat("x", 63)
	a := finder(t, platform.Endpoint{Name: "dev", URL: "unix:///a"}, platform.Endpoint{Name: long, URL: "unix:///b"})
	a.watch(platform.Endpoint{Name: "dev", URL: "unix:///c"})
	a.watch(platform.Endpoint{Name: "dev", URL: "unix:///d"})
	a.watch(platform.Endpoint{Name: long, URL: "unix:///e"})
	if got, want := a.called(), []string{"dev", long, "dev-2", "dev-3", long[:61] + "-2"}; !slices.Equal(got, want) {
		t.Errorf("called %q, want %q", got, want)
	}
	a.engines = slices.Delete(a.engines, 0, 1)
	if w := a.watch(platform.Endpoint{Name: "dev", URL: "unix:///f"}); w.cfg.Name != "dev" || w.priority != 5 {
		t.Errorf("a newcomer is %s with priority %d", w.cfg.Name, w.priority)
	}
}

// TestUnwatch: the names of an engine that is given up go, the others' stay, and nobody is asked to close its VM any more.
func TestUnwatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := finder(t, platform.Endpoint{Name: "dev", URL: "unix:///a"}, platform.Endpoint{Name: "test", URL: "unix:///b"})
		for i, w := range a.engines {
			subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(17 + i), 0, 0}), 16)
			web := engine.Container{ID: webID, Name: "web", Endpoints: []engine.Attachment{on("back", subnet.Addr().Next().Next().String())}}
			w.reach = platform.Reach{Kind: platform.Native}
			a.heard(w, engine.Update{Full: true, Info: &engine.Info{}, Containers: []engine.Container{web}})
			a.subnets = append(a.subnets, Subnet{Engine: w.cfg.Name, Prefix: subnet, State: Native})
			if err := a.journal.change(func(d *journalDoc) { d.Pilots = append(d.Pilots, w.cfg.Endpoint) }); err != nil {
				t.Fatal(err)
			}
		}
		pass := func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.passNames(a.dirty.names)
			close(a.passed)
			a.passed = make(chan struct{})
		}
		pass()
		for len(a.wake) > 0 {
			<-a.wake
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			<-a.wake
			a.heard(a.engines[1], engine.Update{Settled: true}) // which is no pass
			synctest.Wait()
			if len(a.called()) != 2 {
				t.Error("it is given up before its names are")
			}
			pass()
		}()
		lost, kept := a.engines[0], a.engines[1]
		a.unwatch(t.Context(), lost)
		<-done
		pass()
		if !slices.Equal(a.called(), []string{"test"}) || !slices.Equal(a.journal.doc.Pilots, []engine.Endpoint{kept.cfg.Endpoint}) {
			t.Errorf("left: %v, %v", a.called(), a.journal.doc.Pilots)
		}
		web := false
		for _, n := range a.Names() {
			web = web || n.Name == "web.docker"
			if n.Engine != "test" || strings.HasSuffix(n.Name, ".test.docker") {
				t.Errorf("%s of %s is left", n.Name, n.Engine)
			}
		}
		if !web {
			t.Errorf("web.docker is lost: %v", a.Names())
		}
	})
}

// TestDiscover: what is told of a home that is not there is said, and there is always an engine to wait for.
func TestDiscover(t *testing.T) {
	home := t.TempDir()
	found, skipped := discover(Config{Homes: []string{filepath.Join(home, "none"), home}, DockerEnv: map[string]string{"DOCKER_HOST": "tcp://192.168.99.100:2375"}})
	if len(found) == 0 || found[0].URL != "tcp://192.168.99.100:2375" || !found[0].Chosen || len(skipped) != 1 || skipped[0].Provider != "home" {
		t.Errorf("found %+v, skipped %+v", found, skipped)
	}
	if runtime.GOOS != "windows" {
		machine := filepath.Join(home, ".docker/machine/machines/dev")
		if err := os.MkdirAll(machine, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(machine, "config.json"), []byte(`{"DriverName":"virtualbox","Driver":{"IPAddress":"192.168.99.100"}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, skipped = discover(Config{Homes: []string{home}}); len(skipped) != 1 || skipped[0].Provider != "docker-machine" || !strings.Contains(skipped[0].Hint, "regenerate-certs") {
			t.Errorf("a machine without certificates: %+v", skipped)
		}
	}
	if found, skipped = discover(Config{Engines: []EngineConfig{{}}, Homes: []string{home}}); found != nil || skipped != nil {
		t.Errorf("looked for, though one is named: %v, %v", found, skipped)
	}
}

// Where no engine answers, what was skipped may be the one that is meant: a home that is not there is named, too.
func TestNobodyAnswers(t *testing.T) {
	home := filepath.Join(t.TempDir(), "none")
	cfg := Config{Homes: []string{home}}
	_, skipped := discover(cfg)
	if len(skipped) != 1 {
		t.Fatalf("skipped %+v", skipped)
	}
	for _, c := range []struct{ why, hint string }{{nothingFound, "--home DIR"}, {"DOCKER_HOST names it", "start the engine"}} {
		a := finder(t)
		w := a.watch(platform.Endpoint{Name: "default", URL: "unix:///nowhere.sock", Why: c.why})
		w.err = engine.ErrNoAnswer
		err := nobody(w, skipped)
		if p := Explain(err); !errors.Is(err, engine.ErrNoAnswer) || !strings.Contains(p.Error(), "engine default: ") || !strings.Contains(p.Error(), "home: "+home) || !strings.Contains(p.Hint, c.hint) {
			t.Errorf("%s: %v\nhint: %s", c.why, p, p.Hint)
		}
		if err := nobody(w, nil); strings.Contains(err.Error(), "skipped") {
			t.Error(err)
		}
	}
}
