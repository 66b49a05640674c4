package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/mount"
)

// Pilot says how a pilot is to be started in the engine's VM.
type Pilot struct {
	Instance string   // whose pilot it is: one pilot per instance and engine
	Args     []string // its command line
	Hold     bool     // it outlives our stream, and the engine's restart; otherwise the stream's end is its end
	Tunnel   bool     // it is to be the VM's end of a tunnel, which takes the VM's /dev/net/tun
	Inject   bool     // with Tunnel: it sends our packets as the VM's own, which takes CAP_NET_RAW
	Succeeds bool     // what the earlier pilot opened stays open in between: this one is to admit anew, or take back, under the same tag
}

func (p Pilot) name() string { return "fairlead-pilot-" + p.Instance }

// StartPilot removes this instance's earlier pilot, starts a new one and returns its standard input and output. Closing
// the stream ends a pilot that does not Hold. The image is loaded first where the engine lacks it. The error is a *Refusal
// where the engine lets no pilot run, and it is known why.
func (e *Engine) StartPilot(ctx context.Context, p Pilot) (io.ReadWriteCloser, error) {
	conn, err := e.dial(ctx)
	if err != nil {
		return nil, err
	}
	stream, err := conn.startPilot(ctx, p)
	if err != nil {
		if ctx.Err() == nil {
			err = conn.traits.explain(err)
		}
		conn.Close()
		return nil, fmt.Errorf("starting the pilot: %w", err)
	}
	return stream, nil
}

// xtablesLock is the file by which programs that change iptables-legacy's tables wait for one another. It is where iptables is
// in use, and nothing but a lock. Source: iptables(8), XTABLES_LOCKFILE.
const xtablesLock = "/run/xtables.lock"

// The devices of a pilot that tunnels. By the second it keeps the VM's CPUs from sleeping while packets pass.
const (
	tunDevice     = "/dev/net/tun"
	latencyDevice = "/dev/cpu_dma_latency"
)

func (c *connection) startPilot(ctx context.Context, p Pilot) (*pilotStream, error) {
	tag, err := c.loadPilot(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.removePilot(ctx, p); err != nil {
		return nil, err
	}
	pids := int64(64)
	host := &container.HostConfig{
		NetworkMode:    "host",
		UsernsMode:     "host", // with userns-remap an engine refuses the host's network otherwise
		CapDrop:        []string{"ALL"},
		CapAdd:         []string{"NET_ADMIN"},
		ReadonlyRootfs: true,
		SecurityOpt:    []string{"no-new-privileges"},
		LogConfig:      container.LogConfig{Type: "none"},
		AutoRemove:     !p.Hold,
		Resources:      container.Resources{Memory: 64 << 20, PidsLimit: &pids},
	}
	if p.Tunnel {
		host.Devices = []container.DeviceMapping{
			{PathOnHost: tunDevice, PathInContainer: tunDevice, CgroupPermissions: "rw"},
			{PathOnHost: latencyDevice, PathInContainer: latencyDevice, CgroupPermissions: "rw"},
		}
	}
	if p.Inject {
		host.CapAdd = append(host.CapAdd, "NET_RAW")
	}
	if p.Hold {
		host.RestartPolicy = container.RestartPolicy{Name: container.RestartPolicyUnlessStopped}
	}
	config := &container.Config{
		Image:        tag,
		Cmd:          p.Args,
		Labels:       map[string]string{PilotLabel: p.Instance},
		AttachStdin:  !p.Hold,
		OpenStdin:    !p.Hold,
		StdinOnce:    !p.Hold, // the pilot sees the end of its input when we are gone
		AttachStdout: true,
		AttachStderr: true,
	}
	if !p.Hold { // it is to start again in a VM that has no such file yet
		host.Mounts = []mount.Mount{{Type: mount.TypeBind, Source: xtablesLock, Target: xtablesLock, ReadOnly: true}}
	}
	stream, err := c.launchPilot(ctx, p, config, host)
	if err != nil && p.Tunnel && ctx.Err() == nil { // the VM has no such device, or somebody forbids it: packets go slower, and that is all
		if err := c.removePilot(ctx, p); err != nil {
			return nil, err
		}
		host.Devices = host.Devices[:1]
		stream, err = c.launchPilot(ctx, p, config, host)
	}
	return stream, err
}

func (c *connection) launchPilot(ctx context.Context, p Pilot, config *container.Config, host *container.HostConfig) (_ *pilotStream, err error) {
	made, err := c.ContainerCreate(ctx, config, host, nil, nil, p.name())
	if err != nil && host.Mounts != nil && ctx.Err() == nil { // the VM has none, or somebody forbids mounts: it works without
		host.Mounts = nil
		made, err = c.ContainerCreate(ctx, config, host, nil, nil, p.name())
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), usual.call)
			defer cancel()
			_ = c.ContainerRemove(ctx, made.ID, container.RemoveOptions{Force: true})
		}
	}()
	// Attached before the start, so that nothing it says is missed.
	hijacked, err := c.attach(ctx, made.ID, !p.Hold)
	if err != nil {
		return nil, err
	}
	if err := c.ContainerStart(ctx, made.ID, container.StartOptions{}); err != nil {
		hijacked.Close()
		return nil, err
	}
	raw := quiet(hijacked.Conn)
	return &pilotStream{demux: demux{in: bufio.NewReader(raw)}, raw: raw, conn: c}, nil
}

