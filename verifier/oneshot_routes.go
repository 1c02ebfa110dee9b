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
	const evidence, identity, keys = "/verify/evidence", "/verify/identity", "/.well-known/jwks.json"
	post := func(path string, h web.Handler) web.Route {
		return web.Route{Pattern: "POST " + path, Access: access, Action: "verify_evidence",
			MaxBody: int64(v.cfg.MaxUploadSize), Timeout: oneShotTimeout, Handle: h}
	}
	get := func(path string, h web.Handler) web.Route {
		return web.Route{Pattern: "GET " + path, Access: access, Action: "verify_identity", Handle: h}
	}
	return []web.Route{
		post("/{version}"+evidence, o.evidence(dialectV2)),
		get("/{version}"+identity, o.identity),
		post("/{v3}"+evidence, inDocuments(o.evidence(dialectV3))),
		get("/{v3}"+identity, inDocuments(o.identityV3)),
		{Pattern: "GET " + keys, Action: "read_token_keys", Handle: o.keys},
		{Pattern: "GET /{v3}" + keys, Action: "read_token_keys", Handle: o.keys},
	}
}
