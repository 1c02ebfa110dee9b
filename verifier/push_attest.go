package verifier

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/jsonapi"
	"keylime/internal/web"
	"keylime/store"
	"keylime/tpm"
)

// calls serves agents that call in. An attestation is two requests: the agent says what evidence it can give and is told
// what to give; then it delivers, and is judged before it is answered. Nothing of a request outlives it but what the
// store keeps. Safe for concurrent use.
type calls struct {
	store      callStore
	cycle      *cycle
	verifierID string
	pacing     callPacing
	log        zerolog.Logger

	challenge func() ([]byte, error)
	openings  *web.Limiter  // of agents that open attestations and do not deliver
	slots     chan struct{} // requests with evidence under way
	large     chan struct{} // of these, with much

	mu      sync.Mutex
	judging map[string]bool // agents whose evidence is under way
}

// callStore is what agents that call in need of the store.
type callStore interface {
	store.Calls
	store.Notices
	Agent(ctx context.Context, id string) (store.Agent, error)
	Commit(ctx context.Context, l store.Lease, r store.Round, now time.Time) error
}

// callPacing are the options that decide how long things last.
type callPacing struct {
	interval   time.Duration // between two attestations
	challenge  time.Duration // life of a challenge
	session    time.Duration // by which a good attestation extends the session; 0 = it does not
	mends      bool          // a good attestation clears failures
	history    int           // attestations kept of an agent; 0 = any number
	historyAge time.Duration // for how long; 0 = for ever
}

func newCalls(s callStore, c *cycle, cfg config.Verifier) *calls {
	pace := callPacing{
		interval: cfg.QuoteInterval, challenge: cfg.Push.ChallengeLifetime, mends: cfg.Push.AutoRecover,
		history: cfg.Push.HistoryCount, historyAge: cfg.Push.HistoryAge,
	}
	if cfg.Push.ExtendSession {
		pace.session = cfg.Push.SessionLifetime
	}
	return &calls{
		store: s, cycle: c, verifierID: cfg.UUID, log: c.log, pacing: pace,
		challenge: newChallenge, openings: web.NewLimiter(openEvery, openBurst, openKeys), judging: map[string]bool{},
		slots: make(chan struct{}, maxCallsUnderWay), large: make(chan struct{}, maxLargeCalls),
	}
}

// bootPCRs are asked for from whoever has a measured-boot policy, as the wire has it: all that boots extend, and more
// than our policies look at.
var bootPCRs = tpm.MaskOf(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15)

// newChallenge makes the qualifying data of a quote: 128 bits of chance.
func newChallenge() ([]byte, error) {
	challenge := make([]byte, challengeLength)
	if _, err := rand.Read(challenge); err != nil {
		return nil, fmt.Errorf("make challenge: %w", err)
	}
	return challenge, nil
}

// open answers POST …/attestations: an agent says what it can give, and is told what to give.
func (c *calls) open(ctx context.Context, r *web.Request) (any, error) {
	sent, err := jsonapi.Read(r)
	if err != nil {
		return nil, err
	}
	a, err := c.agent(ctx, r.Param("id"))
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	latest, err := c.mayOpen(ctx, a, now)
	if err != nil {
		return nil, err
	}
	if sent.Type != api.TypeAttestation {
		return nil, jsonapi.Deny(http.StatusBadRequest, "invalid_request", "Request body must include attestation capabilities data.")
	}
	given, problems := parseCapabilities(json.RawMessage(sent.Attributes))
	if len(problems) > 0 {
		return nil, jsonapi.Unprocessable(problems)
	}
	items, problems, err := c.choose(ctx, a, given, latest)
	if err != nil {
		return nil, err
	}
	if len(problems) > 0 {
		return nil, jsonapi.Unprocessable(problems)
	}
	at := store.Attestation{
		AgentID: a.ID, Stage: store.AwaitingEvidence, Evaluation: store.EvaluationPending,
		BootTime: given.boot, Received: now, Items: items,
		Extensions: given.extensions, NoticeSeen: given.noticeSeen,
	}
	if len(items) > 0 {
		at.Expires = now.Add(c.pacing.challenge)
	}
	if at.Index, err = c.store.BeginAttestation(ctx, at); err != nil {
		return nil, c.beginError(a.ID, err)
	}
	self := attestationPath(r, at.Index)
	return web.Document{
		Code: http.StatusCreated, Location: self, Type: api.JSONAPIType,
		Body: document(requested(at), self, attestationsPath(r), nil),
	}, nil
}

