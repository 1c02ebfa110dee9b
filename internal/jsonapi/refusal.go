package jsonapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"keylime/internal/api"
	"keylime/internal/web"
)

// Version is the version of the format that answers have.
func Version() *api.JSONAPI { return &api.JSONAPI{Version: api.JSONAPIVersion} }

// Deny is a refusal that says why.
func Deny(status int, code, detail string) error { return DenyFor(status, 0, code, detail) }

// DenyFor is Deny, for some seconds.
func DenyFor(status int, seconds int64, code, detail string) error {
	return denyItems(status, seconds, []api.ErrorItem{{Status: strconv.Itoa(status), Code: code, Detail: detail}})
}

// Unprocessable lists what is wrong with a request, which is something.
func Unprocessable(problems []api.ErrorItem) error {
	return denyItems(http.StatusUnprocessableEntity, 0, problems)
}

func denyItems(status int, seconds int64, items []api.ErrorItem) error {
	return &web.Error{
		Code: status, Retry: time.Duration(seconds) * time.Second, Msg: items[0].Detail,
		Type: api.JSONAPIType, Body: errorDocument(items),
	}
}

func errorDocument(items []api.ErrorItem) api.ErrorDocument {
	return api.ErrorDocument{Errors: slices.Clone(items), JSONAPI: Version()}
}

// codes name statuses in documents.
var codes = map[int]string{
	http.StatusBadRequest: "invalid_request", http.StatusForbidden: "forbidden", http.StatusNotFound: "not_found", http.StatusConflict: "conflict",
}

// Documents has a handler's refusals be documents that name the request.
func Documents(h web.Handler) web.Handler {
	return Linked(func(ctx context.Context, r *web.Request) (any, error) {
		result, err := h(ctx, r)
		var refused *web.Error
		if errors.As(err, &refused) && refused.Body == nil && refused.Msg != "" {
			// What it was is kept: the cause is for the log.
			inDocument := *refused
			item := api.ErrorItem{Status: strconv.Itoa(refused.Code), Code: codes[refused.Code], Detail: refused.Msg}
			inDocument.Type, inDocument.Body = api.JSONAPIType, errorDocument([]api.ErrorItem{item})
			err = &inDocument
		}
		return result, err
	})
}

// Linked has a handler's refusals that are documents name the request.
func Linked(h web.Handler) web.Handler {
	return func(ctx context.Context, r *web.Request) (any, error) {
		result, err := h(ctx, r)
		var refused *web.Error
		if errors.As(err, &refused) {
			if d, ok := refused.Body.(api.ErrorDocument); ok {
				d.Links = &api.Links{Self: r.Path}
				refused.Body = d
			}
		}
		return result, err
	}
}

// PageNumber reads a number of a list's query, as page[size]; def when it is not there. The error is a refusal.
func PageNumber(query url.Values, name string, def uint64) (uint64, error) {
	values := query[name]
	if len(values) == 0 {
		return def, nil
	}
	n, err := strconv.ParseUint(values[0], 10, 64)
	if err != nil || len(values) > 1 {
		return 0, Deny(http.StatusBadRequest, "invalid_parameter", fmt.Sprintf("Query parameter '%s' must be one whole number.", name))
	}
	return n, nil
}
