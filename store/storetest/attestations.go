package storetest

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	"keylime/store"
)

func testAttestations(t *testing.T, fresh func(testing.TB) Opener) {
	runAll(t, fresh, []test{
		{"one agent is leased as others are claimed", testLeaseByID},
		{"a lease leaves the due time alone", testLeaseDue},
		{"an index is given once", testIndices},
		{"beginning disturbs no round", testBeginDuringRound},
		{"a round replaces the latest attestation only", testJudge}, // NT-87
		{"a round thins out the history", testRetention},
		{"lists are newest first, paged", testAttestationLists},
		{"history and payload go with the agent", testCallsOfDeleted}, // NT-94
		{"a payload is replaced, and has a new revision", testPayload},
		{"reactivating clears failures", testReactivatePush},
	})
}

// attestation is one that awaits its evidence.
func attestation(agentID string) store.Attestation {
	return store.Attestation{AgentID: agentID, Stage: store.AwaitingEvidence, Evaluation: store.EvaluationPending, BootTime: at(-100),
		Received: at(0), Expires: at(60), Items: []store.EvidenceItem{{Class: "certification", Type: "tpm_quote",
			Capabilities: json.RawMessage(`{"component_version": "2.0"}`), Chosen: json.RawMessage(`{"challenge":"bm9uY2U="}`)}}}
}

// judged is the attestation with its evidence and a verdict.
func judged(a store.Attestation, verdict store.Evaluation) *store.Attestation {
	a.Stage, a.Evaluation, a.Evidence, a.Completed = store.VerificationComplete, verdict, at(1), at(2)
	a.Items = []store.EvidenceItem{a.Items[0]}
	a.Items[0].Data = json.RawMessage(`{"message":"/1RDR4AY"}`)
	return &a
}

func (b *rig) begin(a store.Attestation) store.Attestation {
	b.Helper()
	a.Index = must[uint64](b)(b.BeginAttestation(b.ctx, a))
	return a
}

// judge runs a round of the agent that ends with the attestation.
func (b *rig) judge(a *store.Attestation, keep store.Retention) {
	b.Helper()
	l := b.leaseOne(a.AgentID, at(0))
	r := passed(l, at(300))
	r.Attestation, r.Retention = a, keep
	b.ok(b.Commit(b.ctx, l, r, at(0)))
}

// all lists the agent's attestations.
func (b *rig) all(id string) []store.Attestation {
	b.Helper()
	return must[[]store.Attestation](b)(b.Attestations(b.ctx, id, math.MaxUint64, 1000))
}

func testLeaseByID(b *rig) {
	_, err := b.Lease(b.ctx, "a", owner, at(0), ttl)
	b.is(err, store.ErrNotFound)
	b.enrol("a")
	first := b.leaseOne("a", at(0))
	b.same(first.Agent, must[store.Agent](b)(b.Agent(b.ctx, "a")))
	b.same(first.Owner, owner)
	b.same(first.Expires, at(60))
	_, err = b.Lease(b.ctx, "a", "another", at(59), ttl)
	b.is(err, store.ErrConflict)
	second := b.leaseOne("a", at(60))
	b.is(b.Commit(b.ctx, first, passed(first, at(300)), at(61)), store.ErrLeaseLost)
	b.ok(b.Commit(b.ctx, second, passed(second, at(300)), at(61)))
	b.is(b.Commit(b.ctx, second, passed(second, at(300)), at(61)), store.ErrLeaseLost)

	b.ok(b.StopAgent(b.ctx, "a"))
	stopped := b.leaseOne("a", at(62)) // whatever its state
	b.ok(b.StopAgent(b.ctx, "a"))
	b.is(b.Commit(b.ctx, stopped, passed(stopped, at(300)), at(63)), store.ErrLeaseLost)
	b.ok(b.ReactivateAgent(b.ctx, "a", at(63)))
	b.leaseOne("a", at(63))
}

func testLeaseDue(b *rig) {
	a := agent("a")
	a.Due = at(10)
	b.ok(b.AddAgent(b.ctx, a))
	l := b.leaseOne("a", at(0))
	b.same(l.Agent.Due, at(10))
	b.same(must[store.Agent](b)(b.Agent(b.ctx, "a")).Due, at(10))
	b.claimNone(at(10)) // its round is in flight
	claimed := b.claimOne(at(60))
	_, err := b.Lease(b.ctx, "a", owner, at(61), ttl)
	b.is(err, store.ErrConflict)
	b.is(b.Commit(b.ctx, l, passed(l, at(70)), at(61)), store.ErrLeaseLost)
	b.ok(b.Commit(b.ctx, claimed, passed(claimed, time.Time{}), at(61)))

	l = b.leaseOne("a", at(70)) // not due, and never will be
	b.claimNone(at(1e6))
	if _, ok, err := b.NextDue(b.ctx, verifierID); err != nil || ok {
		b.Fatalf("something is due (%v)", err)
	}
	b.ok(b.Commit(b.ctx, l, passed(l, at(80)), at(71)))
	b.claimOne(at(80))
}

