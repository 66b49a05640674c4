// Package lab is the test world: a host and VMs with a real dockerd, as namespaces of this Linux kernel.
//
// A World is the host: a network namespace with its own /etc, /run, /var/lib and /opt. Each VM is a network, pid,
// mount and UTS namespace with a dockerd inside. A routed VM is joined to the host by a veth pair; a sealed one
// by nothing but the engine's socket. Programs run in the host with World.Command.
//
// Whatever a world made goes away with it: at Close, and as well when the process that made it is killed. Every
// machine lives only as long as a pipe from this process, and a janitor process holds the list of things to undo.
//
// It needs Linux, root, and the packages that prepare.sh installs. Settings from the environment: LAB_DOCKERD (the
// dockerd binary, default "dockerd") and LAB_DOCKER (the docker client, default "docker").
package lab
