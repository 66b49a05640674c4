package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/dnsserver"
	"github.com/fairlead-dev/fairlead/platform"
)

// commands are what scripts can run; others are in script_linux_test.go.
var commands = map[string]func(){"fairlead": main}

func TestMain(m *testing.M) {
	if commands[strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe")] == nil {
		enterWorld()
	}
	testscript.Main(m, commands)
}

// TestScript runs testdata/script/*.txtar: fairlead as a user types it. Beside testscript's own, there are
//
//	refuses CODE fairlead ARGS   it exits with CODE, two lines on standard error, nothing else said or changed
//	exits CODE fairlead ARGS     it exits with CODE
//	engine API                   an engine that speaks this API and nothing else; $ENGINE is its URL
//	hold WHAT WHERE              the test itself has it: udp ADDR, tcp ADDR, dns ADDR, control PATH, lock FILE; $HELD is WHERE
//	ready                        waits until an agent answers at $FAIRLEAD_CONTROL
//	uncomment FILE               takes the "# " from all lines of a config file that are settings
//	[root]                       this process may change routes
//
// The state folder is $FAIRLEAD_STATE_DIR; $FAIRLEAD_CONFIG is an empty file. No engine is named: the default's socket is
// the host's own, so that a script which may get that far names one.
func TestScript(t *testing.T) {
	root := platform.Privileged() == nil
	if !root && runtime.GOOS == "linux" && os.Getenv("CI") == "true" {
		t.Fatal("needs root, for the scripts' [root] parts")
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			config := filepath.Join(e.WorkDir, "empty.toml")
			// A socket's address has little room, less than the work folder's name may take.
			short, err := os.MkdirTemp("", "fl")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(short) })
			control := filepath.Join(short, "c.sock")
			if runtime.GOOS == "windows" {
				control = fmt.Sprintf(`\\.\pipe\fairlead-test-%s`, filepath.Base(short))
			}
			e.Setenv("FAIRLEAD_CONFIG", config)
			e.Setenv("FAIRLEAD_STATE_DIR", filepath.Join(e.WorkDir, "state"))
			e.Setenv("FAIRLEAD_CONTROL", control)
			e.Setenv("FAIRLEAD_RESOLVER", "none")
			e.Setenv("GORACE", "atexit_sleep_ms=0")
			return errors.Join(os.WriteFile(config, nil, 0o644), os.Chmod(short, 0o755))
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return root, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"refuses": refuses, "exits": exits, "engine": startEngine, "hold": hold, "ready": ready, "uncomment": uncomment,
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

var twoLines = regexp.MustCompile(`^fairlead: [^A-Z\s].*\nhint: \S.*\n$`)

func refuses(ts *testscript.TestScript, neg bool, args []string) {
	// The lock is taken once the settings are known to be good and the rights to be enough.
	lockCounts := len(args) > 0 && args[0] != "1"
	host, files := hostState(ts), ourFiles(ts, lockCounts)
	exits(ts, neg, args)
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("standard output is not empty")
	}
	if said := strings.ReplaceAll(ts.ReadFile("stderr"), "\r\n", "\n"); !twoLines.MatchString(said) {
		ts.Fatalf("standard error is not a line fairlead: and a line hint:")
	}
	if after := hostState(ts); after != host {
		ts.Fatalf("the host was changed\nbefore:\n%s\nafter:\n%s", host, after)
	}
	if after := ourFiles(ts, lockCounts); after != files {
		ts.Fatalf("files were changed\nbefore:\n%s\nafter:\n%s", files, after)
	}
}

// ourFiles is everything in the work folder, and the control endpoint. Without lockCounts an empty lock in the state folder is
// left out.
func ourFiles(ts *testscript.TestScript, lockCounts bool) string {
	var b strings.Builder
	state := ts.Getenv("FAIRLEAD_STATE_DIR")
	for _, root := range []string{ts.Getenv("WORK"), filepath.Dir(ts.Getenv("FAIRLEAD_CONTROL"))} {
		if strings.HasPrefix(root, `\\.\`) {
			continue // pipes are no files
		}
		ts.Check(filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.Name() == ".tmp" {
				return fs.SkipDir
			}
			i, err := d.Info()
			if err != nil {
				return err
			}
			if !lockCounts && (path == state || path == filepath.Join(state, "lock") && i.Size() == 0) {
				return nil
			}
			var content []byte
			if i.Mode().IsRegular() {
				content, err = os.ReadFile(path)
			}
			fmt.Fprintf(&b, "%v %s %q\n", i.Mode(), path, content)
			return err
		}))
	}
	return b.String()
}

// startEngine is an engine as far as a client asks it before anything else.
func startEngine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: engine API")
	}
	network, addr := "unix", filepath.Join(filepath.Dir(ts.Getenv("FAIRLEAD_CONTROL")), "engine.sock")
	url := "unix://" + addr
	if runtime.GOOS == "windows" {
		network, addr = "tcp", "127.0.0.1:0"
	}
	l, err := net.Listen(network, addr)
	ts.Check(err)
	if runtime.GOOS == "windows" {
		url = "tcp://" + l.Addr().String()
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", args[0])
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Path == "/_ping":
		case strings.HasSuffix(r.URL.Path, "/version"):
			fmt.Fprintf(w, `{"Version": "1.12.6", "ApiVersion": %q, "Os": "linux", "Arch": "amd64"}`, args[0])
		default:
			http.NotFound(w, r)
		}
	})}
	ended := make(chan struct{})
	go func() { defer close(ended); srv.Serve(l) }()
	ts.Defer(func() { srv.Close(); <-ended })
	ts.Setenv("ENGINE", url)
}

func hold(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: hold udp|tcp|dns|control|lock WHERE")
	}
	held := args[1]
	switch args[0] {
	case "udp":
		c, err := net.ListenPacket("udp", held)
		ts.Check(err)
		ts.Defer(func() { c.Close() })
		held = c.LocalAddr().String()
	case "tcp", "control":
		listen := func() (net.Listener, error) { return net.Listen("tcp", held) }
		if args[0] == "control" {
			listen = func() (net.Listener, error) { return platform.ListenControl(held) }
		}
		l, err := listen()
		ts.Check(err)
		ts.Defer(func() { l.Close() })
		if args[0] == "tcp" {
			held = l.Addr().String()
		}
	case "dns":
		s, err := dnsserver.Listen(netip.MustParseAddrPort(held))
		ts.Check(err)
		ts.Defer(func() {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			s.Serve(ctx, nil) // with an ended context it only closes
		})
		held = s.Addr().String()
	case "lock":
		held = ts.MkAbs(held)
		ts.Check(os.MkdirAll(filepath.Dir(held), 0o755))
		unlock, err := platform.Lock(held)
		ts.Check(err)
		ts.Defer(unlock)
	default:
		ts.Fatalf("hold what?")
	}
	ts.Setenv("HELD", held)
}

func ready(ts *testscript.TestScript, neg bool, args []string) {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := agent.Dial(context.Background(), ts.Getenv("FAIRLEAD_CONTROL"))
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no agent: %v", err)
		}
	}
}

func uncomment(ts *testscript.TestScript, neg bool, args []string) {
	file := ts.MkAbs(args[0])
	b, err := os.ReadFile(file)
	ts.Check(err)
	b = regexp.MustCompile(`(?m)^# ([a-z-]+ = )`).ReplaceAll(b, []byte("$1"))
	if n := bytes.Count(b, []byte(" = ")); n < len(agent.Keys) {
		ts.Fatalf("%d settings, want %d", n, len(agent.Keys))
	}
	ts.Check(os.WriteFile(file, b, 0o644))
}
