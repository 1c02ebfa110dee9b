package verifier

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/fleet"
	"keylime/store"
	"keylime/tpm"
)

// calling is a verifier that serves, and an agent that calls it, enrolled with a policy that knows /usr/bin/good.
func calling(t testing.TB, change ...func(*config.Verifier)) (*testVerifier, *callingAgent, *http.Client) {
	t.Helper()
	cfg := fastConfig(t)
	for _, c := range change {
		c(&cfg)
	}
	v := newVerifier(t, cfg, openStore(t))
	base, admin := v.serve(t)
	a := startCalling(t, base, "a1")
	a.join(t, v, a.enrolment(a.policy("/usr/bin/good")))
	return v, a, admin
}

// kept is the attestation on record.
func (tv *testVerifier) kept(t testing.TB, id string, index uint64) store.Attestation {
	t.Helper()
	at, err := tv.store.Attestation(t.Context(), id, index)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestAgentThatCallsIn(t *testing.T) {
	t.Parallel()
	v, a, admin := calling(t)
	st := v.status(t, "a1")
	if st.AttestationStatus != "PENDING" || st.IP != nil || st.Port != nil || st.OperationalState != 3 || st.AttestationMode != "push" {
		t.Errorf("before the first attestation: %s", encode(t, st))
	}

	r := a.open(t)
	doc := r.attestation(t)
	if r.status != 201 || r.location != a.attestations()+"/0" || r.kind != api.JSONAPIType || doc.Data.ID != "" ||
		doc.Data.Links.Self != r.location || doc.Links.Self != a.attestations() || doc.JSONAPI.Version != "1.1" {
		t.Errorf("POST answered %v at %q", r, r.location)
	}
	att := doc.Data.Attributes
	if att.Stage != "awaiting_evidence" || att.System.BootTime != "2027-01-02T03:04:05.000000+00:00" || att.Expires == "" ||
		att.Evaluation != "" || len(att.EvidenceRequested) != 2 {
		t.Errorf("POST answered %v", r)
	}

	r = a.deliver(t, r.location, a.evidence(t, att.EvidenceRequested, nil))
	doc = r.attestation(t)
	att = doc.Data.Attributes
	if r.status != 202 || att.Stage != "evaluating_evidence" || att.Evaluation != "" || att.EvidenceReceived == "" || r.kind != api.JSONAPIType {
		t.Errorf("PATCH answered %v", r)
	}
	if doc.Meta == nil || doc.Meta.SecondsToNext == nil || *doc.Meta.SecondsToNext != 0 {
		t.Errorf("PATCH answered meta %s", encode(t, doc.Meta))
	}
	var quote api.QuoteData
	if err := json.Unmarshal(att.Evidence[0].Data, &quote); err != nil || quote.Meta.PCRs["sha256"]["10"] != fmt.Sprintf("0x%x", a.tpm.PCR(tpm.SHA256, 10)) ||
		quote.Meta.Clock.Resets != 1 || quote.Meta.Clock.Safe != 1 {
		t.Errorf("quote is shown as %s", att.Evidence[0].Data)
	}
	for _, i := range att.Evidence {
		if i.Capabilities == nil || i.Chosen == nil || i.Data == nil {
			t.Errorf("%s is shown without all that came: %s", i.Type, encode(t, i))
		}
	}

	at := v.kept(t, "a1", 0)
	if at.Stage != store.VerificationComplete || at.Evaluation != store.EvaluationPass || at.Completed.IsZero() {
		t.Errorf("record is %s, %s", at.Stage, at.Evaluation)
	}
	if st := v.status(t, "a1"); st.AttestationStatus != "PASS" || st.AttestationCount != 1 || st.LastSuccess == 0 || st.OperationalState != 3 {
		t.Errorf("after it: %s", encode(t, st))
	}

	// The next one asks for what is new.
	a.measure(t, "/usr/bin/good")
	a.attest(t)
	var log api.LogParameters
	_ = json.Unmarshal(v.kept(t, "a1", 1).Items[1].Chosen, &log)
	if *log.Offset != 1 {
		t.Errorf("asked for entries from %d", *log.Offset)
	}

	for _, path := range []string{"/1", "/latest"} {
		r := exchange(t, admin, "", "GET", a.base+a.attestations()+path, nil)
		got := r.attestation(t).Data.Attributes
		if r.status != 200 || r.location != "" || got.Evaluation != "pass" || got.Stage != "verification_complete" || got.Completed == "" || len(got.Evidence) != 2 {
			t.Errorf("GET %s answered %v", path, r)
		}
	}
}

// The evidence of every part of the policy: PCR values, boot log, measurement list.
func TestCallingAgentWithEveryPolicy(t *testing.T) {
	t.Parallel()
	cfg := bootConfig(t, "example")
	v := newVerifier(t, cfg, openStore(t))
	base, _ := v.serve(t)
	a := startCalling(t, base, "a1")
	chain := fleet.NewBootChain("1")
	a.boots(t, "1")
	req := a.asTenant().measuredEnrolment(chain.Reference())
	pcrs := fmt.Sprintf(`{"mask":"0xffffff","23":"%x"}`, a.tpm.PCR(tpm.SHA256, 23)) // the mask has no meaning here
	req.TPMPolicy, req.MTLSCert, req.AgentIP, req.AgentPort, req.AttestationMode = &pcrs, nil, nil, nil, new("push")
	a.join(t, v, req)
	_, requested := a.opened(t)
	var q api.QuoteParameters
	_ = json.Unmarshal(requested[0].Chosen, &q)
	if len(requested) != 3 || !slices.Equal(q.Subjects["sha256"], []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 23}) {
		t.Errorf("asked for %s", encode(t, requested))
	}
	a.attest(t)
	a.attest(t)
	if st := v.status(t, "a1"); st.AttestationStatus != "PASS" || st.AttestationCount != 2 {
		t.Fatalf("%s\n%s", encode(t, st), v.log)
	}
	a.boots(t, "2")
	a.attest(t)
	if at := v.kept(t, "a1", 3); at.Evaluation != store.EvaluationFail || !strings.HasPrefix(at.EventID, "measured_boot.policy_") {
		t.Errorf("another boot: %s, %s", at.Evaluation, at.EventID)
	}
}

