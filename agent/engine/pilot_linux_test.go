package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"golang.org/x/sys/unix"

	"github.com/fairlead-dev/fairlead/internal/lab"
)

// TestInEngine does all that a real dockerd is needed for, in one world.
func TestInEngine(t *testing.T) {
	t.Parallel()
	lab.Need(t)
	needPilots(t)
	vm := lab.Start(t, lab.Options{}).StartVM(t, lab.VMOptions{})
	v := &inEngine{t: t, vm: vm, e: at(vm.URL())}
	var err error
	if v.conn, err = v.e.dial(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer v.conn.Close()
	for _, c := range []struct {
		name string
		test func(*inEngine)
	}{
		{"Watch", (*inEngine).testWatch},
		{"Ask", (*inEngine).testAsk},
		{"images", (*inEngine).testImages},
		{"restrictions", (*inEngine).testRestrictions},
		{"replaced", (*inEngine).testReplaced},
		{"not ours", (*inEngine).testNotOurs},
		{"complaint", (*inEngine).testComplaint},
		{"hold", (*inEngine).testHold},
		{"lock", (*inEngine).testLock},
		{"full disk", (*inEngine).testFullDisk},
	} {
		t.Run(c.name, func(t *testing.T) {
			v.t = t
			c.test(v)
			v.untilPilots(0)
			v.docker("container", "prune", "-f")
		})
	}
}

type inEngine struct {
	t    *testing.T
	vm   *lab.VM
	e    *Engine
	conn *connection
}

func (v *inEngine) docker(args ...string) string {
	v.t.Helper()
	out, err := v.vm.Docker(v.t.Context(), args...)
	if err != nil {
		v.t.Fatal(err)
	}
	return out
}

func (v *inEngine) inspect(name string) container.InspectResponse {
	v.t.Helper()
	in, err := v.conn.ContainerInspect(v.t.Context(), name)
	if err != nil {
		v.t.Fatal(err)
	}
	return in
}

func (v *inEngine) start(p Pilot) io.ReadWriteCloser {
	v.t.Helper()
	s, err := v.e.StartPilot(v.t.Context(), p)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { s.Close() })
	return s
}

func (v *inEngine) remove(instance string) {
	v.t.Helper()
	if err := v.e.RemovePilot(v.t.Context(), instance); err != nil {
		v.t.Error(err)
	}
}

// untilPilots waits until the engine has n pilots, running or not.
func (v *inEngine) untilPilots(n int) {
	v.t.Helper()
	v.until(fmt.Sprintf("%d pilots", n), func() (string, bool) {
		all, err := v.conn.ContainerList(v.t.Context(), container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("name", "fairlead-pilot-"))})
		if err != nil {
			v.t.Fatal(err)
		}
		return fmt.Sprint(len(all)), len(all) == n
	})
}

func (v *inEngine) until(what string, done func() (string, bool)) {
	v.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		seen, ok := done()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("wanted %s, there is %s", what, seen)
		}
	}
}

func (v *inEngine) images() []string {
	v.t.Helper()
	all := strings.Fields(v.docker("images", "--format", "{{.Repository}}:{{.Tag}}", pilotRepository))
	slices.Sort(all)
	return all
}

