package verifier

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/fleet"
	"keylime/store"
	"keylime/tpm"
)

// NT-25: a quote over anything but the very bytes of the challenge fails the agent.
func TestChallengeInOtherForms(t *testing.T) {
	t.Parallel()
	for name, forge := range map[string]func(c, before []byte) []byte{
		"other":     func(c, _ []byte) []byte { return bytes.Repeat([]byte{7}, 16) },
		"empty":     func(c, _ []byte) []byte { return nil },
		"truncated": func(c, _ []byte) []byte { return c[:15] },
		"base64":    func(c, _ []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(c)) },
		"hex":       func(c, _ []byte) []byte { return fmt.Appendf(nil, "%x", c) },
		"suffix":    func(c, _ []byte) []byte { return append(bytes.Clone(c), 0) },
		"previous":  func(_, before []byte) []byte { return before },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, a, _ := calling(t)
			var before []byte
			challenge := func(requested []api.EvidenceItem) []byte {
				var q api.QuoteParameters
				_ = json.Unmarshal(requested[0].Chosen, &q)
				c, _ := base64.StdEncoding.DecodeString(q.Challenge)
				return c
			}
			location, requested := a.opened(t)
			before = challenge(requested)
			a.deliver(t, location, a.evidence(t, requested, nil))
			location, requested = a.opened(t)
			nonce := forge(challenge(requested), before)
			r := a.deliver(t, location, a.evidence(t, requested, func(kind string, data map[string]any) {
				if kind == api.EvidenceQuote {
					for k, v := range a.quote(t, nonce, tpm.MaskOf(10), tpm.SHA256) {
						data[k] = v
					}
				}
			}))
			if r.status != 202 {
				t.Fatalf("answered %v", r)
			}
			v.wantFailure(t, 1, "qoute_validation.quote_validation", "broken_evidence_chain")
		})
	}
}

// wantFailure wants the attestation of agent a1 to have failed by an event.
func (tv *testVerifier) wantFailure(t *testing.T, index uint64, eventID, reason string) {
	t.Helper()
	at := tv.kept(t, "a1", index)
	if at.Evaluation != store.EvaluationFail || at.EventID != eventID || at.FailureReason != reason {
		t.Errorf("attestation %d: %s, %s, %s; want %s, %s", index, at.Evaluation, at.EventID, at.FailureReason, eventID, reason)
	}
	if st := tv.status(t, "a1"); st.AttestationStatus != "FAIL" {
		t.Errorf("agent is %s", st.AttestationStatus)
	}
}

// NT-87: evidence that comes twice, too late, for another attestation, too short or from elsewhere changes nothing.
func TestEvidenceOutOfPlace(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	a.attest(t)
	st, before := v.status(t, "a1"), v.kept(t, "a1", 0)
	location, requested := a.opened(t)
	evidence := a.evidence(t, requested, nil)
	untouched := func(name string, r response, status int, code string) {
		t.Helper()
		if r.status != status || r.code() != code {
			t.Errorf("%s: answered %v", name, r)
		}
		if now := v.status(t, "a1"); !bytes.Equal(encode(t, now), encode(t, st)) {
			t.Errorf("%s: the agent's state changed", name)
		}
		if now := v.kept(t, "a1", 0); !bytes.Equal(encode(t, now), encode(t, before)) {
			t.Errorf("%s: the older attestation changed", name)
		}
	}
	untouched("older index", a.deliver(t, a.attestations()+"/0", evidence), 403, "old_attestation")
	untouched("future index", a.deliver(t, a.attestations()+"/2", evidence), 403, "old_attestation")
	untouched("fewer items", a.deliver(t, location, a.evidence(t, requested[:1], nil)), 422, "invalid_resource_data")
	untouched("other order", a.deliver(t, location, a.evidence(t, []api.EvidenceItem{requested[1], requested[0]}, nil)), 422, "invalid_resource_data")

	a.measure(t, "/usr/bin/good")
	a.measure(t, "/usr/bin/good")
	location, requested = a.opened(t)
	r := a.deliver(t, location, a.evidence(t, requested, func(kind string, data map[string]any) {
		if kind == api.EvidenceIMA {
			text := data["entries"].(string)
			data["entries"] = text[:strings.Index(text, "\n")+1]
		}
	}))
	untouched("fewer entries than announced", r, 422, "invalid_resource_data")
	if !strings.Contains(string(r.body), "must contain at least 2 entries based on the total reported log length and chosen starting offset") ||
		!strings.Contains(string(r.body), "/data/attributes/evidence/1/data/entries") {
		t.Errorf("answered %v", r)
	}
	if r := a.deliver(t, location, a.evidence(t, requested, nil)); r.status != 202 {
		t.Errorf("the challenge did not outlive the mistake: %v", r)
	}
	st = v.status(t, "a1")
	untouched("twice", a.deliver(t, location, a.evidence(t, requested, nil)), 403, "evidence_immutable")
}

