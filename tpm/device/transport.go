package device

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	defaultTCTI = "device:/dev/tpmrm0"

	headerSize  = 10      // tag, size, code: of commands and responses alike
	maxResponse = 8 << 10 // no TPM answers with more than some 4 KiB

	dialTimeout = 5 * time.Second
	// A TPM may search for an RSA key for most of a minute, and another program's command may come first.
	answerTimeout = 2 * time.Minute
)

// link carries one command at a time to a TPM and its response back.
type link interface {
	exchange(ctx context.Context, command []byte) ([]byte, error)
	io.Closer
}

// openLink opens the TPM that a TCTI string names.
func openLink(tcti string) (link, error) {
	if tcti == "" {
		tcti = defaultTCTI
	}
	kind, conf, _ := strings.Cut(tcti, ":")
	switch kind {
	case "device":
		return openFile(conf)
	case "swtpm":
		return parseSocket(conf)
	}
	return nil, fmt.Errorf("TCTI %q: want device:PATH, swtpm:host=HOST,port=PORT or swtpm:path=SOCKET", tcti)
}

// file is a character device of the kernel. It is opened in blocking mode and kept away from Go's poller: a
// write then returns when the TPM has executed the command.
type file struct{ f *os.File }

func openFile(path string) (*file, error) {
	if path == "" {
		path = strings.TrimPrefix(defaultTCTI, "device:")
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("open %s: another program has it open; use the kernel's resource manager, /dev/tpmrm0", path)
	case errors.Is(err, unix.ENOENT):
		return nil, fmt.Errorf("open %s: no such TPM device; is the TPM enabled in the firmware and its driver loaded?", path)
	case errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("open %s: permission denied; run as root or as a member of the group tss", path)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &file{f: os.NewFile(uintptr(fd), path)}, nil
}

func (t *file) exchange(_ context.Context, command []byte) ([]byte, error) {
	if _, err := t.f.Write(command); err != nil {
		return nil, err
	}
	response := make([]byte, maxResponse)
	n, err := t.f.Read(response) // the driver hands out a response in one piece
	if err != nil {
		return nil, err
	}
	return response[:n], nil
}

func (t *file) Close() error { return t.f.Close() }

// socket is a swtpm, which serves one connection at a time. Connecting for each command lets any number of
// programs share it.
type socket struct{ network, address string }

// parseSocket reads what follows "swtpm:": host=…,port=… or path=….
func parseSocket(conf string) (*socket, error) {
	host, port, path := "localhost", "2321", ""
	for _, pair := range strings.Split(conf, ",") {
		key, value, ok := strings.Cut(pair, "=")
		switch {
		case conf == "":
		case ok && key == "host":
			host = value
		case ok && key == "port":
			port = value
		case ok && key == "path":
			path = value
		default:
			return nil, fmt.Errorf("TCTI swtpm:%s: unknown setting %q; want host=HOST,port=PORT or path=SOCKET", conf, pair)
		}
	}
	if path != "" {
		return &socket{network: "unix", address: path}, nil
	}
	return &socket{network: "tcp", address: net.JoinHostPort(host, port)}, nil
}

// exchange is not cut short by ctx once the command is on its way: the TPM will execute it, and what it loads
// must be known to be flushed.
func (t *socket) exchange(ctx context.Context, command []byte) ([]byte, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, t.network, t.address)
	if err != nil {
		return nil, fmt.Errorf("connect to the software TPM: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(command); err != nil {
		return nil, err
	}
	response := make([]byte, headerSize, 1024)
	if _, err := io.ReadFull(conn, response); err != nil {
		return nil, fmt.Errorf("software TPM at %s sent no response: %w", t.address, err)
	}
	size := binary.BigEndian.Uint32(response[2:])
	if size < headerSize || size > maxResponse {
		return nil, fmt.Errorf("software TPM at %s announced a response of %d bytes", t.address, size)
	}
	response = append(response, make([]byte, size-headerSize)...)
	if _, err := io.ReadFull(conn, response[headerSize:]); err != nil {
		return nil, fmt.Errorf("software TPM at %s sent half a response: %w", t.address, err)
	}
	return response, nil
}

func (t *socket) Close() error { return nil }
