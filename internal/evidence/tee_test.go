package evidence

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"keylime/internal/fleet"
	"keylime/internal/snp"
	"keylime/tpm"
)

// teeData is good evidence of a guest on the processor. data may change the report before it is signed.
func teeData(t testing.TB, p *fleet.Processor, change func(report []byte)) data {
	t.Helper()
	x, y, nonce := []byte("x of the guest's key"), []byte("y of the guest's key"), []byte("a nonce")
	raw, err := p.Report(sha512.Sum512([]byte(string(x)+string(y)+string(nonce))), change)
	if err != nil {
		t.Fatal(err)
	}
	url := base64.RawURLEncoding
	return data{
		"nonce": base64.StdEncoding.EncodeToString(nonce), "tee-pubkey-x-b64": url.EncodeToString(x), "tee-pubkey-y-b64": url.EncodeToString(y),
		"tee-evidence": data{"tee": "snp", "evidence": data{
			"snp-report": base64.StdEncoding.EncodeToString(raw), "vcek": base64.StdEncoding.EncodeToString(p.VCEK),
		}},
	}
}

func processor(t testing.TB, line string) (*fleet.Processor, *Appraiser) {
	t.Helper()
	p, err := fleet.NewProcessor(line)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := snp.ParseChain(snp.Product(line), p.Roots)
	if err != nil {
		t.Fatal(err)
	}
	a := appraiser()
	a.Chains = []snp.Chain{chain}
	return p, a
}

func TestGuestOfAnAMDProcessor(t *testing.T) {
	t.Parallel()
	p, a := processor(t, "Milan")
	r, err := appraise(t, a, teeData(t, p, nil).body(t, KindTEE))
	if err != nil || !r.Valid {
		t.Fatalf("%v: %s", err, r.Failures)
	}
	var claims map[string]any
	if err := json.Unmarshal(r.Claims, &claims); err != nil || claims["reported_tcb_microcode"] != 209.0 || len(claims) != 15 {
		t.Errorf("claims %s", r.Claims)
	}
	if r.Basis.SNP == nil || r.Basis.Nonce != base64.RawURLEncoding.EncodeToString([]byte("a nonce")) {
		t.Errorf("basis %+v", r.Basis)
	}
	// A report of version 2 does not say which product it is from; each trusted chain is tried.
	genoa, err := snp.AMD(snp.Genoa)
	if err != nil {
		t.Fatal(err)
	}
	a.Chains = append([]snp.Chain{genoa}, a.Chains...)
	old := func(report []byte) { binary.LittleEndian.PutUint32(report, 2) }
	if r, err := appraise(t, a, teeData(t, p, old).body(t, KindTEE)); err != nil || !r.Valid {
		t.Errorf("version 2: %v, %s", err, r.Failures)
	}
}

func TestGuestsThatAreRefused(t *testing.T) {
	t.Parallel()
	p, a := processor(t, "Milan")
	stranger, strangers := processor(t, "Milan")
	good := teeData(t, p, nil)
	evidence := func(report, vcek any) data {
		e := data{"snp-report": report, "vcek": vcek}
		return good.with("tee-evidence", data{"tee": "snp", "evidence": e})
	}
	inner := good["tee-evidence"].(data)["evidence"].(data)
	raw, _ := base64.StdEncoding.DecodeString(inner["snp-report"].(string))
	raw[0x90] ^= 1 // the measurement
	nobody := *a
	nobody.Chains = nil
	for _, c := range []struct {
		name   string
		by     *Appraiser
		data   data
		event  string
		detail string
	}{
		{"another nonce", a, good.with("nonce", "AAAA"), "tee_attestation.freshness_hash_failed", "REPORT_DATA"},
		{"another key", a, good.with("tee-pubkey-x-b64", "AAAA"), "tee_attestation.freshness_hash_failed", "REPORT_DATA"},
		{"a report that was changed", a, evidence(base64.StdEncoding.EncodeToString(raw), inner["vcek"]), "tee_attestation.invalid_signature", "did not sign"},
		{"half a report", a, evidence(base64.StdEncoding.EncodeToString(raw[:0x188]), inner["vcek"]), "tee_attestation.invalid_input", "392 bytes"},
		{"a processor of nobody's", a, teeData(t, stranger, nil), "tee_attestation.invalid_certificate", "not vouched for"},
		{"nobody is trusted", &nobody, good, "tee_attestation.invalid_certificate", "no ASK and ARK are trusted"},
		{"a certificate that is none", a, evidence(inner["snp-report"], "AAAA"), "tee_attestation.vcek_fetch", "x509"},
		{"no certificate", a, evidence(inner["snp-report"], nil), "tee_attestation.vcek_fetch", "brings no vcek along"},
		{"another tee", a, good.with("tee-evidence", data{"tee": "sgx", "evidence": data{}}), "tee_attestation.invalid.tee", "invalid tee argument"},
	} {
		r, err := appraise(t, c.by, c.data.body(t, KindTEE))
		if err != nil || events(r) != c.event || !strings.Contains(string(r.Failures[0].Context), c.detail) || string(r.Claims) != "{}" {
			t.Errorf("%s: %v, got %s, want %s with %q\n%s", c.name, err, events(r), c.event, c.detail, r.Failures)
		}
	}
	if r, err := appraise(t, strangers, good.body(t, KindTEE)); err != nil || r.Valid {
		t.Errorf("by another chain: %v, valid %v", err, r.Valid)
	}
}

