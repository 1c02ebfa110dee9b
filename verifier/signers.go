package verifier

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"keylime/internal/policy"
	"keylime/internal/web"
	"keylime/store"
)

// The texts of refused signatures are part of the REST API.
const (
	textNoKey        = "Runtime policy signature verification required but no key was given!"
	textBadSignature = "Runtime policy failed DSSE signature verification!"
	textNotSigned    = "Runtime policy is not signed!"
)

// signers decides whose signature a runtime policy needs to be taken. Safe for concurrent use.
//
// Keys are known from the directory that the operator fills or, without one, from policies that were signed with them
// before: the first upload that brings a key along makes it known. A key in a directory is read at each upload, so that
// adding or removing it takes effect at once.
type signers struct {
	required bool
	dir      string // "" = none
	store    keyStore
}

type keyStore interface {
	PolicyKeys(ctx context.Context, kind store.PolicyKind) ([]string, error)
}

// check verifies an upload. supplied is its runtime_policy_key, base64 of PEM or "". It returns the keys to keep with
// the policy, PEM, "" when none of its signatures is known to be good. The error is a *web.Error when the upload is to
// blame.
func (s signers) check(ctx context.Context, d policy.Document, supplied string) (keys string, err error) {
	if d.Envelope == nil {
		return "", s.checkPlain(supplied)
	}
	known, err := s.known(ctx)
	if err != nil {
		return "", err
	}
	if s.required && supplied == "" && len(d.Envelope.Named(known...)) == 0 {
		return "", refuse(http.StatusUnauthorized, textNoKey)
	}
	var by []policy.PublicKey
	if s.required || supplied != "" {
		by, err = s.checkAll(d.Envelope, known, supplied)
	} else {
		by, err = d.Envelope.VerifyNamed(known...)
	}
	var refused *web.Error
	switch {
	case errors.As(err, &refused):
		return "", err
	case err != nil:
		return "", &web.Error{Code: http.StatusUnauthorized, Msg: textBadSignature, Err: err}
	}
	for _, k := range by {
		keys += k.PEM()
	}
	return keys, nil
}

// checkPlain is for policies without an envelope. Whoever sends a key wants a signature checked.
func (s signers) checkPlain(supplied string) error {
	switch {
	case supplied != "":
		return refuse(http.StatusBadRequest, textNotSigned)
	case s.required:
		return refuse(http.StatusUnauthorized, textNoKey)
	}
	return nil
}

// checkAll holds every signature to being by a key that counts. Where signatures are required and the operator says
// by whom, a key that comes with the upload proves nothing.
func (s signers) checkAll(e *policy.Envelope, known []policy.PublicKey, supplied string) ([]policy.PublicKey, error) {
	if supplied != "" {
		k, err := policy.ParseUploadedKey(supplied)
		if err != nil {
			return nil, exception(fmt.Errorf("runtime_policy_key: %w", err))
		}
		isKnown := slices.ContainsFunc(known, func(other policy.PublicKey) bool { return other.ID() == k.ID() })
		switch {
		case isKnown:
		case s.required && s.dir != "":
			return nil, fmt.Errorf("the key %s that came with the policy is not in trusted_policy_keys_dir", k.ID())
		default:
			known = append(slices.Clone(known), k)
		}
	}
	return e.Verify(known...)
}

// checkStored holds a policy that was stored before to what is required now.
func (s signers) checkStored(ctx context.Context, head store.Policy) error {
	switch {
	case !s.required:
		return nil
	case head.Keys == "":
		return refuse(http.StatusBadRequest, textNotSigned)
	}
	known, err := s.known(ctx)
	if err != nil {
		return err
	}
	keys, err := splitKeys(head.Keys)
	if err != nil {
		return fmt.Errorf("keys of runtime policy %s: %w", head.Name, err)
	}
	for _, k := range keys {
		if !slices.ContainsFunc(known, func(other policy.PublicKey) bool { return other.ID() == k.ID() }) {
			return &web.Error{Code: http.StatusUnauthorized, Msg: textBadSignature,
				Err: fmt.Errorf("runtime policy %s is signed with key %s, which is not in trusted_policy_keys_dir any more", head.Name, k.ID())}
		}
	}
	return nil
}

// known are the keys that policies may be signed with, without one that comes with an upload.
func (s signers) known(ctx context.Context) ([]policy.PublicKey, error) {
	if s.dir != "" {
		return readKeys(s.dir)
	}
	stored, err := s.store.PolicyKeys(ctx, store.RuntimePolicy)
	if err != nil {
		return nil, err
	}
	var known []policy.PublicKey
	for _, text := range stored {
		keys, err := splitKeys(text)
		if err != nil {
			return nil, fmt.Errorf("stored key of a runtime policy: %w", err)
		}
		known = append(known, keys...)
	}
	return known, nil
}

// splitKeys reads the keys that are kept with a policy.
func splitKeys(text string) ([]policy.PublicKey, error) {
	var keys []policy.PublicKey
	for rest := []byte(text); len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("not PEM")
		}
		k, err := policy.ParsePublicKey(pem.EncodeToMemory(block))
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// readKeys reads the keys of a directory. A file that holds none is an error, and no key counts then: a key that was
// misspelt must not go unnoticed.
func readKeys(dir string) ([]policy.PublicKey, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("trusted_policy_keys_dir: %w", err)
	}
	var keys []policy.PublicKey
	for _, f := range files {
		if ext := filepath.Ext(f.Name()); f.IsDir() || ext != ".pub" && ext != ".pem" {
			continue
		}
		if len(keys) == maxTrustedKeys {
			return nil, fmt.Errorf("trusted_policy_keys_dir %s: more than %d keys", dir, maxTrustedKeys)
		}
		text, err := readSmall(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, fmt.Errorf("trusted_policy_keys_dir: %w", err)
		}
		k, err := policy.ParsePublicKey(text)
		if err != nil {
			return nil, fmt.Errorf("trusted_policy_keys_dir: %s: %w", filepath.Join(dir, f.Name()), err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(text) > maxKeyFile {
		err = fmt.Errorf("%s has more than %d bytes", name, maxKeyFile)
	}
	return text, err
}
