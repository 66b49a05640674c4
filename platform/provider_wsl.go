package platform

import (
	"errors"
	"strings"
)

// wsl recognises WSL2's distributions (learn.microsoft.com/windows/wsl). Whether one runs an engine, and where, only a running
// Windows tells, and only to their user; that is said when nothing else was found.
func wsl(s *search) {
	if s.GOOS != "windows" || len(s.found) > 0 {
		return
	}
	local := s.base.sub("AppData/Local")
	var disk string
	for _, dir := range []folder{local.sub("Packages"), local.sub("wsl")} {
		names, _ := dir.list() // the one of Packages is long, and tells of nothing but distributions here
		for _, name := range names {
			for _, d := range []folder{dir.sub(name), dir.sub(name, "LocalState")} {
				if fi, err := d.root.Stat(d.sub("ext4.vhdx").at); err == nil && fi.Mode().IsRegular() && disk == "" {
					disk = d.path("ext4.vhdx")
				}
			}
		}
	}
	if disk == "" {
		return
	}
	err := errors.New("an engine inside a WSL2 distribution is seen only from its user's session")
	if b, ok := s.read(s.base, ".wslconfig"); ok && strings.EqualFold(parsePairs(string(b))["wsl2.networkingmode"], "mirrored") {
		err = errors.New("an engine inside a WSL2 distribution is seen only from its user's session, and mirrored networking leaves its VM without an address")
	}
	s.problem(disk, err, "let dockerd listen on tcp://127.0.0.1:2375 in the distribution, then --engine wsl=tcp://127.0.0.1:2375")
}