func (v *inEngine) testWatch() {
	w := watch(v.t, v.vm.URL(), usual)
	w.untilListed()
	if w.info.API != "1.41" && w.info.API < "1.41" || w.info.Host != v.vm.Name() || w.info.OS != "linux" || w.info.Arch != runtime.GOARCH {
		v.t.Errorf("info %+v", w.info)
	}
	pilot := v.start(Pilot{Instance: "i0", Args: []string{"lead"}})
	v.docker("network", "create", "back")
	v.docker("run", "-d", "--name", "web", "--network", "back", "--network-alias", "www", "web")
	web := v.inspect("web")
	addr := web.NetworkSettings.Networks["back"].IPAddress
	w.until("web", func() bool { // by its inspect, not only early by its network
		c := w.containers[web.ID]
		return c.whole && len(c.Addrs()) == 1 && c.Addrs()[0].String() == addr && c.State == "running"
	})
	if aliases := w.containers[web.ID].Endpoints[0].Aliases; !slices.Contains(aliases, "www") {
		v.t.Errorf("aliases %q", aliases)
	}
	if !slices.ContainsFunc(w.networks, func(n Network) bool {
		return n.Name == "back" && len(n.Subnets) == 1 && n.Subnets[0].Contains(w.containers[web.ID].Addrs()[0])
	}) {
		v.t.Errorf("networks %+v", w.networks)
	}
	v.docker("run", "-d", "--name", "side", "--network", "container:web", "web", "sleep")
	w.untilNames("side=" + addr + " web=" + addr)
	v.docker("rename", "web", "www")
	w.untilNames("side=" + addr + " www=" + addr)
	v.docker("restart", "-t", "1", "www")
	v.docker("pause", "www")
	w.until("paused", func() bool { return w.containers[web.ID].State == "paused" })
	v.docker("rm", "-f", "side", "www")
	v.docker("network", "rm", "back")
	w.until("nothing", func() bool {
		return w.names() == "" && !slices.ContainsFunc(w.networks, func(n Network) bool { return n.Name == "back" })
	})
	// A start that fails.
	if out, err := v.vm.Docker(v.t.Context(), "run", "--name", "bad", "--entrypoint", "/none", "web"); err == nil {
		v.t.Errorf("/none runs: %s", out)
	}
	v.docker("run", "-d", "--name", "last", "web", "sleep")
	w.untilNames("last=" + v.inspect("last").NetworkSettings.Networks["bridge"].IPAddress)
	w.wantNoLoss()
	v.docker("rm", "-f", "last")
	pilot.Close()
	v.untilPilots(0)
	v.remove("i0")
}

// A real engine takes the pattern for what it is, and shows what is running and no more.
func (v *inEngine) testAsk() {
	w := watch(v.t, v.vm.URL(), usual)
	w.untilListed()
	for _, name := range []string{"My_app", "my-app2"} {
		v.docker("run", "-d", "--name", name, "web", "sleep")
	}
	v.docker("create", "--name", "my-app", "web", "sleep")
	var seen []string
	w.e.Ask(v.t.Context(), []string{"my-app2", v.inspect("my-app2").ID[:12]}, "(?i)^/?(my[-_]app|none)$", func(c Container) bool {
		seen = append(seen, c.Name)
		return true
	})
	if !slices.Equal(seen, []string{"My_app"}) {
		v.t.Errorf("seen: %q", seen)
	}
	v.docker("rm", "-f", "My_app", "my-app2", "my-app")
	w.wantNoLoss()
}

// Of images: the pilot's is loaded once, older ones of ours go, others and those in use stay.
func (v *inEngine) testImages() {
	since := v.vmTime()
	load := func(tag, program string) {
		v.t.Helper()
		archive, err := dockerArchive(tag, runtime.GOARCH, []byte(program))
		if err != nil {
			v.t.Fatal(err)
		}
		r, err := v.conn.ImageLoad(v.t.Context(), bytes.NewReader(archive))
		if err != nil {
			v.t.Fatal(err)
		}
		defer r.Body.Close()
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			v.t.Fatal(err)
		}
	}
	const older, used, foreign = pilotRepository + ":older", pilotRepository + ":used", pilotRepository + ":foreign"
	load(older, "older")
	load(used, "used")
	v.docker("create", "--name", "user", used)
	v.docker("tag", "web", foreign)
	tag, _, err := packedPilot(runtime.GOARCH)
	if err != nil {
		v.t.Fatal(err)
	}
	wantImages := func(want ...string) {
		v.t.Helper()
		slices.Sort(want)
		if got := v.images(); !slices.Equal(got, want) {
			v.t.Errorf("images %q, want %q", got, want)
		}
	}
	wantImages(older, used, foreign)

	for range 2 {
		s := v.start(Pilot{Instance: "i1", Args: []string{"lead"}})
		wantImages(tag, used, foreign)
		if err := s.Close(); err != nil {
			v.t.Error(err)
		}
		v.untilPilots(0)
	}
	loads := strings.Count(v.docker("events", "--since", since, "--until", v.vmTime(), "--filter", "type=image", "--filter", "event=load"), "\n") + 1
	if loads != 3 { // older, used, and the pilot's once
		v.t.Errorf("%d images were loaded, want 3", loads)
	}
	v.remove("i1")
	wantImages(used, foreign)
	v.docker("rm", "user")
	v.remove("i1") // once more, with nothing there
	wantImages(foreign)
	v.docker("rmi", foreign)
}

