package e2e

import (
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// launchdEnv makes the test binary launchctl(1), with a launchd behind it that keeps its state in the folder named; where it is
// "run" followed by such a folder, that launchd's keeper of one job. What it refuses it refuses with launchctl's own words.
const launchdEnv = "LAUNCHD_STATE"

// launchd is the system domain of a Mac.
type launchd struct {
	state     string // for each job that is loaded a folder with plist, pid while it runs, and out once it is to go
	root      string // of the Mac's files
	darwinrun string
}

// launchd gives the Mac a launchctl.
func (m mac) launchd() launchd {
	m.t.Helper()
	self, err := os.Executable()
	m.done(err)
	l := launchd{m.dir + "/launchd", m.root, m.program[len(m.program)-2]}
	m.done(os.Mkdir(l.state, 0o755))
	// The race detector would wait for a second at each of its ends.
	m.script("/bin/launchctl", "exec env GORACE=atexit_sleep_ms=0 "+launchdEnv+"="+l.state+" DARWINRUN="+l.darwinrun+" "+self+` "$@"`)
	m.script("/usr/bin/tail", `while [ $# -gt 1 ]; do a="$a $1"; shift; done; exec /usr/bin/tail $a `+m.root+"$1")
	return l
}

// launchctlMain is the test binary as launchctl.
func launchctlMain() int {
	state, keeper := strings.CutPrefix(os.Getenv(launchdEnv), "run ")
	l := launchd{state, os.Getenv("DARWINRUN_ROOT"), os.Getenv("DARWINRUN")}
	if keeper {
		l.keep(os.Args[1])
		return 0
	}
	out, said, code := l.ctl(os.Args[1:])
	fmt.Print(out)
	fmt.Fprint(os.Stderr, said)
	return code
}

func (l launchd) job(label string) string  { return filepath.Join(l.state, label) }
func (l launchd) loaded(label string) bool { return exists(l.job(label)) }
func (l launchd) off(label string) bool    { return exists(l.job(label) + ".disabled") }
func (l launchd) pid(label string) (pid int) {
	pid, _ = strconv.Atoi(text(l.job(label) + "/pid"))
	return pid
}
func exists(path string) bool    { _, err := os.Lstat(path); return err == nil }
func text(path string) string    { b, _ := os.ReadFile(path); return string(b) }
func write(path, content string) { _ = os.WriteFile(path, []byte(content), 0o644) }
func (l launchd) label(service string) (s string) {
	s, _ = strings.CutPrefix(service, "system/")
	return s
}

// ctl is one call of launchctl.
func (l launchd) ctl(args []string) (out, said string, code int) {
	if len(args) == 0 {
		return "", "Usage: launchctl <subcommand> ...\n", 64
	}
	switch verb, args := args[0], args[1:]; {
	case verb == "bootstrap" && len(args) == 2 && args[0] == "system":
		i, err := os.Lstat(l.root + args[1])
		if err != nil {
			return "", "Bootstrap failed: 2: No such file or directory\n", 2
		}
		owner := i.Sys().(*syscall.Stat_t)
		if !i.Mode().IsRegular() || i.Mode().Perm()&0o022 != 0 || owner.Uid != 0 || owner.Gid != 0 {
			return "", "Bootstrap failed: 122: Path had bad ownership/permissions\n", 122
		}
		doc, err := readPlist(text(l.root + args[1]))
		label, ok := doc["Label"].(string)
		switch {
		case err != nil || !ok || filepath.Base(args[1]) != label+".plist":
			return "", fmt.Sprintf("Bootstrap failed: 5: Input/output error (%v)\n", err), 5
		case l.loaded(label):
			return "", "Bootstrap failed: 37: Operation already in progress\n", 37
		case l.off(label):
			return "", "Bootstrap failed: 119: Service is disabled\n", 119
		}
		if err := os.Mkdir(l.job(label), 0o755); err != nil {
			return "", err.Error(), 5
		}
		write(l.job(label)+"/plist", text(l.root+args[1]))
		l.spawn(label)
	case verb == "bootout" && len(args) == 1:
		label := l.label(args[0])
		if !l.loaded(label) {
			return "", "Boot-out failed: 3: No such process\n", 3
		}
		write(l.job(label)+"/out", "") // and is gone some time later
	case verb == "kickstart" && len(args) == 1:
		label := l.label(args[0])
		if !l.loaded(label) {
			return "", fmt.Sprintf("Could not find service %q in domain for system\n", label), 113
		}
		if l.pid(label) == 0 {
			l.spawn(label)
		}
	case verb == "print" && len(args) == 1:
		label := l.label(args[0])
		if !l.loaded(label) {
			return "", fmt.Sprintf("Bad request.\nCould not find service %q in domain for system\n", label), 113
		}
		state := "not running\n\tlast exit code = " + text(l.job(label)+"/exit")
		if pid := l.pid(label); pid != 0 {
			state = "running\n\tpid = " + strconv.Itoa(pid)
		}
		return fmt.Sprintf("%s = {\n\tactive count = 1\n\ttype = LaunchDaemon\n\tstate = %s\n}\n", args[0], state), "", 0
	case (verb == "enable" || verb == "disable") && len(args) == 1:
		label := l.label(args[0])
		write(l.job(label)+".known", "")
		if _ = os.Remove(l.job(label) + ".disabled"); verb == "disable" {
			write(l.job(label)+".disabled", "")
		}
	case verb == "print-disabled" && len(args) == 1 && args[0] == "system":
		out = "disabled services = {\n"
		known, _ := filepath.Glob(l.state + "/*.known")
		for _, k := range known {
			label, state := strings.TrimSuffix(filepath.Base(k), ".known"), "enabled"
			if l.off(label) {
				state = "disabled"
			}
			out += fmt.Sprintf("\t\t%q => %s\n", label, state)
		}
		return out + "}\n", "", 0
	default: // load and unload among them
		return "", "Unrecognized subcommand: " + verb + "\n", 64
	}
	return "", "", 0
}

// spawn starts the keeper of a job, and returns when its program was started once.
func (l launchd) spawn(label string) {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	c := exec.Command(self, label)
	c.Env = append(os.Environ(), launchdEnv+"=run "+l.state)
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		panic(err)
	}
	for deadline := time.Now().Add(20 * time.Second); l.pid(label) == 0 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
}

