package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

//go:embed janitor.sh
var janitorScript string

//go:embed init.sh
var initScript string

// nowhere is a resolv.conf that leads nowhere: TEST-NET-1, RFC 5737.
const nowhere = "nameserver 192.0.2.53\n"

// Options says what the host of a world looks like. The zero value is a host without any network but loopback.
type Options struct {
	ResolvConf string // text of /etc/resolv.conf; default: a name server that cannot be reached
}

// World is a host, and the VMs made for it.
type World struct {
	machine
	id      string // unique on this machine, in the name of everything made: "fl-1f0e8a22c4"
	dir     string // below /tmp, whatever TMPDIR says: paths of unix sockets must be short
	undo    io.WriteCloser
	janitor *exec.Cmd
	report  bytes.Buffer // what the janitor could not undo

	mu  sync.Mutex
	vms []*VM

	close func() error
}

// Check returns why no world can be made here, in one line with the way out, or nil.
func Check() error {
	if os.Geteuid() != 0 {
		return errors.New("the lab needs root: it makes network namespaces")
	}
	var missing []string
	for _, tool := range []string{dockerdPath(""), dockerPath(), "ip", "iptables-save", "nft", "nsenter", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if missing != nil {
		return fmt.Errorf("the lab needs %s: run internal/lab/prepare.sh", strings.Join(missing, ", "))
	}
	return nil
}

// New makes a world with no VM in it. The caller must Close it.
func New(ctx context.Context, opts Options) (_ *World, err error) {
	if err := Check(); err != nil {
		return nil, err
	}
	if opts.ResolvConf == "" {
		opts.ResolvConf = nowhere
	}
	var random [5]byte
	rand.Read(random[:])
	w := &World{id: "fl-" + hex.EncodeToString(random[:])}
	w.dir = "/tmp/" + w.id
	w.halt = func() {}
	w.close = sync.OnceValue(w.end)
	if err := w.hire(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	// Each undo is handed over before the deed: undoing what was never done is no error.
	if err := w.atEnd("netnsdir"); err != nil {
		return nil, err
	}
	if err := w.atEnd("rm -rf --one-file-system " + w.dir); err != nil {
		return nil, err
	}
	if err := os.Mkdir(w.dir, 0o755); err != nil {
		return nil, err
	}
	if err := w.boot(ctx, &w.machine, "host", opts.ResolvConf); err != nil {
		return nil, fmt.Errorf("make host: %w", err)
	}
	return w, nil
}

// Close removes the VMs and the host and returns what could not be removed. Calling it again returns the same.
func (w *World) Close() error { return w.close() }

func (w *World) end() error {
	w.mu.Lock()
	vms := w.vms
	w.vms = nil
	w.mu.Unlock()
	for _, vm := range vms {
		vm.end()
	}
	w.halt()
	w.undo.Close()
	if err := w.janitor.Wait(); err != nil {
		return fmt.Errorf("undo world %s: %w: %s", w.id, err, w.report.String())
	}
	if w.report.Len() > 0 {
		return fmt.Errorf("undo world %s: %s", w.id, strings.TrimSpace(w.report.String()))
	}
	return nil
}

// hire starts the janitor, in a session of its own so that no signal meant for us ends it.
func (w *World) hire() (err error) {
	w.janitor = exec.Command("/bin/sh", "-c", janitorScript)
	w.janitor.Dir = "/"
	w.janitor.Env = []string{"PATH=" + searchPath()}
	w.janitor.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	w.janitor.Stdout = &w.report
	w.janitor.Stderr = &w.report
	if w.undo, err = w.janitor.StdinPipe(); err != nil {
		return err
	}
	if err := w.janitor.Start(); err != nil {
		return fmt.Errorf("start janitor: %w", err)
	}
	return nil
}

// atEnd has the janitor run one line of shell when the world ends.
func (w *World) atEnd(line string) error {
	if _, err := fmt.Fprintln(w.undo, line); err != nil {
		return fmt.Errorf("tell janitor: %w", err)
	}
	return nil
}

// machine is a set of namespaces kept by one process: the host, or a VM.
type machine struct {
	netns string   // name below /run/netns
	dir   string   // seen from everywhere: sockets and logs
	own   string   // an empty directory outside, a tmpfs inside
	bin   []string // folders that its commands are searched in before all others
	isVM  bool
	boots int

	init  *exec.Cmd
	alive io.Closer // init's input; the machine ends when this closes
	halt  func()    // returns when the last process of a VM is gone
}

// boot starts the first process of a machine.
func (w *World) boot(ctx context.Context, m *machine, name, resolvConf string) error {
	m.netns = w.id + "-" + name
	if m.boots++; m.boots > 1 {
		m.netns += fmt.Sprintf("-%d", m.boots)
	}
	m.dir = filepath.Join(w.dir, name)
	m.own = filepath.Join(m.dir, "own")
	m.isVM = m != &w.machine
	kind := "host"
	if m.isVM {
		kind = "vm"
	}
	if err := os.MkdirAll(m.own, 0o755); err != nil {
		return err
	}
	if err := w.atEnd("netns " + m.netns); err != nil {
		return err
	}
	if err := addNetns(ctx, m.netns); err != nil {
		return err
	}
	m.init = exec.Command("nsenter", "--net=/run/netns/"+m.netns,
		"/bin/sh", "-c", initScript, "init", name, m.own, resolvConf, kind)
	m.init.Dir = "/"
	m.init.Env = []string{"PATH=" + searchPath()}
	m.init.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS}
	if m.isVM {
		m.init.SysProcAttr.Cloneflags |= syscall.CLONE_NEWPID
	}
	alive, err := m.init.StdinPipe()
	if err != nil {
		return err
	}
	said, err := m.init.StdoutPipe()
	if err != nil {
		return err
	}
	m.init.Stderr = m.init.Stdout
	if err := m.init.Start(); err != nil {
		return fmt.Errorf("start init: %w", err)
	}
	m.alive = alive
	m.halt = sync.OnceFunc(func() {
		m.alive.Close()
		m.init.Process.Kill() // a paused or wedged init does not see the end of its input
		m.init.Wait()
	})
	// The script ends its output, one way or the other, by exec or by exit.
	text, err := io.ReadAll(said)
	if err != nil {
		return fmt.Errorf("read init: %w", err)
	}
	if string(text) != "ready\n" {
		return fmt.Errorf("init: %s", strings.TrimSpace(string(text)))
	}
	return nil
}

// addNetns is `ip netns add`. The first one on a machine turns /run/netns into a mount; a note is left that it was ours.
func addNetns(ctx context.Context, name string) error {
	lock, err := os.Open("/run")
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock /run: %w", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if !bytes.Contains(mounts, []byte(" /run/netns ")) {
		if err := os.WriteFile("/run/netns.lab", nil, 0o600); err != nil {
			return err
		}
	}
	_, err = run(exec.CommandContext(ctx, "ip", "netns", "add", name))
	return err
}

