package verifier

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"time"
	"unicode/utf8"

	"keylime/internal/api"
	"keylime/internal/policy"
	"keylime/internal/strictjson"
	"keylime/internal/web"
	"keylime/store"
)

// decodePolicy decodes the base64 form in which runtime policies are uploaded.
func decodePolicy(s string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, err
	}
	if at := invalidUTF8(b); at >= 0 {
		return nil, fmt.Errorf("byte %d of the text is not UTF-8", at)
	}
	return b, nil
}

// invalidUTF8 is the place of the first byte that is not UTF-8, -1 when there is none.
func invalidUTF8(b []byte) int {
	if utf8.Valid(b) {
		return -1
	}
	for at := 0; ; {
		r, size := utf8.DecodeRune(b[at:])
		if r == utf8.RuneError && size <= 1 {
			return at
		}
		at += size
	}
}

func newPolicy(kind store.PolicyKind, name string, text []byte) store.Policy {
	return store.Policy{Kind: kind, Name: name, Text: text, Digest: store.DigestOf(text)}
}

func checkPolicyName(name string) error {
	if !api.ValidPolicyName(name) {
		return fmt.Errorf("policy name %q: want 1 to %d letters, digits and _.-", clip(name), store.MaxName)
	}
	return nil
}

// clip shortens what a message repeats.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

// policyError answers for a text that does not compile.
func policyError(err error) error {
	var fault *policy.Error
	if errors.As(err, &fault) {
		return &web.Error{Code: http.StatusBadRequest, Msg: fault.Text, Err: err}
	}
	return err
}

// parseUpload decodes the body of an upload.
func parseUpload(body []byte, into any) error {
	if len(body) == 0 {
		return refuse(http.StatusBadRequest, textNoBody)
	}
	if err := strictjson.Unmarshal(body, maxJSONDepth, into); err != nil {
		return exception(err)
	}
	return nil
}

// runtimeUpload is the policy that an upload holds, checked.
func (v *Verifier) runtimeUpload(ctx context.Context, name string, body []byte) (store.Policy, error) {
	if err := checkPolicyName(name); err != nil {
		return store.Policy{}, exception(err)
	}
	var up api.RuntimePolicyUpload
	if err := parseUpload(body, &up); err != nil {
		return store.Policy{}, err
	}
	if up.RuntimePolicy == nil {
		return store.Policy{}, exception(missingKey("runtime_policy"))
	}
	content, err := decodePolicy(*up.RuntimePolicy)
	if err != nil {
		return store.Policy{}, exception(fmt.Errorf("runtime_policy: %w", err))
	}
	p, _, err := v.acceptRuntime(ctx, name, content, text(up.RuntimePolicyKey, ""))
	return p, err
}

// acceptRuntime checks a runtime policy's text, signature first, and makes the record of it. key is the upload's
// runtime_policy_key.
func (v *Verifier) acceptRuntime(ctx context.Context, name string, content []byte, key string) (store.Policy, *policy.Runtime, error) {
	d, err := policy.OpenDocument(content)
	if err != nil {
		return store.Policy{}, nil, policyError(err)
	}
	keys, err := v.signers.check(ctx, d, key)
	if err != nil {
		return store.Policy{}, nil, err
	}
	compiled, err := d.Compile(v.policies.extensions...)
	if err != nil {
		return store.Policy{}, nil, policyError(err)
	}
	for _, unusable := range compiled.UnusableKeys() {
		v.log.Warn().Err(unusable).Str("policy", name).Msg("Key of verification-keys cannot be used; files signed with it are not accepted for their signature")
	}
	p := newPolicy(store.RuntimePolicy, name, content)
	p.Generator, p.Keys = compiled.Generator(), keys
	return p, compiled, nil
}

func (v *Verifier) runtimePolicy(ctx context.Context, name string) (api.RuntimePolicyRecord, error) {
	p, err := v.store.Policy(ctx, store.RuntimePolicy, name)
	if err != nil {
		return api.RuntimePolicyRecord{}, noPolicy(err, "Runtime policy %s not found", name)
	}
	return api.RuntimePolicyRecord{Name: p.Name, RuntimePolicy: string(p.Text), Window: window(p, time.Now())}, nil
}

func (v *Verifier) runtimePolicies(ctx context.Context) (api.RuntimePolicyNames, error) {
	names, err := v.store.PolicyNames(ctx, store.RuntimePolicy)
	return api.RuntimePolicyNames{Names: nonNil(names)}, err
}

func (v *Verifier) addRuntimePolicy(ctx context.Context, name string, body []byte) error {
	p, err := v.runtimeUpload(ctx, name, body)
	if err != nil {
		return err
	}
	return v.addPolicy(ctx, p, "Runtime policy with name %s already exists")
}

// updateRuntimePolicy replaces a policy. Each agent that names it is judged by the new text from its next round on.
func (v *Verifier) updateRuntimePolicy(ctx context.Context, name string, body []byte) error {
	p, err := v.runtimeUpload(ctx, name, body)
	if err != nil {
		return err
	}
	return v.updatePolicy(ctx, p, http.StatusNotFound, "Runtime policy with name %s does not already exist, use POST to create")
}