// attach is ContainerAttach that ends with ctx; the client's own waits for the answer of a frozen engine for ever.
func (c *connection) attach(ctx context.Context, id string, stdin bool) (types.HijackedResponse, error) {
	var h types.HijackedResponse
	var err error
	done := make(chan struct{})
	go func() {
		h, err = c.ContainerAttach(ctx, id, container.AttachOptions{Stream: true, Stdin: stdin, Stdout: true, Stderr: true})
		if err != nil {
			err = c.whyNoAttach(ctx, id, err)
		}
		close(done)
	}()
	select {
	case <-done:
		return h, err
	case <-ctx.Done():
		go func() {
			if <-done; err == nil {
				h.Close()
			}
		}()
		return types.HijackedResponse{}, fmt.Errorf("attaching to it: %w", ctx.Err())
	}
}

// whyNoAttach completes what became of an attach by the engine's own words: the client drops them with the answer that is no stream.
// So it is asked once more, for what is no stream.
func (c *connection) whyNoAttach(ctx context.Context, id string, err error) error {
	answer, says := c.ask(ctx, http.MethodPost, "/containers/"+id+"/attach", url.Values{"stream": {"1"}, "stdout": {"1"}})
	switch {
	case ctx.Err() != nil:
		return err
	case says != nil:
		return fmt.Errorf("%w: %w", err, says)
	}
	answer.Close()
	return err
}

// demux reads the standard output in an attach stream, straight into whoever reads it, as a tunnel's packets come this way.
// What is on standard error becomes the error at the end. Each frame is 8 bytes (stream 1 or 2, 3 zeros, size as big-endian
// uint32) and its data. Source: Engine API, ContainerAttach, "Stream format".
type demux struct {
	in        io.Reader
	left      uint32 // of the frame of standard output that is being read
	complaint firstWords
}

// Read is for one reader.
func (d *demux) Read(b []byte) (int, error) {
	n, err := d.read(b)
	if said := strings.TrimSpace(string(d.complaint)); err != nil && said != "" {
		err = errors.New("pilot: " + strings.TrimPrefix(said, "pilot: "))
	}
	return n, err
}

func (d *demux) read(b []byte) (int, error) {
	for d.left == 0 {
		var head [8]byte
		if _, err := io.ReadFull(d.in, head[:]); err != nil {
			return 0, err
		}
		size := binary.BigEndian.Uint32(head[4:])
		switch head[0] {
		case 1:
			d.left = size
		case 2:
			if _, err := io.CopyN(&d.complaint, d.in, int64(size)); err != nil {
				return 0, noEOF(err)
			}
		default:
			return 0, fmt.Errorf("the engine's stream has a frame of unknown kind %d", head[0])
		}
	}
	n, err := d.in.Read(b[:min(uint32(len(b)), d.left)])
	if d.left -= uint32(n); d.left > 0 {
		err = noEOF(err)
	}
	return n, err
}

// noEOF makes an end in the middle of something one.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// pilotStream is a pilot's standard input and output. What it says on standard error becomes the error of Read.
type pilotStream struct {
	demux
	raw     io.WriteCloser
	conn    *connection
	closing sync.Once
}

func (s *pilotStream) Write(b []byte) (int, error) { return s.raw.Write(b) }
func (s *pilotStream) Close() error {
	s.closing.Do(func() {
		s.raw.Close()
		s.conn.Close()
	})
	return nil
}

