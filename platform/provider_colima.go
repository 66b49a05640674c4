package platform

import "strings"

// colima reads Colima's profiles (github.com/abiosoft/colima, config/files.go).
func colima(s *search) {
	if s.GOOS == "windows" {
		return
	}
	dir, ok := folder{}, false
	if s.env("COLIMA_HOME") != "" {
		dir, ok = s.store("COLIMA_HOME", "")
	}
	if !ok {
		dir, ok = s.inHome(".colima")
	}
	if !ok && s.env("XDG_CONFIG_HOME") != "" {
		if dir, ok = s.store("XDG_CONFIG_HOME", ""); ok {
			dir = dir.sub("colima")
			ok = s.there(dir)
		}
	}
	if !ok {
		if dir, ok = s.inHome(".config/colima"); !ok {
			return
		}
	}
	s.add(dir.path("docker.sock"), Endpoint{
		Name: "colima", URL: "unix://" + dir.path("docker.sock"), Reach: Tunnel, Why: "Colima up to 0.3.4",
	}, false)
	for _, name := range s.list(dir) {
		profile := dir.sub(name)
		if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || !s.there(profile) {
			continue
		}
		e := Endpoint{Name: "colima-" + name, URL: "unix://" + profile.path("docker.sock"), Reach: Tunnel, Why: "Colima's " + name + ": the VM has no address that this host reaches"}
		if name == "default" {
			e.Name = "colima"
		}
		if b, ok := s.read(profile, "colima.yaml"); ok {
			runtime, address := parseColima(string(b))
			if runtime != "" && runtime != "docker" {
				continue
			}
			if address {
				e.Reach, e.Why = "", "Colima's "+name+": the VM has an address, which colima list tells; --gateway makes use of it"
			}
		}
		s.add(profile.path("docker.sock"), e, false)
	}
}

// parseColima reads a profile's colima.yaml: its runtime, and whether the VM has an address on a network of the host's.
func parseColima(text string) (runtime string, address bool) {
	v := parseScalars(text)
	return v["runtime"], v["network.address"] == "true"
}

// parseScalars reads the plain scalars of a YAML mapping and of the mappings in it, as "key" and "key.key". It knows no
// other YAML: of what it does not understand it makes nothing.
func parseScalars(text string) map[string]string {
	out := map[string]string{}
	section, depth := "", 0 // depth is the indent of the section's own keys, 0 while it is not known
	for line := range strings.Lines(text) {
		body := strings.TrimLeft(strings.TrimRight(line, "\r\n"), " ")
		key, value, ok := strings.Cut(body, ":")
		if !ok || strings.HasPrefix(body, "#") || strings.HasPrefix(body, "-") {
			continue
		}
		key, value = unquote(strings.TrimSpace(key), ""), unquote(strings.TrimSpace(value), "#")
		indent := len(line) - len(strings.TrimLeft(line, " "))
		switch {
		case indent == 0:
			section, depth = key, 0
			out[key] = value
		case depth == 0 || indent == depth:
			depth = indent
			out[section+"."+key] = value
		}
	}
	return out
}
