package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A frame on the wire: payload length (u32, big endian), kind (u8), payload.
type frame struct {
	kind    kind
	payload []byte
}

type kind byte

const (
	kindPing   kind = 1 // no payload: "I am here"
	kindAdmit  kind = 2 // host to pilot: a request in JSON
	kindReport kind = 3 // pilot to host: an answer in JSON
	// 4 is kept for packets.
)

func (k kind) String() string {
	switch k {
	case kindPing:
		return "ping"
	case kindAdmit:
		return "admission"
	case kindReport:
		return "report"
	}
	return fmt.Sprintf("frame of unknown kind %d", byte(k))
}

const (
	headerLen  = 5
	maxPayload = 256 << 10
)

// errNotFrames says that the stream's bytes are something else: most often the text of an error or a login banner.
var errNotFrames = errors.New("not a stream of frames")

func appendFrame(b []byte, f frame) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(f.payload)))
	b = append(b, byte(f.kind))
	return append(b, f.payload...)
}

// readFrame reads one frame. The error is io.EOF only between frames, io.ErrUnexpectedEOF inside one.
func readFrame(r io.Reader) (frame, error) {
	var head [headerLen]byte
	if n, err := io.ReadFull(r, head[:]); err != nil {
		if n == 0 {
			return frame{}, err
		}
		return frame{}, fmt.Errorf("read frame header %q: %w", head[:n], err)
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > maxPayload {
		return frame{}, fmt.Errorf("%w: it says %q", errNotFrames, head[:])
	}
	f := frame{kind: kind(head[4]), payload: make([]byte, size)}
	if n, err := io.ReadFull(r, f.payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, fmt.Errorf("read %v, %d of %d bytes: %w", f.kind, n, size, err)
	}
	return f, nil
}
