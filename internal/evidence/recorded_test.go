package evidence

import (
	"encoding/json"
	"net/url"
	"testing"

	"keylime/internal/recorded"
)

// TestRecordedLives makes requests of what another verifier asked other agents for. Those with a whole measurement list
// pass, until /usr/bin/evil was run; those with a part of it prove nothing alone.
func TestRecordedLives(t *testing.T) {
	t.Parallel()
	for _, life := range []string{"pull", "cert", "ecc", "mb"} {
		rounds := recorded.Glob(t, "wire/"+life+"/*verifier-GET*quotes_integrity.json")
		enrolment := recorded.Glob(t, "wire/"+life+"/*tenant-POST-v2.6_agents_ID.json")[0]
		whole, parts := 0, 0
		for i, exchange := range rounds {
			body, isWhole := requestOf(t, enrolment, exchange)
			r, err := appraise(t, appraiser(), body.body(t, KindTPM))
			if good := isWhole && i < len(rounds)-1; err != nil || r.Valid != good {
				t.Errorf("%s: %v, got %s, want a pass: %v\n%s", exchange.Name, err, events(r), good, r.Failures)
			}
			if isWhole {
				whole++
			} else {
				parts++
			}
		}
		if whole == 0 || parts == 0 {
			t.Errorf("%s: %d whole lists and %d parts were recorded", life, whole, parts)
		}
	}
}

// requestOf is an agent's answer with what its tenant enrolled, as a request.
func requestOf(t *testing.T, enrolment, round recorded.Exchange) (d data, whole bool) {
	t.Helper()
	var spec struct {
		TPMPolicy     string `json:"tpm_policy"`
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
	var answer struct {
		Results map[string]any `json:"results"`
	}
	if err := json.Unmarshal([]byte(round.Response.Body), &answer); err != nil {
		t.Fatal(err)
	}
	r := answer.Results
	d = data{
		"quote": r["quote"], "nonce": asked.Query().Get("nonce"), "hash_alg": r["hash_alg"],
		"tpm_ek": "not looked at", "tpm_ak": spec.AK,
		"tpm_policy": spec.TPMPolicy, "runtime_policy": string(spec.RuntimePolicy), "mb_policy": spec.BootPolicy,
		"ima_measurement_list": r["ima_measurement_list"], "mb_log": r["mb_measurement_list"],
	}
	return d, r["ima_measurement_list_entry"] == 0.0
}

// TestRecordedRefusals: the texts of incomplete requests are those of the REST API.
func TestRecordedRefusals(t *testing.T) {
	t.Parallel()
	exchange := recorded.Read(t, "wire/probe/151-verifier-verify-evidence-none.json")
	var answer struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal([]byte(exchange.Response.Body), &answer); err != nil {
		t.Fatal(err)
	}
	if _, err := Parse([]byte(exchange.Request.Body)); err == nil || err.Error() != answer.Status {
		t.Errorf("got %v, recorded is %q", err, answer.Status)
	}
}
