package platform

var desktop = Endpoint{Name: "desktop-linux", Reach: Tunnel, Why: "Docker Desktop's VM has no address that this host reaches"}

// dockerDesktop looks for Docker Desktop's socket in a home (docs.docker.com/desktop). The one in ~/Library/Containers of old
// versions is left alone: macOS asks the user before it lets others look there.
func dockerDesktop(s *search) {
	at := map[string]string{"darwin": ".docker/run/docker.sock", "linux": ".docker/desktop/docker.sock"}[s.GOOS]
	if at == "" {
		return
	}
	e := desktop
	e.URL = "unix://" + s.base.path(at)
	s.add(s.base.path(at), e, false)
}

func dockerDesktopPipe(s *search) {
	if s.GOOS == "windows" {
		e := desktop
		e.URL = "npipe:////./pipe/dockerDesktopLinuxEngine"
		s.add(e.URL, e, false)
	}
}
