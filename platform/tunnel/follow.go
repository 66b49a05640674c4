package tunnel

import (
	"context"
	"errors"
	"io"
	"reflect"
)

// Follow is the pilot's end of a stream. It passes every admission to admit and its report back, and repeats the last one
// at each wake; that report is sent when it tells something new. It makes this machine's end of a link itself, a TUN
// device that goes when Follow returns or the process ends. Over a link with Inject, admit is asked to let nothing through,
// and the report says whether the containers answer all the same. It owns the stream and returns when that ends (nil), falls
// silent (ErrSilent), speaks nonsense, or ctx ends; then the caller takes back what admit did. A stream whose Close does
// not free a blocked Read leaves that one goroutine behind.
func Follow(ctx context.Context, stream io.ReadWriteCloser, wake <-chan struct{}, admit func(Admission) Report) error {
	return follow(ctx, stream, wake, admit, openPilotPort)
}

func follow(ctx context.Context, stream io.ReadWriteCloser, wake <-chan struct{}, admit func(Admission) Report, open func(Link, *prover) (port, linked, error)) error {
	w := newWire(ctx, stream)
	var pump *pump
	var prover *prover
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
		if asked.Inject {
			prover = newProver(asked)
		}
		port, got, err := open(asked, prover)
		if err == nil {
			pump = startPump(w, port, asked.toHost, asked.toVM)
		}
		return got, err
	}
	look := func(a Admission) Report {
		if pump == nil || prover == nil {
			return admit(a)
		}
		r := admit(Admission{Tag: a.Tag}) // what an earlier pilot left goes, too
		return prover.report(a, r, w.done)
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
			told = look(*asked)
			w.tell(req.ID, told)
		case <-wake:
			if asked == nil {
				continue
			}
			seen := look(*asked)
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
