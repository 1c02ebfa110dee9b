package verifytool

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/urfave/cli/v2"

	"keylime/internal/fleet"
	"keylime/internal/policy"
	"keylime/internal/recorded"
	"keylime/internal/snp"
	"keylime/tpm"
)

// oneAtATime: package cli has global flags, which each app that is set up writes to.
var oneAtATime sync.Mutex

// verify runs the command as main does, and returns what it prints and its exit code.
func verify(t testing.TB, args ...string) (stdout string, code int, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	app := &cli.App{Writer: &out, ErrWriter: &errs, Commands: []*cli.Command{Command()}, ExitErrHandler: func(*cli.Context, error) {}}
	oneAtATime.Lock()
	defer oneAtATime.Unlock()
	err = app.RunContext(t.Context(), append([]string{"keylime", "verify"}, args...))
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		code = coded.ExitCode()
	} else if err != nil {
		t.Fatalf("an error without an exit code: %v", err)
	}
	return out.String(), code, err
}

func file(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

const nonce = "1DIYEGervdpJ4Ozz1r6z"

// machine is evidence of a machine that ran /usr/bin/tool, and the policy that accepts it.
type machine struct {
	quote, list, policy string
	ak                  []byte
}

func newMachine(t testing.TB) machine {
	t.Helper()
	soft, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
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
	quote, err := soft.Quote([]byte(nonce), 0x10400, tpm.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	boot := fleet.BootMeasurement(func(int) []byte { return make([]byte, 32) })
	text, _ := list.From(0)
	return machine{
		quote: quote.String(), list: string(text), ak: soft.AKPublic(),
		policy: strings.Replace(policy.EmptyRuntime, `"digests":{}`, fmt.Sprintf(`"digests":{"boot_aggregate":["%x"],"/usr/bin/tool":["%x"]}`, boot.Digest, digest), 1),
	}
}

// body is the request; what flags are to give may be left out.
func (m machine) body(t testing.TB, without ...string) []byte {
	data := map[string]string{
		"quote": m.quote, "nonce": nonce, "hash_alg": "sha256", "tpm_ak": base64.StdEncoding.EncodeToString(m.ak),
		"runtime_policy": m.policy, "ima_measurement_list": m.list,
	}
	for _, name := range without {
		delete(data, name)
	}
	return encode(t, map[string]any{"type": "tpm", "data": data})
}

func TestGoodEvidence(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	whole := file(t, "evidence.json", m.body(t))
	out, code, err := verify(t, "--evidence", whole)
	if code != 0 || err != nil || !strings.HasPrefix(out, "verdict") || !strings.Contains(out, "pass") || !strings.Contains(out, "mb_policy       none: nothing of it was judged") {
		t.Errorf("%d, %v:\n%s", code, err, out)
	}
	// The same with flags for what the file leaves out, and with what an agent answers.
	bare := file(t, "bare.json", m.body(t, "tpm_ak", "nonce", "runtime_policy"))
	answer := file(t, "answer.json", encode(t, map[string]any{"code": 200, "status": "Success", "results": map[string]any{
		"quote": m.quote, "hash_alg": "sha256", "enc_alg": "ecc256", "sign_alg": "ecdsa", "ima_measurement_list": m.list, "ima_measurement_list_entry": 0,
	}}))
	flags := []string{"--ak", file(t, "ak", m.ak), "--nonce", nonce, "--runtime-policy", file(t, "policy.json", []byte(m.policy))}
	for _, name := range []string{bare, answer} {
		if out, code, err := verify(t, append(flags, "--evidence", name)...); code != 0 {
			t.Errorf("%s: %d, %v:\n%s", name, code, err, out)
		}
	}
	out, code, _ = verify(t, "--evidence", whole, "--json")
	var v verdict
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != 0 || !v.Valid || v.Nonce != nonce || len(v.Policies["runtime_policy"]) != 64 || v.Failures == nil {
		t.Errorf("%d, %v:\n%s", code, err, out)
	}
}

func TestEvidenceThatIsNotGood(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	whole := file(t, "evidence.json", m.body(t))
	other := file(t, "ak", newMachine(t).ak)
	for _, c := range []struct {
		flags []string
		event string
	}{
		{[]string{"--nonce", "another"}, "qoute_validation.quote_validation"},
		{[]string{"--ak", other}, "qoute_validation.quote_validation"},
		{[]string{"--tpm-policy", `{"16": ["` + strings.Repeat("00", 32) + `"]}`}, ""},
		{[]string{"--tpm-policy", `{"0": ["` + strings.Repeat("00", 32) + `"]}`}, "pcr_validation.missing_pcrs"},
		{[]string{"--runtime-policy", file(t, "policy.json", []byte(strings.Replace(m.policy, "/usr/bin/tool", "/usr/bin/other", 1)))}, "ima.validation.ima-ng.not_in_allowlist"},
	} {
		out, code, err := verify(t, append(c.flags, "--evidence", whole)...)
		if c.event == "" { // PCR 16 is no policy's matter: that is a fault of the command line
			if code != 2 {
				t.Errorf("%q: %d, %v\n%s", c.flags, code, err, out)
			}
			continue
		}
		if code != 1 || err.Error() != "" || !strings.Contains(out, "fail") || !strings.Contains(out, c.event) {
			t.Errorf("%q: %d, %v\n%s", c.flags, code, err, out)
		}
	}
}

func TestWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	whole := file(t, "evidence.json", m.body(t))
	part := file(t, "answer.json", encode(t, map[string]any{"results": map[string]any{"quote": m.quote, "ima_measurement_list_entry": 7}}))
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "give --evidence FILE"},
		{[]string{"--evidence", whole, "more"}, `"more" is no flag`},
		{[]string{"--evidence", whole, "--evidnce", "x"}, "not defined"},
		{[]string{"--evidence", whole, "--json", "--ear-key", "k"}, "not both"},
		{[]string{"--evidence", filepath.Join(t.TempDir(), "none")}, "no such file"},
		{[]string{"--evidence", file(t, "bad", []byte("{"))}, "not the JSON of a request"},
		{[]string{"--evidence", file(t, "empty", []byte("{}"))}, "missing parameter 'type'"},
		{[]string{"--evidence", file(t, "no-quote", m.body(t, "quote"))}, `missing parameter "quote"`},
		{[]string{"--evidence", file(t, "no-policy", m.body(t, "runtime_policy"))}, "at least one policy"},
		{[]string{"--evidence", part}, "from entry 7 on"},
		{[]string{"--evidence", whole, "--runtime-policy", file(t, "bad", []byte("{}"))}, "malformatted"},
		{[]string{"--evidence", whole, "--runtime-policy-key", file(t, "key", []byte("x"))}, "Runtime policy is not signed!"},
		{[]string{"--evidence", whole, "--ak", whole}, "TPM2B_PUBLIC"},
		{[]string{"--evidence", whole, "--mb-engine", "none", "--mb-policy", whole}, "is unknown"},
		{[]string{"--evidence", whole, "--snp-chain", "Rome=x"}, "PRODUCT=FILE"},
		{[]string{"--evidence", whole, "--ear-key", filepath.Join(t.TempDir(), "none")}, "no such file"},
	} {
		out, code, err := verify(t, c.args...)
		if code != 2 || !strings.Contains(err.Error(), c.want) || out != "" {
			t.Errorf("%q: %d, %v, want 2 with %q; printed %q", c.args, code, err, c.want, out)
		}
	}
}

