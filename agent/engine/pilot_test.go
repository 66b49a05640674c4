package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/docker/docker/api/types/container"
)

// needPilots ends a test of the pilot where there is none to test.
func needPilots(t testing.TB) {
	t.Helper()
	if _, err := pilots.ReadFile("pilot/linux-amd64.gz"); err != nil {
		t.Fatal("the pilot's binaries are missing; build them by: make pilot")
	}
}

func untar(t *testing.T, archive []byte) (names []string, files map[string][]byte, headers map[string]*tar.Header) {
	t.Helper()
	files, headers = map[string][]byte{}, map[string]*tar.Header{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return names, files, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		files[h.Name], headers[h.Name] = data, h
	}
}

// openArchive checks an archive against the image specification v1.2, and returns the program in it.
func openArchive(t *testing.T, archive []byte, tag, arch string) []byte {
	t.Helper()
	names, files, _ := untar(t, archive)
	if len(names) != 3 {
		t.Errorf("archive of %q", names)
	}
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil || len(manifest) != 1 || len(manifest[0].Layers) != 1 {
		t.Fatalf("manifest %s: %v", files["manifest.json"], err)
	}
	m := manifest[0]
	if len(m.RepoTags) != 1 || m.RepoTags[0] != tag {
		t.Errorf("tags %q, want %q", m.RepoTags, tag)
	}
	if want := fmt.Sprintf("%x.json", sha256.Sum256(files[m.Config])); m.Config != want {
		t.Errorf("the configuration's name is %s, its digest %s", m.Config, want)
	}
	var config struct {
		Architecture, OS, Created string
		Config                    struct {
			Entrypoint []string
			Labels     map[string]string
			User       string
		}
		RootFS struct {
			Type    string
			DiffIDs []string `json:"diff_ids"`
		}
		History []struct {
			EmptyLayer bool `json:"empty_layer"`
		}
	}
	if err := json.Unmarshal(files[m.Config], &config); err != nil {
		t.Fatalf("configuration %s: %v", files[m.Config], err)
	}
	if config.Architecture != arch || config.OS != "linux" {
		t.Errorf("image for %s/%s, want linux/%s", config.OS, config.Architecture, arch)
	}
	if at, err := time.Parse(time.RFC3339, config.Created); err != nil || at.Unix() != 0 {
		t.Errorf("created %s, %v", config.Created, err)
	}
	if len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/pilot" || config.Config.Labels[PilotLabel] != "image" {
		t.Errorf("configuration %+v", config.Config)
	}
	if want := fmt.Sprintf("sha256:%x", sha256.Sum256(files[m.Layers[0]])); config.RootFS.Type != "layers" || len(config.RootFS.DiffIDs) != 1 || config.RootFS.DiffIDs[0] != want {
		t.Errorf("root file system %+v, want the layer %s", config.RootFS, want)
	}
	if len(config.History) != 1 || config.History[0].EmptyLayer { // engines refuse a history that does not fit the layers
		t.Errorf("history %+v", config.History)
	}
	inside, programs, headers := untar(t, files[m.Layers[0]])
	if len(inside) != 1 {
		t.Fatalf("layer of %q", inside)
	}
	if h := headers["pilot"]; h == nil || h.Mode != 0o755 || h.Uid != 0 || h.Typeflag != tar.TypeReg || h.ModTime.Unix() != 0 {
		t.Errorf("program %+v", h)
	}
	return programs["pilot"]
}

func TestDockerArchive(t *testing.T) {
	program := []byte("\x7fELF and more")
	pack := func(tag, arch string, program []byte) []byte {
		t.Helper()
		archive, err := dockerArchive(tag, arch, program)
		if err != nil {
			t.Fatal(err)
		}
		return archive
	}
	archive := pack("localhost/p:1", "arm64", program)
	if got := openArchive(t, archive, "localhost/p:1", "arm64"); !bytes.Equal(got, program) {
		t.Errorf("program %q", got)
	}
	if !bytes.Equal(archive, pack("localhost/p:1", "arm64", program)) {
		t.Error("the same program gives other bytes the second time")
	}
	for _, other := range [][]byte{pack("localhost/p:2", "arm64", program), pack("localhost/p:1", "amd64", program), pack("localhost/p:1", "arm64", nil)} {
		if bytes.Equal(archive, other) {
			t.Error("another image, the same bytes")
		}
	}
}

