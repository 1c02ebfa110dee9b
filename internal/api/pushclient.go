package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// PushClient speaks API 3.0 to one verifier, as an agent that calls in. It is safe for concurrent use, as the
// http.Client is.
type PushClient struct{ caller }

// NewPush returns a client of the verifier at base, as "https://verifier.example.org:8881".
func NewPush(base string, hc *http.Client) *PushClient { return &PushClient{newCaller(base, hc)} }

// Base is the verifier's URL.
func (c *PushClient) Base() string { return c.base }

// Challenge is what a session is to be proven by.
type Challenge struct {
	Session string
	Nonce   []byte
}

const maxNonce = 64 // bytes; the most that a TPM takes as qualifying data

// AskSession asks for a session's challenge.
func (c *PushClient) AskSession(ctx context.Context, agentID string) (Challenge, error) {
	r := request{method: http.MethodPost, path: path("v"+PushVersion, "sessions")}
	var offer Document[SessionOffer]
	err := c.document(ctx, r, TypeSession, SessionRequest{
		AgentID:   agentID,
		Supported: []Authentication{{Class: AuthenticationClass, Type: AuthenticationType}},
	}, &offer)
	if err != nil {
		return Challenge{}, err
	}
	for _, a := range offer.Data.Attributes.Requested {
		if a.Type != AuthenticationType || a.Chosen == nil {
			continue
		}
		nonce, err := base64.StdEncoding.DecodeString(a.Chosen.Challenge)
		if err != nil || len(nonce) == 0 || len(nonce) > maxNonce || offer.Data.ID == "" {
			break
		}
		return Challenge{offer.Data.ID, nonce}, nil
	}
	return Challenge{}, fmt.Errorf("%s %s: %w: no challenge for %s", r.method, c.base+r.path, ErrMalformed, AuthenticationType)
}

// ProveSession answers a challenge with the AK's certification of itself. The token is "" when the verifier does not
// know the agent (yet); an *Error with status 401 says that it does not take the proof.
func (c *PushClient) ProveSession(ctx context.Context, agentID, session string, attest, signature []byte) (token string, err error) {
	r := request{method: http.MethodPatch, path: path("v"+PushVersion, "sessions", session)}
	proof := SessionProof{AgentID: agentID, Provided: []Authentication{{
		Class: AuthenticationClass, Type: AuthenticationType,
		Data: &AuthenticationMessage{
			Message:   base64.StdEncoding.EncodeToString(attest),
			Signature: base64.StdEncoding.EncodeToString(signature),
		},
	}}}
	var result Document[SessionResult]
	if err := c.document(ctx, r, TypeSession, proof, &result); err != nil {
		return "", err
	}
	a := result.Data.Attributes
	if a.Evaluation == "pass" && a.Token == "" {
		return "", fmt.Errorf("%s %s: %w: proof accepted, but no token", r.method, c.base+r.path, ErrMalformed)
	}
	return a.Token, nil
}

// Open begins an attestation and returns what the verifier asks for, and the path to deliver it to.
func (c *PushClient) Open(ctx context.Context, token, agentID string, offer AttestationRequest) (location string, a Attestation, err error) {
	r := request{method: http.MethodPost, path: path("v"+PushVersion, "agents", agentID, "attestations"), kind: JSONAPIType, token: token}
	r.body = Document[AttestationRequest]{Data: Resource[AttestationRequest]{Type: TypeAttestation, Attributes: offer}}
	rsp, err := c.send(ctx, c.http, r)
	if err != nil {
		return "", a, err
	}
	defer rsp.Body.Close()
	text, err := c.read(r, rsp)
	if err != nil {
		return "", a, err
	}
	var d Document[Attestation]
	if err := json.Unmarshal([]byte(text), &d); err != nil || d.Data.Type != TypeAttestation {
		return "", a, fmt.Errorf("%s %s: %w: no attestation", r.method, c.base+r.path, ErrMalformed)
	}
	location, err = c.local(rsp.Header.Get("Location"), r.path)
	if err != nil {
		return "", a, fmt.Errorf("%s %s: %w: Location: %w", r.method, c.base+r.path, ErrMalformed, err)
	}
	return location, d.Data.Attributes, nil
}

// local is the path of a Location, which may be an URL or a path: below the path that was asked, at the same verifier.
// A token goes nowhere else.
func (c *PushClient) local(location, below string) (string, error) {
	base, err := url.Parse(c.base)
	if err != nil {
		return "", err
	}
	target, err := base.Parse(location)
	if err != nil {
		return "", err
	}
	_, index, _ := strings.Cut(target.Path, below+"/")
	if target.Scheme != base.Scheme || target.Host != base.Host || index == "" || strings.Contains(index, "/") || target.RawQuery != "" {
		return "", fmt.Errorf("%q is not below %s%s", printable(location), c.base, below)
	}
	return below + "/" + url.PathEscape(index), nil
}

// Deliver sends evidence, which is the text of a Document[AttestationEvidence] of the given length. An answer that
// cannot be read acknowledges all the same; its Meta is empty.
func (c *PushClient) Deliver(ctx context.Context, token, location string, evidence io.Reader, length int64) (m Meta, err error) {
	r := request{method: http.MethodPatch, path: location, kind: JSONAPIType, token: token, stream: evidence, length: length, limit: largeAnswer}
	rsp, err := c.send(ctx, c.http, r)
	if err != nil {
		return m, err
	}
	defer rsp.Body.Close()
	if rsp.StatusCode < 200 || rsp.StatusCode > 299 {
		_, err := c.read(r, rsp)
		return m, err
	}
	// The evidence comes back with the acknowledgement; only what is beside it is of interest.
	var d struct {
		Meta Meta `json:"meta"`
	}
	if json.NewDecoder(io.LimitReader(rsp.Body, largeAnswer)).Decode(&d) != nil {
		return Meta{}, nil
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(rsp.Body, smallAnswer)) // a body read to its end keeps the connection
	return d.Meta, nil
}

// Status is what the verifier shows of the agent, which it may see itself.
func (c *PushClient) Status(ctx context.Context, token, agentID string) (a VerifierAgent, err error) {
	_, err = c.call(ctx, request{method: http.MethodGet, path: path("v"+Current, "agents", agentID), token: token}, &a)
	return a, err
}

// Payload fetches what a tenant left for the agent.
func (c *PushClient) Payload(ctx context.Context, token, agentID string) (Payload, error) {
	r := request{method: http.MethodGet, path: path("v"+PushVersion, "agents", agentID, "payload"), kind: JSONAPIType, token: token, limit: payloadAnswer}
	var d Document[Payload]
	if err := c.exchange(ctx, r, &d); err != nil {
		return Payload{}, err
	}
	return d.Data.Attributes, nil
}

// document sends a document of one resource and decodes that of the answer.
func (c *PushClient) document(ctx context.Context, r request, kind string, attributes, answer any) error {
	r.kind = JSONAPIType
	r.body = Document[any]{Data: Resource[any]{Type: kind, Attributes: attributes}}
	return c.exchange(ctx, r, answer)
}

// exchange sends a request and decodes its answer, a document.
func (c *PushClient) exchange(ctx context.Context, r request, answer any) error {
	text, err := c.raw(ctx, r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), answer); err != nil {
		return fmt.Errorf("%s %s: %w: %w", r.method, c.base+r.path, ErrMalformed, err)
	}
	return nil
}
