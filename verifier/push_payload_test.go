package verifier

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/tpm"
)

// payloadFor is a payload as a tenant leaves it, with U sealed for the agent's TPM.
func (a *callingAgent) payloadFor(t *testing.T, data string) api.Payload {
	t.Helper()
	ek, err := tpm.ParsePublic(a.tpm.EKPublic())
	if err != nil {
		t.Fatal(err)
	}
	ak, err := tpm.ParsePublic(a.tpm.AKPublic())
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := tpm.MakeCredential(rand.Reader, ek, ak.Name(), bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	e := base64.StdEncoding
	return api.Payload{SealedU: e.EncodeToString(sealed), Tag: strings.Repeat("ab", 48), Data: e.EncodeToString([]byte(data))}
}

// The agent's half of the key is given out after a good attestation, and not after a bad one.
func TestPayloadIsReleasedAfterAPass(t *testing.T) {
	t.Parallel()
	v, _, admin := calling(t)
	base, _ := v.serve(t)
	a := startCalling(t, base, "b1")
	a.extensions = []string{api.ExtensionPayload}
	req := a.enrolment(a.policy("/usr/bin/good"))
	share := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{2}, 32))
	req.V = &share
	a.join(t, v, req)
	path := "/v3.0/agents/b1/payload"
	get := func() response { return exchange(t, a.client, a.token, "GET", base+path, nil) }
	put := func(p api.Payload) response {
		return exchange(t, admin, "", "PUT", base+path, bytes.NewReader(resourceOf(t, "payload", p)))
	}

	if r := get(); r.status != 404 {
		t.Errorf("without a payload: %v", r)
	}
	left := a.payloadFor(t, "secret")
	if r := put(left); r.status != 204 {
		t.Fatalf("PUT answered %v", r)
	}
	if r := get(); r.status != 403 || r.code() != "payload_withheld" || bytes.Contains(r.body, []byte(share)) {
		t.Errorf("before the first pass: %v", r)
	}
	rev := a.attest(t).attestation(t).Meta.PayloadRev
	if rev == 0 {
		t.Error("the agent is not told that there is a payload")
	}
	r := get()
	var d api.Document[api.Payload]
	if err := json.Unmarshal(r.body, &d); err != nil || r.status != 200 || r.kind != api.JSONAPIType {
		t.Fatalf("after the pass: %v, %v", r, err)
	}
	want := left
	want.V = share
	if d.Data.Attributes != want || d.Data.Type != "payload" {
		t.Errorf("got %+v, want %+v", d.Data.Attributes, want)
	}
	if r := put(a.payloadFor(t, "other secret")); r.status != 204 {
		t.Errorf("PUT answered %v", r)
	}
	if again := a.attest(t).attestation(t).Meta.PayloadRev; again <= rev {
		t.Errorf("revision %d after %d", again, rev)
	}

	a.measure(t, "/evil")
	if meta := a.attest(t).attestation(t).Meta; meta.PayloadRev != 0 {
		t.Errorf("after a failure: %s", encode(t, meta))
	}
	if r := get(); r.status != 403 {
		t.Errorf("after a failure: %v", r)
	}
	if err := v.reactivateAgent(t.Context(), "b1"); err != nil {
		t.Fatal(err)
	}
	if r := get(); r.status != 403 {
		t.Errorf("reactivated, but not attested: %v", r)
	}
	if err := v.deleteAgent(t.Context(), "b1"); err != nil {
		t.Fatal(err)
	}
	a.join(t, v, req)
	a.attest(t)
	if r := get(); r.status != 404 {
		t.Errorf("the payload outlived its agent: %v", r)
	}
}

