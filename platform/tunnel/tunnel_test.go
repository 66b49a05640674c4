package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

var admission = Admission{
	Tag:     "0123abcd",
	Sources: []netip.Addr{netip.MustParseAddr("192.168.99.1"), netip.MustParseAddr("fd00::1")},
	Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")},
}

// echo is a pilot that reports what it was asked for.
func echo(a Admission) Report {
	return Report{Backend: "none", Open: true, Rules: []string{fmt.Sprint(a)}}
}

// pair starts both ends over a pipe in a bubble. The channel gives what Follow returned.
func pair(ctx context.Context, wake <-chan struct{}, admit func(Admission) Report) (*Lease, <-chan error) {
	host, vm := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- Follow(ctx, vm, wake, admit) }()
	return Lead(ctx, host), ended
}

func TestAdmitReportsWhatThePilotSaw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lease, ended := pair(t.Context(), nil, echo)
		got, err := lease.Admit(t.Context(), admission)
		if err != nil || !reflect.DeepEqual(got, echo(admission)) {
			t.Errorf("Admit = %+v, %v, want %+v", got, err, echo(admission))
		}
		lease.Close()
		if err := <-ended; err != nil {
			t.Errorf("Follow after the host's Close = %v, want nil", err)
		}
		if err := lease.Err(); err != nil {
			t.Errorf("Err after Close = %v, want nil", err)
		}
		if _, err := lease.Admit(t.Context(), admission); !errors.Is(err, errClosed) {
			t.Errorf("Admit after Close = %v, want %v", err, errClosed)
		}
	})
}

func TestAnIdleLeaseLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lease, ended := pair(t.Context(), nil, echo)
		time.Sleep(24 * time.Hour) // of the bubble's clock
		if _, err := lease.Admit(t.Context(), admission); err != nil {
			t.Errorf("Admit after an idle day: %v", err)
		}
		lease.Close()
		<-ended
	})
}

// TestSilenceEndsBothSides hangs the stream instead of ending it: nobody reads, nobody writes, nothing is closed.
func TestSilenceEndsBothSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, vm := net.Pipe()
		start := time.Now()
		if err := Follow(t.Context(), vm, nil, echo); !errors.Is(err, ErrSilent) {
			t.Errorf("Follow = %v, want %v", err, ErrSilent)
		}
		if got := time.Since(start); got != silence {
			t.Errorf("Follow gave up after %v, want %v", got, silence)
		}

		host, _ := net.Pipe()
		lease := Lead(t.Context(), host)
		start = time.Now()
		if _, err := lease.Admit(t.Context(), admission); !errors.Is(err, ErrSilent) {
			t.Errorf("Admit = %v, want %v", err, ErrSilent)
		}
		if got := time.Since(start); got != silence {
			t.Errorf("Lead gave up after %v, want %v", got, silence)
		}
	})
}

// TestASlowFrameIsASignOfLife feeds a frame at one byte per 10 s.
func TestASlowFrameIsASignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, vm := net.Pipe()
		ended := make(chan error, 1)
		asked := make(chan Admission, 1)
		go func() {
			ended <- Follow(t.Context(), vm, nil, func(a Admission) Report { asked <- a; return Report{} })
		}()
		go io.Copy(io.Discard, host)
		f, err := jsonFrame(kindRequest, request{ID: 1, Admission: admission})
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range appendFrame(nil, f) {
			time.Sleep(10 * time.Second)
			if _, err := host.Write([]byte{b}); err != nil {
				t.Fatalf("Follow closed the stream: %v", err)
			}
		}
		if got := <-asked; !reflect.DeepEqual(got, admission) {
			t.Errorf("asked for %+v, want %+v", got, admission)
		}
		synctest.Wait() // the report is out
		host.Close()
		if err := <-ended; err != nil {
			t.Errorf("Follow = %v, want nil", err)
		}
	})
}

func TestContextEndsBothSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := errors.New("told to stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		lease, ended := pair(ctx, nil, echo)
		cancel(stop)
		<-lease.Done()
		// Whichever side is first, the other may see the closed stream before its own ctx.
		if err := <-ended; err != nil && !errors.Is(err, stop) {
			t.Errorf("Follow = %v, want %v or nil", err, stop)
		}
		if err := lease.Err(); !errors.Is(err, stop) && !errors.Is(err, io.EOF) {
			t.Errorf("lease ended by %v, want %v or %v", err, stop, io.EOF)
		}
	})
}

func TestThePilotsEndIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, vm := net.Pipe()
		lease := Lead(t.Context(), host)
		vm.Close()
		if _, err := lease.Admit(t.Context(), admission); err == nil {
			t.Error("Admit on a dead stream succeeded")
		}
		<-lease.Done()
		if lease.Err() == nil {
			t.Error("Err = nil though the pilot ended the stream")
		}
	})
}

// A pilot that was built from other sources is not taken at its word.
func TestAStalePilotIsNamed(t *testing.T) {
	stale := func(id uint64) []byte {
		f, err := jsonFrame(kindAnswer, map[string]any{"id": id, "of": "0123456789ab", "report": Report{Open: true}})
		if err != nil {
			t.Fatal(err)
		}
		return appendFrame(nil, f)
	}
	if r, err := ReadReport(bytes.NewReader(stale(0))); !errors.Is(err, ErrStale) {
		t.Errorf("ReadReport = %+v, %v", r, err)
	}
	synctest.Test(t, func(t *testing.T) {
		host, vm := net.Pipe()
		lease := Lead(t.Context(), host)
		go func() {
			(&frameReader{Reader: vm}).next()
			vm.Write(stale(1))
			io.Copy(io.Discard, vm)
		}()
		if r, err := lease.Admit(t.Context(), admission); !errors.Is(err, ErrStale) || !strings.Contains(err.Error(), "; hint: build both anew") {
			t.Errorf("Admit = %+v, %v", r, err)
		}
		if !errors.Is(lease.Err(), ErrStale) {
			t.Errorf("the lease ended with %v", lease.Err())
		}
	})
}

func TestALateAnswerIsNotTakenForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hurry := make(chan struct{})
		lease, ended := pair(t.Context(), nil, func(a Admission) Report {
			<-hurry
			return echo(a)
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := lease.Admit(ctx, Admission{Tag: "00000001"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Admit = %v, want %v", err, context.DeadlineExceeded)
		}
		close(hurry)
		got, err := lease.Admit(t.Context(), admission)
		if err != nil || !reflect.DeepEqual(got, echo(admission)) {
			t.Errorf("Admit = %+v, %v, want %+v", got, err, echo(admission))
		}
		lease.Close()
		<-ended
	})
}

func TestAWakeTellsOnlyNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wake := make(chan struct{})
		world := Report{Backend: "nftables", Open: true, Changed: true}
		lease, ended := pair(t.Context(), wake, func(Admission) Report { return world })
		unasked := func() *Report {
			synctest.Wait()
			select {
			case r := <-lease.Reports():
				return &r
			default:
				return nil
			}
		}
		wake <- struct{}{} // before any admission there is nothing to repeat
		if got := unasked(); got != nil {
			t.Fatalf("report %+v before any admission", *got)
		}
		if _, err := lease.Admit(t.Context(), admission); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			name string
			sees Report
			told bool
		}{
			{"nothing new", Report{Backend: "nftables", Open: true}, false},
			{"repaired", Report{Backend: "nftables", Open: true, Changed: true}, true},
			{"still well", Report{Backend: "nftables", Open: true}, false},
			{"failed", Report{Backend: "nftables", Error: "list chains: refused"}, true},
			{"still failing", Report{Backend: "nftables", Error: "list chains: refused"}, false},
			{"well again", Report{Backend: "nftables", Open: true}, true},
		} {
			world = step.sees
			wake <- struct{}{}
			got := unasked()
			if (got != nil) != step.told || got != nil && !reflect.DeepEqual(*got, step.sees) {
				t.Errorf("%s: told %+v, want told=%v %+v", step.name, got, step.told, step.sees)
			}
		}
		lease.Close()
		<-ended
	})
}

