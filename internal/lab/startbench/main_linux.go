// Command startbench tells how long after its start an agent answers, beside the time in which the same engine's list can only be read.
//
//	startbench ROUNDS HOSTS SOCKET NAME=FAIRLEAD...
//
// SOCKET is a made-up engine's, which lists a container for each line "ADDRESS NAME" of the file HOSTS. In each round, for each of the
// binaries in turn, the list is read, the agent started and asked for the last name until it is answered right.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-dev/fairlead/dnsserver"
)

// columns are what is told of a start, in this order.
var columns = []string{"list ms", "answer ms", "of list", "CPU ms", "system ms", "faults", "peak MB", "anonymous MB"}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 5 {
		log.Fatal("usage: startbench ROUNDS HOSTS SOCKET NAME=FAIRLEAD...")
	}
	rounds, err := strconv.Atoi(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	hosts, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(hosts)), "\n")
	last := strings.Fields(lines[len(lines)-1])
	addr, name, socket := netip.MustParseAddr(last[0]), last[1], os.Args[3]
	dir, err := os.MkdirTemp("", "startbench")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	results := make([][][]float64, len(os.Args[4:])) // of each binary, by column
	for round := range rounds + 1 {
		for i, arg := range os.Args[4:] {
			_, binary, _ := strings.Cut(arg, "=")
			readList(socket) // the engine may still be at work for an agent that has ended
			list := readList(socket)
			row := start(binary, socket, filepath.Join(dir, fmt.Sprint(i, "-", round)), name, addr)
			if round == 0 { // the files are in nobody's cache
				results[i] = make([][]float64, len(columns))
				continue
			}
			for k, v := range slices.Concat([]float64{list, row[0], row[0] / list}, row[1:]) {
				results[i][k] = append(results[i][k], v)
			}
		}
	}
	for i, arg := range os.Args[4:] {
		what, _, _ := strings.Cut(arg, "=")
		fmt.Printf("%d names, %s, median (least to most) of %d:\n", len(lines), what, rounds)
		for k, v := range results[i] {
			slices.Sort(v)
			fmt.Printf("  %-13s %.1f (%.1f to %.1f)\n", columns[k], v[len(v)/2], v[0], v[len(v)-1])
		}
	}
}

// readList reads the engine's list, does nothing with it, and tells how many ms that took.
func readList(socket string) float64 {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	began := time.Now()
	answer, err := (&http.Client{Transport: transport}).Get("http://docker/containers/json")
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		log.Fatal(err)
	}
	return ms(time.Since(began))
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

// start starts an agent and ends it when it has answered; it gives the columns from the answer on.
func start(fairlead, socket, dir, name string, addr netip.Addr) []float64 {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0") // a free port
	if err != nil {
		log.Fatal(err)
	}
	at := netip.MustParseAddrPort(conn.LocalAddr().String())
	conn.Close()
	agent := exec.Command(fairlead, "run", "--engine", "unix://"+socket, "--gateway", "native", "--resolver", "none", "--dns-listen", at.String(),
		"--state-dir", dir, "--control", dir+".sock", "--log-level", "error")
	agent.Stderr = os.Stderr
	began := time.Now()
	if err := agent.Start(); err != nil {
		log.Fatal(err)
	}
	took := answered(at, name, addr)
	pid := agent.Process.Pid
	row := append([]float64{ms(took.Sub(began))}, usage(pid)...)
	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		log.Fatal(err)
	}
	if err := agent.Wait(); err != nil {
		log.Fatal(err)
	}
	return row
}

// answered tells when the name is answered right.
func answered(server netip.AddrPort, name string, addr netip.Addr) time.Time {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		answer, err := dnsserver.Query(ctx, server, name, "A")
		if err == nil && len(answer.Answers) == 1 && strings.HasSuffix(answer.Answers[0], "\t"+addr.String()) {
			return time.Now()
		}
		time.Sleep(time.Millisecond) // it may not listen yet
	}
	log.Fatal(name, " is not answered within two minutes")
	return time.Time{}
}

// usage gives what a process has used so far: the columns from CPU on.
func usage(pid int) []float64 {
	read := func(file string) string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			log.Fatal(err)
		}
		return string(b)
	}
	cpu := 0.0
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, task := range tasks {
		b, _ := os.ReadFile(task) // it may have ended
		var ns float64
		fmt.Sscan(string(b), &ns)
		cpu += ns / 1e6
	}
	stat := read("stat")
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+2:])
	number := func(s string) (n float64) { fmt.Sscan(s, &n); return n }
	status := func(key string) float64 {
		_, rest, _ := strings.Cut(read("status"), key+":")
		return number(rest) / 1024
	}
	return []float64{cpu, number(fields[12]) * 10, number(fields[7]), status("VmHWM"), status("RssAnon")}
}
