package verifier

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"time"

	"keylime/internal/api"
	"keylime/internal/jsonapi"
	"keylime/internal/strictjson"
	"keylime/internal/web"
	"keylime/store"
)

// sessionRoutes are for agents that call in: ask for a challenge, answer it.
func (v *Verifier) sessionRoutes() []web.Route {
	return []web.Route{
		{Pattern: "POST /{v3}/sessions", Access: web.Private, Action: "create_session", MaxBody: maxSessionBody, Handle: v.sessions.ask},
		{Pattern: "PATCH /{v3}/sessions/{session}", Access: web.Private, Action: "update_session", MaxBody: maxSessionBody, Handle: v.sessions.answer},
	}
}

// The texts of errors are part of the REST API.
const (
	textNoAgentID     = "agent_id is required"
	textNoPossession  = "authentication_supported must include tpm_pop authentication type"
	textNoSession     = "Session not found"
	textOtherSession  = "Agent ID mismatch"
	textAddressFast   = "Rate limit exceeded. Please try again later."
	textAgentFast     = "Rate limit exceeded for this agent. Please try again later."
	evaluationPassed  = string(store.EvaluationPass)
	evaluationRefused = string(store.EvaluationFail)
)

// ask answers POST /sessions.
func (s *sessions) ask(ctx context.Context, r *web.Request) (any, error) {
	now := time.Now().UTC()
	if wait, ok := s.perAddress.Take(web.Sender(r.Peer), now); !ok {
		return nil, tooFast(textAddressFast, wait)
	}
	req, err := readSession[api.SessionRequest](r)
	switch {
	case err != nil:
		return nil, err
	case !api.ValidAgentID(req.AgentID):
		return nil, sessionError(http.StatusBadRequest, textNoAgentID)
	case !offersPossession(req.Supported):
		return nil, sessionError(http.StatusBadRequest, textNoPossession)
	}
	if wait, ok := s.perAgent.Take(req.AgentID, now); !ok {
		return nil, tooFast(textAgentFast, wait)
	}
	o, err := s.offer(ctx, req.AgentID, now)
	if err != nil {
		return nil, err
	}
	challenge := possession()
	challenge.Chosen = &api.AuthenticationChoice{Challenge: base64.StdEncoding.EncodeToString(o.Nonce)}
	return sessionDocument(http.StatusOK, o.ID, api.SessionOffer{
		AgentID: o.AgentID, Requested: []api.Authentication{challenge},
		Created: api.PushTime(o.Created), Expires: api.PushTime(o.Expires),
	}), nil
}

// answer answers PATCH /sessions/{id}.
func (s *sessions) answer(ctx context.Context, r *web.Request) (any, error) {
	now := time.Now().UTC()
	req, err := readSession[api.SessionProof](r)
	switch {
	case err != nil:
		return nil, err
	case !api.ValidAgentID(req.AgentID):
		return nil, sessionError(http.StatusBadRequest, textNoAgentID)
	}
	o, err := s.store.Offered(ctx, r.Param("session"))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, sessionError(http.StatusNotFound, textNoSession)
	case err != nil:
		return nil, err
	case o.AgentID != req.AgentID:
		return nil, sessionError(http.StatusBadRequest, textOtherSession)
	}
	if err := s.store.TakeOffer(ctx, o.ID); errors.Is(err, store.ErrNotFound) {
		return nil, sessionError(http.StatusNotFound, textNoSession)
	} else if err != nil {
		return nil, err
	}
	proof := proofOf(req.Provided)
	attest, signature := decodeProof(proof)
	token, expires, err := s.open(ctx, o, attest, signature, now)
	return s.result(o, proof, token, expires, now, err)
}

