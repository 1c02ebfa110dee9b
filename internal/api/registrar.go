package api

import (
	"context"
	"net/http"
)

// RegistrarClient speaks to a registrar.
type RegistrarClient struct{ caller }

// NewRegistrar returns a client of the registrar at base. Safe for concurrent use, as hc is.
func NewRegistrar(base string, hc *http.Client) *RegistrarClient {
	return &RegistrarClient{newCaller(base, hc)}
}

// Version is what the registrar serves.
func (c *RegistrarClient) Version(ctx context.Context) (v Version, err error) {
	return v, c.get(ctx, "/version", &v)
}

// Register sends an agent's identity and returns the challenge to its TPM.
func (c *RegistrarClient) Register(ctx context.Context, version, id string, r RegisterRequest) (res RegisterResults, err error) {
	_, err = c.call(ctx, request{method: http.MethodPost, path: path("v"+version, "agents", id), body: r}, &res)
	return res, err
}

// Activate answers the challenge; tag is the hex HMAC.
func (c *RegistrarClient) Activate(ctx context.Context, version, id, tag string) error {
	_, err := c.call(ctx, request{
		method: http.MethodPut, path: path("v"+version, "agents", id), body: ActivateRequest{AuthTag: tag},
	}, nil)
	return err
}

// Agent is the active registration of an id; an *Error with status 404 when there is none.
func (c *RegistrarClient) Agent(ctx context.Context, version, id string) (a RegistrarAgent, err error) {
	return a, c.get(ctx, path("v"+version, "agents", id), &a)
}

// Agents lists every id, pending ones included.
func (c *RegistrarClient) Agents(ctx context.Context, version string) (a RegistrarAgents, err error) {
	_, err = c.call(ctx, request{method: http.MethodGet, path: path("v"+version, "agents"), limit: largeAnswer}, &a)
	return a, err
}

// Delete removes an id.
func (c *RegistrarClient) Delete(ctx context.Context, version, id string) error {
	_, err := c.call(ctx, request{method: http.MethodDelete, path: path("v"+version, "agents", id)}, nil)
	return err
}
