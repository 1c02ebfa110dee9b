// Package verifytool is `keylime verify`: the offline use of what a verifier does with evidence that is handed in.
package verifytool

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/evidence"
	"keylime/internal/policy"
	"keylime/internal/policytool"
	"keylime/internal/vcek"
)

// request is one use of the command.
type request struct {
	evidence                        string
	runtimePolicy, runtimePolicyKey string
	bootPolicy, engine, tpmPolicy   string
	ak, nonce                       string
	extended, strict                bool
	chains                          []string
	vcekDir                         string
	json                            bool
	tokenKey                        string
}

// exitError is an error with its exit code.
type exitError struct {
	err  error
	code int
}

func (e *exitError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *exitError) Unwrap() error { return e.err }

// ExitCode is the code to exit with.
func (e *exitError) ExitCode() int { return e.code }

func usageError(err error) error {
	return &exitError{fmt.Errorf("verify: %w\nhint: `keylime verify --help` lists what it takes", err), 2}
}

// errNotGood ends a run whose verdict says it all.
var errNotGood = &exitError{errors.New(""), 1}

func (r *request) run(ctx context.Context, stdout, stderr io.Writer) error {
	switch {
	case r.evidence == "":
		return usageError(errors.New("give --evidence FILE"))
	case r.json && r.tokenKey != "":
		return usageError(errors.New("give --json or --ear-key, not both: one says how the verdict is printed"))
	}
	result, err := r.judge(ctx, stderr)
	if err != nil {
		return &exitError{fmt.Errorf("verify: %w", err), 2}
	}
	switch {
	case r.tokenKey != "":
		err = printToken(stdout, r.tokenKey, result)
	case r.json:
		err = printJSON(stdout, result)
	default:
		err = printTable(stdout, result)
	}
	if err != nil {
		return &exitError{fmt.Errorf("verify: %w", err), 2}
	}
	if !result.Valid {
		return errNotGood
	}
	return nil
}

// judge reads everything and has it appraised.
func (r *request) judge(ctx context.Context, stderr io.Writer) (evidence.Result, error) {
	body, err := policytool.ReadInput(r.evidence)
	if err != nil {
		return evidence.Result{}, err
	}
	req, err := parse(body)
	if err != nil {
		return evidence.Result{}, fmt.Errorf("%s: %w", r.evidence, err)
	}
	if err := r.override(&req.TPM); err != nil {
		return evidence.Result{}, err
	}
	chains, err := vcek.Chains(r.chains)
	if err != nil {
		return evidence.Result{}, fmt.Errorf("--snp-chain: %w", err)
	}
	a := evidence.Appraiser{
		BootEngine: r.engine, Extensions: []policy.Extension{policy.DMPolicy}, Labels: policy.DefaultLabels(),
		ExtendedTemplates: r.extended, IgnoreToMToU: !r.strict,
		Chains: chains, VCEKs: vcek.New(r.vcekDir, false, zerolog.New(stderr)),
	}
	result, err := a.Appraise(ctx, req, time.Now())
	if err == nil && result.Incomplete {
		err = fmt.Errorf("%s: %s", r.evidence, messageOf(result.Failures[0]))
	}
	return result, err
}

// override puts what the flags say in the place of what the file says.
func (r *request) override(t *evidence.TPM) error {
	for _, f := range []struct {
		name string
		into *string
	}{
		{r.runtimePolicy, &t.RuntimePolicy}, {r.bootPolicy, &t.BootPolicy},
	} {
		if f.name == "" {
			continue
		}
		text, err := policytool.ReadInput(f.name)
		if err != nil {
			return err
		}
		*f.into = string(text)
	}
	if r.runtimePolicyKey != "" {
		text, err := policytool.ReadInput(r.runtimePolicyKey)
		if err != nil {
			return err
		}
		t.RuntimePolicyKey = base64.StdEncoding.EncodeToString(text)
	}
	if r.ak != "" {
		ak, err := policytool.ReadAK(r.ak)
		if err != nil {
			return fmt.Errorf("%s: %w", r.ak, err)
		}
		t.AK = base64.StdEncoding.EncodeToString(ak.Bytes())
	}
	if r.nonce != "" {
		t.Nonce = r.nonce
	}
	if r.tpmPolicy != "" {
		t.TPMPolicy = r.tpmPolicy
	}
	if t.EK == "" {
		t.EK = "not asked for" // nobody looks at it; the API wants it sent
	}
	t.BootLog = strings.TrimSpace(t.BootLog)
	return nil
}
