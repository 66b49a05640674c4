package engine

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/network"
)

func TestNoteOf(t *testing.T) {
	t.Parallel()
	s := &session{Engine: &Engine{pace: usual}, conn: &connection{systemTime: time.Unix(0, 1000)}}
	for told, want := range map[string]note{
		`{"Type":"container","Action":"start","Actor":{"ID":"c1"}}`:                                                                                               {what: started, id: "c1"},
		`{"Type":"container","Action":"health_status: healthy","Actor":{"ID":"c1"}}`:                                                                              {id: "c1"},
		`{"Type":"container","Action":"die","Actor":{"ID":"c1"},"timeNano":1001}`:                                                                                 {what: died, id: "c1"},
		`{"Type":"container","Action":"die","Actor":{"ID":"c1"},"timeNano":1000}`:                                                                                 {id: "c1"},
		`{"Type":"container","Action":"kill","Actor":{"ID":"c1","Attributes":{"signal":"9"}},"timeNano":1001}`:                                                    {what: died, id: "c1", killed: time.Unix(0, 1001)},
		`{"Type":"container","Action":"kill","Actor":{"ID":"c1","Attributes":{"signal":"9"}},"timeNano":1000}`:                                                    {id: "c1"},
		`{"Type":"container","Action":"kill","Actor":{"ID":"c1","Attributes":{"signal":"15"}},"timeNano":1001}`:                                                   {},
		`{"Type":"container","Action":"kill","Actor":{"ID":"c1"}}`:                                                                                                {},
		`{"Type":"container","Action":"exec_start: sh","Actor":{"ID":"c1"}}`:                                                                                      {},
		`{"Type":"container","Action":"start","Actor":{}}`:                                                                                                        {},
		`{"status":"create","Type":"container","Action":"create","Actor":{"ID":"c1","Attributes":{"name":"web","image":"i","fairlead.names":"a\n","other":"x"}}}`: {what: created, id: "c1", born: &Container{ID: "c1", Name: "web", Image: "i", Labels: map[string]string{"fairlead.names": "a\n"}}},
		`{"Type":"network","Action":"connect","Actor":{"ID":"n1","Attributes":{"container":"c1"}}}`:                                                               {what: joined, id: "c1", network: "n1"},
		`{"Type":"network","Action":"connect","Actor":{"ID":"c1"}}`:                                                                                               {id: "c1"}, // Podman's
		`{"Type":"network","Action":"disconnect","Actor":{"ID":"n1","Attributes":{"container":"c1"}}}`:                                                            {what: left, id: "c1", network: "n1"},
		`{"Type":"network","Action":"destroy","Actor":{"ID":"n1"}}`:                                                                                               {what: networksChanged, id: "n1"},
		`{"Type":"volume","Action":"create","Actor":{"ID":"v1"}}`:                                                                                                 {},
		`{}`: {},
	} {
		n, ok := s.noteOf(eventOf([]byte(told)))
		if !ok {
			n = note{}
		}
		if !reflect.DeepEqual(n, want) {
			t.Errorf("%s: %+v, want %+v", told, n, want)
		}
	}
}

// TestAge: of whom is said to have died a moment ago it is certain for a while that it does not run, by the engine's clock, whatever that
// says. What was told late, or by a clock that was set, is certain of nothing.
func TestAge(t *testing.T) {
	t.Parallel()
	for _, wrong := range []time.Duration{0, time.Hour, -time.Hour} {
		now := time.Now()
		engines := now.Add(wrong)
		s := &session{Engine: &Engine{pace: pace{restart: time.Minute}}, conn: &connection{systemTime: engines.Add(-time.Minute), ahead: -wrong}}
		sure := func(ago time.Duration) bool {
			n, _ := s.noteOf(event{kind: "container", action: "die", id: "c1", at: engines.Add(-ago).UnixNano()})
			if left := time.Until(n.until); !n.until.IsZero() && (n.what != died || left > time.Minute-ago) {
				t.Errorf("clock wrong by %v, died %v ago: sure for %v", wrong, ago, left)
			}
			return !n.until.IsZero()
		}
		for i, step := range []struct {
			ago  time.Duration
			want bool
		}{{time.Second, true}, {59 * time.Second, true}, {2 * time.Minute, false}, {0, true}, {-time.Minute, false}, {time.Second, false}} {
			if got := sure(step.ago); got != step.want {
				t.Errorf("clock wrong by %v, step %d: died %v ago: sure %v", wrong, i, step.ago, got)
			}
		}
	}
}

func TestAttachmentsIn(t *testing.T) {
	t.Parallel()
	const told = `{"Containers":{"c1":{"Name":"web","IPv4Address":"172.17.0.2/16","IPv6Address":"fd00::2/64"},"c2":{"IPv4Address":""},"c3":{"IPv4Address":"172.17.0.3/16"}},"Name":"bridge","Id":"n1"}`
	c1 := Attachment{NetworkID: "n1", Network: "bridge", Addrs: []netip.Addr{netip.MustParseAddr("172.17.0.2"), netip.MustParseAddr("fd00::2")}}
	if got := attachmentsIn([]byte(told), []string{"c1", "c9"}); !reflect.DeepEqual(got, map[string]Attachment{"c1": c1}) {
		t.Errorf("one: %+v", got)
	}
	if got := attachmentsIn([]byte(told), nil); len(got) != 3 || !reflect.DeepEqual(got["c1"], c1) || got["c2"].Addrs != nil {
		t.Errorf("all: %+v", got)
	}
}

// FuzzEvent: of what is JSON, events and attachments are read as encoding/json does.
func FuzzEvent(f *testing.F) {
	f.Add([]byte(`{"status":"create","id":"c1","Type":"container","Action":"create","Actor":{"ID":"c1","Attributes":{"name":"web\u00e9","image":"i","container":"}"}},"time":1,"timeNano":1000}`))
	f.Add([]byte(`{"Id":"n1","Name":"bridge","Containers":{"c1":{"Name":"web","IPv4Address":"172.17.0.2/16","IPv6Address":"fe80::1%e/64"}}}`))
	f.Fuzz(func(t *testing.T, told []byte) {
		s := &session{Engine: &Engine{pace: usual}, conn: &connection{}}
		got := eventOf(told)
		if n, ok := s.noteOf(got); ok && n.id == "" {
			t.Errorf("a note of nothing: %+v", n)
		}
		found := attachmentsIn(told, nil)
		for id, a := range found {
			for _, addr := range a.Addrs {
				if !addr.IsValid() || addr.Is4In6() || addr.Zone() != "" {
					t.Errorf("%s has %v", id, addr)
				}
			}
		}
		once := func(key string) bool { // encoding/json takes keys of any case, and of two the last
			return strings.Count(strings.ToLower(string(told)), strings.ToLower(key)) == 1 && strings.Contains(string(told), key)
		}
		var m events.Message
		if json.Unmarshal(told, &m) == nil && once(`"Type"`) && once(`"Action"`) && once(`"Actor"`) && once(`"ID"`) && !once(`"Attributes"`) && (got.kind != string(m.Type) || got.action != string(m.Action) || got.id != m.Actor.ID) {
			t.Errorf("%+v, want %+v", got, m)
		}
		var n network.Inspect
		if json.Unmarshal(told, &n) == nil && once(`"Containers"`) && len(found) != len(n.Containers) {
			t.Errorf("%+v, want %+v", found, n.Containers)
		}
	})
}
