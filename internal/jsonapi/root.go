package jsonapi

import (
	"context"
	"net/http"

	"keylime/internal/api"
	"keylime/internal/web"
)

// Root answers at the root of a version with its name.
func Root(_ context.Context, r *web.Request) (any, error) {
	return web.Document{Code: http.StatusOK, Type: api.JSONAPIType, Body: api.RootDocument{
		Meta: api.RootMeta{Version: r.Version}, Links: &api.Links{Self: r.Path}, JSONAPI: Version(),
	}}, nil
}
