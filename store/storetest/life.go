package storetest

import (
	"context"
	"errors"
	"testing"

	"keylime/store"
)

// verb is one call of the contract, on the storage that prepare leaves behind.
type verb struct {
	name  string
	write bool
	call  func(context.Context, *prepared) error
}

// prepared is storage with one of everything.
type prepared struct {
	*rig
	rev   uint64 // of the pending registration of "pending"
	lease store.Lease
	event uint64
}

func prepare(b *rig) *prepared {
	b.Helper()
	p := &prepared{rig: b}
	for _, id := range []string{"active", "pending"} {
		p.rev = must[uint64](b)(b.Stage(b.ctx, registration(id, id), at(0), ttl))
		if id == "active" {
			b.ok(b.Activate(b.ctx, id, p.rev, at(0)))
		}
	}
	b.ok(b.AddPolicy(b.ctx, policy("unused", "{}")))
	b.commitEvents("failed", event("first", 0))
	p.event = b.events()[0].ID
	a := agent("a")
	a.Spec.RuntimePolicy, a.Spec.V = "a", []byte("v")
	b.ok(b.AddAgent(b.ctx, a, policy("a", "{}")))
	p.lease = b.claimOne(at(0))
	return p
}

func verbs() []verb {
	fresh := func() store.Agent {
		a := agent("new")
		a.Spec.RuntimePolicy = "new"
		return a
	}
	return []verb{
		{"Stage", true, func(ctx context.Context, p *prepared) error {
			_, err := p.Stage(ctx, registration("new", "new"), at(1), ttl)
			return err
		}},
		{"Stage again", true, func(ctx context.Context, p *prepared) error {
			_, err := p.Stage(ctx, registration("pending", "pending"), at(1), ttl)
			return err
		}},
		{"Activate", true, func(ctx context.Context, p *prepared) error { return p.Activate(ctx, "pending", p.rev, at(1)) }},
		{"DropPending", true, func(ctx context.Context, p *prepared) error { return p.DropPending(ctx, "pending", p.rev) }},
		{"Deregister", true, func(ctx context.Context, p *prepared) error { return p.Deregister(ctx, "active") }},
		{"ExpirePending", true, func(ctx context.Context, p *prepared) error {
			_, err := p.ExpirePending(ctx, at(1), 10)
			return err
		}},
		{"AddAgent", true, func(ctx context.Context, p *prepared) error { return p.AddAgent(ctx, fresh(), policy("new", "{}")) }},
		{"DeleteAgent", true, func(ctx context.Context, p *prepared) error { return p.DeleteAgent(ctx, "a") }},
		{"DeleteAgent with events", true, func(ctx context.Context, p *prepared) error { return p.DeleteAgent(ctx, "failed") }},
		{"StopAgent", true, func(ctx context.Context, p *prepared) error { return p.StopAgent(ctx, "a") }},
		{"ReactivateAgent", true, func(ctx context.Context, p *prepared) error { return p.ReactivateAgent(ctx, "a", at(1)) }},
		{"Commit", true, func(ctx context.Context, p *prepared) error {
			r := passed(p.lease, at(9))
			r.Durable = true
			return p.Commit(ctx, p.lease, r, at(1))
		}},
		{"Commit with an event", true, func(ctx context.Context, p *prepared) error {
			return p.Commit(ctx, p.lease, failed(p.lease, "second"), at(1))
		}},
		{"AddPolicy", true, func(ctx context.Context, p *prepared) error { return p.AddPolicy(ctx, policy("new", "{}")) }},
		{"UpdatePolicy", true, func(ctx context.Context, p *prepared) error { return p.UpdatePolicy(ctx, policy("a", "{ }")) }},
		{"DeletePolicy", true, func(ctx context.Context, p *prepared) error {
			return p.DeletePolicy(ctx, store.RuntimePolicy, "unused")
		}},
		{"FinishEvent", true, func(ctx context.Context, p *prepared) error { return p.FinishEvent(ctx, p.event) }},
		{"RetryEvent", true, func(ctx context.Context, p *prepared) error { return p.RetryEvent(ctx, p.event, 1, at(9)) }},

		// Those that write nothing, or not at once.
		{"Commit of a pass", false, func(ctx context.Context, p *prepared) error {
			r := passed(p.lease, at(9))
			r.Status.Operational = store.StateStart
			return p.Commit(ctx, p.lease, r, at(1))
		}},
		{"Pending", false, func(ctx context.Context, p *prepared) error { _, err := p.Pending(ctx, "pending"); return err }},
		{"Registered", false, func(ctx context.Context, p *prepared) error { _, err := p.Registered(ctx, "active"); return err }},
		{"RegisteredIDs", false, func(ctx context.Context, p *prepared) error { _, err := p.RegisteredIDs(ctx, "", 1); return err }},
		{"SameEK", false, func(ctx context.Context, p *prepared) error { _, err := p.SameEK(ctx, "", nil); return err }},
		{"CountPending", false, func(ctx context.Context, p *prepared) error { _, err := p.CountPending(ctx); return err }},
		{"Agent", false, func(ctx context.Context, p *prepared) error { _, err := p.Agent(ctx, "a"); return err }},
		{"Agents", false, func(ctx context.Context, p *prepared) error {
			_, err := p.Agents(ctx, store.Filter{}, "", 1)
			return err
		}},
		{"Claim", false, func(ctx context.Context, p *prepared) error {
			_, err := p.Claim(ctx, verifierID, owner, at(1000), 1, ttl)
			return err
		}},
		{"NextDue", false, func(ctx context.Context, p *prepared) error { _, _, err := p.NextDue(ctx, verifierID); return err }},
		{"Policy", false, func(ctx context.Context, p *prepared) error {
			_, err := p.Policy(ctx, store.RuntimePolicy, "a")
			return err
		}},
		{"PolicyDigest", false, func(ctx context.Context, p *prepared) error {
			_, err := p.PolicyDigest(ctx, store.RuntimePolicy, "a")
			return err
		}},
		{"PolicyNames", false, func(ctx context.Context, p *prepared) error {
			_, err := p.PolicyNames(ctx, store.RuntimePolicy)
			return err
		}},
		{"ClaimEvents", false, func(ctx context.Context, p *prepared) error {
			_, err := p.ClaimEvents(ctx, owner, at(1000), 1, ttl)
			return err
		}},
	}
}

