package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/strictjson"
)

// caller attests this machine by calling verifiers (the push model). It stays with a verifier for as long as that one
// answers, and tries the next one when it does not.
type caller struct {
	agentID   string
	verifiers []*api.PushClient
	witness   *witness
	interval  time.Duration // when a verifier does not say when to come again, and after a refusal
	retry     backoff
	log       zerolog.Logger
	now       func() time.Time

	// payload takes what a tenant left; notice takes a revocation, false = it must be offered again.
	payload func(context.Context, api.Payload) error
	notice  func(api.Notification) bool

	memory *callMemory // nil when neither is taken

	session  session // at the verifier that is called
	at       int     // its index
	silent   int     // verifiers in a row that did not answer
	refusals int     // tokens in a row that were refused as soon as they were used
}

// run attests until ctx ends.
func (c *caller) run(ctx context.Context) error {
	for {
		wait, err := c.attest(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			wait = c.after(err)
			c.log.Warn().Err(err).Str("verifier", c.verifier().Base()).Dur("wait_ms", wait).Msg("attestation was not delivered and is tried again")
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

func (c *caller) verifier() *api.PushClient { return c.verifiers[c.at] }

// attest delivers one attestation and returns when the next one is due.
func (c *caller) attest(ctx context.Context) (time.Duration, error) {
	c.session.client = c.verifier()
	if err := c.session.logIn(ctx, c.agentID, c.witness); err != nil {
		return 0, err
	}
	offer, err := c.witness.offer()
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errEvidence, err)
	}
	if c.memory != nil {
		offer.Extensions = []string{api.ExtensionPayload, api.ExtensionNotices}
		offer.NoticeSeen = c.memory.Notices[c.verifier().Base()]
	}
	location, wanted, err := c.session.client.Open(ctx, c.session.token, c.agentID, offer)
	if err != nil {
		return 0, fmt.Errorf("open an attestation: %w", err)
	}
	c.refusals = 0
	if len(wanted.EvidenceRequested) == 0 {
		return 0, fmt.Errorf("%w: none is asked for, since the agent is enrolled without any policy", errEvidence)
	}
	meta, err := c.deliver(ctx, location, wanted.EvidenceRequested)
	if err != nil {
		return 0, fmt.Errorf("deliver evidence: %w", err)
	}
	c.silent = 0
	c.log.Info().Str("verifier", c.verifier().Base()).Str("attestation", location).Msg("evidence delivered")
	c.take(ctx, meta)
	if meta.SecondsToNext == nil {
		return c.interval, nil
	}
	return time.Duration(min(*meta.SecondsToNext, maxCallPause)) * time.Second, nil
}

// deliver sends the evidence that was asked for.
func (c *caller) deliver(ctx context.Context, location string, wanted []api.EvidenceItem) (api.Meta, error) {
	testimony, err := c.witness.collect(ctx, wanted)
	if err != nil {
		return api.Meta{}, fmt.Errorf("%w: %w", errEvidence, err)
	}
	size, err := testimony.size()
	if err != nil {
		return api.Meta{}, fmt.Errorf("%w: %w", errEvidence, err)
	}
	body := testimony.reader()
	defer body.Close()
	ctx, cancel := context.WithTimeout(ctx, evidenceTime)
	defer cancel()
	return c.session.client.Deliver(ctx, c.session.token, location, body, size)
}

// errEvidence says that the trouble is on this side.
var errEvidence = errors.New("this machine cannot give the evidence")

// take accepts what came with an acknowledgement. Nothing of it stops attesting.
func (c *caller) take(ctx context.Context, meta api.Meta) {
	if c.memory == nil {
		return
	}
	rev := meta.PayloadRev
	if rev == 0 || rev == c.memory.Payloads[c.verifier().Base()] {
		c.takeNotices(meta.Notices)
		return
	}
	// The payload may bring the certificate that notices are believed by: they are taken when it is there.
	p, err := c.session.client.Payload(ctx, c.session.token, c.agentID)
	if err == nil {
		err = c.payload(ctx, p)
	}
	if err == nil {
		err = c.memory.unpacked(c.verifier().Base(), rev)
	}
	if err != nil {
		c.log.Error().Err(err).Str("audit", "payload").Msg("payload was not taken; it is fetched again after the next attestation")
	}
}

// takeNotices hands over the revocations that were not taken before. Those that find no room are offered again.
func (c *caller) takeNotices(notices []api.NoticeOnWire) {
	taken := c.memory.Notices[c.verifier().Base()]
	for _, n := range notices {
		if n.ID <= taken {
			continue
		}
		var message api.Notification
		if err := strictjson.Unmarshal(n.Message, bodyDepth, &message); err != nil {
			c.log.Warn().Err(err).Uint64("notice", n.ID).Msg("revocation notice cannot be read and is passed over")
		} else if !c.notice(message) {
			break
		}
		taken = n.ID
	}
	if err := c.memory.took(c.verifier().Base(), taken); err != nil {
		c.log.Error().Err(err).Str("audit", "revocation").Msg("revocations that were taken may be carried out again after a restart")
	}
}

// after decides how long to wait after a failure, and whom to call then.
func (c *caller) after(err error) time.Duration {
	wasRefused := c.session.refused(err)
	switch {
	case errors.Is(err, errNotEnrolled), errors.Is(err, errProof):
		c.turn() // another verifier may know the agent
		c.silent = 0
		return max(retryAfter(err, c.now()), jitter(c.interval))
	case wasRefused && api.IsStatus(err, http.StatusUnauthorized):
		c.silent = 0
		if c.refusals++; c.refusals < 2 {
			return 0 // tokens end: another one is asked for at once
		}
		return max(time.Second, c.retry.wait(c.refusals-2), retryAfter(err, c.now()))
	case c.unanswered(err):
		c.turn()
		if c.silent++; c.silent < len(c.verifiers) {
			return 0 // only when none of them answered, there is a pause
		}
		return max(time.Second, c.retry.wait(c.silent/len(c.verifiers)-1), retryAfter(err, c.now()))
	}
	c.silent = 0
	if asked := retryAfter(err, c.now()); asked > 0 {
		return asked
	}
	return jitter(c.interval)
}

// turn goes to the next verifier, where this one's token is of no use.
func (c *caller) turn() {
	c.session = session{}
	c.at = (c.at + 1) % len(c.verifiers)
}

// unanswered reports whether a verifier did not do its work: no connection to it, or an answer that says so. One that is
// busy and says for how long is waited for, unless there are others.
func (c *caller) unanswered(err error) bool {
	var answer *api.Error
	if errors.As(err, &answer) {
		busy := answer.RetryAfter != "" && len(c.verifiers) == 1
		return answer.Status >= 500 && !busy || answer.Status == http.StatusRequestTimeout
	}
	return !errors.Is(err, errEvidence)
}

// jitter spreads a pause by a quarter of it, so that machines which were refused together do not come back together.
func jitter(d time.Duration) time.Duration { return d - d/4 + rand.N(d/2+1) }
