package registrar

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"keylime/internal/api"
	"keylime/internal/jsonapi"
	"keylime/internal/web"
	"keylime/store"
)

// The routes of API 3.0 do what those of API 2 do, by the same code. What differs is the form: answers are JSON:API documents
// with agents as resources. Requests may be documents too, or plain objects as in API 2.

func (r *Registrar) routesV3() []web.Route {
	const collection, one = " /{v3}/agents", " /{v3}/agents/{id}"
	routes := []web.Route{
		{Pattern: "GET /{v3}", Handle: jsonapi.Root},
		{Pattern: "POST" + collection, Action: "register_agent", MaxBody: r.maxBody, Handle: r.registerV3},
		{Pattern: "POST" + one + "/activate", Action: "activate_agent", MaxBody: maxTag, Handle: withoutBody(r.activate)},
		{Pattern: "GET" + collection, Access: web.Admin, Action: "list_registrations", Handle: r.listV3},
		{Pattern: "GET" + one, Access: web.Admin, Action: "read_registration", Handle: r.showV3},
		{Pattern: "DELETE" + one, Access: web.Admin, Action: "delete_registration", Handle: withoutBody(r.remove)},
	}
	for i := range routes {
		routes[i].Handle = jsonapi.Documents(routes[i].Handle)
	}
	return routes
}

// withoutBody answers 204 where API 2 answers with an empty object.
func withoutBody(h web.Handler) web.Handler {
	return func(ctx context.Context, req *web.Request) (any, error) {
		if _, err := h(ctx, req); err != nil {
			return nil, err
		}
		return web.Document{Code: http.StatusNoContent}, nil
	}
}

func agentPath(id string) string { return "/v" + api.PushVersion + "/agents/" + id }

// answerV3 answers with one agent.
func answerV3[A any](code int, self, id string, attributes A) web.Document {
	d := web.Document{Code: code, Type: api.JSONAPIType, Body: api.Document[A]{
		Data:  api.Resource[A]{Type: api.TypeAgent, ID: id, Attributes: attributes, Links: &api.Links{Self: agentPath(id)}},
		Links: &api.Links{Self: self}, JSONAPI: jsonapi.Version(),
	}}
	if code == http.StatusCreated {
		d.Location = agentPath(id)
	}
	return d
}

// registerV3 answers POST /agents with the challenge, which is the attribute blob.
func (r *Registrar) registerV3(ctx context.Context, req *web.Request) (any, error) {
	id, body, err := registerRequest(req)
	if err != nil {
		return nil, err
	}
	challenge, err := r.registerAs(ctx, req, id, body)
	if err != nil {
		return nil, err
	}
	return answerV3(http.StatusCreated, req.Path, id, challenge), nil
}

func (r *Registrar) showV3(ctx context.Context, req *web.Request) (any, error) {
	id := req.Param("id")
	reg, err := r.store.Registered(ctx, id)
	if err != nil {
		return nil, failure(id, err)
	}
	return answerV3(http.StatusOK, req.Path, id, agentToAPI(reg)), nil
}

// Pages of a list.
const defaultPage, maxPage = 20, 100

// listV3 answers GET /agents: page[size] ids at most, in their order, from behind page[after] on. What there is of an agent
// that is not active yet is not shown.
func (r *Registrar) listV3(ctx context.Context, req *web.Request) (any, error) {
	size, err := jsonapi.PageNumber(req.Query, "page[size]", defaultPage)
	if err != nil {
		return nil, err
	}
	size = min(max(size, 1), maxPage)
	ids, err := r.store.RegisteredIDs(ctx, req.Query.Get("page[after]"), int(size)+1)
	if err != nil {
		return nil, err
	}
	links := &api.Links{Self: req.Path}
	if len(ids) > int(size) {
		ids = ids[:size]
		query := url.Values{"page[after]": {ids[size-1]}, "page[size]": {strconv.FormatUint(size, 10)}}
		links.Next = links.Self + "?" + query.Encode()
	}
	page := api.List[api.RegistrationState]{Data: make([]api.Resource[api.RegistrationState], len(ids)), Links: links, JSONAPI: jsonapi.Version()}
	for i, id := range ids {
		active, err := r.isActive(ctx, id)
		if err != nil {
			return nil, err
		}
		page.Data[i] = api.Resource[api.RegistrationState]{
			Type: api.TypeAgent, ID: id, Attributes: api.RegistrationState{Active: active}, Links: &api.Links{Self: agentPath(id)},
		}
	}
	return web.Document{Code: http.StatusOK, Type: api.JSONAPIType, Body: page}, nil
}

// isActive reports whether an id has an active registration. One whose record is damaged has none that can be shown.
func (r *Registrar) isActive(ctx context.Context, id string) (bool, error) {
	_, err := r.store.Registered(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrInactive), errors.Is(err, store.ErrDamaged):
		return false, nil
	case err != nil:
		return false, failure(id, err)
	}
	return true, nil
}
