package platform

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// dvm reads the settings of dvm (github.com/fnichol/dvm, bin/dvm). They are a shell script, which is read, never run.
func dvm(s *search) {
	dir, ok := folder{}, false
	if file := s.env("VAGRANTFILE"); file != "" {
		parent, _ := splitPath(file)
		dir, ok = s.open(parent)
	} else {
		dir, ok = s.inHome(".dvm")
	}
	if !ok {
		return
	}
	conf, hasConf := s.read(dir, "dvm.conf")
	vagrantfile, hasVagrantfile := s.read(dir, "Vagrantfile")
	if !hasConf && !(hasVagrantfile && strings.Contains(string(vagrantfile), "DOCKER_IP")) {
		return
	}
	at, err := parseDVM(string(conf), string(vagrantfile))
	if err != nil {
		s.problem(dir.path("dvm.conf"), err, "dvm env, and name its DOCKER_HOST with --engine")
		return
	}
	s.add(dir.path("dvm.conf"), Endpoint{
		Name: "dvm", URL: "tcp://" + at.String(), VM: at.Addr(), Why: "dvm's VM has the address of its settings",
	}, false)
}

var (
	dvmDefault = regexp.MustCompile(`ENV\.fetch\("(DOCKER_IP|DOCKER_PORT)", *"([0-9.]+)"\)`)
	tcpArg     = regexp.MustCompile(`tcp://[^\s:"']*:([0-9]+)`)
)

// parseDVM finds where dvm's engine listens, from dvm.conf and the defaults in its Vagrantfile (port 4243 up to 0.3).
func parseDVM(conf, vagrantfile string) (netip.AddrPort, error) {
	v := map[string]string{"DOCKER_IP": "192.168.42.43", "DOCKER_PORT": "2375"}
	for _, m := range dvmDefault.FindAllStringSubmatch(vagrantfile, -1) {
		v[m[1]] = m[2]
	}
	for key, value := range parseExports(conf) {
		v[key] = cmp.Or(value, v[key]) // as ${X:-default}
	}
	// The engine's own arguments beat DOCKER_PORT, which they may mention.
	if m := tcpArg.FindAllStringSubmatch(v["DOCKER_ARGS"], -1); m != nil {
		v["DOCKER_PORT"] = m[len(m)-1][1]
	}
	addr, err := netip.ParseAddr(v["DOCKER_IP"])
	if err != nil || addr.IsUnspecified() || addr.Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("DOCKER_IP %.60q is no address", v["DOCKER_IP"])
	}
	port, err := strconv.ParseUint(v["DOCKER_PORT"], 10, 16)
	if err != nil || port == 0 {
		return netip.AddrPort{}, fmt.Errorf("DOCKER_PORT %.60q is no port", v["DOCKER_PORT"])
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), nil
}

// parseExports reads the assignments of a shell script: "export X=v", "X=v" and fish's "set -x X v", a line each. Nothing is
// run or expanded: a value keeps its $ and backquotes. The last one wins.
func parseExports(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		key, value, ok := "", "", false
		if rest, fish := strings.CutPrefix(line, "set -x "); fish {
			key, value, ok = strings.Cut(strings.TrimSpace(rest), " ")
		} else {
			key, value, ok = strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "export ")), "=")
		}
		if !ok || key == "" || strings.Trim(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") != "" {
			continue
		}
		out[key] = unquote(strings.TrimSpace(value), "#; \t")
	}
	return out
}

// splitPath cuts a path of any OS at its last separator.
func splitPath(file string) (dir, name string) {
	i := strings.LastIndexAny(file, `/\`)
	return file[:i+1], file[i+1:]
}
