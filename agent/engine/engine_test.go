package engine

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/docker/api"
	"github.com/docker/docker/client"
)

// TestMain fails the package when something of it, or of the client, still runs after the tests.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "ssh" {
		os.Exit(ssh(os.Args[1:]))
	}
	code := m.Run()
	for deadline := time.Now().Add(30 * time.Second); code == 0; time.Sleep(10 * time.Millisecond) {
		all := make([]byte, 1<<20)
		all = all[:runtime.Stack(all, true)]
		var left []string
		for stack := range strings.SplitSeq(string(all), "\n\n") {
			if strings.Contains(stack, "agent/engine.(*") || strings.Contains(stack, "docker/client") || strings.Contains(stack, "http.(*persistConn)") {
				left = append(left, stack)
			}
		}
		if left == nil {
			break
		}
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "goroutines are left:\n\n%s\n", strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

func TestParseEndpoint(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Endpoint // none: refused
		host string
	}{
		{"unix:///var/run/docker.sock", Endpoint{Name: "default", URL: "unix:///var/run/docker.sock", Certs: ""}, ""},
		{"dev=unix:///var/run/docker.sock", Endpoint{Name: "dev", URL: "unix:///var/run/docker.sock", Certs: ""}, ""},
		{"unix:///run/a=b.sock", Endpoint{Name: "default", URL: "unix:///run/a=b.sock", Certs: ""}, ""},
		{"dev=unix:///run/a=b.sock", Endpoint{Name: "dev", URL: "unix:///run/a=b.sock", Certs: ""}, ""},
		{"npipe:////./pipe/docker_engine", Endpoint{Name: "default", URL: "npipe:////./pipe/docker_engine", Certs: ""}, ""},
		{"win=npipe:////./pipe/docker_engine", Endpoint{Name: "win", URL: "npipe:////./pipe/docker_engine", Certs: ""}, ""},
		{"tcp://192.168.99.100:2376", Endpoint{Name: "default", URL: "tcp://192.168.99.100:2376", Certs: ""}, "192.168.99.100"},
		{"dev=tcp://[fd99::100]:2375", Endpoint{Name: "dev", URL: "tcp://[fd99::100]:2375", Certs: ""}, "fd99::100"},
		{"tcp://vm.local:2375", Endpoint{Name: "default", URL: "tcp://vm.local:2375", Certs: ""}, ""},
		{"tcp://10.0.0.1:2376?certs=/home/me/.docker/machine=1", Endpoint{Name: "default", URL: "tcp://10.0.0.1:2376", Certs: "/home/me/.docker/machine=1"}, "10.0.0.1"},
		{"dev=tcp://10.0.0.1:2376?certs=%2Fa%20b", Endpoint{Name: "dev", URL: "tcp://10.0.0.1:2376", Certs: "/a b"}, "10.0.0.1"},
		{`dev=tcp://10.0.0.1:2376?certs=C:\Users\me\certs`, Endpoint{Name: "dev", URL: "tcp://10.0.0.1:2376", Certs: `C:\Users\me\certs`}, "10.0.0.1"},
		{"tcp://10.0.0.1:2376/below", Endpoint{Name: "default", URL: "tcp://10.0.0.1:2376/below", Certs: ""}, "10.0.0.1"},
		{in: ""}, {in: "="}, {in: "dev="}, {in: "dev"}, {in: "=unix:///run/docker.sock"},
		{in: "/var/run/docker.sock"}, {in: "192.168.99.100:2376"}, {in: "localhost:2375"},
		{in: "unix://"}, {in: "unix://run/docker.sock"}, {in: "unix:"}, {in: "unix:/var/run/docker.sock"}, {in: "UNIX:///var/run/docker.sock"}, {in: "npipe://docker_engine"},
		{in: "tcp://"}, {in: "tcp://10.0.0.1"}, {in: "tcp://:2375"}, {in: "tcp://10.0.0.1:port"}, {in: "tcp:///2375"}, {in: "tcp://10.0.0.1:99999"}, {in: "tcp://10.0.0.1:0"}, {in: "ssh://vm:99999"}, {in: "ssh://vm:0"}, {in: "tcp://[::1:2375"},
		{"ssh://me@vm", Endpoint{Name: "default", URL: "ssh://me@vm"}, ""},
		{"far=ssh://vm:2222/run/docker.sock", Endpoint{Name: "far", URL: "ssh://vm:2222/run/docker.sock"}, ""},
		{in: "ssh://"}, {in: "ssh://-oProxyCommand=x"}, {in: "ssh://-l@vm"}, {in: "ssh://me:secret@vm"}, {in: "ssh://vm?x"}, {in: "ssh://vm/a;b"}, {in: "ssh://vm/$(x)"}, {in: "ssh://a b"},
		{in: "http://10.0.0.1:2375"}, {in: "fd://"}, {in: "dev=https://10.0.0.1"}, {in: "unix:///a\x00b"}, {in: "://"},
		// What is misspelt would leave out TLS.
		{in: "tcp://10.0.0.1:2376?cert=/a"}, {in: "tcp://10.0.0.1:2376?certs=/a;b"}, {in: "tcp://10.0.0.1:2376?certs=/a&tls=no"}, {in: "tcp://10.0.0.1:2376?certs=%zz"},
	} {
		got, err := ParseEndpoint(c.in, "default")
		if c.want == (Endpoint{}) {
			if err == nil {
				t.Errorf("ParseEndpoint(%q) = %+v, want it refused", c.in, got)
			} else if !strings.Contains(err.Error(), fmt.Sprintf("%q", c.in)) {
				t.Errorf("ParseEndpoint(%q): the error does not quote it: %v", c.in, err)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("ParseEndpoint(%q) = %+v, %v, want %+v", c.in, got, err, c.want)
		}
		want, _ := netip.ParseAddr(c.host)
		if host := got.Host(); host != want {
			t.Errorf("%q: Host() = %v, want %v", c.in, host, want)
		}
	}
}

func FuzzParseEndpoint(f *testing.F) {
	for _, s := range []string{"unix:///a=b", "dev=tcp://[::1]:1?certs=/a=b", "npipe:////./pipe/x", "tcp://u@h:1/p#f", "a=b=c://", "uniX:/", "=tcp://h:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ep, err := ParseEndpoint(s, "default")
		if err != nil {
			return
		}
		ep.Host()
		if ep.Name == "" {
			t.Error("accepted without a name")
		}
		if _, err := client.ParseHostURL(ep.URL); err != nil {
			t.Errorf("accepted, but the client refuses it: %v", err)
		}
		again, err := ParseEndpoint(ep.Name+"="+ep.URL, "other")
		if again.Certs = ep.Certs; err != nil || again != ep {
			t.Errorf("%+v is read back as %+v, %v", ep, again, err)
		}
	})
}

