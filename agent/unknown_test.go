package agent

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/agent/engine"
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

// TestNothingNew: a flood waits for nothing once the engines were asked, but for a pass that is due.
func TestNothingNew(t *testing.T) {
	a := &Agent{names: newDirectory(nil), wake: make(chan struct{}, 1), passed: make(chan struct{})}
	a.setEngines(nil)
	if a.nothingNew() {
		t.Error("nothing new before anybody was asked")
	}
	a.asking.out.Store(asks)
	if !a.nothingNew() {
		t.Error("something new, but what?")
	}
	a.mark(dirty{names: true})
	if a.nothingNew() {
		t.Error("nothing new while a pass is due")
	}
	a.pass(t.Context())
	if !a.nothingNew() {
		t.Error("something new after the pass")
	}
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
