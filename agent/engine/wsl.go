package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf16"
)

// An engine inside a WSL2 distribution is written wsl://DISTRIBUTION[/path/to/docker.sock]. Distributions are their user's alone: wsl.exe,
// as that user, is the way to them (learn.microsoft.com/windows/wsl/basic-commands).

// wslArgs are what wsl.exe is to be told, to end at the API of a wsl:// endpoint's engine.
func wslArgs(raw string) ([]string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	if u.Host == "" || u.Host[0] == '-' || strings.Trim(u.Host, plain) != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("an engine inside a WSL distribution is written wsl://DISTRIBUTION, as wsl --list has its name")
	}
	there, err := dialStdio(u.Path)
	if err != nil {
		return nil, err
	}
	return within(u.Host, there...), nil
}

// within are wsl.exe's words for a command in a distribution, without a shell. As its root: the engine's socket is root's.
func within(distribution string, words ...string) []string {
	return append([]string{"--distribution", distribution, "--user", "root", "--exec"}, words...)
}

// wsl is wsl.exe of Windows, nobody's that lies in some PATH before it.
func wsl(args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(os.Getenv("SystemRoot"), "System32", "wsl.exe"), args...)
}

// asked is what wsl.exe says to args, as the owner of Home.
func (e Endpoint) asked(ctx context.Context, args ...string) (string, error) {
	cmd := wsl(args...)
	started, err := asOwner(cmd, e.Home)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, time.Second
	err = cmd.Start()
	started()
	if err != nil {
		return "", fmt.Errorf("wsl: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })()
	err = cmd.Wait()
	if errors.Is(err, exec.ErrWaitDelay) { // it has ended well, and something that it left running still has its output
		err = nil
	}
	said := strings.TrimSpace(wslText(out.Bytes()))
	if err != nil {
		return "", fmt.Errorf("wsl: %w: %s", err, said)
	}
	return said, nil
}

// runs returns nil when the distribution runs. A command in it would start one that does not, which is its user's affair.
func (e Endpoint) runs(ctx context.Context) error {
	u, err := url.Parse(e.URL)
	if err != nil {
		return err
	}
	said, err := e.asked(ctx, "--list", "--running", "--quiet")
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) { // which is: none runs
		return err
	}
	if !slices.ContainsFunc(strings.Fields(said), func(name string) bool { return strings.EqualFold(name, u.Host) }) {
		return fmt.Errorf("the WSL distribution %s does not run; hint: start it with: wsl --distribution %[1]s", u.Host)
	}
	return nil
}

// Locals are the IPv4 addresses of a wsl:// endpoint's distribution, all of those that run having the same; none for other
// endpoints. With mirrored networking they are this host's own.
func (e Endpoint) Locals(ctx context.Context) ([]netip.Addr, error) {
	u, err := url.Parse(e.URL)
	if err != nil || u.Scheme != "wsl" {
		return nil, err
	}
	said, err := e.asked(ctx, within(u.Host, "cat", "/proc/net/fib_trie")...) // no tool that a distribution could lack
	return parseLocals(said), err
}

// parseLocals finds the addresses in a Linux kernel's /proc/net/fib_trie that are its own, without those of its loopback: a
// leaf "|-- ADDRESS", and below it "/32 host LOCAL".
func parseLocals(trie string) (locals []netip.Addr) {
	var leaf netip.Addr
	for line := range strings.Lines(trie) {
		line = strings.TrimSpace(line)
		if s, ok := strings.CutPrefix(line, "|-- "); ok {
			leaf, _ = netip.ParseAddr(s)
		} else if line == "/32 host LOCAL" && leaf.Is4() && !leaf.IsLoopback() && !slices.Contains(locals, leaf) {
			locals = append(locals, leaf)
		}
	}
	return locals
}

// wslText is what wsl.exe says: in UTF-16 when it speaks itself, as is when a Linux program does.
func wslText(b []byte) string {
	if !bytes.Contains(b, []byte{0}) {
		return string(b)
	}
	var units []uint16
	for ; len(b) >= 2; b = b[2:] {
		units = append(units, binary.LittleEndian.Uint16(b))
	}
	return strings.TrimPrefix(string(utf16.Decode(units)), "\ufeff")
}
