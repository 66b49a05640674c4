package engine

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/system"
)

func TestTraitsOf(t *testing.T) {
	podman := types.Version{Components: []types.ComponentVersion{{Name: "Podman Engine", Version: "4.3.1"}, {Name: "Conmon"}}}
	for _, c := range []struct {
		name string
		info system.Info
		of   types.Version
		want traits
	}{
		{"engine", system.Info{SecurityOptions: []string{"name=apparmor", "name=seccomp,profile=builtin"}}, types.Version{}, traits{}},
		{"rootless", system.Info{SecurityOptions: []string{"name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"}}, types.Version{}, traits{rootless: true}},
		{"userns-remap", system.Info{SecurityOptions: []string{"name=seccomp,profile=default", "name=userns"}}, types.Version{}, traits{userns: true}},
		{"a profile of that name", system.Info{SecurityOptions: []string{"name=seccomp,profile=rootless"}}, types.Version{}, traits{}},
		{"Podman", system.Info{SecurityOptions: []string{"name=seccomp,profile=default"}}, podman, traits{podman: true}},
		{"rootless Podman 4", system.Info{DockerRootDir: "/home/ann/.local/share/containers/storage"}, podman, traits{podman: true, rootless: true}},
		{"rootful Podman", system.Info{DockerRootDir: "/var/lib/containers/storage"}, podman, traits{podman: true}},
		{"rootless Podman", system.Info{SecurityOptions: []string{"name=rootless"}}, podman, traits{podman: true, rootless: true}},
	} {
		if got := traitsOf(c.info, c.of); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestExplain(t *testing.T) {
	for _, c := range []struct {
		name   string
		traits traits
		says   string
		why    string // in the explanation; "": there is none
		hint   string
	}{
		{"authorization plugin", traits{}, "Error response from daemon: authorization denied by plugin casbin-authz-plugin: Access denied by casbin plugin", "authorization plugin", PilotLabel},
		{"Docker Desktop's isolation", traits{}, "Error response from daemon: failed to create shim task: OCI runtime create failed: error in the container spec: invalid or unsupported container spec: sysbox containers can't share a network namespace with the host (because they use the linux user-namespace for isolation): unknown", "Enhanced Container Isolation", "Settings"},
		{"sysbox", traits{}, "Error response from daemon: OCI runtime create failed: error in the container spec: invalid namespace config: container spec missing namespaces Set{network}: unknown", "Enhanced Container Isolation", "Settings"},
		{"userns-remap", traits{userns: true}, "Error response from daemon: cannot share the host's network namespace when user namespaces are enabled", "maps users", "userns-remap"},
		{"no tun", traits{}, `Error response from daemon: error gathering device information while adding custom device "/dev/net/tun": no such file or directory`, "no /dev/net/tun", "modprobe tun"},
		{"no tun in Podman", traits{podman: true}, "Error response from daemon: stat /dev/net/tun: no such file or directory", "no /dev/net/tun", "modprobe tun"},
		{"rootless", traits{rootless: true}, "OCI runtime create failed: open /dev/net/tun: permission denied: unknown", "rootless", "chmod"},
		{"rootless Podman", traits{rootless: true, podman: true}, "crun: open `/dev/net/tun`: operation not permitted", "Podman runs rootless", "--rootful"},
		{"full disk", traits{rootless: true}, "loading its image: write /pilot: no space left on device", "disk is full", "docker system prune"},
		{"rootless without a reason in that", traits{rootless: true}, "input/output error", "", ""},
		{"nothing known", traits{}, "open /dev/net/tun: permission denied", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			said := errors.New(c.says)
			err := c.traits.explain(said)
			var r *Refusal
			if !errors.As(err, &r) {
				if c.why != "" || err != said {
					t.Errorf("explained as %v", err)
				}
				return
			}
			if c.why == "" || !strings.Contains(r.Why, c.why) || !strings.Contains(r.Hint, c.hint) {
				t.Errorf("explained as %q, hint %q", r.Why, r.Hint)
			}
			if !errors.Is(err, ErrRefused) || !errors.Is(err, said) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v: lost are its kind or the engine's words", err)
			}
			if again := c.traits.explain(err); again != err {
				t.Errorf("explained twice: %v", again)
			}
		})
	}
	if err := (traits{}).explain(nil); err != nil {
		t.Error(err)
	}
}

// A proxy that lets one only look, and a plugin, answer 403 to what a pilot needs.
func TestStartPilotIsForbidden(t *testing.T) {
	t.Parallel()
	needPilots(t)
	for _, c := range []struct {
		name, body, why string
	}{
		{"proxy", "<html><body><h1>403 Forbidden</h1>\nRequest forbidden by administrative rules.\n</body></html>\n", "a proxy before the engine"},
		{"plugin", `{"message":"authorization denied by plugin opa: request rejected by administrative policy"}`, "an authorization plugin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, url := listenTCP(t)
			may := &hands{answers: sound}
			serve(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet || r.Method == http.MethodHead {
					may.ServeHTTP(w, r)
					return
				}
				if strings.HasPrefix(c.body, "{") {
					w.Header().Set("Content-Type", "application/json")
				}
				w.WriteHeader(http.StatusForbidden)
				w.Write([]byte(c.body))
			}))
			_, err := at(url).StartPilot(t.Context(), Pilot{Instance: "i1"})
			var r *Refusal
			if !errors.As(err, &r) || !strings.HasPrefix(r.Why, c.why) || !strings.Contains(err.Error(), "; hint: ") {
				t.Errorf("error %v, want one about %s", err, c.why)
			}
			if got := may.deeds(); got != "" {
				t.Errorf("the engine was asked to %s", got)
			}
		})
	}
}

// The pilot's own guess gives way to what the engine's traits tell, and stays where they tell nothing.
func TestExplainBeatsTheGuess(t *testing.T) {
	guess := errors.New("the pilot made no link: open /dev/net/tun: permission denied; hint: look for Enhanced Container Isolation")
	err := traits{rootless: true}.explain(guess)
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "runs rootless") || strings.Contains(err.Error(), "Isolation") || !strings.Contains(err.Error(), "permission denied; hint: on the engine's machine: sudo chmod") {
		t.Errorf("explained as %v", err)
	}
	if err := (traits{}).explain(guess); err != guess {
		t.Errorf("explained as %v", err)
	}
}
