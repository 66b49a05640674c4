package e2e

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/internal/lab"
	"github.com/fairlead-dev/fairlead/platform"
)

// TestEnginesOfTheHomes: an agent that runs as root finds every engine of two users by what their products left in their homes,
// reaches each, takes up one that is started later, and is led astray by nothing in these homes.
func TestEnginesOfTheHomes(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	ann, bob := h.home("ann", 4711), h.home("bob", 4712)
	h.args = append(h.args, "--home", ann.dir, "--home", bob.dir)
	ca := newAuthority(t)

	// engines in the order of their priority, and what each has that no other has.
	engines := []*found{
		{name: "far", provider: "context", reach: platform.Tunnel, addr: "192.168.91.100"},
		{name: "office", provider: "context", reach: platform.Gateway, addr: "192.168.92.100"},
		{name: "colima", provider: "colima", reach: platform.Tunnel},
		{name: "dev", provider: "docker-machine", reach: platform.Gateway, addr: "192.168.99.100"},
		{name: "boot2docker", provider: "boot2docker", reach: platform.Gateway, addr: "192.168.59.103"},
		{name: "dvm", provider: "dvm", reach: platform.Gateway, addr: "192.168.42.43"},
		{name: "dvm-2", provider: "dvm", reach: platform.Gateway, addr: "192.168.43.43"},
		{name: "box", provider: "vagrant", reach: platform.Gateway, addr: "192.168.56.10"},
	}
	byName := map[string]*found{}
	for i, e := range engines {
		byName[e.name] = e
		e.opts = lab.VMOptions{Name: e.name, HostDev: fmt.Sprintf("vboxnet%d", i), Sealed: e.addr == ""}
		if e.addr != "" {
			e.opts.Addr = netip.MustParseAddr(e.addr)
			b := e.opts.Addr.As4()
			b[3] = 1
			e.opts.HostAddr = netip.PrefixFrom(netip.AddrFrom4(b), 24)
		}
		if e.name != "dev" && e.name != "box" { // these two have docker's usual 172.17.0.0/16
			e.opts.Args = []string{fmt.Sprintf("--bip=10.80.%d.1/24", i)}
		}
	}
	listen := func(name string, args ...string) {
		byName[name].opts.Args = append(byName[name].opts.Args, args...)
	}
	tls := func(name string, addrs ...string) {
		dir := t.TempDir()
		ca.write(t, dir, "server", time.Hour, addrs...)
		listen(name, "--host=tcp://0.0.0.0:2376", "--tlsverify", "--tlscacert="+dir+"/ca.pem", "--tlscert="+dir+"/cert.pem", "--tlskey="+dir+"/key.pem")
	}
	listen("far", "--host=unix:///var/run/docker.sock", "--group=4713")
	tls("office", "192.168.92.100")
	listen("colima", "--host=unix://"+ann.dir+"/.colima/default/docker.sock")
	tls("dev", "192.168.99.100", "192.168.99.102")
	tls("boot2docker", "192.168.59.103")
	listen("dvm", "--host=tcp://0.0.0.0:4243", "--tls=false")
	byName["dvm-2"].opts.TCP = true
	byName["box"].opts.TCP = true

	ann.write(".colima/default/colima.yaml", "runtime: docker\nnetwork:\n  address: false\n")
	ann.context("office", "tcp://192.168.92.100:2376")
	ca.write(t, ann.mkdir(".docker/contexts/tls/"+contextID("office")+"/docker"), "client", time.Hour)
	ann.context("far", "ssh://docker@192.168.91.100")
	ann.write(".docker/config.json", `{"auths": {}, "currentContext": "far"}`)
	ann.machine(".docker/machine", "dev", "192.168.99.100")
	ca.write(t, ann.path(".docker/machine/machines/dev"), "client", time.Hour)
	ann.write(".boot2docker/profile", "Driver = \"virtualbox\"\nLowerIP = \"192.168.59.103\"\n")
	ca.write(t, ann.mkdir(".boot2docker/certs/boot2docker-vm"), "client", time.Hour)
	ann.write(".dvm/Vagrantfile", "ip   = ENV.fetch(\"DOCKER_IP\", \"192.168.42.43\")\nport = ENV.fetch(\"DOCKER_PORT\", \"4243\")\n")
	bob.write(".dvm/dvm.conf", "#export DOCKER_PORT=\"4243\"\nexport DOCKER_IP='192.168.43.43' # mine\n")

	byName["box"].opts.Disk = true

	start(t, h, engines...)
	before := h.state()
	if err := byName["box"].vm.PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.sshd(byName["far"].vm, ann)
	ann.own()
	bob.own()
	r := h.start("--resolver", "resolv.conf")
	h.finds(engines[:7]...)
	if got, _ := h.Run(t.Context(), "dig", "+short", "web.docker"); got != engines[0].web+"\n" {
		t.Errorf("web.docker is %q, and the current context's is %s", got, engines[0].web)
	}

	t.Run("one is started later", func(t *testing.T) {
		h := h.in(t)
		box := byName["box"]
		ann.write(".vagrant.d/data/machine-index/index", fmt.Sprintf(`{"version":1,"machines":{"0123456789abcdef0123456789abcdef":{"local_data_path":"%[1]s/box/.vagrant","name":"default","provider":"virtualbox","state":"running","vagrantfile_name":null,"vagrantfile_path":"%[1]s/box","updated_at":null,"extra_data":{"box":{"name":"ubuntu/jammy64","provider":"virtualbox","version":"1"}}}}}`, ann.dir))
		ann.write("box/Vagrantfile", "Vagrant.configure(\"2\") do |config|\n  config.vm.network \"private_network\", ip: \"192.168.56.10\"\n  config.vm.provision \"shell\", inline: \"echo 'DOCKER_OPTS=\\\"-H unix:// -H tcp://0.0.0.0:2375\\\"' >> /etc/default/docker\"\nend\n")
		ann.own()
		if err := box.vm.PowerOn(t.Context()); err != nil {
			t.Fatal(err)
		}
		docker(t, box.vm, "network", "create", "--subnet", "10.80.99.0/24", "shop")
		docker(t, box.vm, "run", "-d", "--name", "db", "--hostname", "db", "--network", "shop", "web")
		h.eventually("it is found", func() error { return h.engine(box) })
		h.says("db.docker", "db")
		// Both engines own 172.17.0.0/16: the first one keeps it, and the other's container is named with the way out.
		h.eventually("the clash is named", func() error {
			for _, n := range h.status().Subnets {
				if n.Engine == "box" && n.Network == "bridge" && n.State == agent.Refused && strings.Contains(n.Why, "dev") && strings.Contains(n.Hint, "bip") {
					return nil
				}
			}
			return fmt.Errorf("%+v", h.status().Subnets)
		})
		if out := h.must("ls"); !regexp.MustCompile(`(?m)^.*box/web on bridge: .*dev`).MatchString(out) {
			t.Errorf("ls does not tell of it:\n%s", out)
		}
		h.finds(byName["dev"])
	})

	t.Run("bad input", func(t *testing.T) {
		h := h.in(t)
		dev := byName["dev"].vm
		for _, addr := range []string{"192.168.99.101/24", "192.168.99.102/24"} { // who had them is gone, dev has them now
			must(dev.Run(t.Context(), "ip", "addr", "add", addr, "dev", "eth1"))(t)
		}
		machines := ann.dir + "/.docker/machine/machines/"
		bad := map[string]string{} // what is said of it
		ann.machine(".docker/machine", "moved", "192.168.99.101")
		ca.write(t, machines+"moved", "client", time.Hour)
		bad[`engine moved: .*valid for 192.168.99.100, 192.168.99.102, not 192.168.99.101`] = "the address is another machine's by now"
		ann.machine(".docker/machine", "expired", "192.168.99.102")
		ca.write(t, machines+"expired", "client", -time.Hour)
		bad[`engine expired: cert.pem expired on \d{4}-`] = "an expired certificate"
		ann.machine(".docker/machine", "stale", "192.168.99.177")
		ca.write(t, machines+"stale", "client", time.Hour)
		bad[`engine stale does not answer \(docker-machine`] = "nobody has the address"
		ann.machine(".docker/machine", "corrupt", "192.168.99.100")
		ann.write(".docker/machine/machines/corrupt/config.json", `{"Driver": {`)
		bad[`skipped docker-machine: `+machines+`corrupt/config.json: reading JSON`] = "a corrupt machine"
		ann.write(".docker/contexts/meta/"+contextID("torn")+"/meta.json", `{"Name":"torn","Endpo`)
		bad[`skipped context: .*`+contextID("torn")+`/meta.json: .*JSON`] = "a corrupt context"
		ann.machine(".docker/machine", "huge", "192.168.99.178")
		ann.write(".docker/machine/machines/huge/config.json", strings.Repeat(" ", 2<<20))
		bad[`skipped docker-machine: `+machines+`huge/config.json: the file is larger`] = "a huge file"
		if err := syscall.Mkfifo(ann.mkdir(".docker/machine/machines/endless")+"/config.json", 0o644); err != nil {
			t.Fatal(err)
		}
		bad[`skipped docker-machine: `+machines+`endless/config.json: not a regular file`] = "a file without an end"
		planted := t.TempDir()
		ca.write(t, planted, "client", time.Hour)
		ann.write(".docker/machine/machines/planted/link", "")
		for from, to := range map[string]string{machines + "planted/config.json": "/dev/zero", machines + "linked": planted} {
			if err := os.Symlink(to, from); err != nil {
				t.Fatal(err)
			}
		}
		bad[`skipped docker-machine: `+machines+`planted/config.json: a link leads out`] = "a link to a device"
		bad[`skipped docker-machine: `+machines+`linked/config.json: a link leads out`] = "a link out of the home"
		ann.context("theirs", "unix://"+dev.Socket())
		bad[`skipped context: .*`+contextID("theirs")+`/meta.json: .*docker.sock: the socket belongs to user 0`] = "a stranger's socket"
		ann.own()
		ann.machine(".docker/machine", "foreign", "192.168.99.100")
		if err := os.Chown(machines+"foreign/config.json", bob.uid, bob.uid); err != nil {
			t.Fatal(err)
		}
		bad[`skipped docker-machine: `+machines+`foreign/config.json: the file belongs to user 4712`] = "a stranger's file"

		for line, what := range bad {
			h.eventually(what+" is told in one line", func() error {
				out := h.must("status")
				if found := regexp.MustCompile(`(?m)^`+line+`.*$`).FindAllString(out, -1); len(found) != 1 {
					return fmt.Errorf("%q is told by %q in\n%s", line, found, out)
				}
				return nil
			})
		}
		if out := h.must("status"); !strings.Contains(out, "hint: docker-machine regenerate-certs moved\n") {
			t.Errorf("status does not say what mends a certificate:\n%s", out)
		}
		h.finds(engines[:7]...)
	})

	r.signal(syscall.SIGTERM)
	for _, e := range engines {
		if now := firewall(t, e.vm); strings.Contains(now, "fairlead") {
			t.Errorf("left in %s:\n%s", e.name, now)
		}
	}
	if now := h.state(); now != before {
		t.Errorf("the host is not as before:\n%s", changed(before, now))
	}
}