// beginError rates what BeginAttestation says.
func (c *calls) beginError(id string, err error) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return noAgent(id)
	case errors.Is(err, store.ErrConflict):
		return jsonapi.Deny(http.StatusConflict, "conflict", fmt.Sprintf("Cannot create attestation for agent '%s' while another creation attempt is in progress.", id))
	case errors.Is(err, store.ErrTooLarge), errors.Is(err, store.ErrInvalid):
		return jsonapi.Deny(http.StatusBadRequest, "invalid_request", "The capabilities are larger than any that are in use: "+err.Error())
	}
	return err
}

// agent returns an agent that may attest.
func (c *calls) agent(ctx context.Context, id string) (store.Agent, error) {
	a, err := c.store.Agent(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound), err == nil && a.Spec.VerifierID != c.verifierID:
		return a, noAgent(id)
	case err != nil:
		return a, err
	}
	return a, mayAttest(a)
}

// mayAttest refuses agents that an operator stopped, and those that are asked instead.
func mayAttest(a store.Agent) error {
	switch {
	case !a.Spec.Push:
		return jsonapi.Deny(http.StatusForbidden, "agent_attestations_disabled", fmt.Sprintf(
			"Attestations for agent '%s' are currently disabled. It is enrolled for the pull model; delete it and add it as a push agent.", a.ID))
	case a.Status.Operational == store.StateTenantFailed:
		return jsonapi.Deny(http.StatusForbidden, "agent_attestations_disabled", fmt.Sprintf(
			"Attestations for agent '%s' are currently disabled. An operator stopped it; it may attest again when it has been reactivated.", a.ID))
	}
	return nil
}

// mayOpen holds an agent to its pace. It returns the agent's latest attestation; nil when it has none.
func (c *calls) mayOpen(ctx context.Context, a store.Agent, now time.Time) (*store.Attestation, error) {
	if c.underWay(a.ID) {
		return nil, jsonapi.DenyFor(http.StatusServiceUnavailable, 1, "verification_in_progress", fmt.Sprintf(
			"Cannot create attestation for agent '%s' while the last attestation is still being verified. "+
				"The active verification task is expected to complete or time out within 1 seconds.", a.ID))
	}
	latest, err := c.store.LatestAttestation(ctx, a.ID)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrDamaged):
		return nil, c.mayOpenAgain(a.ID, now)
	case err != nil:
		return nil, err
	}
	if wait := c.secondsToNext(latest, now); wait > 0 {
		return nil, jsonapi.DenyFor(http.StatusTooManyRequests, wait, "premature_attestation", fmt.Sprintf(
			"Cannot create attestation for agent '%s' before the configured interval has elapsed. Wait %d seconds before trying again.", a.ID, wait))
	}
	return &latest, c.mayOpenAgain(a.ID, now)
}

// mayOpenAgain bounds how often an agent asks without delivering.
func (c *calls) mayOpenAgain(id string, now time.Time) error {
	wait, ok := c.openings.Take(id, now)
	if ok {
		return nil
	}
	seconds := int64(math.Ceil(wait.Seconds()))
	return jsonapi.DenyFor(http.StatusTooManyRequests, seconds, "premature_attestation", fmt.Sprintf(
		"Agent '%s' has created too many attestations without delivering evidence. Wait %d seconds before trying again.", id, seconds))
}

