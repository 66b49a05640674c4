package agent

import (
	"fmt"
	"log/slog"
	"math"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/dnsserver"
)

// TestAskingPace: some questions at once reach the engines, then none, and after a while one again.
func TestAskingPace(t *testing.T) {
	var q asking
	for range asks {
		if !q.may() || !q.begin() {
			t.Fatal("not allowed at first")
		}
	}
	if q.may() || q.begin() {
		t.Error("allowed for ever")
	}
	for deadline := time.Now().Add(20 * time.Second); !q.begin(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never allowed again")
		}
	}
}

// TestWorth: a flood waits for nothing once the engines were asked, but for a pass that is due.
func TestWorth(t *testing.T) {
	a := &Agent{names: newDirectory(nil), wake: make(chan struct{}, 1), passed: make(chan struct{})}
	a.setEngines(nil)
	is := func(want int, when string) {
		t.Helper()
		if n := a.worth(false); n != want {
			t.Errorf("%s: %d names may wait, want %d", when, n, want)
		}
	}
	is(asks, "before anybody was asked")
	a.asking.free.Store(math.MaxInt64) // the engines were asked
	is(0, "when the engines were asked")
	a.mark(dirty{names: true})
	is(math.MaxInt, "while a pass is due")
	a.pass(t.Context())
	is(0, "after the pass")
}

// TestCandidates: a question leads to the containers that may have the name, by names of Docker's that are none of DNS, too.
func TestCandidates(t *testing.T) {
	compose := func(name, service, project string) engine.Container {
		return engine.Container{Name: name, Labels: map[string]string{"com.docker.compose.service": service, "com.docker.compose.project": project}}
	}
	long := strings.Repeat("a_b", 30)
	a := &Agent{cfg: Config{Domains: []string{"docker", "dev.test"}}}
	for _, tt := range []struct {
		question string
		c        engine.Container
		want     bool
	}{
		{"web.docker", engine.Container{Name: "web"}, true},
		{"web.docker", engine.Container{Name: "Web"}, true},
		{"web.dev.test", engine.Container{Name: "web"}, true},
		{"web.docker", engine.Container{Name: "web2"}, false},
		{"web.docker", engine.Container{Name: "my-web"}, false},
		{"web.docker", engine.Container{Name: "w.b"}, false},
		{"w.b.docker", engine.Container{Name: "w.b"}, true},
		{"any.w.b.docker", engine.Container{Name: "w.b"}, true},
		{"web.backend.docker", engine.Container{Name: "web"}, true},
		{"any.web.docker", engine.Container{Name: "web"}, true},
		{"my_app.docker", engine.Container{Name: "my_app"}, true},
		{"my-app.docker", engine.Container{Name: "my_app"}, true},
		{"my-app.docker", engine.Container{Name: "My-App"}, true},
		{"my_app.docker", engine.Container{Name: "my-app"}, false},
		{"my-app.backend.docker", engine.Container{Name: "my_app"}, true},
		{mapped("web-") + ".docker", engine.Container{Name: "web-"}, true},
		{mapped("web-") + ".docker", engine.Container{Name: "web_"}, false},
		{mapped("a..b_") + ".docker", engine.Container{Name: "a..b_"}, true},
		{mapped(long) + ".docker", engine.Container{Name: long}, true},
		{"api.docker", compose("shop-api-1", "api", "shop"), true},
		{"api.shop.docker", compose("shop_api_2", "api", "shop"), true},
		{"2.api.shop.docker", compose("shop-api-2", "api", "shop"), true},
		{"my-api.my-shop.docker", compose("my_shop-my_api-1", "my_api", "my_shop"), true},
		{"api.backend.docker", compose("shop-api-1", "api", "shop"), true},
		{"web.shop.docker", compose("shop-api-1", "api", "shop"), false},
		{"api.docker", engine.Container{Name: "shop-api-1"}, false},
	} {
		c := a.candidates(tt.question)
		seen := regexp.MustCompile(c.pattern()).MatchString("/"+tt.c.Name) && c.of(tt.c)
		if seen != tt.want {
			t.Errorf("%s leads to %s: %v; pattern %s", tt.question, tt.c.Name, seen, c.pattern())
		}
	}
	for _, none := range []string{"docker", "web.other", "1.17.172.in-addr.arpa", "_tcp.docker"} {
		if c := a.candidates(none); len(c) > 0 {
			t.Errorf("%s: %q", none, c)
		}
	}
}

// TestTogether: questions in a crowd share rounds, and each is served by one that began after it came.
func TestTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var rounds []string
		q := together{do: func(names []string) {
			mu.Lock()
			rounds = append(rounds, strings.Join(names, " "))
			mu.Unlock()
			time.Sleep(10 * time.Millisecond)
		}}
		began := time.Now()
		q.join("first")
		time.Sleep(time.Millisecond) // its round is under way
		for i := range 50 {
			q.join(fmt.Sprint("n", i%5))
		}
		<-q.join("late")
		if took := time.Since(began); strings.Join(rounds, ", ") != "first, n0 n1 n2 n3 n4 late" || took != togetherEvery+10*time.Millisecond {
			t.Errorf("after %v: %q", took, rounds)
		}
		var done <-chan struct{}
		for i := range 2 * maxTogether {
			done = q.join(fmt.Sprint(i))
		}
		<-done
		if n := len(strings.Fields(rounds[2])); n != maxTogether {
			t.Errorf("a round for %d names", n)
		}
	})
}

// TestExpect: the zone expects the names of containers that exist and are not live, all that they would have, and those only.
func TestExpect(t *testing.T) {
	at := everywhere
	c := engine.Container{ID: webID, Name: "Web", Labels: compose("api", "shop", "2", "fairlead.names", "www"), Endpoints: []engine.Attachment{{NetworkID: "n", Network: "back", Aliases: []string{"db"}}}}
	want := "2.api.shop.docker 3f2a9c01d4e5.docker api.docker api.shop.docker db.docker web.back.docker web.docker www.docker"
	if got := strings.Join(comingNames(at, c), " "); got != want {
		t.Errorf("names %s, want %s", got, want)
	}
	if c.Endpoints[0].Addrs != nil {
		t.Error("the container itself was changed")
	}

	a := &Agent{cfg: Config{Domains: []string{"docker"}}, zone: dnsserver.NewZone(dnsserver.ZoneConfig{Domains: []string{"docker"}})}
	w := newWatched(EngineConfig{}, slog.New(slog.DiscardHandler))
	web, db := engine.Container{ID: webID, Name: "web"}, engine.Container{ID: dbID, Name: "db"}
	for i, step := range []struct {
		u    engine.Update
		want string
	}{
		{engine.Update{Coming: []engine.Container{web, db}}, "web db"},
		{engine.Update{Coming: []engine.Container{web}}, "web db"},
		{engine.Update{Containers: []engine.Container{web}}, "db"},
		{engine.Update{Gone: []string{webID}, Coming: []engine.Container{web}}, "web db"},
		{engine.Update{Destroyed: []string{webID, dbID}}, ""},
		{engine.Update{Coming: []engine.Container{{ID: webID, Name: "old"}}}, "old"},
		{engine.Update{Coming: []engine.Container{web}}, "web"},
		{engine.Update{Info: &engine.Info{}}, ""},
	} {
		a.expect(w, step.u)
		var got []string
		for _, name := range []string{"old", "web", "db"} {
			if a.zone.Expects(name + ".docker") {
				got = append(got, name)
			}
		}
		if got := strings.Join(got, " "); got != step.want {
			t.Errorf("step %d: %q is expected, want %q", i, got, step.want)
		}
	}
}
