package verifier

import (
	"context"
	"crypto"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/notify"
	"keylime/internal/pki"
	"keylime/store"
)

// The channels of revocation messages, as enabled_revocation_notifications and the outbox name them.
const (
	channelAgent   = "agent"
	channelWebhook = "webhook"
	channelZeroMQ  = "zeromq"
)

// outbox writes messages about failures and delivers them, at least once, through every channel that is enabled. A
// message is one row per channel, written with the failure that it reports; the agent channel's row stands for all
// agents of this verifier, so that a bad policy that fails a whole fleet costs rows by the agent, not by the pair.
type outbox struct {
	store      outboxStore
	channels   map[string]channel
	verifierID string
	pacing     pacing
	rand       io.Reader
	log        zerolog.Logger
	wake       func() // there are new rows
}

type outboxStore interface {
	FinishEvent(ctx context.Context, id uint64) error
	RetryEvent(ctx context.Context, id uint64, attempts int, next time.Time) error
}

// channel carries messages to somebody. Send returns errBusy when it has no capacity at the moment.
type channel interface {
	Send(ctx context.Context, e store.Event) error
	// patience is how often, and for how long, delivery is tried.
	patience() (attempts int, lifetime time.Duration)
}

var errBusy = errors.New("busy with other messages")

// events makes the outbox rows of a failure.
func (o *outbox) events(a store.Agent, n next, now time.Time, log zerolog.Logger) []store.Event {
	if len(o.channels) == 0 {
		return nil
	}
	r := revocation(a, n, o.verifierID, now)
	var id [16]byte
	if _, err := io.ReadFull(o.rand, id[:]); err == nil {
		r.EventUUID = hex.EncodeToString(id[:])
	}
	message, err := o.encode(r, a.Spec.RevocationKey)
	if err != nil { // the key was checked at enrolment; an unsigned message is better than none
		log.Error().Err(err).Msg("Revocation message could not be signed")
		if message, err = o.encode(r, ""); err != nil {
			log.Error().Err(err).Msg("Revocation message could not be made")
			return nil
		}
	}
	rows := make([]store.Event, 0, len(o.channels))
	for _, name := range slices.Sorted(maps.Keys(o.channels)) {
		row := store.Event{AgentID: a.ID, Channel: name, Message: message, Created: now, Due: now}
		if name == channelPush {
			row.Due = now.Add(notify.Lifetime) // then it is taken down
		}
		rows = append(rows, row)
	}
	return rows
}

func (o *outbox) encode(r api.Revocation, keyPEM string) ([]byte, error) {
	var key crypto.Signer
	if keyPEM != "" {
		var err error
		if key, err = rsaKey(keyPEM); err != nil {
			return nil, fmt.Errorf("revocation key: %w", err)
		}
	}
	return notify.Encode(o.rand, r, key)
}

// rsaKey reads the private key that signs revocation messages.
func rsaKey(pem string) (crypto.Signer, error) {
	key, err := pki.ReadPrivateKey([]byte(pem), "")
	if err != nil {
		return nil, err
	}
	if _, ok := key.Public().(*rsa.PublicKey); !ok {
		return nil, errors.New("not an RSA key, which agents want")
	}
	return key, nil
}

// deliver tries one leased row and decides whether it is tried again; if so it returns when.
func (o *outbox) deliver(ctx context.Context, e store.Event) (due time.Time, again bool) {
	log := o.log.With().Str("agent", e.AgentID).Str("channel", e.Channel).Uint64("event", e.ID).Logger()
	if e.Channel == channelPush {
		o.settle(log, o.store.FinishEvent(ctx, e.ID))
		return time.Time{}, false
	}
	c, ok := o.channels[e.Channel]
	if !ok {
		log.Warn().Msg("Revocation message dropped: its channel is not enabled any more")
		o.settle(log, o.store.FinishEvent(ctx, e.ID))
		return time.Time{}, false
	}
	sendCtx, cancel := context.WithTimeout(ctx, deliveryTimeout)
	defer cancel()
	err := c.Send(sendCtx, e)
	now := time.Now().UTC()
	// The result must be written even while stopping: a message that was delivered should not be again.
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	if err == nil {
		log.Info().Msg("Revocation message delivered")
		o.settle(log, o.store.FinishEvent(ctx, e.ID))
		return time.Time{}, false
	}
	attempts := e.Attempts + 1
	next := now.Add(o.pacing.retryDelay(attempts))
	if errors.Is(err, errBusy) { // which is no attempt
		attempts, next = e.Attempts, now.Add(busyDelay)
	}
	if limit, lifetime := c.patience(); attempts >= limit || next.After(e.Created.Add(lifetime)) {
		log.Error().Err(err).Int("attempts", attempts).Msg("Revocation message given up")
		o.settle(log, o.store.FinishEvent(ctx, e.ID))
		return time.Time{}, false
	}
	log.Warn().Err(err).Int("attempts", attempts).Time("next", next).Msg("Revocation message not delivered; trying again")
	o.settle(log, o.store.RetryEvent(ctx, e.ID, attempts, next))
	return next, true
}

// settle logs a failure to note what became of a row. The row is then delivered again when its lease has expired.
func (o *outbox) settle(log zerolog.Logger, err error) {
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		log.Error().Err(err).Msg("Outbox not updated; the message may be delivered again")
	}
}

// webhookChannel posts to the configured URL, for as long as a message is worth anything.
type webhookChannel struct {
	hook *notify.Webhook
	log  zerolog.Logger
}

func (c webhookChannel) Send(ctx context.Context, e store.Event) error {
	c.log.Info().Msg("Sending revocation event via webhook to " + c.hook.URL())
	return c.hook.Send(ctx, e.Message)
}

func (webhookChannel) patience() (int, time.Duration) { return maxWebhookAttempts, notify.Lifetime }

// zeromqChannel publishes once: a publisher does not know who listens.
type zeromqChannel struct{ publisher *notify.Publisher }

func (c zeromqChannel) Send(ctx context.Context, e store.Event) error {
	return c.publisher.Send(ctx, e.Message)
}

func (zeromqChannel) patience() (int, time.Duration) { return 1, notify.Lifetime }
