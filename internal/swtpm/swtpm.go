// Package swtpm runs a software TPM with an EK certificate, all its state in one directory, and measures files
// into it as the kernel would. The demo and the tests of every role use it.
package swtpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"keylime/tpm/device"
)

const (
	startTimeout = 20 * time.Second
	startTries   = 5 // another program may take the free port first
	stopTimeout  = 5 * time.Second
)

// Options say what TPM to make and where.
type Options struct {
	Dir string // state; made when absent, used again when it has state
	ECC bool   // also write a certificate for the P-256 EK; the RSA-2048 and P-384 ones always are
}

// Server is a running swtpm. Its methods are not safe for concurrent use.
type Server struct {
	dir  string
	ctx  context.Context // of Start; its end ends the TPM
	port int
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	log  *bytes.Buffer // what cmd printed; read it only after done
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
	s := &Server{dir: dir, ctx: ctx}
	if err := s.powerOn(ctx); err != nil {
		return nil, fmt.Errorf("start swtpm: %w", err)
	}
	if fresh && o.ECC {
		if err := s.certifyP256(ctx); err != nil {
			s.Stop()
			return nil, fmt.Errorf("certify the P-256 EK: %w", err)
		}
	}
	return s, nil
}

// TCTI names the TPM for device.Open and other programs.
func (s *Server) TCTI() string { return "swtpm:host=127.0.0.1,port=" + strconv.Itoa(s.port) }

// Dir is the directory of all state.
func (s *Server) Dir() string { return s.dir }

// CertStore is a directory with the certificates (PEM) of the EK certificate's issuer and its root.
func (s *Server) CertStore() string { return filepath.Join(s.dir, "certstore") }

// Restart is an orderly power cycle, as a reboot is: PCRs start anew and the reset count rises. The TPM keeps its
// address.
func (s *Server) Restart(ctx context.Context) error {
	err := s.commands(ctx, "shut down", func(t transport.TPM) error {
		_, err := tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}.Execute(t)
		return err
	})
	if err != nil {
		return fmt.Errorf("restart swtpm: %w", err)
	}
	if err := s.Stop(); err != nil {
		return fmt.Errorf("restart swtpm: %w", err)
	}
	if err := s.powerOn(ctx); err != nil {
		return fmt.Errorf("restart swtpm: %w", err)
	}
	return nil
}

// Stop ends the TPM. It is an error if it had ended before.
func (s *Server) Stop() error {
	select {
	case <-s.done:
		return errors.New("swtpm had ended already")
	default:
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop swtpm: %w", err)
	}
	select {
	case <-s.done:
	case <-time.After(stopTimeout):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	return nil
}

// commands executes TPM commands of our own.
func (s *Server) commands(ctx context.Context, what string, f func(transport.TPM) error) error {
	t, err := device.Open(ctx, s.TCTI())
	if err != nil {
		return err
	}
	return errors.Join(t.Commands(ctx, what, f), t.Close())
}

// powerOn starts the process and waits until the TPM answers. It prefers the port of last time.
func (s *Server) powerOn(ctx context.Context) error {
	var err error
	for range startTries {
		if s.port == 0 {
			if s.port, err = freePorts(); err != nil {
				return err
			}
		}
		if err = s.launch(); err != nil {
			return err
		}
		if err = s.await(ctx); err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		s.port = 0
	}
	return err
}

// launch starts the process. The kernel ends it when this process dies, however it dies.
func (s *Server) launch() error {
	s.log = new(bytes.Buffer)
	s.cmd = exec.CommandContext(s.ctx, "swtpm", "socket", "--tpm2",
		"--tpmstate", "dir="+filepath.Join(s.dir, "state"),
		"--server", "type=tcp,bindaddr=127.0.0.1,port="+strconv.Itoa(s.port),
		"--ctrl", "type=tcp,bindaddr=127.0.0.1,port="+strconv.Itoa(s.port+1),
		"--flags", "not-need-init,startup-clear")
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd, done, started := s.cmd, make(chan struct{}), make(chan error)
	s.done = done
	go func() {
		// The signal comes when the thread that started the process ends, so this one stays until then.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended shows in its log
		}
		close(done)
	}()
	return <-started
}

// await returns when the TPM executes commands.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		t, err := device.Open(ctx, s.TCTI())
		if err == nil {
			return t.Close()
		}
		select {
		case <-s.done:
			return fmt.Errorf("swtpm ended: %s", bytes.TrimSpace(s.log.Bytes()))
		case <-ctx.Done():
			return errors.Join(err, s.Stop())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// freePorts finds a port that is free together with the next one, where swtpm's control channel is expected.
func freePorts() (int, error) {
	var last error
	for range 20 {
		first, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		port := first.Addr().(*net.TCPAddr).Port
		second, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port+1)))
		first.Close()
		if err == nil {
			second.Close()
			return port, nil
		}
		last = err
	}
	return 0, fmt.Errorf("find two free ports: %w", last)
}