// NT-87: entries of another offset prove nothing and skip nothing; then all are asked for.
func TestEntriesOfAnotherOffset(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	a.measure(t, "/usr/bin/good")
	a.attest(t)
	a.measure(t, "/evil")
	a.measure(t, "/usr/bin/good")
	a.attestWith(t, func(kind string, data map[string]any) {
		if kind == api.EvidenceIMA { // the first two of the list in place of those that are new
			all, _ := a.list.From(0)
			lines := bytes.SplitAfter(all, []byte("\n"))
			data["entries"] = string(bytes.Join(lines[:2], nil))
		}
	})
	if at := v.kept(t, "a1", 1); at.Evaluation == store.EvaluationPass {
		t.Error("passed")
	}
	if v.status(t, "a1").AttestationStatus == "PASS" && v.kept(t, "a1", 1).Evaluation != store.EvaluationPending {
		t.Error("agent passes")
	}
	a.attest(t)
	v.wantFailure(t, 2, "ima.validation.ima-ng.not_in_allowlist", "policy_violation")
}

// NT-87: a challenge has its time.
func TestExpiredChallenge(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t, func(c *config.Verifier) { c.Push.ChallengeLifetime = 50 * time.Millisecond })
	location, requested := a.opened(t)
	evidence := a.evidence(t, requested, nil)
	time.Sleep(60 * time.Millisecond)
	r := a.deliver(t, location, evidence)
	if r.status != 403 || r.code() != "challenges_expired" || !strings.Contains(string(r.body), "Create a new attestation and try again.") {
		t.Errorf("answered %v", r)
	}
	if at := v.kept(t, "a1", 0); at.Stage != store.AwaitingEvidence || !at.Evidence.IsZero() {
		t.Errorf("record %s", encode(t, at))
	}
}