// keep runs a job's program until it ends well or the job is booted out.
func (l launchd) keep(label string) {
	dir := l.job(label)
	doc, err := readPlist(text(dir + "/plist"))
	if err != nil {
		return
	}
	var args []string
	for _, a := range doc["ProgramArguments"].([]any) {
		args = append(args, a.(string))
	}
	log, err := os.OpenFile(l.root+doc["StandardErrorPath"].(string), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return
	}
	throttle, _ := strconv.Atoi(fmt.Sprint(doc["ThrottleInterval"]))
	for {
		c := exec.Command(l.darwinrun, append([]string{l.root + args[0]}, args[1:]...)...)
		c.Dir, c.Stdout, c.Stderr = "/", log, log
		// Nothing of whoever called launchctl.
		c.Env = []string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "XPC_SERVICE_NAME=" + label}
		for _, v := range os.Environ() {
			if strings.HasPrefix(v, "DARWINRUN_") {
				c.Env = append(c.Env, v)
			}
		}
		if err := c.Start(); err != nil {
			fmt.Fprintln(log, "launchd:", err)
			return
		}
		write(dir+"/pid.new", strconv.Itoa(c.Process.Pid))
		_ = os.Rename(dir+"/pid.new", dir+"/pid")
		ended := make(chan bool)
		go func() { ended <- c.Wait() == nil }()
		asked, well := false, false
	waiting:
		for {
			select {
			case well = <-ended:
				break waiting
			case <-time.After(10 * time.Millisecond):
				if !asked && exists(dir+"/out") {
					asked = true
					_ = c.Process.Signal(syscall.SIGTERM)
				}
			}
		}
		write(dir+"/exit", strconv.Itoa(c.ProcessState.ExitCode()))
		_ = os.Remove(dir + "/pid")
		for until := time.Now().Add(time.Duration(throttle) * time.Second); !asked && (well || time.Now().Before(until)); {
			time.Sleep(10 * time.Millisecond)
			asked = exists(dir + "/out")
			if well && !asked && l.pid(label) != 0 { // kickstarted
				return
			}
		}
		if asked {
			_ = os.RemoveAll(dir)
			return
		}
	}
}

// readPlist reads a property list whose root is a dict.
func readPlist(doc string) (map[string]any, error) {
	d := xml.NewDecoder(strings.NewReader(doc))
	for {
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("no property list: %w", err)
		}
		if s, ok := t.(xml.StartElement); ok && s.Name.Local == "dict" {
			v, err := readValue(d, s)
			if err != nil {
				return nil, err
			}
			return v.(map[string]any), nil
		}
	}
}

func readValue(d *xml.Decoder, start xml.StartElement) (any, error) {
	var values []any
	var chars string
	for {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch t := t.(type) {
		case xml.CharData:
			chars += string(t)
		case xml.StartElement:
			v, err := readValue(d, t)
			if err != nil {
				return nil, err
			}
			values = append(values, v)
		case xml.EndElement:
			switch start.Name.Local {
			case "dict":
				dict := map[string]any{}
				for pair := range slices.Chunk(values, 2) {
					key, ok := pair[0].(string)
					if !ok || len(pair) != 2 {
						return nil, errors.New("a dict is pairs of key and value")
					}
					dict[key] = pair[1]
				}
				return dict, nil
			case "array":
				return values, nil
			case "true", "false":
				return start.Name.Local == "true", nil
			case "key", "string", "integer":
				return chars, nil
			}
			return nil, fmt.Errorf("no plist has a %s", start.Name.Local)
		}
	}
}
