package engine

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"unicode/utf16"
)

func TestWSLArgs(t *testing.T) {
	for raw, want := range map[string]string{
		"wsl://Ubuntu-24.04":                  "--distribution Ubuntu-24.04 --user root --exec docker system dial-stdio",
		"wsl://Debian/":                       "--distribution Debian --user root --exec docker system dial-stdio",
		"wsl://Debian/run/user/1/docker.sock": "--distribution Debian --user root --exec docker --host unix:///run/user/1/docker.sock system dial-stdio",
		"wsl://":                              "",
		"wsl://-e":                            "",
		"wsl://me@Debian":                     "",
		"wsl://De%20bian":                     "",
		"wsl://Debian?x=1":                    "",
		"wsl://Debian:1":                      "",
		"wsl://Debian/a;b":                    "",
	} {
		got, err := wslArgs(raw)
		if (err == nil) != (want != "") || strings.Join(got, " ") != want {
			t.Errorf("%s: %q, %v; want %q", raw, got, err, want)
		}
	}
}

const fibTrie = `Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
     +-- 172.16.0.0/12 2 0 2
        |-- 172.17.0.1
           /32 host LOCAL
        |-- 172.20.16.0
           /20 link UNICAST
        |-- 172.20.21.7
           /32 host LOCAL
        |-- 172.20.31.255
           /32 link BROADCAST
Local:
        |-- 172.20.21.7
           /32 host LOCAL
`

func TestParseLocals(t *testing.T) {
	if got := fmt.Sprint(parseLocals(fibTrie)); got != "[172.17.0.1 172.20.21.7]" {
		t.Error(got)
	}
	if got := parseLocals("/32 host LOCAL\n|-- x\n/32 host LOCAL\n"); len(got) > 0 {
		t.Error(got)
	}
}

func TestWSLText(t *testing.T) {
	var b []byte
	for _, u := range utf16.Encode([]rune("\ufeffUbuntu\r\nDebian\r\n")) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	for in, want := range map[string]string{string(b): "Ubuntu\r\nDebian\r\n", "plain\n": "plain\n", "": "", "\x00": "", "a\x00b": "a"} {
		if got := wslText([]byte(in)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzWSL(f *testing.F) {
	f.Add(fibTrie, "wsl://Ubuntu/run/docker.sock")
	f.Fuzz(func(t *testing.T, text, raw string) {
		for _, a := range parseLocals(wslText([]byte(text))) {
			if !a.Is4() || a.IsLoopback() {
				t.Errorf("%v", a)
			}
		}
		if args, err := wslArgs(raw); err == nil && strings.HasPrefix(args[1], "-") {
			t.Errorf("%q: %q", raw, args)
		}
	})
}