func (v *inEngine) vmTime() string {
	v.t.Helper()
	return v.docker("info", "--format", "{{.SystemTime}}")
}

func (v *inEngine) testRestrictions() {
	s := v.start(Pilot{Instance: "i2", Args: []string{"lead"}})
	in := v.inspect("fairlead-pilot-i2")
	h := in.HostConfig
	for what, ok := range map[string]bool{
		"drops all capabilities":  slices.Equal(h.CapDrop, []string{"ALL"}),
		"adds only NET_ADMIN":     len(h.CapAdd) == 1 && strings.TrimPrefix(h.CapAdd[0], "CAP_") == "NET_ADMIN",
		"is not privileged":       !h.Privileged,
		"has a read-only root":    h.ReadonlyRootfs,
		"gains no privileges":     slices.ContainsFunc(h.SecurityOpt, func(s string) bool { return strings.HasPrefix(s, "no-new-privileges") }),
		"has 64 MB":               h.Memory == 64<<20,
		"has 64 processes":        h.PidsLimit != nil && *h.PidsLimit == 64,
		"logs nothing":            h.LogConfig.Type == "none",
		"is in the VM's network":  h.NetworkMode.IsHost(),
		"has no mounts":           len(in.Mounts) == 0 && len(h.Binds) == 0,
		"publishes nothing":       len(h.PortBindings) == 0,
		"has no devices":          len(h.Devices) == 0,
		"removes itself":          h.AutoRemove,
		"is not started again":    h.RestartPolicy.IsNone(),
		"has our label":           in.Config.Labels[PilotLabel] == "i2",
		"runs":                    in.State.Running,
		"is in no other network":  len(in.NetworkSettings.Networks) == 1 && in.NetworkSettings.Networks["host"] != nil,
		"is not in the VM's pids": h.PidMode == "" && h.IpcMode != "host",
	} {
		if !ok {
			v.t.Errorf("not so: it %s", what)
		}
	}
	v.wantPowers(in, 1<<unix.CAP_NET_ADMIN)
	tunnel := v.start(Pilot{Instance: "i2-tunnel", Args: []string{"lead"}, Tunnel: true, Inject: true})
	in = v.inspect("fairlead-pilot-i2-tunnel")
	if d := in.HostConfig.Devices; len(d) != 2 || d[0].PathOnHost != tunDevice || d[1].PathOnHost != latencyDevice || in.HostConfig.Privileged {
		v.t.Errorf("devices for a tunnel: %+v", d)
	}
	v.wantPowers(in, 1<<unix.CAP_NET_ADMIN|1<<unix.CAP_NET_RAW)
	tunnel.Close()
	if err := s.Close(); err != nil {
		v.t.Error(err)
	}
	v.untilPilots(0) // of itself
	if _, err := s.Read(make([]byte, 1)); err == nil {
		v.t.Error("reading a closed stream is no error")
	}
	if err := s.Close(); err != nil {
		v.t.Errorf("second Close: %v", err)
	}
}