// result tells what came of a proof.
func (s *sessions) result(o store.Offer, proof api.AuthenticationMessage, token string, expires, now time.Time, err error) (any, error) {
	known := possession()
	known.Chosen = &api.AuthenticationChoice{Challenge: base64.StdEncoding.EncodeToString(o.Nonce)}
	known.Data = &proof
	result := api.SessionResult{
		AgentID: o.AgentID, Evaluation: evaluationRefused, Authentication: []api.Authentication{known},
		Created: api.PushTime(o.Created), Expires: api.PushTime(o.Expires), Received: api.PushTime(now),
	}
	log := s.log.Info().Str("agent", o.AgentID)
	switch {
	case err == nil:
		result.Evaluation, result.Token, result.TokenExpires = evaluationPassed, token, api.PushTime(expires)
		log.Msg("Session opened")
		return sessionDocument(http.StatusOK, o.ID, result), nil
	case errors.Is(err, errProof):
		log.Err(err).Msg("Session refused")
		refused := sessionDocument(http.StatusUnauthorized, o.ID, result)
		return nil, &web.Error{Code: refused.Code, Msg: "proof of possession failed", Type: refused.Type, Body: refused.Body}
	case errors.Is(err, errLate), errors.Is(err, errNotEnrolled):
		log.Err(err).Msg("Session refused")
		return sessionDocument(http.StatusOK, o.ID, result), nil
	}
	return nil, err
}

// readSession reads the attributes of a request about a session. A body that is not declared to be JSON is none.
func readSession[A any](r *web.Request) (attributes A, err error) {
	if !r.JSON() {
		return attributes, nil
	}
	body, err := r.Body()
	if err != nil {
		return attributes, err
	}
	if attributes, err = parseSession[A](string(body)); err != nil {
		return attributes, &web.Error{Code: http.StatusBadRequest, Err: err}
	}
	return attributes, nil
}

// parseSession reads the attributes of the session that a document holds.
func parseSession[A any](text string) (attributes A, err error) {
	sent, err := jsonapi.Parse(text)
	if err == nil && sent.Attributes != "" {
		err = strictjson.Unmarshal([]byte(sent.Attributes), maxJSONDepth, &attributes)
	}
	return attributes, err
}

func possession() api.Authentication {
	return api.Authentication{Class: api.AuthenticationClass, Type: api.AuthenticationType}
}

func offersPossession(ways []api.Authentication) bool {
	for _, w := range ways {
		if w.Type == api.AuthenticationType {
			return true
		}
	}
	return false
}

// proofOf is the first proof of possession among what was provided; an empty one when there is none.
func proofOf(provided []api.Authentication) api.AuthenticationMessage {
	for _, p := range provided {
		if p.Type == api.AuthenticationType && p.Data != nil {
			return *p.Data
		}
	}
	return api.AuthenticationMessage{}
}

// decodeProof decodes a proof; what is not base64 is no proof, and so nothing.
func decodeProof(m api.AuthenticationMessage) (attest, signature []byte) {
	attest, err := base64.StdEncoding.Strict().DecodeString(m.Message)
	signature, err2 := base64.StdEncoding.Strict().DecodeString(m.Signature)
	if err != nil || err2 != nil {
		return nil, nil
	}
	return attest, signature
}

func sessionDocument[A any](code int, id string, attributes A) web.Document {
	return web.Document{Code: code, Type: api.JSONAPIType, Body: api.Document[A]{
		Data: api.Resource[A]{Type: api.TypeSession, ID: id, Attributes: attributes},
	}}
}

// sessionError is a refusal in the form that requests about sessions are refused in.
func sessionError(code int, detail string) *web.Error {
	item := api.ErrorItem{Status: strconv.Itoa(code), Title: http.StatusText(code), Detail: detail}
	return &web.Error{Code: code, Msg: detail, Type: api.JSONAPIType, Body: api.ErrorDocument{Errors: []api.ErrorItem{item}}}
}

func tooFast(detail string, wait time.Duration) *web.Error {
	e := sessionError(http.StatusTooManyRequests, detail)
	e.Retry = max(wait, time.Second)
	return e
}
