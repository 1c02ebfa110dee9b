package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"keylime/internal/api"
)

// errNotEnrolled says that the verifier does not know this agent, or not as one that calls in.
var errNotEnrolled = errors.New("the verifier has not enrolled this agent for the push model (keylime tenant add --push-model)")

// errProof says that the verifier knows the agent by another attestation key.
var errProof = errors.New("the verifier does not take this machine's proof: the agent is enrolled with another attestation key, or its algorithms are not accepted")

// session is a bearer token at one verifier. It is kept in memory alone, and used until the verifier refuses it: only
// the verifier knows when it ends.
type session struct {
	client *api.PushClient
	token  string
}

// certifier proves possession of the AK.
type certifier interface {
	certify(ctx context.Context, nonce []byte) (attest, signature []byte, err error)
}

// logIn opens a session unless there is one.
func (s *session) logIn(ctx context.Context, agentID string, tpm certifier) error {
	if s.token != "" {
		return nil
	}
	challenge, err := s.client.AskSession(ctx, agentID)
	if err != nil {
		return fmt.Errorf("ask for a session: %w", err)
	}
	attest, signature, err := tpm.certify(ctx, challenge.Nonce)
	if err != nil {
		return fmt.Errorf("%w: %w", errEvidence, err)
	}
	s.token, err = s.client.ProveSession(ctx, agentID, challenge.Session, attest, signature)
	switch {
	case api.IsStatus(err, http.StatusUnauthorized):
		return fmt.Errorf("%w: %w", errProof, err)
	case err != nil:
		return fmt.Errorf("prove possession of the attestation key: %w", err)
	case s.token == "":
		return errNotEnrolled
	}
	return nil
}

// refused notes an answer that means that the token is good no longer.
func (s *session) refused(err error) bool {
	if !api.IsStatus(err, http.StatusUnauthorized) && !api.IsStatus(err, http.StatusForbidden) {
		return false
	}
	s.token = ""
	return true
}
