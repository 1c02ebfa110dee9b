package storetest

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"keylime/store"
)

func testSessions(t *testing.T, fresh func(testing.TB) Opener) {
	runAll(t, fresh, []test{
		{"an offer is there until it is taken, once", testOffer},
		{"the oldest offers give way", testOffersBounded},
		{"an agent has one session", testOneSession},
		{"a session belongs to one agent", testSessionOfAnother}, // NT-80
		{"a session ends with its agent", testSessionOfDeleted},  // NT-86
		{"a round extends the session, and never shortens it", testSessionExtended},
	})
}

func offer(id string, created int) store.Offer {
	return store.Offer{ID: id, AgentID: "a", Nonce: []byte("nonce for " + id), Created: at(created), Expires: at(created + 60)}
}

func session(agentID string) store.Session {
	return store.Session{ID: "session of " + agentID, AgentID: agentID, TokenHash: bytes.Repeat([]byte{7}, 32), Expires: at(60)}
}

// enrol enrols an agent that calls in.
func (b *rig) enrol(id string) {
	b.Helper()
	a := agent(id)
	a.Spec.Push, a.Due, a.Status.Operational = true, time.Time{}, store.StateGetQuote
	b.ok(b.AddAgent(b.ctx, a))
}

func testOffer(b *rig) {
	b.ok(b.Offer(b.ctx, offer("x", 0)))
	b.ok(b.Offer(b.ctx, offer("y", 0))) // of the same agent
	b.same(must[store.Offer](b)(b.Offered(b.ctx, "x")), offer("x", 0))
	b.ok(b.Offer(b.ctx, offer("x", 5)))
	b.same(must[store.Offer](b)(b.Offered(b.ctx, "x")), offer("x", 5))
	b.ok(b.TakeOffer(b.ctx, "x"))
	b.is(b.TakeOffer(b.ctx, "x"), store.ErrNotFound)
	_, err := b.Offered(b.ctx, "x")
	b.is(err, store.ErrNotFound)
	b.ok(b.TakeOffer(b.ctx, "y"))
	b.is(b.TakeOffer(b.ctx, "never offered"), store.ErrNotFound)
}

func testOffersBounded(b *rig) {
	id := func(n int) string { return fmt.Sprint("offer ", n) }
	for n := range store.MaxOffers + 2 {
		b.ok(b.Offer(b.ctx, offer(id(n), 0)))
	}
	b.is(b.TakeOffer(b.ctx, id(0)), store.ErrNotFound)
	b.is(b.TakeOffer(b.ctx, id(1)), store.ErrNotFound)
	b.ok(b.TakeOffer(b.ctx, id(2)))
	b.ok(b.TakeOffer(b.ctx, id(store.MaxOffers+1)))
}

func testOneSession(b *rig) {
	b.enrol("a")
	first, second := session("a"), session("a")
	second.ID, second.Expires = "second", at(70)
	b.ok(b.OpenSession(b.ctx, first))
	b.same(must[store.Session](b)(b.Session(b.ctx, first.ID)), first)
	b.ok(b.OpenSession(b.ctx, second))
	for range 2 {
		_, err := b.Session(b.ctx, first.ID)
		b.is(err, store.ErrNotFound)
		b.same(must[store.Session](b)(b.Session(b.ctx, "second")), second)
		b.reopen()
	}
	second.TokenHash = []byte("another token")
	b.ok(b.OpenSession(b.ctx, second))
	b.same(must[store.Session](b)(b.Session(b.ctx, "second")), second)
}

func testSessionOfAnother(b *rig) {
	b.enrol("a")
	b.enrol("b")
	b.ok(b.OpenSession(b.ctx, session("a")))
	stolen := session("b")
	stolen.ID = session("a").ID
	b.is(b.OpenSession(b.ctx, stolen), store.ErrExists)
	b.same(must[store.Session](b)(b.Session(b.ctx, stolen.ID)), session("a"))
	b.ok(b.OpenSession(b.ctx, session("b")))
	b.same(must[store.Session](b)(b.Session(b.ctx, "session of a")), session("a"))
}

func testSessionOfDeleted(b *rig) {
	b.is(b.OpenSession(b.ctx, session("a")), store.ErrNotFound)
	b.enrol("a")
	b.enrol("b")
	b.ok(b.OpenSession(b.ctx, session("a")))
	b.ok(b.OpenSession(b.ctx, session("b")))
	b.ok(b.StopAgent(b.ctx, "a"))
	must[store.Session](b)(b.Session(b.ctx, "session of a")) // it is told why
	b.ok(b.DeleteAgent(b.ctx, "a"))
	b.enrol("a")
	for range 2 {
		_, err := b.Session(b.ctx, "session of a")
		b.is(err, store.ErrNotFound)
		must[store.Session](b)(b.Session(b.ctx, "session of b"))
		b.reopen()
	}
}

func testSessionExtended(b *rig) {
	b.enrol("a")
	extend := func(until int) {
		b.Helper()
		l := b.leaseOne("a", at(0))
		r := passed(l, time.Time{})
		r.Session = at(until)
		b.ok(b.Commit(b.ctx, l, r, at(0)))
	}
	extend(70) // there is none
	b.ok(b.OpenSession(b.ctx, session("a")))
	for _, until := range []int{120, 90} {
		extend(until)
		want := session("a")
		want.Expires = at(120)
		b.same(must[store.Session](b)(b.Session(b.ctx, want.ID)), want)
		b.reopen()
	}
	extend(180)
	l := b.leaseOne("a", at(0))
	r := passed(l, time.Time{})
	r.Session = at(300)
	b.is(b.Commit(b.ctx, l, r, at(60)), store.ErrLeaseLost)
	b.same(must[store.Session](b)(b.Session(b.ctx, "session of a")).Expires, at(180))
}

// leaseOne leases the agent, which nobody else may have.
func (b *rig) leaseOne(id string, now time.Time) store.Lease {
	b.Helper()
	return must[store.Lease](b)(b.Lease(b.ctx, id, owner, now, ttl))
}
