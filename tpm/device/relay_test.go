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
	address := "127.0.0.1:" + s.TCTI()[strings.LastIndex(s.TCTI(), "=")+1:]
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			r.serve(conn, address)
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
func (r *relay) serve(client net.Conn, address string) {
	defer client.Close()
	command := make([]byte, 10)
	if _, err := io.ReadFull(client, command); err != nil {
		return
	}
	command = append(command, make([]byte, binary.BigEndian.Uint32(command[2:])-10)...)
	if _, err := io.ReadFull(client, command[10:]); err != nil {
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
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	if _, err := server.Write(command); err != nil {
		return
	}
	response := make([]byte, 64<<10)
	n, err := server.Read(response)
	if err != nil {
		return
	}
	_, _ = client.Write(response[:n])
}

// response is a TPM's answer of a response code alone.
func response(rc tpm2.TPMRC) []byte {
	b := binary.BigEndian.AppendUint16(nil, 0x8001)
	b = binary.BigEndian.AppendUint32(b, 10)
	return binary.BigEndian.AppendUint32(b, uint32(rc))
}