func at(url string) *Engine {
	return New(Endpoint{Name: "test", URL: url}, slog.New(slog.DiscardHandler))
}

// listenTCP returns a socket of this host that is closed with the test, and its URL.
func listenTCP(t testing.TB) (net.Listener, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, "tcp://" + l.Addr().String()
}

// serve has h answer on l until the test ends.
func serve(t testing.TB, l net.Listener, h http.Handler) {
	s := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
}

// answers is an engine with fixed answers, by path without the version; "_ping" is the API version in the ping's header.
type answers map[string]string

func (a answers) with(path, answer string) answers {
	b := answers{}
	for k, v := range a {
		b[k] = v
	}
	b[path] = answer
	return b
}

func (a answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if strings.HasPrefix(path, "/v1.") {
		path = path[strings.Index(path[1:], "/")+1:]
	}
	if path == "/_ping" {
		if v := a["_ping"]; v != "" {
			w.Header().Set("Api-Version", v)
		}
		return
	}
	answer, ok := a[path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, answer)
}

var sound = answers{
	"_ping":    "1.41",
	"/version": `{"Version":"20.10.24","ApiVersion":"1.41","Os":"linux","Arch":"amd64"}`,
	"/info":    `{"ID":"the-id","Name":"vm0","OperatingSystem":"Debian GNU/Linux 12","SystemTime":"2026-11-22T00:54:55.123456789Z"}`,
}

