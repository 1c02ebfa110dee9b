package verifier

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/web"
)

// uploadTimeout is for requests that may carry a policy of max_upload_size.
const uploadTimeout = 5 * time.Minute

// Handler serves the verifier's API.
func (v *Verifier) Handler() http.Handler {
	routes := web.New(web.Options{
		Log:      v.log,
		LogLevel: zerolog.InfoLevel, // administrators' doings are few, and worth a line each
		Versions: api.ServerVersions,
		Major:    true,
		BadID:    func(string) *web.Error { return &web.Error{Code: http.StatusBadRequest, Msg: textBadID} },
	}, v.routes()...)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			w.Header().Set("Location", "/version")
			w.WriteHeader(http.StatusTemporaryRedirect)
			return
		}
		routes.ServeHTTP(w, r)
	})
}

func (v *Verifier) routes() []web.Route {
	version := func(context.Context, *web.Request) (any, error) {
		return api.Version{Current: api.Current, Supported: api.ServerVersions}, nil
	}
	return append([]web.Route{
		{Pattern: "GET /version", Action: "read_version", Handle: version},
		{Pattern: "GET /versions", Action: "read_version", Handle: version},
	}, append(v.agentRoutes(), v.policyRoutes()...)...)
}

func (v *Verifier) agentRoutes() []web.Route {
	const collection, one = " /{version}/agents", " /{version}/agents/{id}"
	return []web.Route{
		{Pattern: "GET" + collection, Access: web.Admin, Action: "list_agents", Timeout: uploadTimeout, Handle: v.list},
		{Pattern: "GET" + one, Access: web.Admin, Action: "read_agent",
			Handle: func(ctx context.Context, r *web.Request) (any, error) { return v.agent(ctx, r.Param("id"), r.ReadOnly) }},
		{Pattern: "POST" + one, Access: web.Admin, Action: "create_agent",
			MaxBody: int64(v.cfg.MaxUploadSize), Timeout: uploadTimeout, Handle: withBody("id", v.enrol)},
		{Pattern: "DELETE" + one, Access: web.Admin, Action: "delete_agent", Handle: named("id", v.deleteAgent)},
		{Pattern: "PUT" + one + "/stop", Access: web.Admin, Action: "stop_agent", Handle: named("id", v.stopAgent)},
		{Pattern: "PUT" + one + "/reactivate", Access: web.Admin, Action: "reactivate_agent", Handle: named("id", v.reactivateAgent)},
	}
}

func (v *Verifier) policyRoutes() []web.Route {
	const runtime, boot, name = " /{version}/allowlists", " /{version}/mbpolicies", "/{name}"
	created := web.Answer{Code: http.StatusCreated}
	deleted := web.Answer{Code: http.StatusNoContent}
	upload := func(pattern, action string, f func(context.Context, string, []byte) error) web.Route {
		return web.Route{Pattern: pattern, Access: web.Admin, Action: action, MaxBody: int64(v.cfg.MaxUploadSize),
			Timeout: uploadTimeout, Handle: answering(created, withBody("name", f))}
	}
	return []web.Route{
		{Pattern: "GET" + runtime, Access: web.Admin, Action: "list_runtime_policies",
			Handle: func(ctx context.Context, _ *web.Request) (any, error) { return v.runtimePolicies(ctx) }},
		{Pattern: "GET" + runtime + name, Access: web.Admin, Action: "read_runtime_policy", Timeout: uploadTimeout,
			Handle: func(ctx context.Context, r *web.Request) (any, error) { return v.runtimePolicy(ctx, r.Param("name")) }},
		upload("POST"+runtime+name, "create_runtime_policy", v.addRuntimePolicy),
		upload("PUT"+runtime+name, "update_runtime_policy", v.updateRuntimePolicy),
		{Pattern: "DELETE" + runtime + name, Access: web.Admin, Action: "delete_runtime_policy",
			Handle: answering(deleted, named("name", v.deleteRuntimePolicy))},

		{Pattern: "GET" + boot, Access: web.Admin, Action: "list_mb_policies",
			Handle: func(ctx context.Context, _ *web.Request) (any, error) { return v.mbPolicies(ctx) }},
		{Pattern: "GET" + boot + name, Access: web.Admin, Action: "read_mb_policy", Timeout: uploadTimeout,
			Handle: func(ctx context.Context, r *web.Request) (any, error) { return v.mbPolicy(ctx, r.Param("name")) }},
		upload("POST"+boot+name, "create_mb_policy", v.addMBPolicy),
		upload("PUT"+boot+name, "update_mb_policy", v.updateMBPolicy),
		{Pattern: "DELETE" + boot + name, Access: web.Admin, Action: "delete_mb_policy",
			Handle: answering(deleted, named("name", v.deleteMBPolicy))},
	}
}

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

// answering gives the success of a handler another status.
func answering(a web.Answer, h web.Handler) web.Handler {
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
