package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

var methods = []Method{Resolved, ResolvConf}

// Detect turns a --resolver word into a method that works on this host, and says why. "auto" gives None where systemd-resolved
// does not serve this host's lookups: nothing else on Linux asks different servers for different names. Another word is only
// checked; the error says why it cannot work here and what to do.
func Detect(ctx context.Context, mode string) (m Method, why string, err error) {
	m, err = Parse(mode)
	if err != nil {
		return "", "", err
	}
	var f facts
	r, err := dialResolve1(ctx)
	if f.resolved = err; err == nil {
		r.close()
	}
	conf, _ := os.ReadFile(resolvConfPath) // following a symlink; what cannot be read is empty for programs, too
	nss, _ := os.ReadFile("/etc/nsswitch.conf")
	f.conf, f.nss = string(conf), string(nss)
	entries, err := confFile{resolvConfPath}.entries()
	if err != nil {
		f.file = err.Error()
	}
	for _, e := range entries {
		f.file = e.Foreign
	}
	return decide(m, f)
}

// facts are what Detect decides on.
type facts struct {
	resolved error  // nil = runs; else why it does not
	conf     string // content of /etc/resolv.conf, symlinks followed
	nss      string // content of /etc/nsswitch.conf
	file     string // why /etc/resolv.conf is not ours to change; "" = it is
}

func decide(mode Method, f facts) (Method, string, error) {
	via, serves := f.servedByResolved()
	switch mode {
	case Auto, Resolved:
		if f.resolved == nil && serves {
			return Resolved, "systemd-resolved serves this host's lookups: " + via, nil
		}
		if f.resolved == nil && mode == Resolved {
			return Resolved, "asked for, but systemd-resolved does not see this host's lookups: " + via +
				"; hint: ln -sf ../run/systemd/resolve/stub-resolv.conf " + resolvConfPath, nil
		}
	case ResolvConf:
		if f.file != "" {
			return "", "", fmt.Errorf("use resolver resolv.conf: %s", f.file)
		}
		return ResolvConf, "asked for: glibc asks the first nameserver first, and the next ones for what that one refuses", nil
	case None:
		return None, "asked for: names are answered to whoever asks our port", nil
	}
	reason := "systemd-resolved runs but does not see this host's lookups: " + via
	hint := "ln -sf ../run/systemd/resolve/stub-resolv.conf " + resolvConfPath
	if f.resolved != nil {
		reason, hint = f.resolved.Error(), "systemctl enable --now systemd-resolved"
	}
	if mode == Resolved {
		return "", "", fmt.Errorf("use resolver resolved: %s; hint: %s", reason, hint)
	}
	if servers := nameservers(f.conf); len(servers) > 0 && servers[0].IsLoopback() && !isStub(servers[0]) {
		hint += fmt.Sprintf(", or a line in the server on %v (dnsmasq: server=/docker/127.0.0.1#%d)", servers[0], DefaultListen(None).Port())
	}
	if f.file == "" {
		hint += ", or --resolver resolv.conf"
	}
	return None, reason + "; nothing else here can ask one server for some names only; hint: " + hint, nil
}

// servedByResolved tells whether programs' lookups come to resolved, and which line says so. A comment in the file proves
// nothing: the first nameserver does, or glibc's "resolve" module before "dns".
func (f facts) servedByResolved() (line string, ok bool) {
	servers := nameservers(f.conf)
	if len(servers) > 0 && isStub(servers[0]) {
		return fmt.Sprintf("%s asks %v", resolvConfPath, servers[0]), true
	}
	for line := range strings.Lines(f.nss) {
		sources, isHosts := strings.CutPrefix(strings.TrimSpace(line), "hosts:")
		if !isHosts {
			continue
		}
		sources, _, _ = strings.Cut(sources, "#")
		for _, source := range strings.Fields(sources) {
			if source == "resolve" {
				return "nsswitch.conf has resolve (programs that read resolv.conf themselves, as dig does, still do not ask it)", true
			}
			if source == "dns" {
				break
			}
		}
	}
	if len(servers) == 0 {
		return resolvConfPath + " has no nameserver", false
	}
	return fmt.Sprintf("%s asks %v", resolvConfPath, servers[0]), false
}

// isStub tells whether resolved listens on addr (systemd-resolved.service(8)).
func isStub(addr netip.Addr) bool {
	return addr == netip.AddrFrom4([4]byte{127, 0, 0, 53}) || addr == netip.AddrFrom4([4]byte{127, 0, 0, 54})
}

// Read finds everything on this OS that carries our mark, whichever method made it, and what is foreign in its place.
func Read(ctx context.Context) ([]Entry, error) {
	found, err := readLink(ctx)
	if err != nil {
		return nil, err
	}
	blocks, err := confFile{resolvConfPath}.entries()
	if err != nil {
		return nil, err
	}
	return append(found, blocks...), nil
}

// Apply makes the steps in their order and reads each back; one that fails holds back none of the others. A step whose object
// has changed since Read fails; without the right to change things the error is fs.ErrPermission. Flush afterwards. Call it
// with an empty plan, too: it sweeps what a kill in the middle of a write left.
func Apply(ctx context.Context, p Plan) []Result {
	var results []Result
	for _, s := range p.Steps {
		item := s.New
		if item == (Item{}) {
			item = s.Old
		}
		var err error
		switch item.Method {
		case Resolved:
			err = applyLink(ctx, s)
		case ResolvConf:
			err = confFile{resolvConfPath}.apply(s)
		default:
			err = errors.New("no such method on this OS")
		}
		if err != nil {
			err = fmt.Errorf("%v: %w", s, err)
		}
		results = append(results, Result{s, err})
	}
	if err := (confFile{resolvConfPath}).sweep(); err != nil {
		results = append(results, Result{Err: err})
	}
	return results
}

// Flush makes the OS forget answers that it has cached, negative ones too. glibc by itself has no cache.
func Flush(ctx context.Context, m Method) error {
	if m != Resolved {
		return nil
	}
	r, err := dialResolve1(ctx)
	if err == nil {
		defer r.close()
		err = r.manager(ctx, "FlushCaches").Err
	}
	if err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// Watch calls changed when something happened after which Read may find less than before: resolved has stopped or started,
// or somebody has written resolv.conf; and once when it has begun to look. It returns nil when ctx ends. Its hints can be lost;
// read on a timer, too.
func Watch(ctx context.Context, m Method, changed func()) error {
	switch m {
	case Resolved:
		return watchResolve1(ctx, changed)
	case ResolvConf:
		return confFile{resolvConfPath}.watch(ctx, changed)
	}
	<-ctx.Done()
	return nil
}