// Requests that are refused before anything is looked at, in the order of the wire.
func TestPreconditionsOfAttestations(t *testing.T) {
	t.Parallel()
	_, a, admin := calling(t)
	other := startCalling(t, a.base, "nobody")
	other.token = a.token
	for _, c := range []struct {
		name        string
		send        func() response
		status      int
		code, retry string
		detail      string
	}{
		{"unknown agent", func() response { return exchange(t, admin, "", "GET", a.base+other.attestations()+"/latest", nil) }, 404, "not_found", "", "No enrolled agent with ID 'nobody'."},
		{"none yet", func() response { return a.deliver(t, a.attestations()+"/0", []byte(`{"data":{"type":"attestation"}}`)) }, 404, "not_found", "", "No attestation 0 exists for agent 'a1'."},
		{"none yet, latest", func() response {
			return a.deliver(t, a.attestations()+"/latest", []byte(`{"data":{"type":"attestation"}}`))
		}, 404, "not_found", "", "No attestation exists for agent 'a1'."},
		{"administrator finds none", func() response { return exchange(t, admin, "", "GET", a.base+a.attestations()+"/latest", nil) }, 404, "not_found", "", "No attestation exists for agent 'a1'."},
		{"administrator finds no such", func() response { return exchange(t, admin, "", "GET", a.base+a.attestations()+"/x", nil) }, 404, "not_found", "", "No attestation x exists for agent 'a1'."},
		{"an error of the agent's", func() response {
			return a.call(t, "POST", a.attestations(), strings.NewReader(`{"data":{"type":"error","attributes":{"a":1}}}`))
		}, 400, "invalid_request", "", ""},
		{"opened", func() response { return a.open(t) }, 201, "", "", ""},
		{"other index", func() response { return a.deliver(t, a.attestations()+"/7", []byte(`{"data":{"type":"attestation"}}`)) }, 403, "old_attestation", "", "Attestation 7 is not the latest for agent 'a1'. Only evidence for the most recent attestation may be updated."},
		{"agent gives up", func() response {
			return a.deliver(t, a.attestations()+"/0", []byte(`{"data":{"type":"error","attributes":{"evidence_collected":[]}}}`))
		}, 400, "invalid_request", "", "Request body must include attestation evidence data."},
		{"no evidence", func() response {
			return a.deliver(t, a.attestations()+"/0", []byte(`{"data":{"type":"attestation","attributes":{"evidence_collected":[]}}}`))
		}, 422, "invalid_resource_data", "", "Attribute 'evidence' is required."},
	} {
		r := c.send()
		var d api.ErrorDocument
		_ = json.Unmarshal(r.body, &d)
		if r.status != c.status || r.code() != c.code || c.detail != "" && d.Errors[0].Detail != c.detail {
			t.Errorf("%s: answered %v", c.name, r)
		}
		if c.code != "" && (d.Links == nil || !strings.HasPrefix(d.Links.Self, "/v3.0/agents/") || d.JSONAPI == nil) {
			t.Errorf("%s: links %s", c.name, r.body)
		}
	}
}

