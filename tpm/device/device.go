package device

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

var (
	// ErrBusy says that the TPM kept asking to repeat a command for as long as we are willing to.
	ErrBusy = errors.New("TPM is busy")

	// ErrLockout says that the TPM refuses authorisations after too many wrong ones.
	ErrLockout = errors.New("TPM is in dictionary attack lockout")

	// ErrFull says that the TPM has no room for another object or session.
	ErrFull = errors.New("TPM has no room for another object or session")
)

const (
	firstRetry = 5 * time.Millisecond
	maxRetry   = 500 * time.Millisecond
	busyLimit  = 10 * time.Second

	cleanupTimeout = 30 * time.Second
)

// TPM is an open TPM. Its methods may be called concurrently; they run one after the other.
type TPM struct {
	link     link
	turn     chan struct{} // holds the one token that entitles to use link
	nvBuffer int           // most bytes that one NV read returns
	patience time.Duration // with a TPM that asks to repeat a command
}

// Open connects to the TPM that tcti names: "device:/dev/tpmrm0", "swtpm:host=127.0.0.1,port=2321" or
// "swtpm:path=/run/tpm.sock". An empty name stands for device:/dev/tpmrm0.
func Open(ctx context.Context, tcti string) (*TPM, error) {
	l, err := openLink(tcti)
	if err != nil {
		return nil, fmt.Errorf("open TPM: %w", err)
	}
	t := &TPM{link: l, turn: make(chan struct{}, 1), patience: busyLimit}
	t.turn <- struct{}{}
	err = t.run(ctx, "open TPM", func(c *conn) error {
		t.nvBuffer, err = c.nvBufferSize()
		return err
	})
	if err != nil {
		l.Close()
		return nil, err
	}
	return t, nil
}

// Close releases the TPM. Calls that are under way fail.
func (t *TPM) Close() error {
	if err := t.link.Close(); err != nil {
		return fmt.Errorf("close TPM: %w", err)
	}
	return nil
}

// Commands gives f the TPM for go-tpm commands of its own, as one operation; errors begin with what. f must flush
// what it loads.
func (t *TPM) Commands(ctx context.Context, what string, f func(transport.TPM) error) error {
	return t.run(ctx, what, func(c *conn) error { return f(c) })
}

// run executes one operation, which may take several commands, when it is its turn. The errors that the caller
// sees begin with what.
func (t *TPM) run(ctx context.Context, what string, operation func(*conn) error) error {
	select {
	case <-t.turn:
	case <-ctx.Done():
		return fmt.Errorf("%s: wait for the TPM: %w", what, context.Cause(ctx))
	}
	defer func() { t.turn <- struct{}{} }()
	if err := operation(&conn{ctx: ctx, link: t.link, patience: t.patience}); err != nil {
		return fmt.Errorf("%s: %w", what, explain(err))
	}
	return nil
}

// explain adds what to do to the TPM's refusals that an operator can do something about.
func explain(err error) error {
	switch {
	case errors.Is(err, tpm2.TPMRCLockout):
		return fmt.Errorf("%w: wait until it recovers, or run tpm2_dictionarylockout --clear-lockout: %w", ErrLockout, err)
	case errors.Is(err, tpm2.TPMRCObjectMemory), errors.Is(err, tpm2.TPMRCSessionMemory), errors.Is(err, tpm2.TPMRCSessionHandles):
		return fmt.Errorf("%w: use the kernel's resource manager, /dev/tpmrm0, or run tpm2_flushcontext -t: %w", ErrFull, err)
	case errors.Is(err, tpm2.TPMRCInitialize):
		return fmt.Errorf("TPM was not started (TPM2_Startup): %w", err)
	case errors.Is(err, tpm2.TPMRCAuthFail), errors.Is(err, tpm2.TPMRCBadAuth):
		return fmt.Errorf("TPM refused a password; check tpm_ownerpassword: %w", err)
	}
	return err
}

// conn is the TPM for the length of one operation. It implements go-tpm's transport.TPM.
type conn struct {
	ctx      context.Context // of this operation only
	link     link
	patience time.Duration
}

// Send executes one command and repeats it for as long as the TPM asks to.
func (c *conn) Send(command []byte) ([]byte, error) {
	var waited time.Duration
	for wait := firstRetry; ; wait = min(2*wait, maxRetry) {
		if err := context.Cause(c.ctx); err != nil {
			return nil, err
		}
		response, err := c.link.exchange(c.ctx, command)
		if err != nil {
			return nil, err
		}
		if len(response) < headerSize {
			return nil, fmt.Errorf("TPM sent a response of %d bytes", len(response))
		}
		rc := tpm2.TPMRC(binary.BigEndian.Uint32(response[6:]))
		if !askedToRepeat(rc) {
			return response, nil
		}
		if waited += wait; waited > c.patience {
			return nil, fmt.Errorf("%w: it asked to repeat a command for %v: %w", ErrBusy, c.patience, rc)
		}
		select {
		case <-time.After(wait):
		case <-c.ctx.Done():
		}
	}
}

// askedToRepeat reports whether the TPM did nothing yet and will execute the same command later (part 2,
// "TPM_RC", warnings).
func askedToRepeat(rc tpm2.TPMRC) bool {
	switch rc {
	case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate:
		return true
	}
	return false
}

// flush removes an object or session from the TPM, also when the operation was cancelled.
func (c *conn) flush(h tpm2.TPMHandle) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), cleanupTimeout)
	defer cancel()
	if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(&conn{ctx: ctx, link: c.link, patience: c.patience}); err != nil {
		return fmt.Errorf("flush handle 0x%08x: %w", uint32(h), err)
	}
	return nil
}

// flushing is deferred to flush a handle; a failure counts unless the operation failed already.
func (c *conn) flushing(h tpm2.TPMHandle, err *error) {
	if flushErr := c.flush(h); *err == nil {
		*err = flushErr
	}
}
