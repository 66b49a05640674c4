package agent

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/agent/engine"
)

// tool is whose labels and variables ask for something.
type tool int

const (
	dnsdock tool = iota
	dockerSpy
	orbStack
	dnsProxyServer
)

// skydockEnv is skydock's usual environment, the last label of its names.
const skydockEnv = "dev"

// otherNames are what a container asks other tools for.
type otherNames struct {
	hide     bool
	ttl      time.Duration
	names    []otherName
	images   [][]string // "web.nginx": parts of names that all who ask for them share
	skydock  [][]string // the same
	services map[engine.Port]string

	addr    netip.Addr // what dnsdock's names answer instead of the container's own
	prefix  string     // what the text of an address begins with that dnsdock's names answer
	network string     // the one that dns-proxy-server's names answer from
}

// otherName is a whole name, with its domain. An empty group is that of the container.
type otherName struct {
	tool  tool
	name  string
	group string
}

// otherTools reads the labels and variables of dnsdock, registrator, skydock, docker-spy, OrbStack and dns-proxy-server.
// docs/naming.md has a table for each, with its source. It is pure.
func otherTools(c engine.Container) otherNames {
	var env map[string]string
	if len(c.Env) > 0 {
		env = make(map[string]string, len(c.Env))
	}
	for _, v := range c.Env {
		k, v, _ := strings.Cut(v, "=")
		env[strings.TrimSpace(k)] = strings.TrimSpace(v)
	}
	o := otherNames{services: map[engine.Port]string{}}
	o.dnsdock(c, env)
	o.registrator(c, env)

	hostname := c.Hostname
	if c.Domainname != "" {
		hostname += "." + c.Domainname
	}
	if strings.Contains(hostname, ".") {
		o.names = append(o.names, otherName{tool: dockerSpy, name: hostname})
	}

	for _, n := range listed(c.Labels["dev.orbstack.domains"]) {
		o.names = append(o.names, otherName{tool: orbStack, name: n})
	}
	for _, of := range [...]struct{ key, service string }{{"dev.orbstack.http-port", "http"}, {"dev.orbstack.https-port", "https"}} {
		value, set := c.Labels[of.key]
		if !set {
			continue
		}
		if n, err := strconv.ParseUint(value, 10, 16); err == nil && n > 0 {
			o.services[engine.Port{Number: uint16(n), Proto: "tcp"}] = of.service
		}
	}

	if enabled, set := c.Labels["dps.container.enabled"]; set && strings.EqualFold(enabled, "false") {
		o.hide = true
	}
	o.network = c.Labels["dps.network"]
	for _, n := range listed(env["HOSTNAMES"]) {
		o.names = append(o.names, otherName{tool: dnsProxyServer, name: n})
	}
	return o
}

// dnsdockKeys are dnsdock's labels and variables in the order in which they count.
var dnsdockKeys = []string{"com.dnsdock.ignore", "DNSDOCK_IGNORE", "SERVICE_IGNORE", "com.dnsdock.name", "com.dnsdock.tags", "DNSDOCK_NAME", "SERVICE_TAGS",
	"com.dnsdock.image", "com.dnsdock.region", "SERVICE_NAME", "DNSDOCK_IMAGE", "SERVICE_REGION", "com.dnsdock.alias", "DNSDOCK_ALIAS",
	"com.dnsdock.ttl", "DNSDOCK_TTL", "com.dnsdock.ip_addr", "DNSDOCK_IPADDRESS", "com.dnsdock.prefix", "DNSDOCK_PREFIX"}

// dnsdock reads its labels, then its variables, which count more. Where dnsdock left to chance which of two goes first, the
// later one here does. It also answered "nginx" for all containers of an image; here that is for images that somebody has named
// for it, as else the name of a container that stopped would be answered with another's address.
func (o *otherNames) dnsdock(c engine.Container, env map[string]string) {
	name, image, aliases := c.Name, imageName(c.Image), ""
	named := false // the image
	for _, key := range dnsdockKeys {
		values, label := env, strings.HasPrefix(key, "com.")
		if label {
			values = c.Labels
		}
		v, set := values[key]
		if !set {
			continue
		}
		word := key[strings.IndexByte(key, '_')+1:]
		if label {
			word = strings.ToUpper(strings.TrimPrefix(key, "com.dnsdock."))
		}
		switch word {
		case "IGNORE":
			o.hide = true // whatever it says
		case "NAME", "IMAGE":
			if word == "IMAGE" || key == "SERVICE_NAME" {
				image, named = v, v != ""
			} else {
				name = v
			}
		case "TAGS":
			name, _, _ = strings.Cut(v, ",")
		case "REGION":
			if v != "" {
				image, named = image+"."+v, true
			}
		case "ALIAS":
			aliases = v
		case "TTL":
			if ttl, ok := seconds(v); ok {
				o.ttl = ttl
			}
		case "IP_ADDR", "IPADDRESS":
			if a, err := netip.ParseAddr(v); err == nil {
				o.addr = a.Unmap()
			}
		case "PREFIX":
			o.prefix = v
		}
	}
	for _, n := range listed(aliases) {
		o.names = append(o.names, otherName{tool: dnsdock, name: n, group: "dnsdock"})
	}
	switch {
	case image != "" && name != "":
		o.images = append(o.images, []string{name, image})
	case image == "" && name != "" && name != c.Name:
		o.images = append(o.images, []string{name})
	}
	if named {
		o.images = append(o.images, []string{image})
	}
	if service := imageName(c.Image); service != "" {
		o.skydock = [][]string{{c.Name, service, skydockEnv}, {service, skydockEnv}}
	}
}

// registrator reads the names of ports: SERVICE_80_NAME, a variable or a label.
func (o *otherNames) registrator(c engine.Container, env map[string]string) {
	for _, values := range []map[string]string{c.Labels, env} {
		for _, p := range c.Ports[:min(len(c.Ports), maxServices)] {
			if name := values["SERVICE_"+strconv.Itoa(int(p.Number))+"_NAME"]; name != "" {
				o.services[p] = name
			}
		}
	}
}

// choose gives the addresses that the names of a tool answer.
func (o *otherNames) choose(at place, c engine.Container, t tool, all []netip.Addr) []netip.Addr {
	switch {
	case t == dnsdock && o.addr.IsValid():
		all = nil
		if at.reachable(o.addr) || o.addr == at.vm {
			all = []netip.Addr{o.addr}
		}
	case t == dnsdock && o.prefix != "":
		all = slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return !strings.HasPrefix(a.String(), o.prefix) })
	case t == dnsProxyServer || t == dockerSpy:
		for _, e := range c.Endpoints {
			if e.Network == o.network {
				return slices.DeleteFunc(slices.Clone(e.Addrs), func(a netip.Addr) bool { return !at.reachable(a) })
			}
		}
	}
	return all
}

// imageName is the last part of an image's name without tag and digest. One that is only an id has none.
func imageName(image string) string {
	image = image[strings.LastIndexByte(image, '/')+1:]
	image, _, _ = strings.Cut(image, "@")
	image, _, _ = strings.Cut(image, ":")
	if image == "sha256" || len(image) >= 12 && strings.Trim(image, "0123456789abcdef") == "" {
		return ""
	}
	return image
}
