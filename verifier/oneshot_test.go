package verifier

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/ear"
	"keylime/internal/fleet"
	"keylime/internal/policy"
	"keylime/internal/snp"
	"keylime/tpm"
)

const oneShotNonce = "1DIYEGervdpJ4Ozz1r6z"

// handedIn is good evidence of an agent's machine, as the data of a request.
func handedIn(t testing.TB, a *testAgent) map[string]any {
	t.Helper()
	quote, err := a.tpm.Quote([]byte(oneShotNonce), tpm.Mask(0).With(tpm.PCRIma), a.bank)
	if err != nil {
		t.Fatal(err)
	}
	list, _ := a.list.From(0)
	return map[string]any{
		"quote": quote.String(), "nonce": oneShotNonce, "hash_alg": a.bank.String(),
		"tpm_ek": base64.StdEncoding.EncodeToString(a.tpm.EKPublic()), "tpm_ak": base64.StdEncoding.EncodeToString(a.tpm.AKPublic()),
		"runtime_policy": a.runtimePolicy(), "ima_measurement_list": string(list),
	}
}

func except(data map[string]any, name string, value any) map[string]any {
	data = maps.Clone(data)
	data[name] = value
	return data
}

func evidenceBody(t testing.TB, kind string, data any) string {
	return string(encode(t, map[string]any{"type": kind, "data": data}))
}

// answered is what the API answered to evidence.
type answered struct {
	Code    int
	Status  string
	Results api.EvidenceResult
}

func verifyEvidence(t testing.TB, c *http.Client, url, body string) answered {
	t.Helper()
	code, text := request(t, c, http.MethodPost, url, body)
	var a answered
	if err := json.Unmarshal([]byte(text), &a); err != nil || a.Code != code {
		t.Fatalf("answered %d with %q: %v", code, text, err)
	}
	return a
}

func TestVerifyEvidence(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := newVerifier(t, fastConfig(t), openStore(t))
	base, _ := v.serve(t)
	anybody := clientWith(t)
	good := handedIn(t, agent)
	for _, version := range []string{"v2.0", "v2.1", "v2.6", "v2"} {
		a := verifyEvidence(t, anybody, base+"/"+version+"/verify/evidence", evidenceBody(t, "tpm", good))
		var claims map[string]any
		if err := json.Unmarshal(a.Results.Claims, &claims); err != nil || a.Code != 200 || a.Status != "Success" || !a.Results.Valid || len(a.Results.Failures) != 0 || claims["quote"] != good["quote"] {
			t.Errorf("%s: %+v", version, a)
		}
	}
	for name, c := range map[string]struct {
		body   string
		code   int
		status string
		event  string // "": no verdict
	}{
		"bad evidence":       {evidenceBody(t, "tpm", except(good, "nonce", "another")), 200, "Success", "qoute_validation.quote_validation"},
		"no quote":           {evidenceBody(t, "tpm", except(good, "quote", "")), 400, "Bad Request", "default.missing_param"},
		"no policy":          {evidenceBody(t, "tpm", except(good, "runtime_policy", "")), 400, "Bad Request", "default.missing_policy"},
		"nothing of a guest": {evidenceBody(t, "tee", map[string]any{}), 400, "Bad Request", "tee_attestation.missing_param"},
		"unknown kind":       {evidenceBody(t, "sgx", good), 400, "invalid evidence type", ""},
		"no kind":            {`{"data":{}}`, 400, "missing parameter 'type'", ""},
		"no data":            {`{"type":"tpm"}`, 400, "missing parameter 'data'", ""},
		"a bad policy":       {evidenceBody(t, "tpm", except(good, "tpm_policy", `{"10":"00"}`)), 400, "tpm_policy: Invalid allowlist PCR number 10, this PCR is used for IMA.", ""},
		"no JSON":            {`{`, 400, "the body is not the JSON of a request: byte 1: want a string", ""},
	} {
		a := verifyEvidence(t, anybody, base+"/v2.6/verify/evidence", c.body)
		event := ""
		if len(a.Results.Failures) > 0 {
			event = a.Results.Failures[0].Type
		}
		if a.Code != c.code || a.Status != c.status || event != c.event || a.Results.Valid {
			t.Errorf("%s: %+v, want %d %q with %q", name, a, c.code, c.status, c.event)
		}
	}
	// Nothing is kept: neither of the machine nor of its policies.
	if agents, err := v.agents(t.Context(), ""); err != nil || !strings.Contains(string(encode(t, agents)), `"uuids":[]`) {
		t.Errorf("agents %s, %v", encode(t, agents), err)
	}
	if code, text := request(t, anybody, http.MethodPost, base+"/v2.6/verify/evidence", strings.Repeat("x", v.cfg.MaxUploadSize+1)); code != 413 {
		t.Errorf("too large: %d %s", code, text)
	}
}

