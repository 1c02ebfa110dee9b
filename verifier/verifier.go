// Package verifier is Keylime's verifier: it serves the tenant's API, asks agents for evidence again and again, has
// it appraised by internal/attest, and tells others when an agent fails.
//
// A round is claimed from the store, run by cycle, rated by transition (a pure table), and committed; the scheduler
// does nothing else than claim what is due. Read cycle.do first.
package verifier

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"

	"github.com/rs/zerolog"

	"keylime/ima"
	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/notify"
	"keylime/internal/policy"
	"keylime/store"
)

// Verifier is one verifier over a store. Safe for concurrent use.
type Verifier struct {
	cfg       config.Verifier
	store     store.Verifier
	log       zerolog.Logger
	policies  *policies
	signers   signers
	guard     guard
	mode      string // who starts attestations: pull, push or both
	pool      *pool
	cycle     *cycle
	calls     *calls // nil when the verifier asks agents only
	outbox    *outbox
	scheduler *scheduler
	oneShot   *oneShot
	sessions  *sessions
	checks    chan struct{} // slots for checks of proposed policies
	closers   []func()
}

// Options are what a verifier needs beside its configuration and store.
type Options struct {
	// Client is the verifier's identity towards agents and webhooks, and the CAs that webhooks' certificates come from.
	Client *tls.Config
	// Listen is where the admin API is served: an address that is never taken for an agent's.
	Listen netip.AddrPort
	Log    zerolog.Logger
}

// New makes a verifier; it does nothing until Attest runs and Handler is served. Close it when done. An error names
// the option that is wrong.
func New(ctx context.Context, cfg config.Verifier, s store.Verifier, o Options) (*Verifier, error) {
	labels, err := severities(cfg)
	if err != nil {
		return nil, err
	}
	if _, err := policy.CompileBoot(cfg.MeasuredBootEngine, nil); err != nil {
		return nil, fmt.Errorf("measured_boot_policy_name: %w", err)
	}
	var run [8]byte
	_, _ = rand.Read(run[:]) // never fails
	v := &Verifier{
		cfg: cfg, store: s, log: o.Log, policies: newPolicies(s, cfg.MeasuredBootEngine, extensions(cfg)...),
		guard: newGuard(o.Listen, cfg.AllowLoopbackAgents), mode: cfg.Push.Mode, checks: make(chan struct{}, checkWidth),
	}
	v.signers = signers{required: cfg.RequirePolicySignatures, dir: cfg.TrustedPolicyKeysDir, store: s}
	if err := v.checkSigners(ctx); err != nil {
		return nil, err
	}
	if v.oneShot, err = newOneShot(cfg, s, labels, v.signers, o.Log); err != nil {
		return nil, err
	}
	v.sessions = newSessions(s, cfg.Push, o.Log)
	v.pool = newPool(o.Client, v.guard, max(minIdleConn, 3*cfg.QuoteInterval))
	v.closers = append(v.closers, v.pool.close)
	pace := pacing{
		quoteInterval: cfg.QuoteInterval,
		retryInterval: cfg.RetryInterval,
		exponential:   cfg.ExponentialBackoff,
		maxRetries:    cfg.MaxRetries,
	}
	v.outbox = &outbox{store: s, verifierID: cfg.UUID, pacing: pace, rand: rand.Reader, log: o.Log, wake: func() { v.scheduler.wake() }}
	v.cycle = &cycle{
		store: s, policies: v.policies, pool: v.pool, outbox: v.outbox, labels: labels, log: o.Log,
		signatures: ima.NewSignatureCache(rememberedSignatures),
		pacing:     pace, ignoreToMToU: cfg.IgnoreToMToUErrors, extendedTemplates: cfg.ExtendedIMATemplates,
		bootAlways: cfg.MeasuredBootEvaluate == "always", timeout: cfg.RequestTimeout,
		run: hex.EncodeToString(run[:]), nonce: newNonce, rand: rand.Reader,
	}
	if v.mode != api.ModePull {
		v.calls = newCalls(s, v.cycle, cfg)
	}
	if v.outbox.channels, err = v.openChannels(ctx, o.Client); err != nil {
		v.Close()
		return nil, err
	}
	v.scheduler = newScheduler(o.Log, v.rounds(), v.deliveries())
	v.scheduler.jumped = v.clockJumped
	return v, nil
}

// checkSigners reads the keys that runtime policies may be signed with, and warns of what is required by name only.
func (v *Verifier) checkSigners(ctx context.Context) error {
	s := v.signers
	if _, err := s.known(ctx); err != nil {
		return err
	}
	if !s.required {
		return nil
	}
	if s.dir == "" {
		v.log.Warn().Msg("Runtime policies must be signed, but by any key that a policy brings along; trusted_policy_keys_dir says whose signatures count")
	}
	names, err := v.store.PolicyNames(ctx, store.RuntimePolicy)
	if err != nil {
		return err
	}
	for _, name := range names {
		head, err := v.store.PolicyHead(ctx, store.RuntimePolicy, name)
		if err == nil && s.checkStored(ctx, head) != nil {
			v.log.Warn().Str("policy", name).Msg("Stored runtime policy lacks the signature that is required now; its agents are still judged by it")
		}
	}
	return nil
}

