package engine

import (
	"context"
	"slices"
)

// gwbridge is the bridge by which containers on a swarm's overlay networks get out of these, and by which alone they are
// reached. Source: https://docs.docker.com/engine/swarm/networking/
const gwbridge = "docker_gwbridge"

// outside is the way out of overlay networks: which networks are such, and their containers' addresses outside them, by id,
// as neither an inspect of a container nor a list tells them.
type outside struct {
	overlays map[string]bool
	addrs    map[string]Attachment
}

// wayOut asks for the addresses of those that are on an overlay network, if there is one at all. Without an answer they have
// none, which is told when they join the bridge.
func (s *session) wayOut(ctx context.Context, on []Attachment) (o outside) {
	overlays := s.overlays.Load()
	if overlays == nil || len(*overlays) == 0 || on != nil && !slices.ContainsFunc(on, func(a Attachment) bool { return (*overlays)[a.NetworkID] }) {
		return o
	}
	o.overlays = *overlays
	ctx, cancel := context.WithTimeout(ctx, s.pace.call)
	defer cancel()
	o.addrs, _ = s.conn.attachments(ctx, gwbridge, nil)
	return o
}

// of gives a container its address outside overlay networks: as an endpoint of its own, and on these networks too, whose
// names are to lead there.
func (o outside) of(c Container) Container {
	a := o.addrs[c.ID]
	if len(a.Addrs) == 0 || !slices.ContainsFunc(c.Endpoints, func(e Attachment) bool { return o.overlays[e.NetworkID] }) {
		return c
	}
	state := c.State
	c = c.withAttachment(a)
	c.State = state
	for i, e := range c.Endpoints {
		if o.overlays[e.NetworkID] {
			c.Endpoints[i].Addrs = slices.Concat(e.Addrs, a.Addrs)
		}
	}
	return c
}

// overlaysOf are the ids of the overlay networks.
func overlaysOf(networks []Network) *map[string]bool {
	overlays := map[string]bool{}
	for _, n := range networks {
		if n.Driver == "overlay" {
			overlays[n.ID] = true
		}
	}
	return &overlays
}
