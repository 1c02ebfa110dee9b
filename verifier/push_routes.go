package verifier

import (
	"keylime/internal/jsonapi"
	"keylime/internal/web"
)

// callRoutes are those of agents that call in, and of administrators who look at what came of it. There are none on a
// verifier that asks agents only.
func (v *Verifier) callRoutes() []web.Route {
	if v.calls == nil {
		return nil
	}
	const all, one, payload = " /{v3}/agents/{id}/attestations", " /{v3}/agents/{id}/attestations/{index}", " /{v3}/agents/{id}/payload"
	c := v.calls
	return []web.Route{
		{Pattern: "POST" + all, Access: web.Agent, Action: "submit_attestation", MaxBody: maxOpenBody, Handle: jsonapi.Linked(c.open)},
		{Pattern: "PATCH" + one, Access: web.Agent, Action: "submit_attestation",
			MaxBody: int64(v.cfg.MaxUploadSize), Timeout: uploadTimeout, Handle: jsonapi.Linked(c.deliver)},
		{Pattern: "GET" + all, Access: web.Admin, Action: "list_attestations", Timeout: uploadTimeout, Handle: jsonapi.Linked(c.list)},
		{Pattern: "GET" + one, Access: web.Admin, Action: "read_attestation", Handle: jsonapi.Linked(c.attestation)},
		{Pattern: "PUT" + payload, Access: web.Admin, Action: "write_payload", MaxBody: maxPayloadBody, Timeout: uploadTimeout, Handle: jsonapi.Linked(c.putPayload)},
		{Pattern: "GET" + payload, Access: web.Agent, Action: "read_payload", Timeout: uploadTimeout, Handle: jsonapi.Linked(c.payload)},
	}
}
