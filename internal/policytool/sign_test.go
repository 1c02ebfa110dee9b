package policytool

import (
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keylime/internal/policy"
	"keylime/internal/recorded"
)

// validPolicy has spaces as nobody's tool writes them.
const validPolicy = `{"meta":{"version":1,"generator":3},  "release":0,"digests":{"/é":["` + sha256Of1 + `"]},"excludes":[],"keyrings":{},
	"ima":{"ignored_keyrings":[],"log_hash_alg":"sha1","dm_policy":null},"ima-buf":{},"verification-keys":""}`

// signedPayload is what an envelope holds.
func signedPayload(t testing.TB, envelope []byte) string {
	t.Helper()
	var e struct {
		Payload, PayloadType string
		Signatures           []struct{ KeyID, Sig string }
	}
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil || len(e.Signatures) != 1 || e.PayloadType != "application/vnd.keylime+json" {
		t.Fatalf("envelope %s: %v", envelope, err)
	}
	return string(payload)
}

// publicOf writes the public half of a private key to a file.
func publicOf(t testing.TB, private string) string {
	t.Helper()
	text, err := os.ReadFile(private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := policy.ParseSigningKey(text)
	if err != nil {
		t.Fatal(err)
	}
	public, err := policy.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return file(t, "public.pem", public.PEM())
}

func TestNewKeySignsAndVerifies(t *testing.T) {
	t.Parallel()
	in, dir := file(t, "policy", validPolicy), t.TempDir()
	key, signed := filepath.Join(dir, "key.pem"), filepath.Join(dir, "signed.json")
	if _, errs, err := tool(t, "sign", "runtime", "-r", in, "-p", key, "-o", signed); err != nil || !strings.Contains(errs, key) {
		t.Fatalf("%v, messages %q", err, errs)
	}
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the private key: %v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(signed)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"meta": {"version": 1, "generator": 3}, "release": 0, "digests": {"/\u00e9": ["` + sha256Of1 + `"]}, "excludes": [], "keyrings": {}, ` +
		`"ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": null}, "ima-buf": {}, "verification-keys": ""}`
	if got := signedPayload(t, text); got != want {
		t.Errorf("signed\n%s\nwant\n%s", got, want)
	}
	public := publicOf(t, key)
	if out, errs, err := tool(t, "verify-signature", "-k", public, "-o", "-", signed); err != nil || out != want || !strings.Contains(errs, "good signature") {
		t.Errorf("%v, printed %q, messages %q", err, out, errs)
	}
	again, _, err := tool(t, "sign", "runtime", "-r", in, "-k", key)
	if err != nil || !strings.HasSuffix(again, "}\n") || signedPayload(t, []byte(again)) != want {
		t.Errorf("signed with the key that was made: %v, %q", err, again)
	}
	tampered := file(t, "tampered", strings.Replace(string(text), `"payload": "eyJt`, `"payload": "eyJT`, 1))
	if _, _, err := tool(t, "verify-signature", "-k", public, tampered); err == nil {
		t.Error("a changed payload verifies")
	}
}

func TestX509BackendWritesItsCertificate(t *testing.T) {
	t.Parallel()
	in, dir := file(t, "policy", validPolicy), t.TempDir()
	key, cert := filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	out, _, err := tool(t, "sign", "runtime", "-r", in, "-p", key, "-b", "X509", "-c", cert)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(cert)
	if err != nil || !strings.Contains(out, base64.StdEncoding.EncodeToString(text)) {
		t.Errorf("the signature does not name the certificate: %v", err)
	}
	if _, _, err := tool(t, "verify-signature", "--key", publicOf(t, key), file(t, "signed", out)); err != nil {
		t.Error(err)
	}
}

// TestRefusedSigningLeavesNothing: neither key nor certificate nor output is written when the policy is not signed.
func TestRefusedSigningLeavesNothing(t *testing.T) {
	t.Parallel()
	good := file(t, "policy", validPolicy)
	for _, c := range []struct{ line, wrong string }{
		{"-r " + file(t, "bad", "{"), "not valid JSON"},
		{"-r " + file(t, "bad", "{}"), "'meta' is a required property"},
		{"-r /nonexistent", "no such file"},
		{"-r " + good + " -b x509", "--cert-outfile"},
		{"-r " + good + " -b rsa", "invalid choice: 'rsa' (choose from 'ecdsa', 'x509')"},
		{"-r " + good + " -k x", "only one of --keyfile"},
		{"", "the following arguments are required: -r/--runtime-policy"},
	} {
		dir := t.TempDir()
		line := "sign runtime " + c.line + " -p " + dir + "/key -o " + dir + "/out -c " + dir + "/cert"
		if strings.Contains(c.line, "x509") {
			line = strings.TrimSuffix(line, " -c "+dir+"/cert")
		}
		if _, _, err := tool(t, strings.Fields(line)...); err == nil || !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: got %v, want an error with %q", c.line, err, c.wrong)
		}
		if left, err := fs.Glob(os.DirFS(dir), "*"); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v", c.line, left)
		}
	}
}

func TestRecordedSigningInputs(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(recorded.Dir(t), "policy", "sign")
	in := filepath.Join(dir, "runtime-policy.json")
	out, _, err := tool(t, "sign", "runtime", "-r", in, "-k", filepath.Join(dir, "ec-p521-private.pem"))
	if err != nil || !strings.Contains(out, `"keyid": "ef283e2cf75457fb`) {
		t.Errorf("signed with the P-521 key: %v, %.200s", err, out)
	}
	if got, want := parsed(t, []byte(signedPayload(t, []byte(out)))), parsed(t, recorded.File(t, "policy/sign/runtime-policy.json")); len(got.Digests) != len(want.Digests) {
		t.Errorf("%d of %d digests are signed", len(got.Digests), len(want.Digests))
	}
	if _, _, err := tool(t, "verify-signature", "-k", filepath.Join(dir, "ec-p521-public.pem"), file(t, "signed", out)); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"runtime-policy-bogus.json", "runtime-policy-empty.json"} {
		_, _, err := tool(t, "sign", "runtime", "-r", filepath.Join(dir, bad), "-k", filepath.Join(dir, "ec-p521-private.pem"))
		if valid := bad == "runtime-policy-empty.json"; (err == nil) != valid {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, _, err := tool(t, "sign", "runtime", "-r", in, "-k", filepath.Join(dir, "rsa-4096-private.pem")); err == nil || !strings.Contains(err.Error(), "EC private key") {
		t.Errorf("an RSA key: %v", err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(recorded.Dir(t), "policy", "signed")
	key := filepath.Join(dir, "runtime-policy-pubkey.pub")
	for _, c := range []struct{ line, wrong string }{
		{"-k " + key + " " + filepath.Join(dir, "runtime-policy-test-signed-bad.json"), "DSSE envelope"},
		{"-k " + key + " " + filepath.Join(dir, "runtime-policy-test.json"), "the policy is not signed"},
		{"-k " + key, "name one policy to verify"},
		{filepath.Join(dir, "runtime-policy-test.json"), "the following arguments are required: -k/--keyfile"},
		{"-k " + filepath.Join(dir, "runtime-policy-test.json") + " x", "not PEM"},
		{"-k " + key + " /nonexistent", "no such file"},
	} {
		if out, _, err := tool(t, append([]string{"verify-signature"}, strings.Fields(c.line)...)...); err == nil || !strings.Contains(err.Error(), c.wrong) || out != "" {
			t.Errorf("%s: got %v, want an error with %q; printed %q", c.line, err, c.wrong, out)
		}
	}
}
