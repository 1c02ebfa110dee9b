package verifier

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/store"
)

func stageBody(t testing.TB, text string, seconds int64) []byte {
	encoded := base64.StdEncoding.EncodeToString([]byte(text))
	return encode(t, api.RuntimePolicyStage{ProposedPolicy: &encoded, Seconds: seconds})
}

// While a policy is replaced in stages, machines with the old files pass and so do those with the new ones. Then the new
// text counts alone.
func TestStagedUpdate(t *testing.T) {
	t.Parallel()
	before, after, late := startAgent(t, "before"), startAgent(t, "after"), startAgent(t, "late")
	old, next := before.runtimePolicy("/usr/bin/v1"), before.runtimePolicy("/usr/bin/v2")
	db := openStore(t)
	v := startVerifier(t, fastConfig(t), db)
	if err := v.addRuntimePolicy(t.Context(), "p", upload(old)); err != nil {
		t.Fatal(err)
	}
	name := "p"
	for _, a := range []*testAgent{before, after, late} {
		req := a.enrolment("")
		mask := `{"mask": "0x400"}`
		req.RuntimePolicyName, req.TPMPolicy = &name, &mask
		v.add(t, a, req)
	}
	v.passes(t, "before", 1)
	answer, err := v.stageRuntimePolicy(t.Context(), "p", stageBody(t, next, 3600))
	if err != nil {
		t.Fatalf("%v %v", answer, err)
	}
	for _, id := range []string{"before", "after"} { // a round under way keeps the text that it began with
		v.until(t, id, "round judged by the new text", func(st api.VerifierAgent) bool {
			return st.RuntimePolicyDigest == store.DigestOf([]byte(next))
		})
	}
	before.measure(t, "/usr/bin/v1")
	after.measure(t, "/usr/bin/v2")
	for _, id := range []string{"before", "after"} {
		st := v.passes(t, id, 2)
		if st.RuntimePolicyDigest != store.DigestOf([]byte(next)) || st.RuntimePolicyWindow == nil || st.RuntimePolicyWindow.PreviousDigest != store.DigestOf([]byte(old)) {
			t.Errorf("status %s", encode(t, st))
		}
	}
	record, err := v.runtimePolicy(t.Context(), "p")
	if err != nil || record.RuntimePolicy != next || record.Window == nil || time.Until(record.Window.Until) < 50*time.Minute {
		t.Errorf("%+v, %v", record, err)
	}
	if _, err := v.stageRuntimePolicy(t.Context(), "p", stageBody(t, old, 60)); err == nil || !strings.Contains(err.Error(), "is being replaced already") {
		t.Errorf("staged twice: %v", err)
	}

	// The window ends. Nobody does anything for it.
	p, err := db.Policy(t.Context(), store.RuntimePolicy, "p")
	if err != nil {
		t.Fatal(err)
	}
	p.Previous.Until = time.Now()
	if err := db.UpdatePolicy(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	v.passes(t, "late", 2) // a round that began in the window is judged by what counted then
	late.measure(t, "/usr/bin/v1")
	st := v.until(t, "late", "failure by the new text", inState(store.StateInvalidQuote))
	if st.RuntimePolicyWindow != nil || !strings.Contains(string(st.LastEventContext), "/usr/bin/v1") {
		t.Errorf("status %s", encode(t, st))
	}
	if st := v.passes(t, "before", 2); st.AttestationStatus != "PASS" {
		t.Error("what was accepted in the window is not accepted any more")
	}
	if record, err := v.runtimePolicy(t.Context(), "p"); err != nil || record.Window != nil {
		t.Errorf("%+v, %v", record, err)
	}
}

func TestStagingIsRefused(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := newVerifier(t, fastConfig(t), openStore(t))
	base, admin := v.serve(t)
	text := agent.runtimePolicy()
	if err := v.addRuntimePolicy(t.Context(), "p", upload(text)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, body string
		status     int
		text       string
	}{
		{"p", string(stageBody(t, text, 0)), 400, "seconds is 0"},
		{"p", string(stageBody(t, text, 1<<40)), 400, "seconds is 1099511627776"},
		{"p", string(upload(text)), 400, "seconds is 0"}, // an update's body is none of a stage
		{"p", `{"seconds": 60}`, 400, "'proposed_policy'"},
		{"p", `{"seconds": 60, "proposed_policy": "!"}`, 400, "proposed_policy"},
		{"p", string(stageBody(t, "{}", 60)), 400, "Runtime policy is malformatted: 'meta' is a required property"},
		{"p", string(stageBody(t, strings.Replace(text, `"log_hash_alg":"sha1"`, `"log_hash_alg":"sha256"`, 1), 60)), 400, "log_hash_alg"},
		{"nosuch", string(stageBody(t, text, 60)), 404, "Runtime policy nosuch not found"},
		{"a%2fb", string(stageBody(t, text, 60)), 400, "policy name"},
	} {
		status, answer := request(t, admin, "PUT", base+"/v2.6/allowlists/"+c.path+"/stage", c.body)
		if status != c.status || !strings.Contains(statusText(answer), c.text) {
			t.Errorf("%s %.60s: answered %d %s, want %d %s", c.path, c.body, status, answer, c.status, c.text)
		}
	}
	p, err := v.store.Policy(t.Context(), store.RuntimePolicy, "p")
	if err != nil || string(p.Text) != text || p.Previous != nil {
		t.Errorf("a refused update left %+v, %v", p, err)
	}
	w, err := api.NewVerifier(base, admin).StageRuntimePolicy(t.Context(), "2.6", "p", mustStage(t, stageBody(t, agent.runtimePolicy("/new"), 60)))
	if err != nil || time.Until(w.Until) <= 0 || w.PreviousDigest != store.DigestOf([]byte(text)) {
		t.Errorf("%+v, %v", w, err)
	}
}

func mustStage(t testing.TB, body []byte) (s api.RuntimePolicyStage) {
	t.Helper()
	if err := json.Unmarshal(body, &s); err != nil {
		t.Fatal(err)
	}
	return s
}
