package verifier

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"keylime/internal/api"
	"keylime/store"
	"keylime/tpm"
)

// pcrPolicyText requires a PCR to have some digest.
func pcrPolicyText(pcr int, digest string) string {
	return fmt.Sprintf(`{"%d": ["%s"]}`, pcr, digest)
}

func pcrUploadBody(t testing.TB, text string) string {
	return string(encode(t, api.PCRPolicyUpload{TPMPolicy: &text}))
}

func TestPCRPolicyRoutes(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := newVerifier(t, fastConfig(t), openStore(t))
	base, admin := v.serve(t)
	good := pcrUploadBody(t, pcrPolicyText(22, strings.Repeat("00", 32)))
	create := func() {
		name := "laptops"
		req := agent.enrolment("")
		req.TPMPolicyName = &name
		v.add(t, agent, req)
	}
	for i, c := range []struct {
		method, path, body string
		status             int
		text               string
	}{
		{"GET", "", "", 200, "Success"},
		{"GET", "/laptops", "", 404, "PCR policy laptops not found"},
		{"PUT", "/laptops", good, 409, "PCR policy with name laptops does not already exist"},
		{"POST", "/laptops", good, 201, "Created"},
		{"POST", "/laptops", good, 409, "PCR policy with name laptops already exists"},
		{"PUT", "/laptops", good, 201, "Created"},
		{"POST", "/x", `{}`, 400, "Exception error: 'tpm_policy'"},
		{"POST", "/x", `{"tpm_policy": null}`, 400, "Exception error: 'tpm_policy'"},
		{"POST", "/x", pcrUploadBody(t, pcrPolicyText(10, strings.Repeat("00", 32))), 400, "Invalid allowlist PCR number 10"},
		{"POST", "/x", pcrUploadBody(t, pcrPolicyText(22, "00")), 400, "has 1 bytes; want 20, 32, 48 or 64"}, // NT-31
		{"POST", "/x", pcrUploadBody(t, `{"22": []}`), 400, "PCR 22"},                                        // NT-31
		{"POST", "/a%2fb", good, 400, "policy name"},                                                         // NT-92
		{"DELETE", "/x", "", 404, "PCR policy x not found"},
		{"DELETE", "/laptops", "", 409, "Can't delete tpm_policy as it's currently in use by agent a1"}, // NT-92
	} {
		if i == 13 {
			create()
		}
		status, answer := request(t, admin, c.method, base+"/v2.6/pcrpolicies"+c.path, c.body)
		if status != c.status || !strings.Contains(statusText(answer), c.text) {
			t.Errorf("%s %s: answered %d %s, want %d %s", c.method, c.path, status, answer, c.status, c.text)
		}
	}
	client := api.NewVerifier(base, admin)
	if r, err := client.PCRPolicy(t.Context(), "2.6", "laptops"); err != nil || r.TPMPolicy != pcrPolicyText(22, strings.Repeat("00", 32)) {
		t.Errorf("%+v, %v", r, err)
	}
	if n, err := client.PCRPolicies(t.Context(), "2.6"); err != nil || !slices.Equal(n.Names, []string{"laptops"}) {
		t.Errorf("%+v, %v", n, err)
	}
	if err := v.deleteAgent(t.Context(), "a1"); err != nil {
		t.Fatal(err)
	}
	if err := client.DeletePCRPolicy(t.Context(), "2.6", "laptops"); err != nil {
		t.Error(err)
	}
}

// An update holds all agents that name the policy to it, from their next round on.
func TestNamedPCRPolicyHoldsItsAgents(t *testing.T) {
	t.Parallel()
	v := startVerifier(t, fastConfig(t), openStore(t))
	zeros, other := pcrPolicyText(23, strings.Repeat("00", 32)), pcrPolicyText(23, strings.Repeat("11", 32))
	if err := v.addPCRPolicy(t.Context(), "laptops", []byte(pcrUploadBody(t, zeros))); err != nil {
		t.Fatal(err)
	}
	name := "laptops"
	ids := []string{"a1", "a2"}
	for _, id := range ids {
		agent := startAgent(t, id)
		req := agent.enrolment(agent.runtimePolicy())
		req.TPMPolicyName = &name
		v.add(t, agent, req)
	}
	for _, id := range ids {
		st := v.passes(t, id, 2)
		if st.TPMPolicyName != "laptops" || st.TPMPolicyDigest != store.DigestOf([]byte(zeros)) || !slices.Equal(st.Appraises, []string{"tpm_policy", "runtime_policy"}) {
			t.Errorf("status %s", encode(t, st))
		}
	}
	if err := v.updatePCRPolicy(t.Context(), "laptops", []byte(pcrUploadBody(t, other))); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		st := v.until(t, id, "failure by the new version", inState(store.StateInvalidQuote))
		if *st.LastEventID != "pcr_validation.invalid_pcr_23" || st.TPMPolicyDigest != store.DigestOf([]byte(other)) {
			t.Errorf("status %s", encode(t, st))
		}
	}
}

// The mask of the enrolment is added to what the named policy asks for: neither switches the other off.
func TestNamedPCRPolicyAndMask(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := startVerifier(t, fastConfig(t), openStore(t))
	if err := v.addPCRPolicy(t.Context(), "p", []byte(pcrUploadBody(t, pcrPolicyText(23, strings.Repeat("00", 32))))); err != nil {
		t.Fatal(err)
	}
	str := func(s string) json.RawMessage { return encode(t, s) }
	for _, c := range []struct {
		set  map[string]json.RawMessage
		text string
	}{
		{map[string]json.RawMessage{"tpm_policy_name": str("nosuch")}, "Could not find PCR policy with name nosuch!"},
		{map[string]json.RawMessage{"tpm_policy_name": str("../p")}, "policy name"},
		{map[string]json.RawMessage{"tpm_policy_name": str("p"), "tpm_policy": str(pcrPolicyText(21, strings.Repeat("00", 32)))}, "tpm_policy has digests"},
		{map[string]json.RawMessage{"tpm_policy_name": json.RawMessage("7")}, "tpm_policy_name"},
	} {
		err := v.enrol(t.Context(), "a1", []byte(with(t, agent.enrolment(""), c.set)))
		if err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %q", c.set, err, c.text)
		}
	}
	body := with(t, agent.enrolment(agent.runtimePolicy()), map[string]json.RawMessage{"tpm_policy_name": str("p"), "tpm_policy": str(`{"mask":"0x880000"}`)})
	if err := v.enrol(t.Context(), "a1", []byte(body)); err != nil {
		t.Fatal(err)
	}
	v.passes(t, "a1", 1)
	want := "mask=" + tpm.MaskOf(10, 19, 23).String()
	if asked := agent.asked("GET /v2.6/quotes/integrity"); !strings.Contains(asked[0], want) {
		t.Errorf("asked %s, want %s", asked[0], want)
	}
}
