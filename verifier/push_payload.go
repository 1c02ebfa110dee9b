package verifier

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"keylime/internal/api"
	"keylime/internal/jsonapi"
	"keylime/internal/strictjson"
	"keylime/internal/web"
	"keylime/store"
	"keylime/tpm"
)

// A payload is encrypted under K = U xor V. The verifier holds V, and U sealed so that only the TPM with the agent's EK
// and AK opens it: it cannot decrypt the payload. The agent's TPM opens U, but V is given out after a good attestation
// only: neither can the agent, before it has passed.

// putPayload answers PUT …/payload.
func (c *calls) putPayload(ctx context.Context, r *web.Request) (any, error) {
	id := r.Param("id")
	sent, err := jsonapi.Read(r)
	if err != nil {
		return nil, err
	}
	a, err := c.known(ctx, id)
	if err != nil {
		return nil, err
	}
	if sent.Type != api.TypePayload {
		return nil, jsonapi.Deny(http.StatusBadRequest, "invalid_request", "Request body must include a resource of type 'payload'.")
	}
	p, problems := parsePayload(id, sent.Attributes)
	switch {
	case len(problems) > 0:
		return nil, jsonapi.Unprocessable(problems)
	case !a.Spec.Push:
		return nil, jsonapi.Deny(http.StatusConflict, "conflict", fmt.Sprintf("Agent '%s' is enrolled for the pull model: its tenant sends the payload to the agent itself.", id))
	case len(a.Spec.V) == 0:
		return nil, jsonapi.Deny(http.StatusConflict, "conflict", fmt.Sprintf("Agent '%s' was enrolled without a key share (v), so no payload can be released to it.", id))
	}
	switch _, err := c.store.PutPayload(ctx, p); {
	case errors.Is(err, store.ErrNotFound):
		return nil, noAgent(id)
	case errors.Is(err, store.ErrTooLarge), errors.Is(err, store.ErrInvalid):
		return nil, jsonapi.Deny(http.StatusRequestEntityTooLarge, "invalid_request", err.Error())
	case err != nil:
		return nil, err
	}
	c.log.Info().Str("agent", id).Int("bytes", len(p.Data)).Msg("Payload left for agent")
	return web.Answer{Code: http.StatusNoContent}, nil
}

// parsePayload reads the attributes of a payload.
func parsePayload(id, attributes string) (store.Payload, []api.ErrorItem) {
	var in api.Payload
	f := &form{}
	if err := strictjson.Unmarshal([]byte(attributes), maxJSONDepth, &in); err != nil {
		f.refuse("", wrongType)
		return store.Payload{}, f.errors
	}
	p := store.Payload{AgentID: id, Tag: strings.ToLower(in.Tag)}
	var err error
	if p.SealedU, err = base64.StdEncoding.Strict().DecodeString(in.SealedU); err != nil {
		f.refuse("/sealed_key", notBinary)
	} else if _, _, err := tpm.ParseCredential(p.SealedU); err != nil {
		f.refuse("/sealed_key", "is not what TPM2_MakeCredential makes: "+err.Error())
	}
	if tag, err := hex.DecodeString(p.Tag); err != nil || len(tag) != tagSize {
		f.refuse("/auth_tag", fmt.Sprintf("must be %d bytes in hex", tagSize))
	}
	if p.Data, err = base64.StdEncoding.Strict().DecodeString(in.Data); err != nil || len(p.Data) == 0 {
		f.refuse("/payload", notBinary)
	}
	return p, f.errors
}

// payload answers an agent's GET …/payload.
func (c *calls) payload(ctx context.Context, r *web.Request) (any, error) {
	id := r.Param("id")
	a, err := c.agent(ctx, id)
	if err != nil {
		return nil, err
	}
	p, err := c.store.Payload(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, jsonapi.Deny(http.StatusNotFound, "not_found", fmt.Sprintf("There is no payload for agent '%s'.", id))
	}
	if err != nil {
		return nil, err
	}
	judged, err := c.lastJudged(ctx, id)
	if err != nil {
		return nil, err
	}
	if !releases(judged, a.Status) {
		return nil, jsonapi.Deny(http.StatusForbidden, "payload_withheld", fmt.Sprintf("The payload of agent '%s' is released after an attestation that passes.", id))
	}
	path := "/v" + api.PushVersion + "/agents/" + id + "/payload"
	return web.Document{Code: http.StatusOK, Type: api.JSONAPIType, Body: api.Document[api.Payload]{
		Data: api.Resource[api.Payload]{Type: api.TypePayload, Attributes: api.Payload{
			SealedU: base64.StdEncoding.EncodeToString(p.SealedU), Tag: p.Tag,
			Data: base64.StdEncoding.EncodeToString(p.Data), V: base64.StdEncoding.EncodeToString(a.Spec.V),
		}},
		Links: &api.Links{Self: path}, JSONAPI: jsonapi.Version(),
	}}, nil
}

// releases is the rule of payloads: the last attestation that was judged is good, and nothing is held against the agent.
func releases(judged store.Attestation, st store.AgentStatus) bool {
	return judged.Evaluation == store.EvaluationPass && st.Failures == 0 && !st.TimedOut && st.Operational != store.StateTenantFailed
}

// lastJudged is the last attestation that came to a decision; the zero one when none did. After it there are at most one
// that came to none, and one that awaits its evidence.
func (c *calls) lastJudged(ctx context.Context, id string) (store.Attestation, error) {
	before, err := c.store.LatestAttestation(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return store.Attestation{}, nil
	}
	if err != nil {
		return store.Attestation{}, err
	}
	for before.Evaluation == store.EvaluationPending {
		list, err := c.store.Attestations(ctx, id, before.Index, 1)
		if err != nil || len(list) == 0 {
			return store.Attestation{}, err
		}
		before = list[0]
	}
	return before, nil
}