func TestVerifyEvidenceHoldsToTheVerifiersRules(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	good := handedIn(t, agent)
	cfg := fastConfig(t)
	cfg.RequirePolicySignatures = true
	v := newVerifier(t, cfg, openStore(t))
	base, _ := v.serve(t)
	anybody := clientWith(t)
	if a := verifyEvidence(t, anybody, base+"/v2.6/verify/evidence", evidenceBody(t, "tpm", good)); a.Code != 401 || a.Status != textNoKey {
		t.Errorf("an unsigned policy: %+v", a)
	}
	signer := newSigner(t)
	signed := except(good, "runtime_policy", string(signer.sign(t, good["runtime_policy"].(string)).Encode()))
	signed["runtime_policy_key"] = base64.StdEncoding.EncodeToString([]byte(signer.public.PEM()))
	if a := verifyEvidence(t, anybody, base+"/v2.6/verify/evidence", evidenceBody(t, "tpm", signed)); a.Code != 200 || !a.Results.Valid {
		t.Errorf("a signed policy: %+v", a)
	}
	if keys, err := v.store.(keyStore).PolicyKeys(t.Context(), "runtime"); err != nil || len(keys) != 0 {
		t.Errorf("the key of a request is known now: %q, %v", keys, err)
	}
}

// relyingParty verifies a token with what the verifier publishes, and returns its claims.
func relyingParty(t testing.TB, base, token string) ear.Claims {
	t.Helper()
	code, text := request(t, clientWith(t), http.MethodGet, base+"/.well-known/jwks.json", "")
	var set struct {
		Keys []struct{ Kid, Kty, Crv, X, Y string }
	}
	if err := json.Unmarshal([]byte(text), &set); err != nil || code != 200 || len(set.Keys) != 1 {
		t.Fatalf("keys: %d %s", code, text)
	}
	decode := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 || !strings.Contains(string(decode(parts[0])), `"kid":"`+set.Keys[0].Kid+`"`) {
		t.Fatalf("token %s", token)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, decode(set.Keys[0].X)...), decode(set.Keys[0].Y)...))
	if err != nil {
		t.Fatal(err)
	}
	digest, sig := sha256.Sum256([]byte(parts[0]+"."+parts[1])), decode(parts[2])
	if len(sig) != 64 || !ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		t.Fatal("the token is not signed with the published key")
	}
	var claims ear.Claims
	if err := json.Unmarshal(decode(parts[1]), &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func TestVerdictAsAToken(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	cfg := fastConfig(t)
	v := newVerifier(t, cfg, openStore(t))
	base, _ := v.serve(t)
	good := handedIn(t, agent)
	ask := func(data map[string]any, accept string) (int, string) {
		return request(t, clientWith(t), http.MethodPost, base+"/v2.6/verify/evidence", evidenceBody(t, "tpm", data), "Accept", accept)
	}
	code, token := ask(good, "text/html, application/eat+jwt;q=0.9")
	if code != 200 {
		t.Fatalf("%d %s", code, token)
	}
	claims := relyingParty(t, base, token)
	runtime := sha256.Sum256([]byte(good["runtime_policy"].(string)))
	if a := claims.Submods["tpm"]; claims.Status != ear.Affirming || claims.Nonce != oneShotNonce || claims.Issuer != "keylime:verifier:default" ||
		strings.Join(a.Policies, "") != "runtime_policy:sha256:"+hex.EncodeToString(runtime[:]) || a.Vector.FileSystem != 2 {
		t.Errorf("claims %+v", claims)
	}
	_, token = ask(except(good, "nonce", "another nonce"), "application/eat+jwt")
	if claims := relyingParty(t, base, token); claims.Status != ear.Contraindicated || claims.Submods["tpm"].Findings.Failures[0].Type != "qoute_validation.quote_validation" {
		t.Errorf("claims %+v", claims)
	}
	if code, text := ask(except(good, "quote", ""), "application/eat+jwt"); code != 400 || !strings.Contains(text, "missing_param") {
		t.Errorf("a token about nothing: %d %s", code, text)
	}
	info, err := os.Stat(cfg.Evidence.TokenKey)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key %v, %v", info, err)
	}
	for _, path := range []string{"/v3/.well-known/jwks.json", "/v3.0/.well-known/jwks.json"} {
		if code, _ := request(t, clientWith(t), http.MethodGet, base+path, ""); code != 200 {
			t.Errorf("%s: %d", path, code)
		}
	}

	cfg.Evidence.TokenKey = ""
	base, _ = newVerifier(t, cfg, openStore(t)).serve(t)
	if code, _ := request(t, clientWith(t), http.MethodGet, base+"/.well-known/jwks.json", ""); code != 404 {
		t.Errorf("keys without a key: %d", code)
	}
	if code, _ := ask(good, "application/eat+jwt"); code != 406 {
		t.Errorf("a token without a key: %d", code)
	}
}