// TestEnginesOneByOne: what each of these products leaves in a home is enough to find its engine and to reach it.
func TestEnginesOneByOne(t *testing.T) {
	t.Parallel()
	t.Run("docker", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		desktop, lima, rancher, minikube, all, shell := h.home("desktop", 4711), h.home("lima", 4712), h.home("rancher", 4713), h.home("minikube", 4714), h.home("all", 4715), h.home("shell", 4716)
		ca, server := newAuthority(t), t.TempDir()
		ca.write(t, server, "server", time.Hour, "192.168.39.7")
		for _, o := range []*home{minikube, all} {
			o.machine(".minikube", "minikube", "192.168.39.7")
			o.write(".minikube/profiles/minikube/config.json", `{"Name": "minikube", "Driver": "kvm2", "KubernetesConfig": {"ContainerRuntime": "docker"}}`)
			ca.write(t, o.mkdir(".minikube/certs"), "client", time.Hour)
		}
		ca.write(t, shell.dir, "client", time.Hour)
		args := []string{"--host=unix:///var/run/docker.sock", "--host=tcp://0.0.0.0:2376", "--tlsverify", "--tlscacert=" + server + "/ca.pem", "--tlscert=" + server + "/cert.pem", "--tlskey=" + server + "/key.pem"}
		for socket, homes := range map[string][]*home{".docker/desktop/docker.sock": {desktop, all}, ".lima/docker/sock/docker.sock": {lima, all}, ".rd/docker.sock": {rancher}} {
			for _, o := range homes {
				o.mkdir(filepath.Dir(socket))
				args = append(args, "--host=unix://"+o.path(socket))
			}
		}
		e := &found{addr: "192.168.39.7", opts: lab.VMOptions{Name: "vm", Addr: netip.MustParseAddr("192.168.39.7"), HostAddr: netip.MustParsePrefix("192.168.39.1/24"), Args: args}}
		start(t, h, e)
		for _, c := range []struct {
			home           *home
			name, provider string
			reach          platform.Kind
			args           []string
		}{
			{desktop, "desktop-linux", "docker-desktop", platform.Tunnel, nil},
			{lima, "lima-docker", "lima", platform.Tunnel, nil},
			{rancher, "rancher-desktop", "rancher-desktop", platform.Tunnel, nil},
			{minikube, "minikube", "minikube", platform.Gateway, nil},
			{shell, "default", "environment", platform.Gateway, []string{"--docker-env", "DOCKER_HOST=tcp://192.168.39.7:2376", "--docker-env", "DOCKER_TLS_VERIFY=1", "--docker-env", "DOCKER_CERT_PATH=" + shell.dir}},
			{all, "desktop-linux", "docker-desktop", platform.Tunnel, nil},
		} {
			t.Run(c.home.user, func(t *testing.T) {
				e.name, e.provider, e.reach = c.name, c.provider, c.reach
				c.home.own()
				h.in(t).alone(e, c.home, c.args, func(h *host) {
					if c.home != all {
						return
					}
					h.eventually("three ways are one engine", func() error {
						s := h.status()
						if len(s.Engines) != 1 || len(s.Engines[0].Also) != 2 {
							return fmt.Errorf("%+v", s.Engines)
						}
						return nil
					})
				})
			})
		}
		t.Run("native", func(t *testing.T) {
			cmd := e.vm.Command(t.Context(), fairlead, append([]string{"setup-network", "--json", "--home", shell.dir}, h.args...)...)
			out, err := cmd.Output()
			var s agent.Status
			if err == nil {
				err = json.Unmarshal(out, &s)
			}
			if err != nil || len(s.Engines) != 1 || s.Engines[0].Reach.Kind != platform.Native || !strings.HasPrefix(s.Engines[0].Found, "native: ") {
				t.Errorf("on the engine's own machine: %v\n%s", err, out)
			}
		})
	})
	t.Run("podman", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		ann := h.home("ann", 4711)
		ann.write(".config/containers/podman/machine/qemu/podman-machine-default.json", `{"Name": "podman-machine-default", "HostUser": {"Rootful": true, "UID": 4711}, "Version": 1}`)
		socket := ann.mkdir(".local/share/containers/podman/machine/qemu") + "/podman.sock"
		e := &found{name: "podman-machine-default", provider: "podman", reach: platform.Tunnel, opts: lab.VMOptions{TCP: true, Dockerd: podmand(t), Args: []string{"--host=unix://" + socket}}}
		start(t, h, e)
		t.Logf("Podman %s", docker(t, e.vm, "version", "-f", "{{.Server.Version}}"))
		docker(t, e.vm, "network", "create", "shop")
		docker(t, e.vm, "run", "-d", "--name", "db", "--hostname", "db", "--network", "shop", "web")
		ann.own()
		h.alone(e, ann, nil, func(h *host) { h.says("db.docker", "db") })
		h.watch("podman=" + e.vm.URL())
		r := h.start("--resolver", "resolv.conf")
		h.says("web.docker", "vm")
		h.says("db.docker", "db")
		if s := h.status().Engines[0]; s.Reach.Kind != platform.Gateway {
			t.Errorf("by its VM's address it is reached by %+v", s.Reach)
		}
		r.signal(syscall.SIGTERM)
	})
	t.Run("rootless podman", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		ann := h.home("ann", 4711)
		socket := ann.mkdir("run/podman") + "/podman.sock"
		vm, err := h.VM(t.Context(), lab.VMOptions{Sealed: true, Dockerd: program(t, "rootless-podmand"), Args: []string{"--host=unix://" + socket}})
		if err != nil {
			t.Fatal(err)
		}
		ann.own()
		h.args = append(h.args, "--home", ann.dir, "--docker-env", "XDG_RUNTIME_DIR="+ann.path("run"))
		h.start("--resolver", "none")
		if err := vm.LoadImages(t.Context()); err != nil {
			t.Fatal(err)
		}
		docker(t, vm, "run", "-d", "--name", "web", "web")
		// Its networks are in namespaces that no pilot gets into.
		h.eventually("it is recognised, and told what to do", func() error {
			s := h.status()
			if e := s.Engines[0]; !strings.HasPrefix(e.Found, "podman: ") || e.Name != "podman-rootless" || e.Pilot == nil || !strings.Contains(e.Pilot.Error, "Podman runs rootless") || !strings.Contains(e.Pilot.Hint, "--rootful") {
				return fmt.Errorf("%+v, pilot %+v", e, e.Pilot)
			}
			return nil
		})
		h.eventually("the pilots are gone", func() error {
			if left := docker(t, vm, "ps", "-q", "--filter", "label=fairlead.pilot"); left != "" {
				return errors.New(left)
			}
			return nil
		})
	})
	t.Run("rootless", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		ann := h.home("ann", 4711)
		socket := ann.mkdir(".docker/run") + "/docker.sock"
		e := &found{name: "rootless", provider: "rootless", reach: platform.Tunnel, opts: lab.VMOptions{Sealed: true, Dockerd: program(t, "rootlessd"), Args: []string{"--host=unix://" + socket}}}
		start(t, h, e)
		ann.own()
		h.alone(e, ann, nil, func(h *host) {})
		must(e.vm.Run(t.Context(), "chmod", "600", "/dev/net/tun"))(t)
		h.args = append(h.args, "--home", ann.dir)
		h.start("--resolver", "none")
		h.eventually("a right that it lacks is told, and who can give it", func() error {
			if p := h.status().Engines[0].Pilot; p == nil || !strings.Contains(p.Error, "rootless") || !strings.Contains(p.Hint, "chmod 0666 /dev/net/tun") {
				return fmt.Errorf("%+v", p)
			}
			return nil
		})
	})
}

