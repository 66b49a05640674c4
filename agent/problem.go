package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/dnsserver"
	"github.com/fairlead-dev/fairlead/platform"
)

// Problem is an error that a person can act on: Err says which link is broken, Hint which command mends it.
type Problem struct {
	Code int // the process's exit code, see the Exit constants
	Err  error
	Hint string
}

// Exit codes of the command (docs/design.md, "The command").
const (
	ExitFailed       = 1
	ExitUsage        = 2
	ExitNotPermitted = 3
	ExitPartly       = 4
)

// Error is one line, whatever strangers had to say.
func (p *Problem) Error() string { return oneLine(p.Err.Error()) }
func (p *Problem) Unwrap() error { return p.Err }

func usage(hint, format string, args ...any) *Problem {
	return &Problem{Code: ExitUsage, Err: fmt.Errorf(format, args...), Hint: hint}
}

// Explain gives an error of the layers below the hint that belongs to it. A Problem is returned as it is.
func Explain(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	p = &Problem{Code: ExitFailed, Err: err, Hint: tellsMore}
	if what, hint, ok := strings.Cut(err.Error(), "; hint: "); ok { // the resolver's own words
		p.Err, p.Hint = errors.New(what), hint
		return p
	}
	var op *net.OpError
	switch {
	case errors.Is(err, platform.ErrBusy):
		p.Hint = "fairlead status shows what it does; stop it with: fairlead stop"
	case errors.Is(err, engine.ErrTooOld):
		p.Hint = "upgrade the engine; docker-machine: docker-machine upgrade NAME"
	case errors.Is(err, engine.ErrNotLinux):
		p.Hint = "switch Docker Desktop to Linux containers, or name another engine with --engine"
	case errors.Is(err, engine.ErrNoPilot):
		p.Hint = "build fairlead with: make build"
	case errors.Is(err, dnsserver.ErrQuestion):
		p.Code, p.Hint = ExitUsage, "a question is written: fairlead query web.docker AAAA; other types are A, PTR, SRV, TXT, SOA, NS, ANY, TYPE65"
	case errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.Errno(wsaAddrInUse)) || errors.Is(err, syscall.Errno(wsaAccess)):
		p.Hint = "choose another port, as with: --dns-listen 127.0.0.1:5354"
	case errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.Errno(wsaAddrNotAvail)):
		p.Hint = "choose an address of this host, as with: --dns-listen 127.0.0.1:55353"
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EPERM):
		p.Code, p.Hint = ExitNotPermitted, asRoot()
	case aboutTLS(err): // before ErrNoAnswer, which wraps what TLS has to say
		p.Hint = "give the folder with ca.pem, cert.pem and key.pem: --engine 'NAME=tcp://HOST:2376?certs=DIR'"
	case errors.Is(err, engine.ErrNoAnswer) || errors.As(err, &op) && op.Op == "dial":
		p.Hint = "start the engine, or name its endpoint with --engine NAME=URL; docker -H URL version tells whether it answers"
	}
	return p
}

// explainListen says who has the port that we would serve names on, and what to do.
func explainListen(err error, listen netip.AddrPort, holder func(network string, at netip.AddrPort) (platform.Process, bool)) error {
	taken := errors.Is(err, syscall.EADDRINUSE)
	err = fmt.Errorf("serving DNS: %w", err)
	if !taken {
		return err
	}
	for _, network := range []string{"udp", "tcp"} {
		p, ok := holder(network, listen)
		if !ok {
			continue
		}
		err = fmt.Errorf("%w: %v has it", err, p)
		if strings.Contains(p.Name, "SharedAccess") { // Internet Connection Sharing, for WSL, Hyper-V's Default Switch, Windows Sandbox
			return &Problem{Code: ExitFailed, Err: err, Hint: "it keeps port 53 of every IPv4 address for WSL, Hyper-V or Windows Sandbox; go on beside it with: --dns-listen [::1]:53"}
		}
		break
	}
	if listen.Port() != 53 {
		return err
	}
	return &Problem{Code: ExitFailed, Err: err, Hint: "end it, or choose another address of this host, as with: --dns-listen 127.0.0.154:53"}
}

// tellsMore is the hint where no better one is known.
const tellsMore = "fairlead status tells more; fairlead run --log-level debug tells all"

// aboutTLS tells whether one side spoke TLS and the other did not, or not with certificates that both take.
func aboutTLS(err error) bool {
	return slices.ContainsFunc([]string{"certificate", "tls: ", "without TLS", "HTTPS server"}, func(s string) bool {
		return strings.Contains(err.Error(), s)
	})
}

// What Windows' sockets say; the syscall package's constants of these names are invented ones there.
// https://learn.microsoft.com/windows/win32/winsock/windows-sockets-error-codes-2
const (
	wsaAccess       = 10013 // for bind: the port is in a range that Hyper-V keeps for itself
	wsaAddrInUse    = 10048
	wsaAddrNotAvail = 10049
)

// asRoot is the hint to run this very command with more rights.
func asRoot() string {
	args := append([]string{"sudo", "fairlead"}, os.Args[1:]...)
	if platform.DefaultEngine[0] == 'n' { // a named pipe: Windows
		return "run it in a prompt started by: Run as Administrator"
	}
	for i, a := range args {
		if strings.Trim(a, unquoted) != "" || a == "" {
			args[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return "run: " + strings.Join(args, " ")
}

// unquoted are the characters that mean nothing else in any shell.
const unquoted = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:=,@"
