package verifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"keylime/internal/api"
	"keylime/internal/evidence"
	"keylime/internal/web"
)

// Types of the resources of API 3.0 that one-shot requests and verdicts are.
const (
	typeEvidence = "evidence"
	typeIdentity = "identity"
)

// dialectV3 is that of API 3.0: JSON:API documents.
var dialectV3 = dialect{
	parse: func(body []byte) (evidence.Request, error) {
		kind, attributes, err := parseDocument(string(body))
		switch {
		case err != nil:
			return evidence.Request{}, &evidence.RequestError{Text: err.Error()}
		case kind != typeEvidence:
			return evidence.Request{}, &evidence.RequestError{Text: fmt.Sprintf("the resource is of type %q, want %q", clip(kind), typeEvidence)}
		}
		return evidence.ParseAttributes(attributes)
	},
	verdict: func(write func(io.Writer) error) any {
		return web.Raw{Code: http.StatusOK, Type: api.JSONAPIType, Write: func(w io.Writer) error {
			_, err := io.WriteString(w, `{"data":{"type":"`+typeEvidence+`","attributes":`)
			if err == nil {
				err = write(w)
			}
			if err == nil {
				_, err = io.WriteString(w, `},"jsonapi":{"version":"`+jsonAPI+`"}}`)
			}
			return err
		}}
	},
	incomplete: func(r evidence.Result) (any, error) {
		var items []api.ErrorItem
		for _, f := range r.Failures {
			items = append(items, api.ErrorItem{Status: strconv.Itoa(http.StatusBadRequest), Code: f.Type, Detail: messageOf(f)})
		}
		return nil, &web.Error{Code: http.StatusBadRequest, Type: api.JSONAPIType, Body: api.ErrorDocument{Errors: items, JSONAPI: &api.JSONAPI{Version: jsonAPI}}}
	},
}

// jsonAPI is the version of the format.
const jsonAPI = "1.1"

// messageOf is the text of a failure's context.
func messageOf(f evidence.Failure) string {
	var context struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(f.Context, &context) == nil && context.Message != "" {
		return context.Message
	}
	return string(f.Context)
}

// inDocuments has a handler's refusals be JSON:API documents.
func inDocuments(h web.Handler) web.Handler {
	return func(ctx context.Context, r *web.Request) (any, error) {
		result, err := h(ctx, r)
		var refused *web.Error
		if errors.As(err, &refused) && refused.Body == nil && refused.Msg != "" {
			document := *refused
			document.Type = api.JSONAPIType
			document.Body = api.ErrorDocument{
				Errors:  []api.ErrorItem{{Status: strconv.Itoa(refused.Code), Detail: refused.Msg}},
				JSONAPI: &api.JSONAPI{Version: jsonAPI},
			}
			err = &document
		}
		return result, err
	}
}

// identityV3 answers GET /v3.0/verify/identity.
func (o *oneShot) identityV3(ctx context.Context, r *web.Request) (any, error) {
	failures, err := o.checkIdentity(ctx, r)
	if err != nil {
		return nil, err
	}
	return web.Document{Code: http.StatusOK, Type: api.JSONAPIType, Body: api.Document[api.IdentityVerdict]{
		Data: api.Resource[api.IdentityVerdict]{Type: typeIdentity, ID: r.Query.Get("agent_uuid"), Attributes: api.IdentityVerdict{
			Valid: len(failures) == 0, Failures: wireFailures(failures),
		}},
		JSONAPI: &api.JSONAPI{Version: jsonAPI},
	}}, nil
}
