package platform

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// Endpoint is where the API of one of the host's engines is, as found in its product's own files.
type Endpoint struct {
	Name     string     `json:"name"`             // a DNS label, unique in one Discover
	URL      string     `json:"url"`              // unix:///path, npipe:////./pipe/name, tcp://host:port; the path is not escaped
	Certs    string     `json:"certs,omitempty"`  // folder with ca.pem, cert.pem, key.pem; empty means no TLS
	Provider string     `json:"provider"`         // a row of docs/providers.md
	Home     string     `json:"home,omitempty"`   // the home whose files told; empty: the environment, or the host itself
	Reach    Kind       `json:"reach,omitempty"`  // what the product is known for; empty: Decide has to ask the engine
	VM       netip.Addr `json:"vm,omitzero"`      // the VM's address, if the product's files tell it; it may be stale
	Chosen   bool       `json:"chosen,omitempty"` // by docker's own settings: its user expects it to answer
	Renew    string     `json:"renew,omitempty"`  // the command that makes its certificates anew
	Why      string     `json:"why"`
}

// Problem is an endpoint, or all of one store's, that is not in a Discover's result.
type Problem struct {
	Provider string
	Path     string // the file, folder, socket or variable
	Err      error
	Hint     string // a command, or what to do
}

// Error is one line, whatever the files had to say.
func (p Problem) Error() string {
	return printable(fmt.Sprintf("%s: %s: %v", p.Provider, p.Path, p.Err))
}

func (p Problem) Unwrap() error { return p.Err }

// Home is a user's home folder.
type Home struct {
	Dir string // absolute, as its OS writes it
	UID int    // its owner's; not looked at on Windows
}

// Host is what Discover looks at. All that it reads was written by users, and it may read as root: it believes only files of
// the home's owner or root, and never runs anything.
type Host struct {
	GOOS  string                      // whose products and paths to expect; empty: this OS's
	Homes []Home                      // of those who may name engines, the one who installed first
	Env   func(string) (string, bool) // that user's environment; nil: an empty one

	// Open opens a folder, as os.OpenRoot does; that is what nil means.
	Open func(dir string) (*os.Root, error)
	// Socket looks a socket up, or a pipe written \\.\pipe\name: its path without symbolic links and its owner, -1 where
	// there are none. nil means the host's own.
	Socket func(path string) (real string, uid int, err error)
}

// Bounds of what a store may make us read.
const (
	maxFile    = 1 << 20 // bytes
	maxEntries = 1000    // of a folder
)

// providers are where engines come from, in the order of priority. home looks into each home, host at what is there once. A
// general one knows an endpoint but not whose it is.
var providers = []struct {
	name       string
	home, host func(*search)
	general    bool
}{
	{name: "environment", host: environment, general: true},
	{name: "context", home: contexts, general: true},
	{name: "docker-desktop", home: dockerDesktop, host: dockerDesktopPipe},
	{name: "orbstack", home: orbStack},
	{name: "colima", home: colima},
	{name: "lima", home: lima},
	{name: "rancher-desktop", home: rancherDesktop},
	{name: "podman", home: podman, host: podmanService},
	{name: "docker-machine", home: dockerMachine},
	{name: "minikube", home: minikube},
	{name: "boot2docker", home: boot2docker},
	{name: "dvm", home: dvm},
	{name: "vagrant", home: vagrant},
	{name: "rootless", home: rootless},
	{name: "native", host: native, general: true},
	{name: "wsl", home: wsl},
}

// Discover finds the engines' endpoints. First comes what docker itself would speak to: DOCKER_HOST, DOCKER_CONTEXT, each
// home's current context, or else the OS's default socket; then the others by provider, home and name. An endpoint that
// several tell, also by symbolic links, comes once. A socket counts while it is there, unless docker's settings choose it; an
// address counts while its store has it: whether an engine answers is not asked. A Problem costs its own endpoint alone.
func Discover(h Host) ([]Endpoint, []Problem) {
	if h.Env == nil {
		h.Env = func(string) (string, bool) { return "", false }
	}
	if h.GOOS == "" {
		h.GOOS = runtime.GOOS
	}
	if h.Open == nil {
		h.Open = os.OpenRoot
	}
	if h.Socket == nil {
		h.Socket = socketAt
	}
	s := &search{Host: h}
	defer s.close()
	bases := make([]folder, len(h.Homes))
	for i, home := range h.Homes {
		s.provider, s.home = "home", home
		bases[i], _ = s.open(home.Dir)
	}
	for _, p := range providers {
		s.provider, s.general = p.name, p.general
		if p.host != nil {
			s.home, s.base, s.first = Home{}, folder{}, false
			p.host(s)
		}
		for i, home := range h.Homes {
			if p.home != nil && bases[i].root != nil {
				s.home, s.base, s.first = home, bases[i], i == 0
				p.home(s)
			}
		}
	}
	return s.result(), s.problems
}

