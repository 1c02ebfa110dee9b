package ear

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"keylime/internal/evidence"
	"keylime/internal/snp"
)

func signer(t testing.TB) *Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSigner(key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// check verifies a token as somebody would who has nothing but the set of keys, and returns its header and claims.
func check(t testing.TB, token string, jwks []byte) (header map[string]string, claims Claims, good bool) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("token of %d parts", len(parts))
	}
	decode := func(s string) []byte {
		b, err := base64.RawURLEncoding.Strict().DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if err := json.Unmarshal(decode(parts[0]), &header); err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(jwks, &set); err != nil {
		t.Fatal(err)
	}
	for _, k := range set.Keys {
		if k["kid"] != header["kid"] || k["kty"] != "EC" || k["crv"] != "P-256" || k["alg"] != header["alg"] || k["use"] != "sig" {
			continue
		}
		point := append(append([]byte{4}, decode(k["x"])...), decode(k["y"])...)
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
		signature := decode(parts[2])
		if len(signature) != 64 {
			t.Fatalf("signature of %d bytes", len(signature))
		}
		good = ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
	}
	if err := json.Unmarshal(decode(parts[1]), &claims); err != nil {
		t.Fatal(err)
	}
	return header, claims, good
}

var issuer = Issuer{Name: "keylime:default", Lifetime: 5 * time.Minute}

func pass() evidence.Result {
	return evidence.Result{Kind: evidence.KindTPM, Valid: true, Basis: evidence.Basis{
		Nonce: "1DIYEGervdpJ4Ozz1r6z", RuntimePolicy: "ab12", BootPolicy: "cd34", AKName: []byte{0, 11, 1},
	}}
}

func TestTokenIsVerifiedWithTheKeySetAlone(t *testing.T) {
	t.Parallel()
	s := signer(t)
	now := time.Unix(1_700_000_000, 0)
	token, err := s.Sign(issuer.Of(pass(), now))
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := s.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	header, c, good := check(t, token, jwks)
	if !good || header["alg"] != "ES256" || header["typ"] != "eat+jwt" {
		t.Errorf("good %v, header %v", good, header)
	}
	a := c.Submods["tpm"]
	if c.Profile != Profile || c.Issuer != "keylime:default" || c.IssuedAt != now.Unix() || c.Expires != now.Unix()+300 || c.Nonce != "1DIYEGervdpJ4Ozz1r6z" ||
		c.Verifier.Developer == "" || c.Verifier.Build == "" || c.Status != Affirming || len(c.Submods) != 1 || a.Status != Affirming ||
		strings.Join(a.Policies, " ") != "runtime_policy:sha256:ab12 mb_policy:sha256:cd34" || a.Attester["keylime_tpm_ak_name"] != "000b01" {
		t.Errorf("claims %+v", c)
	}
	parts := strings.Split(token, ".")
	worse, err := s.Sign(issuer.Of(evidence.Result{Kind: evidence.KindTPM}, now))
	if err != nil {
		t.Fatal(err)
	}
	for _, forged := range []string{
		parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)),
		parts[0] + "." + strings.Split(worse, ".")[1] + "." + parts[2],
	} {
		if _, _, good := check(t, forged, jwks); good {
			t.Errorf("a forged token is good: %s", forged)
		}
	}
	other, err := signer(t).JWKS()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, good := check(t, token, other); good {
		t.Error("the token is good by another's keys")
	}
}

// RFC 7638, 3.1: the thumbprint of a key is the hash of its required members in their order.
func TestKeyIDIsTheThumbprint(t *testing.T) {
	t.Parallel()
	s := signer(t)
	text := `{"crv":"P-256","kty":"EC","x":"` + s.jwk.X + `","y":"` + s.jwk.Y + `"}`
	sum := sha256.Sum256([]byte(text))
	if want := base64.RawURLEncoding.EncodeToString(sum[:]); s.jwk.ID != want {
		t.Errorf("kid %s, want %s", s.jwk.ID, want)
	}
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewSigner(key, rand.Reader); err == nil || !strings.Contains(err.Error(), "P-256") {
		t.Errorf("a key of P-384: %v", err)
	}
}

