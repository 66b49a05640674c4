package engine

import (
	"maps"
	"testing"

	"github.com/docker/docker/api/types/network"
)

// A container on an overlay network has its address on docker_gwbridge, under the overlay's name too, whether it was listed or
// looked at; one on a bridge is asked about nowhere else.
func TestWatchOverlay(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	d.addNetwork("over", "10.0.1.0/24")
	d.addNetwork(gwbridge, "172.18.0.0/16")
	listed, plain := d.run("listed", "over"), d.run("plain", "bridge")
	d.mu.Lock()
	for id, n := range maps.Clone(d.networks) {
		switch n.Name {
		case "over":
			n.Driver = "overlay"
		case gwbridge: // it is asked for by its name
			delete(d.networks, id)
			d.networks[gwbridge] = n
			n.Containers = map[string]network.EndpointResource{listed: {IPv4Address: "172.18.0.9/16"}}
		}
	}
	d.mu.Unlock()
	w := watch(t, d.url, brisk())
	has := func(id, network, addr string) bool {
		for _, e := range w.containers[id].Endpoints {
			for _, a := range e.Addrs {
				if e.Network == network && a.String() == addr {
					return true
				}
			}
		}
		return false
	}
	w.until("its way out is known", func() bool {
		return has(listed, "over", "172.18.0.9") && has(listed, gwbridge, "172.18.0.9") && has(listed, "over", d.addr(listed)) && has(plain, "bridge", d.addr(plain))
	})
	if len(w.containers[plain].Endpoints) != 1 {
		t.Errorf("the one on a bridge has %+v", w.containers[plain].Endpoints)
	}
	d.mu.Lock()
	d.networks[gwbridge].Containers = nil
	d.mu.Unlock()
	later := d.run("later", "over")
	w.until("a later one without it", func() bool { return has(later, "over", d.addr(later)) })
	if has(later, gwbridge, "172.18.0.9") {
		t.Errorf("it has another's address: %+v", w.containers[later])
	}
}
