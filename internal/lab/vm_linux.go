package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// VMOptions says what a VM looks like. The zero value is a routed VM like docker-machine's first one; the n-th VM of
// a world (from 0) has n added to the third byte of the addresses and to the number of the host's device.
type VMOptions struct {
	Name string // host name, unique in the world, not "host", up to 20 of a-z, 0-9, "-"; default "vm0"

	Sealed    bool         // no link to the host: the engine's socket is the only way in
	HostDev   string       // the host's end of the link; default "vboxnet0". The VM's end is always eth1.
	Addr      netip.Addr   // of the VM on the link; default 192.168.99.100
	HostAddr  netip.Prefix // of the host on the link; default 192.168.99.1/24
	Addr6     netip.Addr   // optional
	HostAddr6 netip.Prefix // optional, with Addr6

	Dockerd string   // path of dockerd; its folder is searched first for containerd; default $LAB_DOCKERD, then "dockerd"
	Args    []string // further arguments of dockerd
	TCP     bool     // dockerd listens on port 2375 too
	Legacy  bool     // iptables is iptables-legacy in the VM, for dockerd too
	Disk    bool     // the engine's data outlive a PowerOff; slower
}

// VM is a machine with a dockerd. Its faults are for one goroutine at a time.
type VM struct {
	machine
	opts    VMOptions
	world   *World
	cgroup  string
	dockerd *exec.Cmd
	exited  chan struct{} // closed when dockerd was reaped

	Config string // the text of daemon.json for the next StartDockerd; "" is {}
}

