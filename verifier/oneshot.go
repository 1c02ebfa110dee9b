package verifier

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/ear"
	"keylime/internal/evidence"
	"keylime/internal/pki"
	"keylime/internal/policy"
	"keylime/internal/vcek"
	"keylime/internal/web"
	"keylime/store"
	"keylime/tpm"
)

// oneShot appraises evidence that anybody may hand in, and keeps nothing. It must not be felt by the agents: at most so
// many requests are under way, and each address has so many a minute. Safe for concurrent use.
type oneShot struct {
	access    string // config.Evidence.Access
	appraiser evidence.Appraiser
	agents    agentReader
	slots     chan struct{}
	perPeer   *web.Limiter // nil: no limit
	tokens    *ear.Signer  // nil: none
	issuer    ear.Issuer
}

// agentReader looks up agents.
type agentReader interface {
	Agent(ctx context.Context, id string) (store.Agent, error)
}

func newOneShot(cfg config.Verifier, s store.Verifier, labels *policy.Labels, signed signers, log zerolog.Logger) (*oneShot, error) {
	e := cfg.Evidence
	o := &oneShot{
		access: e.Access, agents: s, slots: make(chan struct{}, max(1, e.Slots)),
		issuer: ear.Issuer{Name: "keylime:verifier:" + cfg.UUID, Lifetime: e.TokenLifetime},
		appraiser: evidence.Appraiser{
			BootEngine: cfg.MeasuredBootEngine, Extensions: extensions(cfg), Labels: labels,
			ExtendedTemplates: cfg.ExtendedIMATemplates, IgnoreToMToU: cfg.IgnoreToMToUErrors,
			Signed: func(ctx context.Context, d policy.Document, key string) error {
				_, err := signed.check(ctx, d, key)
				return err
			},
			VCEKs: vcek.New(e.SNPVCEKDir, e.SNPFetchVCEK, log),
		},
	}
	if e.Access == accessOff {
		return o, nil
	}
	if e.RateLimit > 0 {
		o.perPeer = web.NewLimiter(time.Minute/time.Duration(e.RateLimit), e.RateLimit, oneShotPeers)
	}
	var err error
	if o.appraiser.Chains, err = vcek.Chains(e.SNPChains); err != nil {
		return nil, fmt.Errorf("evidence.snp_chains: %w", err)
	}
	if e.TokenKey == "" {
		return o, nil
	}
	key, err := pki.EnsureSigningKey(e.TokenKey)
	if err == nil {
		o.tokens, err = ear.NewSigner(key, rand.Reader)
	}
	if err != nil {
		return nil, fmt.Errorf("evidence.token_key: %w", err)
	}
	return o, nil
}

// The values of evidence.access.
const (
	accessAdmin = "admin"
	accessOff   = "off"
)

// admit takes a request of a peer's into account.
func (o *oneShot) admit(r *web.Request) error {
	if o.perPeer == nil {
		return nil
	}
	if wait, ok := o.perPeer.Take(web.Sender(r.Peer), time.Now()); !ok {
		return &web.Error{Code: http.StatusTooManyRequests, Retry: wait, Msg: "too many requests from this address; try again later"}
	}
	return nil
}

// slot takes a slot before anything is read. release gives it back, once.
func (o *oneShot) slot() (release func(), err error) {
	select {
	case o.slots <- struct{}{}:
		return sync.OnceFunc(func() { <-o.slots }), nil
	default:
		return nil, &web.Error{Code: http.StatusServiceUnavailable, Retry: oneShotRetry, Msg: "all slots for evidence are taken; try again later"}
	}
}

// dialect is how a version of the API has requests and verdicts.
type dialect struct {
	parse func(body []byte) (evidence.Request, error)
	// verdict is an answer whose attributes are what write writes; incomplete is the one to a request that lacks something.
	verdict    func(write func(io.Writer) error) any
	incomplete func(evidence.Result) (any, error)
}

// dialectV2 is that of API 2.x: envelopes.
var dialectV2 = dialect{
	parse:   evidence.Parse,
	verdict: func(write func(io.Writer) error) any { return web.Stream(write) },
	incomplete: func(r evidence.Result) (any, error) {
		return web.Answer{Code: http.StatusBadRequest, Results: api.EvidenceResult{Claims: r.Claims, Failures: wireFailures(r.Failures)}}, nil
	},
}

// evidence answers POST /verify/evidence.
func (o *oneShot) evidence(d dialect) web.Handler {
	return func(ctx context.Context, r *web.Request) (any, error) {
		asToken, err := o.asksForToken(r)
		if err == nil {
			err = o.admit(r)
		}
		if err != nil {
			return nil, err
		}
		release, err := o.slot()
		if err != nil {
			return nil, err
		}
		result, err := o.appraise(ctx, r, d.parse)
		if err != nil || result.Incomplete || asToken {
			release()
		}
		switch {
		case err != nil:
			return nil, err
		case result.Incomplete:
			return d.incomplete(result)
		case asToken:
			return o.token(result)
		}
		// The slot is held until the answer is out: the claims are as large as the request.
		return d.verdict(func(w io.Writer) error {
			defer release()
			return writeResult(w, result)
		}), nil
	}
}