func testIndices(b *rig) {
	_, err := b.BeginAttestation(b.ctx, attestation("a"))
	b.is(err, store.ErrNotFound)
	b.enrol("a")
	b.enrol("ab")
	_, err = b.LatestAttestation(b.ctx, "a")
	b.is(err, store.ErrNotFound)
	b.same(b.begin(attestation("a")).Index, uint64(0))
	b.same(b.begin(attestation("ab")).Index, uint64(0))

	next := b.begin(attestation("a")) // the first one gets no evidence any more
	b.same(next.Index, uint64(1))
	_, err = b.Attestation(b.ctx, "a", 0)
	b.is(err, store.ErrNotFound)
	b.same(b.all("a"), []store.Attestation{next})
	b.judge(judged(next, store.EvaluationFail), store.Retention{})
	b.reopen()

	last := b.begin(attestation("a"))
	b.same(last.Index, uint64(2))
	b.same(must[store.Attestation](b)(b.LatestAttestation(b.ctx, "a")), last)
	b.same(must[store.Attestation](b)(b.Attestation(b.ctx, "a", 1)), *judged(next, store.EvaluationFail))
	b.ok(b.DeleteAgent(b.ctx, "a"))
	b.enrol("a")
	b.same(len(b.all("a")), 0)
	b.same(b.begin(attestation("a")).Index, uint64(0))
	b.same(len(b.all("ab")), 1)
}

func testBeginDuringRound(b *rig) {
	b.enrol("a")
	first := b.begin(attestation("a"))
	l := b.leaseOne("a", at(0))
	second := b.begin(attestation("a"))
	r := passed(l, at(300))
	r.Attestation = judged(first, store.EvaluationPass)
	before := b.dump()
	b.is(b.Commit(b.ctx, l, r, at(1)), store.ErrConflict)
	b.same(b.dump(), before)
	r.Attestation = judged(second, store.EvaluationPass)
	b.ok(b.Commit(b.ctx, l, r, at(1))) // the lease still held
	b.same(b.all("a"), []store.Attestation{*judged(second, store.EvaluationPass)})
}

func testJudge(b *rig) {
	b.enrol("a")
	l := b.leaseOne("a", at(0))
	r := passed(l, at(300))
	r.Attestation = judged(attestation("a"), store.EvaluationPass)
	b.is(b.Commit(b.ctx, l, r, at(0)), store.ErrConflict) // there is none

	first := b.begin(attestation("a"))
	r.Attestation = judged(first, store.EvaluationPass)
	r.Attestation.AgentID = "set by the store"
	r.Session = at(200)
	b.ok(b.OpenSession(b.ctx, session("a")))
	b.ok(b.Commit(b.ctx, l, r, at(1)))
	for range 2 { // all of the round is durable, though only the attestation makes it so
		a := must[store.Agent](b)(b.Agent(b.ctx, "a"))
		b.same(a.Status, r.Status)
		b.same(a.State, r.State)
		b.same(a.Due, at(300))
		b.same(must[store.Attestation](b)(b.LatestAttestation(b.ctx, "a")), *judged(first, store.EvaluationPass))
		b.same(must[store.Session](b)(b.Session(b.ctx, "session of a")).Expires, at(200))
		b.reopen()
	}

	second := b.begin(attestation("a"))
	l = b.leaseOne("a", at(2))
	r = passed(l, at(300))
	r.Attestation = judged(first, store.EvaluationFail)
	b.is(b.Commit(b.ctx, l, r, at(2)), store.ErrConflict)
	r.Attestation = judged(second, store.EvaluationFail)
	b.is(b.Commit(b.ctx, l, r, at(62)), store.ErrLeaseLost)
	b.same(must[store.Attestation](b)(b.LatestAttestation(b.ctx, "a")), second)
}

func testRetention(b *rig) {
	b.enrol("a")
	indices := func() string {
		s := ""
		for _, a := range b.all("a") {
			s = fmt.Sprint(a.Index, " ", s)
		}
		return s
	}
	steps := []struct {
		verdict store.Evaluation
		boot    int
		keep    store.Retention
		want    string
	}{
		{store.EvaluationPass, 0, store.Retention{}, "0 "},
		{store.EvaluationPass, 0, store.Retention{}, "0 1 "},
		{store.EvaluationPass, 0, store.Retention{}, "0 2 "}, // of passes in a row the first and the last
		{store.EvaluationFail, 0, store.Retention{}, "0 2 3 "},
		{store.EvaluationPass, 9, store.Retention{}, "0 2 3 4 "},
		{store.EvaluationPass, 9, store.Retention{Count: 3}, "3 4 5 "},
		{store.EvaluationPass, 9, store.Retention{Since: at(5)}, "6 "}, // all are older
		{store.EvaluationPass, 9, store.Retention{Count: 1}, "7 "},
	}
	for _, s := range steps {
		a := attestation("a")
		a.BootTime = at(s.boot)
		b.judge(judged(b.begin(a), s.verdict), s.keep)
		b.same(indices(), s.want)
	}
	b.reopen()
	b.same(indices(), "7 ")
	b.same(b.begin(attestation("a")).Index, uint64(8))
}

