package tunnel

import (
	"context"
	"errors"
	"io"
	"reflect"
)

// Follow is the pilot's end of a stream. It passes every admission to admit and its report back, and repeats the last one
// at each wake; that report is sent when it tells something new. It makes this machine's end of a link itself, a TUN
// device that goes when Follow returns or the process ends. It owns the stream and returns when that ends (nil), falls
// silent (ErrSilent), speaks nonsense, or ctx ends; then the caller takes back what admit did. A stream whose Close does
// not free a blocked Read leaves that one goroutine behind.
func Follow(ctx context.Context, stream io.ReadWriteCloser, wake <-chan struct{}, admit func(Admission) Report) error {
	return follow(ctx, stream, wake, admit, openPilotPort)
}

func follow(ctx context.Context, stream io.ReadWriteCloser, wake <-chan struct{}, admit func(Admission) Report, open func(Link) (port, linked, error)) error {
	w := newWire(ctx, stream)
	var pump *pump
	defer func() {
		if pump != nil {
			<-pump.done
		}
	}()
	link := func(asked Link) (linked, error) {
		if pump != nil {
			return linked{}, errors.New("this stream has its link already")
		}
		if err := asked.check(); err != nil {
			return linked{}, err
		}
		port, got, err := open(asked)
		if err == nil {
			pump = startPump(w, port, asked.toHost, asked.toVM)
		}
		return got, err
	}
	var asked *Admission
	var told Report
	for {
		select {
		case f := <-w.in:
			var req request
			if err := parseJSON(f, kindRequest, &req); err != nil {
				w.end(err)
				continue
			}
			if req.Link != nil {
				got, err := link(*req.Link)
				if err != nil {
					got.Error = err.Error()
				}
				w.answer(answer{ID: req.ID, Linked: &got})
				continue
			}
			asked = &req.Admission
			told = admit(*asked)
			w.tell(req.ID, told)
		case <-wake:
			if asked == nil {
				continue
			}
			seen := admit(*asked)
			news := seen.Changed
			seen.Changed, told.Changed = false, false
			if news || !reflect.DeepEqual(seen, told) {
				told = seen
				seen.Changed = news
				w.tell(0, seen)
			}
		case <-w.done:
			if errors.Is(w.err, io.EOF) {
				return nil
			}
			return w.err
		}
	}
}

func (w *wire) tell(id uint64, r Report) { w.answer(answer{ID: id, Report: r}) }

func (w *wire) answer(a answer) {
	f, err := answerFrame(a)
	if err != nil {
		w.end(err)
		return
	}
	w.send(f)
}
