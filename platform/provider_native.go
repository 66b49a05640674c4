package platform

import (
	"slices"
	"strings"
)

// native is the endpoint that docker speaks to when nothing is set. On Linux it is this host's own engine as a rule; elsewhere
// a product has made it, which is known when it is a link to that product's own socket.
func native(s *search) {
	e := Endpoint{Name: "default", URL: "unix:///var/run/docker.sock", Why: "docker's default socket"}
	if s.GOOS == "windows" {
		e.URL, e.Why = "npipe:////./pipe/docker_engine", "docker's default pipe"
		// Docker Desktop and Podman serve this pipe beside one of their own, and no link tells.
		if slices.ContainsFunc(s.found, func(f finding) bool { return strings.HasPrefix(f.URL, "npipe:") && f.URL != e.URL }) {
			return
		}
	}
	n := len(s.found)
	s.add(e.URL, e, false)
	if len(s.found) > n {
		s.found[n].chosen = !s.decided
	}
}
