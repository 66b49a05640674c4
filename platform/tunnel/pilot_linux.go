package tunnel

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// wholeMTU is how large packets with TCP segments become. A kernel carries them in one piece through bridges to a container, a
// thing it does with no more than 64 KB, headers of all layers included; TCP itself leaves 320 bytes for those.
const wholeMTU = 64<<10 - 320

// openPilotPort makes the VM's end of a link: a device named after the tag. Where the host's packets are of full size, it
// has the kernel cut and join TCP segments; where the kernel does not do that, the link is one of plain 1500 bytes. The
// prover is that of a link with Inject.
func openPilotPort(l Link, prover *prover) (_ port, got linked, err error) {
	name := "flead-" + l.Tag
	got.MTU = l.MTU
	jumbo := l.MTU == maxPacket
	var fd int
	if jumbo {
		if fd, got.Dev, err = openTUN(name, unix.IFF_VNET_HDR); err == nil {
			err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6|unix.TUN_F_TSO_ECN)
			if err != nil {
				unix.Close(fd)
			}
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) {
			jumbo, got.MTU = false, networkMTU
		}
	}
	if !jumbo {
		fd, got.Dev, err = openTUN(name, 0)
	}
	if err != nil {
		got.Hint = tunHint(err)
		return nil, got, err
	}
	p := newTUNPort(fd, jumbo)
	if !l.Inject {
		p.raise = wholeMTU
	}
	if jumbo {
		p.cut, p.partial, got.Partial = new(segmenter), l.Partial, l.Partial
	}
	if got.Addrs, err = configure(got.Dev, l.Pilot, l.Host, got.MTU); len(got.Addrs) == 0 {
		p.Close()
		return nil, got, fmt.Errorf("configure %s: %w", got.Dev, err)
	}
	if err != nil {
		got.Lacks = err.Error()
	}
	if !l.Inject {
		return keepAwake(p), got, nil
	}
	i, err := openInjector(p, prover)
	if err != nil {
		p.Close()
		got.Hint = injectHint
		return nil, got, err
	}
	return keepAwake(i), got, nil
}

// tunHint is what to do where the pilot gets no TUN device, if that is known.
func tunHint(err error) string {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return "in the VM, load the kernel's module: modprobe tun"
	case (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)) && mapped():
		return "the engine's containers have no rights over its machine's network, as it runs rootless or with Enhanced Container Isolation: make it rootful (podman machine set --rootful), switch that off, or name another engine with --engine"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "the pilot needs CAP_NET_ADMIN and /dev/net/tun: look for what takes them away from containers, such as an authorization plugin, Enhanced Container Isolation or a rootless engine"
	case errors.Is(err, unix.EBUSY):
		return "look for an older pilot that still runs in the VM: docker ps --filter label=fairlead.pilot"
	}
	return ""
}

// mapped tells whether this process is in a user namespace, where root is not the machine's.
func mapped() bool {
	all, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(all)), " ") != "0 0 4294967295"
}
