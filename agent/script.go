package agent

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// program is one run of a payload script or a revocation action.
type program struct {
	argv    []string
	dir     string
	agentID string
	timeout time.Duration
}

// programPath is the search path of programs that the agent starts; its own environment is not passed on, so that
// neither its configuration nor the passwords in it reach them.
const programPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Why a program was ended early.
var (
	errTimeout   = errors.New("ended after its time limit")
	errPrintsAll = fmt.Errorf("ended after printing more than %d bytes", maxOutput)
)

// run starts the program in a process group of its own, waits for it and returns the first keptOutput bytes that it
// printed on both channels. A program that runs out of time or prints without end is killed with its group. Children
// that it leaves in the background live on, but their output is not waited for.
func (p program) run(ctx context.Context) (output string, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ctx, stop := context.WithTimeoutCause(ctx, p.timeout, errTimeout)
	defer stop()

	out := &boundedOutput{tooMuch: func() { cancel(errPrintsAll) }}
	cmd := exec.CommandContext(ctx, p.argv[0], p.argv[1:]...)
	cmd.Dir = p.dir
	cmd.Env = []string{"PATH=" + programPath, "HOME=" + p.dir, "LANG=C.UTF-8", "AGENT_UUID=" + p.agentID}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = outputGrace

	err = cmd.Run()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // the program itself ended well; a child of it holds the output open
	}
	return out.text(), err
}

// boundedOutput keeps the first bytes written to it and calls tooMuch once when there is no end.
type boundedOutput struct {
	tooMuch func()

	mu    sync.Mutex
	kept  []byte
	total int64
}

func (o *boundedOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if room := keptOutput - len(o.kept); room > 0 {
		o.kept = append(o.kept, p[:min(room, len(p))]...)
	}
	before := o.total
	o.total += int64(len(p))
	if before <= maxOutput && o.total > maxOutput {
		o.tooMuch()
	}
	return len(p), nil
}

func (o *boundedOutput) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := strings.ToValidUTF8(string(o.kept), "\uFFFD")
	if cut := o.total - int64(len(o.kept)); cut > 0 {
		text += fmt.Sprintf(" … (%d bytes more)", cut)
	}
	return text
}
