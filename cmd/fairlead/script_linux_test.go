package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"
)

// As root, all tests run in a network namespace of their own, with loopback and a link to nowhere.
const worldEnv = "FAIRLEAD_TEST_WORLD"

func enterWorld() {
	die := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "make the tests' namespace:", err)
			os.Exit(1)
		}
	}
	switch {
	case os.Getuid() != 0:
	case os.Getenv(worldEnv) == "in":
		lo, err := netlink.LinkByName("lo")
		die(err)
		die(netlink.LinkSetUp(lo))
		nowhere := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "nowhere"}, PeerName: "nobody"}
		die(netlink.LinkAdd(nowhere))
		addr, err := netlink.ParseAddr("192.0.2.1/24")
		die(err)
		die(netlink.AddrAdd(nowhere, addr))
		die(netlink.LinkSetUp(nowhere))
	default:
		inside := exec.Command("/proc/self/exe", os.Args[1:]...)
		inside.Args[0] = os.Args[0]
		inside.Stdin, inside.Stdout, inside.Stderr = os.Stdin, os.Stdout, os.Stderr
		inside.Env = append(os.Environ(), worldEnv+"=in")
		inside.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		err := inside.Run()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			os.Exit(exit.ExitCode())
		}
		die(err)
		os.Exit(0)
	}
}

// hostState is what no command may change that fails: links, addresses, routes, the resolver.
func hostState(ts *testscript.TestScript) string {
	var lines []string
	links, err := netlink.LinkList()
	ts.Check(err)
	for _, l := range links {
		lines = append(lines, fmt.Sprint("link ", l.Attrs().Index, l.Attrs().Name, l.Attrs().Flags))
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	ts.Check(err)
	for _, a := range addrs {
		if a.IP.IsGlobalUnicast() || a.IP.IsLoopback() { // link-local ones come by themselves
			lines = append(lines, fmt.Sprint("addr ", a.LinkIndex, a.IPNet))
		}
	}
	rows, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE) // all tables
	ts.Check(err)
	for _, r := range rows {
		lines = append(lines, fmt.Sprint("route ", r))
	}
	slices.Sort(lines)
	conf, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		ts.Fatalf("%v", err)
	}
	return strings.Join(lines, "\n") + fmt.Sprintf("\n%q", conf)
}

// Two more commands for scripts that run as root: fairlead as nobody, and as a root without the right that it needs.
func init() {
	commands["nobody"] = func() {
		const id = 65534
		must(syscall.Setgroups(nil))
		must(syscall.Setgid(id))
		must(syscall.Setuid(id))
		becomeFairlead()
	}
	commands["powerless"] = func() {
		const capNetAdmin = 12
		runtime.LockOSThread() // the bounding set is a thread's
		if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_CAPBSET_DROP, capNetAdmin, 0); errno != 0 {
			must(errno)
		}
		becomeFairlead()
	}
}

// onhost is fairlead on a host of systemd's whose folders for services are those in $HOST.
func init() {
	commands["onhost"] = func() {
		runtime.LockOSThread() // so that it is the thread with the mounts that becomes fairlead
		must(syscall.Unshare(syscall.CLONE_NEWNS))
		must(syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
		must(os.MkdirAll(os.Getenv("HOST")+"/run/systemd/system", 0o755))
		for _, dir := range []string{"/etc/systemd/system", "/usr/local/lib", "/var/lib", "/run"} {
			must(os.MkdirAll(os.Getenv("HOST")+dir, 0o755))
			must(syscall.Mount(os.Getenv("HOST")+dir, dir, "", syscall.MS_BIND, ""))
		}
		becomeFairlead()
	}
}

func becomeFairlead() {
	must(syscall.Exec("/proc/self/exe", append([]string{"fairlead"}, os.Args[1:]...), os.Environ()))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "giving up rights:", err)
		os.Exit(125)
	}
}
