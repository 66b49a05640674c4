package engine

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// The pilot's binaries, pilot/linux-ARCH.gz, are put here by `make pilot`.
//
//go:embed all:pilot
var pilots embed.FS

// ErrNoPilot: this fairlead was built without the pilot's binaries.
var ErrNoPilot = errors.New("this build of fairlead carries no pilot")

// Carries is ErrNoPilot where this fairlead has no pilot for any engine: it was built by go build, not by make.
func Carries() error {
	if packed, _ := fs.Glob(pilots, "pilot/*.gz"); len(packed) == 0 {
		return ErrNoPilot
	}
	return nil
}

const pilotRepository = "localhost/fairlead-pilot"

// packedPilot is the pilot for arch, compressed, and its image's tag: another pilot has another tag.
func packedPilot(arch string) (tag string, packed []byte, err error) {
	packed, err = pilots.ReadFile("pilot/linux-" + arch + ".gz")
	if err != nil {
		return "", nil, fmt.Errorf("%w for %s engines", ErrNoPilot, arch)
	}
	return pilotRepository + ":" + digest(packed)[:12] + "-" + arch, packed, nil
}

// pilotImage is the pilot's image as a docker-archive. The same binary gives the same bytes, so loading it twice changes
// nothing in the engine.
func pilotImage(tag, arch string, packed []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	binary, err := io.ReadAll(z)
	if err != nil {
		return nil, err
	}
	return dockerArchive(tag, arch, binary)
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// dockerArchive is an image FROM scratch that holds one binary, in the format of `docker save` (image-spec v1.2), which
// every engine since 1.10 and Podman load. It is not compressed: Podman refuses that.
func dockerArchive(tag, arch string, binary []byte) ([]byte, error) {
	layer, err := tarOf(file{"pilot", 0o755, binary})
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": arch,
		"os":           "linux",
		"created":      "1970-01-01T00:00:00Z",
		"config":       map[string]any{"Entrypoint": []string{"/pilot"}, "Labels": map[string]string{PilotLabel: "image"}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
		"history":      []any{map[string]string{"created": "1970-01-01T00:00:00Z", "created_by": "fairlead"}},
	})
	if err != nil {
		return nil, err
	}
	name := digest(config) + ".json"
	manifest, err := json.Marshal([]any{map[string]any{"Config": name, "RepoTags": []string{tag}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	return tarOf(file{name, 0o644, config}, file{"layer.tar", 0o644, layer}, file{"manifest.json", 0o644, manifest})
}

type file struct {
	name string
	mode int64
	data []byte
}

func tarOf(files ...file) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Format: tar.FormatUSTAR}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}
