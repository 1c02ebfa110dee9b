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

	"keylime/tpm/device"
)

const (
	startTimeout = 20 * time.Second
	stopTimeout  = 5 * time.Second
)

// process is a swtpm process.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	log  *bytes.Buffer // what cmd printed; to be read only after done
}

// launch starts swtpm with the state in dir, its data channel on port and its control channel on the next, where
// other programs expect it. The kernel ends it when this process dies, however it dies.
func launch(dir string, port int) (*process, error) {
	p := &process{done: make(chan struct{}), log: new(bytes.Buffer)}
	p.cmd = exec.Command("swtpm", "socket", "--tpm2",
		"--tpmstate", "dir="+filepath.Join(dir, "state"),
		"--server", "type=tcp,bindaddr=127.0.0.1,port="+strconv.Itoa(port),
		"--ctrl", "type=tcp,bindaddr=127.0.0.1,port="+strconv.Itoa(port+1),
		"--flags", "not-need-init,startup-clear")
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		// The signal comes when the thread that started the process ends, so this one stays until then.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // how it ended shows in its log
		}
		close(p.done)
	}()
	return p, <-started
}

// await returns when the TPM executes commands.
func (p *process) await(ctx context.Context, tcti string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		t, err := device.Open(ctx, tcti)
		if err == nil {
			return t.Close()
		}
		select {
		case <-p.done:
			return fmt.Errorf("swtpm ended: %s", bytes.TrimSpace(p.log.Bytes()))
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends the process. It is an error if it had ended before.
func (p *process) stop() error {
	select {
	case <-p.done:
		return fmt.Errorf("it had ended already: %s", bytes.TrimSpace(p.log.Bytes()))
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		p.kill()
	}
	return nil
}

// kill ends the process at once.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it fails only when there is nothing left to kill
	<-p.done
}

// freePorts finds a port that is free together with the next one.
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
