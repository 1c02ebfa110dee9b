package storetest

import (
	"strings"
	"testing"

	"keylime/store"
)

// commitEvents lets the agent, enrolled for this, pass a round that leaves the events behind.
func (b *rig) commitEvents(id string, events ...store.Event) {
	b.Helper()
	a := agent(id)
	a.Spec.VerifierID = "verifier of " + id
	b.ok(b.AddAgent(b.ctx, a))
	leases := must[[]store.Lease](b)(b.Claim(b.ctx, a.Spec.VerifierID, owner, at(0), 1, ttl))
	r := passed(leases[0], at(1e6))
	r.Events = events
	b.ok(b.Commit(b.ctx, leases[0], r, at(0)))
}

func event(message string, due int) store.Event {
	return store.Event{Channel: "webhook", Message: []byte(message), Created: t0, Due: at(due)}
}

// claimEvents returns the messages of those that are claimed.
func (b *rig) claimEvents(now, max int) string {
	b.Helper()
	var messages []string
	for _, e := range must[[]store.Event](b)(b.ClaimEvents(b.ctx, owner, at(now), max, ttl)) {
		messages = append(messages, string(e.Message))
	}
	return strings.Join(messages, " ")
}

func testOutbox(t *testing.T, fresh func(testing.TB) Opener) {
	runAll(t, fresh, []test{
		{"events are claimed when due, earliest first, then in order", testEventOrder},
		{"an event says what was committed", testEventContent},
		{"finished once, retried later", testEventRetry},
		{"deleting an agent drops what reports on it or is for it", testEventsOfDeleted}, // NT-94
		{"notices are the events of a channel, in order", testNotices},
	})
}

func testEventOrder(b *rig) {
	b.commitEvents("a", event("one", 0), event("late", 5), event("two", 0), event("early", -1))
	b.same(b.claimEvents(0, 2), "early one")
	b.same(b.claimEvents(0, 0), "")
	b.same(b.claimEvents(0, 10), "two")
	b.same(b.claimEvents(4, 10), "")
	b.same(b.claimEvents(5, 10), "late")
	b.same(b.claimEvents(59, 10), "")
	b.same(b.claimEvents(60, 10), "early one two") // the leases are over
}

func testEventContent(b *rig) {
	sent := store.Event{Channel: "agent", Target: "b", Message: []byte{0, 0xff}, Created: at(-1), Due: at(-1), Attempts: 2,
		AgentID: "set by the store", ID: 77}
	b.commitEvents("a", sent)
	got := must[[]store.Event](b)(b.ClaimEvents(b.ctx, owner, at(0), 1, ttl))[0]
	want := sent
	want.ID, want.AgentID, want.Lease = got.ID, "a", at(60)
	b.same(got, want)
}

func testEventRetry(b *rig) {
	b.commitEvents("a", event("one", 0), event("two", 0))
	claimed := must[[]store.Event](b)(b.ClaimEvents(b.ctx, owner, at(0), 10, ttl))
	b.ok(b.FinishEvent(b.ctx, claimed[0].ID))
	b.is(b.FinishEvent(b.ctx, claimed[0].ID), store.ErrNotFound)
	b.is(b.RetryEvent(b.ctx, claimed[0].ID, 1, at(1)), store.ErrNotFound)
	b.ok(b.RetryEvent(b.ctx, claimed[1].ID, 3, at(10)))
	b.same(b.claimEvents(9, 10), "")
	again := must[[]store.Event](b)(b.ClaimEvents(b.ctx, owner, at(10), 10, ttl)) // though leased until 60
	want := claimed[1]
	want.Attempts, want.Due, want.Lease = 3, at(10), at(70)
	b.same(again, []store.Event{want})
	b.reopen()
	b.same(b.claimEvents(1000, 10), "two")
	b.ok(b.FinishEvent(b.ctx, want.ID))
	b.same(len(b.events()), 0)
}

func testEventsOfDeleted(b *rig) {
	toA := store.Event{Channel: "agent", Target: "a", Message: []byte("b-failed,tell-a"), Created: t0, Due: t0}
	b.commitEvents("a", event("a-failed", 0), event("a-failed-again", 1))
	b.commitEvents("b", event("b-failed", 0), toA)
	b.commitEvents("ab", event("ab-failed", 0))
	claimed := must[[]store.Event](b)(b.ClaimEvents(b.ctx, owner, at(0), 1, ttl))
	b.ok(b.DeleteAgent(b.ctx, "a"))
	b.is(b.RetryEvent(b.ctx, claimed[0].ID, 1, at(0)), store.ErrNotFound) // its delivery was under way
	b.same(b.claimEvents(100, 10), "b-failed ab-failed")
	b.ok(b.StopAgent(b.ctx, "b"))
	b.ok(b.ReactivateAgent(b.ctx, "b", at(0)))
	b.reopen()
	b.same(b.claimEvents(1000, 10), "b-failed ab-failed")
}

func testNotices(b *rig) {
	notice := func(message string, due int) store.Event {
		e := event(message, due)
		e.Channel = "push"
		return e
	}
	// read returns the messages, and the id of the last one.
	read := func(after uint64, max int) (string, uint64) {
		b.Helper()
		var messages []string
		last := after
		for _, e := range must[[]store.Event](b)(b.Notices(b.ctx, "push", after, max)) {
			if e.ID <= last || e.Channel != "push" || !e.Lease.IsZero() {
				b.Fatalf("after %d: %+v", last, e)
			}
			messages, last = append(messages, string(e.Message)), e.ID
		}
		return strings.Join(messages, " "), last
	}
	b.commitEvents("a", notice("one", 9), event("webhook", 0), notice("two", 5), notice("three", 7))
	b.commitEvents("b", notice("four", 0))
	for range 2 {
		all, last := read(0, 10)
		b.same(all, "one two three four")
		first, cursor := read(0, 2)
		b.same(first, "one two")
		rest, _ := read(cursor, 2)
		b.same(rest, "three four")
		none, _ := read(last, 2)
		b.same(none, "")
		none, _ = read(0, 0)
		b.same(none, "")
		b.reopen()
	}
	b.same(len(must[[]store.Event](b)(b.Notices(b.ctx, "pus", 0, 10))), 0)
	b.same(len(must[[]store.Event](b)(b.Notices(b.ctx, strings.Repeat("push", 64)+"push", 0, 10))), 0)
	b.same(b.claimEvents(5, 10), "webhook four two") // leased, and still read
	claimed := must[[]store.Event](b)(b.ClaimEvents(b.ctx, owner, at(7), 10, ttl))
	all, _ := read(0, 10)
	b.same(all, "one two three four")
	b.ok(b.RetryEvent(b.ctx, claimed[0].ID, 1, at(20)))
	all, _ = read(0, 10)
	b.same(all, "one two three four")
	b.ok(b.FinishEvent(b.ctx, claimed[0].ID))
	all, _ = read(0, 10)
	b.same(all, "one two four")
	b.ok(b.DeleteAgent(b.ctx, "a"))
	all, _ = read(0, 10)
	b.same(all, "four")
}
