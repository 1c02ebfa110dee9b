package tenant

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"testing"

	"keylime/internal/policy"
)

// NT-91: a signed policy is verified before anyone is sent it, and the key goes along with it.
func TestSignedPolicies(t *testing.T) {
	t.Parallel()
	newKey := func() (*ecdsa.PrivateKey, policy.PublicKey) {
		key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		public, err := policy.NewPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return key, public
	}
	private, public := newKey()
	_, stranger := newKey()
	e, err := policy.Sign([]byte(goodPolicy), private, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	swapped := *e
	swapped.Payload = []byte(policy.EmptyRuntime)
	plain, signed, forged := writeFile(t, "plain", goodPolicy), writeFile(t, "signed", string(e.Encode())), writeFile(t, "forged", string(swapped.Encode()))
	key := writeFile(t, "key.pub", public.PEM())
	tn := &tenant{notes: &strings.Builder{}}

	a, err := tn.appraisal(t.Context(), &options{runtimePolicy: signed, runtimePolicyKey: key})
	if err != nil || a.runtimePolicy != base64.StdEncoding.EncodeToString(e.Encode()) || a.runtimePolicyKey != base64.StdEncoding.EncodeToString([]byte(public.PEM())) {
		t.Errorf("%+v, %v", a, err)
	}
	for _, c := range []struct {
		name        string
		policy, key string
		wrong       string
		code        int
	}{
		{"no key", signed, "", "Runtime policy signature verification required but no key was given!", exitUntrusted},
		{"not signed", plain, key, "Runtime policy is not signed!", exitUntrusted},
		{"payload swapped", forged, key, "Runtime policy failed DSSE signature verification!", exitUntrusted},
		{"another's key", signed, writeFile(t, "key", stranger.PEM()), "Runtime policy failed DSSE signature verification!", exitUntrusted},
		{"no key in the file", signed, plain, "not PEM", exitFailed},
		{"no such file", signed, key + "x", "no such file", exitFailed},
	} {
		_, err := tn.appraisal(t.Context(), &options{runtimePolicy: c.policy, runtimePolicyKey: c.key})
		if err == nil || !strings.Contains(err.Error(), c.wrong) || exitCode(err) != c.code {
			t.Errorf("%s: got %v (exit %d), want an error with %q and exit %d", c.name, err, exitCode(err), c.wrong, c.code)
		}
	}
}