// secondsToNext is how long an agent has to wait after an attestation, to the nearest second. One that came to no
// decision is repeated at once.
func (c *calls) secondsToNext(at store.Attestation, now time.Time) int64 {
	if at.Evidence.IsZero() || at.Stage == store.VerificationComplete && at.Evaluation == store.EvaluationPending {
		return 0
	}
	left := min(at.Evidence.Add(c.pacing.interval).Sub(now), c.pacing.interval)
	return max(0, int64(math.Round(left.Seconds())))
}

// choose negotiates what an agent is asked for.
func (c *calls) choose(ctx context.Context, a store.Agent, given capabilities, latest *store.Attestation) ([]store.EvidenceItem, []api.ErrorItem, error) {
	ak, err := tpm.ParsePublic(a.Spec.AKTPM)
	if err != nil {
		return nil, nil, fmt.Errorf("enrolled attestation key: %w", err)
	}
	t := terms{
		acceptHash: a.Spec.AcceptHash, acceptSign: a.Spec.AcceptSign, ak: ak, nextEntry: a.State.NextEntry,
	}
	set, err := c.cycle.policySet(ctx, a.Spec)
	switch {
	case errors.Is(err, errBootPolicy): // whatever is delivered fails, and then says why
		t.mask = tpm.MaskOf(0)
	case err != nil:
		return nil, nil, err
	default:
		t.mask, t.bootLog = set.Mask(), set.Boot != nil
		if t.bootLog {
			t.mask |= bootPCRs
		}
	}
	if t.challenge, err = c.challenge(); err != nil {
		return nil, nil, err
	}
	if t.provenBoot, err = c.provenBoot(ctx, latest); err != nil {
		return nil, nil, err
	}
	items, problems := negotiate(given, t)
	return items, problems, nil
}

// provenBoot is the boot time that an agent gave in its last good attestation, if that was the last one judged: after
// any other, the measurement list is read from its beginning anyway.
func (c *calls) provenBoot(ctx context.Context, latest *store.Attestation) (time.Time, error) {
	if latest == nil {
		return time.Time{}, nil
	}
	judged := *latest
	if judged.Stage == store.AwaitingEvidence {
		before, err := c.store.Attestations(ctx, latest.AgentID, latest.Index, 1)
		if err != nil || len(before) == 0 {
			return time.Time{}, err
		}
		judged = before[0]
	}
	if judged.Evaluation != store.EvaluationPass {
		return time.Time{}, nil
	}
	return judged.BootTime, nil
}

// awaited returns the attestation that a request delivers evidence for. index is a number in digits, or "latest".
func (c *calls) awaited(ctx context.Context, id, index string, now time.Time) (store.Attestation, error) {
	at, err := c.store.LatestAttestation(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return at, noAttestation(id, index)
	}
	if err != nil {
		return at, err
	}
	if index == latestIndex {
		index = strconv.FormatUint(at.Index, 10)
	}
	switch {
	case index != strconv.FormatUint(at.Index, 10):
		return at, jsonapi.Deny(http.StatusForbidden, "old_attestation", fmt.Sprintf(
			"Attestation %s is not the latest for agent '%s'. Only evidence for the most recent attestation may be updated.", clip(index), id))
	case at.Stage != store.AwaitingEvidence:
		return at, jsonapi.Deny(http.StatusForbidden, "evidence_immutable", fmt.Sprintf(
			"Cannot alter evidence for attestation %s which has already been received and accepted.", index))
	case !now.Before(at.Expires):
		expired := "None" // nothing was asked for, as the agent's policies need nothing
		if !at.Expires.IsZero() {
			expired = api.PushTime(at.Expires)
		}
		return at, jsonapi.Deny(http.StatusForbidden, "challenges_expired", fmt.Sprintf(
			"Challenges for attestation %s expired at %s. Create a new attestation and try again.", index, expired))
	}
	return at, nil
}

// latestIndex stands in a path for the index of the latest attestation.
const latestIndex = "latest"

// begin marks an agent's evidence as under way, until end is called; false when it is already.
func (c *calls) begin(id string) (end func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.judging[id] {
		return nil, false
	}
	c.judging[id] = true
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.judging, id)
	}, true
}

func (c *calls) underWay(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.judging[id]
}
