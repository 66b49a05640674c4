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
	kindPing    kind = 1 // no payload: "I am here"
	kindRequest kind = 2 // host to pilot, in JSON
	kindAnswer  kind = 3 // pilot to host, in JSON
	kindPackets kind = 4 // both ways: how much was taken so far (ackLen), and IP packets, each behind its length (lengthLen)
)

func (k kind) String() string {
	switch k {
	case kindPing:
		return "ping"
	case kindRequest:
		return "request"
	case kindAnswer:
		return "answer"
	case kindPackets:
		return "packets"
	}
	return fmt.Sprintf("frame of unknown kind %d", byte(k))
}

const (
	headerLen  = 5
	maxPayload = 256 << 10
)

// errNotFrames says that the stream's bytes are something else: most often the text of an error or a login banner.
var errNotFrames = errors.New("not a stream of frames")

func putHeader(b []byte, k kind, size int) {
	binary.BigEndian.PutUint32(b, uint32(size))
	b[4] = byte(k)
}

func appendFrame(b []byte, f frame) []byte {
	var head [headerLen]byte
	putHeader(head[:], f.kind, len(f.payload))
	return append(append(b, head[:]...), f.payload...)
}

// headroom is what a frame of packets has free before its payload, for whoever has to put something before a packet.
const headroom = 16

// frameReader reads frames. The payload of packets lies in room, behind headroom, until the next one is read.
type frameReader struct {
	io.Reader
	head [headerLen]byte
	room []byte
}

// next reads one frame. The error is io.EOF only between frames, io.ErrUnexpectedEOF inside one.
func (r *frameReader) next() (frame, error) {
	head := r.head[:]
	if n, err := io.ReadFull(r, head); err != nil {
		if n == 0 {
			return frame{}, err
		}
		return frame{}, fmt.Errorf("read frame header %q: %w", head[:n], err)
	}
	size := int(binary.BigEndian.Uint32(head))
	if size > maxPayload || size < 0 {
		return frame{}, fmt.Errorf("%w: it says %q", errNotFrames, head)
	}
	f := frame{kind: kind(head[4])}
	if f.kind == kindPackets {
		if r.room == nil {
			r.room = make([]byte, headroom+maxPayload)
		}
		f.payload = r.room[headroom:][:size]
	} else {
		f.payload = make([]byte, size)
	}
	if n, err := io.ReadFull(r, f.payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, fmt.Errorf("read %v, %d of %d bytes: %w", f.kind, n, size, err)
	}
	return f, nil
}