// search is a Discover under way: one provider looks into one home, or at the host itself.
type search struct {
	Host
	provider string
	general  bool
	home     Home // zero while it looks at the host itself
	base     folder
	first    bool // the home is that of Env's user

	decided  bool // docker's settings choose an endpoint, the default socket is not it
	roots    []*os.Root
	found    []finding
	problems []Problem
}

type finding struct {
	Endpoint
	key     string // equal for the same endpoint
	chosen  bool   // by docker's own settings
	general bool
}

func (s *search) close() {
	for _, r := range s.roots {
		r.Close()
	}
}

// problem notes that what is at path cannot be used. It does not name the path a second time.
func (s *search) problem(path string, err error, hint string) {
	s.problems = append(s.problems, Problem{Provider: s.provider, Path: path, Err: reason(err), Hint: printable(hint)})
}

// reason is a file's error without its path, in words for whoever has made that file.
func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	if err.Error() == "path escapes from parent" { // os.Root has no error to compare with
		return errEscapes
	}
	return err
}

// word is a name as it may stand in a command that somebody pastes into a shell.
func word(name string) string {
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" || name[0] == '-' {
		return "NAME"
	}
	return name
}

const byHand = "name the engine with --engine NAME=URL"

// env looks a variable up that tells of the first home's stores; empty is unset.
func (s *search) env(name string) string {
	if s.home.Dir != "" && !s.first {
		return ""
	}
	v, _ := s.Env(name)
	return v
}

// abs tells whether the OS takes dir for an absolute path on this machine.
func (s *search) abs(dir string) bool {
	if s.GOOS == "windows" {
		return len(dir) > 2 && dir[1] == ':' && (dir[2] == '\\' || dir[2] == '/')
	}
	return path.IsAbs(dir)
}

// open opens a folder that somebody trusted named. There is no problem with one that does not exist.
func (s *search) open(dir string) (folder, bool) {
	if !s.abs(dir) {
		s.problem(dir, errors.New("not an absolute path"), byHand)
		return folder{}, false
	}
	root, err := s.Open(dir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.problem(dir, err, byHand)
		}
		return folder{}, false
	}
	s.roots = append(s.roots, root)
	return folder{root: root, dir: dir, at: ".", uid: s.home.UID, windows: s.GOOS == "windows"}, true
}

// store opens the folder that the variable names, else the one at rel in the home.
func (s *search) store(variable, rel string) (folder, bool) {
	if dir := s.env(variable); dir != "" {
		return s.open(dir)
	}
	return s.inHome(rel)
}

func (s *search) inHome(rel string) (folder, bool) {
	f := s.base.sub(rel)
	return f, s.there(f)
}

// there tells whether the folder exists. That it leads out of the home is a problem.
func (s *search) there(f folder) bool {
	fi, err := f.root.Stat(f.at)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.problem(f.path(""), err, byHand)
	}
	return err == nil && fi.IsDir()
}

// read is folder.read. There is no problem with a file that does not exist.
func (s *search) read(f folder, name string) ([]byte, bool) {
	b, err := f.read(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.problem(f.path(name), err, byHand)
	}
	return b, err == nil
}

// list is folder.list. There is no problem with a folder that does not exist.
func (s *search) list(f folder) []string {
	names, err := f.list()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.problem(f.path(""), err, byHand)
	}
	return names
}

