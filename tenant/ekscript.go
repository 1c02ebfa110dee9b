package tenant

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	maxScriptOutput  = 4 << 10
	scriptLastBreath = 2 * time.Second // between the end of a script and that of what still writes for it
)

// runEKScript has the site's own program judge the endorsement key: exit status 0 accepts it. It runs in the working
// directory, without arguments or input, and is killed, with what it started, when request_timeout is over.
func (t *tenant) runEKScript(ctx context.Context, r *registration) error {
	script := t.cfg.EKCheckScript
	env, err := t.scriptEnvironment(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.RequestTimeout)
	defer cancel()
	output := &head{limit: maxScriptOutput}
	cmd := exec.CommandContext(ctx, script)
	cmd.Dir = t.cfg.KeylimeDir
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = scriptLastBreath
	err = cmd.Run()
	said := clean(strings.TrimSpace(output.kept.String()))
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return failure(exitFailed, "raise request_timeout of [tenant], or make the script faster", "ek_check_script %s: not done after %v", script, t.cfg.RequestTimeout)
	case errors.As(err, &exit):
		return failure(exitUntrusted, "the script's output says why, if it says anything", "ek_check_script %s refused the endorsement key of agent %s: %v: %s", script, r.agent, err, said)
	}
	return failure(exitFailed, "ek_check_script of [tenant] must name an executable", "ek_check_script: %w", err)
}

// scriptEnvironment are the variables that the script is told of the agent.
func (t *tenant) scriptEnvironment(r *registration) ([]string, error) {
	spki, err := x509.MarshalPKIXPublicKey(r.ek.Key())
	if err != nil {
		return nil, fmt.Errorf("encode endorsement key: %w", err)
	}
	providerKeys := "{}"
	if len(r.record.ProviderKeys) > 0 {
		providerKeys = string(r.record.ProviderKeys)
	}
	return []string{
		"AGENT_UUID=" + r.agent,
		"EK=" + string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})),
		"EK_TPM=" + r.record.EKTPM,
		"EK_CERT=" + base64.StdEncoding.EncodeToString(r.ekCert),
		"PROVKEYS=" + providerKeys,
		"TPM_CERT_STORE=" + t.cfg.TPMCertStore,
	}, nil
}

// head keeps the beginning of what is written to it.
type head struct {
	kept  bytes.Buffer // not embedded: its ReadFrom would read without limit
	limit int
}

func (h *head) Write(p []byte) (int, error) {
	h.kept.Write(p[:min(len(p), h.limit-h.kept.Len())])
	return len(p), nil
}