// wantPowers asks the VM's kernel what the pilot may do.
func (v *inEngine) wantPowers(in container.InspectResponse, capabilities uint64) {
	v.t.Helper()
	status, err := v.vm.Run(v.t.Context(), "cat", fmt.Sprintf("/proc/%d/status", in.State.Pid))
	if err != nil {
		v.t.Fatal(err)
	}
	status = strings.ReplaceAll(status, "\t", " ")
	for _, set := range []string{"CapPrm", "CapEff", "CapBnd"} {
		if line := fmt.Sprintf("%s: %016x\n", set, capabilities); !strings.Contains(status, line) {
			v.t.Errorf("no %q in\n%s", line, status)
		}
	}
	if !strings.Contains(status, "NoNewPrivs: 1\n") {
		v.t.Errorf("it may gain privileges:\n%s", status)
	}
}

// A pilot that was left behind, in whatever state, gives way to the new one.
func (v *inEngine) testReplaced() {
	first := v.start(Pilot{Instance: "i3", Args: []string{"lead"}})
	old := v.inspect("fairlead-pilot-i3").ID
	renewed := func() {
		v.t.Helper()
		s := v.start(Pilot{Instance: "i3", Args: []string{"lead"}})
		in := v.inspect("fairlead-pilot-i3")
		if in.ID == old || !in.State.Running || in.Config.Entrypoint[0] != "/pilot" {
			v.t.Errorf("before %.12s, now %.12s, %+v", old, in.ID, in.State)
		}
		v.untilPilots(1)
		old = in.ID
		s.Close()
		v.untilPilots(0)
	}
	renewed()
	io.Copy(io.Discard, first) // has come to its end
	for _, leftover := range [][]string{{"create"}, {"run", "-d", "--rm"}, {"run", "-d", "--restart", "unless-stopped"}} {
		args := append(leftover, "--name", "fairlead-pilot-i3", "--label", PilotLabel+"=i3", "web", "sleep")
		old = v.docker(args...)
		renewed()
	}
	// Another instance's pilot is another's.
	other := v.start(Pilot{Instance: "i3-other", Args: []string{"lead"}})
	v.remove("i3")
	if !v.inspect("fairlead-pilot-i3-other").State.Running {
		v.t.Error("another instance's pilot was ended")
	}
	other.Close()
}

func (v *inEngine) testNotOurs() {
	for _, label := range []string{"", PilotLabel + "=somebody", PilotLabel + "="} {
		args := []string{"run", "-d", "--name", "fairlead-pilot-i4"}
		if label != "" {
			args = append(args, "--label", label)
		}
		id := v.docker(append(args, "web", "sleep")...)
		before := v.docker("container", "inspect", id)
		if s, err := v.e.StartPilot(v.t.Context(), Pilot{Instance: "i4", Args: []string{"lead"}}); err == nil {
			s.Close()
			v.t.Errorf("label %q: started", label)
		} else if !strings.Contains(err.Error(), "not ours") || !strings.Contains(err.Error(), "fairlead-pilot-i4") {
			v.t.Errorf("label %q: %v", label, err)
		}
		if err := v.e.RemovePilot(v.t.Context(), "i4"); err == nil {
			v.t.Errorf("label %q: removed", label)
		}
		if after := v.docker("container", "inspect", "fairlead-pilot-i4"); after != before {
			v.t.Errorf("label %q: it was touched:\n%s\nbefore\n%s", label, after, before)
		}
		v.docker("rm", "-f", id)
	}
}

// What the pilot says on standard error is the error of the stream.
func (v *inEngine) testComplaint() {
	s := v.start(Pilot{Instance: "i5", Args: []string{"no-such-word"}})
	out, err := io.ReadAll(s)
	if err == nil || !strings.HasPrefix(err.Error(), "pilot: ") || strings.HasPrefix(err.Error(), "pilot: pilot: ") || len(out) > 0 {
		v.t.Errorf("output %q, error %v", out, err)
	}
}

