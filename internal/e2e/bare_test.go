package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"keylime/internal/swtpm"
)

// TestBareStart starts every role without any configuration: the default ports on loopback, a CA of their own, and the
// agent registers.
func TestBareStart(t *testing.T) {
	swtpm.Require(t)
	tpm := swtpm.ForTest(t)
	dir := filepath.Join(t.TempDir(), "keylime")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, role := range []struct {
		name string
		port int
	}{{"verifier", 8881}, {"registrar", 8891}, {"agent", 9002}} {
		if dial(role.port) == nil {
			t.Fatalf("something listens on port %d, which a %s without configuration needs", role.port, role.name)
		}
		var log bytes.Buffer
		cmd := exec.Command(executable(t), role.name)
		cmd.Env = []string{"KEYLIME_DIR=" + dir, "TCTI=" + tpm.TCTI(), "PATH=" + os.Getenv("PATH")}
		cmd.Stdout, cmd.Stderr = &log, &log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		t.Cleanup(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-ended:
			case <-time.After(15 * time.Second):
				t.Errorf("the %s does not end on SIGTERM", role.name)
				_ = cmd.Process.Kill()
				<-ended
			}
			if code := cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("the %s ended with %d on SIGTERM", role.name, code)
			}
			if t.Failed() {
				t.Logf("%s:\n%s", role.name, lastBytes(log.Bytes(), 3000))
			}
		})
		eventually(t, 60*time.Second, "the "+role.name+" listens", func() error {
			select {
			case <-ended:
				t.Fatalf("the %s ended", role.name)
			default:
			}
			return dial(role.port)
		})
	}
	out, err := exec.Command(executable(t), "tenant", "reglist").CombinedOutput()
	if err == nil {
		t.Fatalf("the tenant found certificates without being told where: %s", out)
	}
	list := exec.Command(executable(t), "tenant", "reglist")
	list.Env = []string{"KEYLIME_DIR=" + dir}
	const defaultID = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000"
	if out, err := list.CombinedOutput(); err != nil || !bytes.Contains(out, []byte(defaultID)) {
		t.Errorf("reglist: %v: %s", err, fmt.Sprintf("%.500s", out))
	}
}