func TestVerdictAsAToken(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	name := file(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	out, code, err := verify(t, "--evidence", file(t, "evidence.json", newMachine(t).body(t)), "--ear-key", name)
	parts := strings.Split(strings.TrimSuffix(out, "\n"), ".")
	if code != 0 || len(parts) != 3 {
		t.Fatalf("%d, %v: %s", code, err, out)
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || !strings.Contains(string(claims), `"ear_status":"affirming"`) || !strings.Contains(string(claims), nonce) {
		t.Errorf("claims %s, %v", claims, err)
	}
}

func TestGuestOfAnAMDProcessor(t *testing.T) {
	t.Parallel()
	p, err := fleet.NewProcessor("Milan")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := p.Report(sha512.Sum512([]byte("xyn")), nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := snp.ParseReport(raw)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	body := file(t, "evidence.json", encode(t, map[string]any{"type": "tee", "data": map[string]any{
		"nonce": b64([]byte("n")), "tee-pubkey-x-b64": "eA", "tee-pubkey-y-b64": "eQ",
		"tee-evidence": map[string]any{"tee": "snp", "evidence": map[string]any{"snp-report": b64(raw)}},
	}}))
	vcek := file(t, r.VCEKName()+".der", p.VCEK)
	flags := []string{"--evidence", body, "--snp-vcek-dir", filepath.Dir(vcek)}
	if out, code, _ := verify(t, flags...); code != 1 || !strings.Contains(out, "tee_attestation.invalid_certificate") {
		t.Errorf("trusted is AMD: %d\n%s", code, out)
	}
	flags = append(flags, "--snp-chain", "Milan="+file(t, "roots.pem", p.Roots))
	if out, code, err := verify(t, flags...); code != 0 || !strings.Contains(out, "microcode 209") || !strings.Contains(out, "debug        not allowed") {
		t.Errorf("%d, %v\n%s", code, err, out)
	}
	if out, code, err := verify(t, append(flags, "--json")...); code != 0 || !strings.Contains(out, `"reported_tcb_snp": 21`) {
		t.Errorf("%d, %v\n%s", code, err, out)
	}
}

// TestRecordedAnswer: the first answer that another agent gave another verifier, as it was recorded.
func TestRecordedAnswer(t *testing.T) {
	t.Parallel()
	round := recorded.Glob(t, "wire/mb/*verifier-GET*quotes_integrity.json")[0]
	enrolment := recorded.Glob(t, "wire/mb/*tenant-POST-v2.6_agents_ID.json")[0]
	var spec struct {
		RuntimePolicy []byte `json:"runtime_policy"`
		BootPolicy    string `json:"mb_policy"`
		AK            string `json:"ak_tpm"`
	}
	if err := json.Unmarshal([]byte(enrolment.Request.Body), &spec); err != nil {
		t.Fatal(err)
	}
	asked, err := url.Parse(round.Request.Path)
	if err != nil {
		t.Fatal(err)
	}
	out, code, err := verify(t, "--evidence", file(t, "answer.json", []byte(round.Response.Body)),
		"--ak", file(t, "ak.b64", []byte(spec.AK)), "--nonce", asked.Query().Get("nonce"),
		"--runtime-policy", file(t, "policy.json", spec.RuntimePolicy), "--mb-policy", file(t, "boot.json", []byte(spec.BootPolicy)))
	if code != 0 {
		t.Errorf("%d, %v\n%s", code, err, out)
	}
}

// TestShownTextsAreHarmless: what an attester writes cannot steer a terminal.
func TestShownTextsAreHarmless(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.list += "10 " + strings.Repeat("ab", 20) + " ima-ng sha256:" + strings.Repeat("00", 32) + " /\x1b[2J\n"
	out, code, err := verify(t, "--evidence", file(t, "evidence.json", m.body(t)))
	if code != 1 || strings.Contains(out, "\x1b") {
		t.Errorf("%d, %v\n%q", code, err, out)
	}
}
