package attest

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"keylime/internal/policy"
	"keylime/internal/recorded"
	"keylime/tpm"
)

// TestRecordedLives appraises the quotes of other agents as another verifier asked for them: all pass but the last, after
// /usr/bin/evil was run.
func TestRecordedLives(t *testing.T) {
	t.Parallel()
	for _, life := range []string{"pull", "cert", "ecc", "mb"} {
		t.Run(life, func(t *testing.T) {
			t.Parallel()
			rounds := recorded.Glob(t, "wire/"+life+"/*verifier-GET*quotes_integrity.json")
			in := enrolled(t, recorded.Glob(t, "wire/"+life+"/*tenant-POST-v2.6_agents_ID.json")[0])
			for i, exchange := range rounds {
				in.Challenge, in.Evidence = readRound(t, exchange, in.Evidence.PubKey)
				out, err := Verify(in)
				if err != nil {
					t.Fatalf("%s: %v", exchange.Name, err)
				}
				want := "pass"
				if i == len(rounds)-1 {
					want = notListed
				}
				if got := events(out.Verdict); got != want {
					t.Errorf("%s: got %s, want %s\n%+v", exchange.Name, got, want, out.Verdict.Failures)
				}
				if want == notListed && !strings.HasPrefix(out.Verdict.Failures[0].Context, `{"message":"File not found in allowlist: /usr/bin/evil"`) {
					t.Errorf("%s: context %s", exchange.Name, out.Verdict.Failures[0].Context)
				}
				in.State = out.State
			}
		})
	}
}

// enrolled is what the tenant told the verifier.
func enrolled(t *testing.T, exchange recorded.Exchange) Input {
	t.Helper()
	var body struct {
		TPMPolicy     string   `json:"tpm_policy"`
		RuntimePolicy []byte   `json:"runtime_policy"`
		BootPolicy    string   `json:"mb_policy"`
		AK            []byte   `json:"ak_tpm"`
		Hash          []string `json:"accept_tpm_hash_algs"`
		Enc           []string `json:"accept_tpm_encryption_algs"`
		Sign          []string `json:"accept_tpm_signing_algs"`
	}
	if err := json.Unmarshal([]byte(exchange.Request.Body), &body); err != nil {
		t.Fatal(err)
	}
	ak, err := tpm.ParsePublic(body.AK)
	if err != nil {
		t.Fatal(err)
	}
	runtime, err := policy.CompileRuntime(body.RuntimePolicy)
	if err != nil {
		t.Fatal(err)
	}
	judge := set(t, runtime, body.TPMPolicy)
	if judge.Boot, err = policy.CompileBoot(policy.BootExample, []byte(body.BootPolicy)); err != nil {
		t.Fatal(err)
	}
	return Input{
		Identity: Identity{AK: ak, AcceptHash: body.Hash, AcceptEnc: body.Enc, AcceptSign: body.Sign},
		Policy:   judge,
	}
}

// readRound is what the verifier asked and the agent answered.
func readRound(t *testing.T, exchange recorded.Exchange, cachedKey string) (Challenge, Evidence) {
	t.Helper()
	asked, err := url.Parse(exchange.Request.Path)
	if err != nil {
		t.Fatal(err)
	}
	query := asked.Query()
	mask, err := tpm.ParseMask(query.Get("mask"))
	if err != nil {
		t.Fatal(err)
	}
	entry, err := strconv.ParseUint(query.Get("ima_ml_entry"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	var body struct {
		Results struct {
			Quote    string  `json:"quote"`
			HashAlg  string  `json:"hash_alg"`
			EncAlg   string  `json:"enc_alg"`
			SignAlg  string  `json:"sign_alg"`
			PubKey   string  `json:"pubkey"`
			IMA      *string `json:"ima_measurement_list"`
			IMAEntry uint64  `json:"ima_measurement_list_entry"`
			BootLog  string  `json:"mb_measurement_list"`
		} `json:"results"`
	}
	if err := json.Unmarshal([]byte(exchange.Response.Body), &body); err != nil {
		t.Fatal(err)
	}
	r := body.Results
	quote, err := tpm.ParseQuote(r.Quote)
	if err != nil {
		t.Fatal(err)
	}
	if r.PubKey == "" {
		r.PubKey = cachedKey
	}
	bootLog, err := base64.StdEncoding.DecodeString(r.BootLog)
	if err != nil {
		t.Fatal(err)
	}
	return Challenge{Nonce: []byte(query.Get("nonce")), Mask: mask, BindData: true, Entry: entry},
		Evidence{
			Quote: quote, HashAlg: r.HashAlg, EncAlg: r.EncAlg, SignAlg: r.SignAlg, PubKey: r.PubKey,
			IMA: []byte(*r.IMA), HasIMA: true, IMAEntry: r.IMAEntry, BootLog: bootLog,
		}
}
