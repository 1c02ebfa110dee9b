package verifier

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"keylime/internal/api"
	"keylime/internal/pki"
	"keylime/store"
)

// pool holds the connections to agents. One connection is kept alive per agent, and the least recently used ones
// are closed when there are too many; their TLS sessions are resumed. Safe for concurrent use.
//
// net/http pools by host name, so each agent gets a name of its own, made of its address and its certificate: a
// connection is never used for an agent that was enrolled with another certificate or elsewhere.
type pool struct {
	transport *http.Transport
	base      *tls.Config // the verifier's identity towards agents
	dialer    net.Dialer
	sessions  tls.ClientSessionCache
	large     chan struct{} // slots for answers above largeAnswer
}

// peer is what is pinned about an agent.
type peer struct {
	address string // host:port, bracketed for IPv6
	cert    string // PEM; "" means plain HTTP
}

// peerKey is how a request tells the dialer whom it is for.
type peerKey struct{}

// name is the host name of a peer within the pool.
func (a peer) name() string {
	hash := sha256.Sum256([]byte(a.address + "\x00" + a.cert))
	return hex.EncodeToString(hash[:16]) + ".agent"
}

func newPool(base *tls.Config, g guard, idle time.Duration) *pool {
	p := &pool{
		base:     base,
		dialer:   net.Dialer{Timeout: dialTimeout, KeepAlive: -1, ControlContext: g.control},
		sessions: tls.NewLRUClientSessionCache(maxSessions),
		large:    make(chan struct{}, maxLargeAnswers),
	}
	p.transport = &http.Transport{
		DialContext:            p.dial,
		DialTLSContext:         p.dialTLS, // also keeps HTTP/2 off
		DisableCompression:     true,      // agents do not compress, and nothing may expand on arrival
		MaxIdleConns:           maxIdleConns,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        idle,
		MaxResponseHeaderBytes: 16 << 10,
		ReadBufferSize:         4 << 10,
		WriteBufferSize:        2 << 10,
	}
	return p
}

// peerOf is how an agent is reached.
func peerOf(s store.AgentSpec) peer {
	p := peer{address: joinHostPort(s.IP, s.Port), cert: s.MTLSCert}
	if p.cert == mtlsDisabled {
		p.cert = ""
	}
	return p
}

func joinHostPort(host string, port int) string {
	return net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(port))
}

// client speaks to one agent over the pool's connections.
func (p *pool) client(a peer) *api.AgentClient {
	scheme := "https"
	if a.cert == "" {
		scheme = "http"
	}
	return api.NewAgent(scheme+"://"+a.address, &http.Client{Transport: &via{pool: p, peer: a, host: a.name()}})
}

// close drops idle connections.
func (p *pool) close() { p.transport.CloseIdleConnections() }

// via sends the requests of one agent's client through the pool.
type via struct {
	pool *pool
	peer peer
	host string
}

// RoundTrip gives the request the agent's name within the pool, and what to dial for it.
func (v *via) RoundTrip(req *http.Request) (*http.Response, error) {
	out := req.WithContext(context.WithValue(req.Context(), peerKey{}, v.peer))
	u := *req.URL
	u.Host = v.host
	out.URL, out.Host = &u, v.peer.address
	resp, err := v.pool.transport.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	resp.Request = req
	resp.Body = &boundedBody{ReadCloser: resp.Body, ctx: req.Context(), slots: v.pool.large}
	return resp, nil
}

func (p *pool) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	a, _ := ctx.Value(peerKey{}).(peer)
	return p.dialer.DialContext(ctx, network, a.address)
}

func (p *pool) dialTLS(ctx context.Context, network, _ string) (net.Conn, error) {
	a, _ := ctx.Value(peerKey{}).(peer)
	cfg, err := pki.PinnedClient(p.base, a.cert)
	if err != nil {
		return nil, err
	}
	cfg.ClientSessionCache = sessionOf{p.sessions, a.name()}
	raw, err := p.dialer.DialContext(ctx, network, a.address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS with the agent: %w", err)
	}
	return conn, nil
}

// sessionOf is one peer's place in a cache of TLS sessions: a ticket is offered only where it came from.
type sessionOf struct {
	cache tls.ClientSessionCache
	name  string
}

func (s sessionOf) Get(string) (*tls.ClientSessionState, bool) { return s.cache.Get(s.name) }

func (s sessionOf) Put(_ string, state *tls.ClientSessionState) { s.cache.Put(s.name, state) }

// boundedBody is an answer that waits for a slot before it grows large, so that many agents that send as much as they
// may do not fill the memory together.
type boundedBody struct {
	io.ReadCloser
	ctx   context.Context // the request's: a body lives no longer
	slots chan struct{}
	read  int
	holds bool
}

func (a *boundedBody) Read(b []byte) (int, error) {
	if a.read > largeAnswer && !a.holds {
		select {
		case a.slots <- struct{}{}:
			a.holds = true
		case <-a.ctx.Done():
			return 0, context.Cause(a.ctx)
		}
	}
	n, err := a.ReadCloser.Read(b)
	a.read += n
	return n, err
}

// Close gives the slot back. The http client calls it once.
func (a *boundedBody) Close() error {
	if a.holds {
		a.holds = false
		<-a.slots
	}
	return a.ReadCloser.Close()
}