// extensions are what runtime policies may have beyond upstream's.
func extensions(cfg config.Verifier) []policy.Extension {
	if cfg.EnableDMPolicy {
		return []policy.Extension{policy.DMPolicy}
	}
	return nil
}

// severities compiles how failures are rated.
func severities(cfg config.Verifier) (*policy.Labels, error) {
	rules := make([]policy.SeverityRule, len(cfg.SeverityPolicy))
	for i, r := range cfg.SeverityPolicy {
		rules[i] = policy.SeverityRule{EventID: r.EventID, Label: r.SeverityLabel}
	}
	labels, err := policy.NewLabels(cfg.SeverityLabels, rules)
	if err != nil {
		return nil, fmt.Errorf("severity_labels and severity_policy: %w", err)
	}
	return labels, nil
}

// openChannels makes ready what enabled_revocation_notifications lists.
func (v *Verifier) openChannels(ctx context.Context, client *tls.Config) (map[string]channel, error) {
	channels := map[string]channel{}
	r := v.cfg.Revocations
	for _, name := range r.Enabled {
		switch name {
		case channelAgent:
			channels[name] = newAgentChannel(v.store, v.pool, v.cfg.UUID, v.cfg.MaxRetries)
			if v.calls != nil {
				channels[channelPush] = noticeBoard{}
			}
		case channelWebhook:
			if r.WebhookURL == "" {
				v.log.Warn().Msg("Revocation channel webhook is enabled, but webhook_url is empty; nothing is posted")
				continue
			}
			hook, err := notify.NewWebhook(r.WebhookURL, client)
			if err != nil {
				return nil, err
			}
			v.closers = append(v.closers, hook.Close)
			channels[name] = webhookChannel{hook, v.log}
		case channelZeroMQ:
			publisher, err := notify.ListenPublisher(ctx, joinHostPort(r.ZMQIP, r.ZMQPort))
			if err != nil {
				return nil, err
			}
			v.closers = append(v.closers, publisher.Close)
			channels[name] = zeromqChannel{publisher}
		default:
			return nil, fmt.Errorf("enabled_revocation_notifications: %q is none of agent, webhook, zeromq", name)
		}
	}
	return channels, nil
}

// rounds is the feed of agents that are due.
func (v *Verifier) rounds() *feed {
	ttl := v.cfg.RequestTimeout + commitTimeout + leaseMargin // a round ends before its lease
	return &feed{
		name:  "rounds",
		slots: make(chan struct{}, v.cfg.MaxRounds),
		slow:  make(chan struct{}, maxSlow),
		claim: func(ctx context.Context, now time.Time, n int) ([]job, error) {
			leases, err := v.store.Claim(ctx, v.cfg.UUID, v.cycle.run, now, n, ttl)
			jobs := make([]job, len(leases))
			for i, l := range leases {
				jobs[i] = func(ctx context.Context) (time.Time, bool) { return v.cycle.do(ctx, l) }
			}
			return jobs, err
		},
		due: func(ctx context.Context) (time.Time, bool, error) { return v.store.NextDue(ctx, v.cfg.UUID) },
	}
}

// deliveries is the feed of messages that are due.
func (v *Verifier) deliveries() *feed {
	return &feed{
		name:  "deliveries",
		slots: make(chan struct{}, maxDeliveries),
		claim: func(ctx context.Context, now time.Time, n int) ([]job, error) {
			events, err := v.store.ClaimEvents(ctx, v.cycle.run, now, n, deliveryTimeout+commitTimeout+leaseMargin)
			jobs := make([]job, len(events))
			for i, e := range events {
				jobs[i] = func(ctx context.Context) (time.Time, bool) { return v.outbox.deliver(ctx, e) }
			}
			return jobs, err
		},
		due: func(context.Context) (time.Time, bool, error) { return time.Time{}, false, nil },
	}
}

// Attest claims and runs what is due until ctx ends, and then lets what is under way finish.
func (v *Verifier) Attest(ctx context.Context) {
	v.scheduler.run(ctx, v.cfg.ShutdownDrainTimeout)
}

// Close frees connections and listeners.
func (v *Verifier) Close() {
	for _, c := range v.closers {
		c()
	}
}

func (v *Verifier) enrolDefaults() enrolDefaults {
	return enrolDefaults{verifierID: v.cfg.UUID, verifierIP: v.cfg.IP, verifierPort: v.cfg.Port, guard: v.guard, now: time.Now().UTC()}
}
