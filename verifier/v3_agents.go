package verifier

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"keylime/internal/api"
	"keylime/internal/jsonapi"
	"keylime/internal/strictjson"
	"keylime/internal/web"
	"keylime/store"
)

// agentResource is an agent as r's client may see it.
func (v *Verifier) agentResource(ctx context.Context, r *web.Request, a store.Agent) api.Resource[api.AgentAttributes] {
	view := v.view(ctx, a)
	view.hideV = !mayChange(r)
	return api.Resource[api.AgentAttributes]{
		Type: api.TypeAgent, ID: a.ID, Links: &api.Links{Self: address("/agents/" + a.ID)},
		Attributes: api.AgentAttributes{VerifierAgent: agentToAPI(a, view), AcceptAttestations: a.Status.Operational.Polled()},
	}
}

// showAgent answers with an agent as it is now.
func (v *Verifier) showAgent(ctx context.Context, r *web.Request, code int, id string) (any, error) {
	a, err := v.store.Agent(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, noAgent(id)
	}
	if err != nil {
		return nil, err
	}
	return shown(code, r.Path, v.agentResource(ctx, r, a)), nil
}

// agentV3 answers GET /agents/:id.
func (v *Verifier) agentV3(ctx context.Context, r *web.Request) (any, error) {
	return v.showAgent(ctx, r, http.StatusOK, r.Param("id"))
}

// agentsV3 answers GET /agents: page[size] agents at most, in the order of their ids, from behind page[after] on; those of
// one verifier or, as in API 2, of all.
func (v *Verifier) agentsV3(ctx context.Context, r *web.Request) (any, error) {
	size, err := jsonapi.PageNumber(r.Query, "page[size]", defaultPage)
	if err != nil {
		return nil, err
	}
	size = min(max(size, 1), maxPage)
	filter := store.Filter{VerifierID: r.Query.Get("filter[verifier_id]")}
	agents, err := v.store.Agents(ctx, filter, r.Query.Get("page[after]"), int(size)+1)
	if err != nil {
		return nil, err
	}
	links := &api.Links{Self: address("/agents")}
	if len(agents) > int(size) {
		agents = agents[:size]
		query := url.Values{"page[after]": {agents[size-1].ID}, "page[size]": {strconv.FormatUint(size, 10)}}
		if filter.VerifierID != "" {
			query.Set("filter[verifier_id]", filter.VerifierID)
		}
		links.Next = links.Self + "?" + query.Encode()
	}
	page := api.List[api.AgentAttributes]{Data: make([]api.Resource[api.AgentAttributes], len(agents)), Links: links, JSONAPI: jsonapi.Version()}
	for i, a := range agents {
		page.Data[i] = v.agentResource(ctx, r, a)
	}
	return web.Document{Code: http.StatusOK, Type: api.JSONAPIType, Body: page}, nil
}

// enrolV3 answers POST /agents. Attributes that may be null may be missing as well.
func (v *Verifier) enrolV3(ctx context.Context, r *web.Request) (any, error) {
	sent, err := readKind(r, api.TypeAgent)
	switch {
	case err != nil:
		return nil, err
	case sent.ID == "":
		return nil, badID(isRequired)
	case !api.ValidAgentID(sent.ID):
		return nil, badID("must be 1 to 80 letters, digits and _.-")
	}
	req, err := parseEnrolment([]byte(sent.Attributes), notNull)
	if err != nil {
		return nil, exception(err)
	}
	if err := v.enrolAs(ctx, sent.ID, req); err != nil {
		return nil, err
	}
	return v.showAgent(ctx, r, http.StatusCreated, sent.ID)
}

// changeAgentV3 answers PATCH /agents/:id. One thing about an agent can be changed: whether it is attested.
func (v *Verifier) changeAgentV3(ctx context.Context, r *web.Request) (any, error) {
	id := r.Param("id")
	sent, err := readKind(r, api.TypeAgent)
	if err != nil {
		return nil, err
	}
	if sent.ID != "" && sent.ID != id {
		return nil, jsonapi.Deny(http.StatusConflict, "conflict", "The resource's id is not that of the path.")
	}
	accept, err := parseAgentChange(sent.Attributes)
	if err != nil {
		return nil, err
	}
	if err := v.own(ctx, id); errors.Is(err, store.ErrNotFound) {
		return nil, noAgent(id)
	} else if err != nil {
		return nil, err
	}
	change := v.stopAgent
	if accept {
		change = v.reactivateAgent
	}
	if err := change(ctx, id); err != nil {
		return nil, err
	}
	return v.showAgent(ctx, r, http.StatusOK, id)
}

// parseAgentChange reads accept_attestations, and refuses what else a client may think that it changes.
func parseAgentChange(attributes string) (accept bool, err error) {
	const name = "accept_attestations"
	found := false
	var f form
	r := strictjson.NewReader(attributes, maxJSONDepth)
	err = r.Object(func(member string) (err error) {
		switch {
		case member == name && r.Kind() == strictjson.Bool:
			found = true
			accept, err = r.Bool()
			return err
		case member == name:
			f.refuse("/"+name, wrongType)
		default:
			f.refuse("/"+clip(member), "cannot be changed; delete the agent and add it again")
		}
		return r.Skip()
	})
	switch {
	case err != nil:
		return false, exception(err)
	case len(f.errors) > 0:
		return false, jsonapi.Unprocessable(f.errors)
	case !found:
		return false, required(name)
	}
	return accept, nil
}
