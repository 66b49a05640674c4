//go:build linux || darwin

package routes

import (
	"fmt"
	"net"
)

// linkNames are the names of this host's links by their index.
func linkNames() (map[int]string, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	links := make(map[int]string, len(ifs))
	for _, i := range ifs {
		links[i.Index] = i.Name
	}
	return links, nil
}