func TestVerifyIdentity(t *testing.T) {
	t.Parallel()
	agent, other := startAgent(t, "a1"), startAgent(t, "a2")
	v := newVerifier(t, fastConfig(t), openStore(t))
	v.add(t, agent, agent.enrolment(agent.runtimePolicy()))
	base, _ := v.serve(t)
	anybody := clientWith(t)
	quote := func(a *testAgent) string { return handedIn(t, a)["quote"].(string) }
	agent.tpm.BindData("whatever") // PCR 16 is of no account
	good := url.Values{"agent_uuid": {"a1"}, "quote": {quote(agent)}, "nonce": {oneShotNonce}, "hash_alg": {"sha256"}}
	for name, c := range map[string]struct {
		change func(q url.Values)
		code   int
		want   string
	}{
		"good":                {func(url.Values) {}, 200, `"results":{"valid":1}`},
		"another TPM's quote": {func(q url.Values) { q.Set("quote", quote(other)) }, 200, `"results":{"valid":0,"reason":"{\"message\":\"Quote data validation\"`},
		"another nonce":       {func(q url.Values) { q.Set("nonce", "x") }, 200, `"valid":0`},
		"no quote in it":      {func(q url.Values) { q.Set("quote", "x") }, 200, `"valid":0`},
		"a hash not accepted": {func(q url.Values) { q.Set("hash_alg", "sha1") }, 200, `"valid":0`},
		"unknown agent":       {func(q url.Values) { q.Set("agent_uuid", "a9") }, 404, textNoAgent},
		"no agent":            {func(q url.Values) { q.Del("agent_uuid") }, 400, "missing query parameter 'agent_uuid'"},
		"no quote":            {func(q url.Values) { q.Del("quote") }, 400, "missing query parameter 'quote'"},
		"no nonce":            {func(q url.Values) { q.Set("nonce", "") }, 400, "missing query parameter 'nonce'"},
		"no hash":             {func(q url.Values) { q.Del("hash_alg") }, 400, "missing query parameter 'hash_alg'"},
	} {
		q := maps.Clone(good)
		c.change(q)
		if code, text := request(t, anybody, http.MethodGet, base+"/v2.6/verify/identity?"+q.Encode(), ""); code != c.code || !strings.Contains(text, c.want) {
			t.Errorf("%s: %d %s, want %d with %s", name, code, text, c.code, c.want)
		}
	}
}

func TestOneShotMayBeForAdministratorsOrNobody(t *testing.T) {
	t.Parallel()
	body := evidenceBody(t, "tpm", map[string]any{})
	for access, want := range map[string][2]int{"public": {400, 400}, accessAdmin: {403, 400}, accessOff: {404, 404}} {
		cfg := fastConfig(t)
		cfg.Evidence.Access = access
		base, admin := newVerifier(t, cfg, openStore(t)).serve(t)
		for i, c := range []*http.Client{clientWith(t), admin} {
			if code, text := request(t, c, http.MethodPost, base+"/v2.6/verify/evidence", body); code != want[i] {
				t.Errorf("%s, administrator %v: %d %s, want %d", access, i == 1, code, text, want[i])
			}
			if code, _ := request(t, c, http.MethodGet, base+"/v2.6/verify/identity", ""); code != want[i] {
				t.Errorf("%s, administrator %v: identity %d, want %d", access, i == 1, code, want[i])
			}
		}
	}
}

