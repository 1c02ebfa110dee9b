package registrar

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"keylime/internal/api"
	"keylime/internal/jsonapi"
	"keylime/internal/strictjson"
	"keylime/internal/web"
	"keylime/store"
)

// register stages a registration and answers with the challenge to its TPM.
func (r *Registrar) register(ctx context.Context, req *web.Request) (any, error) {
	id, body, err := registerRequest(req)
	if err != nil {
		return nil, err
	}
	return r.registerAs(ctx, req, id, body)
}

// registerAs is register for a request that was read.
func (r *Registrar) registerAs(ctx context.Context, req *web.Request, id string, body api.RegisterRequest) (none api.RegisterResults, err error) {
	now := r.now()
	if wait, ok := r.byAddress.Take(web.Sender(req.Peer), now); !ok {
		return none, tooMany(wait)
	}
	known, err := r.known(ctx, id)
	if err != nil {
		return none, err
	}
	reg, err := registrationFromAPI(id, body, known)
	if err != nil {
		return none, invalid(err)
	}
	if known.Identity.Conflicts(reg.Identity) {
		r.log.Warn().Str("id", id).Stringer("peer", req.Peer).Msg("Refused to register a known agent with another TPM")
		return none, &web.Error{Code: http.StatusForbidden, Msg: textIdentity}
	}
	k, err := r.rules.check(reg, body, now)
	if err != nil {
		return none, invalid(err)
	}
	if r.refuseEK { // and again at the activation, which raises the alarm
		if err := r.checkEK(ctx, reg); err != nil {
			return none, err
		}
	}
	if wait, ok := r.byID.Take(web.Sender(req.Peer)+" "+id, now); !ok {
		return none, tooMany(wait)
	}
	return r.stage(ctx, reg, k, now)
}

// registerRequest reads the request. The id is in the path or, for upstream's first form of the route, in the body: as
// agent_id, or as the id of the resource that the body is.
func registerRequest(req *web.Request) (id string, body api.RegisterRequest, err error) {
	id = req.Param("id")
	text, err := members(req, &id)
	if err != nil {
		return id, body, err
	}
	// A body that is not declared to be JSON counts as none, as with upstream's registrar.
	if len(text) > 0 && req.JSON() {
		var mistyped *json.UnmarshalTypeError
		switch err := strictjson.Unmarshal(text, web.MaxDepth, &body); {
		case errors.As(err, &mistyped):
			return id, body, invalid(err)
		case err != nil && text[0] == '{':
			return id, body, &web.Error{Code: http.StatusBadRequest, Err: err}
		case err != nil:
			return id, body, invalid(errors.New("want a JSON object"))
		}
	}
	switch {
	case id != "" && api.ValidAgentID(id):
		return id, body, nil
	case id != "":
		return "", body, invalid(errors.New("id: want 1 to 80 of the characters A-Z a-z 0-9 _ . -"))
	case body.AgentID == nil:
		return "", body, &web.Error{Code: http.StatusBadRequest, Err: errors.New("agent_id is missing")}
	case !api.ValidAgentID(*body.AgentID):
		return "", body, invalid(errors.New("agent_id: want 1 to 80 of the characters A-Z a-z 0-9 _ . -"))
	}
	return *body.AgentID, body, nil
}

// members is the text of a body's members. In API 3.0 they may be the attributes of a resource, whose id, if it has one, is
// put into id.
func members(req *web.Request, id *string) ([]byte, error) {
	if req.Version != api.PushVersion || !jsonapi.Declared(req) {
		return req.Body()
	}
	sent, err := jsonapi.Read(req)
	switch {
	case err != nil:
		return nil, err
	case sent.Type != api.TypeAgent:
		return nil, invalid(fmt.Errorf("the resource is of type %.64q, want %q", sent.Type, api.TypeAgent))
	case *id == "":
		*id = sent.ID
	case sent.ID != "" && sent.ID != *id:
		return nil, &web.Error{Code: http.StatusConflict, Msg: "the resource's id is not that of the path"}
	}
	return []byte(cmp.Or(sent.Attributes, "{}")), nil
}

// invalid refuses what cannot be registered. The reason only repeats what the client sent.
func invalid(reason error) *web.Error {
	return &web.Error{Code: http.StatusBadRequest, Msg: textInvalid + ": " + reason.Error()}
}

func tooMany(wait time.Duration) *web.Error {
	return &web.Error{Code: http.StatusTooManyRequests, Msg: "too many requests; try again later", Retry: wait}
}

// known is the active registration of an id; the zero value when there is none.
func (r *Registrar) known(ctx context.Context, id string) (store.Registration, error) {
	reg, err := r.store.Registered(ctx, id)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrInactive) {
		return store.Registration{}, nil
	}
	return reg, failure(id, err)
}

// checkEK raises the alarm when an active agent of another id has the same endorsement key: a machine that was given
// a second id, or one that poses as another. By option it refuses.
func (r *Registrar) checkEK(ctx context.Context, reg store.Registration) error {
	others, err := r.store.SameEK(ctx, reg.ID, reg.Identity.EKTPM)
	if err != nil {
		return failure(reg.ID, err)
	}
	for _, other := range others {
		if _, err := r.store.Registered(ctx, other); err != nil {
			continue // pending: nothing shows yet that it has that key
		}
		r.log.Warn().Str("id", reg.ID).Str("other", other).Bool("refused", r.refuseEK).
			Msg("Endorsement key is registered under another agent id")
		if r.refuseEK {
			return &web.Error{Code: http.StatusForbidden, Msg: "the endorsement key of this TPM is registered under another agent id"}
		}
		return nil
	}
	return nil
}

