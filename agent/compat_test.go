package agent

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/google/go-cmp/cmp"
)

// TestOtherTools has a table for each tool. What the names of the container itself are is left out of want.
func TestOtherTools(t *testing.T) {
	type labels = map[string]string
	for _, tt := range []struct {
		name   string
		image  string
		host   string // HOSTNAME or HOSTNAME DOMAINNAME
		labels labels
		env    []string
		want   string
	}{
		{"dnsdock: image", "registry.example.com:5000/team/redis:7", "", nil, nil, `
			web.redis byImage 172.17.0.2 172.18.0.2
			redis.dev byImage 172.17.0.2 172.18.0.2
			web.redis.dev byImage 172.17.0.2 172.18.0.2`},
		{"dnsdock: digest", "redis@sha256:0123456789abcdef", "", nil, nil, `
			web.redis byImage 172.17.0.2 172.18.0.2
			redis.dev byImage 172.17.0.2 172.18.0.2
			web.redis.dev byImage 172.17.0.2 172.18.0.2`},
		{"dnsdock: an image that is an id", "0123456789ab", "", nil, nil, ``},
		{"dnsdock: an image that is a whole id", "sha256:0123456789ab", "", nil, nil, ``},
		{"dnsdock: name, image", "", "", labels{"com.dnsdock.name": "master", "com.dnsdock.image": "mysql"}, nil, `
			mysql byImage 172.17.0.2 172.18.0.2
			master.mysql byImage 172.17.0.2 172.18.0.2`},
		{"dnsdock: name alone", "", "", labels{"com.dnsdock.name": "master"}, nil, `
			master byImage 172.17.0.2 172.18.0.2`},
		{"dnsdock: tags, region", "", "", labels{"com.dnsdock.tags": "master,other", "com.dnsdock.image": "mysql", "com.dnsdock.region": "us2"}, nil, `
			mysql.us2 byImage 172.17.0.2 172.18.0.2
			master.mysql.us2 byImage 172.17.0.2 172.18.0.2`},
		{"dnsdock: no tags", "", "", labels{"com.dnsdock.tags": "", "com.dnsdock.image": "mysql"}, nil, `
			mysql byImage 172.17.0.2 172.18.0.2`},
		{"dnsdock: variables", "", "", labels{"com.dnsdock.name": "a", "com.dnsdock.image": "b", "com.dnsdock.region": "c"},
			[]string{"DNSDOCK_NAME=master", "DNSDOCK_IMAGE=mysql", "SERVICE_REGION=us2"}, `
			mysql.us2 byImage 172.17.0.2 172.18.0.2
			master.mysql.us2 byImage 172.17.0.2 172.18.0.2`},
		{"dnsdock: registrator's variables", "", "", nil, []string{"SERVICE_NAME=mysql", "SERVICE_TAGS=master,x"}, `
			mysql byImage 172.17.0.2 172.18.0.2
			master.mysql byImage 172.17.0.2 172.18.0.2`},
		{"dnsdock: aliases", "", "", labels{"com.dnsdock.alias": "db.docker, SQL.docker.,db.example.com,docker,example.com"}, nil, `
			db byOtherLabel 172.17.0.2 172.18.0.2
			sql byOtherLabel 172.17.0.2 172.18.0.2
			db.example.com denied: it lies outside the served domains, docker
			docker denied: a whole domain is nobody's
			example.com denied: it lies outside the served domains, docker`},
		{"dnsdock: alias variable", "", "", labels{"com.dnsdock.alias": "gone.docker"}, []string{"DNSDOCK_ALIAS=db.docker"}, `
			db byOtherLabel 172.17.0.2 172.18.0.2`},
		{"dnsdock: ip_addr", "", "", labels{"com.dnsdock.alias": "db.docker", "com.dnsdock.ip_addr": "172.17.0.99", "com.dnsdock.image": "mysql", "com.dnsdock.name": "m"}, nil, `
			db byOtherLabel 172.17.0.99
			mysql byImage 172.17.0.99
			m.mysql byImage 172.17.0.99`},
		{"dnsdock: ip_addr out of reach", "", "", labels{"com.dnsdock.alias": "db.docker"}, []string{"DNSDOCK_IPADDRESS=192.0.2.1"}, `
			db.docker denied: the address that its labels choose cannot be reached from here`},
		{"dnsdock: ip_addr that is none", "", "", labels{"com.dnsdock.alias": "db.docker", "com.dnsdock.ip_addr": "all"}, nil, `
			db byOtherLabel 172.17.0.2 172.18.0.2`},
		{"dnsdock: prefix", "", "", labels{"com.dnsdock.alias": "db.docker", "com.dnsdock.prefix": "172.18."}, nil, `
			db byOtherLabel 172.18.0.2`},
		{"dnsdock: prefix variable", "", "", labels{"com.dnsdock.alias": "db.docker", "com.dnsdock.prefix": "172.18."}, []string{"DNSDOCK_PREFIX=172.17"}, `
			db byOtherLabel 172.17.0.2`},
		{"skydock: no environment of its own", "crosbymichael/redis:2", "", labels{"com.dnsdock.image": "x"}, nil, `
			x byImage 172.17.0.2 172.18.0.2
			web.x byImage 172.17.0.2 172.18.0.2
			redis.dev byImage 172.17.0.2 172.18.0.2
			web.redis.dev byImage 172.17.0.2 172.18.0.2`},
		{"docker-spy: hostname and domainname", "", "h docker", nil, nil, `
			h byOtherLabel 172.17.0.2 172.18.0.2`},
		{"docker-spy: hostname in one", "", "a.b.docker", nil, nil, `
			a.b byOtherLabel 172.17.0.2 172.18.0.2`},
		{"docker-spy: hostname alone", "", "h", nil, nil, ``},
		{"docker-spy: another domain", "", "h example.com", nil, nil, `
			h.example.com denied: it lies outside the served domains, docker`},
		{"OrbStack: domains", "", "", labels{"dev.orbstack.domains": "foo.docker,*.bar.docker,foo.local,*.docker,*"}, nil, `
			foo byOtherLabel 172.17.0.2 172.18.0.2
			bar byWildcard 172.17.0.2 172.18.0.2
			foo.local denied: it lies outside the served domains, docker
			"*.docker" denied: a whole domain is nobody's
			"*" denied: it lies outside the served domains, docker`},
		{"dns-proxy-server: HOSTNAMES", "", "", nil, []string{"HOSTNAMES=a.docker,.b.docker,/c.*/", "XHOSTNAMES=d.docker"}, `
			a byOtherLabel 172.17.0.2 172.18.0.2
			b byWildcard 172.17.0.2 172.18.0.2
			"/c.*/" denied: it lies outside the served domains, docker`},
		{"dns-proxy-server: network", "", "", labels{"dps.network": "front"}, []string{"HOSTNAMES=a.docker"}, `
			a byOtherLabel 172.18.0.2`},
		{"dns-proxy-server: no such network", "", "", labels{"dps.network": "none"}, []string{"HOSTNAMES=a.docker"}, `
			a byOtherLabel 172.17.0.2 172.18.0.2`},
		{"dns-proxy-server: enabled", "", "", labels{"dps.container.enabled": "true"}, []string{"HOSTNAMES=a.docker"}, `
			a byOtherLabel 172.17.0.2 172.18.0.2`},
		{"a long list", "", "", labels{"com.dnsdock.alias": "a0.docker" + strings.Repeat(",a1.docker", 100) + ",a2.docker"}, nil, `
			a0 byOtherLabel 172.17.0.2 172.18.0.2
			` + strings.Repeat("a1 byOtherLabel 172.17.0.2 172.18.0.2\n", maxListed-1)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host, domain, _ := strings.Cut(tt.host, " ")
			at := everywhere
			at.reachable = func(a netip.Addr) bool { return a.Is4() && strings.HasPrefix(a.String(), "172.") }
			c := engine.Container{ID: webID, Name: "web", Image: tt.image, Hostname: host, Domainname: domain, Labels: tt.labels, Env: tt.env,
				Endpoints: []engine.Attachment{on("back", "172.17.0.2"), on("front", "172.18.0.2")}}
			var got []string
			own := sorted(claimsText(claims(at, engine.Container{ID: webID, Name: "web", Endpoints: c.Endpoints})))
			for _, line := range sorted(claimsText(claims(at, c))) {
				if len(own) > 0 && line == own[0] {
					own = own[1:]
				} else {
					got = append(got, line)
				}
			}
			if len(own) > 0 {
				t.Errorf("its own names are gone: %v", own)
			}
			if d := cmp.Diff(sorted(tt.want), got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// TestHide: a container hides itself by any tool's word for it, and by no other.
func TestHide(t *testing.T) {
	for _, tt := range []struct {
		label, env string
		hidden     bool
	}{
		{"fairlead.ignore=true", "", true},
		{"fairlead.ignore=1", "", true},
		{"fairlead.ignore=false", "", false},
		{"fairlead.ignore=", "", false},
		{"com.dnsdock.ignore=", "", true},
		{"com.dnsdock.ignore=false", "", true}, // dnsdock does not read the value
		{"", "DNSDOCK_IGNORE=1", true},
		{"", "DNSDOCK_IGNORE", true},
		{"", "SERVICE_IGNORE=", true},
		{"", "DNSDOCK_IGNORED=1", false},
		{"dps.container.enabled=false", "", true},
		{"dps.container.enabled=true", "", false},
		{"dps.container.enabled=", "", false},
	} {
		k, v, _ := strings.Cut(tt.label, "=")
		c := engine.Container{ID: webID, Name: "web", Image: "nginx", Labels: map[string]string{k: v}, Env: []string{tt.env}, Endpoints: []engine.Attachment{on("back", "172.17.0.2")}}
		if hidden := len(claims(everywhere, c)) == 0; hidden != tt.hidden {
			t.Errorf("%s%s: hidden is %v", tt.label, tt.env, hidden)
		}
	}
}

// TestServices: how ports get their names.
func TestServices(t *testing.T) {
	for _, tt := range []struct {
		name   string
		ports  []engine.Port
		labels map[string]string
		env    []string
		want   string
	}{
		{"usual", []engine.Port{{Number: 80, Proto: "tcp"}, {Number: 53, Proto: "udp"}, {Number: 4000, Proto: "tcp"}}, nil, nil,
			"_53._udp=53 _domain._udp=53 _80._tcp=80 _http._tcp=80 _4000._tcp=4000"},
		{"our label", []engine.Port{{Number: 80, Proto: "tcp"}}, map[string]string{"fairlead.services": "Web=80, grpc=9000/tcp,q=53/udp,x=0,y=99999,z,=1,w=2/icmp"}, nil,
			"_1._tcp=1 _53._udp=53 _q._udp=53 _80._tcp=80 _web._tcp=80 _9000._tcp=9000 _grpc._tcp=9000"},
		{"no names", []engine.Port{{Number: 4000, Proto: "tcp"}}, map[string]string{"fairlead.services": "a.b=4000,_x=4001,123=4002,more-than-fifteen=4003"}, nil,
			"_4000._tcp=4000 _4001._tcp=4001 _4002._tcp=4002 _4003._tcp=4003"},
		{"registrator's variable", []engine.Port{{Number: 80, Proto: "tcp"}}, map[string]string{"SERVICE_80_NAME": "label"}, []string{"SERVICE_80_NAME=api", "SERVICE_81_NAME=no"},
			"_80._tcp=80 _api._tcp=80"},
		{"registrator's label", []engine.Port{{Number: 80, Proto: "tcp"}}, map[string]string{"SERVICE_80_NAME": "api"}, nil,
			"_80._tcp=80 _api._tcp=80"},
		{"OrbStack's ports", nil, map[string]string{"dev.orbstack.http-port": "8000", "dev.orbstack.https-port": "8443"}, nil,
			"_8000._tcp=8000 _http._tcp=8000 _8443._tcp=8443 _https._tcp=8443"},
		{"OrbStack's ports, hostile", nil, map[string]string{"dev.orbstack.http-port": "-1", "dev.orbstack.https-port": "70000"}, nil, ""},
	} {
		c := engine.Container{Ports: tt.ports, Labels: tt.labels, Env: tt.env}
		var got []string
		for _, s := range services(c, otherTools(c)) {
			got = append(got, s.name+"="+strconv.Itoa(int(s.port)))
		}
		if d := cmp.Diff(tt.want, strings.Join(got, " ")); d != "" {
			t.Errorf("%s: -want +got:\n%s", tt.name, d)
		}
	}
	var many []engine.Port
	for n := range uint16(1000) {
		many = append(many, engine.Port{Number: n + 1, Proto: "tcp"})
	}
	if got := services(engine.Container{Ports: many}, otherNames{}); len(got) == 0 || len(got) > 2*maxServices {
		t.Errorf("%d services of a container that exposes 1000 ports", len(got))
	}
}

// TestTTL: fairlead's label goes first, and nobody gets more than 5 s.
func TestTTL(t *testing.T) {
	for _, tt := range []struct{ ours, label, env, want string }{
		{"", "", "", "0s"}, {"3", "2", "1", "3s"}, {"", "2", "", "2s"}, {"", "2", "1", "1s"}, {"3600", "", "", "5s"},
		{"0", "", "", "1ns"}, {"-1", "", "", "0s"}, {"x", "", "4", "4s"}, {"99999999999999999999", "", "", "0s"},
	} {
		c := engine.Container{Labels: map[string]string{"fairlead.ttl": tt.ours, "com.dnsdock.ttl": tt.label}, Env: []string{"DNSDOCK_TTL=" + tt.env}}
		if got := cardOf(everywhere, c, otherTools(c)).ttl.String(); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}