// Whatever is no JSON:API document is refused without a word.
func TestDocumentsThatAreNone(t *testing.T) {
	t.Parallel()
	_, a, _ := calling(t)
	for _, body := range []string{
		``, `{}`, `[]`, `7`, `{"data":{}}`, `{"data":[]}`, `{"data":{"type":"attestation"},"more":1}`, `{"data":{"type":7}}`,
		`{"data":{"type":"attestation","relationships":{}}}`, `{"data":{"type":"attestation","id":""}}`, `{"data":{"type":"attestation"},"meta":{}}`,
		`{"data":{"type":"attestation","type":"attestation"}}`, `{"data":{"type":"attestation"}} x`, `{"data":[{"type":"attestation"},{"type":"attestation"}]}`,
		`{"data":{"type":"attestation","attributes":[]}}`, `{"data":` + strings.Repeat(`[`, 10_000) + `}`, "{\"data\":{\"type\":\"\xff\"}}",
	} {
		if r := a.call(t, "POST", a.attestations(), strings.NewReader(body)); r.status != 400 || len(r.body) != 0 {
			t.Errorf("%.60s: answered %v", body, r)
		}
	}
	for _, kind := range []string{"", "application/json", "text/plain", "application/vnd.api+jsonx"} {
		status, body := request(t, a.client, "POST", a.base+a.attestations(), `{}`, "Content-Type", kind, "Authorization", "Bearer "+a.token)
		if status != 415 || body != "" {
			t.Errorf("Content-Type %q: answered %d %s", kind, status, body)
		}
	}
}

func TestPaceOfAttestations(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t, func(c *config.Verifier) { c.QuoteInterval = 30 * time.Second })
	r := a.attest(t)
	if s := r.attestation(t).Meta.SecondsToNext; s == nil || *s < 29 || *s > 30 {
		t.Errorf("next attestation in %v s", s)
	}
	r = a.open(t)
	if r.status != 429 || r.code() != "premature_attestation" || r.retry != "30" && r.retry != "29" {
		t.Errorf("answered %v, Retry-After %q", r, r.retry)
	}
	if _, err := v.store.Attestation(t.Context(), "a1", 1); err == nil {
		t.Error("a premature attestation is on record")
	}
}

// An agent that asks and never delivers is slowed down, and leaves one record.
func TestEvidenceThatNeverComes(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	for range openBurst {
		a.opened(t)
	}
	r := a.open(t)
	if r.status != 429 || r.code() != "premature_attestation" || r.retry == "" {
		t.Errorf("answered %v, Retry-After %q", r, r.retry)
	}
	list, err := v.store.Attestations(t.Context(), "a1", 1<<62, 100)
	if err != nil || len(list) != 1 || list[0].Index != openBurst-1 {
		t.Errorf("%d records, %v", len(list), err)
	}
	location := fmt.Sprint(a.attestations(), "/", openBurst-1)
	var asked []api.EvidenceItem
	for _, i := range list[0].Items {
		asked = append(asked, api.EvidenceItem{Class: i.Class, Type: i.Type, Chosen: i.Chosen})
	}
	if r := a.deliver(t, location, a.evidence(t, asked, nil)); r.status != 202 {
		t.Errorf("answered %v", r)
	}
	a.attest(t)
}

