package fleet

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"keylime/internal/api"
	"keylime/tpm"
)

// Refused is an answer of another status than the one that was hoped for.
type Refused struct {
	Status       int
	Code, Detail string        // of the first error in the body; "" without one
	RetryAfter   time.Duration // 0 without
}

func (e *Refused) Error() string { return fmt.Sprintf("%d %s %s", e.Status, e.Code, e.Detail) }

// StatusOf is the status of the refusal that err is; 0 for any other error.
func StatusOf(err error) int {
	var refused *Refused
	if errors.As(err, &refused) {
		return refused.Status
	}
	return 0
}

// maxAnswer bounds what is read of an answer: the acknowledgement of evidence repeats the evidence.
const maxAnswer = 64 << 20

// OpenSession proves possession of the AK and keeps the token that it gets for it.
func (a *PushAgent) OpenSession(ctx context.Context) error {
	id, challenge, err := a.AskSession(ctx)
	if err != nil {
		return err
	}
	ak, err := tpm.ParsePublic(a.TPM.AKPublic())
	if err != nil {
		return err
	}
	attest, signature, err := a.TPM.Certify(challenge, ak)
	if err != nil {
		return err
	}
	result, err := a.ProveSession(ctx, id, attest, signature)
	if err != nil {
		return err
	}
	if result.Evaluation != "pass" || result.Token == "" {
		return fmt.Errorf("open session: the proof is evaluated as %q", result.Evaluation)
	}
	a.token = result.Token
	return nil
}

// AskSession asks for a session and returns what is to be certified.
func (a *PushAgent) AskSession(ctx context.Context) (id string, challenge []byte, err error) {
	request := api.SessionRequest{AgentID: a.ID, Supported: []api.Authentication{proof(nil)}}
	var answer api.Document[api.SessionOffer]
	if _, err := a.send(ctx, http.MethodPost, "/v3.0/sessions", http.StatusOK, document(api.TypeSession, request), &answer); err != nil {
		return "", nil, fmt.Errorf("open session: %w", err)
	}
	offered := answer.Data.Attributes.Requested
	if len(offered) != 1 || offered[0].Chosen == nil {
		return "", nil, errors.New("open session: the verifier asks for no proof, or for several")
	}
	challenge, err = base64.StdEncoding.DecodeString(offered[0].Chosen.Challenge)
	return answer.Data.ID, challenge, err
}

// ProveSession answers a challenge.
func (a *PushAgent) ProveSession(ctx context.Context, id string, attest, signature []byte) (api.SessionResult, error) {
	request := document(api.TypeSession, api.SessionProof{AgentID: a.ID, Provided: []api.Authentication{proof(&api.AuthenticationMessage{
		Message:   base64.StdEncoding.EncodeToString(attest),
		Signature: base64.StdEncoding.EncodeToString(signature),
	})}})
	request.Data.ID = id
	var answer api.Document[api.SessionResult]
	if _, err := a.send(ctx, http.MethodPatch, "/v3.0/sessions/"+id, http.StatusOK, request, &answer); err != nil {
		return api.SessionResult{}, fmt.Errorf("prove session: %w", err)
	}
	return answer.Data.Attributes, nil
}

func proof(data *api.AuthenticationMessage) api.Authentication {
	return api.Authentication{Class: api.AuthenticationClass, Type: api.AuthenticationType, Data: data}
}

// Token is the bearer token of its session; "" without one.
func (a *PushAgent) Token() string { return a.token }

// UseToken has it go on with a token, whosever it is.
func (a *PushAgent) UseToken(token string) { a.token = token }

func (a *PushAgent) path(resource string) string { return "/v3.0/agents/" + a.ID + "/" + resource }

func document[A any](kind string, attributes A) *api.Document[A] {
	return &api.Document[A]{Data: api.Resource[A]{Type: kind, Attributes: attributes}}
}

// send makes one request and decodes an answer with the wanted status. body and answer may be nil.
func (a *PushAgent) send(ctx context.Context, method, path string, want int, body, answer any) (http.Header, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, content)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", api.JSONAPIType)
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	rsp, err := a.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer rsp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(rsp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if rsp.StatusCode != want {
		return rsp.Header, fmt.Errorf("%s %s: %w", method, path, refusal(rsp, text))
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return rsp.Header, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return rsp.Header, nil
}

func refusal(rsp *http.Response, text []byte) *Refused {
	r := &Refused{Status: rsp.StatusCode}
	if seconds, err := strconv.Atoi(rsp.Header.Get("Retry-After")); err == nil {
		r.RetryAfter = time.Duration(seconds) * time.Second
	}
	var body api.ErrorDocument
	if json.Unmarshal(text, &body) == nil && len(body.Errors) > 0 {
		r.Code, r.Detail = body.Errors[0].Code, body.Errors[0].Detail
	}
	return r
}
