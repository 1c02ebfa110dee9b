package verifier

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"keylime/internal/api"
	"keylime/store"
)

// versionToken is the part of an agent's error text that says that it does not speak the version asked in.
const versionToken = "API version not supported"

// trouble rates a request to an agent that failed. An error means that the verifier is stopping.
func (c *cycle) trouble(ctx context.Context, client *api.AgentClient, st store.AgentStatus, err error) (store.AgentStatus, result, error) {
	if cause := context.Cause(ctx); errors.Is(cause, errStopping) {
		return st, result{}, cause
	}
	r := classify(err)
	if r.outcome != versionChanged {
		return st, r, nil
	}
	version, err := c.renegotiate(ctx, client, st)
	if err != nil {
		return st, result{outcome: versionRefused, detail: err.Error()}, nil
	}
	if version == st.APIVersion {
		return st, result{outcome: unreachable, detail: fmt.Sprintf("the agent refuses API version %s, and offers it", version)}, nil
	}
	c.log.Info().Str("from", st.APIVersion).Str("to", version).Msg("Agent API version updated")
	st.APIVersion = version
	return st, r, nil
}

// classify rates an error of a request: what may go away by itself, what needs another API version, what is an
// answer that stands, and what is no answer of an agent at all.
func classify(err error) result {
	detail := err.Error()
	var answered *api.Error
	switch {
	case errors.Is(err, errAddress):
		return result{outcome: refused, detail: detail}
	case errors.As(err, &answered):
		return result{outcome: rate(answered), detail: detail}
	case errors.Is(err, api.ErrMalformed):
		return result{outcome: malformed, detail: detail}
	}
	return result{outcome: unreachable, detail: detail}
}

func rate(e *api.Error) outcome {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusInternalServerError, 599:
		return unreachable
	case http.StatusBadRequest:
		if strings.Contains(e.Message, versionToken) {
			return versionChanged
		}
		if !e.JSON {
			return malformed
		}
	}
	return refused
}

// renegotiate asks the agent which versions it speaks. An agent that attested before may move up only: one that
// moves down would take a check away from us that newer versions bring.
func (c *cycle) renegotiate(ctx context.Context, client *api.AgentClient, st store.AgentStatus) (string, error) {
	v, err := client.Version(ctx)
	if err != nil {
		return "", fmt.Errorf("ask the agent for its API versions: %w", err)
	}
	version, err := api.Negotiate(api.AgentVersions, v.Offered())
	if err != nil {
		return "", err
	}
	if version != st.APIVersion && st.AttestationCount > 0 && !api.Newer(version, st.APIVersion) {
		return "", fmt.Errorf("API version %s is lower or equal to previous version %s", version, st.APIVersion)
	}
	return version, nil
}
