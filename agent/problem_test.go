package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unicode"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/dnsserver"
	"github.com/fairlead-dev/fairlead/platform"
)

func TestExplain(t *testing.T) {
	const general = "fairlead status tells more"
	own := &Problem{Code: ExitPartly, Err: errors.New("own"), Hint: "own hint"}
	for _, tt := range []struct {
		name string
		err  error
		code int
		hint string
	}{
		{"anything", errors.New("anything"), ExitFailed, general},
		{"a Problem", own, ExitPartly, "own hint"},
		{"a Problem inside", fmt.Errorf("outside: %w", own), ExitPartly, "own hint"},
		{"another fairlead", fmt.Errorf("control endpoint: %w", platform.ErrBusy), ExitFailed, "fairlead stop"},
		{"an old engine", fmt.Errorf("%w: it speaks API 1.24", engine.ErrTooOld), ExitFailed, "upgrade the engine"},
		{"Windows containers", fmt.Errorf("engine: %w", engine.ErrNotLinux), ExitFailed, "Linux containers"},
		{"a build without pilots", fmt.Errorf("pilot: %w", engine.ErrNoPilot), ExitFailed, "make build"},
		{"permission", fmt.Errorf("opening: %w", fs.ErrPermission), ExitNotPermitted, asRoot()},
		{"EACCES", &fs.PathError{Op: "open", Path: "/x", Err: syscall.EACCES}, ExitNotPermitted, asRoot()},
		{"EPERM", os.NewSyscallError("route", syscall.EPERM), ExitNotPermitted, asRoot()},
		{"no engine", fmt.Errorf("%w: x", engine.ErrNoAnswer), ExitFailed, "start the engine"},
		{"no permission for the engine", fmt.Errorf("%w: %w", engine.ErrNoAnswer, syscall.EACCES), ExitNotPermitted, asRoot()},
		{"an engine with another CA", fmt.Errorf("%w: %w", engine.ErrNoAnswer, x509.UnknownAuthorityError{}), ExitFailed, "certs=DIR"},
		{"an engine that wants a certificate", fmt.Errorf("%w: remote error: tls: bad certificate", engine.ErrNoAnswer), ExitFailed, "certs=DIR"},
		{"no certificates", fmt.Errorf("reading TLS certificates: %w", fs.ErrNotExist), ExitFailed, "certs=DIR"},
		{"address in use", fmt.Errorf("listen: %w", syscall.EADDRINUSE), ExitFailed, "another port"},
		{"address in use, Windows", os.NewSyscallError("bind", syscall.Errno(10048)), ExitFailed, "another port"},
		{"port kept by Hyper-V, Windows", os.NewSyscallError("bind", syscall.Errno(10013)), ExitFailed, "another port"},
		{"no such address", fmt.Errorf("listen: %w", syscall.EADDRNOTAVAIL), ExitFailed, "an address of this host"},
		{"no such address, Windows", os.NewSyscallError("bind", syscall.Errno(10049)), ExitFailed, "an address of this host"},
		{"a type that there is not", dnsserver.CheckQuestion("web.docker", "NOPE"), ExitUsage, "fairlead query web.docker AAAA"},
		{"not answered at all", errorOf(net.Dial("tcp", closedPort(t))), ExitFailed, "start the engine"},
		{"a port that is taken", errorOf(net.Listen("tcp", openPort(t))), ExitFailed, "another port"},
		{"an address of nobody", errorOf(net.Listen("tcp", "192.0.2.1:0")), ExitFailed, "an address of this host"},
		{"a folder that is none", errorOf(os.ReadDir("/nowhere/at/all")), ExitFailed, general},
	} {
		p := Explain(tt.err)
		if p.Code != tt.code || !strings.Contains(p.Hint, tt.hint) {
			t.Errorf("%s (%v): code %d, hint %q; want %d, ...%s...", tt.name, tt.err, p.Code, p.Hint, tt.code, tt.hint)
		}
		if !errors.Is(p, p.Err) || strings.ContainsAny(p.Error()+p.Hint, "\n\x1b") {
			t.Errorf("%s: %q, hint %q", tt.name, p, p.Hint)
		}
	}
}

