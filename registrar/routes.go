package registrar

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/web"
)

func (r *Registrar) options() web.Options {
	return web.Options{
		Log:      r.log,
		LogLevel: zerolog.InfoLevel,
		Versions: api.ServerVersions,
		Major:    true,
		V3:       []string{api.PushVersion},
		Indent:   true,
		BadID: func(string) *web.Error {
			return &web.Error{Code: http.StatusBadRequest, Msg: "agent id is not valid: want 1 to 80 of the characters A-Z a-z 0-9 _ . -"}
		},
	}
}

// routes are the API, on both ports alike; administration is refused without TLS.
func (r *Registrar) routes() []web.Route { return slices.Concat(r.routesV2(), r.routesV3()) }

func (r *Registrar) routesV2() []web.Route {
	const collection, one = " /{version}/agents", " /{version}/agents/{id}"
	return []web.Route{
		{Pattern: "GET /version", Handle: version},
		{Pattern: "POST" + collection, Action: "register_agent", MaxBody: r.maxBody, Handle: r.register},
		{Pattern: "POST" + one, Action: "register_agent", MaxBody: r.maxBody, Handle: r.register},
		{Pattern: "PUT" + one, Action: "activate_agent", MaxBody: maxTag, Handle: r.activate},
		{Pattern: "PUT" + one + "/activate", Action: "activate_agent", MaxBody: maxTag, Handle: r.activate},
		{Pattern: "POST" + one + "/activate", Action: "activate_agent", MaxBody: maxTag, Handle: r.activate},
		{Pattern: "GET" + collection, Access: web.Admin, Action: "list_registrations", Handle: r.list},
		{Pattern: "GET" + one, Access: web.Admin, Action: "read_registration", Handle: r.show},
		{Pattern: "DELETE" + one, Access: web.Admin, Action: "delete_registration", Handle: r.remove},
	}
}

// version lists what is spoken. Agents and tenants take the current one of them, which is of API 2.
func version(context.Context, *web.Request) (any, error) {
	return api.Served(), nil
}

// Texts that are facts of the wire.
const (
	textInvalid  = "Could not register agent with invalid data"
	textIdentity = "Agent re-registration with different TPM identity is forbidden for security reasons"
)

func textTaken(id string) string {
	return fmt.Sprintf("Agent with UUID '%s' cannot be registered. This UUID is already in use or a concurrent registration is in progress.", id)
}

func textNotFound(id string) string { return fmt.Sprintf("Agent with ID '%s' not found", id) }

func textInactive(id string) string {
	return fmt.Sprintf("Agent with ID '%s' has not been activated", id)
}
