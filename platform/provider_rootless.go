package platform

import (
	"path"
	"strconv"
)

// rootless is a user's own engine on Linux (docs.docker.com/engine/security/rootless). Its networks are in a namespace.
func rootless(s *search) {
	if s.GOOS != "linux" {
		return
	}
	e := Endpoint{Name: "rootless", Reach: Tunnel, Why: "a rootless engine's networks are in a namespace of its own"}
	for _, at := range []string{path.Join(s.runtimeDir(), "docker.sock"), s.base.path(".docker/run/docker.sock")} {
		e.URL = "unix://" + at
		s.add(at, e, false)
	}
}

// runtimeDir is XDG_RUNTIME_DIR, which systemd makes from the user's number (pam_systemd(8)).
func (s *search) runtimeDir() string {
	if dir := s.env("XDG_RUNTIME_DIR"); dir != "" {
		return dir
	}
	return "/run/user/" + strconv.Itoa(s.home.UID)
}