func TestNonsenseEndsTheStream(t *testing.T) {
	big := appendFrame(nil, frame{kindRequest, make([]byte, maxPayload+1)})
	for _, c := range []struct {
		name, sends, want string
	}{
		{"text", "exec /pilot: no such file or directory\n", `not a stream of frames: it says "exec "`},
		{"oversize", string(big), "not a stream of frames"},
		{"unknown kind", string(appendFrame(nil, frame{kind: 77})), "frame of unknown kind 77"},
		{"wrong way round", string(appendFrame(nil, frame{kindAnswer, []byte("{}")})), "got answer where request was due"},
		{"broken json", string(appendFrame(nil, frame{kindRequest, []byte("{")})), "decode request"},
		{"broken address", string(appendFrame(nil, frame{kindRequest, []byte(`{"admission":{"sources":["1.2.3"]}}`)})), "decode request"},
		{"cut in the header", "\x00\x00", "unexpected EOF"},
		{"cut in the payload", "\x00\x00\x00\x09\x02{}", "2 of 9 bytes: unexpected EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			host, vm := net.Pipe()
			defer host.Close()
			go func() {
				io.Copy(host, strings.NewReader(c.sends))
				if strings.HasPrefix(c.name, "cut") {
					host.Close()
				}
			}()
			err := Follow(t.Context(), oneByte{vm}, nil, echo)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Follow = %v, want %q", err, c.want)
			}
		})
	}
}

// oneByte reads its stream in the smallest bites.
type oneByte struct{ net.Conn }

func (c oneByte) Read(p []byte) (int, error) { return iotest.OneByteReader(c.Conn).Read(p) }

func TestAReportAlwaysFitsItsFrame(t *testing.T) {
	var many []string
	for i := range 20000 {
		many = append(many, fmt.Sprintf("ip fairlead_0123abcd postrouting: ip saddr 192.168.99.1 ip daddr 10.0.%d.0/24 masquerade", i))
	}
	var buf bytes.Buffer
	if err := WriteReport(&buf, Report{Rules: many}); err != nil {
		t.Fatal(err)
	}
	got, err := ReadReport(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if last := got.Rules[len(got.Rules)-1]; last != "and 19744 more" || got.Rules[0] != many[0] {
		t.Errorf("first rule %q, last rule %q", got.Rules[0], last)
	}
	if _, err := ReadReport(&buf); err != io.EOF {
		t.Errorf("ReadReport at the end = %v, want %v", err, io.EOF)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{})
	f.Add(appendFrame(nil, frame{kind: kindPing}))
	f.Add(appendFrame(nil, frame{kindRequest, []byte(`{"id":1}`)}))
	f.Add([]byte("\xff\xff\xff\xff\x02"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		got, err := (&frameReader{Reader: r}).next()
		if err != nil {
			if err == io.EOF && len(in) != 0 {
				t.Fatalf("clean end in the middle of %q", in)
			}
			return
		}
		if used := in[:len(in)-r.Len()]; !bytes.Equal(appendFrame(nil, got), used) {
			t.Fatalf("%q was read as %v %q", used, got.kind, got.payload)
		}
	})
}

// script is a stream that says what it has to say and hears nothing.
type script struct{ io.Reader }

func (script) Write(p []byte) (int, error) { return len(p), nil }
func (script) Close() error                { return nil }

func FuzzFollow(f *testing.F) {
	req, err := jsonFrame(kindRequest, request{ID: 1, Admission: admission})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(appendFrame(appendFrame(nil, req), frame{kind: kindPing}))
	f.Fuzz(func(t *testing.T, in []byte) {
		Follow(t.Context(), script{bytes.NewReader(in)}, nil, echo)
	})
}