// firstWords keeps the beginning of what is written to it.
type firstWords []byte

func (f *firstWords) Write(b []byte) (int, error) {
	*f = append(*f, b[:min(len(b), max(0, 1024-len(*f)))]...)
	return len(b), nil
}

// loadPilot makes sure that the engine has the pilot's image, and that it has no older one of ours.
func (c *connection) loadPilot(ctx context.Context) (tag string, err error) {
	tag, packed, err := packedPilot(c.info.Arch)
	if err != nil {
		return "", err
	}
	if _, err := c.ImageInspect(ctx, tag); err == nil {
		return tag, nil
	} else if !cerrdefs.IsNotFound(err) {
		return "", err
	}
	archive, err := pilotImage(tag, c.info.Arch, packed)
	if err != nil {
		return "", err
	}
	answer, err := c.ImageLoad(ctx, bytes.NewReader(archive))
	if err != nil {
		return "", fmt.Errorf("loading its image: %w", err)
	}
	report, err := io.ReadAll(answer.Body) // the load is done when its report ends
	answer.Body.Close()
	if err == nil && bytes.Contains(report, []byte(`"errorDetail"`)) { // the engine has sent 200 by then
		err = fmt.Errorf("the engine says %.500s", report)
	}
	if err != nil {
		return "", fmt.Errorf("loading its image: %w", err)
	}
	c.removeImages(ctx, tag)
	return tag, nil
}

// removeImages removes our images but keep. One that is still in use by another host's pilot stays.
func (c *connection) removeImages(ctx context.Context, keep string) {
	images, err := c.ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(filters.Arg("reference", pilotRepository), filters.Arg("label", PilotLabel+"=image"))})
	if err != nil {
		return
	}
	for _, i := range images {
		for _, t := range i.RepoTags {
			if strings.HasPrefix(t, pilotRepository+":") && t != keep {
				_, _ = c.ImageRemove(ctx, t, image.RemoveOptions{})
			}
		}
	}
}

// RemovePilot ends and removes this instance's pilot, which takes back what it opened, and its image.
func (e *Engine) RemovePilot(ctx context.Context, instance string) error {
	conn, err := e.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.removePilot(ctx, Pilot{Instance: instance}); err != nil {
		return fmt.Errorf("removing the pilot: %w", err)
	}
	if err := conn.removeDead(ctx, instance); err != nil {
		return fmt.Errorf("removing what is left of earlier pilots: %w", err)
	}
	conn.removeImages(ctx, "")
	return nil
}

// removeDead removes pilots of this instance that have lost their name: an engine that is killed while it removes a container
// lists it as dead from then on.
func (c *connection) removeDead(ctx context.Context, instance string) error {
	left, err := c.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", PilotLabel+"="+instance))})
	if err != nil {
		return err
	}
	for _, l := range left {
		if l.Labels[PilotLabel] != instance {
			continue
		}
		if err := c.ContainerRemove(ctx, l.ID, container.RemoveOptions{Force: true}); err != nil && !cerrdefs.IsNotFound(err) && !cerrdefs.IsConflict(err) {
			return err
		}
	}
	return nil
}

func (c *connection) removePilot(ctx context.Context, p Pilot) error {
	old, err := c.ContainerInspect(ctx, p.name())
	if cerrdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if old.ContainerJSONBase == nil || old.Config == nil || old.Config.Labels[PilotLabel] != p.Instance {
		return fmt.Errorf("the engine has a container %s that is not ours", p.name())
	}
	if grace := 5; !p.Succeeds { // seconds to take back its rules
		if err := c.ContainerStop(ctx, old.ID, container.StopOptions{Timeout: &grace}); err != nil && !cerrdefs.IsNotFound(err) {
			return err
		}
	}
	// One that is removed automatically may be gone already, or on its way.
	if err := c.ContainerRemove(ctx, old.ID, container.RemoveOptions{Force: true}); err != nil && !cerrdefs.IsNotFound(err) && !cerrdefs.IsConflict(err) {
		return err
	}
	return c.awaitGone(ctx, old.ID)
}

// awaitGone waits until a container that is being removed no longer exists, as its name is taken until then.
func (c *connection) awaitGone(ctx context.Context, id string) error {
	gone, errs := c.ContainerWait(ctx, id, container.WaitConditionRemoved)
	select {
	case <-gone:
		return nil
	case err := <-errs:
		if cerrdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
}
