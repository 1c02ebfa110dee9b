package notify

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The publisher's side of ZMTP 3.0 (ZeroMQ RFC 23): greeting, READY, frames.

// maxIncoming bounds a frame that a subscriber sends: a subscription or a READY with its metadata.
const maxIncoming = 4 << 10

const (
	flagLong    = 0x02
	flagCommand = 0x04
)

var errZMTP = errors.New("not a ZMTP 3 peer")

type frame struct {
	command bool
	body    []byte
}

// greeting is signature, version 3.0, mechanism NULL, as-server 0 and filler.
func greeting() []byte {
	g := make([]byte, 64)
	g[0], g[9], g[10] = 0xFF, 0x7F, 3
	copy(g[12:32], "NULL")
	return g
}

// handshake exchanges greetings and READY commands. The caller has set a deadline.
func handshake(rw io.ReadWriter) error {
	if _, err := rw.Write(greeting()); err != nil {
		return err
	}
	var peer [64]byte
	if _, err := io.ReadFull(rw, peer[:]); err != nil {
		return err
	}
	if peer[0] != 0xFF || peer[9]&1 != 1 || peer[10] < 3 || string(peer[12:17]) != "NULL\x00" {
		return errZMTP
	}
	ready := []byte("\x05READY\x0bSocket-Type\x00\x00\x00\x03PUB")
	if err := writeFrame(rw, frame{command: true, body: ready}); err != nil {
		return err
	}
	f, err := readFrame(rw)
	if err != nil {
		return err
	}
	if !f.command || len(f.body) < 6 || string(f.body[:6]) != "\x05READY" {
		return errZMTP
	}
	return nil
}

// readFrame reads one frame of at most maxIncoming bytes.
func readFrame(r io.Reader) (frame, error) {
	var head [9]byte
	if _, err := io.ReadFull(r, head[:2]); err != nil {
		return frame{}, err
	}
	size := uint64(head[1])
	if head[0]&flagLong != 0 {
		if _, err := io.ReadFull(r, head[2:]); err != nil {
			return frame{}, err
		}
		size = binary.BigEndian.Uint64(head[1:])
	}
	if size > maxIncoming {
		return frame{}, fmt.Errorf("ZMTP frame of %d bytes: at most %d are read", size, maxIncoming)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return frame{}, err
	}
	return frame{command: head[0]&flagCommand != 0, body: body}, nil
}

// writeFrame writes a single frame in one call.
func writeFrame(w io.Writer, f frame) error {
	var flags byte
	if f.command {
		flags = flagCommand
	}
	buf := make([]byte, 0, 9+len(f.body))
	if len(f.body) > 255 {
		buf = append(buf, flags|flagLong)
		buf = binary.BigEndian.AppendUint64(buf, uint64(len(f.body)))
	} else {
		buf = append(buf, flags, byte(len(f.body)))
	}
	_, err := w.Write(append(buf, f.body...))
	return err
}