func testAttestationLists(b *rig) {
	b.enrol("a")
	b.enrol("b")
	var want []store.Attestation
	for range 5 {
		a := judged(b.begin(attestation("a")), store.EvaluationFail)
		b.judge(a, store.Retention{})
		want = append([]store.Attestation{*a}, want...)
	}
	b.begin(attestation("b"))
	list := func(id string, before uint64, max int) []store.Attestation {
		b.Helper()
		return must[[]store.Attestation](b)(b.Attestations(b.ctx, id, before, max))
	}
	for range 2 {
		b.same(list("a", math.MaxUint64, 10), want)
		b.same(list("a", 4, 2), want[1:3])
		b.same(list("a", 1, 2), want[4:])
		b.same(len(list("a", 0, 10)), 0)
		b.same(len(list("a", 5, 0)), 0)
		b.same(len(list("b", math.MaxUint64, 10)), 1)
		b.same(len(list("c", math.MaxUint64, 10)), 0)
		b.reopen()
	}
}

func testCallsOfDeleted(b *rig) {
	for _, id := range []string{"a", "ab"} {
		b.enrol(id)
		b.ok(b.OpenSession(b.ctx, session(id)))
		b.judge(judged(b.begin(attestation(id)), store.EvaluationFail), store.Retention{})
		must[uint64](b)(b.PutPayload(b.ctx, payload(id)))
	}
	last := b.begin(attestation("a"))
	l := b.leaseOne("a", at(0))
	b.ok(b.DeleteAgent(b.ctx, "a"))
	r := passed(l, at(300))
	r.Attestation = judged(last, store.EvaluationPass)
	b.is(b.Commit(b.ctx, l, r, at(0)), store.ErrLeaseLost)
	b.enrol("a")
	for range 2 {
		b.same(len(b.all("a")), 0)
		_, err := b.Payload(b.ctx, "a")
		b.is(err, store.ErrNotFound)
		b.same(must[uint64](b)(b.PayloadRev(b.ctx, "a")), uint64(0))
		b.same(len(b.all("ab")), 1)
		must[store.Payload](b)(b.Payload(b.ctx, "ab"))
		b.reopen()
	}
	b.is(b.Commit(b.ctx, l, r, at(0)), store.ErrLeaseLost)
}

func payload(agentID string) store.Payload {
	return store.Payload{AgentID: agentID, SealedU: []byte("sealed for " + agentID), Tag: "0a", Data: []byte("data of " + agentID)}
}

func testPayload(b *rig) {
	_, err := b.PutPayload(b.ctx, payload("a"))
	b.is(err, store.ErrNotFound)
	b.enrol("a")
	var revs []uint64
	for _, data := range [][]byte{[]byte("first"), {}, nil, []byte("last")} {
		p := payload("a")
		p.Data = data
		p.Rev = must[uint64](b)(b.PutPayload(b.ctx, p))
		revs = append(revs, p.Rev)
		for range 2 {
			b.same(must[store.Payload](b)(b.Payload(b.ctx, "a")), p)
			b.same(must[uint64](b)(b.PayloadRev(b.ctx, "a")), p.Rev)
			b.reopen()
		}
	}
	for i := 1; i < len(revs); i++ {
		if revs[i] <= revs[i-1] || revs[0] == 0 {
			b.Fatalf("revisions are %v", revs)
		}
	}
	b.same(must[uint64](b)(b.PayloadRev(b.ctx, "unknown")), uint64(0))
}

func testReactivatePush(b *rig) {
	a := agent("a")
	a.Spec.Push, a.Spec.V = true, []byte("key share")
	a.State = state(7)
	a.Status.Operational, a.Status.Failures, a.Status.TimedOut, a.Status.Notice = store.StateGetQuote, 3, true, 9
	a.Status.LastEventID, a.Status.SeverityRank = "ima.validation", 5
	b.ok(b.AddAgent(b.ctx, a))
	b.ok(b.StopAgent(b.ctx, "a"))
	l := b.leaseOne("a", at(0))
	b.ok(b.ReactivateAgent(b.ctx, "a", at(1)))
	b.is(b.Commit(b.ctx, l, passed(l, at(300)), at(1)), store.ErrLeaseLost)
	want := store.Agent{ID: "a", Spec: a.Spec, Status: a.Status}
	want.Status.Failures, want.Status.TimedOut = 0, false
	for range 2 {
		got := must[store.Agent](b)(b.Agent(b.ctx, "a"))
		want.Rev = got.Rev
		b.same(got, want)
		b.claimNone(at(1e6))
		b.reopen()
	}
}
