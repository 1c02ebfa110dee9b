package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func runShell(t *testing.T, script string, timeout time.Duration) (string, error) {
	t.Helper()
	return program{argv: []string{"/bin/sh", "-c", script}, dir: t.TempDir(), agentID: exampleID, timeout: timeout}.run(t.Context())
}

// NT-63: environment
func TestProgramsGetACleanEnvironment(t *testing.T) {
	t.Setenv("KEYLIME_AGENT_TPM_OWNERPASSWORD", "secret")
	out, err := runShell(t, "pwd; env", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out, "secret") || !strings.Contains(out, "AGENT_UUID="+exampleID) || !strings.Contains(out, "PATH="+programPath) {
		t.Errorf("environment:\n%s", out)
	}
}

func TestProgramsReportFailureAndOutput(t *testing.T) {
	t.Parallel()
	out, err := runShell(t, "echo out; echo err >&2; exit 3", time.Minute)
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(out, "out\n") || !strings.Contains(out, "err\n") {
		t.Errorf("got %q, %v", out, err)
	}
}

// NT-63: hangs
func TestProgramThatHangsIsKilledWithItsChildren(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pidFile := filepath.Join(dir, "pid")
	p := program{argv: []string{"/bin/sh", "-c", "sleep 1000 & echo $! > " + pidFile + "; wait"}, dir: dir, timeout: 300 * time.Millisecond}
	if _, err := p.run(t.Context()); !errors.Is(err, errTimeout) {
		t.Fatalf("got %v", err)
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the child to end", func() bool { return !runs(child) })
}

// runs reports whether a process is alive; one that nobody has waited for yet is not.
func runs(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// NT-63: prints without end
func TestProgramThatPrintsWithoutEndIsKilled(t *testing.T) {
	t.Parallel()
	out, err := runShell(t, "cat /dev/zero", time.Minute)
	if !errors.Is(err, errPrintsAll) {
		t.Errorf("got %v", err)
	}
	if len(out) > keptOutput+100 || !strings.Contains(out, "bytes more") {
		t.Errorf("kept %d bytes", len(out))
	}
}

func TestProgramEndsWithTheAgent(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	started := filepath.Join(t.TempDir(), "started")
	done := make(chan error, 1)
	go func() {
		p := program{argv: []string{"/bin/sh", "-c", "touch " + started + "; sleep 1000"}, dir: filepath.Dir(started), timeout: time.Hour}
		_, err := p.run(ctx)
		done <- err
	}()
	waitFor(t, "the program to start", func() bool { _, err := os.Stat(started); return err == nil })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestBackgroundChildDoesNotHoldUp(t *testing.T) {
	t.Parallel()
	start := time.Now()
	out, err := runShell(t, "sleep 30 & echo done", time.Minute)
	if err != nil || out != "done\n" {
		t.Errorf("got %q, %v", out, err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}

// waitFor polls until the condition holds.
func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
