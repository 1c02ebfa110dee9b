package tenant

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/pki"
)

// tenant carries out commands at one registrar and one verifier. It is for one command at a time.
type tenant struct {
	cfg config.Tenant
	ca  config.CA // for certificate packages

	registrar *server[*api.RegistrarClient]
	verifier  *server[*api.VerifierClient]
	agentTLS  *tls.Config // our certificate; an agent's own is added to talk to it
	patience  patience

	notes  io.Writer // progress and warnings, for people
	random io.Reader
	now    func() time.Time
}

// newTenant makes a tenant. It reads the client certificate and the CAs that the configuration names, and contacts nobody.
// Progress and warnings go to notes.
func newTenant(cfg config.Tenant, ca config.CA, notes io.Writer) (*tenant, error) {
	t := &tenant{
		cfg: cfg, ca: ca, notes: notes, random: rand.Reader, now: time.Now,
		patience: patience{cfg.RetryInterval, cfg.MaxRetries, cfg.ExponentialBackoff},
	}
	var err error
	if t.agentTLS, err = t.clientTLS(""); err != nil {
		return nil, err
	}
	if t.registrar, err = connect(t, "registrar", cfg.RegistrarIP, cfg.RegistrarPort, api.NewRegistrar); err != nil {
		return nil, err
	}
	t.verifier, err = connect(t, "verifier", cfg.VerifierIP, cfg.VerifierPort, api.NewVerifier)
	return t, err
}

// clientTLS are the settings for talking to a host.
func (t *tenant) clientTLS(host string) (*tls.Config, error) {
	files := t.cfg.TLS.ClientFiles()
	files.Host = host
	settings, err := pki.ClientTLS(files)
	if err != nil {
		return nil, failure(exitFailed, "client_cert, client_key and trusted_server_ca of [tenant] name the files; by default they are in cv_ca of the working directory, where the verifier makes them", "TLS: %w", err)
	}
	return settings, nil
}

func (t *tenant) httpClient(settings *tls.Config) *http.Client {
	return &http.Client{Timeout: t.cfg.RequestTimeout, Transport: &http.Transport{TLSClientConfig: settings}}
}

// note tells the user what takes time; warn what they should know.
func (t *tenant) note(format string, args ...any) { fmt.Fprintf(t.notes, format+"\n", args...) }
func (t *tenant) warn(format string, args ...any) {
	fmt.Fprintf(t.notes, "warning: "+format+"\n", args...)
}

func (t *tenant) accepted() acceptance {
	return acceptance{t.cfg.AcceptTPMHashAlgs, t.cfg.AcceptTPMEncryptionAlgs, t.cfg.AcceptTPMSigningAlgs}
}

// server is the registrar or the verifier, and the API version agreed with it once asked for.
type server[C any] struct {
	peer
	host    string
	port    int
	client  C
	version string
	gone    bool // it answers 410 when asked for its versions, as verifiers do that agents only call (wire)
}

// connect makes the way to a server; no connection is opened yet.
func connect[C any](t *tenant, role, host string, port int, client func(string, *http.Client) C) (*server[C], error) {
	base, err := baseURL("https", host, port)
	if err != nil {
		return nil, usage("correct "+role+"_ip of [tenant], or the flag", "%s: %w", role, err)
	}
	settings, err := t.clientTLS(host)
	if err != nil {
		return nil, err
	}
	return &server[C]{
		peer: peer{role, net.JoinHostPort(host, strconv.Itoa(port)), fmt.Sprintf("is it running and reachable? %s_ip and %s_port of [tenant] say where it is", role, role)},
		host: host, port: port, client: client(base, t.httpClient(settings)),
	}, nil
}

// baseURL is the address of a peer. A host that is more than a host would change what is asked for.
func baseURL(scheme, host string, port int) (string, error) {
	address := api.URL(scheme, host, port)
	u, err := url.Parse(address)
	if err != nil || host == "" || u.Hostname() != strings.Trim(host, "[]") || u.Path != "" || u.User != nil {
		return "", fmt.Errorf("%q is no host name or address", host)
	}
	return address, nil
}

// agree returns the newest API version that both sides know, and remembers it. A server that answers but will not say
// (a verifier of push agents) is spoken to in the newest one.
func (s *server[C]) agree(ctx context.Context, ask func(context.Context) (api.Version, error)) (string, error) {
	if s.version != "" {
		return s.version, nil
	}
	known, err := ask(ctx)
	switch {
	case err == nil:
		if s.version, err = api.Negotiate(api.ServerVersions, known.Supported); err != nil {
			return "", failure(exitFailed, "upgrade the older side", "%v: %w", s.peer, err)
		}
	case saidSomething(err):
		s.version, s.gone = api.Current, api.IsStatus(err, http.StatusGone)
	default:
		return "", asking(s.peer, "ask for its API versions", err)
	}
	return s.version, nil
}

func (t *tenant) registrarVersion(ctx context.Context) (string, error) {
	return t.registrar.agree(ctx, t.registrar.client.Version)
}

func (t *tenant) verifierVersion(ctx context.Context) (string, error) {
	return t.verifier.agree(ctx, t.verifier.client.Version)
}
