package platform

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// environment is what DOCKER_HOST and its companions name (docs.docker.com/reference/cli/docker/#environment-variables).
func environment(s *search) {
	host := s.env("DOCKER_HOST")
	if host == "" {
		return
	}
	s.decided = true
	e := Endpoint{Name: "default", URL: host, Why: "DOCKER_HOST names it"}
	if s.env("DOCKER_TLS_VERIFY") != "" && !strings.HasPrefix(host, "unix:") && !strings.HasPrefix(host, "npipe:") {
		e.Certs = s.env("DOCKER_CERT_PATH")
		if e.Certs == "" {
			s.problem("DOCKER_TLS_VERIFY", errors.New("it asks for TLS, and DOCKER_CERT_PATH is not set"), "export DOCKER_CERT_PATH=DIR")
			return
		}
		dir, ok := s.open(e.Certs)
		if !ok {
			s.problem("DOCKER_CERT_PATH", fmt.Errorf("%.200q cannot be opened", e.Certs), "export DOCKER_CERT_PATH=DIR")
			return
		}
		dir.uid = -1 // the environment is trusted, whoever owns the files
		if err := dir.certs(); err != nil {
			s.problem(e.Certs, err, "export DOCKER_CERT_PATH=DIR")
			return
		}
	}
	s.add("DOCKER_HOST", e, true)
}

// contexts reads docker's context store (github.com/docker/cli, cli/context/store).
func contexts(s *search) {
	dir, ok := s.store("DOCKER_CONFIG", ".docker")
	if !ok {
		return
	}
	current := ""
	if b, ok := s.read(dir, "config.json"); ok {
		c, err := parseDockerConfig(b)
		if err != nil {
			s.problem(dir.path("config.json"), err, "docker context use NAME writes it")
		}
		current = c
	}
	if name := s.env("DOCKER_CONTEXT"); name != "" {
		current = name
	}
	if s.env("DOCKER_HOST") != "" || current == "default" {
		current = "" // DOCKER_HOST beats all contexts, and "default" is what it or the OS names
	}
	if current != "" && s.first {
		s.decided = true
	}
	known := current == ""
	for _, id := range s.list(dir.sub("contexts/meta")) {
		meta := dir.sub("contexts/meta", id)
		b, ok := s.read(meta, "meta.json")
		if !ok {
			continue
		}
		at := meta.path("meta.json")
		c, err := parseContext(b)
		if sum := sha256.Sum256([]byte(c.Name)); err == nil && hex.EncodeToString(sum[:]) != id {
			err = fmt.Errorf("the folder is not that of a context %.100q", c.Name)
		}
		if err != nil {
			s.problem(at, err, "docker context ls; docker context rm NAME")
			continue
		}
		known = known || c.Name == current
		if c.Endpoints.Docker.Host == "" {
			continue // it is another orchestrator's
		}
		e := Endpoint{Name: c.Name, URL: c.Endpoints.Docker.Host, Why: fmt.Sprintf("docker context %.100q", c.Name)}
		if c.Name == current {
			e.Why += ", the current one"
		}
		renew := "docker context update " + word(c.Name) + " --docker host=...,ca=...,cert=...,key=..."
		if tls := dir.sub("contexts/tls", id, "docker"); s.there(tls) {
			if err := tls.certs(); err != nil {
				s.problem(tls.path(""), err, renew)
				continue
			}
			e.Certs, e.Renew = tls.path(""), renew
		} else if c.Endpoints.Docker.SkipTLSVerify {
			s.problem(at, errors.New("TLS without certificates is not spoken"), byHand)
			continue
		}
		s.add(at, e, c.Name == current)
	}
	if !known {
		s.problem(dir.path("config.json"), fmt.Errorf("the current context %.100q does not exist", current), "docker context use default")
	}
}

func parseDockerConfig(b []byte) (current string, err error) {
	c, err := decodeJSON[struct {
		CurrentContext string `json:"currentContext"`
	}](b)
	return c.CurrentContext, err
}

type dockerContext struct {
	Name      string
	Endpoints struct {
		Docker struct {
			Host          string
			SkipTLSVerify bool
		} `json:"docker"`
	}
}

func parseContext(b []byte) (dockerContext, error) {
	c, err := decodeJSON[dockerContext](b)
	if err == nil && c.Name == "" {
		err = errors.New("the context has no name")
	}
	return c, err
}
