package engine

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/system"
)

// ErrRefused: the engine, or what guards it, lets no pilot run. A *Refusal is one, and says more.
var ErrRefused = errors.New("the engine lets no pilot run")

// Refusal says why an engine lets no pilot run, and what can be done about it.
type Refusal struct {
	Why  string // "a plugin guards the engine", for people
	Hint string // what to do, for people
	Err  error  // the engine's own words
}

func (r *Refusal) Error() string        { return r.Why + ": " + r.Err.Error() + "; hint: " + r.Hint }
func (r *Refusal) Unwrap() error        { return r.Err }
func (r *Refusal) Is(target error) bool { return target == ErrRefused }

// traits are what sets an engine apart, as far as the pilot minds.
type traits struct {
	rootless bool // it runs in a network of its own, without a user's rights over the machine's
	userns   bool // it maps its containers' users to others (userns-remap)
	podman   bool
}

// traitsOf reads them from what an engine says of itself. Source: Engine API, SystemInfo (SecurityOptions) and
// SystemVersion (Components); Podman names itself in the latter.
func traitsOf(i system.Info, v types.Version) traits {
	option := func(name string) bool {
		return slices.ContainsFunc(i.SecurityOptions, func(o string) bool {
			return slices.Contains(strings.Split(o, ","), "name="+name)
		})
	}
	return traits{
		// Podman 4 does not say so; containers-storage.conf(5) tells where a user's own lie.
		rootless: option("rootless") || strings.HasSuffix(strings.TrimSuffix(i.DockerRootDir, "/storage"), "/.local/share/containers"),
		userns:   option("userns"),
		podman:   slices.ContainsFunc(v.Components, func(c types.ComponentVersion) bool { return strings.HasPrefix(c.Name, "Podman") }),
	}
}

// refusals are what engines say when they run no pilot, the most telling first.
var refusals = []struct {
	says      *regexp.Regexp
	why, hint string
}{
	{
		regexp.MustCompile(`(?i)authorization denied by plugin|plugin \S+ failed with error: AuthZPlugin`),
		"an authorization plugin guards the engine",
		"have its policy allow containers labelled " + PilotLabel + ", with the host's network, NET_ADMIN and /dev/net/tun",
	},
	{
		regexp.MustCompile(`(?i)sysbox|enhanced container isolation|share a network namespace with the host|container spec missing namespaces Set\{network\}`),
		"Enhanced Container Isolation keeps containers out of the VM's network",
		"switch it off: Docker Desktop, Settings, General, Use Enhanced Container Isolation; or publish ports",
	},
	{
		regexp.MustCompile(`cannot share the host's network namespace when user namespaces are enabled`),
		"the engine maps users to others, and lets no container out of that",
		"end the engine's userns-remap, or let containers use --userns=host",
	},
	{
		regexp.MustCompile(`no space left on device|disk quota exceeded`),
		"the engine's disk is full",
		"make room on it: docker system df shows what takes it, docker system prune frees what nothing uses",
	},
	{
		regexp.MustCompile(`"/dev/net/tun": no such file|stat /dev/net/tun: no such file|/dev/net/tun: no such device`),
		"the engine's machine has no /dev/net/tun",
		"on that machine: modprobe tun; if it has an address that this host reaches: --gateway ADDR",
	},
}

// explain makes a *Refusal of err, what became of starting a pilot, where the reason is known. Other errors stay as they are.
func (t traits) explain(err error) error {
	if err == nil || errors.As(err, new(*Refusal)) {
		return err
	}
	if r := t.refusal(err); r != nil {
		return r
	}
	return err
}

func (t traits) refusal(err error) *Refusal {
	says, _, hinted := strings.Cut(err.Error(), "; hint: ")
	if hinted { // the pilot's own guess; the engine's traits tell more
		err = errors.New(says)
	}
	for _, r := range refusals {
		if r.says.MatchString(says) {
			return &Refusal{Why: r.why, Hint: r.hint, Err: err}
		}
	}
	denied := strings.Contains(says, "permission denied") || strings.Contains(says, "operation not permitted")
	switch {
	case cerrdefs.IsPermissionDenied(err) || strings.Contains(says, "403 Forbidden"):
		return &Refusal{
			Why:  "a proxy before the engine lets us look and not act",
			Hint: "name the engine's own socket with --engine; or let the proxy pass POST and DELETE of containers and images",
			Err:  err,
		}
	case t.rootless && denied && t.podman:
		return &Refusal{
			Why:  "Podman runs rootless, and its user lacks a right that the pilot needs",
			Hint: "podman machine stop; podman machine set --rootful; podman machine start; without a machine, root's Podman: sudo systemctl start podman.socket",
			Err:  err,
		}
	case t.rootless && denied:
		return &Refusal{
			Why:  "the engine runs rootless, and its user lacks a right that the pilot needs",
			Hint: "on the engine's machine: sudo chmod 0666 /dev/net/tun; or name a rootful engine with --engine",
			Err:  err,
		}
	case t.userns && denied:
		return &Refusal{
			Why:  "the engine maps users to others, who lack a right that the pilot needs",
			Hint: "end the engine's userns-remap, or let containers use --userns=host",
			Err:  err,
		}
	}
	return nil
}

// Explain makes a *Refusal of err, what became of a pilot that was started, where the engine's traits tell the reason. Other
// errors stay as they are.
func (e *Engine) Explain(ctx context.Context, err error) error {
	conn, dialled := e.dial(ctx)
	if dialled != nil {
		return err
	}
	defer conn.Close()
	return conn.traits.explain(err)
}