// add takes an endpoint that is told at path. Chosen means by docker's own settings: it counts without its socket, too.
func (s *search) add(path string, e Endpoint, chosen bool) {
	e.Provider, e.Home = s.provider, s.home.Dir
	u, err := normalURL(e.URL, e.Certs != "")
	if err != nil {
		s.problem(path, err, byHand)
		return
	}
	e.URL = u
	key := strings.ToLower(u)
	scheme, at, _ := strings.Cut(u, "://")
	switch {
	case scheme == "ssh" && !chosen: // others' hosts are not to be knocked at for ever
		s.problem(path, errSSH, "docker context use "+word(e.Name))
		return
	case scheme == "unix" || scheme == "npipe":
		if scheme == "npipe" {
			at = strings.ReplaceAll(at, "/", `\`)
		}
		real, uid, err := s.Socket(at)
		switch {
		case err == nil:
			if err := s.trusts(real, uid); err != nil {
				s.problem(path, fmt.Errorf("%s: %w", at, err), byHand)
				return
			}
			if scheme == "unix" {
				key = "unix://" + real
			}
		case !errors.Is(err, fs.ErrNotExist):
			s.problem(at, err, byHand)
			return
		case !chosen:
			return // its VM does not run now
		}
	}
	s.found = append(s.found, finding{Endpoint: e, key: key, chosen: chosen, general: s.general})
}

// trusts refuses a socket to which a user's file leads, and which is not that user's nor one that engines are known by: we
// would speak to it as root.
func (s *search) trusts(real string, uid int) error {
	known := []string{"/var/run/docker.sock", "/run/docker.sock", "/private/var/run/docker.sock", "/run/podman/podman.sock", "/var/run/podman/podman.sock"}
	if s.home.Dir == "" || uid == s.home.UID || s.GOOS == "windows" || uid == 0 && (within(real, s.home.Dir) || slices.Contains(known, real)) {
		return nil
	}
	return fmt.Errorf("the socket belongs to user %d", uid)
}

func within(file, dir string) bool { return strings.HasPrefix(file, strings.TrimSuffix(dir, "/")+"/") }

// result puts the findings in order, the same endpoint once, and gives them names.
func (s *search) result() []Endpoint {
	slices.SortStableFunc(s.found, func(a, b finding) int {
		switch {
		case a.chosen == b.chosen:
			return 0
		case a.chosen:
			return -1
		}
		return 1
	})
	var kept []finding
	for _, f := range s.found {
		i := slices.IndexFunc(kept, func(k finding) bool { return k.key == f.key })
		if i < 0 {
			kept = append(kept, f)
			continue
		}
		// The second to tell knows more only of its own user's.
		if k := &kept[i]; k.Home == "" || f.Home == "" || k.Home == f.Home {
			if k.general && !f.general {
				k.Provider, k.Home, k.Reach, k.VM, k.Why, k.general = f.Provider, f.Home, f.Reach, f.VM, f.Why, false
				k.Renew = cmp.Or(f.Renew, k.Renew)
			}
			k.Certs = cmp.Or(k.Certs, f.Certs)
		}
	}
	taken := map[string]bool{}
	var out []Endpoint
	for _, k := range kept {
		k.Name, k.Chosen = unique(k.Name, k.Provider, taken), k.chosen
		taken[k.Name] = true
		out = append(out, k.Endpoint)
	}
	return out
}

// unique makes a DNS label of name (RFC 1035 section 2.3.1) that is not taken: first with the provider, then numbered.
func unique(name, provider string, taken map[string]bool) string {
	name = cmp.Or(label(name), provider)
	if !taken[name] {
		return name
	}
	if !strings.HasPrefix(name, provider) {
		if name = label(provider + "-" + name); !taken[name] {
			return name
		}
	}
	for i := 2; ; i++ {
		if n := Numbered(name, i); !taken[n] {
			return n
		}
	}
}

// Numbered is the nth of those who would all be called name, a DNS label.
func Numbered(name string, n int) string {
	s := "-" + strconv.Itoa(n)
	return strings.TrimRight(name[:min(len(name), 63-len(s))], "-") + s
}

func label(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, s)
	s = strings.TrimLeft(s, "-")
	return strings.TrimRight(s[:min(len(s), 63)], "-")
}

var errNotFolder = errors.New("not a folder")

var errEscapes = errors.New("a link leads out of the user's folder, and is not followed")

var errSSH = errors.New("engines by ssh are watched only when docker's settings choose them")

// normalURL writes an endpoint as Endpoint.URL does, from what docker's -H takes (docs.docker.com/reference/cli/docker/#host).
func normalURL(raw string, tls bool) (string, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok || printable(raw) != raw {
		return "", fmt.Errorf("%.200q is not an endpoint such as unix:///path or tcp://host:port", raw)
	}
	switch scheme {
	case "unix":
		if !path.IsAbs(rest) {
			return "", fmt.Errorf("the socket's path in %.200q is not absolute", raw)
		}
		return "unix://" + path.Clean(rest), nil
	case "npipe":
		// Only this machine's: another one would be shown our account (npipe:////server/pipe/name).
		name, ok := strings.CutPrefix(strings.ReplaceAll(rest, `\`, "/"), "//./pipe/")
		if !ok || name == "" || strings.Contains(name, "/") {
			return "", fmt.Errorf("%.200q is not a pipe of this machine", raw)
		}
		return "npipe:////./pipe/" + name, nil
	case "tcp", "http", "https":
		u, err := url.Parse("tcp://" + strings.TrimSuffix(rest, "/"))
		if err != nil || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
			return "", fmt.Errorf("%.200q is not written tcp://host:port", raw)
		}
		if scheme == "https" && !tls {
			return "", fmt.Errorf("%.200q needs certificates, and there are none", raw)
		}
		host, port := u.Hostname(), u.Port()
		if port == "" {
			if port = "2375"; tls {
				port = "2376"
			}
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", fmt.Errorf("the port in %.200q is none", raw)
		} else {
			port = strconv.FormatUint(n, 10)
		}
		a, err := netip.ParseAddr(host)
		switch {
		case err == nil && (a.IsUnspecified() || a.Zone() != ""):
			return "", fmt.Errorf("%.200q names no host", raw)
		case err == nil:
			host = a.Unmap().String()
		case !hostName(host):
			return "", fmt.Errorf("the host in %.200q is none", raw)
		}
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return "tcp://" + strings.ToLower(host) + ":" + port, nil
	case "ssh":
		u, err := url.Parse(raw)
		if err != nil || u.User.String() != "" && !hostName(u.User.String()) || !hostName(u.Hostname()) || u.RawQuery != "" || u.Fragment != "" {
			return "", fmt.Errorf("%.200q is not written ssh://user@host", raw)
		}
		if n, err := strconv.ParseUint(cmp.Or(u.Port(), "22"), 10, 16); err != nil || n == 0 {
			return "", fmt.Errorf("the port in %.200q is none", raw)
		}
		return u.String(), nil
	}
	return "", fmt.Errorf("%.20q endpoints are not spoken", scheme+"://")
}

// hostName takes the names of RFC 1123 section 2.1, and underscores.
func hostName(s string) bool {
	return s != "" && len(s) < 254 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == "" && s[0] != '-' && s[0] != '.'
}

// printable replaces what would break a line or a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// folder is a store of a user's. No name, and no symbolic link, leads out of the root that was opened.
type folder struct {
	root    *os.Root
	dir     string // where root is, as the OS writes it
	at      string // the folder below it, with slashes
	uid     int    // whose its files must be, unless they are root's; -1: anybody's
	windows bool
}

func (f folder) sub(rel ...string) folder {
	f.at = path.Join(append([]string{f.at}, rel...)...)
	return f
}

// path is how the OS writes the name's place.
func (f folder) path(name string) string {
	rel := path.Join(f.at, name)
	if f.windows {
		return strings.TrimSuffix(strings.TrimRight(f.dir, `\/`)+`\`+strings.ReplaceAll(rel, "/", `\`), `\.`)
	}
	return path.Join(f.dir, rel)
}

// read reads a regular file of maxFile at most. A pipe that somebody put there does not hold it up.
func (f folder) read(name string) ([]byte, error) {
	p := path.Join(f.at, name)
	fi, err := f.root.Stat(p)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() { // also before it is opened: opening a device may act
		return nil, errors.New("not a regular file")
	}
	file, err := f.root.OpenFile(p, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if fi, err = file.Stat(); err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	if uid := ownerOf(fi); uid > 0 && f.uid >= 0 && uid != f.uid {
		return nil, fmt.Errorf("the file belongs to user %d, not to the home's owner", uid)
	}
	b, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(b) > maxFile {
		return nil, fmt.Errorf("the file is larger than %d bytes", maxFile)
	}
	return b, err
}

// list gives the names in the folder, sorted.
func (f folder) list() ([]string, error) {
	fi, err := f.root.Stat(f.at)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		return nil, errNotFolder
	}
	d, err := f.root.OpenFile(f.at, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxEntries + 1)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if len(names) > maxEntries {
		return nil, fmt.Errorf("the folder has more than %d entries", maxEntries)
	}
	slices.Sort(names)
	return names, nil
}

// certs tells whether the folder has what TLS to an engine needs.
func (f folder) certs() error {
	for _, name := range []string{"ca.pem", "cert.pem", "key.pem"} {
		b, err := f.read(name)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is missing: %w", name, fs.ErrNotExist)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, reason(err))
		}
		if len(b) == 0 {
			return fmt.Errorf("%s is empty", name)
		}
	}
	return nil
}

// decodeJSON reads one document; what it does not know it leaves out. Editors on Windows begin a file with a mark.
func decodeJSON[T any](b []byte) (v T, err error) {
	if err = json.Unmarshal(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), &v); err != nil {
		return v, fmt.Errorf("reading JSON: %w", err)
	}
	return v, nil
}

// parsePairs reads lines "key = value" below "[section]" lines as pairs of section.key and value: .wslconfig, and such TOML
// as boot2docker writes, flat and in one line each. Comments begin with # or ;. Keys are case-insensitive, the last one wins.
func parsePairs(text string) map[string]string {
	out, section := map[string]string{}, ""
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			name, _, _ = strings.Cut(name, "]")
			section = strings.TrimSpace(name) + "."
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		out[strings.ToLower(section+strings.TrimSpace(key))] = unquote(strings.TrimSpace(value), "#;")
	}
	return out
}

// unquote takes the quotes from a value, or the comment that begins with one of the marks.
func unquote(v, marks string) string {
	if v != "" && (v[0] == '"' || v[0] == '\'') {
		if end := strings.IndexByte(v[1:], v[0]); end >= 0 {
			return v[1 : 1+end]
		}
	}
	if i := strings.IndexAny(v, marks); i >= 0 {
		v = v[:i]
	}
	return strings.TrimSpace(v)
}
