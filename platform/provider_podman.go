package platform

import (
	"errors"
	"path"
	"strings"
)

// podmanService is root's own Podman on Linux (podman-system-service(1)).
func podmanService(s *search) {
	if s.GOOS == "linux" {
		e := Endpoint{Name: "podman", URL: "unix:///run/podman/podman.sock", Why: "Podman's API service on this host"}
		s.add(e.URL, e, false)
	}
}

// podman looks for a user's Podman: the service of rootless containers on Linux, and machines (github.com/containers/podman,
// pkg/machine). Their connections are ssh:// ones to the same sockets, so they are not read.
func podman(s *search) {
	if s.GOOS == "linux" {
		at := path.Join(s.runtimeDir(), "podman/podman.sock")
		s.add(at, Endpoint{Name: "podman-rootless", URL: "unix://" + at, Reach: Tunnel, Why: "rootless containers' networks are in a namespace of their own"}, false)
	}
	config := s.base.sub(".config/containers/podman/machine")
	data := s.base.sub(".local/share/containers/podman/machine")
	for _, kind := range s.list(config) { // applehv, libkrun, qemu, wsl, hyperv
		dir := config.sub(kind)
		for _, name := range s.list(dir) {
			if !strings.HasSuffix(name, ".json") {
				continue
			}
			b, ok := s.read(dir, name)
			if !ok {
				continue
			}
			at := dir.path(name)
			m, err := parsePodmanMachine(b)
			if err != nil {
				s.problem(at, err, "podman machine inspect")
				continue
			}
			e := Endpoint{Name: m.Name, Reach: Tunnel, Why: "the VM of Podman's " + m.Name + " has no address that this host reaches"}
			if !m.rootful() {
				e.Why += "; its containers are rootless"
			}
			before := len(s.found)
			if s.GOOS == "windows" {
				pipe := m.Name
				if !strings.HasPrefix(pipe, "podman") {
					pipe = "podman-" + pipe
				}
				e.URL = "npipe:////./pipe/" + pipe
				s.add(at, e, false)
				continue
			}
			tmp := s.env("TMPDIR")
			if s.GOOS == "linux" {
				tmp = s.runtimeDir()
			}
			var sockets []string
			if tmp != "" {
				sockets = append(sockets, path.Join(tmp, "podman", m.Name+"-api.sock"))
			}
			sockets = append(sockets, data.sub(m.Name).path("podman.sock"), data.sub(kind).path("podman.sock"), data.path("podman.sock"))
			for _, socket := range sockets {
				if e.URL = "unix://" + socket; len(s.found) == before {
					s.add(at, e, false)
				}
			}
			if len(s.found) == before && tmp == "" {
				s.problem(at, errors.New("the machine's socket is in its user's TMPDIR, which is not known"), "podman machine inspect tells PodmanSocket; name it with --engine")
			}
		}
	}
}

type podmanMachine struct {
	Name     string
	Rootful  bool // up to 4.x
	HostUser struct{ Rootful bool }
}

func (m podmanMachine) rootful() bool { return m.Rootful || m.HostUser.Rootful }

// parsePodmanMachine reads a machine's own file.
func parsePodmanMachine(b []byte) (podmanMachine, error) {
	m, err := decodeJSON[podmanMachine](b)
	if err == nil && (m.Name == "" || strings.ContainsAny(m.Name, `/\`) || printable(m.Name) != m.Name) {
		err = errors.New("the machine has no usable name")
	}
	return m, err
}
