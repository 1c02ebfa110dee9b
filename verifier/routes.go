package verifier

import (
	"context"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/jsonapi"
	"keylime/internal/web"
)

// uploadTimeout is for requests that may carry a policy of max_upload_size.
const uploadTimeout = 5 * time.Minute

// Handler serves the verifier's API.
func (v *Verifier) Handler() http.Handler {
	routes := web.New(web.Options{
		Log:          v.log,
		LogLevel:     zerolog.InfoLevel, // administrators' doings are few, and worth a line each
		Versions:     api.ServerVersions,
		Major:        true,
		V3:           []string{api.PushVersion},
		Authenticate: v.sessions.authenticate,
		BadID:        func(string) *web.Error { return &web.Error{Code: http.StatusBadRequest, Msg: textBadID} },
	}, v.routes()...)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			w.Header().Set("Location", "/v"+api.PushVersion+"/")
			w.WriteHeader(http.StatusTemporaryRedirect)
			return
		}
		routes.ServeHTTP(w, r)
	})
}

func (v *Verifier) routes() []web.Route {
	return slices.Concat(v.discoveryRoutes(), v.agentRoutes(), v.policyRoutes(), v.oneShotRoutes(), v.sessionRoutes(), v.callRoutes(), v.resourceRoutes())
}

// discoveryRoutes say what is spoken here. A verifier that only takes agents which call in has no list of versions
// (wire): tenants then speak the newest version of API 2, and agents API 3.0.
func (v *Verifier) discoveryRoutes() []web.Route {
	versions := func(context.Context, *web.Request) (any, error) {
		if v.mode == api.ModePush {
			return web.Answer{Code: http.StatusGone}, nil
		}
		return api.Served(), nil
	}
	root := func(_ context.Context, r *web.Request) (any, error) {
		return map[string]string{"version": r.Version}, nil
	}
	return []web.Route{
		{Pattern: "GET /version", Action: "read_version", Handle: versions},
		{Pattern: "GET /versions", Action: "read_version", Handle: versions},
		{Pattern: "GET /{version}", Action: "read_version", Handle: root},
		{Pattern: "GET /{v3}", Action: "read_version", Handle: jsonapi.Root},
	}
}

func (v *Verifier) agentRoutes() []web.Route {
	const collection, one = " /{version}/agents", " /{version}/agents/{id}"
	return []web.Route{
		{Pattern: "GET" + collection, Access: web.Admin, Action: "list_agents", Timeout: uploadTimeout, Handle: v.list},
		{Pattern: "GET" + one, Access: web.AgentOrAdmin, Action: "read_agent",
			Handle: func(ctx context.Context, r *web.Request) (any, error) {
				return v.agent(ctx, r.Param("id"), !mayChange(r))
			}},
		{Pattern: "POST" + one, Access: web.Admin, Action: "create_agent",
			MaxBody: int64(v.cfg.MaxUploadSize), Timeout: uploadTimeout, Handle: withBody("id", v.enrol)},
		{Pattern: "DELETE" + one, Access: web.Admin, Action: "delete_agent", Handle: named("id", v.deleteAgent)},
		{Pattern: "PUT" + one + "/stop", Access: web.Admin, Action: "stop_agent", Handle: named("id", v.stopAgent)},
		{Pattern: "PUT" + one + "/reactivate", Access: web.Admin, Action: "reactivate_agent", Handle: named("id", v.reactivateAgent)},
	}
}

func (v *Verifier) policyRoutes() []web.Route {
	return slices.Concat(
		v.collection("allowlists", "runtime", v.runtimeHandlers()),
		v.rolloutRoutes(),
		v.collection("mbpolicies", "mb", v.mbHandlers()),
		v.collection("pcrpolicies", "pcr", policyHandlers{
			list: func(ctx context.Context) (any, error) { return v.pcrPolicies(ctx) },
			read: func(ctx context.Context, name string) (any, error) { return v.pcrPolicy(ctx, name) },
			add:  v.addPCRPolicy, update: v.updatePCRPolicy, remove: v.deletePCRPolicy,
		}),
	)
}

func (v *Verifier) runtimeHandlers() policyHandlers {
	return policyHandlers{
		list: func(ctx context.Context) (any, error) { return v.runtimePolicies(ctx) },
		read: func(ctx context.Context, name string) (any, error) { return v.runtimePolicy(ctx, name) },
		add:  v.addRuntimePolicy, update: v.updateRuntimePolicy, remove: v.deleteRuntimePolicy,
	}
}