// NT-88: a quote by another key, of another bank or over other PCRs than selected. What lacks what was asked for is no
// evidence (422); what has it and more, or is signed by somebody else, fails the agent.
func TestQuoteOfSomethingElse(t *testing.T) {
	t.Parallel()
	other := softTPM(t, "ecc256")
	for _, c := range []struct {
		name   string
		quote  func(a *callingAgent, nonce []byte) map[string]any
		status int
		event  string
	}{
		{"another key", func(a *callingAgent, nonce []byte) map[string]any {
			b := *a
			b.tpm = other
			return b.quote(t, nonce, tpm.MaskOf(10), tpm.SHA256)
		}, 202, "qoute_validation.quote_validation"},
		{"another bank", func(a *callingAgent, nonce []byte) map[string]any { return a.quote(t, nonce, tpm.MaskOf(10), tpm.SHA1) }, 422, ""},
		{"other PCRs", func(a *callingAgent, nonce []byte) map[string]any {
			return a.quote(t, nonce, tpm.MaskOf(0, 1), tpm.SHA256)
		}, 422, ""},
		{"no PCRs", func(a *callingAgent, nonce []byte) map[string]any { return a.quote(t, nonce, 0, tpm.SHA256) }, 422, ""},
		{"more PCRs", func(a *callingAgent, nonce []byte) map[string]any {
			return a.quote(t, nonce, tpm.MaskOf(10, 11), tpm.SHA256)
		},
			202, "qoute_validation.quote_validation"},
		{"PCR 16 and more", func(a *callingAgent, nonce []byte) map[string]any {
			return a.quote(t, nonce, tpm.MaskOf(10, 11, 16), tpm.SHA256)
		},
			202, "qoute_validation.quote_validation"},
		{"the values of another quote", func(a *callingAgent, nonce []byte) map[string]any {
			q, _ := a.tpm.Quote(nonce, tpm.MaskOf(0), tpm.SHA256)
			data := a.quote(t, nonce, tpm.MaskOf(10), tpm.SHA256)
			return map[string]any{"message": quoteData(q)["message"], "signature": quoteData(q)["signature"], "subject_data": data["subject_data"]}
		}, 202, "pcr_validation.missing_pcrs"},
		{"forged values", func(a *callingAgent, nonce []byte) map[string]any {
			data := a.quote(t, nonce, tpm.MaskOf(10), tpm.SHA256)
			data["subject_data"] = base64.StdEncoding.EncodeToString(tpm.MarshalPCRBlob(tpm.SHA256, tpm.MaskOf(10), [][]byte{make([]byte, 32)}))
			return data
		}, 202, "qoute_validation.quote_validation"},
		{"no quote at all", func(a *callingAgent, nonce []byte) map[string]any {
			data := a.quote(t, nonce, tpm.MaskOf(10), tpm.SHA256)
			data["message"] = base64.StdEncoding.EncodeToString([]byte("trust me"))
			return data
		}, 202, "qoute_validation.quote_validation"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v, a, _ := calling(t)
			location, requested := a.opened(t)
			var q api.QuoteParameters
			_ = json.Unmarshal(requested[0].Chosen, &q)
			nonce, _ := base64.StdEncoding.DecodeString(q.Challenge)
			r := a.deliver(t, location, a.evidence(t, requested, func(kind string, data map[string]any) {
				if kind == api.EvidenceQuote {
					for k, v := range c.quote(a, nonce) {
						data[k] = v
					}
				}
			}))
			if r.status != c.status {
				t.Fatalf("answered %v", r)
			}
			if c.status == 422 {
				if !strings.Contains(string(r.body), "must contain at least the PCRs requested") || !strings.Contains(string(r.body), "/data/attributes/evidence/0/data/subject_data") {
					t.Errorf("answered %v", r)
				}
				if at := v.kept(t, "a1", 0); at.Stage != store.AwaitingEvidence || v.status(t, "a1").AttestationCount != 0 {
					t.Error("it counts for something")
				}
				return
			}
			reason := "broken_evidence_chain"
			if c.event == "pcr_validation.missing_pcrs" {
				reason = "policy_violation"
			}
			v.wantFailure(t, 0, c.event, reason)
		})
	}
}

// Agents that extend and quote PCR 16 beside what was asked for are as good as others.
func TestPCR16Beside(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	a.binds16 = true
	a.tpm.BindData("the AK's digest, or whatever")
	a.attest(t)
	a.attest(t)
	if st := v.status(t, "a1"); st.AttestationStatus != "PASS" || st.AttestationCount != 2 {
		t.Errorf("%s\n%s", encode(t, st), v.log)
	}
}