func TestPayloadIsChecked(t *testing.T) {
	t.Parallel()
	v, a, admin := calling(t)
	share := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{2}, 32))
	b := startCalling(t, a.base, "b1")
	req := b.enrolment(b.policy())
	req.V = &share
	b.join(t, v, req)
	polled := startAgent(t, "p1")
	v.add(t, polled, polled.enrolment(""))
	good := b.payloadFor(t, "x")
	with := func(change func(p *api.Payload)) api.Payload { p := good; change(&p); return p }
	for _, c := range []struct {
		name, id string
		payload  api.Payload
		status   int
		text     string
	}{
		{"unknown agent", "nobody", good, 404, "No enrolled agent"},
		{"no key share", "a1", good, 409, "without a key share"},
		{"pull agent", "p1", good, 409, "pull model"},
		{"key not sealed", "b1", with(func(p *api.Payload) { p.SealedU = "AAAA" }), 422, "/data/attributes/sealed_key"},
		{"key not base64", "b1", with(func(p *api.Payload) { p.SealedU = "?" }), 422, "/data/attributes/sealed_key"},
		{"tag", "b1", with(func(p *api.Payload) { p.Tag = "ab" }), 422, "/data/attributes/auth_tag"},
		{"no data", "b1", with(func(p *api.Payload) { p.Data = "" }), 422, "/data/attributes/payload"},
	} {
		r := exchange(t, admin, "", "PUT", a.base+"/v3.0/agents/"+c.id+"/payload", bytes.NewReader(resourceOf(t, "payload", c.payload)))
		if r.status != c.status || !strings.Contains(string(r.body), c.text) {
			t.Errorf("%s: %v", c.name, r)
		}
	}
}

// Agents that ask for them get the notices of others' failures with their answers, until they have acknowledged them.
func TestNoticesComeWithAnswers(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	b := startCalling(t, a.base, "b1")
	b.join(t, v, b.enrolment(b.policy()))
	plain := a.attest(t)
	if bytes.Contains(plain.body, []byte("revocation_notices")) {
		t.Errorf("an agent that did not ask is told: %v", plain)
	}
	a.extensions = []string{api.ExtensionNotices}
	if n := a.attest(t).attestation(t).Meta.Notices; len(n) != 0 {
		t.Errorf("%d notices before any failure", len(n))
	}
	b.measure(t, "/evil")
	b.attest(t)
	for range 2 { // until it is acknowledged
		n := a.attest(t).attestation(t).Meta.Notices
		var note api.Notification
		var r api.Revocation
		if len(n) != 1 || json.Unmarshal(n[0].Message, &note) != nil || json.Unmarshal([]byte(note.Msg), &r) != nil || r.AgentID != "b1" || r.Type != "revocation" {
			t.Fatalf("notices %s", encode(t, n))
		}
		a.seen = max(a.seen, 0)
		if n[0].ID == 0 {
			t.Error("a notice without a number")
		}
	}
	a.seen = a.attest(t).attestation(t).Meta.Notices[0].ID
	if n := a.attest(t).attestation(t).Meta.Notices; len(n) != 0 {
		t.Errorf("%d notices after the acknowledgement", len(n))
	}
	if st, err := v.store.Agent(t.Context(), "a1"); err != nil || st.Status.Notice != a.seen {
		t.Errorf("acknowledged %d, kept %d, %v", a.seen, st.Status.Notice, err)
	}
	b.attest(t) // the same failure again is no news
	if n := a.attest(t).attestation(t).Meta.Notices; len(n) != 0 {
		t.Errorf("%d notices of what was reported", len(n))
	}
}

// A notice that nobody takes is taken down in the end.
func TestNoticeBoardIsCleared(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	a.measure(t, "/evil")
	a.attest(t)
	events, err := v.store.ClaimEvents(t.Context(), "later", time.Now().Add(48*time.Hour), 10, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if e.Channel == channelPush {
			v.outbox.deliver(t.Context(), e)
		}
	}
	if n, err := v.store.Notices(t.Context(), channelPush, 0, 10); err != nil || len(n) != 0 {
		t.Errorf("%d notices, %v", len(n), err)
	}
}
