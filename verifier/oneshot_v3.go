package verifier

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"keylime/internal/api"
	"keylime/internal/evidence"
	"keylime/internal/jsonapi"
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
		sent, err := jsonapi.Parse(string(body))
		switch {
		case err != nil:
			return evidence.Request{}, &evidence.RequestError{Text: err.Error()}
		case sent.Type != typeEvidence:
			return evidence.Request{}, &evidence.RequestError{Text: fmt.Sprintf("the resource is of type %q, want %q", clip(sent.Type), typeEvidence)}
		}
		return evidence.ParseAttributes(sent.Attributes)
	},
	verdict: func(write func(io.Writer) error) any {
		return web.Raw{Code: http.StatusOK, Type: api.JSONAPIType, Write: func(w io.Writer) error {
			_, err := io.WriteString(w, `{"data":{"type":"`+typeEvidence+`","attributes":`)
			if err == nil {
				err = write(w)
			}
			if err == nil {
				_, err = io.WriteString(w, `},"jsonapi":{"version":"`+api.JSONAPIVersion+`"}}`)
			}
			return err
		}}
	},
	incomplete: func(r evidence.Result) (any, error) {
		f := r.Failures[0]
		return nil, jsonapi.Deny(http.StatusBadRequest, f.Type, messageOf(f))
	},
}

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
		JSONAPI: jsonapi.Version(),
	}}, nil
}