// Evidence that is malformed is refused with a pointer, and changes nothing.
func TestMalformedEvidence(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	location, requested := a.opened(t)
	const quote, log = "/data/attributes/evidence/0/data", "/data/attributes/evidence/1/data"
	for _, c := range []struct {
		name    string
		change  func(kind string, data map[string]any)
		pointer string
		detail  string
	}{
		{"no message", set(api.EvidenceQuote, "message", nil), quote + "/message", "Attribute 'evidence' is required."},
		{"no signature", set(api.EvidenceQuote, "signature", nil), quote + "/signature", "is required"},
		{"no values", set(api.EvidenceQuote, "subject_data", nil), quote + "/subject_data", "is required"},
		{"a number for a message", set(api.EvidenceQuote, "message", 7), quote + "/message", "is of an incorrect type"},
		{"message not binary", set(api.EvidenceQuote, "message", "?"), quote + "/message", "must be valid binary"},
		{"values not binary", set(api.EvidenceQuote, "subject_data", "?"), quote + "/subject_data", "must be valid binary"},
		{"values that are none", set(api.EvidenceQuote, "subject_data", "AAAA"), quote + "/subject_data", "must be valid binary"},
		{"huge message", set(api.EvidenceQuote, "message", strings.Repeat("A", 1<<20)), quote, "is longer than"},
		{"entries of another type", set(api.EvidenceIMA, "entries", 7), log + "/entries", "is of an incorrect type"},
		{"no entries", set(api.EvidenceIMA, "entries", nil), log + "/entries", "must contain at least 1 entries"},
	} {
		r := a.deliver(t, location, a.evidence(t, requested, c.change))
		if r.status != 422 || r.code() != "invalid_resource_data" || !strings.Contains(string(r.body), c.pointer) || !strings.Contains(string(r.body), c.detail) {
			t.Errorf("%s: answered %v", c.name, r)
		}
	}
	for _, attributes := range []string{`{"evidence_collected":7}`, `{"evidence_collected":[7,8]}`, `{"evidence_collected":{}}`, `{"x":1}`, `{"evidence_collected":null}`} {
		r := a.deliver(t, location, []byte(`{"data":{"type":"attestation","attributes":`+attributes+`}}`))
		if r.status != 422 || !strings.Contains(string(r.body), `"pointer":"/data/attributes/evidence"`) {
			t.Errorf("%s: answered %v", attributes, r)
		}
	}
	if r := a.deliver(t, location, a.evidence(t, requested, nil)); r.status != 202 || v.status(t, "a1").AttestationCount != 1 {
		t.Errorf("the challenge did not outlive them: %v", r)
	}
}

func set(kind, name string, value any) func(string, map[string]any) {
	return func(k string, data map[string]any) {
		if k == kind {
			data[name] = value
			if value == nil {
				delete(data, name)
			}
		}
	}
}

// NT-89: an agent that stops calling times out within five intervals, and that is told once.
func TestSilentAgentTimesOut(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	v.start(t)
	if st := v.status(t, "a1"); st.AttestationStatus != "PENDING" {
		t.Errorf("%s", encode(t, st))
	}
	a.attest(t)
	began := time.Now()
	st := v.until(t, "a1", "timeout", func(st api.VerifierAgent) bool { return st.AttestationStatus == "TIMEOUT" })
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("after %v", d)
	}
	if st.LastEventID == nil || *st.LastEventID != eventNotReachable {
		t.Errorf("%s", encode(t, st))
	}
	notices, err := v.store.Notices(t.Context(), channelPush, 0, 10)
	if err != nil || len(notices) != 1 || !strings.Contains(string(notices[0].Message), "comm_error") {
		t.Errorf("%d notices, %v", len(notices), err)
	}
	if at, err := v.store.Agent(t.Context(), "a1"); err != nil || !at.Due.IsZero() {
		t.Errorf("due at %v, %v", at.Due, err)
	}
	a.attest(t)
	if st := v.status(t, "a1"); st.AttestationStatus != "PASS" {
		t.Errorf("back again: %s", encode(t, st))
	}
}

