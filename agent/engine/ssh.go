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
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:"
	user, host := u.User.Username(), u.Hostname()
	_, secret := u.User.Password()
	switch {
	case host == "" || host[0] == '-' || strings.Trim(host, plain) != "" || user != "" && user[0] == '-' || strings.Trim(user, plain+`\`) != "":
		return nil, errors.New("an ssh endpoint is written ssh://USER@HOST")
	case secret:
		return nil, errors.New("ssh takes no password from a URL; use a key")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("all that may follow the host is a port and the socket's path")
	case strings.Trim(u.Path, plain+"/") != "": // it goes through the other side's shell
		return nil, errors.New("the socket's path may have letters, digits and -_. only")
	}
	if port, err := strconv.ParseUint(cmp.Or(u.Port(), "22"), 10, 16); err != nil || port == 0 {
		return nil, errors.New("a port is a number from 1 to 65535")
	}
	args := []string{"-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"}
	if user != "" {
		args = append(args, "-l", user)
	}
	if u.Port() != "" {
		args = append(args, "-p", u.Port())
	}
	args = append(args, "--", host, "docker")
	if u.Path != "" && u.Path != "/" {
		args = append(args, "--host", "unix://"+u.Path)
	}
	return append(args, "system", "dial-stdio"), nil
}

// dialSSH connects by way of ssh, which runs as the owner of Home: it does what that user's files say.
func (e Endpoint) dialSSH(ctx context.Context, _, _ string) (net.Conn, error) {
	args, err := sshArgs(e.URL)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("ssh", args...)
	if err := asOwner(cmd, e.Home); err != nil {
		return nil, err
	}
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
	c := &sshConn{cmd: cmd, in: stdin, out: stdout, at: e.URL, exited: make(chan struct{})}
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

// sshConn is an ssh process as a connection.
type sshConn struct {
	cmd     *exec.Cmd
	in, out *os.File
	at      string
	said    lastLine
	exited  chan struct{}
}

func (c *sshConn) Write(p []byte) (int, error) { return c.in.Write(p) }

// Read returns what ssh has said when it ends: its reason is worth more than "EOF".
func (c *sshConn) Read(p []byte) (int, error) {
	n, err := c.out.Read(p)
	if n == 0 && err != nil {
		select {
		case <-c.exited:
		case <-time.After(time.Second):
		}
		if said := c.said.String(); said != "" && !errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("ssh: %s", strings.TrimPrefix(said, "ssh: "))
		}
	}
	return n, err
}

func (c *sshConn) CloseWrite() error { return c.in.Close() }

func (c *sshConn) Close() error {
	_ = c.in.Close()
	err := c.out.Close()
	select {
	case <-c.exited:
	case <-time.After(time.Second): // it may wait for the other side
		_ = c.cmd.Process.Kill()
	}
	return err
}

func (c *sshConn) LocalAddr() net.Addr                { return sshAddr("ssh") }
func (c *sshConn) RemoteAddr() net.Addr               { return sshAddr(c.at) }
func (c *sshConn) SetReadDeadline(t time.Time) error  { return c.out.SetReadDeadline(t) }
func (c *sshConn) SetWriteDeadline(t time.Time) error { return c.in.SetWriteDeadline(t) }
func (c *sshConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

type sshAddr string

func (sshAddr) Network() string  { return "ssh" }
func (a sshAddr) String() string { return string(a) }

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
	lines := strings.Split(strings.TrimSpace(string(l.end)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
