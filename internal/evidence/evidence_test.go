package evidence

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"keylime/internal/fleet"
	"keylime/internal/policy"
	"keylime/tpm"
)

func appraiser() *Appraiser {
	return &Appraiser{BootEngine: policy.BootExample, Labels: policy.DefaultLabels(), IgnoreToMToU: true}
}

// data is the data of a request, by member.
type data map[string]any

func (d data) with(name string, value any) data {
	d = maps.Clone(d)
	if d[name] = value; value == nil {
		delete(d, name)
	}
	return d
}

func (d data) body(t testing.TB, kind string) []byte {
	t.Helper()
	body, err := json.Marshal(map[string]any{"type": kind, "data": d})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func appraise(t testing.TB, a *Appraiser, body []byte) (Result, error) {
	t.Helper()
	req, err := Parse(body)
	if err != nil {
		return Result{}, err
	}
	return a.Appraise(t.Context(), req, time.Now())
}

// events lists the events of a result, or "pass".
func events(r Result) string {
	if r.Valid {
		return "pass"
	}
	ids := make([]string, len(r.Failures))
	for i, f := range r.Failures {
		ids[i] = f.Type
	}
	return strings.Join(ids, ",")
}

const nonce = "1DIYEGervdpJ4Ozz1r6z"

// tpmData is good evidence of a machine that booted as its reference state says and ran /usr/bin/tool, with policies of
// every kind.
func tpmData(t testing.TB) data {
	t.Helper()
	soft, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	chain := fleet.NewBootChain("1")
	log := chain.Log(tpm.SHA1, tpm.SHA256)
	if err := log.Boot(soft); err != nil {
		t.Fatal(err)
	}
	list, err := fleet.NewMeasured(soft)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("tool"))
	if _, err := list.Add("/usr/bin/tool", digest[:]); err != nil {
		t.Fatal(err)
	}
	quote, err := soft.Quote([]byte(nonce), 0x1FFFF, tpm.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := list.From(0)
	return data{
		"quote": quote.String(), "nonce": nonce, "hash_alg": "sha256",
		"tpm_ek":               base64.StdEncoding.EncodeToString(soft.EKPublic()),
		"tpm_ak":               base64.StdEncoding.EncodeToString(soft.AKPublic()),
		"tpm_policy":           fmt.Sprintf(`{"7": ["%x"], "mask": "0x80"}`, soft.PCR(tpm.SHA256, 7)),
		"mb_policy":            chain.Reference(),
		"mb_log":               base64.StdEncoding.EncodeToString(log.Bytes()),
		"runtime_policy":       runtimePolicy(map[string]string{"/usr/bin/tool": fmt.Sprintf("%x", digest)}),
		"ima_measurement_list": string(text),
	}
}

// runtimePolicy accepts the files; the boot aggregate is what the event log explains.
func runtimePolicy(files map[string]string) string {
	digests := ""
	for path, digest := range files {
		digests += fmt.Sprintf(`,%q:["%s"]`, path, digest)
	}
	return `{"meta":{"version":1,"generator":3},"release":0,"digests":{` + strings.TrimPrefix(digests, ",") + `},"excludes":[],"keyrings":{},
		"ima":{"ignored_keyrings":[],"log_hash_alg":"sha1","dm_policy":null},"ima-buf":{},"verification-keys":""}`
}

func TestGoodEvidenceOfATPM(t *testing.T) {
	t.Parallel()
	good := tpmData(t)
	r, err := appraise(t, appraiser(), good.body(t, KindTPM))
	if err != nil || !r.Valid || len(r.Failures) != 0 {
		t.Fatalf("%v: %s", err, r.Failures)
	}
	var claims data
	if err := json.Unmarshal(r.Claims, &claims); err != nil || claims["quote"] != good["quote"] || len(claims) != len(good) {
		t.Errorf("claims %s", r.Claims)
	}
	if b := r.Basis; len(b.RuntimePolicy) != 64 || len(b.TPMPolicy) != 64 || len(b.BootPolicy) != 64 || b.Nonce != nonce || len(b.AKName) != 34 {
		t.Errorf("basis %+v", b)
	}
	// Each policy may stand alone.
	for _, kept := range []string{"tpm_policy", "runtime_policy", "mb_policy"} {
		d := good
		for _, name := range []string{"tpm_policy", "runtime_policy", "mb_policy"} {
			if name != kept {
				d = d.with(name, "")
			}
		}
		if r, err := appraise(t, appraiser(), d.body(t, KindTPM)); err != nil || !r.Valid {
			t.Errorf("%s alone: %v, %s", kept, err, r.Failures)
		}
	}
	// Policies may be objects as well as texts.
	object := good.with("runtime_policy", json.RawMessage(good["runtime_policy"].(string))).with("tpm_policy", json.RawMessage(good["tpm_policy"].(string)))
	if r, err := appraise(t, appraiser(), object.body(t, KindTPM)); err != nil || !r.Valid {
		t.Errorf("policies as objects: %v, %s", err, r.Failures)
	}
}

func TestBadEvidenceOfATPM(t *testing.T) {
	t.Parallel()
	good, other := tpmData(t), tpmData(t)
	list := good["ima_measurement_list"].(string)
	lines := strings.SplitAfter(list, "\n")
	zeros := strings.Repeat("00", 32)
	// HARDEN 7: the boot is judged in one-shot appraisals, too.
	rejecting := appraiser()
	rejecting.BootEngine = policy.BootRejectAll
	if r, err := appraise(t, rejecting, good.body(t, KindTPM)); err != nil || events(r) != "measured_boot.policy_reject-all" {
		t.Errorf("reject-all: %v, %s", err, r.Failures)
	}
	for _, c := range []struct {
		name  string
		data  data
		event string
	}{
		{"another machine's quote", good.with("quote", other["quote"]), "qoute_validation.quote_validation"},
		{"another machine's key", good.with("tpm_ak", other["tpm_ak"]), "qoute_validation.quote_validation"},
		{"another nonce", good.with("nonce", "another"), "qoute_validation.quote_validation"},
		{"another bank", good.with("hash_alg", "sha384"), "qoute_validation.quote_validation"},
		{"an unknown hash", good.with("hash_alg", "md5"), "qoute_validation.invalid_hash_alg"},
		{"no quote at all", good.with("quote", "garbage"), "qoute_validation.invalid_quote"},
		{"a key that is none", good.with("tpm_ak", "AAAA"), "qoute_validation.invalid_quote"},
		{"a key that is not base64", good.with("tpm_ak", "!"), "qoute_validation.invalid_quote"},
		{"the EK in place of the AK", good.with("tpm_ak", good["tpm_ek"]), "qoute_validation.invalid_quote"},
		{"an event log that is not base64", good.with("mb_log", "!"), "qoute_validation.invalid_quote"},
		{"an event log that is none", good.with("mb_log", "AAAA"), "measured_boot.parser.tpm2_eventlog.error,ima.validation.ima-ng.not_in_allowlist"},
		{"a PCR of another value", good.with("tpm_policy", `{"7": ["`+zeros+`"]}`), "pcr_validation.invalid_pcr_7"},
		{"a PCR that is not in the quote", good.with("tpm_policy", `{"23": ["`+zeros+`"]}`), "pcr_validation.missing_pcrs"},
		{"no measurement list", good.with("ima_measurement_list", nil), "pcr_validation.unused_pcr_10"},
		{"a list without its end", good.with("ima_measurement_list", lines[0]), "ima.pcr_mismatch"},
		{"a list without its beginning", good.with("ima_measurement_list", strings.Join(lines[1:], "")), "ima.pcr_mismatch"},
		{"a file that is not listed", good.with("runtime_policy", runtimePolicy(nil)), "ima.validation.ima-ng.not_in_allowlist"},
		{"another file", good.with("runtime_policy", runtimePolicy(map[string]string{"/usr/bin/tool": zeros})), "ima.validation.ima-ng.runtime_policy_hash"},
		{"a boot policy that is none", good.with("mb_policy", `[]`), "pcr_validation.invalid_mb_policy"},
		{"another boot", good.with("mb_policy", fleet.NewBootChain("2").Reference()), "measured_boot.policy_example"},
	} {
		r, err := appraise(t, appraiser(), c.data.body(t, KindTPM))
		if err != nil || events(r) != c.event || string(r.Claims) != "{}" || r.Incomplete {
			t.Errorf("%s: %v, got %s, want %s; claims %s\n%s", c.name, err, events(r), c.event, r.Claims, r.Failures)
		}
	}
}

// What is missing is told in the order that the REST API asks for it, and nothing else is looked at.
func TestIncompleteRequests(t *testing.T) {
	t.Parallel()
	good := tpmData(t)
	nothing := data{}
	for _, name := range []string{"quote", "nonce", "hash_alg", "tpm_ek", "tpm_ak"} {
		for _, value := range []any{nil, "", json.RawMessage("null")} {
			r, err := appraise(t, appraiser(), good.with(name, value).body(t, KindTPM))
			if want := `{"message":"missing parameter \"` + name + `\""}`; err != nil || !r.Incomplete || events(r) != "default.missing_param" || string(r.Failures[0].Context) != want {
				t.Errorf("%s: %v, %s", name, err, r.Failures)
			}
		}
		r, err := appraise(t, appraiser(), nothing.body(t, KindTPM))
		if want := `{"message":"missing parameter \"` + name + `\""}`; err != nil || len(r.Failures) != 1 || string(r.Failures[0].Context) != want {
			t.Errorf("after %v: %v, %s", nothing, err, r.Failures)
		}
		nothing = nothing.with(name, "x")
	}
	// CVE class: no policy, or one that asks for nothing, is no success.
	for name, d := range map[string]data{
		"none":         good.with("tpm_policy", nil).with("runtime_policy", nil).with("mb_policy", nil),
		"empty texts":  good.with("tpm_policy", "").with("runtime_policy", "").with("mb_policy", ""),
		"a mask alone": good.with("tpm_policy", `{"mask":"0x80"}`).with("runtime_policy", nil).with("mb_policy", nil),
		"empty":        good.with("tpm_policy", "{}").with("runtime_policy", policy.EmptyRuntime).with("mb_policy", "{}"),
	} {
		r, err := appraise(t, appraiser(), d.body(t, KindTPM))
		if err != nil || !r.Incomplete || events(r) != "default.missing_policy" {
			t.Errorf("%s: %v, %s", name, err, r.Failures)
		}
	}
}

func TestRequestsThatAreNone(t *testing.T) {
	t.Parallel()
	good := tpmData(t)
	for _, c := range []struct{ body, want string }{
		{``, "want an object"},
		{`[]`, "want an object"},
		{`{}`, "missing parameter 'type'"},
		{`{"type":""}`, "missing parameter 'type'"},
		{`{"type":null,"data":{}}`, "missing parameter 'type'"},
		{`{"type":"tpm"}`, "missing parameter 'data'"},
		{`{"type":"tpm","data":""}`, "missing parameter 'data'"},
		{`{"type":"tpm","data":null}`, "missing parameter 'data'"},
		{`{"type":"sgx","data":{}}`, "invalid evidence type"},
		{`{"type":7,"data":{}}`, "type is not a text"},
		{`{"type":"tpm","data":[]}`, "data: byte 0: want an object"},
		{`{"type":"tpm","data":{"quote":1}}`, "quote is not a text"},
		{`{"type":"tpm","data":{"quote":"a","quote":"b"}}`, "stands twice"},
		{`{"type":"tpm","data":{"Runtime-Policy":"{}"}}`, `member "Runtime-Policy" must be spelt "runtime_policy"`},
		{`{"type":"tpm","data":{}} {}`, "data after the value"},
		{`{"type":"tpm","data":` + strings.Repeat(`{"x":`, 50) + `1` + strings.Repeat("}", 51), "nest"},
		{`{"type":"tee","data":{"tee-evidence":[]}}`, "tee-evidence is not a text"},
		{`{"type":"tee","data":{"tee-evidence":{"evidence":{"snp-report":{}}}}}`, "tee-evidence: evidence: snp-report is not a text"},
		{string(good.with("runtime_policy", "{").body(t, KindTPM)), "Runtime policy is not valid JSON!"},
		{string(good.with("runtime_policy", `{"meta":{}}`).body(t, KindTPM)), "Runtime policy is malformatted"},
		{string(good.with("tpm_policy", `{"10":["00"]}`).body(t, KindTPM)), "Invalid allowlist PCR number 10"},
	} {
		_, err := appraise(t, appraiser(), []byte(c.body))
		var refused *RequestError
		if !errors.As(err, &refused) || !strings.Contains(refused.Text, c.want) {
			t.Errorf("%.80s: got %v, want an error with %q", c.body, err, c.want)
		}
	}
}

func TestSignedRuntimePolicies(t *testing.T) {
	t.Parallel()
	good := tpmData(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := policy.Sign([]byte(good["runtime_policy"].(string)), key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pem := func(k *ecdsa.PrivateKey) string {
		public, err := policy.NewPublicKey(&k.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString([]byte(public.PEM()))
	}
	envelope := good.with("runtime_policy", string(signed.Encode()))
	for name, c := range map[string]struct {
		data data
		want string // "": the evidence is good
	}{
		"by the key that came along": {envelope.with("runtime_policy_key", pem(key)), ""},
		"without a key":              {envelope, ""},
		"by another key":             {envelope.with("runtime_policy_key", pem(stranger)), "Runtime policy failed DSSE signature verification!"},
		"a key and no signature":     {good.with("runtime_policy_key", pem(key)), "Runtime policy is not signed!"},
		"a key that is none":         {envelope.with("runtime_policy_key", "AAAA"), "runtime_policy_key: not PEM"},
	} {
		r, err := appraise(t, appraiser(), c.data.body(t, KindTPM))
		if c.want == "" && (err != nil || !r.Valid) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, %s, want %q", name, err, r.Failures, c.want)
		}
	}
	strict := appraiser()
	strict.Signed = func(context.Context, policy.Document, string) error { return errors.New("by nobody here") }
	if _, err := appraise(t, strict, envelope.body(t, KindTPM)); err == nil || err.Error() != "by nobody here" {
		t.Errorf("the appraiser's own rule: %v", err)
	}
}

// The keys of a policy vouch for the files that they signed.
func TestVerificationKeysCount(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d := signedFileData(t, key)
	if r, err := appraise(t, appraiser(), d.body(t, KindTPM)); err != nil || !r.Valid {
		t.Errorf("signed by a key of the policy: %v, %s", err, r.Failures)
	}
	d = d.with("runtime_policy", strings.Replace(d["runtime_policy"].(string), `"verification-keys":"{`, `"verification-keys":"","other":"{`, 1))
	if r, err := appraise(t, appraiser(), d.body(t, KindTPM)); err != nil || r.Valid {
		t.Errorf("signed by a key that nobody named: %v, valid %v", err, r.Valid)
	}
}

// FuzzParse: no body makes the decoder panic, and what it accepts has a kind and data.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"type":"tpm","data":{"quote":"r::","nonce":"n","hash_alg":"sha256","tpm_ek":"","tpm_ak":"AA==","tpm_policy":{"7":["00"]}}}`))
	f.Add([]byte(`{"type":"tee","data":{"tee-evidence":{"tee":"snp","evidence":{"snp-report":"AAAA"}},"nonce":"","tee-pubkey-x-b64":"_"}}`))
	f.Add([]byte(`{"data":{"quote":null},"type":"tpm"}`))
	a := appraiser()
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := Parse(body)
		if err != nil {
			return
		}
		if req.Kind != KindTPM && req.Kind != KindTEE || !json.Valid([]byte(req.Data)) {
			t.Errorf("parsed as %q with data %q", req.Kind, req.Data)
		}
		if r, err := a.Appraise(t.Context(), req, time.Now()); err == nil && r.Valid {
			t.Errorf("evidence of nobody's passes: %s", body)
		}
	})
}