func TestPilotImage(t *testing.T) {
	t.Parallel()
	needPilots(t)
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		tag, packed, err := packedPilot(arch)
		if err != nil {
			t.Fatal(err)
		}
		archive, err := pilotImage(tag, arch, packed)
		if err != nil {
			t.Fatal(err)
		}
		program := openArchive(t, archive, tag, arch)
		sum := sha256.Sum256(packed)
		if want := fmt.Sprintf("localhost/fairlead-pilot:%x-%s", sum[:6], arch); tag != want {
			t.Errorf("tag %s, want %s", tag, want)
		}
		f, err := elf.NewFile(bytes.NewReader(program))
		if err != nil {
			t.Fatal(err)
		}
		if f.Machine != machine {
			t.Errorf("the pilot for %s is for %v", arch, f.Machine)
		}
	}
	for _, arch := range []string{"", "386", "arm", "s390x", "../pilot/linux-amd64", "AMD64"} {
		if _, _, err := packedPilot(arch); !errors.Is(err, ErrNoPilot) {
			t.Errorf("packedPilot(%q): %v", arch, err)
		}
	}
	for _, packed := range []string{"", "no gzip", "\x1f\x8b\x08"} {
		if _, err := pilotImage("localhost/p:1", "amd64", []byte(packed)); err == nil {
			t.Errorf("%q is taken for a pilot", packed)
		}
	}
}

func frame(stream byte, text string) string {
	return string([]byte{stream, 0, 0, 0, byte(len(text) >> 24), byte(len(text) >> 16), byte(len(text) >> 8), byte(len(text))}) + text
}

func TestDemux(t *testing.T) {
	big := strings.Repeat("x", 100_000)
	for _, c := range []struct {
		name, in, out, complaint string
		ok                       bool
	}{
		{"nothing", "", "", "", true},
		{"output", frame(1, "hello"), "hello", "", true},
		{"both", frame(1, "a") + frame(2, "b") + frame(1, "c") + frame(2, "d"), "ac", "bd", true},
		{"an empty frame", frame(1, "") + frame(1, "a"), "a", "", true},
		{"a big frame", frame(1, big), big, "", true},
		{"cut in a head", frame(1, "a") + "\x01\x00", "a", "", false},
		{"cut in a frame", frame(1, "hello")[:10], "he", "", false},
		{"cut after a head", frame(1, "hello")[:8], "", "", false},
		{"a frame of 4 GB that is not there", "\x01\x00\x00\x00\xff\xff\xff\xffx", "x", "", false},
		{"input given back", frame(0, "a"), "", "", false},
		{"an unknown kind", frame(1, "a") + frame(3, "b"), "a", "", false},
		{"text", "HTTP/1.1 500 Internal Server Error\r\n", "", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := demux{in: strings.NewReader(c.in)}
			var out bytes.Buffer
			_, err := io.Copy(&out, iotest.OneByteReader(&d))
			if c.complaint != "" {
				c.ok = false // it is told so
			}
			if out.String() != c.out || string(d.complaint) != c.complaint || (err == nil) != c.ok || err != nil && c.complaint != "" && err.Error() != "pilot: "+c.complaint {
				t.Errorf("out %.20q, complaint %q, error %v", out.String(), d.complaint, err)
			}
		})
	}
}

func FuzzDemux(f *testing.F) {
	f.Add([]byte(frame(1, "a") + frame(2, "b")))
	f.Add([]byte("\x01\x00\x00\x00\xff\xff\xff\xffx"))
	f.Fuzz(func(t *testing.T, in []byte) {
		d := demux{in: bytes.NewReader(in)}
		out, _ := io.ReadAll(&d)
		if len(out)+len(d.complaint) > len(in) {
			t.Error("more came out than went in")
		}
	})
}