func TestTrustworthinessVectors(t *testing.T) {
	t.Parallel()
	all := evidence.Basis{TPMPolicy: "1", RuntimePolicy: "2", BootPolicy: "3"}
	runtime, boot := evidence.Basis{RuntimePolicy: "2"}, evidence.Basis{BootPolicy: "3"}
	failed := func(b evidence.Basis, events ...string) evidence.Result {
		r := evidence.Result{Kind: evidence.KindTPM, Basis: b}
		for _, e := range events {
			r.Failures = append(r.Failures, evidence.Failure{Type: e})
		}
		return r
	}
	good := func(kind string, b evidence.Basis) evidence.Result {
		return evidence.Result{Kind: kind, Valid: true, Basis: b}
	}
	for name, c := range map[string]struct {
		result evidence.Result
		vector string
		status Status
	}{
		"all policies":             {good("tpm", all), `{"configuration":2,"executables":2,"file-system":2}`, Affirming},
		"runtime policy alone":     {good("tpm", runtime), `{"file-system":2}`, Affirming},
		"boot policy alone":        {good("tpm", boot), `{"executables":3}`, Affirming},
		"an unknown file":          {failed(all, "ima.validation.ima-ng.not_in_allowlist"), `{"configuration":2,"executables":3,"file-system":96}`, Contraindicated},
		"another boot":             {failed(all, "measured_boot.policy_example"), `{"configuration":2,"executables":96,"file-system":2}`, Contraindicated},
		"another PCR":              {failed(all, "pcr_validation.invalid_pcr_7"), `{"configuration":96,"executables":2,"file-system":2}`, Contraindicated},
		"a quote of nobody's":      {failed(runtime, "qoute_validation.quote_validation"), `{"configuration":99,"executables":99,"file-system":99}`, Contraindicated},
		"a guest":                  {good("tee", evidence.Basis{SNP: &snp.Claims{}}), `{"hardware":2,"runtime-opaque":2}`, Affirming},
		"a guest that is debugged": {good("tee", evidence.Basis{SNP: &snp.Claims{PolicyDebug: true}}), `{"configuration":96,"hardware":2,"runtime-opaque":96}`, Contraindicated},
		"a report of nobody's":     {evidence.Result{Kind: "tee", Failures: []evidence.Failure{{Type: "tee_attestation.invalid_signature"}}}, `{"hardware":99,"runtime-opaque":99}`, Contraindicated},
	} {
		claims := issuer.Of(c.result, time.Now())
		for _, a := range claims.Submods {
			text, err := json.Marshal(a.Vector)
			if err != nil || string(text) != c.vector || a.Status != c.status || claims.Status != c.status {
				t.Errorf("%s: %s, %s; want %s, %s", name, text, a.Status, c.vector, c.status)
			}
		}
	}
}

// A token is passed on in headers: what it carries is bounded whatever the evidence was.
func TestTokensAreShort(t *testing.T) {
	t.Parallel()
	r := evidence.Result{Kind: evidence.KindTPM, Basis: evidence.Basis{Nonce: strings.Repeat("n", 100)}}
	for range 1000 {
		r.Failures = append(r.Failures, evidence.Failure{Type: "ima.parser.entry", Context: json.RawMessage(`"` + strings.Repeat("x", 4000) + `"`)})
	}
	s := signer(t)
	token, err := s.Sign(issuer.Of(r, time.Now()))
	if err != nil || len(token) > 4096 {
		t.Errorf("%d bytes, %v", len(token), err)
	}
	jwks, err := s.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	if _, c, good := check(t, token, jwks); !good || len(c.Submods["tpm"].Findings.Failures) != maxFailures || c.Nonce != "" {
		t.Errorf("good %v, claims %+v", good, c)
	}
	if string(r.Failures[0].Context) == `{"message":"too long for a token"}` {
		t.Error("the result was changed")
	}
}
