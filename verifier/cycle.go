package verifier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"keylime/ima"
	"keylime/internal/api"
	"keylime/internal/attest"
	"keylime/internal/policy"
	"keylime/store"
	"keylime/tpm"
)

// cycle runs rounds: one step of one agent, from its lease to the commit. Safe for concurrent use.
type cycle struct {
	store    roundStore
	policies *policies
	pool     *pool
	outbox   *outbox
	labels   *policy.Labels
	log      zerolog.Logger

	signatures *ima.SignatureCache

	pacing       pacing
	ignoreToMToU bool

	extendedTemplates bool
	bootAlways        bool          // judge boots in every round
	timeout           time.Duration // of everything that the agent takes part in
	run               string        // names this run of the verifier
	nonce             func() (string, error)
	rand              io.Reader

	heard  heard        // when agents that call in did
	panics atomic.Int64 // rounds that ended in a panic
}

type roundStore interface {
	Commit(ctx context.Context, l store.Lease, r store.Round, now time.Time) error
}

// errStopping is the cause with which rounds are cancelled when the verifier stops.
var errStopping = errors.New("the verifier is stopping")

// step is what a round found out, before the state machine rates it.
type step struct {
	status store.AgentStatus
	state  attest.State
	result result
	stats  attest.Stats
}

// do runs one leased round, or, of an agent that calls in, notes that it did not. The agent is claimed again when it is due; do returns when that is, and false when
// that is not known: there is no further round, or the commit failed and the lease has to expire.
func (c *cycle) do(ctx context.Context, l store.Lease) (due time.Time, ok bool) {
	log := c.log.With().Str("agent", l.Agent.ID).Logger()
	if l.Agent.Spec.Push {
		return c.missed(ctx, l, log)
	}
	agentCtx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	a := l.Agent
	a.Status = c.begin(a.Status)
	s, err := c.guarded(agentCtx, a, log, c.step)

	now := time.Now().UTC()
	if err != nil {
		return c.putBack(ctx, l, now, err, log)
	}
	n := transition(s.status, len(a.Spec.V) > 0, s.result, c.pacing, c.labels)
	c.report(log, a.ID, s, n)
	round := store.Round{Status: n.status, State: s.state}
	if !n.stop {
		round.Next = now.Add(c.spread(l.Agent.Status, n.delay))
	}
	if n.message != "" {
		round.Events = c.outbox.events(a, n, now, log)
	}
	round.Durable = n.failure != nil || n.status.Operational != l.Agent.Status.Operational
	return c.commit(ctx, l, round, log)
}

// begin is what an agent's status is for the first round in this run of the verifier: it starts over, except that
// nothing that was proven is forgotten. V is delivered again, as the agent may have been restarted too.
func (c *cycle) begin(st store.AgentStatus) store.AgentStatus {
	if st.Run == c.run {
		return st
	}
	st.Run = c.run
	if st.Operational != store.StateInvalidQuote {
		st.Operational = store.StateStart
	}
	st.ProvideV, st.Retries = true, 0
	return st
}

// spread moves the second round of an agent to a random moment of the interval, so that agents that all began at
// once drift apart.
func (c *cycle) spread(before store.AgentStatus, delay time.Duration) time.Duration {
	if before.Run == c.run || delay <= 0 || delay != c.pacing.quoteInterval {
		return delay
	}
	var b [1]byte
	if _, err := io.ReadFull(c.rand, b[:]); err != nil {
		return delay
	}
	return delay/2 + delay*time.Duration(b[0])/512
}

// guarded runs the step. Whatever an agent sends must not end more than its own round, a panic included.
func (c *cycle) guarded(ctx context.Context, a store.Agent, log zerolog.Logger, run func(context.Context, store.Agent) (step, error)) (s step, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.panics.Add(1)
			log.Error().Interface("panic", p).Bytes("stack", debug.Stack()).Msg("Round panicked")
			s = step{status: a.Status, state: a.State, result: result{outcome: malformed, detail: "processing the agent's answer failed"}}
			err = nil
		}
	}()
	return run(ctx, a)
}

// step is what an agent's state asks for.
func (c *cycle) step(ctx context.Context, a store.Agent) (step, error) {
	if deliversV(a.Status.Operational) {
		return c.deliverV(ctx, a)
	}
	return c.quote(ctx, a)
}

// quote asks for evidence and has it appraised. An error is the verifier's own trouble, which is not the agent's.
func (c *cycle) quote(ctx context.Context, a store.Agent) (step, error) {
	s := step{status: a.Status, state: a.State}
	set, err := c.policySet(ctx, a.Spec)
	if errors.Is(err, errBootPolicy) {
		s.result = failed(c.labels, "pcr_validation.invalid_mb_policy", err.Error())
		return s, nil
	}
	if err != nil {
		return s, err
	}
	s.status = judgedBy(s.status, a.Spec, set)
	return c.examine(ctx, s, a, set)
}