// An agent without any policy is asked for nothing, and cannot attest: there would be nothing to tell.
func TestAgentWithoutPolicyAttestsNothing(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	b := startCalling(t, a.base, "b1")
	b.join(t, v, b.enrolment(""))
	r := b.open(t)
	att := r.attestation(t).Data.Attributes
	if r.status != 201 || att.EvidenceRequested == nil || len(att.EvidenceRequested) != 0 || att.Expires != "" {
		t.Errorf("answered %v", r)
	}
	if r := b.deliver(t, r.location, b.evidence(t, nil, nil)); r.status != 403 || r.code() != "challenges_expired" {
		t.Errorf("answered %v", r)
	}
	if st := v.status(t, "b1"); st.AttestationStatus != "PENDING" || len(st.Appraises) != 0 {
		t.Errorf("%s", encode(t, st))
	}
}

func TestListOfAttestations(t *testing.T) {
	t.Parallel()
	v, a, admin := calling(t)
	list := func(path string) (api.List[api.Attestation], response) {
		r := exchange(t, admin, "", "GET", a.base+path, nil)
		var l api.List[api.Attestation]
		_ = json.Unmarshal(r.body, &l)
		return l, r
	}
	if l, r := list(a.attestations()); r.status != 200 || l.Data == nil || len(l.Data) != 0 {
		t.Errorf("empty list: %v", r)
	}
	for i := range 5 { // each with a file that is not allowed: failures are never dropped
		a.measure(t, fmt.Sprintf("/evil%d", i))
		a.attest(t)
	}
	var got []string
	next := a.attestations() + "?page%5Bsize%5D=2"
	for pages := 0; next != ""; pages++ {
		l, r := list(next)
		if r.status != 200 || r.kind != api.JSONAPIType || pages > 3 {
			t.Fatalf("page %d: %v", pages, r)
		}
		for _, d := range l.Data {
			got = append(got, strings.TrimPrefix(d.Links.Self, a.attestations()+"/"))
			if d.Attributes.Evaluation != "fail" || d.Attributes.FailureReason != "policy_violation" || d.Attributes.EventID == "" || d.Attributes.EventContext == nil {
				t.Errorf("%s", encode(t, d.Attributes))
			}
		}
		next = l.Links.Next
	}
	if strings.Join(got, " ") != "4 3 2 1 0" {
		t.Errorf("listed %v", got)
	}
	for _, q := range []string{"page[size]=x", "page[before]=-1", "page[size]=1&page[size]=2"} {
		if _, r := list(a.attestations() + "?" + q); r.status != 400 || r.code() != "invalid_parameter" {
			t.Errorf("%s: %v", q, r)
		}
	}
	if _, r := list("/v3.0/agents/nobody/attestations"); r.status != 404 {
		t.Errorf("nobody's: %v", r)
	}
	_ = v
}

// NT-26: challenges are 128 bits of chance each.
func TestChallengesAreRandom(t *testing.T) {
	t.Parallel()
	const n = 10_000
	seen, ones := map[string]bool{}, 0
	for range n {
		c, err := newChallenge()
		if err != nil || len(c) != 16 {
			t.Fatalf("%d bytes, %v", len(c), err)
		}
		seen[string(c)] = true
		for _, b := range c {
			for ; b != 0; b &= b - 1 {
				ones++
			}
		}
	}
	// Of 1,280,000 fair bits, six standard deviations are 3,394.
	if len(seen) != n || ones < 640_000-3_394 || ones > 640_000+3_394 {
		t.Errorf("%d different challenges, %d bits set of %d", len(seen), ones, n*128)
	}
}

