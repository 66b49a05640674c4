package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/internal/lab"
	"github.com/fairlead-dev/fairlead/platform"
)

// TestMatrix sends every kind of traffic to containers on every kind of network, by way of the VM's address and through
// the engine's API, on the engine at hand. With LAB_ENGINES, a list of dockerds, it does so on each of them, with both
// kinds of iptables in the VM, and prints what was seen as a Markdown table.
func TestMatrix(t *testing.T) {
	engines := strings.Fields(os.Getenv("LAB_ENGINES"))
	if len(engines) == 0 {
		t.Parallel()
		for _, by := range accesses {
			t.Run(by.name, func(t *testing.T) {
				t.Parallel()
				new(sheet).fill(t, by, lab.VMOptions{})
			})
		}
		return
	}
	var sheets []*sheet
	for i, dockerd := range engines {
		for _, iptables := range kinds(dockerd) {
			for _, by := range accesses {
				s := &sheet{iptables: iptables}
				sheets = append(sheets, s)
				t.Run(fmt.Sprintf("%d/%s/%s", i, iptables, by.name), func(t *testing.T) {
					s.fill(t, by, lab.VMOptions{Legacy: iptables == "legacy", Dockerd: dockerd})
				})
			}
		}
	}
	printSheets(sheets)
}

// kinds are those of iptables that a dockerd is tried with: "unused" is one with a firewall of its own.
func kinds(dockerd string) []string {
	if strings.HasSuffix(dockerd, "-nftables") {
		return []string{"unused"}
	}
	its := filepath.Join(filepath.Dir(dockerd), "usr/sbin/xtables-")
	_, legacy := os.Stat(its + "legacy-multi")
	if _, nft := os.Stat(its + "nft-multi"); legacy == nil && nft != nil { // of before nftables
		return []string{"legacy"}
	}
	return []string{"nft", "legacy"}
}

// access is what a VM lets its host choose from.
type access struct {
	name   string
	reach  platform.Kind
	other  platform.Kind // for IPv6, beside a gateway
	sealed bool
	six    bool // VM and host have IPv6 addresses on their link
}

var accesses = []access{
	{name: "gateway", reach: platform.Gateway, other: platform.Gateway, six: true},
	{name: "gateway, IPv6 by tunnel", reach: platform.Gateway, other: platform.Tunnel},
	{name: "tunnel", reach: platform.Tunnel, sealed: true},
}

func reachName(sealed bool) string {
	if sealed {
		return "tunnel"
	}
	return "gateway"
}

// sheet is what was seen of one engine by one reach.
type sheet struct {
	engine, iptables, reach string
	cells                   []cell
}

// cell is one kind of traffic: to how many addresses it got, of how many.
type cell struct {
	what   string
	ok, of int
}

func printSheets(sheets []*sheet) {
	head, rule := "| engine | iptables | reach |", "|---|---|---|"
	var rows strings.Builder
	for _, s := range sheets {
		fmt.Fprintf(&rows, "| %s | %s | %s |", s.engine, s.iptables, s.reach)
		for _, c := range s.cells {
			if s == sheets[0] {
				head += " " + c.what + " |"
				rule += "---|"
			}
			if c.ok < c.of {
				fmt.Fprintf(&rows, " **%d of %d** |", c.ok, c.of)
			} else {
				fmt.Fprintf(&rows, " %d |", c.of)
			}
		}
		rows.WriteString("\n")
	}
	fmt.Printf("\n%s\n%s\n%s\n", head, rule, rows.String())
}

// leg is one address of a container.
type leg struct {
	name string // of the container and the network: "both/user/v6"
	host string // the container's host name
	addr netip.Addr
}

func (l leg) at(port uint16) netip.AddrPort { return netip.AddrPortFrom(l.addr, port) }