func TestGuestsOfConfiguredProcessors(t *testing.T) {
	t.Parallel()
	p, err := fleet.NewProcessor("Genoa")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := p.Report(sha512.Sum512([]byte("xynonce")), nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := snp.ParseReport(raw)
	if err != nil {
		t.Fatal(err)
	}
	cfg := fastConfig(t)
	dir := t.TempDir()
	for name, content := range map[string][]byte{"genoa.pem": p.Roots, r.VCEKName() + ".der": p.VCEK} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	url := base64.RawURLEncoding
	body := evidenceBody(t, "tee", map[string]any{
		"nonce": base64.StdEncoding.EncodeToString([]byte("nonce")), "tee-pubkey-x-b64": url.EncodeToString([]byte("x")), "tee-pubkey-y-b64": url.EncodeToString([]byte("y")),
		"tee-evidence": map[string]any{"tee": "snp", "evidence": map[string]any{"snp-report": base64.StdEncoding.EncodeToString(raw)}},
	})
	cfg.Evidence.SNPVCEKDir = dir
	base, _ := newVerifier(t, cfg, openStore(t)).serve(t)
	if a := verifyEvidence(t, clientWith(t), base+"/v2.6/verify/evidence", body); a.Results.Valid || a.Results.Failures[0].Type != "tee_attestation.invalid_certificate" {
		t.Errorf("trusted is AMD: %+v", a)
	}
	cfg.Evidence.SNPChains = []string{"Genoa=" + filepath.Join(dir, "genoa.pem")}
	base, _ = newVerifier(t, cfg, openStore(t)).serve(t)
	if a := verifyEvidence(t, clientWith(t), base+"/v2.6/verify/evidence", body); !a.Results.Valid || !strings.Contains(string(a.Results.Claims), `"reported_tcb_microcode":209`) {
		t.Errorf("trusted is the processor's maker: %+v", a)
	}
	for _, chain := range []string{"Genoa=" + filepath.Join(dir, "none.pem"), "Genoa=" + filepath.Join(dir, r.VCEKName()+".der")} {
		cfg.Evidence.SNPChains = []string{chain}
		if _, err := newOneShot(cfg, openStore(t), policy.DefaultLabels(), signers{}, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "evidence.snp_chains") {
			t.Errorf("%s: %v", chain, err)
		}
	}
}

func TestRequestsPerAddressAreLimited(t *testing.T) {
	t.Parallel()
	cfg := fastConfig(t)
	cfg.Evidence.RateLimit = 3
	base, _ := newVerifier(t, cfg, openStore(t)).serve(t)
	body := evidenceBody(t, "tpm", map[string]any{})
	for i := range 5 {
		resp, err := clientWith(t).Post(base+"/v2.6/verify/evidence", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		limited := i >= 3
		if (resp.StatusCode == http.StatusTooManyRequests) != limited || limited && resp.Header.Get("Retry-After") != "20" {
			t.Errorf("request %d: %s, Retry-After %q", i, resp.Status, resp.Header.Get("Retry-After"))
		}
	}
}

// NT-48, scaled to the machine: many at once, each with a long list. All are answered, most of them with "later" before
// their body is read, and the rounds of enrolled agents go on.
func TestManyRequestsLeaveRoundsAlone(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	cfg := fastConfig(t)
	cfg.Evidence.RateLimit = 0
	v := startVerifier(t, cfg, openStore(t))
	v.add(t, agent, agent.enrolment(agent.runtimePolicy()))
	v.passes(t, "a1", 1)
	base, _ := v.serve(t)
	data := handedIn(t, agent)
	line := data["ima_measurement_list"].(string)
	data["ima_measurement_list"] = strings.Repeat(line, 4<<20/len(line)) // replays to nothing that was quoted
	body := []byte(evidenceBody(t, "tpm", data))

	before := v.status(t, "a1").AttestationCount
	begun := time.Now()
	var mu sync.Mutex
	codes := map[int]int{}
	client := clientWith(t)
	var all sync.WaitGroup
	for range 60 {
		all.Go(func() {
			code, retry := flood(t, client, base, body)
			mu.Lock()
			defer mu.Unlock()
			codes[code]++
			if (code == http.StatusServiceUnavailable) != (retry == "5") {
				t.Errorf("answered %d with Retry-After %q", code, retry)
			}
		})
	}
	all.Wait()
	took := time.Since(begun)
	if codes[200] == 0 || codes[200]+codes[503]+codes[0] != 60 || codes[503] == 0 {
		t.Errorf("answers %v", codes)
	}
	rounds := v.status(t, "a1").AttestationCount - before
	if least := int(took / (50 * cfg.QuoteInterval)); rounds < least {
		t.Errorf("%d rounds in %v, want %d at least", rounds, took, least)
	}
	v.passes(t, "a1", 2)
	if len(v.oneShot.slots) != 0 {
		t.Errorf("%d slots are still taken", len(v.oneShot.slots))
	}
}

// flood sends one request. Code 0 is a connection that was closed while the body, which nobody wants, was being sent.
func flood(t *testing.T, c *http.Client, base string, body []byte) (code int, retry string) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v2.6/verify/evidence", bytes.NewReader(body))
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	resp, err := c.Do(req)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("no answer: %v", err)
		}
		return 0, ""
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Header.Get("Retry-After")
}