// Who has port 53 decides what to do about it.
func TestExplainListen(t *testing.T) {
	at := netip.MustParseAddrPort("127.0.0.153:53")
	for _, tt := range []struct {
		err        error
		holder     platform.Process
		what, hint string
	}{
		{syscall.EADDRINUSE, platform.Process{PID: 7, Name: "svchost: SharedAccess"}, "svchost: SharedAccess (pid 7) has it", "for WSL, Hyper-V or Windows Sandbox; go on beside it with: --dns-listen [::1]:53"},
		{syscall.EADDRINUSE, platform.Process{PID: 7, Name: "named"}, "named (pid 7) has it", "--dns-listen 127.0.0.154:53"},
		{syscall.EADDRINUSE, platform.Process{}, "address already in use", "--dns-listen 127.0.0.154:53"},
		{syscall.EADDRNOTAVAIL, platform.Process{PID: 7}, "serving DNS", "an address of this host"},
	} {
		p := Explain(explainListen(tt.err, at, func(network string, _ netip.AddrPort) (platform.Process, bool) {
			return tt.holder, tt.holder.PID != 0 && network == "udp"
		}))
		if runtime.GOOS == "windows" && tt.holder.PID == 0 {
			tt.what = "serving DNS" // Windows has other words
		}
		if !strings.Contains(p.Error(), tt.what) || !strings.Contains(p.Hint, tt.hint) {
			t.Errorf("%v held by %v: %q, hint %q", tt.err, tt.holder, p, p.Hint)
		}
	}
}

func errorOf[T any](_ T, err error) error { return err }

func openPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestExplainEngine asks real endpoints.
func TestExplainEngine(t *testing.T) {
	tls := httptest.NewUnstartedServer(nil)
	tls.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	tls.StartTLS()
	defer tls.Close()
	for _, tt := range []struct{ name, url, certs, hint string }{
		{"TLS spoken to without", "tcp://" + tls.Listener.Addr().String(), "", "certs=DIR"},
		{"no certificates there", "tcp://" + tls.Listener.Addr().String(), t.TempDir(), "certs=DIR"},
		{"nobody there", "tcp://" + closedPort(t), "", "start the engine"},
	} {
		_, err := engine.New(engine.Endpoint{Name: "dev", URL: tt.url, Certs: tt.certs}, slog.New(slog.DiscardHandler)).Snapshot(context.Background())
		if err == nil {
			t.Errorf("%s: no error", tt.name)
			continue
		}
		if p := Explain(err); p.Code != ExitFailed || !strings.Contains(p.Hint, tt.hint) {
			t.Errorf("%s: %v: code %d, hint %q", tt.name, err, p.Code, p.Hint)
		}
	}
}

// TestOneLine: what strangers say in errors neither begins a line nor commands the terminal.
func TestOneLine(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"as it is", "as it is"},
		{"two\nlines\r\n\tand more  ", "two lines and more"},
		{"\x1b[31mred\x1b]0;title\a", "[31mred]0;title"},
		{"next\u0085line\u2028and\u2029\vmore\x00\x7f", "next line and more"},
		{"\u202egnp.exe\u200b", "gnp.exe"},
		{"größer – ja", "größer – ja"},
		{"\xff\x9b31m", "\ufffd\ufffd31m"},
		{"", ""},
	} {
		if got := oneLine(tt.text); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.text, got, tt.want)
		}
	}
	if got := (&Problem{Err: errors.Join(errors.New("a"), errors.New("b\x1b[2J"))}).Error(); got != "a b[2J" {
		t.Errorf("joined errors: %q", got)
	}
}

func FuzzOneLine(f *testing.F) {
	f.Add("\x1b[31m\n\x00\u2028\u202e\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := oneLine(s)
		if oneLine(got) != got || strings.ContainsFunc(got, func(r rune) bool { return r != ' ' && !unicode.IsGraphic(r) }) {
			t.Errorf("%q became %q", s, got)
		}
	})
}

// TestAsRoot: the hint pastes as the command that was given.
func TestAsRoot(t *testing.T) {
	old := os.Args
	defer func() { os.Args = old }()
	os.Args = []string{"fairlead", "setup-network", "--engine", "dev=tcp://[::1]:2376?certs=/my certs", "--domain", "", "it's", "$(id)"}
	want := `run: sudo fairlead setup-network --engine 'dev=tcp://[::1]:2376?certs=/my certs' --domain '' 'it'\''s' '$(id)'`
	if strings.HasPrefix(platform.DefaultEngine, "npipe:") {
		want = "run it in a prompt started by: Run as Administrator"
	}
	if got := asRoot(); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}