// fill makes the VM, and fills the sheet.
func (s *sheet) fill(t *testing.T, by access, opts lab.VMOptions) {
	h := newHost(t)
	opts.Args = []string{"--ipv6", "--fixed-cidr-v6=fd17::/64"}
	opts.Sealed, opts.TCP = by.sealed, !by.sealed
	if by.six {
		opts.Addr6, opts.HostAddr6 = netip.MustParseAddr("fd99::100"), netip.MustParsePrefix("fd99::1/64")
	}
	vm := h.StartVM(t, opts)
	h.watch(vm.URL())
	s.engine, s.reach = docker(t, vm, "version", "--format", "{{.Server.Version}}"), by.name
	legs := everyLeg(t, vm)
	hostBefore, vmBefore := h.state(), firewall(t, vm)
	r := h.start("--resolver", "none")
	h.eventually("all is reached", func() error {
		st := h.status()
		e := st.Engines[0]
		if e.Reach.Kind != by.reach || e.Reach.Other.Kind != by.other || e.Pilot == nil || !e.Pilot.Open {
			return fmt.Errorf("%+v, pilot %+v", e.Reach, e.Pilot)
		}
		for _, l := range legs {
			if !slices.ContainsFunc(st.Subnets, func(n agent.Subnet) bool { return n.Prefix.Contains(l.addr) && n.State == agent.Installed }) {
				return fmt.Errorf("%v is not: %+v", l.addr, st.Subnets)
			}
		}
		return nil
	})

	h.see(s, "ping", legs, func(l leg) error {
		_, err := h.Run(t.Context(), "ping", "-c1", "-w20", l.addr.String())
		return err
	})
	h.see(s, "HTTP", legs, func(l leg) error {
		out, err := h.Run(t.Context(), "curl", "-sSg", "--max-time", "20", "http://"+l.at(80).String())
		if err == nil && !strings.HasPrefix(out, l.host+"\n") {
			err = fmt.Errorf("it is %q", out)
		}
		return err
	})
	h.see(s, "64 KB by UDP", legs, h.datagram)
	h.see(s, "1 MB each way", legs, h.echo)
	h.see(s, "path MTU", legs, h.pathMTU)
	legs = slices.DeleteFunc(legs, func(l leg) bool { return l.host != "plain" && l.host != "on-user" })
	h.see(s, "1,000 connections", legs, h.thousand)
	h.see(s, "iperf3 both ways", legs, func(l leg) error { return errors.Join(h.iperf(vm, l), h.iperf(vm, l, "--reverse")) })

	r.signal(syscall.SIGTERM)
	if after := h.state(); after != hostBefore {
		t.Errorf("the host is not as before:\n%s\nbefore:\n%s", after, hostBefore)
	}
	if after := firewall(t, vm); after != vmBefore {
		t.Errorf("the VM's firewall is not as before:\n%s\nbefore:\n%s", after, vmBefore)
	}
}

// see tries one kind of traffic with every leg.
func (h *host) see(s *sheet, what string, legs []leg, try func(leg) error) {
	h.t.Helper()
	c := cell{what: what, of: len(legs)}
	begin := time.Now()
	for _, l := range legs {
		if err := try(l); err != nil {
			h.t.Errorf("%s %s, %s: %s %s: %v", s.engine, s.iptables, s.reach, what, l.name, err)
			continue
		}
		c.ok++
	}
	h.t.Logf("%s: %d of %d in %v", what, c.ok, c.of, time.Since(begin).Round(time.Millisecond))
	s.cells = append(s.cells, c)
}

