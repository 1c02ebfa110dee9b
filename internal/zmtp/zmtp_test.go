package zmtp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"
)

// FuzzReadFrame: a frame that is read is written as the same bytes, or as the shorter form of them.
func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x04\x05READY"))
	f.Add([]byte("\x02\x00\x00\x00\x00\x00\x00\x00\x03abc"))
	f.Add([]byte("\x01\x01x"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		in := bytes.NewReader(wire)
		frame, err := ReadFrame(in, 1024)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := WriteFrame(&out, frame); err != nil {
			t.Fatal(err)
		}
		again, err := ReadFrame(&out, 1024)
		if err != nil || again.Command != frame.Command || again.More != frame.More || !bytes.Equal(again.Body, frame.Body) {
			t.Errorf("%v became %v, %v", frame, again, err)
		}
	})
}

func TestFramesAreBounded(t *testing.T) {
	t.Parallel()
	huge := binary.BigEndian.AppendUint64([]byte{flagLong}, 1<<63)
	if _, err := ReadFrame(bytes.NewReader(huge), 1024); err == nil || !strings.Contains(err.Error(), "at most 1024") {
		t.Errorf("got %v", err)
	}
}

func TestHandshakeNeedsAPeerThatSpeaksTheSame(t *testing.T) {
	t.Parallel()
	for name, theirs := range map[string][]byte{
		"HTTP":      []byte("HTTP/1.1 400 Bad Request\r\n" + strings.Repeat(" ", 64)),
		"ZMTP 2":    append([]byte{0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, 1}, make([]byte, 53)...),
		"CURVE":     append(append([]byte{0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, 3, 0}, "CURVE"...), make([]byte, 47)...),
		"no READY":  append(greeting(), 0x04, 0x05, 'E', 'R', 'R', 'O', 'R'),
		"a message": append(greeting(), 0x00, 0x06, 0x05, 'R', 'E', 'A', 'D', 'Y'),
	} {
		ours, peer := net.Pipe()
		go func() {
			go peer.Write(theirs)
			bytes.NewBuffer(nil).ReadFrom(peer)
		}()
		if err := Handshake(ours, "SUB"); !errors.Is(err, ErrPeer) {
			t.Errorf("%s: got %v", name, err)
		}
		ours.Close()
		peer.Close()
	}
}
