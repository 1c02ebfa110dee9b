package device_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"keylime/internal/swtpm"
)

// factory is the state of a TPM that each test gets a copy of: making one takes a second of computing.
var factory string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if _, err := exec.LookPath("swtpm"); err != nil {
		return m.Run() // swtpm.Require says what that means for each test
	}
	dir, err := os.MkdirTemp("", "factory")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	s, err := swtpm.StartWith(context.Background(), swtpm.Options{Dir: dir, ECC: true})
	if err == nil {
		err = s.Stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	factory = dir
	return m.Run()
}

// newTPM starts a TPM with EK certificates for RSA-2048, P-256 and P-384.
func newTPM(t testing.TB) *swtpm.Server {
	t.Helper()
	swtpm.Require(t)
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(factory)); err != nil {
		t.Fatal(err)
	}
	s, err := swtpm.Start(context.WithoutCancel(t.Context()), dir) // what the test cleans up may need the TPM
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}
