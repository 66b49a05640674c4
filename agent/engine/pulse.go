package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// pulse is a connection for pings alone. One ping is a write and a read of one goroutine: net/http would wake two more for each, and
// pings are all that an idle agent does.
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

// keepPulse notices an engine that holds its connections open and answers nothing: the event stream itself is silent by nature.
// It asks at times that are whole multiples of pingEvery, as platform.WatchWake looks at its clocks: an idle host is woken once for both.
func (s *session) keepPulse(ctx context.Context, cancel context.CancelCauseFunc) {
	var p pulse
	defer p.close()
	t := time.NewTimer(0)
	defer t.Stop()
	for { // the first time at once, so that where the engine was at the session's start is known
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
		now := time.Now().Round(0)
		t.Reset(now.Truncate(s.pace.pingEvery).Add(s.pace.pingEvery).Sub(now))
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-s.hurry:
			cancel(errHurried)
			return
		}
	}
}

func (s *session) alive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.pace.pingTimeout)
	defer cancel()
	_, err := s.conn.Ping(ctx)
	return err
}
