package platform

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// vagrant reads Vagrant's list of machines (github.com/hashicorp/vagrant, lib/vagrant/machine_index.rb) and the Vagrantfiles
// in the home. Those are Ruby, which is not run: only what stands there literally is known, and only of a project that has
// one private address and one TCP port of an engine without TLS.
func vagrant(s *search) {
	dir, ok := s.store("VAGRANT_HOME", ".vagrant.d")
	if !ok {
		return
	}
	index := dir.sub("data/machine-index")
	b, ok := s.read(index, "index")
	if !ok {
		return
	}
	machines, err := parseVagrantIndex(b)
	if err != nil {
		s.problem(index.path("index"), err, "vagrant global-status --prune")
		return
	}
	const hint = "vagrant ssh -c 'hostname -I' tells the address; --engine NAME=tcp://ADDRESS:2375"
	for _, m := range machines {
		if m.State != "running" {
			continue
		}
		project, ok := s.relHome(m.VagrantfilePath)
		if !ok {
			continue // another user's, or on another disk
		}
		name := m.VagrantfileName
		if name == "" {
			name = "Vagrantfile"
		}
		at := project.path(name)
		text, ok := s.read(project, name)
		if !ok || !strings.Contains(strings.ToLower(string(text)), "docker") || strings.Contains(string(text), "DOCKER_IP") {
			continue // no engine, or dvm's
		}
		where, err := parseVagrantfile(string(text))
		if err != nil {
			s.problem(at, fmt.Errorf("the engine of machine %.60q cannot be known without running vagrant: %w", m.Name, err), hint)
			continue
		}
		label := m.Name
		if label == "default" {
			_, label = splitPath(project.path(""))
		}
		s.add(at, Endpoint{Name: label, URL: "tcp://" + where.String(), VM: where.Addr(), Why: "the private address and the port stand in the Vagrantfile"}, false)
	}
}

// relHome is the folder in the home that an absolute path of a store means.
func (s *search) relHome(dir string) (folder, bool) {
	home := s.home.Dir
	if s.GOOS == "windows" { // Ruby writes C:/Users
		dir, home = strings.ReplaceAll(dir, `\`, "/"), strings.ReplaceAll(home, `\`, "/")
		if len(dir) >= len(home) && strings.EqualFold(dir[:len(home)], home) {
			home = dir[:len(home)]
		}
	}
	if !within(dir, home) {
		return folder{}, false
	}
	return s.inHome(dir[len(strings.TrimSuffix(home, "/"))+1:])
}

type vagrantMachine struct {
	Name            string `json:"name"`
	Provider        string `json:"provider"`
	State           string `json:"state"`
	VagrantfileName string `json:"-"`
	VagrantfilePath string `json:"vagrantfile_path"` // the project's folder

	Names any `json:"vagrantfile_name"` // null, a name or a list of them
}

// parseVagrantIndex gives the machines in the order of their ids.
func parseVagrantIndex(b []byte) ([]vagrantMachine, error) {
	index, err := decodeJSON[struct {
		Version  any                       `json:"version"`
		Machines map[string]vagrantMachine `json:"machines"`
	}](b)
	if err != nil {
		return nil, err
	}
	if v := fmt.Sprint(index.Version); v != "1" {
		return nil, fmt.Errorf("version %.20q of the list is not known", v)
	}
	if len(index.Machines) > maxEntries {
		return nil, fmt.Errorf("more than %d machines", maxEntries)
	}
	var out []vagrantMachine
	for _, id := range slices.Sorted(maps.Keys(index.Machines)) {
		m := index.Machines[id]
		switch names := m.Names.(type) {
		case string:
			m.VagrantfileName = names
		case []any:
			if len(names) > 0 {
				m.VagrantfileName, _ = names[0].(string)
			}
		}
		if strings.ContainsAny(m.VagrantfileName, `/\`) {
			continue
		}
		out = append(out, m)
	}
	return out, nil
}

var (
	privateNetwork = regexp.MustCompile(`private_network["']?\s*,.*?\bip["']?\s*(?::|=>)\s*["']([0-9.]+)["']`)
	engineListens  = regexp.MustCompile(`tcp://0\.0\.0\.0:([0-9]+)`)
)

// parseVagrantfile finds where the one engine of a Vagrantfile listens.
func parseVagrantfile(text string) (netip.AddrPort, error) {
	addrs, ports, tls := map[netip.Addr]bool{}, map[uint16]bool{}, false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for _, m := range privateNetwork.FindAllStringSubmatch(line, -1) {
			if a, err := netip.ParseAddr(m[1]); err == nil && !a.IsUnspecified() {
				addrs[a] = true
			}
		}
		for _, m := range engineListens.FindAllStringSubmatch(line, -1) {
			if p, err := strconv.ParseUint(m[1], 10, 16); err == nil && p != 0 {
				ports[uint16(p)] = true
			}
		}
		tls = tls || strings.Contains(line, "--tls")
	}
	switch {
	case len(addrs) != 1:
		return netip.AddrPort{}, fmt.Errorf("the Vagrantfile has %d private addresses", len(addrs))
	case len(ports) != 1:
		return netip.AddrPort{}, fmt.Errorf("the Vagrantfile has %d ports of engines", len(ports))
	case tls || ports[2376]:
		return netip.AddrPort{}, errors.New("its engine speaks TLS, and where the certificates are is not in the Vagrantfile")
	}
	return netip.AddrPortFrom(slices.Collect(maps.Keys(addrs))[0], slices.Collect(maps.Keys(ports))[0]), nil
}