// judgedBy notes which versions of its policies an agent's round is judged by.
func judgedBy(st store.AgentStatus, spec store.AgentSpec, set *policy.Set) store.AgentStatus {
	st.RuntimePolicyDigest, st.PCRPolicyDigest = set.Runtime.Digest(), ""
	if spec.PCRPolicy != "" {
		st.PCRPolicyDigest = set.PCR.Digest()
	}
	st.MeasuredBootPolicyDigest = bootDigest(set.Boot)
	return st
}

// examine asks for the part of the evidence that is not proven yet, and has it appraised.
func (c *cycle) examine(ctx context.Context, s step, a store.Agent, set *policy.Set) (step, error) {
	ak, err := tpm.ParsePublic(a.Spec.AKTPM)
	if err != nil {
		return s, fmt.Errorf("enrolled attestation key: %w", err)
	}
	nonce, err := c.nonce()
	if err != nil {
		return s, err
	}
	challenge := attest.Challenge{Nonce: []byte(nonce), Mask: set.Mask(), BindData: true, Entry: a.State.NextEntry}
	client := c.pool.client(peerOf(a.Spec))
	answer, err := client.IntegrityQuote(ctx, a.Status.APIVersion, api.IntegrityRequest{
		Nonce: nonce, Mask: challenge.Mask.String(), Partial: wantsPartial(a.Status), Entry: challenge.Entry,
	})
	if err != nil {
		s.status, s.result, err = c.trouble(ctx, client, a.Status, err)
		return s, err
	}
	evidence, problem := evidenceFromAPI(answer, a.Status.PubKey)
	if problem != nil {
		return c.unfit(s, problem), nil
	}
	return c.appraise(s, a, set, ak, challenge, evidence), nil
}

// unfit is the result of evidence that cannot be put before the core.
func (c *cycle) unfit(s step, problem *evidenceProblem) step {
	s.status.LastQuote = time.Now().UTC()
	s.result = failed(c.labels, problem.eventID, problem.text)
	return s
}

// appraise has the core judge evidence, whoever started the round.
func (c *cycle) appraise(s step, a store.Agent, set *policy.Set, ak *tpm.Public, challenge attest.Challenge, evidence attest.Evidence) step {
	now := time.Now().UTC()
	s.status.LastQuote = now
	out, err := attest.Verify(attest.Input{
		Identity:  identityOf(a.Spec, ak),
		Challenge: challenge,
		Evidence:  evidence,
		Policy:    set,
		State:     a.State,
		Now:       now,
	})
	if err != nil { // a bug of ours; it must not look like a pass, nor be asked for for ever
		s.result = result{outcome: malformed, detail: "appraisal: " + err.Error()}
		return s
	}
	s.state, s.stats = out.State, out.Stats
	switch {
	case out.Verdict.Again:
		s.result = result{outcome: quoteAgain, detail: "the measurement list does not go on from what was proven"}
	case out.Verdict.Pass():
		s.status = passed(s.status, evidence, now)
		s.result = result{outcome: quoteGood}
	default:
		s.result = result{outcome: quoteBad, verdict: out.Verdict}
	}
	return s
}

// passed records a good quote.
func passed(st store.AgentStatus, e attest.Evidence, now time.Time) store.AgentStatus {
	st.HashAlg, st.EncAlg, st.SignAlg = e.HashAlg, e.EncAlg, e.SignAlg
	if st.PubKey != e.PubKey {
		st.PubKey, st.ProvideV = e.PubKey, true
	}
	st.AttestationCount++
	st.LastSuccess = now
	return st
}

// policySet puts together what an agent's evidence is judged by.
func (c *cycle) policySet(ctx context.Context, spec store.AgentSpec) (*policy.Set, error) {
	runtime, err := c.policies.runtime(ctx, spec.RuntimePolicy, time.Now())
	if err != nil {
		return nil, err
	}
	return c.policySetWith(ctx, spec, runtime)
}