// NT-26: two verifiers, and two attestations of one, never share a challenge.
func TestChallengesAreNotShared(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 2 {
		_, a, _ := calling(t)
		for range 10 {
			_, requested := a.opened(t)
			var q api.QuoteParameters
			_ = json.Unmarshal(requested[0].Chosen, &q)
			if c, _ := base64.StdEncoding.DecodeString(q.Challenge); len(c) != 16 || seen[q.Challenge] {
				t.Errorf("challenge %s again", q.Challenge)
			}
			seen[q.Challenge] = true
		}
	}
}

// A verdict is by one version of the policy: the one in force when it is judged. What it needs beyond what was asked for
// is asked for next.
func TestPolicyChangesBetweenChallengeAndEvidence(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	update := func(files ...string) {
		up := api.RuntimePolicyUpload{RuntimePolicy: new(base64.StdEncoding.EncodeToString([]byte(a.policy(files...))))}
		if err := v.updateRuntimePolicy(t.Context(), "a1", encode(t, up)); err != nil {
			t.Fatal(err)
		}
	}
	a.measure(t, "/usr/bin/new")
	location, requested := a.opened(t)
	update("/usr/bin/good", "/usr/bin/new")
	if r := a.deliver(t, location, a.evidence(t, requested, nil)); r.status != 202 {
		t.Fatal(r)
	}
	st := v.status(t, "a1")
	if st.AttestationStatus != "PASS" || st.RuntimePolicyDigest != store.DigestOf([]byte(a.policy("/usr/bin/good", "/usr/bin/new"))) {
		t.Errorf("%s", encode(t, st))
	}

	b := startCalling(t, a.base, "b1")
	req := b.enrolment("")
	pcrs := fmt.Sprintf(`{"0":"%x"}`, b.tpm.PCR(tpm.SHA256, 0))
	req.TPMPolicy = &pcrs
	b.join(t, v, req)
	location, requested = b.opened(t)
	up := api.RuntimePolicyUpload{RuntimePolicy: new(base64.StdEncoding.EncodeToString([]byte(b.policy())))}
	if err := v.updateRuntimePolicy(t.Context(), "b1", encode(t, up)); err != nil {
		t.Fatal(err)
	}
	r := b.deliver(t, location, b.evidence(t, requested, nil))
	if at := v.kept(t, "b1", 0); r.status != 202 || at.Evaluation != store.EvaluationPending || *r.attestation(t).Meta.SecondsToNext != 0 {
		t.Errorf("%v\n%s", r, at.Evaluation)
	}
	b.attest(t)
	if at := v.kept(t, "b1", 1); at.Evaluation != store.EvaluationPass || len(at.Items) != 2 {
		t.Errorf("%s by %d items", at.Evaluation, len(at.Items))
	}
}

// A measurement list beyond what is kept of an attestation is judged, and left out of its record alone.
func TestLargeListIsJudgedAndNotKept(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	for range 20_000 {
		a.measure(t, "/usr/bin/good")
	}
	r := a.attest(t)
	if n := strings.Count(string(r.body), "/usr/bin/good"); n != 20_000 {
		t.Errorf("%d entries are acknowledged", n)
	}
	at := v.kept(t, "a1", 0)
	if at.Evaluation != store.EvaluationPass || at.Items[0].Data == nil || at.Items[1].Data != nil {
		t.Errorf("record is %s, quote of %d bytes, list of %d", at.Evaluation, len(at.Items[0].Data), len(at.Items[1].Data))
	}
	a.measure(t, "/evil")
	a.attest(t)
	v.wantFailure(t, 1, "ima.validation.ima-ng.not_in_allowlist", "policy_violation")
}

// A signed policy works as for polled agents: the same loader reads it.
func TestSignedPolicyOfCallingAgent(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	b := startCalling(t, a.base, "b1")
	signed := newSigner(t)
	req := b.enrolment(string(signed.sign(t, b.policy("/usr/bin/good")).Encode()))
	req.RuntimePolicyKey = new(base64.StdEncoding.EncodeToString([]byte(signed.public.PEM())))
	b.join(t, v, req)
	b.measure(t, "/usr/bin/good")
	b.attest(t)
	if st := v.status(t, "b1"); st.AttestationStatus != "PASS" || st.HasRuntimePolicy != 1 {
		t.Errorf("%s", encode(t, st))
	}
	b.measure(t, "/evil")
	b.attest(t)
	if st := v.status(t, "b1"); st.AttestationStatus != "FAIL" {
		t.Errorf("%s", encode(t, st))
	}
}