// Root is a path below which this process sees the machine's own files: Root() + "/etc/resolv.conf".
func (m *machine) Root() string { return fmt.Sprintf("/proc/%d/root", m.init.Process.Pid) }

// Netns is the name of the network namespace, for `ip -n NAME`.
func (m *machine) Netns() string { return m.netns }

// Command returns a command that will run in the machine: its network, its files, its host name. It runs in this
// process's working directory; Dir has no effect. On the host, signals to cmd.Process reach the command itself.
func (m *machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	wd, err := os.Getwd()
	if err != nil {
		wd = "/"
	}
	enter := []string{fmt.Sprintf("--target=%d", m.init.Process.Pid), "--net", "--mount", "--uts"}
	if m.isVM {
		enter = append(enter, "--pid")
	}
	// nsenter's own --wdns is younger than Ubuntu 22.04.
	enter = append(enter, "/bin/sh", "-c", `cd "$0" && exec "$@"`, wd, name)
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+searchPath(m.bin...))
	return cmd
}

// Run runs a command in the machine and returns its standard output; the error holds its standard error.
func (m *machine) Run(ctx context.Context, name string, args ...string) (string, error) {
	return run(m.Command(ctx, name, args...), append([]string{m.netns + ": " + name}, args...)...)
}

// Routes returns the lines of `ip route` of the main table, IPv4 then IPv6, one space between words.
func (m *machine) Routes(ctx context.Context) ([]string, error) {
	var routes []string
	for _, family := range []string{"-4", "-6"} {
		out, err := m.Run(ctx, "ip", family, "route", "show")
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			routes = append(routes, strings.Join(strings.Fields(line), " "))
		}
	}
	return routes, nil
}

