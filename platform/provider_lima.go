package platform

import "strings"

// lima looks for the sockets that Lima's docker templates forward (github.com/lima-vm/lima, templates/docker.yaml). Its
// files do not tell the VM's address.
func lima(s *search) {
	if s.GOOS == "windows" {
		return
	}
	dir, ok := s.store("LIMA_HOME", ".lima")
	if !ok {
		return
	}
	for _, name := range s.list(dir) {
		if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
			continue
		}
		at := dir.sub(name, "sock").path("docker.sock")
		s.add(at, Endpoint{
			Name: "lima-" + name, URL: "unix://" + at, Reach: Tunnel,
			Why: "Lima's " + name + ": if its VM has an address (vzNAT, socket_vmnet), --gateway makes use of it",
		}, false)
	}
}