func (v *Verifier) deleteRuntimePolicy(ctx context.Context, name string) error {
	return v.deletePolicy(ctx, store.RuntimePolicy, name, "Runtime policy %s not found", "allowlist")
}

// mbUpload is the measured-boot policy that an upload holds, checked. It is kept as it is; null is kept as no text.
func (v *Verifier) mbUpload(name string, body []byte) (store.Policy, error) {
	if err := checkPolicyName(name); err != nil {
		return store.Policy{}, exception(err)
	}
	var up api.MBPolicyUpload
	if err := parseUpload(body, &up); err != nil {
		return store.Policy{}, err
	}
	if up.MBPolicy == nil {
		return newPolicy(store.MeasuredBootPolicy, name, nil), nil
	}
	if _, err := policy.CompileBoot(v.cfg.MeasuredBootEngine, []byte(*up.MBPolicy)); err != nil {
		return store.Policy{}, policyError(err)
	}
	return newPolicy(store.MeasuredBootPolicy, name, []byte(*up.MBPolicy)), nil
}

func (v *Verifier) mbPolicy(ctx context.Context, name string) (api.MBPolicyRecord, error) {
	p, err := v.store.Policy(ctx, store.MeasuredBootPolicy, name)
	if err != nil {
		return api.MBPolicyRecord{}, noPolicy(err, "Measured boot policy %s not found", name)
	}
	r := api.MBPolicyRecord{Name: p.Name}
	if p.Text != nil {
		content := string(p.Text)
		r.MBPolicy = &content
	}
	return r, nil
}

func (v *Verifier) mbPolicies(ctx context.Context) (api.MBPolicyNames, error) {
	names, err := v.store.PolicyNames(ctx, store.MeasuredBootPolicy)
	return api.MBPolicyNames{Names: nonNil(names)}, err
}

func (v *Verifier) addMBPolicy(ctx context.Context, name string, body []byte) error {
	p, err := v.mbUpload(name, body)
	if err != nil {
		return err
	}
	return v.addPolicy(ctx, p, "Measured boot policy with name %s already exists")
}

func (v *Verifier) updateMBPolicy(ctx context.Context, name string, body []byte) error {
	p, err := v.mbUpload(name, body)
	if err != nil {
		return err
	}
	return v.updatePolicy(ctx, p, http.StatusConflict, "Measured boot policy with name %s does not already exist") // 409, unlike runtime policies
}

func (v *Verifier) deleteMBPolicy(ctx context.Context, name string) error {
	return v.deletePolicy(ctx, store.MeasuredBootPolicy, name, "Measured boot policy %s not found", "mb_policy")
}

// addPolicy stores a new policy. exists is the answer when its name is taken.
func (v *Verifier) addPolicy(ctx context.Context, p store.Policy, exists string) error {
	if err := v.store.AddPolicy(ctx, p); errors.Is(err, store.ErrExists) {
		return refuse(http.StatusConflict, exists, p.Name)
	} else if err != nil {
		return storable(err)
	}
	v.logPolicy(p, "Policy added")
	return nil
}

// updatePolicy replaces a policy. code and missing are the answer when there is none of that name.
func (v *Verifier) updatePolicy(ctx context.Context, p store.Policy, code int, missing string) error {
	if err := v.store.UpdatePolicy(ctx, p); errors.Is(err, store.ErrNotFound) {
		return refuse(code, missing, p.Name)
	} else if err != nil {
		return storable(err)
	}
	v.logPolicy(p, "Policy updated")
	return nil
}

func (v *Verifier) deletePolicy(ctx context.Context, kind store.PolicyKind, name, notFound, what string) error {
	err := v.store.DeletePolicy(ctx, kind, name)
	var used store.InUse
	if errors.As(err, &used) {
		return refuse(http.StatusConflict, "Can't delete %s as it's currently in use by agent %s", what, used.AgentID)
	}
	if err != nil {
		return noPolicy(err, notFound, name)
	}
	v.log.Info().Str("kind", string(kind)).Str("policy", name).Msg("Policy deleted")
	return nil
}

func (v *Verifier) logPolicy(p store.Policy, message string) {
	v.log.Info().Str("kind", string(p.Kind)).Str("policy", p.Name).Str("digest", p.Digest).Msg(message)
}

// noPolicy answers 404 with the text for a policy that does not exist.
func noPolicy(err error, format, name string) error {
	if errors.Is(err, store.ErrNotFound) {
		return refuse(http.StatusNotFound, format, name)
	}
	return err
}

// storable answers for a policy that the store does not take.
func storable(err error) error {
	if errors.Is(err, store.ErrTooLarge) || errors.Is(err, store.ErrInvalid) {
		return exception(err)
	}
	return err
}

func nonNil(names []string) []string {
	if names == nil {
		return []string{}
	}
	return names
}