func TestFirstWords(t *testing.T) {
	var w firstWords
	for range 100 {
		if n, err := w.Write([]byte(strings.Repeat("a", 99))); n != 99 || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := string(w); got != strings.Repeat("a", 1024) {
		t.Errorf("%d bytes kept", len(got))
	}
}

// hands is an engine that has the pilot's image and can make its container; what comes then is the test's.
type hands struct {
	answers
	load   string           // the report of an image load; "": it has the image
	dies   bool             // in the middle of an image load
	attach http.HandlerFunc // answers the attach
	start  int              // the status that a start answers
	bare   int              // its machine has no device after so many; 0: it has all
	given  int              // devices that the last container made was to have
	mu     sync.Mutex
	done   []string
}

func (h *hands) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1."), "/")
	path = "/" + path
	deed := func() {
		h.mu.Lock()
		h.done = append(h.done, r.Method+" "+path)
		h.mu.Unlock()
	}
	switch {
	case path == "/containers/create":
		deed()
		var asked container.CreateRequest
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || asked.HostConfig == nil || len(asked.HostConfig.CapAdd) == 0 {
			refuse(w, http.StatusBadRequest, fmt.Sprintf("no capabilities: %v", err))
			return
		}
		h.mu.Lock()
		h.given = len(asked.HostConfig.Devices)
		h.mu.Unlock()
		for _, c := range asked.HostConfig.CapAdd {
			if strings.HasPrefix(c, "CAP_") { // as engines before 19.03
				refuse(w, http.StatusBadRequest, "Unknown capability to add: CAP_"+c)
				return
			}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, `{"Id":"p1"}`)
	case path == "/containers/p1/attach":
		h.attach(w, r)
	case path == "/containers/p1/start":
		deed()
		h.mu.Lock()
		lacks := h.bare > 0 && h.given > h.bare
		h.mu.Unlock()
		switch {
		case lacks:
			refuse(w, http.StatusInternalServerError, `error gathering device information while adding custom device: no such file or directory`)
		case h.start != 0:
			refuse(w, h.start, "cannot start")
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	case r.Method == http.MethodDelete:
		deed()
		w.WriteHeader(http.StatusNoContent)
	case strings.HasPrefix(path, "/images/localhost/fairlead-pilot"):
		if h.load != "" {
			refuse(w, http.StatusNotFound, "No such image")
			return
		}
		reply(w, map[string]string{"Id": "sha256:1"})
	case path == "/images/load" && h.dies:
		io.CopyN(io.Discard, r.Body, 100<<10)
		panic(http.ErrAbortHandler)
	case path == "/images/load":
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, h.load)
	default:
		h.answers.ServeHTTP(w, r)
	}
}

func (h *hands) deeds() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.done, ", ")
}

// An engine that freezes at the attach holds up nobody, and is not left with a pilot.
func TestStartPilotIsCancelled(t *testing.T) {
	t.Parallel()
	needPilots(t)
	ctx, cancel := context.WithCancel(t.Context())
	h := &hands{answers: sound, attach: func(w http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}}
	l, url := listenTCP(t)
	serve(t, l, h)
	if _, err := at(url).StartPilot(ctx, Pilot{Instance: "i1"}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if got := h.deeds(); got != "POST /containers/create, DELETE /containers/p1" {
		t.Errorf("the engine was asked to %s", got)
	}
}

// hijack answers an attach with what the pilot says.
func hijack(t *testing.T, says string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"+says)
		io.Copy(io.Discard, conn)
	}
}

// In a machine without a device by which its CPUs stay awake a pilot tunnels all the same.
func TestStartPilotWithoutLatencyDevice(t *testing.T) {
	t.Parallel()
	needPilots(t)
	h := &hands{answers: sound, attach: hijack(t, frame(1, "hello")), bare: 1}
	l, url := listenTCP(t)
	serve(t, l, h)
	s, err := at(url).StartPilot(t.Context(), Pilot{Instance: "i1", Tunnel: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var said [5]byte
	if _, err := io.ReadFull(s, said[:]); err != nil || string(said[:]) != "hello" {
		t.Errorf("it says %q, %v", said, err)
	}
	const once = "POST /containers/create, POST /containers/p1/start"
	if got := h.deeds(); got != once+", DELETE /containers/p1, "+once {
		t.Errorf("the engine was asked to %s", got)
	}
}

func TestStartPilotIsRefused(t *testing.T) {
	t.Parallel()
	needPilots(t)
	for _, c := range []struct {
		name  string
		hands *hands
		is    error
		text  string
		deeds string
	}{
		{"no pilot for its machine", &hands{answers: sound.with("/version", `{"ApiVersion":"1.41","Arch":"s390x"}`)}, ErrNoPilot, "s390x", ""},
		{"load fails at its end", &hands{answers: sound, load: `{"errorDetail":{"message":"no space left on device"},"error":"no space left on device"}`}, nil, "no space left", ""},
		{"load is cut off", &hands{answers: sound, load: "none", dies: true}, nil, "loading its image", ""},
		{"attach is refused", &hands{answers: sound, attach: func(w http.ResponseWriter, r *http.Request) {
			refuse(w, 409, "can only attach to created or running containers")
		}}, nil, `409 Conflict: "can only attach to created or running containers"`,
			"POST /containers/create, DELETE /containers/p1"},
		{"start is refused", &hands{answers: sound, attach: hijack(t, frame(1, "hello")), start: 500}, nil, "cannot start",
			"POST /containers/create, POST /containers/p1/start, DELETE /containers/p1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, url := listenTCP(t)
			serve(t, l, c.hands)
			_, err := at(url).StartPilot(t.Context(), Pilot{Instance: "i1"})
			if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %v, want %q in it", err, c.text)
			}
			if got := c.hands.deeds(); got != c.deeds {
				t.Errorf("the engine was asked to %s, want %s", got, c.deeds)
			}
		})
	}
}
