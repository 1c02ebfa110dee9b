package verifier

import "keylime/internal/web"

// oneShotRoutes are those for evidence that somebody hands in: open to all, to administrators, or not there.
func (v *Verifier) oneShotRoutes() []web.Route {
	o := v.oneShot
	if o.access == accessOff {
		return nil
	}
	access := web.Public
	if o.access == accessAdmin {
		access = web.Admin
	}
	routes := []web.Route{
		{Pattern: "POST /{version}/verify/evidence", Access: access, Action: "verify_evidence",
			MaxBody: int64(v.cfg.MaxUploadSize), Timeout: oneShotTimeout, Handle: o.evidence(dialectV2)},
		{Pattern: "GET /{version}/verify/identity", Access: access, Action: "verify_identity", Handle: o.identity},
	}
	for _, path := range []string{"/.well-known/jwks.json", "/v3/.well-known/jwks.json", "/v3.0/.well-known/jwks.json"} {
		routes = append(routes, web.Route{Pattern: "GET " + path, Action: "read_token_keys", Handle: o.keys})
	}
	return routes
}
