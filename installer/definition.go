package installer

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// definition is what the service runs. Install writes it into what it makes, sealed, so that it can be told from what
// somebody else wrote or changed.
type definition struct {
	Program  string   `json:"program"`            // an absolute path
	Sum      string   `json:"sha256"`             // of the program's bytes
	Copied   bool     `json:"copied,omitempty"`   // by us, so that uninstall removes it
	Driver   string   `json:"driver,omitempty"`   // sha256 of Wintun's DLL beside the program, where we copied that, too
	Args     []string `json:"args"`               // what follows the program's name
	Writable []string `json:"writable,omitempty"` // folders, sorted
	Seal     string   `json:"seal"`               // sha256 of the record without it, and of the text that it stands in
}

// define says what o comes to on this host, and which file is the program now.
func define(o Options) (d definition, source string, err error) {
	source = o.Program
	if source == "" {
		if source, err = os.Executable(); err != nil {
			return d, "", err
		}
	}
	if source, err = filepath.EvalSymlinks(source); err != nil {
		return d, "", err
	}
	for _, a := range slices.Concat([]string{source}, o.Args, o.Writable) {
		if !utf8.ValidString(a) || strings.ContainsFunc(a, unicode.IsControl) || strings.ContainsAny(a, "\uFFFE\uFFFF") {
			return d, "", fmt.Errorf("%q cannot be part of a service's command", a)
		}
	}
	d = definition{Program: source, Args: slices.Clone(o.Args), Writable: slices.Sorted(slices.Values(o.Writable))}
	if !onlyRootWrites(source) {
		d.Program, d.Copied = programPlace, true
	}
	d.Sum, err = sum(source)
	return d, source, err
}

func sum(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// sumIs tells whether a regular file has these bytes.
func sumIs(file, want string) bool {
	i, err := os.Lstat(file)
	if err != nil || !i.Mode().IsRegular() {
		return false
	}
	got, err := sum(file)
	return err == nil && got == want
}

// driver is Wintun's DLL. It is not ours to have inside, only to lie beside the program (its licence).
const driver = "wintun.dll"

// file is one that install copies; sum is that of its bytes.
type file struct{ from, to, sum string }

func (f file) intact() bool { return sumIs(f.to, f.sum) }

// files are those that are copied where the program is source; none where it stays where it is.
func (d definition) files(source string) (files []file) {
	if !d.Copied {
		return nil
	}
	if d.Driver != "" {
		files = append(files, file{beside(source), beside(d.Program), d.Driver})
	}
	return append(files, file{source, d.Program, d.Sum}) // last: its folder goes with it
}

func beside(program string) string { return filepath.Join(filepath.Dir(program), driver) }

// inherit completes d by what was installed before, nil for nothing: its copies stay ours, also for a program that installs
// itself anew. Wintun's DLL is that beside source, else that of before; one that somebody has put there stays that somebody's.
func (d *definition) inherit(was *definition, source string) error {
	again := was != nil && was.Copied && was.Program == d.Program
	if again && !d.Copied && sumIs(d.Program, was.Sum) {
		d.Copied = true
	}
	if runtime.GOOS != "windows" || !d.Copied {
		return nil
	}
	ours := again && was.Driver != "" && sumIs(beside(d.Program), was.Driver)
	if ours {
		d.Driver = was.Driver
	} else if _, err := os.Lstat(beside(d.Program)); err == nil {
		return nil
	}
	got, err := sum(beside(source))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = signed(beside(source))
	}
	if err != nil {
		return fmt.Errorf("%s would become a part of the service: %w; hint: take the one of https://www.wintun.net, or take it away from there", beside(source), err)
	}
	d.Driver = got
	return nil
}

// copyFile makes f.to a copy of f.from, at once or not at all.
func copyFile(f file) error {
	if err := os.MkdirAll(filepath.Dir(f.to), 0o755); err != nil {
		return err
	}
	b, err := os.ReadFile(f.from)
	if err != nil {
		return err
	}
	if got := sha256.Sum256(b); hex.EncodeToString(got[:]) != f.sum {
		return fmt.Errorf("%s has changed meanwhile", f.from)
	}
	return replaceFile(f.to, b, 0o755)
}

