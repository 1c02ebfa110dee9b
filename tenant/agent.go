package tenant

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strconv"

	"keylime/internal/api"
	"keylime/internal/pki"
)

// agent is the way to one agent.
type agent struct {
	peer    peer
	host    string
	port    json.RawMessage // as the verifier is told it
	client  *api.AgentClient
	version string
}

// withoutTLS is what an agent that serves plain HTTP registers in place of its certificate.
const withoutTLS = "disabled"

// reach finds address and API version of a registered agent. Over TLS it talks to no one but the holder of the
// registered certificate.
func (t *tenant) reach(ctx context.Context, r *registration, o *options) (*agent, error) {
	a, port, err := t.locate(r, o)
	if err != nil || o.pushModel {
		return a, err
	}
	scheme, hc, err := t.agentTransport(r)
	if err != nil {
		return nil, err
	}
	base, err := baseURL(scheme, a.host, port)
	if err != nil {
		return nil, failure(exitFailed, "give the address with -t", "agent %s: %w", r.agent, err)
	}
	a.client = api.NewAgent(base, hc)
	if a.version == "" {
		a.version, err = t.agentVersion(ctx, a)
	}
	return a, err
}

// locate takes the agent's address from the command line or the registration.
func (t *tenant) locate(r *registration, o *options) (a *agent, port int, err error) {
	hint := "give address and port with -t and -tp"
	unreachable := "is it running, and is this its address? -t and -tp say otherwise"
	if r.servesNoTLS() {
		const calls = "; if it runs with --push it listens nowhere: add it with --push-model"
		hint, unreachable = hint+calls, unreachable+calls
	}
	a = &agent{host: o.agentIP, version: o.agentAPIVersion}
	if a.host == "" && r.record.IP != nil {
		a.host = *r.record.IP
	}
	switch {
	case o.agentPort != "":
		port, err = strconv.Atoi(o.agentPort)
		a.port = json.RawMessage(strconv.Quote(o.agentPort))
	case r.record.Port != nil:
		port = *r.record.Port
		a.port = json.RawMessage(strconv.Itoa(port))
	default:
		a.port = json.RawMessage("null")
	}
	if err != nil || port < 0 || port > 65535 || (port == 0 && !o.pushModel) {
		return nil, 0, usage(hint, "agent %s: %q is no port", r.agent, o.agentPort)
	}
	if a.host == "" && !o.pushModel {
		return nil, 0, usage(hint, "agent %s: the registration has no address", r.agent)
	}
	a.peer = peer{"agent", net.JoinHostPort(a.host, strconv.Itoa(port)), unreachable}
	if a.version == "" && o.pushModel {
		a.version = api.Current
	}
	return a, port, nil
}

// agentTransport is the way to talk to the agent, as its registration says.
func (t *tenant) agentTransport(r *registration) (scheme string, hc *http.Client, err error) {
	switch cert := r.record.MTLSCert; {
	case cert == nil || *cert == "":
		return "", nil, failure(exitFailed, "upgrade the agent", "agent %s registered without a TLS certificate; its API version 1.0 is not spoken", r.agent)
	case *cert != withoutTLS && t.cfg.EnableAgentMTLS:
		pinned, err := pki.PinnedClient(t.agentTLS, *cert)
		if err != nil {
			return "", nil, failure(exitUntrusted, "restart the agent to register it anew", "TLS certificate of agent %s: %w", r.agent, err)
		}
		return "https", t.httpClient(pinned), nil
	case t.cfg.EnableAgentMTLS:
		return "", nil, failure(exitFailed, "if it runs with --push, add it with --push-model; else set enable_agent_mtls = true in [agent] (for a test without it, false in [tenant] and [verifier] as well)", "agent %s registered without a TLS certificate: it calls in, or serves plain HTTP", r.agent)
	}
	t.warn("enable_agent_mtls is false: agent %s is contacted over plain HTTP", r.agent)
	return "http", &http.Client{Timeout: t.cfg.RequestTimeout}, nil
}

// agentVersion is the newest API version that agent and tenant both know; the newest at all when the agent's answer
// cannot be read.
func (t *tenant) agentVersion(ctx context.Context, a *agent) (string, error) {
	known, err := a.client.Version(ctx)
	if err != nil {
		if saidSomething(err) {
			return api.Current, nil
		}
		return "", asking(a.peer, "ask for its API versions", err)
	}
	v, err := api.Negotiate(api.AgentVersions, known.Offered())
	if err != nil {
		return "", failure(exitFailed, "upgrade the older side", "%v: %w", a.peer, err)
	}
	return v, nil
}
