package platform

// orbStack looks for OrbStack's socket (docs.orbstack.dev/docker).
func orbStack(s *search) {
	if s.GOOS != "darwin" {
		return
	}
	at := s.base.path(".orbstack/run/docker.sock")
	s.add(at, Endpoint{Name: "orbstack", URL: "unix://" + at, Reach: Native, Why: "OrbStack routes to its containers itself"}, false)
}
