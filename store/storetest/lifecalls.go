package storetest

import (
	"context"
	"errors"
	"time"

	"keylime/store"
)

// callWrites are the verbs of agents that call in that are durable when they return.
func callWrites() []verb {
	return []verb{
		{"OpenSession", func(ctx context.Context, p *prepared) error { return p.OpenSession(ctx, session("a")) }},
		{"OpenSession again", func(ctx context.Context, p *prepared) error {
			s := session("caller")
			s.ID = "s0"
			return p.OpenSession(ctx, s)
		}},
		{"BeginAttestation", func(ctx context.Context, p *prepared) error {
			_, err := p.BeginAttestation(ctx, attestation("caller"))
			return err
		}},
		{"PutPayload", func(ctx context.Context, p *prepared) error {
			again := payload("caller")
			again.Data = []byte("other data")
			_, err := p.PutPayload(ctx, again)
			return err
		}},
		{"Commit with an attestation", func(ctx context.Context, p *prepared) error {
			r := passed(p.calls, at(300))
			r.Attestation, r.Session = judged(p.begun, store.EvaluationPass), at(600)
			return p.Commit(ctx, p.calls, r, at(1))
		}},
		{"Commit with a notice", func(ctx context.Context, p *prepared) error {
			r := failed(p.calls, "caller failed")
			r.Events[0].Channel = "push"
			r.Attestation = judged(p.begun, store.EvaluationFail)
			return p.Commit(ctx, p.calls, r, at(1))
		}},
		{"Commit that extends a session", func(ctx context.Context, p *prepared) error {
			r := passed(p.calls, time.Time{})
			r.Session = at(600)
			return p.Commit(ctx, p.calls, r, at(1))
		}},
		{"DeleteAgent that calls in", func(ctx context.Context, p *prepared) error { return p.DeleteAgent(ctx, "caller") }},
	}
}

// callReads are those that write nothing.
func callReads() []verb {
	return []verb{
		{"Offer", func(ctx context.Context, p *prepared) error { return p.Offer(ctx, offer("o", 0)) }},
		{"Offered", func(ctx context.Context, p *prepared) error {
			_, err := p.Offered(ctx, "o")
			return unlessLost(err)
		}},
		{"TakeOffer", func(ctx context.Context, p *prepared) error { return unlessLost(p.TakeOffer(ctx, "o")) }},
		{"Session", func(ctx context.Context, p *prepared) error {
			_, err := p.Session(ctx, "session of caller")
			return err
		}},
		{"Lease", func(ctx context.Context, p *prepared) error {
			_, err := p.Lease(ctx, "failed", owner, at(1000), time.Second)
			return err
		}},
		{"Attestation", func(ctx context.Context, p *prepared) error {
			_, err := p.Attestation(ctx, "caller", 0)
			return err
		}},
		{"LatestAttestation", func(ctx context.Context, p *prepared) error {
			_, err := p.LatestAttestation(ctx, "caller")
			return err
		}},
		{"Attestations", func(ctx context.Context, p *prepared) error {
			_, err := p.Attestations(ctx, "caller", 9, 9)
			return err
		}},
		{"Payload", func(ctx context.Context, p *prepared) error { _, err := p.Payload(ctx, "caller"); return err }},
		{"PayloadRev", func(ctx context.Context, p *prepared) error { _, err := p.PayloadRev(ctx, "caller"); return err }},
		{"Notices", func(ctx context.Context, p *prepared) error { _, err := p.Notices(ctx, "webhook", 0, 9); return err }},
	}
}

// unlessLost allows that an offer is lost, as any may be when the store is opened again.
func unlessLost(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
