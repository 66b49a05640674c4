package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// pulse is a connection for pings alone. One ping is a write and a read of one goroutine: net/http would wake two more for each.
type pulse struct {
	conn  net.Conn
	in    *bufio.Reader
	at    string // the address that the engine has on it, without a port
	moved bool   // it was another on the connection before
}

// beat asks whether the engine answers. After an error the next beat connects anew.
func (p *pulse) beat(ctx context.Context, c *connection, timeout time.Duration) (err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if p.conn == nil {
		if p.conn, err = c.open(ctx); err != nil {
			return err
		}
		p.in = bufio.NewReaderSize(p.conn, 1<<10)
		at, _, _ := net.SplitHostPort(p.conn.RemoteAddr().String())
		p.moved, p.at = p.at != "" && at != p.at, at
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	deadline, _ := ctx.Deadline()
	if err = p.conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err = io.WriteString(p.conn, "GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n"); err != nil {
		return err
	}
	answer, err := http.ReadResponse(p.in, nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the engine says %s", answer.Status)
	}
	if n, err := io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<10)); err != nil || n == 1<<10 {
		return errors.Join(err, errors.New("its answer to a ping has no end"))
	}
	if answer.Close {
		p.close()
		return nil
	}
	return p.conn.SetDeadline(time.Time{}) // or it wakes us
}

func (p *pulse) close() {
	if p.conn != nil {
		p.conn.Close()
		p.conn = nil
	}
}

// keepPulse notices an engine that holds its connections open and answers nothing: the event stream itself is silent by nature. Only who
// asks can notice that, and whom it does not matter to need not be woken for it: it asks often for as long as somebody looks (Attend), and
// rarely else. Its times are whole multiples, as are all that an idle agent keeps to: a host is woken once for all.
func (s *session) keepPulse(ctx context.Context, cancel context.CancelCauseFunc) {
	defer s.vital.end(ctx)
	var p pulse
	defer p.close()
	var until time.Time
	t := time.NewTimer(0) // the first time at once, so that where the engine was at the session's start is known
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.hurry:
			cancel(errHurried)
			return
		case <-s.attend:
			if time.Now().After(until) {
				poke(s.relook)
			}
			until = time.Now().Add(s.pace.attention)
			if s.vital.since() < s.pace.pingEvery {
				t.Reset(UntilNext(time.Now(), s.pace.pingEvery))
				continue
			}
		case <-t.C:
		}
		if p.beat(ctx, s.conn, s.pace.pingTimeout) != nil {
			// Once more and by another connection: its way may be the one that fails, as where a proxy is between.
			if err := s.alive(ctx); err != nil {
				cancel(fmt.Errorf("engine does not answer pings: %w", err))
				return
			}
			if p.beat(ctx, s.conn, s.pace.pingTimeout) == nil && p.moved { // so the event stream leads nowhere
				cancel(errHurried)
				return
			}
		}
		s.vital.answered()
		now, every := time.Now(), s.pace.pingEvery
		if now.After(until) && s.told.Load() { // its first list is waited for
			every = s.pace.restEvery
		}
		t.Reset(UntilNext(now, every))
	}
}

// UntilNext is the time until the next whole multiple of every: who keeps to such shares one wake-up of the host with all others.
func UntilNext(now time.Time, every time.Duration) time.Duration {
	now = now.Round(0)
	return now.Truncate(every).Add(every).Sub(now)
}

// vital is when an engine last answered a ping.
type vital struct {
	mu   sync.Mutex
	last time.Time
	news chan struct{} // closed and renewed when it answers
	over error         // why nobody asks any more
}

func (v *vital) answered() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last = time.Now()
	close(v.news)
	v.news = make(chan struct{})
}

// end says that nobody asks any more, as ctx has ended.
func (v *vital) end(ctx context.Context) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.over = context.Cause(ctx)
	close(v.news)
	v.news = nil
}

func (v *vital) since() time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	return time.Since(v.last)
}

// await returns nil as soon as there was an answer less than some time ago, and else why there is none.
func (v *vital) await(ctx context.Context, fresh time.Duration) error {
	for {
		v.mu.Lock()
		last, news, over := v.last, v.news, v.over
		v.mu.Unlock()
		switch {
		case errors.Is(over, errHurried), errors.Is(over, context.Canceled): // nobody knows, or is about to tell
			return nil
		case over != nil:
			return over
		case time.Since(last) < fresh:
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return fmt.Errorf("%w a ping since it was asked", ErrNoAnswer)
		}
	}
}

// Attend has Watch look closely for a minute, as somebody relies on what it has told: it asks at once whether the engine still answers, if
// it did not do so lately, and every few seconds from then on. It costs next to nothing.
func (e *Engine) Attend() { poke(e.attend) }

// Answers attends, and returns nil when the engine that Watch follows answers, or did so within the last seconds; also when Watch follows none, and
// has told so. An engine that has answered nothing when ctx ends is ErrNoAnswer.
func (e *Engine) Answers(ctx context.Context) error {
	s := e.live.Load()
	if s == nil {
		return nil
	}
	e.Attend()
	return s.vital.await(ctx, e.pace.pingEvery)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (s *session) alive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.pace.pingTimeout)
	defer cancel()
	_, err := s.conn.Ping(ctx)
	return err
}
