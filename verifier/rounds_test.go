package verifier

import (
	"encoding/base64"
	"strings"
	"testing"

	"keylime/store"
)

func TestAgentIsAttestedAgainAndAgain(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	agent.measure(t, "/usr/bin/good")
	v := startVerifier(t, fastConfig(t), openStore(t))
	v.add(t, agent, agent.enrolment(agent.runtimePolicy("/usr/bin/good", "/usr/bin/later")))
	st := v.passes(t, "a1", 3)
	if st.OperationalState != int(store.StateGetQuote) || st.AttestationStatus != "PASS" || st.HashAlg != "sha256" || st.EncAlg != "ecc256" || st.SignAlg != "ecdsa" {
		t.Errorf("status %s", encode(t, st))
	}
	agent.measure(t, "/usr/bin/later")
	v.passes(t, "a1", 3)
	if n := agent.connections(); n != 1 {
		t.Errorf("%d connections; rounds should share one", n)
	}
	quotes := agent.asked("GET /v2.6/quotes/integrity?")
	if first := quotes[0]; !strings.Contains(first, "&mask=0x400&partial=0&ima_ml_entry=0") {
		t.Errorf("first request %s", first)
	}
	if last := quotes[len(quotes)-1]; !strings.Contains(last, "&mask=0x400&partial=1&ima_ml_entry=3") {
		t.Errorf("last request %s", last)
	}
}

func TestVIsDeliveredOnce(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := startVerifier(t, fastConfig(t), openStore(t))
	req := agent.enrolment("")
	secret := base64.StdEncoding.EncodeToString([]byte("01234567890123456789012345678901"))
	req.V = &secret
	v.add(t, agent, req)
	v.passes(t, "a1", 4)
	if got := agent.received(); len(got) != 1 || string(got[0]) != "01234567890123456789012345678901" {
		t.Fatalf("V received %d times: %q", len(got), got)
	}
	agent.newKey(1) // a reinstalled agent: it has to be asked for its key again
	if err := v.reactivateAgent(t.Context(), "a1"); err != nil {
		t.Fatal(err)
	}
	v.passes(t, "a1", 3)
	if got := agent.received(); len(got) != 2 {
		t.Errorf("V received %d times after a new key and reactivation, want 2", len(got))
	}
}

func TestTamperedAgentFailsWithTheFile(t *testing.T) {
	t.Parallel()
	agent, witness := startAgent(t, "a1"), startAgent(t, "a2")
	v := startVerifier(t, fastConfig(t), openStore(t))
	v.add(t, agent, agent.enrolment(agent.runtimePolicy()))
	v.add(t, witness, witness.enrolment(""))
	v.passes(t, "a1", 2)
	agent.measure(t, "/usr/bin/evil")
	st := v.until(t, "a1", "failure", inState(store.StateInvalidQuote))
	if st.AttestationStatus != "FAIL" || *st.LastEventID != "ima.validation.ima-ng.not_in_allowlist" || *st.SeverityLevel != 6 {
		t.Errorf("status %s", encode(t, st))
	}
	if !strings.Contains(string(st.LastEventContext), "/usr/bin/evil") {
		t.Errorf("context %s does not name the file", st.LastEventContext)
	}
	for _, want := range []string{"File not found in allowlist: /usr/bin/evil", "Agent a1 failed, stopping polling", "IMA ERRORS: Some entries couldn't be validated"} {
		if !strings.Contains(v.log.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	// Both are told, the failed one too.
	for _, a := range []*testAgent{agent, witness} {
		eventually(t, func() bool { return len(a.notifications()) > 0 }, func() { t.Fatalf("%s was not told:\n%s", a.id, v.log) })
		if msg := a.notifications()[0].Msg; !strings.Contains(msg, `"type":"revocation"`) || !strings.Contains(msg, `"agent_id":"a1"`) {
			t.Errorf("%s was told %s", a.id, msg)
		}
	}
	// Failure is sticky, and the witness goes on.
	asked := len(agent.asked("GET "))
	v.passes(t, "a2", 3)
	if n := len(agent.asked("GET ")); n != asked {
		t.Errorf("the failed agent was asked %d more times", n-asked)
	}
	if n := len(agent.notifications()); n != 1 {
		t.Errorf("told %d times", n)
	}
}

func TestReactivatedAgentStartsOver(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := startVerifier(t, fastConfig(t), openStore(t))
	v.add(t, agent, agent.enrolment(agent.runtimePolicy()))
	v.passes(t, "a1", 1)
	agent.measure(t, "/usr/bin/new")
	v.until(t, "a1", "failure", inState(store.StateInvalidQuote))
	up := []byte(`{"runtime_policy":"` + base64.StdEncoding.EncodeToString([]byte(agent.runtimePolicy("/usr/bin/new"))) + `"}`)
	if err := v.updateRuntimePolicy(t.Context(), "a1", up); err != nil {
		t.Fatal(err)
	}
	if err := v.reactivateAgent(t.Context(), "a1"); err != nil {
		t.Fatal(err)
	}
	st := v.passes(t, "a1", 2)
	if st.OperationalState != int(store.StateGetQuote) {
		t.Errorf("status %s", encode(t, st))
	}
	if *st.LastEventID != "ima.validation.ima-ng.not_in_allowlist" {
		t.Errorf("the last event was forgotten: %s", encode(t, st))
	}
}
