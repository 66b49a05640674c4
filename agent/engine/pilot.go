package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/pkg/stdcopy"
)

// Pilot says how a pilot is to be started in the engine's VM.
type Pilot struct {
	Instance string   // whose pilot it is: one pilot per instance and engine
	Args     []string // its command line
	Hold     bool     // it outlives our stream, and the engine's restart; otherwise the stream's end is its end
}

func (p Pilot) name() string { return "fairlead-pilot-" + p.Instance }

// StartPilot removes this instance's earlier pilot, starts a new one and returns its standard input and output. Closing
// the stream ends a pilot that does not Hold. The image is loaded first where the engine lacks it.
func (e *Engine) StartPilot(ctx context.Context, p Pilot) (io.ReadWriteCloser, error) {
	conn, err := e.dial(ctx)
	if err != nil {
		return nil, err
	}
	stream, err := conn.startPilot(ctx, p)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("starting the pilot: %w", err)
	}
	return stream, nil
}

func (c *connection) startPilot(ctx context.Context, p Pilot) (_ *pilotStream, err error) {
	if err := c.removePilot(ctx, p); err != nil {
		return nil, err
	}
	tag, err := c.loadPilot(ctx)
	if err != nil {
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
	if p.Hold {
		host.RestartPolicy = container.RestartPolicy{Name: container.RestartPolicyUnlessStopped}
	}
	made, err := c.ContainerCreate(ctx, &container.Config{
		Image:        tag,
		Cmd:          p.Args,
		Labels:       map[string]string{PilotLabel: p.Instance},
		AttachStdin:  !p.Hold,
		OpenStdin:    !p.Hold,
		StdinOnce:    !p.Hold, // the pilot sees the end of its input when we are gone
		AttachStdout: true,
		AttachStderr: true,
	}, host, nil, nil, p.name())
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = c.ContainerRemove(context.WithoutCancel(ctx), made.ID, container.RemoveOptions{Force: true})
		}
	}()
	// Attached before the start, so that nothing it says is missed.
	hijacked, err := c.ContainerAttach(ctx, made.ID, container.AttachOptions{Stream: true, Stdin: !p.Hold, Stdout: true, Stderr: true})
	if err != nil {
		return nil, err
	}
	s := &pilotStream{conn: c, raw: hijacked.Conn}
	s.out, s.in = io.Pipe()
	go func() {
		_, err := stdcopy.StdCopy(s.in, &s.complaint, hijacked.Reader)
		if said := s.complaint.String(); said != "" {
			err = errors.New("pilot: " + strings.TrimSpace(said))
		}
		s.in.CloseWithError(err)
	}()
	if err := c.ContainerStart(ctx, made.ID, container.StartOptions{}); err != nil {
		s.raw.Close()
		return nil, err
	}
	return s, nil
}

// pilotStream is a pilot's standard input and output. What it says on standard error becomes the error of Read.
type pilotStream struct {
	conn      *connection
	raw       io.WriteCloser
	out       *io.PipeReader
	in        *io.PipeWriter
	complaint firstWords
	closing   sync.Once
}

func (s *pilotStream) Read(b []byte) (int, error)  { return s.out.Read(b) }
func (s *pilotStream) Write(b []byte) (int, error) { return s.raw.Write(b) }
func (s *pilotStream) Close() error {
	s.closing.Do(func() {
		s.raw.Close()
		s.out.Close()
		s.conn.Close()
	})
	return nil
}

// firstWords keeps the beginning of what is written to it.
type firstWords struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (f *firstWords) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.b.Write(b[:min(len(b), max(0, 1024-f.b.Len()))])
	return len(b), nil
}

func (f *firstWords) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.b.String()
}

// loadPilot makes sure that the engine has the pilot's image, and that it has no older one of ours.
func (c *connection) loadPilot(ctx context.Context) (tag string, err error) {
	tag, archive, err := pilotImage(c.info.Arch)
	if err != nil {
		return "", err
	}
	if _, err := c.ImageInspect(ctx, tag); err == nil {
		return tag, nil
	} else if !cerrdefs.IsNotFound(err) {
		return "", err
	}
	answer, err := c.ImageLoad(ctx, bytes.NewReader(archive))
	if err != nil {
		return "", fmt.Errorf("loading its image: %w", err)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<20)) // the load is done when its report ends
	answer.Body.Close()
	if err != nil {
		return "", fmt.Errorf("loading its image: %w", err)
	}
	c.removeImages(ctx, tag)
	return tag, nil
}

// removeImages removes our images but keep. One that is still in use by another host's pilot stays.
func (c *connection) removeImages(ctx context.Context, keep string) {
	images, err := c.ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(filters.Arg("reference", pilotRepository))})
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
	conn.removeImages(ctx, "")
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
	grace := 5 // seconds to take back its rules
	if err := c.ContainerStop(ctx, old.ID, container.StopOptions{Timeout: &grace}); err != nil && !cerrdefs.IsNotFound(err) {
		return err
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
