package swtpm

import (
	"context"
	"os"
	"os/exec"
	"testing"
)

// Require skips a test on a machine without swtpm. With KEYLIME_REQUIRE_TOOLS set, as in CI, it fails the test
// instead.
func Require(t testing.TB) {
	t.Helper()
	for _, tool := range []string{"swtpm", "swtpm_setup", "swtpm_localca"} {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		}
		if os.Getenv("KEYLIME_REQUIRE_TOOLS") != "" {
			t.Fatalf("%s is not installed, and KEYLIME_REQUIRE_TOOLS is set", tool)
		}
		t.Skipf("%s is not installed (scripts/setup.sh installs it)", tool)
	}
}

// ForTest starts a TPM that lives as long as the test.
func ForTest(t testing.TB) *Server {
	t.Helper()
	return forTest(t, Options{Dir: t.TempDir()})
}

// ForTestECC is ForTest with a certificate for the P-256 EK.
func ForTestECC(t testing.TB) *Server {
	t.Helper()
	return forTest(t, Options{Dir: t.TempDir(), ECC: true})
}

func forTest(t testing.TB, o Options) *Server {
	t.Helper()
	Require(t)
	s, err := StartWith(context.WithoutCancel(t.Context()), o) // what the test cleans up may need the TPM
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