// A policy that is proposed cannot be tried on agents that are not asked: that is said, and nothing is guessed.
func TestProposedPolicyAndCallingAgent(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	got := v.cycle.check(t.Context(), v.stored(t, a.id), nil)
	if got.Verdict != api.CheckUnreachable || !strings.Contains(got.Detail, "calls in") || got.Status != "PENDING" {
		t.Errorf("%+v", got)
	}
}

// stored is the agent as the store has it.
func (tv *testVerifier) stored(t testing.TB, id string) store.Agent {
	t.Helper()
	a, err := tv.store.Agent(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Agents of both kinds live on one verifier.
func TestMixedFleet(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	v.start(t)
	polled := startAgent(t, "p1")
	v.add(t, polled, polled.enrolment(polled.runtimePolicy("/usr/bin/good")))
	v.passes(t, "p1", 3)
	a.attest(t)
	a.measure(t, "/evil")
	a.attest(t)
	eventually(t, func() bool { return len(polled.notifications()) > 0 }, func() { t.Error("the polled agent is not told") })
	var r api.Revocation
	if err := json.Unmarshal([]byte(polled.notifications()[0].Msg), &r); err != nil || r.AgentID != "a1" || r.IP != nil || r.Port != nil {
		t.Errorf("told %+v, %v", r, err)
	}
	if !bytes.Contains([]byte(polled.notifications()[0].Msg), []byte(`"ip":null`)) && !bytes.Contains([]byte(polled.notifications()[0].Msg), []byte(`"ip": null`)) {
		t.Errorf("told %s", polled.notifications()[0].Msg)
	}
	v.passes(t, "p1", 3)
	if st := v.status(t, "a1"); st.AttestationStatus != "FAIL" {
		t.Errorf("%s", encode(t, st))
	}
}

// A pull agent does not attest by calling in.
func TestPolledAgentDoesNotCallIn(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	polled := startAgent(t, "p1")
	v.add(t, polled, polled.enrolment(""))
	b := &callingAgent{id: "p1", tpm: polled.tpm, list: polled.list, base: a.base, client: a.client}
	b.lend(t, v)
	if r := b.open(t); r.status != 403 || r.code() != "agent_attestations_disabled" || !strings.Contains(string(r.body), "pull model") {
		t.Errorf("answered %v", r)
	}
}

// A verifier that only asks has no such routes.
func TestNoAttestationsWhereAgentsAreOnlyAsked(t *testing.T) {
	t.Parallel()
	cfg := fastConfig(t)
	cfg.Push.Mode = api.ModePull
	v := newVerifier(t, cfg, openStore(t))
	base, admin := v.serve(t)
	for _, path := range []string{"/attestations", "/attestations/latest", "/attestations/0", "/payload"} {
		if r := exchange(t, admin, "", "GET", base+"/v3.0/agents/a1"+path, nil); r.status != 404 || len(r.body) != 0 {
			t.Errorf("%s: %v", path, r)
		}
	}
}

func TestStopAndReactivate(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	a.measure(t, "/evil")
	a.attest(t)
	if err := v.stopAgent(t.Context(), "a1"); err != nil {
		t.Fatal(err)
	}
	if r := a.open(t); r.status != 403 || r.code() != "agent_attestations_disabled" {
		t.Errorf("answered %v", r)
	}
	if st := v.status(t, "a1"); st.OperationalState != 10 || st.AttestationStatus != "FAIL" {
		t.Errorf("stopped: %s", encode(t, st))
	}
	if err := v.reactivateAgent(t.Context(), "a1"); err != nil {
		t.Fatal(err)
	}
	if st := v.status(t, "a1"); st.OperationalState != 3 || st.AttestationStatus != "PENDING" {
		t.Errorf("reactivated: %s", encode(t, st))
	}
	a.attest(t)
	if st := v.status(t, "a1"); st.AttestationStatus != "FAIL" {
		t.Errorf("the file is still there: %s", encode(t, st))
	}
}
