package platform

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// dockerMachine reads all machines of docker-machine's store (github.com/docker/machine, libmachine/persist/filestore.go).
func dockerMachine(s *search) {
	store, ok := s.store("MACHINE_STORAGE_PATH", ".docker/machine")
	if !ok {
		return
	}
	machines := store.sub("machines")
	for _, name := range s.list(machines) {
		if strings.HasPrefix(name, ".") { // being made or removed
			continue
		}
		dir := machines.sub(name)
		b, ok := s.read(dir, "config.json")
		if !ok {
			continue
		}
		at := dir.path("config.json")
		m, err := parseMachine(b)
		if err != nil {
			s.problem(at, err, "docker-machine inspect "+word(name))
			continue
		}
		e := Endpoint{Name: name, URL: m.url(), VM: m.addr, Renew: "docker-machine regenerate-certs " + word(name), Why: fmt.Sprintf("docker-machine's %s, driver %.40s: its address at the last start", name, m.driver)}
		if e.URL == "" {
			s.problem(at, errors.New("the machine has no address"), "docker-machine start "+word(name))
			continue
		}
		// Each machine has copies of the client's certificates; those of old versions are shared.
		certs := dir
		err = certs.certs()
		if err != nil && store.sub("certs").certs() == nil {
			certs, err = store.sub("certs"), nil
		}
		if err != nil {
			s.problem(dir.path(""), err, e.Renew)
			continue
		}
		e.Certs = certs.path("")
		s.add(at, e, false)
	}
}

// machine is what libmachine's config.json, of any version, tells of the way to a machine.
type machine struct {
	driver string
	addr   netip.Addr // zero: it has none
	port   int        // 0: the usual one
	named  string     // the endpoint of a machine that libmachine did not make
}

func (m machine) url() string {
	if m.addr.IsValid() {
		return "tcp://" + net.JoinHostPort(m.addr.String(), strconv.Itoa(cmp.Or(m.port, 2376)))
	}
	return m.named
}

func parseMachine(b []byte) (machine, error) {
	c, err := decodeJSON[struct {
		DriverName string
		Driver     struct {
			IPAddress  string
			EnginePort int
			URL        any // of driver none: a string, or what net/url makes of one
		}
	}](b)
	m := machine{driver: printable(c.DriverName), port: c.Driver.EnginePort}
	if err != nil {
		return m, err
	}
	if m.port < 0 || m.port > 65535 {
		return m, fmt.Errorf("engine port %d is none", m.port)
	}
	if c.Driver.IPAddress != "" {
		if m.addr, err = netip.ParseAddr(c.Driver.IPAddress); err != nil || m.addr.IsUnspecified() || m.addr.Zone() != "" {
			return machine{}, fmt.Errorf("IPAddress %.60q is no address", c.Driver.IPAddress)
		}
		m.addr = m.addr.Unmap()
	}
	if u, ok := c.Driver.URL.(string); ok {
		m.named = u
	}
	return m, nil
}