// stage keeps the registration as pending and makes the challenge that activates it.
func (r *Registrar) stage(ctx context.Context, reg store.Registration, k keys, now time.Time) (none api.RegisterResults, err error) {
	challenge, err := newChallenge(r.random)
	if err != nil {
		return none, err
	}
	blob, err := seal(r.random, k, challenge)
	if err != nil {
		return none, invalid(err)
	}
	reg.Challenge = challenge
	if err := r.makeRoom(ctx); err != nil {
		return none, failure(reg.ID, err)
	}
	if _, err := r.store.Stage(ctx, reg, now, r.ttl); err != nil {
		return none, failure(reg.ID, err)
	}
	return api.RegisterResults{Blob: blob}, nil
}

// activate makes the pending registration the active one, for an agent whose TPM opened the challenge.
func (r *Registrar) activate(ctx context.Context, req *web.Request) (any, error) {
	id := req.Param("id")
	var body struct {
		AuthTag *string `json:"auth_tag"`
	}
	if req.JSON() {
		text, err := members(req, &id)
		if err != nil {
			return nil, err
		}
		if err := strictjson.Unmarshal(text, web.MaxDepth, &body); err != nil {
			return nil, &web.Error{Code: http.StatusBadRequest, Err: err}
		}
	}
	if body.AuthTag == nil {
		return nil, &web.Error{Code: http.StatusBadRequest, Err: errors.New("auth_tag is missing")}
	}
	now := r.now()
	pending, err := r.store.Pending(ctx, id)
	if err == nil && !now.Before(pending.Staged.Add(r.ttl)) {
		err = store.ErrNotFound
	}
	if err != nil {
		return nil, failure(id, err)
	}
	if !tagMatches(pending.Challenge, id, *body.AuthTag) {
		return nil, r.wrongTag(ctx, req, pending, now)
	}
	if err := r.checkEK(ctx, pending); err != nil {
		return nil, err
	}
	if err := r.store.Activate(ctx, id, pending.Rev, now); err != nil {
		return nil, failure(id, err)
	}
	r.log.Info().Str("id", id).Stringer("peer", req.Peer).Int("regcount", pending.RegCount).Msg("Agent activated")
	return nil, nil
}

// wrongTag drops the pending registration that a wrong tag was sent for; the active one is not touched. Who sends many
// is refused without effect, and a right tag is always heard, so that nobody keeps a genuine agent out for long.
func (r *Registrar) wrongTag(ctx context.Context, req *web.Request, pending store.Registration, now time.Time) error {
	r.log.Warn().Str("id", pending.ID).Stringer("peer", req.Peer).Msg("Activation with a wrong auth tag")
	for _, key := range []string{web.Sender(req.Peer), "id " + pending.ID} {
		if wait, ok := r.wrongTags.Take(key, now); !ok {
			return tooMany(wait)
		}
	}
	err := r.store.DropPending(ctx, pending.ID, pending.Rev)
	if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrConflict) {
		return failure(pending.ID, err)
	}
	return &web.Error{Code: http.StatusBadRequest, Msg: fmt.Sprintf(
		"Auth tag for agent '%s' does not match expected value. The pending registration has been deleted and the agent will need to be restarted to reattempt registration", pending.ID)}
}

// show answers with the active registration of an id.
func (r *Registrar) show(ctx context.Context, req *web.Request) (any, error) {
	id := req.Param("id")
	reg, err := r.store.Registered(ctx, id)
	if err != nil {
		return nil, failure(id, err)
	}
	return agentToAPI(reg), nil
}

// list answers with every id, pending ones included.
func (r *Registrar) list(ctx context.Context, _ *web.Request) (any, error) {
	ids := []string{}
	for after := ""; ; after = ids[len(ids)-1] {
		batch, err := r.store.RegisteredIDs(ctx, after, listBatch)
		if err != nil {
			return nil, err
		}
		ids = append(ids, batch...)
		if len(batch) < listBatch {
			return api.RegistrarAgents{UUIDs: ids}, nil
		}
	}
}

// remove forgets an id, active and pending.
func (r *Registrar) remove(ctx context.Context, req *web.Request) (any, error) {
	id := req.Param("id")
	if err := r.store.Deregister(ctx, id); err != nil {
		return nil, failure(id, err)
	}
	r.log.Info().Str("id", id).Str("admin", req.Admin).Msg("Agent deleted")
	return nil, nil
}

// failure makes the answer of what the store says about an id; nil of nil.
func failure(id string, err error) error {
	refuse := func(code int, msg string) error { return &web.Error{Code: code, Msg: msg, Err: err} }
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		return refuse(http.StatusNotFound, textNotFound(id))
	case errors.Is(err, store.ErrInactive):
		return refuse(http.StatusNotFound, textInactive(id))
	case errors.Is(err, store.ErrIdentity):
		return refuse(http.StatusForbidden, textTaken(id))
	case errors.Is(err, store.ErrConflict):
		return refuse(http.StatusConflict, fmt.Sprintf("Agent '%s' was registered anew in the meantime; activate that registration", id))
	case errors.Is(err, store.ErrTooLarge), errors.Is(err, store.ErrInvalid):
		return refuse(http.StatusBadRequest, textInvalid)
	case errors.Is(err, store.ErrDamaged):
		return refuse(http.StatusInternalServerError, fmt.Sprintf("The record of agent '%s' is damaged; an administrator can delete it, and the agent register anew", id))
	case errors.Is(err, store.ErrClosed):
		return &web.Error{Code: http.StatusServiceUnavailable, Msg: "the registrar is stopping", Err: err, Retry: 5 * time.Second}
	}
	return err
}