// NT-89: a failure is never overwritten by silence.
func TestTimeoutDoesNotHideFailure(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	v.start(t)
	a.measure(t, "/evil")
	a.attest(t)
	before := v.status(t, "a1")
	eventually(t, func() bool { at, err := v.store.Agent(t.Context(), "a1"); return err == nil && at.Status.TimedOut }, func() { t.Error("no timeout") })
	if st := v.status(t, "a1"); st.AttestationStatus != "FAIL" || *st.LastEventID != *before.LastEventID {
		t.Errorf("%s", encode(t, st))
	}
	if notices, err := v.store.Notices(t.Context(), channelPush, 0, 10); err != nil || len(notices) != 1 {
		t.Errorf("%d notices, %v", len(notices), err)
	}
}

// NT-89: the deadline survives the verifier, and the time that there was none does not count against the agent.
func TestDeadlineSurvivesTheVerifier(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	a.attest(t)
	time.Sleep(6 * v.cfg.QuoteInterval) // longer than it may be silent, while nobody looks
	next := newVerifier(t, v.cfg, v.store)
	began := time.Now()
	next.start(t)
	time.Sleep(3 * v.cfg.QuoteInterval)
	if st := next.status(t, "a1"); st.AttestationStatus != "PASS" {
		t.Errorf("at once: %s", encode(t, st))
	}
	next.until(t, "a1", "timeout", func(st api.VerifierAgent) bool { return st.AttestationStatus == "TIMEOUT" })
	if d := time.Since(began); d < 5*v.cfg.QuoteInterval {
		t.Errorf("timed out after %v", d)
	}
}

// NT-8A: a failed agent stays failed, whatever it proves later, unless failures may mend themselves.
func TestGoodEvidenceAfterFailure(t *testing.T) {
	t.Parallel()
	for _, mends := range []bool{false, true} {
		t.Run(fmt.Sprint("mends ", mends), func(t *testing.T) {
			t.Parallel()
			v, a, _ := calling(t, func(c *config.Verifier) { c.Push.AutoRecover = mends })
			a.attest(t)
			a.attestWith(t, func(kind string, data map[string]any) {
				if kind == api.EvidenceQuote {
					data["signature"] = quoteData(tpm.Quote{Signature: []byte("forged")})["signature"]
				}
			})
			v.wantFailure(t, 1, "qoute_validation.quote_validation", "broken_evidence_chain")
			a.attest(t)
			want := map[bool]string{false: "FAIL", true: "PASS"}[mends]
			if st := v.status(t, "a1"); st.AttestationStatus != want || v.kept(t, "a1", 2).Evaluation != store.EvaluationPass {
				t.Errorf("%s, record %s", encode(t, st), v.kept(t, "a1", 2).Evaluation)
			}
			if err := v.reactivateAgent(t.Context(), "a1"); err != nil {
				t.Fatal(err)
			}
			a.attest(t)
			if st := v.status(t, "a1"); st.AttestationStatus != "PASS" {
				t.Errorf("after reactivation: %s", encode(t, st))
			}
		})
	}
}

