package tunnel

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestPace sends over a way of its own: so many bytes a second, and so long until they are heard of.
func TestPace(t *testing.T) {
	for _, c := range []struct {
		name        string
		speed       float64 // bytes/s
		away        time.Duration
		least, most uint32
	}{
		{"slow", 1e6, 300 * time.Microsecond, leastWindow, leastWindow},
		{"fast", 300e6, 300 * time.Microsecond, 700 << 10, 1200 << 10},
		{"far away", 100e6, 20 * time.Millisecond, 2 << 20, mostWindow},
		{"faster than all", 1e12, 10 * time.Microsecond, mostWindow, mostWindow},
	} {
		var p pace
		p.limit.Store(leastWindow)
		var sent, acked uint32
		type batch struct {
			last uint32
			at   time.Duration
		}
		var way []batch
		var now, busy time.Duration
		sent = 100 // an echo request
		p.sent(sent, acked, now)
		now, acked = now+c.away+time.Duration(100/c.speed*1e9), sent
		p.heard(acked, now)
		for range 20000 {
			for sent-acked < p.limit.Load() {
				sent += batchLen
				p.sent(sent, acked, now)
				busy = max(busy, now) + time.Duration(batchLen/c.speed*1e9)
				way = append(way, batch{sent, busy + c.away})
			}
			now, acked = way[0].at, way[0].last
			way = way[1:]
			p.heard(acked, now)
		}
		if got := p.limit.Load(); got < c.least || got > c.most {
			t.Errorf("%s: %d KB, want %d to %d", c.name, got>>10, c.least>>10, c.most>>10)
		}
	}
}

// TestAStalledReaderHasABound lets the other side take nothing: so much is sent, so much is kept, and then the reader waits;
// control frames go on.
func TestAStalledReaderHasABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		w := newWire(t.Context(), ours)
		var got int
		kinds := make(chan kind, 100)
		go func() {
			r := frameReader{Reader: theirs}
			for {
				f, err := r.next()
				if err != nil {
					return
				}
				if f.kind == kindPackets {
					got += len(f.payload) - ackLen
				}
				kinds <- f.kind
			}
		}()
		p := &sinkPort{packet: udp("10.9.0.1", "172.17.0.2", make([]byte, 60000))}
		m := startPump(w, p, someLink.toVM, someLink.toHost)
		synctest.Wait()
		if got < leastWindow || got > leastWindow+2*batchLen {
			t.Errorf("%d bytes were sent to one who takes none", got)
		}
		for len(kinds) > 0 {
			<-kinds
		}
		w.send(frame{kind: kindAnswer, payload: []byte("{}")})
		if k := <-kinds; k != kindAnswer {
			t.Errorf("%v came", k)
		}
		was := got
		front := binary.BigEndian.AppendUint32(nil, uint32(got)) // now all was taken
		if _, err := theirs.Write(appendFrame(nil, frame{kindPackets, front})); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got <= was {
			t.Error("nothing more was sent")
		}
		w.end(io.EOF)
		<-m.done
		if kept := m.sent.bytes.Load() - uint64(got); kept > bulkLen+fastLen {
			t.Errorf("%d bytes were kept", kept)
		}
	})
}

func TestNobodyTakesWhatWasNotSent(t *testing.T) {
	for name, payload := range map[string][]byte{"more": {0, 0, 0, 1}, "less": {0xf0, 0, 0, 0}, "no front": {0, 0}} {
		ours, theirs := net.Pipe()
		w := newWire(t.Context(), ours)
		theirs.Write(appendFrame(nil, frame{kindPackets, payload}))
		<-w.done
		if w.err == nil || !bytes.Contains([]byte(w.err.Error()), []byte("packets")) {
			t.Errorf("%s: %v", name, w.err)
		}
		theirs.Close()
	}
}
