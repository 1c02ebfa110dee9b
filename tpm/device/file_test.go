package device_test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"keylime/internal/swtpm"
	"keylime/tpm/device"
)

// A character device carries commands too. A pseudo-terminal in raw mode stands in for the kernel's: it takes a
// command in one write and gives a response in one read.
func TestDeviceFile(t *testing.T) {
	t.Parallel()
	server := newTPM(t)
	tpmSide, path := terminal(t)
	done := make(chan error, 1)
	go func() { done <- relayFile(tpmSide, server) }()
	dev, err := device.Open(t.Context(), "device:"+path)
	if err != nil {
		t.Fatal(err)
	}
	_, ak := newAK(t, dev)
	if err := verified(t.Context(), dev, ak, "nonce"); err != nil {
		t.Error(err)
	}
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := dev.GetRandom(t.Context(), 8); err == nil {
		t.Error("a closed device answers")
	}
}

// terminal opens a pseudo-terminal and returns its one side and the other side's path.
func terminal(t *testing.T) (*os.File, string) {
	t.Helper()
	f, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { f.Close() })
	fd := int(f.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	mode.Iflag, mode.Oflag, mode.Lflag = 0, 0, 0
	mode.Cc[unix.VMIN], mode.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, mode); err != nil {
		t.Fatal(err)
	}
	return f, fmt.Sprintf("/dev/pts/%d", n)
}

// relayFile hands on commands until the other side closes the terminal.
func relayFile(f *os.File, s *swtpm.Server) error {
	for {
		command, err := readCommand(f)
		if errors.Is(err, unix.EIO) {
			return nil
		} else if err != nil {
			return err
		}
		response, err := forward(s, command)
		if err != nil {
			return err
		}
		if _, err := f.Write(response); err != nil {
			return err
		}
	}
}