// DeleteRoute deletes the route to dst behind the back of whoever made it. That there is none is an error.
func (m *machine) DeleteRoute(ctx context.Context, dst netip.Prefix) error {
	_, err := m.Run(ctx, "ip", "route", "del", dst.String())
	return err
}

// State returns links, addresses, routes and rules of every table, and all of /etc as text (mode, digest, path;
// resolv.conf in full), to be compared byte by byte with a later State. Never part of it: neighbours, counters.
func (m *machine) State(ctx context.Context) (string, error) {
	var state strings.Builder
	for _, args := range []string{"-br link", "-br addr", "-4 rule", "-6 rule", "-4 route show table all", "-6 route show table all"} {
		out, err := m.Run(ctx, "ip", strings.Fields(args)...)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&state, "# ip %s\n%s\n", args, out)
	}
	etc := os.DirFS(m.Root() + "/etc")
	resolvConf, err := fs.ReadFile(etc, "resolv.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	fmt.Fprintf(&state, "# /etc/resolv.conf\n%s\n# /etc\n", resolvConf)
	err = fs.WalkDir(etc, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		var content string
		switch info.Mode().Type() {
		case 0:
			data, err := fs.ReadFile(etc, path)
			if err != nil {
				return err
			}
			content = fmt.Sprintf("%x", sha256.Sum256(data))
		case fs.ModeSymlink:
			if content, err = os.Readlink(m.Root() + "/etc/" + path); err != nil {
				return err
			}
		}
		fmt.Fprintln(&state, info.Mode(), content, path)
		return nil
	})
	return state.String(), err
}

// start starts cmd as our child inside a VM, its pid namespace included: nsenter would stand between us and it.
func (m *machine) start(cmd *exec.Cmd) error {
	return m.enter([]string{"net", "uts", "pid", "mnt"}, cmd.Start)
}

// Dial connects from the machine to an address and port. The machine's own files are not looked at: no names.
func (m *machine) Dial(ctx context.Context, network string, to netip.AddrPort) (conn net.Conn, err error) {
	err = m.enter([]string{"net"}, func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, to.String())
		return err
	})
	return conn, err
}

// enter runs f on a thread inside some of the machine's namespaces, as /proc/PID/ns names them.
func (m *machine) enter(names []string, f func() error) error {
	var namespaces []*os.File
	for _, name := range names {
		file, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", m.init.Process.Pid, name))
		if err != nil {
			return err
		}
		defer file.Close()
		namespaces = append(namespaces, file)
	}
	return onSpareThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil { // the condition for entering a mount namespace
			return fmt.Errorf("unshare fs: %w", err)
		}
		for _, file := range namespaces {
			if err := unix.Setns(int(file.Fd()), 0); err != nil {
				return fmt.Errorf("enter %s: %w", file.Name(), err)
			}
		}
		return f()
	})
}

// onSpareThread runs f on a thread that ends with it. It is never the main thread, which the runtime keeps for good
// and by which the kernel would then count this whole process as part of the VM.
func onSpareThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			done <- onSpareThread(f)
			return
		}
		done <- f()
	}()
	return <-done
}

// run runs cmd and returns its standard output; the error holds its standard error, and names the command by words
// where they are given.
func run(cmd *exec.Cmd, words ...string) (string, error) {
	if words == nil {
		words = cmd.Args
	}
	var out, complaint strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// searchPath is PATH with the folders of system tools added, after some that are to be searched first.
func searchPath(first ...string) string {
	path := append(slices.Clone(first), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")
	if set := os.Getenv("PATH"); set != "" {
		path = slices.Insert(path, len(first), set)
	}
	return strings.Join(path, ":")
}