// token is a verdict as a token.
func (o *oneShot) token(r evidence.Result) (any, error) {
	token, err := o.tokens.Sign(o.issuer.Of(r, time.Now()))
	return web.Raw{Code: http.StatusOK, Type: ear.MediaType, Write: writing([]byte(token))}, err
}

func writing(b []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}
}

func (o *oneShot) appraise(ctx context.Context, r *web.Request, parse func([]byte) (evidence.Request, error)) (evidence.Result, error) {
	body, err := r.Body()
	if err != nil {
		return evidence.Result{}, err
	}
	req, err := parse(body)
	if err != nil {
		return evidence.Result{}, badRequest(err)
	}
	result, err := o.appraiser.Appraise(ctx, req, time.Now())
	return result, badRequest(err)
}

// badRequest answers 400 for what whoever sent a request can mend.
func badRequest(err error) error {
	var refused *evidence.RequestError
	if errors.As(err, &refused) {
		return &web.Error{Code: http.StatusBadRequest, Msg: refused.Text}
	}
	return err
}

// asksForToken reports whether the answer is to be a token.
func (o *oneShot) asksForToken(r *web.Request) (bool, error) {
	for _, kind := range strings.Split(strings.Join(r.Header.Values("Accept"), ","), ",") {
		if name, _, err := mime.ParseMediaType(kind); err != nil || name != ear.MediaType {
			continue
		}
		if o.tokens == nil {
			return false, refuse(http.StatusNotAcceptable, "this verifier issues no tokens (evidence.token_key)")
		}
		return true, nil
	}
	return false, nil
}

func wireFailures(list []evidence.Failure) []api.EvidenceFailure {
	failures := make([]api.EvidenceFailure, len(list))
	for i, f := range list {
		failures[i] = api.EvidenceFailure(f)
	}
	return failures
}

// writeResult writes an api.EvidenceResult, without a copy of the claims.
func writeResult(w io.Writer, r evidence.Result) error {
	failures, err := json.Marshal(wireFailures(r.Failures))
	if err == nil {
		_, err = fmt.Fprintf(w, `{"valid":%t,"claims":%s,"failures":%s}`, r.Valid, r.Claims, failures)
	}
	return err
}

// identity answers GET /verify/identity: whether a quote is by the key that the agent is enrolled with. Nothing else is
// looked at; whoever asks made the nonce, and sees to it that it is fresh.
func (o *oneShot) identity(ctx context.Context, r *web.Request) (any, error) {
	failures, err := o.checkIdentity(ctx, r)
	if err != nil {
		return nil, err
	}
	if len(failures) == 0 {
		return api.IdentityResult{Valid: 1}, nil
	}
	return api.IdentityResult{Reason: reasonOf(failures)}, nil
}

func (o *oneShot) checkIdentity(ctx context.Context, r *web.Request) ([]evidence.Failure, error) {
	if err := o.admit(r); err != nil {
		return nil, err
	}
	for _, name := range []string{"agent_uuid", "quote", "nonce", "hash_alg"} {
		if r.Query.Get(name) == "" {
			return nil, refuse(http.StatusBadRequest, "missing query parameter '%s'", name)
		}
	}
	a, err := o.agents.Agent(ctx, r.Query.Get("agent_uuid"))
	if errors.Is(err, store.ErrNotFound) {
		return nil, refuse(http.StatusNotFound, textNoAgent)
	}
	if err != nil {
		return nil, err
	}
	ak, err := tpm.ParsePublic(a.Spec.AKTPM)
	if err != nil {
		return nil, fmt.Errorf("enrolled attestation key: %w", err)
	}
	return evidence.Identity(ak, a.Spec.AcceptHash, r.Query.Get("quote"), r.Query.Get("nonce"), r.Query.Get("hash_alg"), o.appraiser.Labels, time.Now())
}

func reasonOf(failures []evidence.Failure) string {
	contexts := make([]string, len(failures))
	for i, f := range failures {
		contexts[i] = string(f.Context)
	}
	return strings.Join(contexts, "; ")
}

// keys answers GET /.well-known/jwks.json.
func (o *oneShot) keys(context.Context, *web.Request) (any, error) {
	if o.tokens == nil {
		return nil, &web.Error{Code: http.StatusNotFound}
	}
	set, err := o.tokens.JWKS()
	return web.Raw{Code: http.StatusOK, Type: "application/jwk-set+json", Write: writing(set)}, err
}