func (v *Verifier) mbHandlers() policyHandlers {
	return policyHandlers{
		list: func(ctx context.Context) (any, error) { return v.mbPolicies(ctx) },
		read: func(ctx context.Context, name string) (any, error) { return v.mbPolicy(ctx, name) },
		add:  v.addMBPolicy, update: v.updateMBPolicy, remove: v.deleteMBPolicy,
	}
}

// rolloutRoutes are for a new version of a runtime policy, beside those of its collection.
func (v *Verifier) rolloutRoutes() []web.Route {
	const one = " /{version}/allowlists/{name}"
	answer := func(f func(ctx context.Context, name string, body []byte) (any, error)) web.Handler {
		return func(ctx context.Context, r *web.Request) (any, error) {
			body, err := r.Body()
			if err != nil {
				return nil, err
			}
			return f(ctx, r.Param("name"), body)
		}
	}
	return []web.Route{
		{Pattern: "PUT" + one + "/stage", Access: web.Admin, Action: "stage_runtime_policy",
			MaxBody: int64(v.cfg.MaxUploadSize), Timeout: uploadTimeout, Handle: answer(v.stageRuntimePolicy)},
		{Pattern: "POST" + one + "/check", Access: web.Admin, Action: "check_runtime_policy",
			MaxBody: int64(v.cfg.MaxUploadSize), Timeout: checkTimeout, Handle: answer(v.checkRuntimePolicy)},
	}
}

// policyHandlers are what can be done with one kind of named policies.
type policyHandlers struct {
	list        func(ctx context.Context) (any, error)
	read        func(ctx context.Context, name string) (any, error)
	add, update func(ctx context.Context, name string, body []byte) error
	remove      func(ctx context.Context, name string) error
}

// collection is the routes of one kind of named policies; kind is its name in actions.
func (v *Verifier) collection(path, kind string, h policyHandlers) []web.Route {
	all, one := " /{version}/"+path, " /{version}/"+path+"/{name}"
	return []web.Route{
		{Pattern: "GET" + all, Access: web.Admin, Action: "list_" + kind + "_policies",
			Handle: func(ctx context.Context, _ *web.Request) (any, error) { return h.list(ctx) }},
		{Pattern: "GET" + one, Access: web.Admin, Action: "read_" + kind + "_policy", Timeout: uploadTimeout,
			Handle: func(ctx context.Context, r *web.Request) (any, error) { return h.read(ctx, r.Param("name")) }},
		v.upload("POST"+one, "create_"+kind+"_policy", h.add),
		v.upload("PUT"+one, "update_"+kind+"_policy", h.update),
		{Pattern: "DELETE" + one, Access: web.Admin, Action: "delete_" + kind + "_policy",
			Handle: answering(web.Answer{Code: http.StatusNoContent}, named("name", h.remove))},
	}
}

// upload is a route that takes a policy's text.
func (v *Verifier) upload(pattern, action string, f func(ctx context.Context, name string, body []byte) error) web.Route {
	return web.Route{Pattern: pattern, Access: web.Admin, Action: action, MaxBody: int64(v.cfg.MaxUploadSize),
		Timeout: uploadTimeout, Handle: answering(web.Answer{Code: http.StatusCreated}, withBody("name", f))}
}

// mayChange reports whether the request comes from an operator who may see secrets, for he may set them.
func mayChange(r *web.Request) bool { return r.Admin != "" && !r.ReadOnly }

// named handles a request that is all in its path.
func named(param string, f func(ctx context.Context, name string) error) web.Handler {
	return func(ctx context.Context, r *web.Request) (any, error) { return nil, f(ctx, r.Param(param)) }
}

// withBody handles a request with a body. Its Content-Type is of no account: tenants send none.
func withBody(param string, f func(ctx context.Context, name string, body []byte) error) web.Handler {
	return func(ctx context.Context, r *web.Request) (any, error) {
		body, err := r.Body()
		if err != nil {
			return nil, err
		}
		return nil, f(ctx, r.Param(param), body)
	}
}

// answering gives the success of a handler another answer.
func answering(a any, h web.Handler) web.Handler {
	return func(ctx context.Context, r *web.Request) (any, error) {
		if _, err := h(ctx, r); err != nil {
			return nil, err
		}
		return a, nil
	}
}

// list answers GET /agents: ids, or with bulk whole statuses; of one verifier or of all.
func (v *Verifier) list(ctx context.Context, r *web.Request) (any, error) {
	verifierID := r.Query.Get("verifier")
	if r.Query.Get("bulk") == "" {
		return v.agents(ctx, verifierID)
	}
	return web.Stream(func(w io.Writer) error { return v.bulk(ctx, verifierID, r.ReadOnly, w) }), nil
}