// podmand is the path of a Podman that is run in the place of dockerd.
func podmand(t testing.TB) string { return cmp.Or(os.Getenv("LAB_PODMAND"), program(t, "podmand")) }

// program is the path of what is run in the place of dockerd.
func program(t testing.TB, name string) string {
	t.Helper()
	return must(filepath.Abs("testdata/" + name))(t)
}

// alone proves one engine with an agent that knows nothing but one home; when it is gone, host and VM are as before.
func (h *host) alone(e *found, o *home, args []string, more func(*host)) {
	h.t.Helper()
	hostBefore, vmBefore := h.state(), firewall(h.t, e.vm)
	h = newHostBeside(h)
	h.args = append(h.args, "--home", o.dir)
	h.args = append(h.args, args...)
	r := h.start("--resolver", "resolv.conf")
	e.dns = "web.docker"
	h.finds(e)
	docker(h.t, e.vm, "run", "-d", "--name", "later", "--hostname", "later", "web")
	h.says("later.docker", "later")
	more(h)
	docker(h.t, e.vm, "rm", "-f", "later")
	r.signal(syscall.SIGTERM)
	if now := h.state(); now != hostBefore {
		h.t.Errorf("the host is not as before:\n%s", changed(hostBefore, now))
	}
	if now := firewall(h.t, e.vm); sortedLines(now) != sortedLines(vmBefore) {
		h.t.Errorf("the VM is not as before:\n%s", changed(sortedLines(vmBefore), sortedLines(now)))
	}
	if left := docker(h.t, e.vm, "ps", "-aq", "--filter", "label=fairlead.pilot"); left != "" {
		h.t.Errorf("left on the engine: %s", left)
	}
}