// replaceFile writes beside, syncs and renames, so that nobody ever sees half a file, whatever the umask is.
func replaceFile(path string, b []byte, mode os.FileMode) (err error) {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp)
		}
	}()
	_, err = f.Write(b)
	if err = errors.Join(err, os.Chmod(tmp, mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// record is d in one line, with the seal of it and of the text that it is to stand in.
func (d definition) record(text string) string {
	d.Seal = ""
	b := d.json()
	h := sha256.New()
	h.Write([]byte(b))
	h.Write([]byte(text))
	d.Seal = hex.EncodeToString(h.Sum(nil))
	return d.json()
}

func (d definition) json() string {
	b, err := json.Marshal(d)
	if err != nil {
		panic(err) // strings and a bool
	}
	return strings.ReplaceAll(string(b), "-", `\u002d`) // an XML comment cannot hold "--"
}

// readRecord is what record wrote, given the text around it. The error is ErrForeign when the seal does not fit.
func readRecord(line, text string) (*definition, error) {
	var d definition
	if err := json.Unmarshal([]byte(line), &d); err != nil || d.record(text) != line {
		return nil, ErrForeign
	}
	return &d, nil
}

// The lines around a record, in a unit and in a property list.
var (
	unitMark  = [2]string{"# fairlead: ", "\n"}
	plistMark = [2]string{"<!-- fairlead: ", " -->\n"}
)

// readText finds the definition in a text that unit or plist made.
func readText(text string, mark [2]string) (*definition, error) {
	before, rest, ok := strings.Cut(text, mark[0])
	line, after, ends := strings.Cut(rest, mark[1])
	if !ok || !ends {
		return nil, ErrForeign
	}
	return readRecord(line, before+after)
}

// unit is d as a systemd service (systemd.service(5), systemd.exec(5)).
func unit(d definition) string {
	var w strings.Builder
	for _, p := range d.Writable {
		fmt.Fprintf(&w, "ReadWritePaths=%s\n", quote("-"+p, false))
	}
	words := []string{quote(d.Program, false)} // its variables are not expanded
	for _, a := range d.Args {
		words = append(words, quote(a, true))
	}
	head := "# Written by: fairlead install. Change it with: systemctl edit fairlead. Remove it with: fairlead uninstall.\n"
	text := `
[Unit]
Description=Names and routes to containers
Documentation=https://github.com/fairlead-dev/fairlead
# Only an order: an engine that is not started at boot is not started for our sake.
After=network.target systemd-resolved.service docker.service
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=` + strings.Join(words, " ") + `
Restart=on-failure
RestartSec=2
# Wrong settings, missing rights: once more would not help.
RestartPreventExitStatus=2 3
TimeoutStopSec=30
RuntimeDirectory=fairlead
StateDirectory=fairlead
` + w.String() + `# Links and routes; pings; port 53; an engine's socket and keys that are a user's; ssh, which runs as that user.
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_DAC_OVERRIDE CAP_SETUID CAP_SETGID
DeviceAllow=/dev/net/tun rw
DevicePolicy=closed
LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=read-only
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectSystem=strict
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
`
	return head + unitMark[0] + d.record(head+text) + unitMark[1] + text
}

// quote is s as one word of a unit's setting: specifiers, and with variables also $, mean themselves.
func quote(s string, variables bool) string {
	s = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`).Replace(s)
	if variables {
		s = strings.ReplaceAll(s, "$", "$$")
	}
	if s == "" || strings.ContainsAny(s, ` "'\;`) {
		return `"` + s + `"`
	}
	return s
}

// eventHead is how slog's handlers begin a line: with what an event has fields of its own for.
var eventHead = regexp.MustCompile(`^(?:time=\S+ level=([A-Z]+)\S* |\{"time":"[^"]*","level":"([A-Z]+)[^"]*",)`)

// parseEvent takes a line of the log apart for the event log of Windows: its level, and the rest.
func parseEvent(line string) (level, text string) {
	const most = 30000 // characters; an event's string has room for some more
	text = strings.TrimSpace(line)
	if m := eventHead.FindStringSubmatch(text); m != nil {
		level, text = m[1]+m[2], text[len(m[0]):]
		if m[2] != "" {
			text = "{" + text
		}
	}
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return level, strings.ReplaceAll(text, "\x00", "")
}

// label is the service's name for launchd, logFile where its log goes.
const (
	label   = "dev.fairlead.agent"
	logFile = "/var/log/fairlead.log"

	launchdPlace = "/Library/LaunchDaemons/" + label + ".plist"
)

// logOf is the log of the service on a Mac: ours, or that which Homebrew has made of the program. Its formula says where that logs.
func logOf(exists func(path string) bool) string {
	if exists(launchdPlace) {
		return logFile
	}
	for _, prefix := range []string{"/opt/homebrew", "/usr/local"} { // on Apple silicon, on Intel
		if log := prefix + "/var/log/fairlead.log"; exists(log) {
			return log
		}
	}
	return logFile
}

// plist is d as a launchd daemon (launchd.plist(5)). Without ExitTimeOut: with one, launchd is said not to send SIGTERM at shutdown.
// Interactive: programs wait for our answers and packets, which launchd would slow down by default.
func plist(d definition) string {
	var args bytes.Buffer
	for _, a := range append([]string{d.Program}, d.Args...) {
		args.WriteString("\t\t<string>")
		_ = xml.EscapeText(&args, []byte(a)) // into a buffer: it cannot fail
		args.WriteString("</string>\n")
	}
	head := `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- Written by: fairlead install. Remove it with: fairlead uninstall. -->
`
	text := `<plist version="1.0">
<dict>
	<key>Label</key>
	<string>` + label + `</string>
	<key>ProgramArguments</key>
	<array>
` + args.String() + `	</array>
	<key>RunAtLoad</key>
	<true/>
	<key>KeepAlive</key>
	<dict>
		<key>SuccessfulExit</key>
		<false/>
	</dict>
	<key>ThrottleInterval</key>
	<integer>5</integer>
	<key>ProcessType</key>
	<string>Interactive</string>
	<key>StandardOutPath</key>
	<string>` + logFile + `</string>
	<key>StandardErrorPath</key>
	<string>` + logFile + `</string>
</dict>
</plist>
`
	return head + plistMark[0] + d.record(head+text) + plistMark[1] + text
}
