package engine

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestStore: whatever is put and deleted, the store gives back what a map would, by numbers that stay.
func TestStore(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		text := func() string {
			return []string{"", "web", "3f2a9c", "ABCDEF", "odd", "\x00\xff", strings.Repeat("long", 100)}[r.IntN(7)]
		}
		list := func() (out []string) {
			for range r.IntN(3) {
				out = append(out, text())
			}
			return out
		}
		var s Store
		want, numbers := map[string]Container{}, map[string]uint32{}
		for range 400 {
			c := Container{ID: text() + fmt.Sprint(r.IntN(40)), Name: text(), Image: text(), Hostname: text(), Domainname: text(), Env: list(),
				State: []string{"", "running", "removing", "odd"}[r.IntN(4)], Health: []string{"", "unhealthy", "odd"}[r.IntN(3)],
				HostNetwork: r.IntN(2) > 0, sharesWith: text(), whole: r.IntN(2) > 0}
			for _, l := range list() {
				c.setLabel("fairlead."+l, text())
				c.Ports = append(c.Ports, Port{uint16(r.Uint32()), []string{"tcp", "sctp", "odd"}[r.IntN(3)]})
				c.Endpoints = append(c.Endpoints, Attachment{NetworkID: text(), Network: l, Aliases: list(),
					Addrs: [][]netip.Addr{nil, addrs("172.17.0.2"), addrs("fd00::1", "10.0.0.1")}[r.IntN(3)]})
			}
			if r.IntN(3) == 0 {
				number, ok := s.Delete(c.ID)
				if _, had := want[c.ID]; ok != had || ok && number != numbers[c.ID] {
					t.Fatalf("seed %d: deleting %q: %d, %v", seed, c.ID, number, ok)
				}
				delete(want, c.ID)
				continue
			}
			number, _ := s.Put(c)
			if _, had := want[c.ID]; had && number != numbers[c.ID] {
				t.Fatalf("seed %d: %q has another number", seed, c.ID)
			}
			want[c.ID], numbers[c.ID] = c, number
			if got := s.Get(number); !cmp.Equal(c, got, exactly, cmpopts.EquateEmpty()) {
				t.Fatalf("seed %d: %s", seed, cmp.Diff(c, got, exactly, cmpopts.EquateEmpty()))
			}
		}
		got := map[string]Container{}
		for number, c := range s.All() {
			if got[c.ID] = c; number != numbers[c.ID] {
				t.Errorf("seed %d: %q has another number", seed, c.ID)
			}
		}
		if d := cmp.Diff(want, got, exactly, cmpopts.EquateEmpty()); d != "" || s.Len() != len(want) {
			t.Fatalf("seed %d: %d of %d, -want +got:\n%s", seed, s.Len(), len(want), d)
		}
		for id := range want {
			if c, ok := s.ByID(id); !ok || c.ID != id {
				t.Errorf("seed %d: %q is not found", seed, id)
			}
		}
	}
}

// TestStoreTidies: what comes and goes leaves nothing behind, and what was read stays as it was.
func TestStoreTidies(t *testing.T) {
	t.Parallel()
	var s Store
	id := func(i int) string { return fmt.Sprintf("%064x", i) }
	for i := range 1000 {
		s.Put(Container{ID: id(i), Name: fmt.Sprint("stays-", i), Image: strings.Repeat("x", i)})
	}
	first, _ := s.ByID(id(7))
	for i := range 100_000 {
		s.Put(Container{ID: id(1000), Name: fmt.Sprint("comes-", i)})
		s.Put(Container{ID: id(i % 1000), Name: fmt.Sprint("changes-", i), Image: strings.Repeat("y", i%1000)})
		if i%10 == 0 {
			s.Delete(id(1000))
		}
	}
	size, live := 0, 0
	for _, c := range s.chunks {
		size += cap(c.data)
	}
	for n, c := range s.All() {
		p := s.at(n)
		if live += len(p.own) + len(p.alike); c.ID != id(1000) && !strings.HasPrefix(c.Name, "changes-") {
			t.Errorf("%s is %s", c.ID, c.Name)
		}
	}
	if size > 3*live+2*chunkSize || s.Len() < 1000 {
		t.Errorf("%d containers of %d bytes take %d", s.Len(), live, size)
	}
	if first.Name != "stays-7" || first.Image != "xxxxxxx" {
		t.Errorf("what was read became %+v", first)
	}
	s.Put(Container{ID: "long", Name: strings.Repeat("n", 3*chunkSize)})
	if c, ok := s.ByID("long"); !ok || len(c.Name) != 3*chunkSize {
		t.Errorf("a long one has a name of %d bytes", len(c.Name))
	}
}

