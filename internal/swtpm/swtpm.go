// Package swtpm runs a software TPM with an EK certificate, all its state in one directory, and measures files
// into it as the kernel would. The demo and the tests of every role use it.
package swtpm

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"keylime/tpm/device"
)

// startTries bounds the search for ports: another program may take those found first.
const startTries = 5

// Options say what TPM to make and where.
type Options struct {
	Dir string // state; made when absent, used again when it has state
	ECC bool   // also write a certificate for the P-256 EK; the RSA-2048 and P-384 ones always are
}

// Server is a running swtpm. Its methods may be called concurrently.
type Server struct {
	dir  string
	port int

	mu      sync.Mutex // held while the process changes
	process *process
}

// Start runs a TPM whose state is in dir and makes the state when dir has none. The TPM ends with Stop, with ctx
// and with this process.
func Start(ctx context.Context, dir string) (*Server, error) {
	return StartWith(ctx, Options{Dir: dir})
}

// StartWith is Start with more choice.
func StartWith(ctx context.Context, o Options) (*Server, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("start swtpm: %w", err)
	}
	fresh, err := manufacture(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("make a software TPM in %s: %w", dir, err)
	}
	s, err := start(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("start swtpm: %w", err)
	}
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.process.kill()
	})
	if fresh && o.ECC {
		if err := s.certifyP256(ctx); err != nil {
			return nil, fmt.Errorf("certify the P-256 EK: %w", errors.Join(err, s.Stop()))
		}
	}
	return s, nil
}

// start launches the process on free ports.
func start(ctx context.Context, dir string) (*Server, error) {
	var failed error
	for range startTries {
		port, err := freePorts()
		if err != nil {
			return nil, err
		}
		s := &Server{dir: dir, port: port}
		if failed = s.powerOn(ctx); failed == nil {
			return s, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}

// powerOn starts the process and waits until the TPM answers.
func (s *Server) powerOn(ctx context.Context) error {
	p, err := launch(s.dir, s.port)
	if err != nil {
		return err
	}
	if err := p.await(ctx, s.TCTI()); err != nil {
		p.kill()
		return err
	}
	s.process = p
	return nil
}

// TCTI names the TPM for device.Open and other programs.
func (s *Server) TCTI() string { return "swtpm:host=127.0.0.1,port=" + strconv.Itoa(s.port) }

// CertStore is a directory with the certificates (PEM) of the EK certificate's issuer and its root.
func (s *Server) CertStore() string { return filepath.Join(s.dir, certStore) }

// Restart is an orderly power cycle, as a reboot is: PCRs start anew and the reset count rises. The TPM keeps its
// address.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.powerOff(ctx)
	if err == nil {
		err = s.powerOn(ctx)
	}
	if err != nil {
		return fmt.Errorf("restart swtpm: %w", err)
	}
	return nil
}

// Stop shuts the TPM down and ends it. It is an error if it had ended before.
func (s *Server) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.powerOff(ctx); err != nil {
		return fmt.Errorf("stop swtpm: %w", err)
	}
	return nil
}

// powerOff shuts the TPM down, so that its clock is safe after the next start, and ends the process.
func (s *Server) powerOff(ctx context.Context) error {
	err := s.commands(ctx, "shut down", func(t transport.TPM) error {
		_, err := tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}.Execute(t)
		return err
	})
	return errors.Join(err, s.process.stop())
}

// commands executes TPM commands of our own.
func (s *Server) commands(ctx context.Context, what string, f func(transport.TPM) error) error {
	t, err := device.Open(ctx, s.TCTI())
	if err != nil {
		return err
	}
	return errors.Join(t.Commands(ctx, what, f), t.Close())
}
