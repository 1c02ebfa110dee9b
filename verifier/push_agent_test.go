package verifier

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/fleet"
	"keylime/store"
	"keylime/tpm"
)

// callingAgent is an attester that calls in: a software TPM and a measurement list, and a client of the verifier's API
// over TLS.
type callingAgent struct {
	id     string
	tpm    *fleet.SoftTPM
	list   *fleet.Measured
	boot   *fleet.BootLog
	booted time.Time

	base   string
	client *http.Client
	token  string

	extensions []string
	seen       uint64
	binds16    bool // quotes PCR 16 besides, as some agents do
}

// startCalling makes an attester with a session. It has no port.
func startCalling(t testing.TB, base, id string) *callingAgent {
	t.Helper()
	soft := softTPM(t, "ecc256")
	a := &callingAgent{id: id, tpm: soft, base: base, client: clientWith(t), booted: time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)}
	a.measures(t)
	return a
}

// measures starts the measurement list, as the kernel does at boot.
func (a *callingAgent) measures(t testing.TB) {
	t.Helper()
	list, err := fleet.NewMeasured(a.tpm)
	if err != nil {
		t.Fatal(err)
	}
	a.list = list
}

// asTenant is the agent as the tests of the pull model know it, for what tenants say of both.
func (a *callingAgent) asTenant() *testAgent {
	return &testAgent{id: a.id, tpm: a.tpm, list: a.list, bank: tpm.SHA256, enc: "ecc256", sign: "ecdsa"}
}

// policy allows the agent's boot aggregate and the named files.
func (a *callingAgent) policy(files ...string) string { return a.asTenant().runtimePolicy(files...) }

// enrolment is what a tenant sends for the agent.
func (a *callingAgent) enrolment(policy string) api.EnrolRequest {
	req := a.asTenant().enrolment(policy)
	req.AgentIP, req.AgentPort, req.MTLSCert = nil, nil, nil
	req.AttestationMode = new(api.ModePush)
	return req
}

// join enrols the agent and opens a session for it.
func (a *callingAgent) join(t testing.TB, v *testVerifier, req api.EnrolRequest) {
	t.Helper()
	v.add(t, a.asTenant(), req)
	a.login(t)
}

// login proves that the agent holds its AK, and keeps the token.
func (a *callingAgent) login(t testing.TB) {
	t.Helper()
	id, nonce := challengeOf(t, a.ask(t))
	a.token = sessionResult(t, a.prove(t, id, nonce, nil)).Token
}

// lend gives the agent a session without a proof, for agents whose TPM is not here.
func (a *callingAgent) lend(t testing.TB, v *testVerifier) {
	t.Helper()
	const session = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
	a.token = session + "." + strings.Repeat("x", 43)
	hash := sha256.Sum256([]byte(a.token))
	if err := v.store.OpenSession(t.Context(), store.Session{ID: session, AgentID: a.id, TokenHash: hash[:], Expires: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
}

// response is an answer with what tests look at.
type response struct {
	status   int
	location string
	retry    string
	kind     string
	body     []byte
}

// code is the code of the first error.
func (r response) code() string {
	var d api.ErrorDocument
	_ = json.Unmarshal(r.body, &d)
	if len(d.Errors) == 0 {
		return ""
	}
	return d.Errors[0].Code
}

// attestation is the attestation that an answer shows.
func (r response) attestation(t testing.TB) api.Document[api.Attestation] {
	t.Helper()
	var d api.Document[api.Attestation]
	if err := json.Unmarshal(r.body, &d); err != nil {
		t.Fatalf("%d %s: %v", r.status, r.body, err)
	}
	return d
}

func (r response) String() string { return fmt.Sprintf("%d %.600s", r.status, r.body) }

// call sends a JSON:API request with the agent's token.
func (a *callingAgent) call(t testing.TB, method, path string, body io.Reader) response {
	t.Helper()
	return exchange(t, a.client, a.token, method, a.base+path, body)
}

func exchange(t testing.TB, client *http.Client, token, method, url string, body io.Reader) response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", api.JSONAPIType)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response{
		status: resp.StatusCode, location: resp.Header.Get("Location"), retry: resp.Header.Get("Retry-After"),
		kind: resp.Header.Get("Content-Type"), body: text,
	}
}

// resourceOf is the text of a document with one resource.
func resourceOf(t testing.TB, kind string, attributes any) []byte {
	return encode(t, map[string]any{"data": map[string]any{"type": kind, "attributes": attributes}})
}

func (a *callingAgent) attestations() string { return "/v3.0/agents/" + a.id + "/attestations" }

// offer is what the agent says that it can give.
func (a *callingAgent) offer() offer {
	o := genuineOffer(a.tpm, a.list.Len())
	o["system_info"] = map[string]any{"boot_time": a.booted.Format(time.RFC3339)}
	if len(a.extensions) > 0 {
		o["extensions"], o["revocation_notice_seen"] = a.extensions, a.seen
	}
	return o
}

