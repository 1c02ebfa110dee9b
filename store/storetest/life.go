package storetest

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keylime/store"
)

// verb is one call of the contract, on the storage that prepare leaves behind.
type verb struct {
	name string
	call func(context.Context, *prepared) error
}

// prepared is storage with one of everything.
type prepared struct {
	*rig
	rev   uint64 // of the pending registration of "pending"
	lease store.Lease
	event uint64
	begun store.Attestation // the latest of "caller"
	calls store.Lease       // of "caller"
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
	b.enrol("caller")
	b.ok(b.OpenSession(b.ctx, session("caller")))
	must[uint64](b)(b.PutPayload(b.ctx, payload("caller")))
	for range 2 {
		b.judge(judged(b.begin(attestation("caller")), store.EvaluationPass), store.Retention{})
	}
	p.begun = b.begin(attestation("caller"))
	p.calls = b.leaseOne("caller", at(0))
	return p
}

func verbs() []verb { return slices.Concat(writes(), callWrites(), others(), callReads()) }

// writes are the verbs that are durable when they return.
func writes() []verb {
	fresh := func() store.Agent {
		a := agent("new")
		a.Spec.RuntimePolicy = "new"
		return a
	}
	return []verb{
		{"Stage", func(ctx context.Context, p *prepared) error {
			_, err := p.Stage(ctx, registration("new", "new"), at(1), ttl)
			return err
		}},
		{"Stage again", func(ctx context.Context, p *prepared) error {
			_, err := p.Stage(ctx, registration("pending", "pending"), at(1), ttl)
			return err
		}},
		{"Activate", func(ctx context.Context, p *prepared) error { return p.Activate(ctx, "pending", p.rev, at(1)) }},
		{"DropPending", func(ctx context.Context, p *prepared) error { return p.DropPending(ctx, "pending", p.rev) }},
		{"Deregister", func(ctx context.Context, p *prepared) error { return p.Deregister(ctx, "active") }},
		{"ExpirePending", func(ctx context.Context, p *prepared) error {
			_, err := p.ExpirePending(ctx, at(1), 10)
			return err
		}},
		{"AddAgent", func(ctx context.Context, p *prepared) error { return p.AddAgent(ctx, fresh(), policy("new", "{}")) }},
		{"DeleteAgent", func(ctx context.Context, p *prepared) error { return p.DeleteAgent(ctx, "a") }},
		{"DeleteAgent with events", func(ctx context.Context, p *prepared) error { return p.DeleteAgent(ctx, "failed") }},
		{"StopAgent", func(ctx context.Context, p *prepared) error { return p.StopAgent(ctx, "a") }},
		{"ReactivateAgent", func(ctx context.Context, p *prepared) error { return p.ReactivateAgent(ctx, "a", at(1)) }},
		{"Commit", func(ctx context.Context, p *prepared) error {
			r := passed(p.lease, at(9))
			r.Durable = true
			return p.Commit(ctx, p.lease, r, at(1))
		}},
		{"Commit with an event", func(ctx context.Context, p *prepared) error {
			return p.Commit(ctx, p.lease, failed(p.lease, "second"), at(1))
		}},
		{"AddPolicy", func(ctx context.Context, p *prepared) error { return p.AddPolicy(ctx, policy("new", "{}")) }},
		{"UpdatePolicy", func(ctx context.Context, p *prepared) error { return p.UpdatePolicy(ctx, policy("a", "{ }")) }},
		{"DeletePolicy", func(ctx context.Context, p *prepared) error {
			return p.DeletePolicy(ctx, store.RuntimePolicy, "unused")
		}},
		{"FinishEvent", func(ctx context.Context, p *prepared) error { return p.FinishEvent(ctx, p.event) }},
		{"RetryEvent", func(ctx context.Context, p *prepared) error { return p.RetryEvent(ctx, p.event, 1, at(9)) }},
	}
}

// others write nothing, or not at once.
func others() []verb {
	return []verb{
		{"Commit of a pass", func(ctx context.Context, p *prepared) error {
			r := passed(p.lease, at(9))
			r.Status.Operational = store.StateStart
			return p.Commit(ctx, p.lease, r, at(1))
		}},
		{"Pending", func(ctx context.Context, p *prepared) error { _, err := p.Pending(ctx, "pending"); return err }},
		{"Registered", func(ctx context.Context, p *prepared) error { _, err := p.Registered(ctx, "active"); return err }},
		{"RegisteredIDs", func(ctx context.Context, p *prepared) error { _, err := p.RegisteredIDs(ctx, "", 1); return err }},
		{"SameEK", func(ctx context.Context, p *prepared) error { _, err := p.SameEK(ctx, "", nil); return err }},
		{"CountPending", func(ctx context.Context, p *prepared) error { _, err := p.CountPending(ctx); return err }},
		{"Agent", func(ctx context.Context, p *prepared) error { _, err := p.Agent(ctx, "a"); return err }},
		{"Agents", func(ctx context.Context, p *prepared) error {
			_, err := p.Agents(ctx, store.Filter{}, "", 1)
			return err
		}},
		{"Claim", func(ctx context.Context, p *prepared) error {
			_, err := p.Claim(ctx, verifierID, owner, at(1000), 1, ttl)
			return err
		}},
		{"NextDue", func(ctx context.Context, p *prepared) error { _, _, err := p.NextDue(ctx, verifierID); return err }},
		{"Policy", func(ctx context.Context, p *prepared) error {
			_, err := p.Policy(ctx, store.RuntimePolicy, "a")
			return err
		}},
		{"PolicyHead", func(ctx context.Context, p *prepared) error {
			_, err := p.PolicyHead(ctx, store.RuntimePolicy, "a")
			return err
		}},
		{"PolicyKeys", func(ctx context.Context, p *prepared) error {
			_, err := p.PolicyKeys(ctx, store.RuntimePolicy)
			return err
		}},
		{"PolicyNames", func(ctx context.Context, p *prepared) error {
			_, err := p.PolicyNames(ctx, store.RuntimePolicy)
			return err
		}},
		{"ClaimEvents", func(ctx context.Context, p *prepared) error {
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
			p.ok(v.call(p.ctx, p))
			done := p.dump()
			p.reopen()
			p.same(p.dump(), done)
		}
	})

	t.Run("each verb that writes changes something", func(t *testing.T) {
		for _, v := range slices.Concat(writes(), callWrites()) {
			p := prepare(start(t, fresh))
			before := p.dump()
			p.ok(v.call(p.ctx, p))
			if cmp.Equal(p.dump(), before) {
				t.Errorf("%s changed nothing", v.name)
			}
		}
	})
}
