package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

// LoadImages gives the engine the image "web:latest", and the same under the further tags. No registry is asked.
// The image holds one static program: by default it serves HTTP on port 80 (two lines: its host name, the client's
// address) and echoes on port 7, TCP and UDP; `docker run web sleep` only waits, `docker run web exit N` ends with N.
func (vm *VM) LoadImages(ctx context.Context, tags ...string) error {
	guest, err := guestProgram()
	if err != nil {
		return err
	}
	archive, err := imageArchive(guest, append([]string{"web:latest"}, tags...))
	if err != nil {
		return err
	}
	answer, err := vm.api(ctx, http.MethodPost, "/images/load?quiet=1", bytes.NewReader(archive))
	if err != nil {
		return fmt.Errorf("load images: %w", err)
	}
	if bytes.Contains(answer, []byte(`"errorDetail"`)) { // the engine has sent 200 by then
		return fmt.Errorf("load images: %s", answer)
	}
	return nil
}

// guestProgram is the binary of ./guest, built once a process; the working directory must be inside the module.
var guestProgram = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "guest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "guest")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", binary, "github.com/fairlead-dev/fairlead/internal/lab/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH, "GOFLAGS=")
	if _, err := run(cmd); err != nil {
		return nil, fmt.Errorf("build guest: %w", err)
	}
	return os.ReadFile(binary)
})

// imageArchive returns what `docker load` reads: an image FROM scratch with program as its only file.
// Source: docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".
func imageArchive(program []byte, tags []string) ([]byte, error) {
	for i, tag := range tags {
		if !strings.Contains(tag, ":") {
			tags[i] = tag + ":latest"
		}
	}
	layer, err := tarball(file{"guest", 0o755, program})
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"os":           "linux",
		"architecture": runtime.GOARCH,
		"created":      "1970-01-01T00:00:00Z",
		"config": map[string]any{
			"Entrypoint":   []string{"/guest"},
			"Cmd":          []string{"serve"},
			"ExposedPorts": map[string]any{"80/tcp": struct{}{}, "7/tcp": struct{}{}, "7/udp": struct{}{}},
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": tags, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	return tarball(file{"layer.tar", 0o644, layer}, file{"config.json", 0o644, config}, file{"manifest.json", 0o644, manifest})
}

type file struct {
	name string
	mode int64
	data []byte
}

func tarball(files ...file) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}
