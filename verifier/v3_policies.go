package verifier

import (
	"context"
	"net/http"

	"keylime/internal/api"
	"keylime/internal/jsonapi"
	"keylime/internal/strictjson"
	"keylime/internal/web"
	"keylime/store"
)

// policyResources are the resources of one kind of named policies, whose ids are their names.
type policyResources struct {
	v        *Verifier
	path     string // of the collection
	kind     store.PolicyKind
	name     string // of the kind, in actions
	resource string // type
	text     string // the attribute that no upload may lack
	policyHandlers
}

func (p policyResources) routes() []web.Route {
	all, one := " /{v3}"+p.path, " /{v3}"+p.path+"/{name}"
	upload := func(pattern, action string, h web.Handler) web.Route {
		return web.Route{Pattern: pattern, Access: web.Admin, Action: action + p.name + "_policy",
			MaxBody: int64(p.v.cfg.MaxUploadSize), Timeout: uploadTimeout, Handle: h}
	}
	return []web.Route{
		{Pattern: "GET" + all, Access: web.Admin, Action: "list_" + p.name + "_policies", Handle: p.showAll},
		{Pattern: "GET" + one, Access: web.Admin, Action: "read_" + p.name + "_policy", Timeout: uploadTimeout, Handle: p.show},
		upload("POST"+all, "create_", p.create),
		upload("PATCH"+one, "update_", p.replace),
		{Pattern: "DELETE" + one, Access: web.Admin, Action: "delete_" + p.name + "_policy",
			Handle: answering(web.Document{Code: http.StatusNoContent}, named("name", p.remove))},
	}
}

// listed is a policy without its text.
func (p policyResources) listed(name string) api.Resource[api.PolicyName] {
	return api.Resource[api.PolicyName]{
		Type: p.resource, ID: name, Attributes: api.PolicyName{Name: name}, Links: &api.Links{Self: address(p.path + "/" + name)},
	}
}

// showAll answers GET of the collection: every policy, without texts.
func (p policyResources) showAll(ctx context.Context, r *web.Request) (any, error) {
	names, err := p.v.store.PolicyNames(ctx, p.kind)
	if err != nil {
		return nil, err
	}
	list := api.List[api.PolicyName]{Data: make([]api.Resource[api.PolicyName], len(names)), Links: &api.Links{Self: r.Path}, JSONAPI: jsonapi.Version()}
	for i, name := range names {
		list.Data[i] = p.listed(name)
	}
	return web.Document{Code: http.StatusOK, Type: api.JSONAPIType, Body: list}, nil
}

// show answers GET of one policy, with its text.
func (p policyResources) show(ctx context.Context, r *web.Request) (any, error) {
	record, err := p.read(ctx, r.Param("name"))
	if err != nil {
		return nil, err
	}
	return shown(http.StatusOK, r.Path, api.Resource[any]{
		Type: p.resource, ID: r.Param("name"), Attributes: record, Links: &api.Links{Self: r.Path},
	}), nil
}

// create answers POST. The text is not sent back.
func (p policyResources) create(ctx context.Context, r *web.Request) (any, error) {
	sent, err := p.sent(r)
	if err != nil {
		return nil, err
	}
	if sent.ID == "" {
		return nil, badID(isRequired)
	}
	if err := p.add(ctx, sent.ID, []byte(sent.Attributes)); err != nil {
		return nil, err
	}
	return shown(http.StatusCreated, r.Path, p.listed(sent.ID)), nil
}

// replace answers PATCH: another text for a policy that there is.
func (p policyResources) replace(ctx context.Context, r *web.Request) (any, error) {
	name := r.Param("name")
	sent, err := p.sent(r)
	if err != nil {
		return nil, err
	}
	if sent.ID != "" && sent.ID != name {
		return nil, jsonapi.Deny(http.StatusConflict, "conflict", "The resource's id is not the name in the path.")
	}
	if _, err := p.v.store.PolicyHead(ctx, p.kind, name); err != nil {
		return nil, noPolicy(err, "Policy %s not found", name)
	}
	if err := p.update(ctx, name, []byte(sent.Attributes)); err != nil {
		return nil, err
	}
	return web.Document{Code: http.StatusNoContent}, nil
}

// sent reads an upload. A policy that is to ask for nothing has to say so: its text must be there, be it null.
func (p policyResources) sent(r *web.Request) (jsonapi.Sent, error) {
	sent, err := readKind(r, p.resource)
	if err != nil {
		return sent, err
	}
	found := false
	reader := strictjson.NewReader(sent.Attributes, maxJSONDepth)
	err = reader.Object(func(member string) error {
		found = found || member == p.text
		return reader.Skip()
	})
	switch {
	case err != nil:
		return sent, exception(err)
	case !found:
		return sent, required(p.text)
	}
	return sent, nil
}