// open starts an attestation.
func (a *callingAgent) open(t testing.TB) response {
	t.Helper()
	return a.call(t, "POST", a.attestations(), bytes.NewReader(resourceOf(t, "attestation", a.offer())))
}

// opened starts an attestation that must be accepted.
func (a *callingAgent) opened(t testing.TB) (location string, requested []api.EvidenceItem) {
	t.Helper()
	r := a.open(t)
	if r.status != http.StatusCreated {
		t.Fatalf("POST answered %v", r)
	}
	return r.location, r.attestation(t).Data.Attributes.EvidenceRequested
}

// evidence is what a genuine agent delivers; change, if any, sees each item's data first.
func (a *callingAgent) evidence(t testing.TB, requested []api.EvidenceItem, change func(kind string, data map[string]any)) []byte {
	t.Helper()
	items := make([]any, len(requested))
	for i, r := range requested {
		data := a.data(t, r)
		if change != nil {
			change(r.Type, data)
		}
		items[i] = map[string]any{"evidence_class": r.Class, "evidence_type": r.Type, "data": data}
	}
	return resourceOf(t, "attestation", map[string]any{"evidence_collected": items})
}

// data is one item's.
func (a *callingAgent) data(t testing.TB, item api.EvidenceItem) map[string]any {
	t.Helper()
	if item.Type == api.EvidenceQuote {
		var p api.QuoteParameters
		if err := json.Unmarshal(item.Chosen, &p); err != nil {
			t.Fatal(err)
		}
		nonce, err := base64.StdEncoding.DecodeString(p.Challenge)
		if err != nil {
			t.Fatal(err)
		}
		mask := tpm.MaskOf(p.Subjects[p.Hash]...)
		if a.binds16 {
			mask = mask.With(tpm.PCRData)
		}
		bank, err := tpm.ParseHash(p.Hash)
		if err != nil {
			t.Fatal(err)
		}
		return a.quote(t, nonce, mask, bank)
	}
	var p api.LogParameters
	if err := json.Unmarshal(item.Chosen, &p); err != nil {
		t.Fatal(err)
	}
	if item.Type == api.EvidenceBootLog {
		return map[string]any{"entries": base64.StdEncoding.EncodeToString(a.boot.Bytes())}
	}
	text, _ := a.list.From(*p.Offset)
	return map[string]any{"entry_count": bytes.Count(text, []byte("\n")), "entries": string(text)}
}

// quote is a quote as evidence.
func (a *callingAgent) quote(t testing.TB, nonce []byte, mask tpm.Mask, bank tpm.Hash) map[string]any {
	t.Helper()
	q, err := a.tpm.Quote(nonce, mask, bank)
	if err != nil {
		t.Fatal(err)
	}
	return quoteData(q)
}

func quoteData(q tpm.Quote) map[string]any {
	e := base64.StdEncoding
	return map[string]any{
		"message": e.EncodeToString(q.Attest), "signature": e.EncodeToString(q.Signature), "subject_data": e.EncodeToString(q.PCRBlob),
	}
}

// deliver sends evidence.
func (a *callingAgent) deliver(t testing.TB, location string, evidence []byte) response {
	t.Helper()
	return a.call(t, "PATCH", location, bytes.NewReader(evidence))
}

// attest runs a whole attestation, which must be taken. What came of it is in the agent's status.
func (a *callingAgent) attest(t testing.TB) response {
	t.Helper()
	return a.attestWith(t, nil)
}

// attestWith does, with evidence changed on its way.
func (a *callingAgent) attestWith(t testing.TB, change func(kind string, data map[string]any)) response {
	t.Helper()
	location, requested := a.opened(t)
	r := a.deliver(t, location, a.evidence(t, requested, change))
	if r.status != http.StatusAccepted {
		t.Fatalf("PATCH answered %v", r)
	}
	return r
}

// boots has the machine boot what a release measures.
func (a *callingAgent) boots(t testing.TB, release string) {
	t.Helper()
	a.boot = fleet.NewBootChain(release).Log(tpm.SHA1, tpm.SHA256)
	if err := a.boot.Boot(a.tpm); err != nil {
		t.Fatal(err)
	}
	a.booted = a.booted.Add(time.Minute)
	a.measures(t)
}

// measure has the kernel measure a file.
func (a *callingAgent) measure(t testing.TB, path string) {
	t.Helper()
	if _, err := a.list.Add(path, fileDigest(path)); err != nil {
		t.Fatal(err)
	}
}

// reboot resets the TPM and starts the list anew. boot times are whole seconds.
func (a *callingAgent) reboot(t testing.TB, after time.Duration) {
	t.Helper()
	a.tpm.Reset()
	a.booted = a.booted.Add(after)
	a.measures(t)
}
