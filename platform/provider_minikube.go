package platform

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// minikube reads minikube's machines, which are libmachine's, and their profiles (github.com/kubernetes/minikube,
// pkg/minikube/localpath). Only those whose container runtime is docker have an engine.
func minikube(s *search) {
	dir, ok := s.store("MINIKUBE_HOME", ".minikube")
	if !ok {
		return
	}
	if told := s.env("MINIKUBE_HOME"); told != "" && path.Base(strings.ReplaceAll(told, `\`, "/")) != ".minikube" {
		if dir = dir.sub(".minikube"); !s.there(dir) {
			return
		}
	}
	for _, name := range s.list(dir.sub("machines")) {
		b, ok := s.read(dir.sub("machines", name), "config.json")
		if !ok {
			continue
		}
		at := dir.sub("machines", name).path("config.json")
		m, err := parseMachine(b)
		if err != nil {
			s.problem(at, err, "minikube profile list")
			continue
		}
		if b, ok := s.read(dir.sub("profiles", name), "config.json"); ok {
			runtime, err := parseMinikubeProfile(b)
			if err != nil {
				s.problem(dir.sub("profiles", name).path("config.json"), err, "minikube profile list")
				continue
			}
			if runtime != "" && runtime != "docker" {
				continue
			}
		}
		switch {
		case m.driver == "docker" || m.driver == "podman":
			s.problem(at, errors.New("the port of a node that is a container is not in its files"), "minikube -p "+word(name)+" docker-env, and name its DOCKER_HOST with --engine")
			continue
		case m.url() == "":
			s.problem(at, errors.New("the machine has no address"), "minikube start -p "+word(name))
			continue
		}
		if err := dir.sub("certs").certs(); err != nil {
			s.problem(dir.sub("certs").path(""), err, "minikube start -p "+word(name))
			continue
		}
		s.add(at, Endpoint{
			Name: name, URL: m.url(), Certs: dir.sub("certs").path(""), VM: m.addr, Renew: "minikube start -p " + word(name),
			Why: fmt.Sprintf("minikube's %s, driver %.40s: its address at the last start", name, m.driver),
		}, false)
	}
}

func parseMinikubeProfile(b []byte) (runtime string, err error) {
	c, err := decodeJSON[struct {
		KubernetesConfig struct{ ContainerRuntime string }
	}](b)
	return c.KubernetesConfig.ContainerRuntime, err
}
