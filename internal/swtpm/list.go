package swtpm

import (
	"context"
	"fmt"
	"os"

	"keylime/internal/fleet"
	"keylime/tpm"
	"keylime/tpm/device"
)

// banks are those that manufacture activates.
var banks = []tpm.Hash{tpm.SHA1, tpm.SHA256, tpm.SHA384}

// List stands in for the kernel's measurement list: a text file whose entries PCR 10 is extended with. Its
// methods are not safe for concurrent use.
type List struct {
	file *os.File
	tpm  *device.TPM
}

// InitList starts a list in a new file with boot_aggregate, as the kernel does at boot.
func (s *Server) InitList(ctx context.Context, file string) (*List, error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start measurement list: %w", err)
	}
	t, err := device.Open(ctx, s.TCTI())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("start measurement list: %w", err)
	}
	l := &List{file: f, tpm: t}
	if err := l.boot(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *List) boot(ctx context.Context) error {
	pcrs, err := l.tpm.ReadPCRs(ctx, tpm.SHA256, tpm.MaskOf(0, 1, 2, 3, 4, 5, 6, 7, 8, 9))
	if err != nil {
		return fmt.Errorf("start measurement list: %w", err)
	}
	boot := fleet.BootMeasurement(func(i int) []byte { return pcrs[i] })
	return l.Measure(ctx, boot.Path, boot.Digest)
}

// Measure records a file with its SHA-256: first in the list, then in PCR 10 of every bank.
func (l *List) Measure(ctx context.Context, path string, digest []byte) error {
	if err := l.Log(path, digest); err != nil {
		return err
	}
	m := fleet.Measurement{Path: path, Digest: digest}
	if err := l.tpm.ExtendPCR(ctx, tpm.PCRIma, m.Extends(banks...)); err != nil {
		return fmt.Errorf("measure %s: %w", path, err)
	}
	return nil
}

// Log adds an entry that PCR 10 knows nothing of: a list that was tampered with.
func (l *List) Log(path string, digest []byte) error {
	line := fleet.Measurement{Path: path, Digest: digest}.Line()
	if _, err := l.file.WriteString(line + "\n"); err != nil {
		return fmt.Errorf("measure %s: %w", path, err)
	}
	return nil
}

// Close closes the file and the TPM. The list stays.
func (l *List) Close() error {
	err := l.file.Close()
	if closeErr := l.tpm.Close(); err == nil {
		err = closeErr
	}
	return err
}
