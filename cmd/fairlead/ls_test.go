package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/google/go-cmp/cmp"
)

func TestPrintNames(t *testing.T) {
	name := func(name, rule, containers string, addrs ...string) agent.Name {
		n := agent.Name{Name: name, Rule: rule, Engine: "dev", Containers: strings.Fields(containers), Networks: []string{"bridge"}, Ports: []string{"80/tcp"}}
		for _, a := range addrs {
			n.Addrs = append(n.Addrs, netip.MustParseAddr(a))
		}
		return n
	}
	names := []agent.Name{
		name("db.docker", "name", "db", "172.17.0.3", "172.18.0.3"),
		name("db.back.docker", "network", "db", "172.18.0.3"), // another answer
		name("store.docker", "label", "db", "172.17.0.3", "172.18.0.3"),
		name("3f2a9c01d4e5.docker", "id", "db", "172.17.0.3", "172.18.0.3"),
		name("web.docker", "name", "web", "172.17.0.2"),
		name("web.bridge.docker", "network", "web", "172.17.0.2"),
		name("web.dev.docker", "engine", "web", "172.17.0.2"),
		name("web.web.docker", "image", "web", "172.17.0.2"),
		name("*.shop.docker", "wildcard", "web", "172.17.0.2"),
		name("web.web.docker", "image", "web web2", "172.17.0.2"), // of others, too
	}
	for all, want := range map[bool]string{
		false: `NAME            ADDRESSES              NETWORKS  PORTS   ENGINE  ALSO
db.docker       172.17.0.3 172.18.0.3  bridge    80/tcp  dev     store.docker
db.back.docker  172.18.0.3             bridge    80/tcp  dev
web.docker      172.17.0.2             bridge    80/tcp  dev     *.shop.docker
web.web.docker  172.17.0.2             bridge    80/tcp  dev
and 4 more by id, engine, network and image: fairlead ls --all
`,
		true: `NAME            ADDRESSES              NETWORKS  PORTS   ENGINE  ALSO
db.docker       172.17.0.3 172.18.0.3  bridge    80/tcp  dev     store.docker 3f2a9c01d4e5.docker
db.back.docker  172.18.0.3             bridge    80/tcp  dev
web.docker      172.17.0.2             bridge    80/tcp  dev     web.bridge.docker web.dev.docker web.web.docker *.shop.docker
web.web.docker  172.17.0.2             bridge    80/tcp  dev
`,
	} {
		var b strings.Builder
		printNames(&b, names, all)
		got := ""
		for line := range strings.Lines(b.String()) {
			got += strings.TrimRight(line, " \n") + "\n"
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("all %v: %s", all, d)
		}
	}
	var b strings.Builder
	printHosts(&b, names)
	if got, want := b.String(), "172.17.0.2\tweb.docker web.bridge.docker web.dev.docker web.web.docker web.web.docker\n"; !strings.HasPrefix(got, want) || strings.Contains(got, "*") {
		t.Errorf("hosts: %q", got)
	}
}
