package tenant

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keylime/internal/config"
)

// judgedBy makes an executable in a new directory and returns a tenant that has it judge endorsement keys.
func judgedBy(t testing.TB, script string) *tenant {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "check")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return &tenant{cfg: config.Tenant{KeylimeDir: dir, TPMCertStore: "/store", EKCheckScript: path, RequestTimeout: time.Minute}, notes: &strings.Builder{}}
}

func TestEKScriptIsToldOfTheKey(t *testing.T) {
	t.Parallel()
	r := registrationOf(t, softTPM(t, "ecc256"))
	r.ekCert = []byte{1, 2, 3}
	tn := judgedBy(t, `for v in AGENT_UUID EK EK_TPM EK_CERT PROVKEYS TPM_CERT_STORE; do eval printf '%s' \"\$$v\" > seen.$v; done; pwd > seen.pwd; cat > seen.stdin; echo "$#" > seen.args`)
	if err := tn.checkEK(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	seen := func(name string) string {
		text, err := os.ReadFile(filepath.Join(tn.cfg.KeylimeDir, "seen."+name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	for name, want := range map[string]string{
		"AGENT_UUID": "A", "EK_TPM": r.record.EKTPM, "EK_CERT": base64.StdEncoding.EncodeToString([]byte{1, 2, 3}),
		"PROVKEYS": "{}", "TPM_CERT_STORE": "/store", "pwd": tn.cfg.KeylimeDir, "stdin": "", "args": "0",
	} {
		if got := seen(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if got := seen("EK"); !strings.HasPrefix(got, "-----BEGIN PUBLIC KEY-----\n") || !strings.HasSuffix(got, "-----END PUBLIC KEY-----") {
		t.Errorf("EK is %q, want PEM", got)
	}
}

func TestEKScriptDecides(t *testing.T) {
	t.Parallel()
	r := registrationOf(t, softTPM(t, "ecc256"))
	for _, c := range []struct {
		name, script string
		code         int
		wrong        string
	}{
		{"refusal with a reason", "echo 'unknown maker'; exit 3", exitUntrusted, "unknown maker"},
		{"refusal without", "exit 1", exitUntrusted, "exit status 1"},
		{"output that moves the cursor", `printf 'a\033[2Jb'; exit 1`, exitUntrusted, `a\x1b[2Jb`},
		{"endless output", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done | head -c 3000000; exit 1", exitUntrusted, "xxxx"},
	} {
		err := judgedBy(t, c.script).checkEK(t.Context(), r)
		if err == nil || !strings.Contains(err.Error(), c.wrong) || exitCode(err) != c.code {
			t.Errorf("%s: got %v (exit %d), want an error with %q and exit %d", c.name, err, exitCode(err), c.wrong, c.code)
		}
		if len(err.Error()) > 2*maxScriptOutput {
			t.Errorf("%s: the message has %d bytes", c.name, len(err.Error()))
		}
	}
	absent := judgedBy(t, "")
	absent.cfg.EKCheckScript += "x"
	if err := absent.checkEK(t.Context(), r); err == nil || exitCode(err) != exitFailed {
		t.Errorf("a script that is not there: %v", err)
	}
}

func TestEKScriptThatHangsIsKilledWithItsChildren(t *testing.T) {
	t.Parallel()
	tn := judgedBy(t, "sleep 600 & echo $! > child; wait")
	tn.cfg.RequestTimeout = 300 * time.Millisecond
	start := time.Now()
	err := tn.checkEK(t.Context(), registrationOf(t, softTPM(t, "ecc256")))
	if err == nil || !strings.Contains(err.Error(), "not done after") || time.Since(start) > 30*time.Second {
		t.Errorf("got %v after %v", err, time.Since(start))
	}
	child, err := os.ReadFile(filepath.Join(tn.cfg.KeylimeDir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		state, err := os.ReadFile("/proc/" + strings.TrimSpace(string(child)) + "/stat")
		if err != nil || strings.Contains(string(state), ") Z ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the script's child still runs")
		}
	}
}

func TestNoCheckOfTheEKIsSaid(t *testing.T) {
	t.Parallel()
	var notes strings.Builder
	tn := &tenant{notes: &notes}
	if err := tn.checkEK(t.Context(), registrationOf(t, softTPM(t, "ecc256"))); err != nil || !strings.Contains(notes.String(), "warning: require_ek_cert is false") {
		t.Errorf("got %v, notes %q", err, notes.String())
	}
}
