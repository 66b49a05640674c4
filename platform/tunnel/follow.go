package tunnel

import (
	"context"
	"errors"
	"io"
	"reflect"
)

// Follow is the pilot's end of a stream. It passes every admission to admit and its report back, and repeats the last one
// at each wake; that report is sent when it tells something new. It owns the stream and returns when that ends (nil), falls
// silent (ErrSilent), speaks nonsense, or ctx ends; then the caller takes back what admit did. A stream whose Close does
// not free a blocked Read, like stdin, leaves that one goroutine behind.
func Follow(ctx context.Context, stream io.ReadWriteCloser, wake <-chan struct{}, admit func(Admission) Report) error {
	l := newLink(ctx, stream)
	var asked *Admission
	var told Report
	for {
		select {
		case f := <-l.in:
			var req request
			if err := parseJSON(f, kindAdmit, &req); err != nil {
				l.end(err)
				continue
			}
			asked = &req.Admission
			told = admit(*asked)
			l.tell(req.ID, told)
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
				l.tell(0, seen)
			}
		case <-l.done:
			if errors.Is(l.err, io.EOF) {
				return nil
			}
			return l.err
		}
	}
}

func (l *link) tell(id uint64, r Report) {
	f, err := reportFrame(id, r)
	if err != nil {
		l.end(err)
		return
	}
	l.send(f)
}