func testLife(t *testing.T, fresh func(testing.TB) Opener) {
	t.Run("a cancelled verb changes nothing", func(t *testing.T) {
		p := prepare(start(t, fresh))
		before := p.dump()
		cancelled, cancel := context.WithCancel(p.ctx)
		cancel()
		for _, v := range verbs() {
			if err := v.call(cancelled, p); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: error is %v, want %v", v.name, err, context.Canceled)
			}
		}
		p.same(p.dump(), before)
		p.ok(p.Commit(p.ctx, p.lease, passed(p.lease, at(9)), at(1))) // the lease survived
	})

	t.Run("a closed store says so", func(t *testing.T) {
		p := prepare(start(t, fresh))
		before := p.dump()
		p.ok(p.Close())
		p.ok(p.Close())
		for _, v := range verbs() {
			if err := v.call(p.ctx, p); !errors.Is(err, store.ErrClosed) {
				t.Errorf("%s: error is %v, want %v", v.name, err, store.ErrClosed)
			}
		}
		p.reopen()
		p.same(p.dump(), before)
	})

	t.Run("what each verb did is there after reopening", func(t *testing.T) {
		for _, v := range verbs() {
			p := prepare(start(t, fresh))
			before := p.dump()
			p.ok(v.call(p.ctx, p))
			done := p.dump()
			p.reopen()
			p.same(p.dump(), done)
			if v.write {
				p.differs(v.name, done, before)
			}
		}
	})
}