// dialSound connects to an engine that is sound, for as long as the test runs.
func dialSound(t *testing.T, listen func(testing.TB) (net.Listener, string)) *connection {
	t.Helper()
	l, url := listen(t)
	serve(t, l, sound)
	c, err := at(url).dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestDial(t *testing.T) {
	t.Parallel()
	c := dialSound(t, listenTCP)
	want := Info{ID: "the-id", Host: "vm0", Version: "20.10.24", API: "1.41", OS: "linux", Arch: "amd64", System: "Debian GNU/Linux 12"}
	if c.info != want {
		t.Errorf("info %+v, want %+v", c.info, want)
	}
	if want := time.Date(2026, 11, 22, 0, 54, 55, 123456789, time.UTC); !c.systemTime.Equal(want) {
		t.Errorf("engine's clock %v, want %v", c.systemTime, want)
	}
}

func TestDialAnswers(t *testing.T) {
	t.Parallel()
	version := func(text string) answers { return sound.with("/version", text) }
	speaks := func(api string) answers {
		return sound.with("_ping", api).with("/version", fmt.Sprintf(`{"ApiVersion":%q,"Os":"linux"}`, api))
	}
	anyError := errors.New("any")
	for _, c := range []struct {
		name   string
		engine http.Handler
		want   error // nil: taken; anyError: an error that blames neither age, OS nor silence
		api    string
	}{
		{"17.06", speaks("1.30"), nil, "1.30"},
		{"newer than us", speaks("9.99"), nil, api.DefaultVersion},
		{"no header in the ping", sound.with("_ping", ""), nil, "1.24"},
		{"no clock", sound.with("/info", `{"ID":"x","SystemTime":"noon"}`), nil, "1.41"},
		{"no OS named", version(`{"ApiVersion":"1.41"}`), nil, "1.41"},
		{"1.24", speaks("1.24"), ErrTooOld, ""},
		{"17.05", speaks("1.29"), ErrTooOld, ""},
		{"1.24, no header in the ping", sound.with("_ping", "").with("/version", `{"ApiVersion":"1.24"}`), ErrTooOld, ""},
		{"Windows containers", version(`{"ApiVersion":"1.41","Os":"windows"}`), ErrNotLinux, ""},
		{"no API at all", answers{}, anyError, ""},
		{"no version", version(`{}`).with("_ping", ""), anyError, ""},
		{"version is null", version(`null`).with("_ping", ""), anyError, ""},
		{"version is empty", version(``), anyError, ""},
		{"version is cut", version(`{"ApiVersion":"1.`), anyError, ""},
		{"version is a list", version(`[]`), anyError, ""},
		{"version of wrong types", version(`{"ApiVersion":1.41}`), anyError, ""},
		{"info is text", sound.with("/info", `"hello"`), anyError, ""},
		{"info of wrong types", sound.with("/info", `{"ID":[1]}`), anyError, ""},
		{"info is empty", sound.with("/info", ``), anyError, ""},
		{"a web site", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "<!DOCTYPE html><html><body>Welcome to nginx!</body></html>")
		}), anyError, ""},
		{"redirects", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusMovedPermanently)
		}), ErrNoAnswer, ""},
		{"a login page", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "<html>", http.StatusForbidden)
		}), ErrNoAnswer, ""},
		{"not ready", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, `{"message":"starting"}`, http.StatusServiceUnavailable)
		}), ErrNoAnswer, ""},
		{"panics", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), ErrNoAnswer, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, url := listenTCP(t)
			serve(t, l, c.engine)
			conn, err := at(url).dial(t.Context())
			if conn != nil {
				defer conn.Close()
			}
			switch {
			case c.want == nil:
				if err != nil || conn.info.API != c.api {
					t.Errorf("refused: %v, info %+v, want API %s", err, conn, c.api)
				}
			case c.want == anyError:
				if err == nil || errors.Is(err, ErrTooOld) || errors.Is(err, ErrNotLinux) || errors.Is(err, ErrNoAnswer) {
					t.Errorf("error %v", err)
				}
			case !errors.Is(err, c.want):
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
}