// found is an engine that is to be found.
type found struct {
	name, provider string
	reach          platform.Kind
	addr           string // its VM's; empty: it has none
	opts           lab.VMOptions
	vm             *lab.VM
	web            string // the address of its container "web"
	dns            string // that container's name; empty: with the engine's, as where there are several
}

// start starts the VMs, each with a container "web" that says whose it is.
func start(t testing.TB, h *host, engines ...*found) {
	t.Helper()
	errs := make([]error, len(engines))
	var all sync.WaitGroup
	for i, e := range engines {
		e.opts.Name = cmp.Or(e.opts.Name, "vm")
		all.Go(func() {
			if e.vm, errs[i] = h.VM(t.Context(), e.opts); errs[i] == nil {
				errs[i] = e.vm.LoadImages(t.Context())
			}
			if errs[i] == nil {
				_, errs[i] = e.vm.Docker(t.Context(), "run", "-d", "--restart", "always", "--name", "web", "--hostname", e.opts.Name, "web")
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, e := range engines {
		e.web = docker(t, e.vm, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "web")
	}
}

// engine tells what is not as it should be with the engine in the agent's status.
func (h *host) engine(e *found) error {
	for _, s := range h.status().Engines {
		if s.Name != e.name {
			continue
		}
		if !s.Up || s.Reach.Kind != e.reach || !strings.HasPrefix(s.Found, e.provider+": ") || e.reach == platform.Gateway && s.Reach.Via.String() != e.addr || s.Pilot != nil && !s.Pilot.Open {
			return fmt.Errorf("%s: %+v, pilot %+v", e.name, s, s.Pilot)
		}
		return nil
	}
	return fmt.Errorf("no engine %s in %+v", e.name, h.status().Engines)
}

// finds proves that each engine was found, and that its container is reached by name.
func (h *host) finds(engines ...*found) {
	h.t.Helper()
	ctx := context.Background()
	for _, e := range engines {
		h.eventually(e.name+" is found and open", func() error { return h.engine(e) })
		name := cmp.Or(e.dns, "web."+e.name+".docker")
		h.eventually("dig "+name, func() error {
			got, err := h.Run(ctx, "dig", "+short", "+tries=3", name)
			if err == nil && got != e.web+"\n" {
				err = fmt.Errorf("got %q, want %s", got, e.web)
			}
			return err
		})
		h.ping(name)
		h.says(name, e.opts.Name)
	}
}

// says asks by HTTP until a container says that it is the one with this host name.
func (h *host) says(name, who string) {
	h.t.Helper()
	h.eventually("curl "+name, func() error {
		out, err := h.Run(context.Background(), "curl", "-sS", "--max-time", "5", "http://"+name)
		if err == nil && !strings.HasPrefix(out, who+"\n") {
			err = fmt.Errorf("it is %q", out)
		}
		return err
	})
}

// home is the home of a user of the host.
type home struct {
	t    testing.TB
	user string
	dir  string
	uid  int
}

func (h *host) home(user string, uid int) *home {
	h.t.Helper()
	dir, err := os.MkdirTemp("/tmp", user+"-") // a socket's address has little room, and everybody may go through
	if err == nil {
		h.t.Cleanup(func() { os.RemoveAll(dir) })
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	appendTo(h.t, h.Root()+"/etc/passwd", fmt.Sprintf("%s:x:%d:%[2]d::%s:/bin/sh\n", user, uid, dir))
	o := &home{h.t, user, dir, uid}
	o.own()
	return o
}

func appendTo(t testing.TB, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (o *home) path(rel string) string { return filepath.Join(o.dir, rel) }

func (o *home) mkdir(rel string) string {
	o.t.Helper()
	if err := os.MkdirAll(o.path(rel), 0o755); err != nil {
		o.t.Fatal(err)
	}
	return o.path(rel)
}

func (o *home) write(rel, text string) {
	o.t.Helper()
	o.mkdir(filepath.Dir(rel))
	if err := os.WriteFile(o.path(rel), []byte(text), 0o644); err != nil {
		o.t.Fatal(err)
	}
}

// own gives the user all that is in the home.
func (o *home) own() {
	o.t.Helper()
	err := filepath.WalkDir(o.dir, func(path string, _ fs.DirEntry, err error) error {
		return cmp.Or(err, os.Lchown(path, o.uid, o.uid))
	})
	if err != nil {
		o.t.Fatal(err)
	}
}

// context writes a docker context as docker's client does.
func (o *home) context(name, url string) {
	o.write(".docker/contexts/meta/"+contextID(name)+"/meta.json", fmt.Sprintf(`{"Name":%q,"Metadata":{},"Endpoints":{"docker":{"Host":%q,"SkipTLSVerify":false}}}`, name, url))
}

func contextID(name string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(name))) }

// machine writes what docker-machine's library does of a machine, all but its certificates.
func (o *home) machine(store, name, addr string) {
	o.write(store+"/machines/"+name+"/config.json", fmt.Sprintf(`{"ConfigVersion": 3, "Driver": {"IPAddress": %[2]q, "MachineName": %[1]q, "SSHUser": "docker", "SSHPort": 55933, "HostOnlyCIDR": "192.168.99.1/24"}, "DriverName": "virtualbox", "Name": %[1]q}`, name, addr))
}

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	a := &authority{cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	a.cert, a.key = a.issue(t, a.cert)
	return a
}

func (a *authority) issue(t testing.TB, want *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer := cmp.Or(a.key, key)
	der, err := x509.CreateCertificate(rand.Reader, want, a.cert, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return must(x509.ParseCertificate(der))(t), key
}

// write puts ca.pem, cert.pem and key.pem for a server or a client in a folder; a negative life has ended.
func (a *authority) write(t testing.TB, dir, who string, life time.Duration, addrs ...string) {
	t.Helper()
	want := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: who}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(life),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, addr := range addrs {
		want.IPAddresses = append(want.IPAddresses, net.ParseIP(addr))
	}
	cert, key := a.issue(t, want)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"ca.pem": {Type: "CERTIFICATE", Bytes: a.cert.Raw}, "cert.pem": {Type: "CERTIFICATE", Bytes: cert.Raw}, "key.pem": {Type: "EC PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// sshd lets the user in to the VM, as its user "docker", who may use its engine.
func (h *host) sshd(vm *lab.VM, from *home) {
	h.t.Helper()
	ctx := context.Background()
	keygen := func(file string) string {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file).CombinedOutput(); err != nil {
			h.t.Fatalf("ssh-keygen: %v %s", err, out)
		}
		return string(must(os.ReadFile(file + ".pub"))(h.t))
	}
	etc := vm.Root() + "/etc/"
	hostKey := keygen(etc + "ssh/lab")
	appendTo(h.t, etc+"passwd", "docker:x:4713:4713::/tmp:/bin/sh\n")
	appendTo(h.t, etc+"ssh/admitted", keygen(from.mkdir(".ssh")+"/id_ed25519"))
	from.write(".ssh/known_hosts", vm.Addr().String()+" "+hostKey)
	must(vm.Run(ctx, "mkdir", "/run/sshd"))(h.t)
	log := must(os.Create(filepath.Join(h.dir, "sshd.log")))(h.t)
	cmd := vm.Command(ctx, "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-h", "/etc/ssh/lab", "-o", "AuthorizedKeysFile=/etc/ssh/admitted", "-o", "PidFile=none")
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go cmd.Wait() // it ends with the VM
	h.t.Cleanup(func() {
		if h.t.Failed() {
			said, _ := os.ReadFile(log.Name())
			h.t.Logf("sshd's log:\n%s", said)
		}
		log.Close()
	})
	h.eventually("sshd listens", func() error {
		conn, err := h.Dial(ctx, "tcp", netip.AddrPortFrom(vm.Addr(), 22))
		if err == nil {
			conn.Close()
		}
		return err
	})
}
