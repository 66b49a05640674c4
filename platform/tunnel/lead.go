package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Lease is the host's end of a stream to a pilot. Admissions last as long as it does.
type Lease struct {
	wire    *wire
	turn    chan struct{} // held by the request under way
	id      uint64        // of the newest request; guarded by turn
	answers chan answer
	reports chan Report
}

// Lead starts a lease over stream, the pilot's stdin and stdout as raw bytes. The lease owns the stream; it ends with
// Close, with ctx, with the stream, or when the pilot is silent for 15 s.
func Lead(ctx context.Context, stream io.ReadWriteCloser) *Lease {
	l := &Lease{
		wire:    newWire(ctx, stream),
		turn:    make(chan struct{}, 1),
		answers: make(chan answer, 1),
		reports: make(chan Report, 1),
	}
	go l.listen()
	return l
}

// Admit asks the pilot to make a true, in place of what was asked before, and returns what it then saw. The error is the
// stream's or ctx's; what went wrong in the VM stands in the report.
func (l *Lease) Admit(ctx context.Context, a Admission) (Report, error) {
	got, err := l.ask(ctx, request{Admission: a})
	if err != nil {
		return Report{}, fmt.Errorf("ask the pilot: %w", err)
	}
	return got.Report, nil
}

func (l *Lease) ask(ctx context.Context, r request) (answer, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return answer{}, context.Cause(ctx)
	case <-l.Done():
		return answer{}, l.reason()
	}
	l.id++
	r.ID = l.id
	f, err := jsonFrame(kindRequest, r)
	if err != nil {
		return answer{}, err
	}
	out := l.wire.out
	for {
		select {
		case out <- f:
			out = nil
		case got := <-l.answers:
			if got.ID == l.id { // else the late answer to a request whose ctx had ended
				return got, nil
			}
		case <-ctx.Done():
			return answer{}, context.Cause(ctx)
		case <-l.Done():
			return answer{}, l.reason()
		}
	}
}

// Reports gives the newest report that the pilot sent unasked: it looks again by itself, and tells when it had to repair
// something or could not. It is never closed.
func (l *Lease) Reports() <-chan Report { return l.reports }

// Done is closed when the lease has ended; the pilot takes back what it changed.
func (l *Lease) Done() <-chan struct{} { return l.wire.done }

// Err says why the lease ended: nil as long as it lasts and after Close, io.EOF when the pilot's side ended it.
func (l *Lease) Err() error {
	select {
	case <-l.Done():
		return l.wire.err
	default:
		return nil
	}
}

// Close ends the lease. The pilot takes back its rules and exits; that it has done so shows by its container's end.
func (l *Lease) Close() { l.wire.end(nil) }

var errClosed = errors.New("the lease is closed")

func (l *Lease) reason() error {
	switch err := l.Err(); err {
	case nil:
		return errClosed
	case io.EOF:
		return fmt.Errorf("the pilot has gone: %w", err)
	default:
		return err
	}
}

func (l *Lease) listen() {
	for {
		select {
		case f := <-l.wire.in:
			switch a, err := parseAnswer(f); {
			case err != nil:
				l.wire.end(err)
			case a.ID == 0:
				replace(l.reports, a.Report)
			default:
				replace(l.answers, a)
			}
		case <-l.Done():
			return
		}
	}
}

// replace puts v into c, a channel with room for one and one sender, in place of what nobody has taken.
func replace[T any](c chan T, v T) {
	select {
	case <-c:
	default:
	}
	c <- v
}
