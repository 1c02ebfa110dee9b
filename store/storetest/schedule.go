package storetest

import (
	"strings"
	"testing"
	"time"

	"keylime/store"
)

func testSchedule(t *testing.T, fresh func(testing.TB) Opener) {
	runAll(t, fresh, []test{
		{"agents are claimed when due, earliest first", testClaimOrder},
		{"a lease is held once, until it expires", testLeaseOnce},
		{"an expired lease cannot commit, claimed anew or not", testExpiredLease},
		{"a commit is seen at once and sets the next round", testCommit},
		{"a round that ends polling has no next one", testLastRound},
		{"whoever intervenes wins over the round in flight", testIntervention}, // NT-94
		{"the next due time counts leases", testNextDue},
	})
}

func testClaimOrder(b *rig) {
	for id, due := range map[string]int{"c": 0, "a": 2, "b": 1, "e": 1, "d": 9} {
		a := agent(id)
		a.Due = at(due)
		b.ok(b.AddAgent(b.ctx, a))
	}
	b.ok(b.AddAgent(b.ctx, store.Agent{ID: "without due", Spec: store.AgentSpec{VerifierID: verifierID}}))
	b.ok(b.AddAgent(b.ctx, store.Agent{ID: "other's", Spec: store.AgentSpec{VerifierID: "verifier-2"}, Due: at(0)}))
	claim := func(now, max int) string {
		var ids []string
		for _, l := range must[[]store.Lease](b)(b.Claim(b.ctx, verifierID, owner, at(now), max, ttl)) {
			ids = append(ids, l.Agent.ID)
		}
		return strings.Join(ids, " ")
	}
	b.same(claim(-1, 10), "")
	b.same(claim(5, 0), "")
	b.same(claim(5, 2), "c b")
	b.same(claim(5, 10), "e a")
	b.same(claim(5, 10), "")
	b.same(claim(9, 10), "d")
}

func testLeaseOnce(b *rig) {
	b.ok(b.AddAgent(b.ctx, agent("a")))
	first := b.claimOne(at(0))
	b.same(first.Owner, owner)
	b.same(first.Expires, at(60))
	b.same(first.Agent, must[store.Agent](b)(b.Agent(b.ctx, "a")))
	b.claimNone(at(59))
	second := b.claimOne(at(60))
	b.is(b.Commit(b.ctx, first, passed(first, at(70)), at(60)), store.ErrLeaseLost)
	b.is(b.Commit(b.ctx, first, passed(first, at(70)), at(10)), store.ErrLeaseLost)
	b.ok(b.Commit(b.ctx, second, passed(second, at(70)), at(61)))
	b.is(b.Commit(b.ctx, second, passed(second, at(70)), at(61)), store.ErrLeaseLost) // once
}

func testExpiredLease(b *rig) {
	b.ok(b.AddAgent(b.ctx, agent("a")))
	l := b.claimOne(at(0))
	before := b.dump()
	b.is(b.Commit(b.ctx, l, passed(l, at(70)), at(60)), store.ErrLeaseLost)
	b.is(b.Commit(b.ctx, l, failed(l, "event"), at(61)), store.ErrLeaseLost)
	b.same(b.dump(), before)
}

func testCommit(b *rig) {
	b.ok(b.AddAgent(b.ctx, agent("a")))
	for i := range 5 {
		l := b.claimOne(at(10 * i))
		r := passed(l, at(10*i+10))
		r.Durable = i%2 == 0
		b.ok(b.Commit(b.ctx, l, r, at(10*i+1)))
		got := must[store.Agent](b)(b.Agent(b.ctx, "a"))
		b.same(got.Status, r.Status)
		b.same(got.State, r.State)
		b.same(got.Due, at(10*i+10))
		b.claimNone(at(10*i + 9))
	}
	l := b.claimOne(at(100))
	b.ok(b.Commit(b.ctx, l, passed(l, time.Time{}), at(101)))
	b.claimNone(at(1e6))
}

func testLastRound(b *rig) {
	b.ok(b.AddAgent(b.ctx, agent("a")))
	l := b.claimOne(at(0))
	r := failed(l, "event")
	r.Next = at(5)
	b.ok(b.Commit(b.ctx, l, r, at(1)))
	b.claimNone(at(1e6))
	b.same(must[store.Agent](b)(b.Agent(b.ctx, "a")).Due, time.Time{})
}

func testIntervention(b *rig) {
	for _, durable := range []bool{false, true} {
		interventions := map[string]func() error{
			"stop":       func() error { return b.StopAgent(b.ctx, "a") },
			"reactivate": func() error { return b.ReactivateAgent(b.ctx, "a", at(1)) },
			"delete":     func() error { return b.DeleteAgent(b.ctx, "a") },
			"delete and enrol again": func() error {
				b.ok(b.DeleteAgent(b.ctx, "a"))
				return b.AddAgent(b.ctx, agent("a"))
			},
		}
		for name, intervene := range interventions {
			b.ok(b.AddAgent(b.ctx, agent("a")))
			l := b.claimOne(at(0))
			b.ok(intervene())
			before := b.dump()
			r := passed(l, at(70))
			if durable {
				r = failed(l, "must not get out")
			}
			if b.is(b.Commit(b.ctx, l, r, at(2)), store.ErrLeaseLost); len(b.events()) > 0 {
				b.Fatalf("%s: an event outlived its round", name)
			}
			b.same(b.dump(), before)
			b.reopen()
			b.same(b.dump(), before)
			if _, err := b.Agent(b.ctx, "a"); err == nil {
				b.ok(b.DeleteAgent(b.ctx, "a"))
			}
		}
	}
}

func testNextDue(b *rig) {
	next := func() any {
		due, ok, err := b.NextDue(b.ctx, verifierID)
		if b.ok(err); !ok {
			return "never"
		}
		return due
	}
	b.same(next(), "never")
	for id, due := range map[string]int{"a": 10, "b": 20} {
		a := agent(id)
		a.Due = at(due)
		b.ok(b.AddAgent(b.ctx, a))
	}
	b.ok(b.AddAgent(b.ctx, store.Agent{ID: "other's", Spec: store.AgentSpec{VerifierID: "verifier-2"}, Due: at(0)}))
	b.same(next(), at(10))
	l := b.claimOne(at(10))
	b.same(next(), at(20))
	b.claimOne(at(20))
	b.same(next(), at(70)) // when the lease of a ends
	b.ok(b.Commit(b.ctx, l, passed(l, at(30)), at(21)))
	b.same(next(), at(30))
	b.ok(b.StopAgent(b.ctx, "a"))
	b.same(next(), at(80))
	b.ok(b.DeleteAgent(b.ctx, "b"))
	b.same(next(), "never")
}
