// Command guest is the only program in the lab's containers.
//
//	guest serve     HTTP on :80, answering host name and client address; echo on :7, TCP and UDP
//	guest sleep     wait
//	guest exit N    end with status N
//	guest echo      repeat standard input on standard output
//	guest drain     read all of standard input, then write one byte and wait
//	guest pour      write to standard output until standard input ends
//
// Those that wait end at once, with status 0, on SIGTERM and SIGINT.
package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	log.SetFlags(0)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT) // as pid 1 the default would be to ignore them
	switch args := os.Args[1:]; {
	case len(args) == 1 && args[0] == "serve":
		serve()
	case len(args) == 1 && args[0] == "sleep":
	case len(args) == 2 && args[0] == "exit":
		status, err := strconv.ParseUint(args[1], 10, 8)
		if err != nil {
			log.Fatal(err)
		}
		os.Exit(int(status))
	case len(args) == 1 && (args[0] == "echo" || args[0] == "drain" || args[0] == "pour"):
		if stream(args[0]); args[0] != "drain" {
			return
		}
	default:
		log.Fatal("usage: guest serve | sleep | exit N | echo | drain | pour")
	}
	<-end
}

// stream is what a pipe program can do at best: plain calls, and pipes as large as they get without privilege.
func stream(what string) {
	for fd := range uintptr(2) {
		syscall.Syscall(syscall.SYS_FCNTL, fd, 1031, 1<<20) // F_SETPIPE_SZ; a smaller one works too
	}
	buf := make([]byte, 256<<10)
	if what == "pour" {
		go func() {
			io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
		for {
			if _, err := os.Stdout.Write(buf); err != nil {
				return
			}
		}
	}
	for {
		n, err := os.Stdin.Read(buf)
		if err != nil {
			break
		}
		if what == "echo" {
			os.Stdout.Write(buf[:n])
		}
	}
	if what == "drain" {
		os.Stdout.Write(buf[:1])
	}
}

// serve returns when all sockets listen.
func serve() {
	name, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	listen(":80", func(conn net.Conn) { answer(conn, name) })
	listen(":7", func(conn net.Conn) { io.Copy(conn, conn) })

	packets, err := net.ListenPacket("udp", ":7")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := packets.ReadFrom(buf)
			if err != nil {
				log.Fatal(err)
			}
			packets.WriteTo(buf[:n], from)
		}
	}()
}

// listen has each TCP connection to addr handled, then closed.
func listen(addr string, handle func(net.Conn)) {
	conns, err := net.Listen("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			conn, err := conns.Accept()
			if err != nil {
				log.Fatal(err)
			}
			go func() {
				defer conn.Close()
				handle(conn)
			}()
		}
	}()
}

// answer gives the one page to one HTTP request without a body. Without net/http the guest builds in a second.
func answer(conn net.Conn, name string) {
	request := bufio.NewScanner(conn)
	for request.Scan() && request.Text() != "" {
	}
	client, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		log.Fatal(err)
	}
	page := name + "\n" + client + "\n"
	fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(page), page)
}
