package routes

import (
	"fmt"
	"testing"
)

func TestParsePersistent(t *testing.T) {
	for name, want := range map[string]string{
		"172.17.0.0,255.255.0.0,192.168.18.2,1":           "172.17.0.0/16 192.168.18.2",
		"172.0.0.0,255.0.0.0,10.0.75.2,1":                 "172.0.0.0/8 10.0.75.2",
		"0.0.0.0,0.0.0.0,192.168.1.1,25":                  "0.0.0.0/0 192.168.1.1",
		"10.9.8.7,255.255.255.255,192.168.1.1,1":          "10.9.8.7/32 192.168.1.1",
		"":                                                "",
		"172.17.0.0":                                      "",
		"172.17.0.0,255.255.0.0,192.168.18.2":             "",
		"172.17.0.0,255.255.0.0,192.168.18.2,":            "",
		"172.17.0.0,255.0.255.0,192.168.18.2,1":           "", // ragged
		"172.17.0.1,255.255.0.0,192.168.18.2,1":           "", // bits below the mask
		"fd00::,ffff::,fe80::1,1":                         "",
		"172.17.0.0,255.255.0.0,fe80::1,1":                "",
		"172.17.0.0,255.255.0.0,192.168.18.2,1,2":         "",
		"172.17.0.0,255.255.0.0,192.168.18.2,metric":      "",
		" 172.17.0.0, 255.255.0.0, 192.168.18.2, 1":       "",
		"172.17.0.0,255.255.0.0,192.168.18.2,99999999999": "",
	} {
		got := ""
		if p, ok := parsePersistent(name); ok {
			got = fmt.Sprint(p.Dst, " ", p.Via)
			if p.Name != name {
				t.Errorf("%q has the name %q", name, p.Name)
			}
		}
		if got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
}

func FuzzParsePersistent(f *testing.F) {
	f.Add("172.17.0.0,255.255.0.0,192.168.18.2,1")
	f.Fuzz(func(t *testing.T, name string) {
		if p, ok := parsePersistent(name); ok && (!p.Dst.IsValid() || p.Dst != p.Dst.Masked() || !p.Via.Is4()) {
			t.Errorf("%q is %+v", name, p)
		}
	})
}

func TestByHand(t *testing.T) {
	for line, want := range map[string]bool{
		"boot 172.17.0.0/16 via 192.168.99.100 dev vboxnet0":    true,
		"static 172.17.0.0/16 via 192.168.99.100 dev vboxnet0":  true,
		"netmgmt 172.17.0.0/16 via 192.168.99.100 dev vboxnet0": true,
		"ours 172.17.0.0/16 via 192.168.99.100 dev vboxnet0":    false,
		"dhcp 172.17.0.0/16 via 192.168.99.100 dev vboxnet0":    false,
		"kernel 192.168.99.0/24 dev vboxnet0":                   false,
		"boot 172.17.0.0/16 dev tun0":                           false,
		"bird 172.17.0.0/16 via 192.168.99.100 dev vboxnet0":    false,
	} {
		if got := table(line)[0].ByHand(); got != want {
			t.Errorf("%s: %v", line, got)
		}
	}
}
