package verifier

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"keylime/internal/api"
	"keylime/internal/jsonapi"
	"keylime/internal/web"
	"keylime/store"
)

// The routes of API 3.0 for administrators do what those of API 2 do, by the same code. What differs is the form: agents
// and policies are JSON:API resources, whose attributes are the members of API 2.

// resourceRoutes are those of agents and policies.
func (v *Verifier) resourceRoutes() []web.Route {
	const agents, agent = " /{v3}/agents", " /{v3}/agents/{id}"
	routes := []web.Route{
		{Pattern: "GET" + agents, Access: web.Admin, Action: "list_agents", Timeout: uploadTimeout, Handle: v.agentsV3},
		{Pattern: "GET" + agent, Access: web.AgentOrAdmin, Action: "read_agent", Handle: v.agentV3},
		{Pattern: "POST" + agents, Access: web.Admin, Action: "create_agent",
			MaxBody: int64(v.cfg.MaxUploadSize), Timeout: uploadTimeout, Handle: v.enrolV3},
		{Pattern: "PATCH" + agent, Access: web.Admin, Action: "update_agent", Handle: v.changeAgentV3},
		{Pattern: "DELETE" + agent, Access: web.Admin, Action: "delete_agent",
			Handle: answering(web.Document{Code: http.StatusNoContent}, named("id", v.deleteAgent))},
	}
	for _, p := range []policyResources{
		{v: v, path: "/policies/ima", kind: store.RuntimePolicy, name: "runtime",
			resource: api.TypeIMAPolicy, text: "runtime_policy", policyHandlers: v.runtimeHandlers()},
		{v: v, path: "/refstates/uefi", kind: store.MeasuredBootPolicy, name: "mb",
			resource: api.TypeUEFIRefstate, text: "mb_policy", policyHandlers: v.mbHandlers()},
	} {
		routes = append(routes, p.routes()...)
	}
	for i := range routes {
		routes[i].Handle = inDocuments(routes[i].Handle)
	}
	return routes
}

// inDocuments has a handler's refusals be JSON:API documents.
func inDocuments(h web.Handler) web.Handler {
	return jsonapi.Documents(func(ctx context.Context, r *web.Request) (any, error) {
		result, err := h(ctx, r)
		var missing missingKey
		var refused *web.Error
		switch {
		case errors.As(err, &missing):
			err = required(string(missing))
		case errors.As(err, &refused):
			refused.Msg = strings.TrimPrefix(refused.Msg, textException)
		}
		return result, err
	})
}

// required refuses a resource that lacks an attribute.
func required(attribute string) error {
	var f form
	f.refuse("/"+attribute, isRequired)
	return jsonapi.Unprocessable(f.errors)
}

// badID refuses the id that a client gave to a resource, or did not give.
func badID(problem string) error {
	return jsonapi.Unprocessable([]api.ErrorItem{{
		Status: "422", Code: "invalid_resource_data",
		Detail: "Attribute 'id' " + problem + ".", Source: &api.ErrorSource{Pointer: "/data/id"},
	}})
}

// readKind reads a resource of the given type from a request's body.
func readKind(r *web.Request, kind string) (jsonapi.Sent, error) {
	sent, err := jsonapi.Read(r)
	if err == nil && sent.Type != kind {
		err = jsonapi.Deny(http.StatusBadRequest, "invalid_request", fmt.Sprintf("Request body must include a resource of type '%s'.", kind))
	}
	if sent.Attributes == "" {
		sent.Attributes = "{}"
	}
	return sent, err
}

// address is where something is in API 3.0.
func address(path string) string { return "/v" + api.PushVersion + path }

// shown answers with one resource.
func shown[A any](code int, path string, r api.Resource[A]) web.Document {
	d := web.Document{Code: code, Type: api.JSONAPIType, Body: api.Document[A]{Data: r, Links: &api.Links{Self: path}, JSONAPI: jsonapi.Version()}}
	if code == http.StatusCreated {
		d.Location = r.Links.Self
	}
	return d
}
