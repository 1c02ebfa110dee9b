package tenant

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"keylime/internal/api"
)

func TestReactivatingAStoppedAgentIsWarnedOf(t *testing.T) {
	t.Parallel()
	s := newStage(t, "ecc256")
	s.verifier.on("PUT /v2.6/agents/"+s.id+"/reactivate", refuse(200, "Success"))
	for state, warned := range map[int]bool{stateStopped: true, 9: false} {
		s.verifier.on("GET /v2.6/agents/"+s.id, results(api.VerifierAgent{OperationalState: state}))
		var notes strings.Builder
		if _, err := reactivate(t.Context(), s.tenant(t, &notes, nil), &options{agent: s.id}); err != nil {
			t.Errorf("state %d: %v", state, err)
		}
		if strings.Contains(notes.String(), "was stopped") != warned {
			t.Errorf("state %d: notes %q", state, notes.String())
		}
	}
}

func TestDeletingWithoutAskingFirst(t *testing.T) {
	t.Parallel()
	s := newStage(t, "ecc256")
	s.verifier.on("DELETE /v2.6/agents/"+s.id, refuse(200, "Success"))
	r, err := deleteAgent(t.Context(), s.tenant(t, io.Discard, nil), &options{agent: s.id, noVerifierCheck: true})
	if err != nil || !r.(*removal).removed {
		t.Errorf("got %+v, %v", r, err)
	}
	if s.verifier.was("GET /v2.6/agents") {
		t.Errorf("the verifier was asked first: %v", s.verifier.asked())
	}
	s.verifier.on("DELETE /v2.6/agents/"+s.id, refuse(404, "agent id not found"))
	r, err = deleteAgent(t.Context(), s.tenant(t, io.Discard, nil), &options{agent: s.id, noVerifierCheck: true})
	if err != nil || r.(*removal).removed {
		t.Errorf("an agent that is gone: got %+v, %v", r, err)
	}
}

func TestVerifierThatNeverDropsTheAgent(t *testing.T) {
	t.Parallel()
	s := newStage(t, "ecc256")
	s.verifier.on("GET /v2.6/agents/"+s.id, results(api.VerifierAgent{OperationalState: 8}))
	s.verifier.on("DELETE /v2.6/agents/"+s.id, refuse(202, "Accepted"))
	r, err := deleteAgent(t.Context(), s.tenant(t, io.Discard, nil), &options{agent: s.id})
	if exitCode(err) != exitFailed || !strings.Contains(err.Error(), "still has agent") || r.(*removal).removed {
		t.Errorf("got %+v, %v", r, err)
	}
}

// TestInterruptEndsAWait: Ctrl-C ends the command, whatever the peer does, and the message says where things stand.
func TestInterruptEndsAWait(t *testing.T) {
	t.Parallel()
	s := newStage(t, "ecc256")
	ctx, cancel := context.WithCancel(t.Context())
	released := make(chan struct{})
	t.Cleanup(func() { close(released) })
	s.agent.on("GET /v2.6/quotes/identity", func(http.ResponseWriter, *http.Request) {
		cancel()
		<-released
	})
	start := time.Now()
	_, err := add(ctx, s.tenant(t, io.Discard, nil), &options{agent: s.id})
	if !errors.Is(err, context.Canceled) || exitCode(err) != exitFailed || time.Since(start) > 10*time.Second {
		t.Errorf("got %v after %v", err, time.Since(start))
	}
}