// everyLeg starts containers on each kind of network, and returns all their addresses.
func everyLeg(t testing.TB, vm *lab.VM) (legs []leg) {
	t.Helper()
	for i, options := range []string{"user", "--internal inner", "-o com.docker.network.bridge.enable_icc=false quiet", "-o com.docker.network.driver.mtu=1400 small"} {
		docker(t, vm, append([]string{"network", "create", "--ipv6", "--subnet", fmt.Sprintf("fd18:%d::/64", i)}, strings.Fields(options)...)...)
	}
	var all sync.WaitGroup
	containers := []string{"plain", "published", "on-user", "user-published", "on-inner", "on-quiet", "on-small", "both"}
	for i, c := range containers {
		args := []string{"run", "-d", "--name", c, "--hostname", c}
		if _, network, ok := strings.Cut(c, "on-"); ok {
			args = append(args, "--network", network)
		}
		if strings.HasSuffix(c, "published") {
			args = append(args, "-p", fmt.Sprintf("%d:80", 8080+i))
		}
		if c == "user-published" {
			args = append(args, "--network", "user")
		}
		all.Go(func() {
			_, err := vm.Docker(t.Context(), append(args, "web")...)
			if err == nil && c == "both" {
				if _, err = vm.Docker(t.Context(), "network", "connect", "user", c); err == nil {
					_, err = vm.Docker(t.Context(), "network", "connect", "quiet", c)
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	if all.Wait(); t.Failed() {
		t.FailNow()
	}
	for _, c := range containers {
		var networks map[string]struct{ IPAddress, GlobalIPv6Address string }
		if err := json.Unmarshal([]byte(docker(t, vm, "inspect", "-f", "{{json .NetworkSettings.Networks}}", c)), &networks); err != nil {
			t.Fatal(err)
		}
		for n, e := range networks {
			legs = append(legs, leg{c + "/" + n + "/v4", c, netip.MustParseAddr(e.IPAddress)}, leg{c + "/" + n + "/v6", c, netip.MustParseAddr(e.GlobalIPv6Address)})
		}
	}
	return legs
}

// dial connects from the host to a container's echo, with a deadline for all that follows.
func (h *host) dial(network string, l leg) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := h.Dial(ctx, network, l.at(7))
	if err == nil {
		conn.SetDeadline(time.Now().Add(time.Minute))
	}
	return conn, err
}

// datagram has the largest datagram there is echoed. The first may be lost to teach the path's MTU.
func (h *host) datagram(l leg) error {
	conn, err := h.dial("udp", l)
	if err != nil {
		return err
	}
	defer conn.Close()
	size := 65535 - 20 - 8
	if l.addr.Is6() {
		size = 65535 - 40 - 8
	}
	sent, got := noise(size), make([]byte, 1<<16)
	for range 20 {
		if _, err := conn.Write(sent); err != nil && !errors.Is(err, syscall.EMSGSIZE) {
			return err
		}
		conn.SetReadDeadline(time.Now().Add(time.Second))
		n, err := conn.Read(got)
		if err == nil && bytes.Equal(got[:n], sent) {
			return nil
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, syscall.EMSGSIZE) {
			return err
		}
	}
	return errors.New("none of 20 came back whole")
}

// echo has a megabyte echoed by TCP.
func (h *host) echo(l leg) error {
	conn, err := h.dial("tcp", l)
	if err != nil {
		return err
	}
	defer conn.Close()
	return echoed(conn, noise(1<<20))
}

func echoed(conn net.Conn, sent []byte) error {
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		written <- err
	}()
	got := make([]byte, len(sent))
	if n, err := io.ReadFull(conn, got); err != nil {
		return fmt.Errorf("%d of %d bytes came back: %w", n, len(sent), err)
	}
	if !bytes.Equal(got, sent) {
		return errors.New("other bytes came back")
	}
	return <-written
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

var mtuTold = regexp.MustCompile(`(?i)mtu ?[=:] ?(\d+)`)

// pathMTU sends a packet that must not be cut and just fits, and one that does not fit: its sender must be told.
func (h *host) pathMTU(l leg) error {
	mtu, headers := 1500, 28
	if strings.Contains(l.name, "/small/") {
		mtu = 1400
	}
	if l.addr.Is6() {
		headers = 48
	}
	if _, err := h.Run(context.Background(), "ping", "-Mdo", "-c1", "-w20", "-s", fmt.Sprint(mtu-headers), l.addr.String()); err != nil {
		return err
	}
	var told string
	for range 20 { // what it is told by may be lost
		cmd := h.Command(context.Background(), "ping", "-Mdo", "-c1", "-W0.2", "-s", fmt.Sprint(mtu-headers+50), l.addr.String())
		out, err := cmd.CombinedOutput()
		if err == nil {
			return fmt.Errorf("%d bytes went through uncut", mtu+50)
		}
		if m := mtuTold.FindSubmatch(out); m != nil && string(m[1]) == fmt.Sprint(mtu) {
			return nil
		}
		told = string(out)
	}
	return fmt.Errorf("the sender is not told %d: %s", mtu, told)
}

// thousand opens that many connections at once, and has something echoed by each while all are open.
func (h *host) thousand(l leg) error {
	const n = 1000
	errs := make(chan error, n)
	var open, all sync.WaitGroup
	open.Add(n)
	for range n {
		all.Go(func() {
			conn, err := h.dial("tcp", l)
			open.Done()
			if err != nil {
				errs <- err
				return
			}
			defer conn.Close()
			open.Wait()
			if err := echoed(conn, noise(1000)); err != nil {
				errs <- err
			}
		})
	}
	all.Wait()
	close(errs)
	if len(errs) > 0 {
		return fmt.Errorf("%d failed: %w", len(errs), <-errs)
	}
	return nil
}

// iperf has iperf3 send 64 MB to the container, whose network a server of iperf3 is put into.
func (h *host) iperf(vm *lab.VM, l leg, args ...string) error {
	pid := docker(h.t, vm, "inspect", "-f", "{{.State.Pid}}", l.host)
	server := vm.Command(context.Background(), "timeout", "60", "nsenter", "-t", pid, "-n", "iperf3", "--server", "--one-off", "--forceflush")
	said, err := server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	defer func() {
		io.Copy(io.Discard, said) // until it has ended: its port is used again
		server.Wait()
	}()
	for line := make([]byte, 0, 1024); !bytes.Contains(line, []byte("listening")); {
		n, err := said.Read(line[len(line):cap(line)])
		if err != nil {
			return fmt.Errorf("iperf3's server: %w: %s", err, line)
		}
		line = line[:len(line)+n]
	}
	out, err := h.Run(context.Background(), "iperf3", append([]string{"--client", l.addr.String(), "--json", "--bytes", "64M"}, args...)...)
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	var r struct {
		End struct {
			Received struct{ Bytes int } `json:"sum_received"`
		}
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return err
	}
	if r.End.Received.Bytes < 32<<20 { // what is under way at the end is not counted
		return fmt.Errorf("%d bytes got through: %s", r.End.Received.Bytes, out)
	}
	return nil
}