// Peers that keep no protocol. Each speaks on every connection, or, with afterPing, once the ping has gone well.
func TestDialRubbish(t *testing.T) {
	t.Parallel()
	endless := func(beginning, more string) func(net.Conn, *atomic.Int64) {
		return func(c net.Conn, sent *atomic.Int64) {
			io.WriteString(c, beginning)
			block := bytes.Repeat([]byte(more), 1<<16/len(more))
			for {
				n, err := c.Write(block)
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		}
	}
	const afterPing = true
	const ok = "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\n"
	for _, c := range []struct {
		name      string
		speak     func(net.Conn, *atomic.Int64)
		afterPing bool
		call      time.Duration // patience; 0: a minute
		text      string        // in the error
	}{
		{"hangs up", func(net.Conn, *atomic.Int64) {}, false, 0, ""},
		{"another protocol", func(c net.Conn, _ *atomic.Int64) { io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n") }, false, 0, ""},
		{"zeros", func(c net.Conn, _ *atomic.Int64) { c.Write(make([]byte, 1<<16)) }, false, 0, ""},
		{"half an answer", func(c net.Conn, _ *atomic.Int64) { io.WriteString(c, ok+"Content-Length: 100\r\n\r\n{") }, afterPing, 0, ""},
		{"bad length", func(c net.Conn, _ *atomic.Int64) { io.WriteString(c, ok+"Content-Length: -5\r\n\r\n") }, false, 0, ""},
		{"silence", func(c net.Conn, _ *atomic.Int64) { io.Copy(io.Discard, c) }, false, 200 * time.Millisecond, ErrNoAnswer.Error()},
		{"stops half-way", func(c net.Conn, _ *atomic.Int64) { io.WriteString(c, ok+"\r\n{"); io.Copy(io.Discard, c) }, afterPing, 200 * time.Millisecond, ""},
		{"endless headers", endless(ok, "A: "+strings.Repeat("b", 1000)+"\r\n"), false, 0, ""},
		{"endless first line", endless("", "HTTP/1.1 200 OK"), false, 0, ""},
		{"endless text", endless(ok+"\r\n"+`{"Version":"`, "a"), afterPing, 0, "no end"},
		{"endless space", endless(ok+"\r\n", "\n"), afterPing, 0, "no end"},
		{"endless depth", endless(ok+"\r\n", "["), afterPing, 0, ""},
		{"endless chunks", endless(ok+"Transfer-Encoding: chunked\r\n\r\n", "1000\r\n"+strings.Repeat(" ", 0x1000)+"\r\n"), afterPing, 0, "no end"},
		{"endless when unpacked", func(c net.Conn, _ *atomic.Int64) {
			io.WriteString(c, ok+"Content-Encoding: gzip\r\n\r\n")
			var packed bytes.Buffer
			z := gzip.NewWriter(&packed)
			z.Write(bytes.Repeat([]byte(" "), 1<<20))
			z.Close()
			for {
				if _, err := c.Write(packed.Bytes()); err != nil {
					return
				}
			}
		}, afterPing, 0, "no end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l, url := listenTCP(t)
			var sent atomic.Int64
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer conn.Close()
						head := make([]byte, 4)
						if _, err := io.ReadFull(conn, head); err != nil {
							return
						}
						if string(head) == "HEAD" && c.afterPing {
							io.WriteString(conn, ok+"Connection: close\r\n\r\n")
							return
						}
						c.speak(conn, &sent)
					}()
				}
			}()
			e := at(url)
			e.pace.call = cmp.Or(c.call, time.Minute)
			conn, err := e.dial(t.Context())
			if err == nil {
				conn.Close()
				t.Fatalf("taken for an engine: %+v", conn.info)
			}
			if !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %q, want %q in it", err, c.text)
			}
			if n := sent.Load(); n > maxAnswer+(64<<20) { // much lies in the buffers of sockets
				t.Errorf("%d MB were read of an answer without end", n>>20)
			}
		})
	}
}

