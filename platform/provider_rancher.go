package platform

// rancherDesktop looks for Rancher Desktop's socket (docs.rancherdesktop.io). On Windows it has docker's default pipe, and
// its settings tell whether it serves it.
func rancherDesktop(s *search) {
	e := Endpoint{Name: "rancher-desktop", Reach: Tunnel, Why: "Rancher Desktop's VM has no address that this host reaches"}
	if s.GOOS != "windows" {
		at := s.base.path(".rd/docker.sock")
		e.URL = "unix://" + at
		s.add(at, e, false)
		return
	}
	dir := s.base.sub("AppData/Roaming/rancher-desktop")
	b, ok := s.read(dir, "settings.json")
	if !ok {
		return
	}
	engine, err := parseRancher(b)
	if err != nil {
		s.problem(dir.path("settings.json"), err, "rdctl list-settings")
		return
	}
	for _, f := range s.found {
		if f.Name == desktop.Name && f.URL != "npipe:////./pipe/docker_engine" {
			return // Docker Desktop runs, the default pipe is its
		}
	}
	if engine == "moby" {
		e.URL = "npipe:////./pipe/docker_engine"
		s.add(dir.path("settings.json"), e, false)
	}
}

func parseRancher(b []byte) (engine string, err error) {
	c, err := decodeJSON[struct {
		ContainerEngine struct {
			Name string `json:"name"`
		} `json:"containerEngine"`
		Kubernetes struct {
			ContainerEngine string `json:"containerEngine"` // up to 1.8
		} `json:"kubernetes"`
	}](b)
	if engine = c.ContainerEngine.Name; engine == "" {
		engine = c.Kubernetes.ContainerEngine
	}
	return engine, err
}
