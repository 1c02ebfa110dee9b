package device_test

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"keylime/internal/swtpm"
	"keylime/tpm/device"
)

// relay is a UNIX socket before a swtpm. It hands on one command per connection, after before had a look at it.
type relay struct {
	mu     sync.Mutex
	before func(tpm2.TPMCC) []byte // what it returns is the answer, unless it is nil
}

// commands sets what happens before each command.
func (r *relay) commands(before func(tpm2.TPMCC) []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before = before
}

// openRelayed opens the TPM through a relay.
func openRelayed(t *testing.T, s *swtpm.Server) (*device.TPM, *relay) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm") // a test's own directory may be too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "tpm.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	r := new(relay)
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	t.Cleanup(func() { ln.Close() })
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			r.serve(conn, s)
		}
	})
	dev, err := device.Open(t.Context(), "swtpm:path="+path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev, r
}

// serve relays one command and its response. A broken connection ends it; the client sees that.
func (r *relay) serve(client net.Conn, server *swtpm.Server) {
	defer client.Close()
	command, err := readCommand(client)
	if err != nil {
		return
	}
	r.mu.Lock()
	before := r.before
	r.mu.Unlock()
	if before != nil {
		if answer := before(tpm2.TPMCC(binary.BigEndian.Uint32(command[6:]))); answer != nil {
			_, _ = client.Write(answer)
			return
		}
	}
	if response, err := forward(server, command); err == nil {
		_, _ = client.Write(response)
	}
}

// readCommand reads one command; its header says how long it is.
func readCommand(from io.Reader) ([]byte, error) {
	command := make([]byte, 10)
	if _, err := io.ReadFull(from, command); err != nil {
		return nil, err
	}
	command = append(command, make([]byte, binary.BigEndian.Uint32(command[2:])-10)...)
	_, err := io.ReadFull(from, command[10:])
	return command, err
}

// forward has the TPM execute one command. swtpm writes a response in one piece.
func forward(s *swtpm.Server, command []byte) ([]byte, error) {
	_, port, _ := strings.Cut(s.TCTI(), "port=")
	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.Write(command); err != nil {
		return nil, err
	}
	response := make([]byte, 64<<10)
	n, err := conn.Read(response)
	return response[:n], err
}

// response is a TPM's answer of a response code alone.
func response(rc tpm2.TPMRC) []byte {
	b := binary.BigEndian.AppendUint16(nil, 0x8001)
	b = binary.BigEndian.AppendUint32(b, 10)
	return binary.BigEndian.AppendUint32(b, uint32(rc))
}
