package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"fmt"
)

// AgentClient speaks to one agent. Versions are given without the v, as "2.6".
type AgentClient struct{ caller }

// NewAgent returns a client of the agent at base, as "https://192.0.2.7:9002". Safe for concurrent use, as hc is.
func NewAgent(base string, hc *http.Client) *AgentClient { return &AgentClient{newCaller(base, hc)} }

// Version is what the agent speaks.
func (c *AgentClient) Version(ctx context.Context) (v AgentVersion, err error) {
	return v, c.get(ctx, "/version", &v)
}

// Info is the agent's own view of itself; from version 2.2 on.
func (c *AgentClient) Info(ctx context.Context, version string) (i AgentInfo, err error) {
	return i, c.get(ctx, path("v"+version, "agent", "info"), &i)
}

// PubKey is the transport key to encrypt U and V for.
func (c *AgentClient) PubKey(ctx context.Context, version string) (k AgentPubKey, err error) {
	return k, c.get(ctx, path("v"+version, "keys", "pubkey"), &k)
}

// IdentityQuote asks for a quote over PCR 16 alone.
func (c *AgentClient) IdentityQuote(ctx context.Context, version, nonce string) (q QuoteResults, err error) {
	_, err = c.call(ctx, request{
		method: http.MethodGet,
		path:   path("v"+version, "quotes", "identity"),
		query:  "nonce=" + url.QueryEscape(nonce),
	}, &q)
	return q, err
}

// IntegrityRequest says what an integrity quote has to cover.
type IntegrityRequest struct {
	Nonce   string
	Mask    string // hex with 0x
	Partial bool   // the transport key is known already
	Entry   uint64 // first IMA entry wanted
}

// IntegrityQuote asks for evidence. The parameters stand in the order that upstream's verifier sends them in.
func (c *AgentClient) IntegrityQuote(ctx context.Context, version string, r IntegrityRequest) (q QuoteResults, err error) {
	partial := 0
	if r.Partial {
		partial = 1
	}
	_, err = c.call(ctx, request{
		method: http.MethodGet,
		path:   path("v"+version, "quotes", "integrity"),
		query: fmt.Sprintf("nonce=%s&mask=%s&partial=%d&ima_ml_entry=%s",
			url.QueryEscape(r.Nonce), url.QueryEscape(r.Mask), partial, strconv.FormatUint(r.Entry, 10)),
		limit: quoteAnswer,
	}, &q)
	return q, err
}

// UKey delivers the tenant's key share and the payload.
func (c *AgentClient) UKey(ctx context.Context, version string, u UKey) error {
	return c.post(ctx, path("v"+version, "keys", "ukey"), u)
}

// VKey delivers the verifier's key share.
func (c *AgentClient) VKey(ctx context.Context, version string, v VKey) error {
	return c.post(ctx, path("v"+version, "keys", "vkey"), v)
}

// KeyVerify asks for the HMAC that proves that the agent has both shares.
func (c *AgentClient) KeyVerify(ctx context.Context, version, challenge string) (k KeyVerify, err error) {
	_, err = c.call(ctx, request{
		method: http.MethodGet,
		path:   path("v"+version, "keys", "verify"),
		query:  "challenge=" + url.QueryEscape(challenge),
	}, &k)
	return k, err
}

// Revoke tells the agent of a revocation. Success does not mean that its actions ran.
func (c *AgentClient) Revoke(ctx context.Context, version string, n Notification) error {
	return c.post(ctx, path("v"+version, "notifications", "revocation"), n)
}

func (c *AgentClient) post(ctx context.Context, path string, body any) error {
	_, err := c.call(ctx, request{method: http.MethodPost, path: path, body: body}, nil)
	return err
}