// NT-8B: whatever boot time an agent gives, no entry is skipped: the reset count of the TPM says what was rebooted.
func TestBootTimeIsNotBelieved(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{0, time.Minute, -time.Minute, 1000 * time.Hour} {
		for _, files := range []int{0, 5} { // the new list is shorter, or longer
			t.Run(fmt.Sprint(after, " ", files, " files"), func(t *testing.T) {
				t.Parallel()
				v, a, _ := calling(t)
				a.measure(t, "/usr/bin/good")
				a.measure(t, "/usr/bin/good")
				a.attest(t)
				a.reboot(t, after)
				for range files {
					a.measure(t, "/usr/bin/good")
				}
				a.attest(t)
				if v.kept(t, "a1", 1).Evaluation == store.EvaluationPending {
					a.attest(t)
				}
				if st := v.status(t, "a1"); st.AttestationStatus != "PASS" || st.AttestationCount != 2 {
					t.Fatalf("%s\n%s", encode(t, st), v.log)
				}
				// What was measured early in this boot is not hidden behind the entries proven in the last.
				a.reboot(t, after)
				a.measure(t, "/evil")
				for range files + 3 {
					a.measure(t, "/usr/bin/good")
				}
				a.attest(t)
				if st := v.status(t, "a1"); st.AttestationStatus == "PASS" {
					a.attest(t)
				}
				if st := v.status(t, "a1"); st.AttestationStatus != "FAIL" || st.AttestationCount != 2 {
					t.Errorf("%s", encode(t, st))
				}
			})
		}
		t.Run(fmt.Sprint("no reboot, ", after), func(t *testing.T) {
			t.Parallel()
			v, a, _ := calling(t)
			a.measure(t, "/usr/bin/good")
			a.attest(t)
			a.booted = a.booted.Add(after)
			a.attest(t)
			if st := v.status(t, "a1"); st.AttestationStatus != "PASS" || st.AttestationCount != 2 {
				t.Errorf("%s", encode(t, st))
			}
			// A list that became shorter without a reset of the TPM.
			a.booted = a.booted.Add(after)
			short, err := fleet.NewMeasured(softTPM(t, "ecc256"))
			if err != nil {
				t.Fatal(err)
			}
			a.list = short
			a.attest(t)
			if v.kept(t, "a1", 2).Evaluation == store.EvaluationPending {
				a.attest(t)
			}
			if st := v.status(t, "a1"); st.AttestationStatus != "FAIL" {
				t.Errorf("%s", encode(t, st))
			}
		})
	}
}

// A verifier that has no room says so before it reads.
func TestBusyVerifierSaysWhenToComeBack(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	location, requested := a.opened(t)
	for range cap(v.calls.slots) {
		v.calls.slots <- struct{}{}
	}
	r := a.deliver(t, location, a.evidence(t, requested, nil))
	if r.status != http.StatusServiceUnavailable || r.retry != "5" {
		t.Errorf("answered %v, Retry-After %q", r, r.retry)
	}
	for range cap(v.calls.slots) {
		<-v.calls.slots
	}
	if r := a.deliver(t, location, a.evidence(t, requested, nil)); r.status != 202 {
		t.Errorf("answered %v", r)
	}
}

// NT-89: the verifier's clock is set forward: nobody times out for that.
func TestClockSetForward(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t, func(c *config.Verifier) { c.QuoteInterval = 400 * time.Millisecond })
	a.attest(t)
	v.dueAt(t, "a1", time.Now().Add(-time.Hour)) // as it looks then
	leases, err := v.store.Claim(t.Context(), v.cfg.UUID, v.cycle.run, time.Now().UTC(), 1, time.Minute)
	if err != nil || len(leases) != 1 {
		t.Fatal(leases, err)
	}
	if due, ok := v.cycle.do(t.Context(), leases[0]); !ok || time.Until(due) > v.cycle.pacing.silence() {
		t.Errorf("due at %v, %v", due, ok)
	}
	if st := v.status(t, "a1"); st.AttestationStatus != "PASS" {
		t.Errorf("%s", encode(t, st))
	}
}

// NT-89: it is set back: whoever is silent times out all the same.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	a.attest(t)
	v.dueAt(t, "a1", time.Now().Add(time.Hour)) // as it looks then
	v.clockJumped(t.Context(), -time.Hour)
	v.start(t)
	v.until(t, "a1", "timeout", func(st api.VerifierAgent) bool { return st.AttestationStatus == "TIMEOUT" })
}

// dueAt moves an agent's deadline.
func (tv *testVerifier) dueAt(t *testing.T, id string, at time.Time) {
	t.Helper()
	l, err := tv.store.Lease(t.Context(), id, tv.cycle.run, time.Now().UTC(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := tv.store.Commit(t.Context(), l, store.Round{Status: l.Agent.Status, State: l.Agent.State, Next: at}, time.Now().UTC()); err != nil {
		t.Fatal(err)
	}
}
