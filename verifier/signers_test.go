package verifier

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/policy"
	"keylime/internal/recorded"
	"keylime/store"
)

// signer is somebody who signs policies.
type signer struct {
	private *ecdsa.PrivateKey
	public  policy.PublicKey
}

func newSigner(t testing.TB) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := policy.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return signer{key, public}
}

func (s signer) sign(t testing.TB, text string) *policy.Envelope {
	t.Helper()
	e, err := policy.Sign([]byte(text), s.private, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// signedUpload is an upload of an envelope with a key, PEM or "".
func signedUpload(t testing.TB, text []byte, key string) string {
	t.Helper()
	content, encoded := base64.StdEncoding.EncodeToString(text), base64.StdEncoding.EncodeToString([]byte(key))
	return string(encode(t, api.RuntimePolicyUpload{RuntimePolicy: &content, RuntimePolicyKey: &encoded}))
}

// NT-91: what is refused, with the answers of the REST API, when signatures are required and when they are not.
func TestSignedUploads(t *testing.T) {
	t.Parallel()
	text := startAgent(t, "a1").runtimePolicy()
	trusted, stranger := newSigner(t), newSigner(t)
	good := trusted.sign(t, text)
	swapped := *good
	swapped.Payload = []byte(policy.EmptyRuntime)
	twoOneBad := *good
	twoOneBad.Signatures = append(good.Signatures[:1:1], policy.Signature{KeyID: trusted.public.ID(), Sig: []byte{0x30, 0}})
	otherType := *good
	otherType.PayloadType = "application/json"
	impostor := stranger.sign(t, text)
	impostor.Signatures[0].KeyID = trusted.public.ID()
	byCertificate, _, err := policy.SignWithCertificate([]byte(text), trusted.private, rand.Reader, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	const ok, noKey, bad, unsigned = "Created", textNoKey, textBadSignature, textNotSigned
	for _, c := range []struct {
		name     string
		text     []byte
		key      string
		required string // the answer when signatures are required and a directory says by whom
		anyKey   string // when they are required, by any key
		optional string // when they are not required, and none is known
	}{
		{"plain", []byte(text), "", noKey, noKey, ok},
		{"plain with a key", []byte(text), trusted.public.PEM(), unsigned, unsigned, unsigned},
		{"by the trusted key", good.Encode(), "", ok, noKey, ok},
		{"by the trusted key, sent along", good.Encode(), trusted.public.PEM(), ok, ok, ok},
		{"named by a certificate", byCertificate.Encode(), "", ok, noKey, ok},
		{"by a stranger", stranger.sign(t, text).Encode(), "", noKey, noKey, ok},
		{"by a stranger who sends the key along", stranger.sign(t, text).Encode(), stranger.public.PEM(), bad, ok, ok},
		{"by a stranger, with the trusted key", stranger.sign(t, text).Encode(), trusted.public.PEM(), bad, bad, bad},
		{"by a stranger in the trusted one's name", impostor.Encode(), "", bad, noKey, ok},
		{"payload swapped", swapped.Encode(), trusted.public.PEM(), bad, bad, bad},
		{"two signatures, one bad", twoOneBad.Encode(), trusted.public.PEM(), bad, bad, bad},
		{"another payloadType", otherType.Encode(), trusted.public.PEM(), bad, bad, bad},
		{"key is an RSA key's text", good.Encode(), rsaPublicPEM, "Exception error: runtime_policy_key: a key of type *rsa.PublicKey; policies are signed with EC keys", "=", "="},
		{"key is no key", good.Encode(), "key", "Exception error: runtime_policy_key: not PEM; want a public key that begins with -----BEGIN PUBLIC KEY-----", "=", "="},
		{"no JSON", []byte("{"), "", "Runtime policy is not valid JSON!", "=", "="},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "operator.pub"), []byte(trusted.public.PEM()), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, m := range []struct {
			mode     string
			required bool
			dir      string
			want     string
		}{{"required", true, dir, c.required}, {"required, by any key", true, "", c.anyKey}, {"optional", false, "", c.optional}} {
			cfg := fastConfig(t)
			cfg.RequirePolicySignatures, cfg.TrustedPolicyKeysDir = m.required, m.dir
			v := newVerifier(t, cfg, openStore(t))
			if m.want == "=" {
				m.want = c.required
			}
			answer := "Created"
			if err := v.addRuntimePolicy(t.Context(), "p", []byte(signedUpload(t, c.text, c.key))); err != nil {
				answer = err.Error()
			}
			if !strings.HasPrefix(answer, m.want) {
				t.Errorf("%s, signatures %s: %q, want %q", c.name, m.mode, answer, m.want)
			}
			if names, err := v.store.PolicyNames(t.Context(), store.RuntimePolicy); err != nil || len(names) != 0 != (m.want == ok) {
				t.Errorf("%s, signatures %s: stored %v, %v", c.name, m.mode, names, err)
			}
		}
	}
}

// A key that came with a policy once need not be sent again, and holds later policies that name it to their word.
func TestKeysAreKeptWithPolicies(t *testing.T) {
	t.Parallel()
	text := startAgent(t, "a1").runtimePolicy()
	s, stranger := newSigner(t), newSigner(t)
	v := newVerifier(t, fastConfig(t), openStore(t))
	add := func(name string, body string) error { return v.addRuntimePolicy(t.Context(), name, []byte(body)) }
	forged := stranger.sign(t, text)
	forged.Signatures[0].KeyID = s.public.ID()
	if err := add("before", signedUpload(t, forged.Encode(), "")); err != nil {
		t.Errorf("a signature by a key that nobody knows: %v", err)
	}
	if err := add("first", signedUpload(t, s.sign(t, text).Encode(), s.public.PEM())); err != nil {
		t.Fatal(err)
	}
	if err := add("second", signedUpload(t, s.sign(t, text).Encode(), "")); err != nil {
		t.Error(err)
	}
	if err := add("third", signedUpload(t, forged.Encode(), "")); err == nil || !strings.HasPrefix(err.Error(), textBadSignature) {
		t.Errorf("a signature that is not by the key that it names: %v", err)
	}
	for name, want := range map[string]string{"before": "", "first": s.public.PEM(), "second": s.public.PEM()} {
		if p, err := v.store.PolicyHead(t.Context(), store.RuntimePolicy, name); err != nil || p.Keys != want {
			t.Errorf("%s is kept with key %q, want %q (%v)", name, p.Keys, want, err)
		}
	}
}

// Where signatures are required, every way to a policy needs one: the agent's own, one by name, and none at all.
func TestEnrolmentNeedsSignedPolicies(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	s := newSigner(t)
	db := openStore(t)
	before := newVerifier(t, fastConfig(t), db)
	if err := before.addRuntimePolicy(t.Context(), "unsigned", upload(agent.runtimePolicy())); err != nil {
		t.Fatal(err)
	}
	if err := before.addRuntimePolicy(t.Context(), "signed", []byte(signedUpload(t, s.sign(t, agent.runtimePolicy()).Encode(), s.public.PEM()))); err != nil {
		t.Fatal(err)
	}
	cfg := fastConfig(t)
	cfg.RequirePolicySignatures = true
	v := startVerifier(t, cfg, db)
	if log := v.log.String(); !strings.Contains(log, "trusted_policy_keys_dir") || !strings.Contains(log, `"policy":"unsigned"`) || strings.Contains(log, `"policy":"signed"`) {
		t.Errorf("warned of: %s", log)
	}
	for _, c := range []struct{ name, text, answer string }{
		{"", "", textNoKey},
		{"", agent.runtimePolicy(), textNoKey},
		{"unsigned", "", textNotSigned},
		{"new", agent.runtimePolicy(), textNoKey},
	} {
		req := agent.enrolment(c.text)
		req.RuntimePolicyName = &c.name
		if err := v.enrol(t.Context(), "a1", encode(t, req)); err == nil || err.Error() != c.answer {
			t.Errorf("policy %q by name %q: %v, want %s", c.text, c.name, err, c.answer)
		}
	}
	name := "signed"
	req := agent.enrolment("")
	req.RuntimePolicyName = &name
	v.add(t, agent, req)
	if st := v.passes(t, "a1", 2); st.RuntimePolicyDigest == store.DigestOf([]byte(agent.runtimePolicy())) {
		t.Error("judged by the policy out of its envelope; want the digest of what was uploaded")
	}
	// HARDEN 10: an agent whose policy is in an envelope is judged by what is in it.
	agent.measure(t, "/usr/bin/unknown")
	v.until(t, "a1", "failure", inState(store.StateInvalidQuote))
}

func TestTrustedKeysAreReadAnew(t *testing.T) {
	t.Parallel()
	text := startAgent(t, "a1").runtimePolicy()
	s := newSigner(t)
	dir := t.TempDir()
	cfg := fastConfig(t)
	cfg.RequirePolicySignatures, cfg.TrustedPolicyKeysDir = true, dir
	v := newVerifier(t, cfg, openStore(t))
	add := func(name string) error {
		return v.addRuntimePolicy(t.Context(), name, []byte(signedUpload(t, s.sign(t, text).Encode(), "")))
	}
	if err := add("p1"); err == nil {
		t.Error("taken without any trusted key")
	}
	file := filepath.Join(dir, "s.pub")
	if err := os.WriteFile(file, []byte(s.public.PEM()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := add("p1"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "other.pem"), []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := add("p2"); err == nil || !strings.Contains(err.Error(), "other.pem") {
		t.Errorf("a file that holds no key: %v", err)
	}
	if _, err := New(t.Context(), cfg, openStore(t), Options{Client: testCA(t).client}); err == nil || !strings.Contains(err.Error(), "other.pem") {
		t.Errorf("started with it: %v", err)
	}
}

func TestRecordedSignedUpload(t *testing.T) {
	t.Parallel()
	key := string(recorded.File(t, "policy/signed/runtime-policy-pubkey.pub"))
	good, bad := recorded.File(t, "policy/signed/runtime-policy-test-signed.json"), recorded.File(t, "policy/signed/runtime-policy-test-signed-bad.json")
	v := newVerifier(t, fastConfig(t), openStore(t))
	for _, c := range []struct {
		text   []byte
		answer string
	}{
		{good, "Runtime policy is malformatted: 'sha256:4309217"}, // the signature is good, a digest in it is not
		{bad, textBadSignature},
	} {
		err := v.addRuntimePolicy(t.Context(), "p", []byte(signedUpload(t, c.text, key)))
		if err == nil || !strings.HasPrefix(err.Error(), c.answer) {
			t.Errorf("%v, want %s", err, c.answer)
		}
	}
}

const rsaPublicPEM = `-----BEGIN PUBLIC KEY-----
MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf
9Cnzj4p4WGeKLs1Pt8QuKUpRKfFLfRYC9AIKjbJTWit+CqvjWYzvQwECAwEAAQ==
-----END PUBLIC KEY-----
`
