package api

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"keylime/internal/strictjson"
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

// minNonce is the least that a challenge has, in bytes, to be fresh; maxNonce the most that a TPM takes as qualifying
// data.
const minNonce, maxNonce = 16, 64

// DecodeChallenge decodes what a signature has to cover: base64 of 16 to 64 bytes.
func DecodeChallenge(text string) ([]byte, error) {
	nonce, err := base64.StdEncoding.Strict().DecodeString(text)
	if err == nil && (len(nonce) < minNonce || len(nonce) > maxNonce) {
		err = fmt.Errorf("%d bytes, want %d to %d", len(nonce), minNonce, maxNonce)
	}
	if err != nil {
		return nil, fmt.Errorf("challenge: %w", err)
	}
	return nonce, nil
}

// AskSession asks for a session's challenge.
func (c *PushClient) AskSession(ctx context.Context, agentID string) (Challenge, error) {
	r := request{method: http.MethodPost, path: path("v"+PushVersion, "sessions")}
	var offer Document[SessionOffer]
	err := c.document(ctx, r, TypeSession, "", SessionRequest{
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
		nonce, err := DecodeChallenge(a.Chosen.Challenge)
		if err != nil || offer.Data.ID == "" {
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
	if err := c.document(ctx, r, TypeSession, session, proof, &result); err != nil {
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
	if err := strictjson.Unmarshal([]byte(text), maxDepth, &d); err != nil || d.Data.Type != TypeAttestation {
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
// cannot be read acknowledges all the same; its Meta is empty. How long it may take is up to ctx alone: a list of
// measurements may be long, and the line slow.
func (c *PushClient) Deliver(ctx context.Context, token, location string, evidence io.Reader, length int64) (Meta, error) {
	patient := *c.http
	patient.Timeout = 0
	r := request{method: http.MethodPatch, path: location, kind: JSONAPIType, token: token, stream: evidence, length: length}
	rsp, err := c.send(ctx, &patient, r)
	if err != nil {
		return Meta{}, err
	}
	defer rsp.Body.Close()
	if rsp.StatusCode < 200 || rsp.StatusCode > 299 {
		_, err := c.read(r, rsp)
		return Meta{}, err
	}
	answer := io.LimitReader(rsp.Body, evidenceAnswer)
	meta := readMeta(answer)
	_, _ = io.CopyN(io.Discard, answer, smallAnswer) // an answer read to its end keeps the connection
	return meta, nil
}

// readMeta reads what an acknowledgement says beside the evidence, which comes back with it and is not kept.
func readMeta(answer io.Reader) (m Meta) {
	text, err := findMember(bufio.NewReaderSize(answer, 32<<10), "meta", smallAnswer)
	if err != nil || strictjson.Unmarshal(text, maxDepth, &m) != nil {
		return Meta{}
	}
	return m
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
func (c *PushClient) document(ctx context.Context, r request, kind, id string, attributes, answer any) error {
	r.kind = JSONAPIType
	r.body = Document[any]{Data: Resource[any]{Type: kind, ID: id, Attributes: attributes}}
	return c.exchange(ctx, r, answer)
}

// exchange sends a request and decodes its answer, a document.
func (c *PushClient) exchange(ctx context.Context, r request, answer any) error {
	text, err := c.raw(ctx, r)
	if err != nil {
		return err
	}
	if err := strictjson.Unmarshal([]byte(text), maxDepth, answer); err != nil {
		return fmt.Errorf("%s %s: %w: %w", r.method, c.base+r.path, ErrMalformed, err)
	}
	return nil
}