// TestEachElement: a list that comes in any pieces gives its elements, and what is no list, or not the whole of one, an error.
func TestEachElement(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`[]`: ``, " [ ]\n": ``, `[{}]`: `{}`, `[{"a":[1,{"b":"]}\"}"}]} , {"c":"\\"}]`: `{"a":[1,{"b":"]}\"}"}]}|{"c":"\\"}`,
		``: `!`, `{}`: `!`, `null`: `!`, `[`: `!`, `[{}`: `{}!`, `[{},`: `{}!`, `[{}{}]`: `{}!`, `[,{}]`: `!`, `[{},]`: `{}!`, `[5]`: `!`, `[{"a":"}]`: `!`, `<html>`: `!`,
	} {
		var got []string
		err := eachElement(iotest.OneByteReader(strings.NewReader(in)), func(e []byte) { got = append(got, string(e)) })
		text := strings.Join(got, "|")
		if err != nil {
			text += "!"
		}
		if text != want {
			t.Errorf("%s: %s, %v, want %s", in, text, err, want)
		}
	}
	endless := strings.NewReader(`[{"a":"` + strings.Repeat("a", maxAnswer+1))
	if err := eachElement(endless, func([]byte) {}); err == nil {
		t.Error("an endless element is taken")
	}
}

// FuzzSummary: of what is JSON, containerOfSummary reads what encoding/json does.
func FuzzSummary(f *testing.F) {
	f.Add([]byte(`{"Id":"c1","Names":["/a/b","/c"],"State":"running","HostConfig":{"NetworkMode":"container:c1"},"Labels":{"fairlead.names":"a\u00e9\n"},"Image":"x"}`))
	f.Add([]byte(`{ "Id" : "c1" , "Command":"\"}" , "Created":1.5e3,"Ports":[{"PrivatePort":80,"Type":"tcp"}], "NetworkSettings":{"Networks":{"b":{"NetworkID":"n1","IPAddress":"10.0.0.1"}}}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		got, ok := containerOfSummary(in)
		if ok {
			wantSane(t, got)
		}
		var sum container.Summary
		// encoding/json takes "ID" for "Id", and of two keys of one name mixes the values.
		if json.Unmarshal(in, &sum) != nil || !ok || bytes.Count(in, []byte(`"Id"`)) != 1 || sum.ID != got.ID {
			return
		}
		if strings.Count(strings.ToLower(string(in)), `"state"`) == 1 && bytes.Contains(in, []byte(`"State"`)) && sum.State != got.State {
			t.Errorf("state %q, want %q", got.State, sum.State)
		}
		if strings.Count(strings.ToLower(string(in)), `"image"`) == 1 && bytes.Contains(in, []byte(`"Image"`)) && sum.Image != got.Image {
			t.Errorf("image %q, want %q", got.Image, sum.Image)
		}
	})
}

// BenchmarkList reads an engine's list of containers and keeps them; per container.
func BenchmarkList(b *testing.B) {
	const n = 20_000
	var list bytes.Buffer
	for i := range n {
		id := fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, i)))
		fmt.Fprintf(&list, `,{"Command":"sleep","Created":1767225600,"HostConfig":{"NetworkMode":"bridge"},"Id":%q,"Image":"nginx","ImageID":"sha256:%s","Labels":{},"Mounts":[],"Names":["/web-%d"],"NetworkSettings":{"Networks":{"bridge":{"Aliases":[%q],"DNSNames":["web-%[3]d",%[4]q],"EndpointID":%[4]q,"Gateway":"10.0.0.1","GlobalIPv6Address":"","IPAddress":"10.0.%d.%d","IPPrefixLen":8,"MacAddress":"02:42:ac:11:00:02","NetworkID":"n1"}}},"Ports":[],"State":"running","Status":"Up 1 second"}`,
			id, id, i, id[:12], i>>8, i&255)
	}
	text := append(append([]byte("["), list.Bytes()[1:]...), ']')
	b.ReportAllocs()
	b.SetBytes(int64(len(text) / n))
	for left := 0; b.Loop(); left-- {
		if left == 0 {
			left = n
			var s Store
			if err := eachIn(io.NopCloser(bytes.NewReader(text)), func(c Container) { s.Put(c) }); err != nil || s.Len() != n {
				b.Fatal(err, s.Len())
			}
		}
	}
}