// VM makes a VM and returns when its engine answers.
func (w *World) VM(ctx context.Context, opts VMOptions) (_ *VM, err error) {
	vm := &VM{world: w}
	vm.halt = func() {}
	w.mu.Lock()
	n := len(w.vms)
	w.vms = append(w.vms, vm) // from here on Close ends it
	w.mu.Unlock()
	opts.Name = cmp.Or(opts.Name, fmt.Sprintf("vm%d", n))
	opts.HostDev = cmp.Or(opts.HostDev, fmt.Sprintf("vboxnet%d", n))
	opts.Addr = cmp.Or(opts.Addr, netip.AddrFrom4([4]byte{192, 168, byte(99 + n), 100}))
	opts.HostAddr = cmp.Or(opts.HostAddr, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(99 + n), 1}), 24))
	opts.Dockerd = dockerdPath(opts.Dockerd)
	switch {
	case !regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$`).MatchString(opts.Name) || opts.Name == "host":
		return nil, fmt.Errorf("make vm: bad name %q", opts.Name)
	case opts.Sealed && opts.TCP:
		return nil, errors.New("make vm: a sealed vm cannot be reached by tcp")
	case opts.Addr6.IsValid() != opts.HostAddr6.IsValid():
		return nil, errors.New("make vm: Addr6 and HostAddr6 go together")
	}

	vm.opts, vm.cgroup = opts, w.id+"-"+opts.Name
	defer func() {
		if err != nil {
			err = fmt.Errorf("make vm %s: %w", opts.Name, err)
		}
	}()
	if err := w.atEnd("cgroup " + vm.cgroup); err != nil {
		return nil, err
	}
	if err := w.boot(ctx, &vm.machine, opts.Name, nowhere); err != nil {
		return nil, err
	}
	if opts.Legacy {
		if err := vm.legacy(); err != nil {
			return nil, err
		}
	}
	if !opts.Sealed {
		if err := vm.plug(ctx); err != nil {
			return nil, err
		}
	}
	if err := vm.StartDockerd(ctx); err != nil {
		return nil, err
	}
	if !opts.Sealed {
		if err := vm.carrier(ctx, true); err != nil { // takes up to a second, mostly over by now
			return nil, err
		}
	}
	return vm, nil
}

// plug joins the VM to the host.
func (vm *VM) plug(ctx context.Context) error {
	o := vm.opts
	steps := []string{
		fmt.Sprintf("-n %s link add %s type veth peer name eth1 netns %s", vm.world.netns, o.HostDev, vm.netns),
		fmt.Sprintf("-n %s addr add %s dev %s", vm.world.netns, o.HostAddr, o.HostDev),
	}
	if o.Addr6.IsValid() {
		steps = append(steps, fmt.Sprintf("-n %s addr add %s dev %s nodad", vm.world.netns, o.HostAddr6, o.HostDev))
	}
	// No link-local addresses: they appear some time later, in the middle of somebody's before and after.
	return ip(ctx, append(append(steps, fmt.Sprintf("-n %s link set %s addrgenmode none up", vm.world.netns, o.HostDev)), vm.address()...)...)
}

// address are the steps that give eth1 its addresses.
func (vm *VM) address() []string {
	o := vm.opts
	steps := []string{fmt.Sprintf("-n %s addr add %v/%d dev eth1", vm.netns, o.Addr, o.HostAddr.Bits())}
	if o.Addr6.IsValid() {
		steps = append(steps, fmt.Sprintf("-n %s addr add %v/%d dev eth1 nodad", vm.netns, o.Addr6, o.HostAddr6.Bits()))
	}
	return append(steps, fmt.Sprintf("-n %s link set eth1 addrgenmode none up", vm.netns))
}

// ip runs that many ip commands.
func ip(ctx context.Context, steps ...string) error {
	for _, step := range steps {
		if _, err := run(exec.CommandContext(ctx, "ip", strings.Fields(step)...)); err != nil {
			return err
		}
	}
	return nil
}

// Join joins another world's host to this VM too: the host's end is dev, the VM's eth2, their addresses are host and the one
// after it.
func (vm *VM) Join(ctx context.Context, w *World, dev string, host netip.Prefix) error {
	return ip(ctx,
		fmt.Sprintf("-n %s link add %s type veth peer name eth2 netns %s", w.netns, dev, vm.netns),
		fmt.Sprintf("-n %s addr add %v dev %s", w.netns, host, dev),
		fmt.Sprintf("-n %s addr add %v/%d dev eth2", vm.netns, host.Addr().Next(), host.Bits()),
		fmt.Sprintf("-n %s link set %s addrgenmode none up", w.netns, dev),
		fmt.Sprintf("-n %s link set eth2 addrgenmode none up", vm.netns))
}

// legacy puts iptables-legacy first in the VM's search path. Whatever /usr a dockerd brings along has it at the same place.
func (vm *VM) legacy() error {
	dir := filepath.Join(vm.dir, "legacy")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"iptables", "ip6tables", "iptables-save", "ip6tables-save", "iptables-restore", "ip6tables-restore"} {
		if err := os.Symlink("/usr/sbin/xtables-legacy-multi", filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	vm.bin = []string{dir}
	return nil
}

// carrier waits until both ends of the link are as wanted: the kernel tells them, and wakes their queues, later.
func (vm *VM) carrier(ctx context.Context, up bool) error {
	return vm.poll(ctx, "the link does not change", func() (bool, error) {
		for _, end := range []string{vm.Root() + "/sys/class/net/eth1", vm.world.Root() + "/sys/class/net/" + vm.opts.HostDev} {
			state, err := os.ReadFile(end + "/operstate")
			if err != nil || (string(state) == "up\n") != up {
				return false, err
			}
		}
		return true, nil
	})
}

// Name is the VM's host name, and the engine's name in `docker info`.
func (vm *VM) Name() string { return vm.opts.Name }

// Addr is the VM's IPv4 address on its link to the host.
func (vm *VM) Addr() netip.Addr { return vm.opts.Addr }

// HostDev is the host's device of the link to the VM.
func (vm *VM) HostDev() string { return vm.opts.HostDev }

// Socket is the path of the engine's unix socket. Every process of this machine can connect to it, the host's too.
func (vm *VM) Socket() string { return filepath.Join(vm.dir, "docker.sock") }

// URL is the engine's address as DOCKER_HOST takes it: tcp://192.168.99.100:2375 with VMOptions.TCP, else unix://.
func (vm *VM) URL() string {
	if vm.opts.TCP {
		return "tcp://" + netip.AddrPortFrom(vm.opts.Addr, 2375).String()
	}
	return "unix://" + vm.Socket()
}

// Log is the path of dockerd's log.
func (vm *VM) Log() string { return filepath.Join(vm.dir, "dockerd.log") }

// Docker runs the docker client on the VM's engine and returns its standard output without the last newline; the
// error holds its standard error. It goes by the unix socket, whatever the state of the link.
func (vm *VM) Docker(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, dockerPath(), append([]string{"--host", "unix://" + vm.Socket()}, args...)...)
	// Nothing of the user's client settings: contexts, proxies, credentials.
	cmd.Env = []string{"PATH=" + searchPath(), "HOME=" + vm.dir, "DOCKER_CONFIG=" + vm.dir}
	out, err := run(cmd)
	return strings.TrimSuffix(out, "\n"), err
}

// StartDockerd starts dockerd and returns when it answers.
func (vm *VM) StartDockerd(ctx context.Context) error {
	if vm.running() {
		return errors.New("start dockerd: already running")
	}
	config := filepath.Join(vm.dir, "daemon.json")
	if err := os.WriteFile(config, []byte(cmp.Or(vm.Config, "{}")+"\n"), 0o644); err != nil {
		return err
	}
	log, err := os.OpenFile(vm.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	data := vm.own
	if vm.opts.Disk {
		data = vm.dir
	}
	path := vm.bin
	if filepath.IsAbs(vm.opts.Dockerd) {
		path = append(slices.Clone(path), filepath.Dir(vm.opts.Dockerd))
	}
	cmd := exec.Command(vm.opts.Dockerd,
		"--config-file="+config,
		"--host=unix://"+vm.Socket(),
		"--data-root="+filepath.Join(data, "data"),
		"--exec-root="+filepath.Join(vm.own, "exec"),
		"--pidfile="+filepath.Join(vm.own, "docker.pid"),
		"--cgroup-parent=/"+vm.cgroup,
		"--exec-opt=native.cgroupdriver=cgroupfs") // no systemd in here
	if vm.opts.TCP {
		cmd.Args = append(cmd.Args, "--host=tcp://0.0.0.0:2375", "--tls=false")
	}
	cmd.Args = append(cmd.Args, vm.opts.Args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + searchPath(path...), "HOME=/root"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := vm.start(cmd); err != nil {
		return fmt.Errorf("start dockerd: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		cmd.Wait()
		close(exited)
	}()
	vm.dockerd, vm.exited = cmd, exited

	return vm.poll(ctx, "dockerd does not answer", func() (bool, error) {
		select {
		case <-exited:
			return false, fmt.Errorf("dockerd: %s: %s", cmd.ProcessState, vm.lastWords())
		default:
		}
		_, err := vm.api(ctx, http.MethodGet, "/_ping", nil)
		return err == nil, nil
	})
}

// StopDockerd ends dockerd as a service manager does (SIGTERM); containers stop unless live-restore is on.
func (vm *VM) StopDockerd(ctx context.Context) error { return vm.endDockerd(ctx, syscall.SIGTERM) }

// KillDockerd ends dockerd by SIGKILL; containers keep running without it.
func (vm *VM) KillDockerd(ctx context.Context) error { return vm.endDockerd(ctx, syscall.SIGKILL) }

func (vm *VM) endDockerd(ctx context.Context, signal syscall.Signal) error {
	if err := vm.signal(signal); err != nil {
		return err
	}
	select {
	case <-vm.exited:
	case <-ctx.Done():
		return fmt.Errorf("end dockerd with %s: %w", signal, ctx.Err())
	}
	// Its containerd dies with it, a moment later; a new dockerd that still met it would rely on it and fail.
	return vm.poll(ctx, "containerd does not end", func() (bool, error) {
		pid, err := os.ReadFile(filepath.Join(vm.Root(), vm.own, "exec/containerd/containerd.pid"))
		if errors.Is(err, fs.ErrNotExist) {
			return true, nil
		}
		_, gone := os.Stat(filepath.Join(vm.Root(), "proc", strings.TrimSpace(string(pid))))
		return errors.Is(gone, fs.ErrNotExist), err
	})
}

// PauseDockerd freezes dockerd (SIGSTOP): connections are accepted by the kernel, and nothing ever answers.
func (vm *VM) PauseDockerd(ctx context.Context) error {
	if err := vm.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return vm.poll(ctx, "dockerd does not stop", func() (bool, error) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", vm.dockerd.Process.Pid))
		return strings.Contains(string(status), "\nState:\tT"), err
	})
}

// ResumeDockerd ends a PauseDockerd.
func (vm *VM) ResumeDockerd() error { return vm.signal(syscall.SIGCONT) }

func (vm *VM) signal(signal syscall.Signal) error {
	if !vm.running() {
		return fmt.Errorf("send dockerd %s: not running", signal)
	}
	if err := vm.dockerd.Process.Signal(signal); err != nil {
		return fmt.Errorf("send dockerd %s: %w", signal, err)
	}
	return nil
}

func (vm *VM) running() bool {
	if vm.dockerd == nil {
		return false
	}
	select {
	case <-vm.exited:
		return false
	default:
		return true
	}
}

// PowerOff ends every process of the VM at once, as if the power failed; the host's end of the link stays, without
// carrier. But for PowerOn the VM cannot be used any more.
func (vm *VM) PowerOff(ctx context.Context) error {
	if !vm.opts.Sealed {
		if err := vm.LinkDown(ctx); err != nil {
			return err
		}
	}
	vm.end()
	return nil
}

// PowerOn starts the VM again: another kernel state, the same addresses, and with VMOptions.Disk the same containers.
func (vm *VM) PowerOn(ctx context.Context) error {
	old := vm.netns
	if err := vm.world.boot(ctx, &vm.machine, vm.opts.Name, nowhere); err != nil {
		return fmt.Errorf("power on: %w", err)
	}
	var steps []string
	if !vm.opts.Sealed {
		steps = append([]string{fmt.Sprintf("-n %s link set eth1 netns %s", old, vm.netns)}, vm.address()...)
	}
	if err := ip(ctx, append(steps, "netns del "+old)...); err != nil {
		return fmt.Errorf("power on: %w", err)
	}
	return vm.StartDockerd(ctx)
}

func (vm *VM) end() {
	vm.halt()
	if vm.exited != nil {
		<-vm.exited
	}
}

// SetAddr gives the VM another IPv4 address on the same link, as a DHCP server may after a restart of the VM.
func (vm *VM) SetAddr(ctx context.Context, addr netip.Addr) error {
	bits := vm.opts.HostAddr.Bits()
	if _, err := vm.Run(ctx, "ip", "addr", "del", netip.PrefixFrom(vm.opts.Addr, bits).String(), "dev", "eth1"); err != nil {
		return err
	}
	vm.opts.Addr = addr
	_, err := vm.Run(ctx, "ip", "addr", "add", netip.PrefixFrom(addr, bits).String(), "dev", "eth1")
	return err
}

// LinkDown takes the VM's end of the link down: the host's end loses its carrier, and keeps address and routes.
func (vm *VM) LinkDown(ctx context.Context) error {
	if _, err := vm.Run(ctx, "ip", "link", "set", "eth1", "down"); err != nil {
		return err
	}
	return vm.carrier(ctx, false)
}

// LinkUp ends a LinkDown.
func (vm *VM) LinkUp(ctx context.Context) error {
	if _, err := vm.Run(ctx, "ip", "link", "set", "eth1", "up"); err != nil {
		return err
	}
	return vm.carrier(ctx, true)
}

var counters = regexp.MustCompile(`\[\d+:\d+\]|packets \d+ bytes \d+|(?m)^# (Generated|Completed) .*\n`)

// Firewall returns all packet filter rules of the VM, of iptables and nftables, and its forwarding switches, without
// counters and dates, to be compared byte by byte with a later Firewall.
func (vm *VM) Firewall(ctx context.Context) (string, error) {
	var rules strings.Builder
	for _, command := range []string{
		"iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save", "nft list ruleset",
		"grep -H . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/all/rp_filter /proc/sys/net/ipv6/conf/all/forwarding",
	} {
		args := strings.Fields(command)
		if _, err := exec.LookPath(args[0]); err != nil && strings.Contains(args[0], "legacy") {
			continue
		}
		if beside := filepath.Join(filepath.Dir(vm.opts.Dockerd), args[0]); filepath.IsAbs(beside) {
			if _, err := os.Stat(beside); err == nil {
				args[0] = beside // an engine's own, as an older one may fail to read what it writes
			}
		}
		out, err := vm.Run(ctx, args[0], args[1:]...)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&rules, "# %s\n%s\n", command, counters.ReplaceAllString(out, ""))
	}
	return rules.String(), nil
}

// api calls the engine by its unix socket and returns the body of a 200 answer.
func (vm *VM) api(ctx context.Context, method, path string, body io.Reader) ([]byte, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", vm.Socket())
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-tar")
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, data)
	}
	return data, err
}

// poll asks done until it says yes, fails, or ctx or a minute ends; then the error begins with complaint.
func (vm *VM) poll(ctx context.Context, complaint string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %s", complaint, ctx.Err(), vm.lastWords())
		}
	}
}

// lastWords is the end of dockerd's log.
func (vm *VM) lastWords() string {
	log, err := os.ReadFile(vm.Log())
	if err != nil {
		return err.Error()
	}
	if len(log) == 0 {
		return "no log"
	}
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

func dockerdPath(path string) string { return cmp.Or(path, os.Getenv("LAB_DOCKERD"), "dockerd") }
func dockerPath() string             { return cmp.Or(os.Getenv("LAB_DOCKER"), "docker") }