func (v *inEngine) testHold() {
	held := Pilot{Instance: "i6", Hold: true, Args: []string{"hold", `{"tag":"0123abcd","sources":["192.168.99.1"],"subnets":["172.17.0.0/16"]}`}}
	firewall := func() string {
		v.t.Helper()
		rules, err := v.vm.Firewall(v.t.Context())
		if err != nil {
			v.t.Fatal(err)
		}
		lines := strings.Split(rules, "\n")
		slices.Sort(lines) // a restarted dockerd makes its chains in another order
		return strings.Join(lines, "\n")
	}
	before := firewall()
	s := v.start(held)
	if n, err := s.Read(make([]byte, 1)); n != 1 || err != nil {
		v.t.Fatalf("its report: %d bytes, %v", n, err)
	}
	s.Close()
	in := v.inspect("fairlead-pilot-i6")
	if h := in.HostConfig; h.AutoRemove || !h.RestartPolicy.IsUnlessStopped() || in.Config.OpenStdin || h.Privileged || !h.ReadonlyRootfs || h.Memory != 64<<20 {
		v.t.Errorf("held pilot: %+v", h)
	}
	running := func() (string, bool) {
		in := v.inspect("fairlead-pilot-i6")
		return in.State.Status, in.State.Running && strings.Contains(firewall(), "0123abcd")
	}
	v.until("the held pilot running, its rules there", running)
	if err := v.vm.StopDockerd(v.t.Context()); err != nil {
		v.t.Fatal(err)
	}
	if err := v.vm.StartDockerd(v.t.Context()); err != nil {
		v.t.Fatal(err)
	}
	v.until("the held pilot running after the engine's restart, its rules there", running)
	v.remove("i6")
	v.untilPilots(0)
	if got := v.images(); len(got) > 0 {
		v.t.Errorf("images left: %q", got)
	}
	if after := firewall(); after != before {
		v.t.Errorf("the VM's firewall is now\n%s\nand was\n%s", after, before)
	}
}

// The pilot sees the lock of iptables-legacy where there is one, and no other file of the VM.
func (v *inEngine) testLock() {
	vm := func(args ...string) {
		v.t.Helper()
		if _, err := v.vm.Run(v.t.Context(), args[0], args[1:]...); err != nil {
			v.t.Fatal(err)
		}
	}
	for _, there := range []bool{true, false} {
		if there {
			vm("touch", xtablesLock)
		} else {
			vm("rm", xtablesLock)
		}
		s := v.start(Pilot{Instance: "i8", Args: []string{"lead"}})
		mounts := v.inspect(Pilot{Instance: "i8"}.name()).Mounts
		if there && (len(mounts) != 1 || mounts[0].Source != xtablesLock || mounts[0].RW) || !there && len(mounts) != 0 {
			v.t.Errorf("with a lock (%v) it has the mounts %+v", there, mounts)
		}
		s.Close()
		v.untilPilots(0)
	}
	v.remove("i8")
}

// A disk that is full is named, leaves nothing of ours, and once there is room all is well.
func (v *inEngine) testFullDisk() {
	v.remove("i9") // the images with it
	root := v.docker("info", "-f", "{{.DockerRootDir}}")
	for _, args := range [][]string{{"mkdir", "-p", root + "/tmp"}, {"mount", "-t", "tmpfs", "-o", "size=256k", "full", root + "/tmp"}} {
		if _, err := v.vm.Run(v.t.Context(), args[0], args[1:]...); err != nil {
			v.t.Fatal(err)
		}
	}
	s, err := v.e.StartPilot(v.t.Context(), Pilot{Instance: "i9", Args: []string{"lead"}})
	var r *Refusal
	if !errors.As(err, &r) || !strings.Contains(r.Why, "full") || r.Hint == "" {
		v.t.Errorf("on a full disk it says: %v", err)
	}
	if err == nil {
		s.Close()
	}
	if left := v.images(); len(left) != 0 {
		v.t.Errorf("it left the images %v", left)
	}
	if _, err := v.vm.Run(v.t.Context(), "umount", root+"/tmp"); err != nil {
		v.t.Fatal(err)
	}
	v.start(Pilot{Instance: "i9", Args: []string{"lead"}}).Close()
	v.untilPilots(0)
	v.remove("i9")
}