func TestIncompleteRequestsOfGuests(t *testing.T) {
	t.Parallel()
	_, a := processor(t, "Milan")
	d := data{}
	for _, step := range []struct {
		missing string
		then    func(data) data
	}{
		{"tee-evidence", func(d data) data { return d.with("tee-evidence", data{}) }},
		{"nonce", func(d data) data { return d.with("nonce", "AAAA") }},
		{"tee-pubkey-x-b64", func(d data) data { return d.with("tee-pubkey-x-b64", "AAAA") }},
		{"tee-pubkey-y-b64", func(d data) data { return d.with("tee-pubkey-y-b64", "AAAA") }},
		{"tee", func(d data) data { return d.with("tee-evidence", data{"tee": "snp"}) }},
		{"evidence", func(d data) data { return d.with("tee-evidence", data{"tee": "snp", "evidence": data{}}) }},
		{"snp-report", nil},
	} {
		r, err := appraise(t, a, d.body(t, KindTEE))
		want := `{"message":"missing parameter \"` + step.missing + `\""}`
		if err != nil || !r.Incomplete || events(r) != "tee_attestation.missing_param" || string(r.Failures[0].Context) != want {
			t.Errorf("%s: %v, %s", step.missing, err, r.Failures)
		}
		if step.then != nil {
			d = step.then(d)
		}
	}
	if _, err := appraise(t, a, d.with("nonce", "!").body(t, KindTEE)); err != nil { // the report is missing still
		t.Error(err)
	}
	full := d.with("tee-evidence", data{"tee": "snp", "evidence": data{"snp-report": "AAAA"}}).with("tee-pubkey-y-b64", "+/")
	var refused *RequestError
	if _, err := appraise(t, a, full.body(t, KindTEE)); !errors.As(err, &refused) || !strings.Contains(refused.Text, "tee-pubkey-y-b64") {
		t.Errorf("base64 in place of base64url: %v", err)
	}
}

// finder finds the certificate that it holds, or none.
type finder struct{ der []byte }

func (f finder) Find(context.Context, snp.Report, snp.Chain, time.Time) (*x509.Certificate, error) {
	if f.der == nil {
		return nil, errors.New("no such certificate")
	}
	return x509.ParseCertificate(f.der)
}

func TestCertificatesAreFound(t *testing.T) {
	t.Parallel()
	p, a := processor(t, "Genoa")
	d := teeData(t, p, nil)
	delete(d["tee-evidence"].(data)["evidence"].(data), "vcek")
	a.VCEKs = finder{p.VCEK}
	if r, err := appraise(t, a, d.body(t, KindTEE)); err != nil || !r.Valid {
		t.Errorf("%v: %s", err, r.Failures)
	}
	a.VCEKs = finder{}
	if r, err := appraise(t, a, d.body(t, KindTEE)); err != nil || events(r) != "tee_attestation.vcek_fetch" {
		t.Errorf("%v: %s", err, r.Failures)
	}
}

// signedFileData is evidence of a machine that ran a file which the key signed, and which its policy does not list.
func signedFileData(t testing.TB, key *ecdsa.PrivateKey) data {
	t.Helper()
	soft, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	list, err := fleet.NewMeasured(soft)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("signed"))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	attribute := append([]byte{3, 2, 4, 0, 0, 0, 9}, 0, byte(len(signature))) // type, version, SHA-256, key id 9, size
	if _, err := list.Measure(fleet.Measurement{Path: "/usr/bin/signed", Digest: digest[:], Signature: append(attribute, signature...)}); err != nil {
		t.Fatal(err)
	}
	quote, err := soft.Quote([]byte(nonce), 0x400, tpm.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := json.Marshal(fmt.Sprintf(`{"meta":{"version":1},"release":0,"pubkeys":["%s"],"keyids":[9]}`, base64.StdEncoding.EncodeToString(spki)))
	if err != nil {
		t.Fatal(err)
	}
	boot := fleet.BootMeasurement(func(int) []byte { return make([]byte, 32) })
	policy := runtimePolicy(map[string]string{"boot_aggregate": fmt.Sprintf("%x", boot.Digest)})
	text, _ := list.From(0)
	return data{
		"quote": quote.String(), "nonce": nonce, "hash_alg": "sha256", "tpm_ek": "x",
		"tpm_ak":               base64.StdEncoding.EncodeToString(soft.AKPublic()),
		"runtime_policy":       strings.Replace(policy, `"verification-keys":""`, `"verification-keys":`+string(keys), 1),
		"ima_measurement_list": string(text),
	}
}