// policySetWith is policySet with another runtime policy.
func (c *cycle) policySetWith(ctx context.Context, spec store.AgentSpec, runtime *policy.Runtime) (*policy.Set, error) {
	boot, err := c.policies.boot(ctx, spec.MeasuredBootPolicy, time.Now())
	if err != nil {
		return nil, err
	}
	pcrs, err := c.policies.pcr(ctx, spec)
	if err != nil {
		return nil, err
	}
	if spec.Push {
		pcrs = pcrs.Narrowed() // on the wire of those who call in, a mask of its own has no meaning
	}
	keys, err := c.policies.keyring(spec.IMAKeyring, time.Now())
	if err != nil {
		return nil, err
	}
	return &policy.Set{
		Runtime: runtime, PCR: pcrs, Labels: c.labels, Keyring: keys, Signatures: c.signatures,
		IgnoreToMToU: c.ignoreToMToU, ExtendedTemplates: c.extendedTemplates,
		Boot: boot, BootAlways: c.bootAlways,
	}, nil
}

// bootDigest names the measured-boot policy that a round is judged by; "" for none.
func bootDigest(b *policy.Boot) string {
	if b == nil {
		return ""
	}
	return b.Digest()
}

// wantsPartial reports whether the answer may leave out the agent's transport key: it is known, and nothing has
// happened since that could have changed it.
func wantsPartial(st store.AgentStatus) bool {
	return st.PubKey != "" && !st.ProvideV && (st.Operational == store.StateGetQuote || st.Operational == store.StateInvalidQuote)
}

// failed is a bad quote for a reason that needs no appraisal.
func failed(labels *policy.Labels, eventID, text string) result {
	return result{outcome: quoteBad, verdict: attest.Verdict{Failures: []attest.Failure{event(eventID, text, labels)}}}
}

// deliverV sends the agent its half of the payload key, encrypted to the key that its last good quote bound.
func (c *cycle) deliverV(ctx context.Context, a store.Agent) (step, error) {
	s := step{status: a.Status, state: a.State, result: result{outcome: vDelivered}}
	encrypted, err := encryptV(c.rand, a.Status.PubKey, a.Spec.V)
	if err != nil {
		s.result = result{outcome: malformed, detail: err.Error()}
		return s, nil
	}
	client := c.pool.client(peerOf(a.Spec))
	if err := client.VKey(ctx, a.Status.APIVersion, api.VKey{EncryptedKey: encrypted}); err != nil {
		s.status, s.result, err = c.trouble(ctx, client, a.Status, err)
		return s, err
	}
	return s, nil
}

// putBack ends a round without having learnt anything, so that the agent is tried again soon.
func (c *cycle) putBack(ctx context.Context, l store.Lease, now time.Time, cause error, log zerolog.Logger) (time.Time, bool) {
	round := store.Round{Status: l.Agent.Status, State: l.Agent.State, Next: now}
	if !errors.Is(cause, errStopping) {
		log.Error().Err(cause).Msg("Round failed on the verifier's side; trying again")
		round.Next = now.Add(max(c.pacing.retryInterval, minPutBack))
	}
	return c.commit(ctx, l, round, log)
}

// commit writes a round. A lease that was lost is no trouble: the agent was deleted, stopped or restarted meanwhile,
// and that counts.
func (c *cycle) commit(ctx context.Context, l store.Lease, r store.Round, log zerolog.Logger) (time.Time, bool) {
	err := c.persist(ctx, l, r, log)
	if errors.Is(err, store.ErrTooLarge) {
		// An agent must not escape its failure by sending more than can be kept.
		log.Error().Err(err).Msg("Round is too large to keep")
		n := fail(l.Agent.Status, event(eventException, "the round is too large to keep", c.labels))
		r = store.Round{Status: n.status, Durable: true}
		err = c.persist(ctx, l, r, log)
	}
	switch {
	case errors.Is(err, store.ErrLeaseLost):
		log.Debug().Msg("Round superseded")
		return time.Time{}, false
	case err != nil:
		log.Error().Err(err).Msg("Round could not be committed; it is repeated when its lease has expired")
		return time.Time{}, false
	}
	if len(r.Events) > 0 {
		c.outbox.wake()
	}
	return r.Next, !r.Next.IsZero()
}

// persist commits, and again for as long as the lease holds when the store is in trouble: a verdict is not lost to a
// full disk. What is known is written even while stopping, but then only once.
func (c *cycle) persist(ctx context.Context, l store.Lease, r store.Round, log zerolog.Logger) error {
	for wait := minCommitRetry; ; wait = min(2*wait, maxCommitRetry) {
		try, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
		err := c.store.Commit(try, l, r, time.Now().UTC())
		cancel()
		final := err == nil || errors.Is(err, store.ErrLeaseLost) || errors.Is(err, store.ErrTooLarge) ||
			errors.Is(err, store.ErrInvalid) || errors.Is(err, store.ErrClosed)
		if final || ctx.Err() != nil || time.Now().Add(wait).After(l.Expires) {
			return err
		}
		log.Warn().Err(err).Dur("ms", wait).Msg("Round not committed; trying again")
		pause(ctx, wait, nil)
	}
}
