// Package zmtp has what both ends of a ZeroMQ connection need here: ZMTP 3.0 (ZeroMQ RFC 23) with the NULL mechanism,
// and frames whose size the reader bounds.
package zmtp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	flagMore    = 0x01
	flagLong    = 0x02
	flagCommand = 0x04
)

// maxReady bounds the peer's READY command with its metadata.
const maxReady = 4 << 10

// ErrPeer says that the other end speaks something else.
var ErrPeer = errors.New("not a ZMTP 3 peer")

// Frame is a command, or one part of a message.
type Frame struct {
	Command bool
	More    bool // another part of the same message follows
	Body    []byte
}

// greeting is signature, version 3.0, mechanism NULL, as-server 0 and filler.
func greeting() []byte {
	g := make([]byte, 64)
	g[0], g[9], g[10] = 0xFF, 0x7F, 3
	copy(g[12:32], "NULL")
	return g
}

// Handshake exchanges greetings and READY commands; socketType is "PUB" or "SUB". The caller has set a deadline.
func Handshake(rw io.ReadWriter, socketType string) error {
	if _, err := rw.Write(greeting()); err != nil {
		return err
	}
	var peer [64]byte
	if _, err := io.ReadFull(rw, peer[:]); err != nil {
		return err
	}
	if peer[0] != 0xFF || peer[9]&1 != 1 || peer[10] < 3 || string(peer[12:17]) != "NULL\x00" {
		return ErrPeer
	}
	ready := append([]byte("\x05READY\x0bSocket-Type\x00\x00\x00"), byte(len(socketType)))
	if err := WriteFrame(rw, Frame{Command: true, Body: append(ready, socketType...)}); err != nil {
		return err
	}
	f, err := ReadFrame(rw, maxReady)
	if err != nil {
		return err
	}
	if !f.Command || len(f.Body) < 6 || string(f.Body[:6]) != "\x05READY" {
		return ErrPeer
	}
	return nil
}

// ReadFrame reads one frame of at most max bytes.
func ReadFrame(r io.Reader, max uint64) (Frame, error) {
	var head [9]byte
	if _, err := io.ReadFull(r, head[:2]); err != nil {
		return Frame{}, err
	}
	size := uint64(head[1])
	if head[0]&flagLong != 0 {
		if _, err := io.ReadFull(r, head[2:]); err != nil {
			return Frame{}, err
		}
		size = binary.BigEndian.Uint64(head[1:])
	}
	if size > max {
		return Frame{}, fmt.Errorf("ZMTP frame of %d bytes: at most %d are read", size, max)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return Frame{}, err
	}
	return Frame{Command: head[0]&flagCommand != 0, More: head[0]&flagMore != 0, Body: body}, nil
}

// WriteFrame writes a single frame in one call.
func WriteFrame(w io.Writer, f Frame) error {
	var flags byte
	if f.Command {
		flags |= flagCommand
	}
	if f.More {
		flags |= flagMore
	}
	buf := make([]byte, 0, 9+len(f.Body))
	if len(f.Body) > 255 {
		buf = append(buf, flags|flagLong)
		buf = binary.BigEndian.AppendUint64(buf, uint64(len(f.Body)))
	} else {
		buf = append(buf, flags, byte(len(f.Body)))
	}
	_, err := w.Write(append(buf, f.Body...))
	return err
}
