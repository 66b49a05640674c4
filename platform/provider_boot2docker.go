package platform

import (
	"cmp"
	"fmt"
	"net/netip"
)

// boot2docker reads boot2docker's profile (github.com/boot2docker/boot2docker-cli, config.go). The VM itself is asked for its
// address there; here it is the first that its DHCP server gives.
func boot2docker(s *search) {
	dir, ok := s.store("BOOT2DOCKER_DIR", ".boot2docker")
	if !ok {
		return
	}
	at, text := dir.path("profile"), []byte(nil)
	if file := s.env("BOOT2DOCKER_PROFILE"); file != "" {
		at = file
		parent, name := splitPath(file)
		if f, ok := s.open(parent); ok {
			if text, ok = s.read(f, name); !ok {
				return
			}
		}
	} else if b, ok := s.read(dir, "profile"); ok {
		text = b
	}
	vm, addr, err := parseBoot2docker(string(text))
	if err != nil {
		s.problem(at, err, byHand)
		return
	}
	certs := dir.sub("certs", vm)
	if err := certs.certs(); err != nil {
		s.problem(certs.path(""), err, fmt.Sprintf("boot2docker up writes them; before 1.3: --engine boot2docker=tcp://%v:2375", addr))
		return
	}
	s.add(at, Endpoint{
		Name: "boot2docker", URL: "tcp://" + netip.AddrPortFrom(addr, 2376).String(), Certs: certs.path(""), VM: addr, Renew: "boot2docker up",
		Why: fmt.Sprintf("boot2docker's %.40s: the first address of its network", printable(vm)),
	}, false)
}

func parseBoot2docker(text string) (vm string, addr netip.Addr, err error) {
	p := parsePairs(text)
	lower := cmp.Or(p["lowerip"], "192.168.59.103")
	if addr, err = netip.ParseAddr(lower); err != nil || !addr.Is4() || addr.IsUnspecified() {
		return "", netip.Addr{}, fmt.Errorf("LowerIP %.60q is no IPv4 address", lower)
	}
	return cmp.Or(p["vm"], "boot2docker-vm"), addr, nil
}