// evidenceDocument is a JSON:API document about evidence.
func evidenceDocument(t testing.TB, kind string, data any) string {
	return string(encode(t, map[string]any{"data": map[string]any{"type": "evidence", "attributes": map[string]any{"evidence_type": kind, "data": data}}}))
}

func TestVerifyEvidenceInDocuments(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := newVerifier(t, fastConfig(t), openStore(t))
	base, _ := v.serve(t)
	good := handedIn(t, agent)
	for _, version := range []string{"v3", "v3.0"} {
		code, text := request(t, clientWith(t), http.MethodPost, base+"/"+version+"/verify/evidence", evidenceDocument(t, "tpm", good), "Content-Type", api.JSONAPIType)
		var d api.Document[api.EvidenceResult]
		if err := json.Unmarshal([]byte(text), &d); err != nil || code != 200 || d.Data.Type != "evidence" || !d.Data.Attributes.Valid || len(d.Data.Attributes.Claims) < 100 || d.JSONAPI.Version != "1.1" {
			t.Errorf("%s: %d %s, %v", version, code, text, err)
		}
	}
	for name, c := range map[string]struct {
		body   string
		code   int
		item   string // code of the error
		detail string
	}{
		"incomplete":     {evidenceDocument(t, "tpm", except(good, "quote", "")), 400, "default.missing_param", `missing parameter "quote"`},
		"no policy":      {evidenceDocument(t, "tpm", except(good, "runtime_policy", "")), 400, "default.missing_policy", "at least one policy"},
		"unknown kind":   {evidenceDocument(t, "sgx", good), 400, "invalid_request", "invalid evidence type"},
		"no kind":        {evidenceDocument(t, "", good), 400, "invalid_request", "missing attribute 'evidence_type'"},
		"no data":        {evidenceDocument(t, "tpm", nil), 400, "invalid_request", "missing attribute 'data'"},
		"another type":   {`{"data":{"type":"session","attributes":{}}}`, 400, "invalid_request", `type "session", want "evidence"`},
		"no document":    {`{"type":"tpm","data":{}}`, 400, "invalid_request", "JSON:API document"},
		"no JSON at all": {`{`, 400, "invalid_request", "JSON:API document"},
	} {
		code, text := request(t, clientWith(t), http.MethodPost, base+"/v3.0/verify/evidence", c.body)
		var d api.ErrorDocument
		if err := json.Unmarshal([]byte(text), &d); err != nil || code != c.code || len(d.Errors) != 1 || d.Errors[0].Code != c.item || !strings.Contains(d.Errors[0].Detail, c.detail) || d.Errors[0].Status != "400" {
			t.Errorf("%s: %d %s, %v", name, code, text, err)
		}
	}
	code, token := request(t, clientWith(t), http.MethodPost, base+"/v3.0/verify/evidence", evidenceDocument(t, "tpm", good), "Accept", ear.MediaType)
	if code != 200 || relyingParty(t, base, token).Status != ear.Affirming {
		t.Errorf("as a token: %d %s", code, token)
	}
}

func TestVerifyIdentityInDocuments(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := newVerifier(t, fastConfig(t), openStore(t))
	v.add(t, agent, agent.enrolment(agent.runtimePolicy()))
	base, _ := v.serve(t)
	q := url.Values{"agent_uuid": {"a1"}, "quote": {handedIn(t, agent)["quote"].(string)}, "nonce": {oneShotNonce}, "hash_alg": {"sha256"}}
	for nonce, valid := range map[string]bool{oneShotNonce: true, "another": false} {
		q.Set("nonce", nonce)
		code, text := request(t, clientWith(t), http.MethodGet, base+"/v3.0/verify/identity?"+q.Encode(), "")
		var d api.Document[api.IdentityVerdict]
		if err := json.Unmarshal([]byte(text), &d); err != nil || code != 200 || d.Data.ID != "a1" || d.Data.Type != "identity" || d.Data.Attributes.Valid != valid || (len(d.Data.Attributes.Failures) == 0) != valid {
			t.Errorf("%s: %d %s, %v", nonce, code, text, err)
		}
	}
	q.Set("agent_uuid", "a9")
	if code, text := request(t, clientWith(t), http.MethodGet, base+"/v3.0/verify/identity?"+q.Encode(), ""); code != 404 || !strings.Contains(text, `"errors":[{"status":"404"`) {
		t.Errorf("unknown agent: %d %s", code, text)
	}
}
