package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sshArgs is the command line that ends at the API of an ssh:// endpoint's engine, as docker has it
// (github.com/docker/cli, cli/connhelper): ssh://[USER@]HOST[:PORT][/path/to/docker.sock].
func sshArgs(raw string) ([]string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	user, host := u.User.Username(), u.Hostname()
	_, secret := u.User.Password()
	switch {
	case host == "" || host[0] == '-' || strings.Trim(host, plain+":") != "" || user != "" && user[0] == '-' || strings.Trim(user, plain+`:\`) != "":
		return nil, errors.New("an ssh endpoint is written ssh://USER@HOST")
	case secret:
		return nil, errors.New("ssh takes no password from a URL; use a key")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("all that may follow the host is a port and the socket's path")
	}
	there, err := dialStdio(u.Path)
	if err != nil {
		return nil, err
	}
	if port, err := strconv.ParseUint(cmp.Or(u.Port(), "22"), 10, 16); err != nil || port == 0 {
		return nil, errors.New("a port is a number from 1 to 65535")
	}
	// The last two: the other end of an idle connection may vanish without a word, and nobody else notices.
	args := []string{"-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=2"}
	if user != "" {
		args = append(args, "-l", user)
	}
	if u.Port() != "" {
		args = append(args, "-p", u.Port())
	}
	return append(append(args, "--", host), there...), nil
}

// plain are the characters that mean nothing else to any shell, nor to ssh and wsl.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

// dialStdio is the command that leads from its standard input and output to the engine that is where it runs, at socket if not
// at the usual one.
func dialStdio(socket string) ([]string, error) {
	switch {
	case socket == "" || socket == "/":
		return []string{"docker", "system", "dial-stdio"}, nil
	case strings.Trim(socket, plain+"/") != "": // it goes through the other side's shell
		return nil, errors.New("the socket's path may have letters, digits and -_. only")
	}
	return []string{"docker", "--host", "unix://" + socket, "system", "dial-stdio"}, nil
}

// AsUser tells whether a program leads to the engine that runs as the owner of Home: ssh or wsl.
func (e Endpoint) AsUser() bool {
	return strings.HasPrefix(e.URL, "ssh:") || strings.HasPrefix(e.URL, "wsl:")
}

// dialProgram connects by way of ssh or wsl, which runs as the owner of Home: it does what that user's files say.
func (e Endpoint) dialProgram(ctx context.Context, _, _ string) (net.Conn, error) {
	name, words := "ssh", sshArgs
	if strings.HasPrefix(e.URL, "wsl:") {
		name, words = "wsl", wslArgs
		if err := e.runs(ctx); err != nil {
			return nil, err
		}
	}
	args, err := words(e.URL)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(name, args...)
	if name == "wsl" {
		cmd = wsl(args...)
	}
	started, err := asOwner(cmd, e.Home)
	if err != nil {
		return nil, err
	}
	defer started()
	in, stdin, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	stdout, out, err := os.Pipe()
	if err != nil {
		in.Close()
		stdin.Close()
		return nil, err
	}
	c := &programConn{name: name, cmd: cmd, in: stdin, out: stdout, at: e.URL, exited: make(chan struct{})}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &c.said
	err = cmd.Start()
	in.Close()
	out.Close()
	if err != nil {
		stdin.Close()
		stdout.Close()
		return nil, err
	}
	go func() {
		_ = cmd.Wait()
		close(c.exited)
	}()
	return c, nil
}

// programConn is a process of ssh or wsl as a connection.
type programConn struct {
	name    string
	cmd     *exec.Cmd
	in, out *os.File
	at      string
	said    lastLine
	exited  chan struct{}
}

func (c *programConn) Write(p []byte) (int, error) { return c.in.Write(p) }

// Read returns what the program has said when it ends: its reason is worth more than "EOF".
func (c *programConn) Read(p []byte) (int, error) {
	n, err := c.out.Read(p)
	if n == 0 && err != nil {
		select {
		case <-c.exited:
		case <-time.After(time.Second):
		}
		if said := c.said.String(); said != "" && !errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("%s: %s", c.name, strings.TrimPrefix(said, c.name+": "))
		}
	}
	return n, err
}

func (c *programConn) CloseWrite() error { return c.in.Close() }

func (c *programConn) Close() error {
	_ = c.in.Close()
	err := c.out.Close()
	select {
	case <-c.exited:
	case <-time.After(time.Second): // it may wait for the other side
		_ = c.cmd.Process.Kill()
	}
	return err
}

func (c *programConn) LocalAddr() net.Addr                { return programAddr(c.name) }
func (c *programConn) RemoteAddr() net.Addr               { return programAddr(c.at) }
func (c *programConn) SetReadDeadline(t time.Time) error  { return c.out.SetReadDeadline(t) }
func (c *programConn) SetWriteDeadline(t time.Time) error { return c.in.SetWriteDeadline(t) }
func (c *programConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

type programAddr string

func (programAddr) Network() string  { return "stdio" }
func (a programAddr) String() string { return string(a) }

// lastLine keeps the end of what is written to it, a line of a reader's patience.
type lastLine struct {
	mu  sync.Mutex
	end []byte
}

func (l *lastLine) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = append(l.end, p...)
	l.end = l.end[max(0, len(l.end)-500):]
	return len(p), nil
}

func (l *lastLine) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(wslText(l.end)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
