package platform

import (
	"errors"
	"strings"
)

// wsl recognises WSL2's distributions (learn.microsoft.com/windows/wsl). Whether one runs an engine is not in the files, and
// asking could start it; so how to name it is said when nothing else was found.
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
	err := errors.New("an engine inside a WSL2 distribution is spoken to only where it is named")
	hint := "take the distribution's name from wsl --list, then --engine NAME=wsl://DISTRIBUTION"
	if b, ok := s.read(s.base, ".wslconfig"); ok && strings.EqualFold(parsePairs(string(b))["wsl2.networkingmode"], "mirrored") {
		hint += "; mirrored networking leaves its VM without an address of its own, so packets go by the tunnel, which needs wintun.dll"
	}
	s.problem(disk, err, hint)
}