func TestNobody(t *testing.T) {
	t.Parallel()
	l, url := listenTCP(t)
	l.Close()
	if _, err := at(url).dial(t.Context()); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("nobody listens: %v", err)
	}
	if _, err := at(url).Snapshot(t.Context()); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("Snapshot: %v", err)
	}
	if _, err := at(url).StartPilot(t.Context(), Pilot{Instance: "i1"}); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("StartPilot: %v", err)
	}
	if err := at(url).RemovePilot(t.Context(), "i1"); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("RemovePilot: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := at(url).dial(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// authority is a certificate authority made for one test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.cert, a.key = a.issue(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

func (a *authority) issue(c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.Subject.CommonName = "fairlead test"
	c.NotBefore = time.Now().Add(-48 * time.Hour)
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(48 * time.Hour)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		a.t.Fatal(err)
	}
	return c, key
}

func (a *authority) server(notAfter time.Time, addr string) tls.Certificate {
	cert, key := a.issue(&x509.Certificate{NotAfter: notAfter, IPAddresses: []net.IP{net.ParseIP(addr)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// folder has a client's certificate by a, and trusts the server of trusted.
func (a *authority) folder(trusted *authority, leaveOut string) string {
	a.t.Helper()
	dir := a.t.TempDir()
	cert, key := a.issue(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"ca.pem":   {Type: "CERTIFICATE", Bytes: trusted.cert.Raw},
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert.Raw},
		"key.pem":  {Type: "EC PRIVATE KEY", Bytes: raw},
	} {
		if name == leaveOut {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return dir
}

func TestDialTLS(t *testing.T) {
	t.Parallel()
	ours, other := newAuthority(t), newAuthority(t)
	good := ours.server(time.Time{}, "127.0.0.1")
	garbage := ours.folder(ours, "")
	if err := os.WriteFile(filepath.Join(garbage, "ca.pem"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		server tls.Certificate // none: no TLS
		certs  string
		is     error  // nil: any
		text   string // in the error; "": dialling succeeds
	}{
		{"right", good, ours.folder(ours, ""), nil, ""},
		{"server of another authority", other.server(time.Time{}, "127.0.0.1"), ours.folder(ours, ""), nil, "certificate"},
		{"client of another authority", good, other.folder(ours, ""), nil, "certificate"},
		{"expired", ours.server(time.Now().Add(-time.Hour), "127.0.0.1"), ours.folder(ours, ""), nil, "expired"},
		{"of another host", ours.server(time.Time{}, "127.0.0.2"), ours.folder(ours, ""), nil, "certificate"},
		{"no ca.pem", good, ours.folder(ours, "ca.pem"), fs.ErrNotExist, "ca.pem"},
		{"no cert.pem", good, ours.folder(ours, "cert.pem"), fs.ErrNotExist, "cert.pem"},
		{"no key.pem", good, ours.folder(ours, "key.pem"), fs.ErrNotExist, "key.pem"},
		{"no folder", good, filepath.Join(garbage, "none"), fs.ErrNotExist, "ca.pem"},
		{"garbage in ca.pem", good, garbage, nil, "ca.pem"},
		{"client without TLS", good, "", nil, "HTTPS"},
		{"server without TLS", tls.Certificate{}, ours.folder(ours, ""), nil, "HTTPS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, url := listenTCP(t)
			if c.server.Certificate != nil {
				pool := x509.NewCertPool()
				pool.AddCert(ours.cert)
				l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{c.server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool})
			}
			serve(t, l, sound)
			e := at(url)
			e.Certs = c.certs
			conn, err := e.dial(t.Context())
			if c.text == "" {
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				var p pulse
				defer p.close()
				if err := p.beat(t.Context(), conn, 20*time.Second); err != nil {
					t.Errorf("ping: %v", err)
				}
				return
			}
			if err == nil {
				conn.Close()
				t.Fatal("taken")
			}
			if c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %q, want %q in it", err, c.text)
			}
			if c.text == "certificate" && errors.Is(err, ErrNoAnswer) {
				t.Errorf("error %q: but the engine did answer", err)
			}
		})
	}
}
