package verifier

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/config"
	"keylime/internal/web"
	"keylime/store"
	"keylime/tpm"
)

// sessions gives agents that call in the tokens to do so with: who proves that it holds the AK of an enrolled agent
// speaks for that agent until the session expires. Challenges are taken once; of a token only its hash is kept. Safe
// for concurrent use.
type sessions struct {
	store      sessionStore
	perAddress *web.Limiter
	perAgent   *web.Limiter
	mismatch   *web.Limiter // of log lines about agents that were added for the other model
	nonceLife  time.Duration
	life       time.Duration
	rand       io.Reader
	log        zerolog.Logger
}

type sessionStore interface {
	Agent(ctx context.Context, id string) (store.Agent, error)
	Offer(ctx context.Context, o store.Offer) error
	Offered(ctx context.Context, id string) (store.Offer, error)
	TakeOffer(ctx context.Context, id string) error
	OpenSession(ctx context.Context, s store.Session) error
	Session(ctx context.Context, id string) (store.Session, error)
}

func newSessions(s sessionStore, cfg config.Push, log zerolog.Logger) *sessions {
	limiter := func(r config.Rate) *web.Limiter {
		return web.NewLimiter(r.Window/time.Duration(r.Count), r.Count, maxSessionKeys)
	}
	return &sessions{
		store: s, perAddress: limiter(cfg.SessionsPerAddress), perAgent: limiter(cfg.SessionsPerAgent),
		mismatch:  web.NewLimiter(mismatchPause, 1, maxSessionKeys),
		nonceLife: cfg.NonceLifetime, life: cfg.SessionLifetime, rand: rand.Reader, log: log,
	}
}

// offer makes a challenge for whoever calls himself the agent. Whether there is such an agent is not told.
func (s *sessions) offer(ctx context.Context, agentID string, now time.Time) (store.Offer, error) {
	var id, nonce [16]byte
	for _, random := range [][]byte{id[:], nonce[:]} {
		if _, err := io.ReadFull(s.rand, random); err != nil {
			return store.Offer{}, fmt.Errorf("make a session's challenge: %w", err)
		}
	}
	o := store.Offer{ID: uuidOf(id), AgentID: agentID, Nonce: nonce[:], Created: now, Expires: now.Add(s.nonceLife)}
	return o, s.store.Offer(ctx, o)
}

// uuidOf makes a version 4 UUID (RFC 9562, 5.4) of random bytes.
func uuidOf(b [16]byte) string {
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Why no session is opened. Of these the first is told by the status, the others by the evaluation alone.
var (
	errProof       = errors.New("the proof is not good")
	errLate        = errors.New("the challenge has expired")
	errNotEnrolled = errors.New("no such agent is enrolled to call in")
)

// open takes the answer to a challenge and opens the session. The offer is used up whatever comes of it.
func (s *sessions) open(ctx context.Context, o store.Offer, attest, signature []byte, now time.Time) (token string, expires time.Time, err error) {
	if !now.Before(o.Expires) {
		return "", time.Time{}, errLate
	}
	a, err := s.store.Agent(ctx, o.AgentID)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrDamaged) {
		return "", time.Time{}, errNotEnrolled
	}
	if err != nil {
		return "", time.Time{}, err
	}
	if !a.Spec.Push {
		s.reportMismatch(a.ID, now)
		return "", time.Time{}, errNotEnrolled
	}
	if err := checkPossession(a.Spec, attest, signature, o.Nonce); err != nil {
		return "", time.Time{}, fmt.Errorf("%w: %w", errProof, err)
	}
	var secret [32]byte
	if _, err := io.ReadFull(s.rand, secret[:]); err != nil {
		return "", time.Time{}, fmt.Errorf("make a token: %w", err)
	}
	token = o.ID + "." + base64.RawURLEncoding.EncodeToString(secret[:])
	hash := sha256.Sum256([]byte(token))
	expires = store.Time(now.Add(s.life))
	err = s.store.OpenSession(ctx, store.Session{ID: o.ID, AgentID: a.ID, TokenHash: hash[:], Expires: expires})
	if errors.Is(err, store.ErrNotFound) { // deleted meanwhile
		return "", time.Time{}, errNotEnrolled
	}
	return token, expires, err
}

// checkPossession holds a proof to the enrolled AK, with the algorithms that the agent may use.
func checkPossession(spec store.AgentSpec, attest, signature, nonce []byte) error {
	ak, err := tpm.ParsePublic(spec.AKTPM)
	if err != nil {
		return fmt.Errorf("enrolled attestation key: %w", err)
	}
	if hash := ak.SchemeHash().String(); !slices.Contains(spec.AcceptSign, ak.SignAlg()) || !slices.Contains(spec.AcceptHash, hash) {
		return fmt.Errorf("the AK signs with %s and %s, which are not accepted for this agent", ak.SignAlg(), hash)
	}
	return tpm.VerifyPossession(ak, attest, signature, nonce)
}

// reportMismatch says, once in a while, that an agent and the operator who added it do not agree about the model.
func (s *sessions) reportMismatch(id string, now time.Time) {
	if _, ok := s.mismatch.Take(id, now); ok {
		s.log.Warn().Str("agent", id).Msg("Agent calls in, but was added to be asked (pull): delete it and add it as a push agent, or run it without --push")
	}
}

// authenticate finds the agent of a token. The store is asked by the token's public half; its secret half is compared
// by hash and in constant time.
func (s *sessions) authenticate(ctx context.Context, token string) (agentID string, err error) {
	id, _, ok := strings.Cut(token, ".")
	if !ok || len(token) > maxToken {
		return "", web.ErrToken
	}
	session, err := s.store.Session(ctx, id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return "", err
	}
	hash := sha256.Sum256([]byte(token))
	switch {
	case subtle.ConstantTimeCompare(hash[:], session.TokenHash) == 0:
		return "", web.ErrToken
	case !time.Now().Before(session.Expires):
		return "", web.ErrTokenExpired
	}
	return session.AgentID, nil
}
