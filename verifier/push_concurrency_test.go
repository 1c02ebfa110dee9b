package verifier

import (
	"io"
	"testing"
)

// What happens while a request with evidence is under way.

// slowly sends the first half of a body, waits for go on, and sends the rest.
func slowly(body []byte) (r io.Reader, half <-chan struct{}, goOn chan<- struct{}) {
	reached, resume := make(chan struct{}), make(chan struct{})
	pr, pw := io.Pipe()
	go func() {
		_, _ = pw.Write(body[:len(body)/2])
		close(reached)
		<-resume
		_, _ = pw.Write(body[len(body)/2:])
		_ = pw.Close()
	}()
	return pr, reached, resume
}

// during runs what happens while a request with evidence is under way, and returns the answer to it.
func (a *callingAgent) during(t *testing.T, v *testVerifier, what func()) response {
	t.Helper()
	location, requested := a.opened(t)
	body, half, goOn := slowly(a.evidence(t, requested, nil))
	answer := make(chan response)
	go func() { answer <- a.call(t, "PATCH", location, body) }()
	<-half
	eventually(t, func() bool { return v.calls.underWay(a.id) }, func() { t.Error("the request does not arrive") })
	what()
	close(goOn)
	return <-answer
}

func TestOperatorActsWhileEvidenceComes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		act    func(v *testVerifier) error
		status int
		code   string
	}{
		{"delete", func(v *testVerifier) error { return v.deleteAgent(t.Context(), "a1") }, 404, "not_found"},
		{"stop", func(v *testVerifier) error { return v.stopAgent(t.Context(), "a1") }, 403, "agent_attestations_disabled"},
		{"delete and add", func(v *testVerifier) error {
			req := (&callingAgent{id: "a1", tpm: softTPM(t, "ecc256")}).enrolment("")
			if err := v.deleteAgent(t.Context(), "a1"); err != nil {
				return err
			}
			return v.enrol(t.Context(), "a1", encode(t, req))
		}, 404, "not_found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v, a, _ := calling(t)
			r := a.during(t, v, func() {
				if err := c.act(v); err != nil {
					t.Error(err)
				}
			})
			if r.status != c.status || r.code() != c.code {
				t.Errorf("answered %v", r)
			}
			if got, err := v.store.Agent(t.Context(), "a1"); err == nil && got.Status.AttestationCount != 0 {
				t.Error("the round was kept")
			}
		})
	}
}

func TestEvidenceIsJudgedOnce(t *testing.T) {
	t.Parallel()
	v, a, _ := calling(t)
	var second response
	first := a.during(t, v, func() {
		second = a.deliver(t, a.attestations()+"/latest", []byte(`{"data":{"type":"attestation"}}`))
		if r := a.open(t); r.status != 503 || r.code() != "verification_in_progress" || r.retry == "" {
			t.Errorf("POST meanwhile: %v", r)
		}
	})
	if first.status != 202 || second.status != 503 || second.code() != "verification_in_progress" || second.retry == "" {
		t.Errorf("answered %v and %v", first, second)
	}
	if st := v.status(t, "a1"); st.AttestationCount != 1 {
		t.Errorf("%d attestations", st.AttestationCount)
	}
}
