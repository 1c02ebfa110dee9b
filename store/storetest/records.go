package storetest

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"keylime/store"
)

func testRecords(t *testing.T, fresh func(testing.TB) Opener) {
	runAll(t, fresh, []test{
		{"come back as they went in", testRoundTrip},
		{"times are UTC with microseconds", testTimes},
		{"belong to the caller", testOwnership},
		{"of agents that call in, too", testCallRecords},
		{"have limits", testLimits},
		{"are UTF-8", testText},
	})
}

func testRoundTrip(b *rig) {
	const seed, n = 1, 50
	random := rand.New(rand.NewPCG(seed, 0))
	var agents []store.Agent
	var registrations []store.Registration
	for i := range n {
		id := string(rune('A'+i%26)) + string(rune('a'+i/26))
		a := store.Agent{ID: id}
		fill(random, &a.Spec)
		fill(random, &a.Status)
		fill(random, &a.State)
		a.Spec.RuntimePolicy, a.Spec.MeasuredBootPolicy, a.Spec.PCRPolicy = "", "", ""
		a.Status.Operational = store.StateStart
		a.Due = randomTime(random)
		b.ok(b.AddAgent(b.ctx, a))
		agents = append(agents, a)

		r := store.Registration{}
		fill(random, &r)
		r.ID, r.RegCount, r.Staged, r.Activated = id, 1, at(i), time.Time{}
		r.Rev = must[uint64](b)(b.Stage(b.ctx, r, at(i), ttl))
		registrations = append(registrations, r)
	}
	for range 2 {
		for i, want := range agents {
			got := must[store.Agent](b)(b.Agent(b.ctx, want.ID))
			want.Rev = got.Rev
			b.same(got, want)
			b.same(must[store.Registration](b)(b.Pending(b.ctx, want.ID)), registrations[i])
		}
		b.reopen()
	}
	texts := map[string][]byte{"nil": nil, "empty": {}, "binary": {0, 0xff, '\n'}, "huge": []byte(strings.Repeat("policy ", 1e6))}
	for name, text := range texts {
		b.ok(b.AddPolicy(b.ctx, store.Policy{Kind: store.RuntimePolicy, Name: name, Text: text}))
		got := must[store.Policy](b)(b.Policy(b.ctx, store.RuntimePolicy, name)).Text
		b.same(bytes.Equal(got, text) && (got == nil) == (text == nil), true)
	}
	large := agent("large")
	large.Spec.IMAKeyring, large.Spec.Metadata = strings.Repeat("k", 100_000), strings.Repeat("<", 1000)
	b.ok(b.AddAgent(b.ctx, large))
	got := must[store.Agent](b)(b.Agent(b.ctx, "large"))
	b.same(got.Spec, large.Spec)
	b.same(must[[]store.Agent](b)(b.Agents(b.ctx, store.Filter{VerifierID: verifierID}, "", 1)), []store.Agent{got})
	b.same(b.claimOne(at(0)).Agent, got)
}

func testTimes(b *rig) {
	local := time.FixedZone("elsewhere", 5400)
	given := time.Date(2026, 2, 3, 4, 5, 6, 123_456_789, local)
	want := time.Date(2026, 2, 3, 2, 35, 6, 123_456_000, time.UTC)
	check := func(what string, got time.Time) {
		b.Helper()
		if got != want { // not Equal: the location matters too
			b.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	rev := must[uint64](b)(b.Stage(b.ctx, registration("a", "tpm"), given, ttl))
	check("staged", must[store.Registration](b)(b.Pending(b.ctx, "a")).Staged)
	b.ok(b.Activate(b.ctx, "a", rev, given))
	check("activated", must[store.Registration](b)(b.Registered(b.ctx, "a")).Activated)

	a := agent("a")
	a.Due, a.Spec.Enrolled, a.Status.LastQuote, a.Status.LastSuccess = given, given, given, given
	b.ok(b.AddAgent(b.ctx, a))
	got := must[store.Agent](b)(b.Agent(b.ctx, "a"))
	check("due", got.Due)
	check("enrolled", got.Spec.Enrolled)
	check("last quote", got.Status.LastQuote)
	check("last success", got.Status.LastSuccess)
	next, _, err := b.NextDue(b.ctx, verifierID)
	b.ok(err)
	check("next due", next)

	l := must[[]store.Lease](b)(b.Claim(b.ctx, verifierID, owner, given, 1, 0+ttl))[0]
	want = want.Add(ttl)
	check("lease", l.Expires)
	want = want.Add(-ttl)
	r := passed(l, given)
	r.Status.LastQuote, r.Status.LastSuccess = given, given
	r.Events = []store.Event{{Channel: "webhook", Created: given, Due: given}}
	b.ok(b.Commit(b.ctx, l, r, given))
	got = must[store.Agent](b)(b.Agent(b.ctx, "a"))
	check("due after a round", got.Due)
	check("last quote after a round", got.Status.LastQuote)
	e := must[[]store.Event](b)(b.ClaimEvents(b.ctx, owner, given, 1, 0))[0]
	check("event created", e.Created)
	check("event due", e.Due)
	check("event lease", e.Lease)
	b.ok(b.ReactivateAgent(b.ctx, "a", given))
	check("due after reactivation", must[store.Agent](b)(b.Agent(b.ctx, "a")).Due)
}

// testOwnership changes what went in and what came out, and looks again.
func testOwnership(b *rig) {
	a := agent("a")
	a.Spec.V, a.Spec.AKTPM, a.Spec.AcceptHash = []byte("v"), []byte("ak"), []string{"sha256"}
	b.ok(b.AddAgent(b.ctx, a))
	spoil := func(s store.AgentSpec) { s.V[0], s.AKTPM[0], s.AcceptHash[0] = 'X', 'X', "X" }
	spoil(a.Spec)
	for range 2 {
		spoil(must[store.Agent](b)(b.Agent(b.ctx, "a")).Spec)
		spoil(must[[]store.Agent](b)(b.Agents(b.ctx, store.Filter{}, "", 1))[0].Spec)
	}
	spoil(b.claimOne(at(0)).Agent.Spec)
	got := must[store.Agent](b)(b.Agent(b.ctx, "a")).Spec
	b.same(string(got.V)+string(got.AKTPM)+got.AcceptHash[0], "vaksha256")

	p := policy("p", "text")
	b.ok(b.AddPolicy(b.ctx, p))
	p.Text[0] = 'X'
	must[store.Policy](b)(b.Policy(b.ctx, p.Kind, p.Name)).Text[0] = 'X'
	b.same(string(must[store.Policy](b)(b.Policy(b.ctx, p.Kind, p.Name)).Text), "text")
}

// limited is a verb with something that is as long as asked for.
type limited struct {
	limit int
	call  func(n int) error
}

func testLimits(b *rig) {
	long := func(n int) string { return strings.Repeat("x", n) }
	b.ok(b.AddAgent(b.ctx, agent("in flight")))
	l := b.claimOne(at(0))
	verbs := map[string]limited{
		"agent id": {store.MaxID, func(n int) error { return b.AddAgent(b.ctx, store.Agent{ID: long(n)}) }},
		"registered id": {store.MaxID, func(n int) error {
			_, err := b.Stage(b.ctx, registration(long(n), "tpm"), at(0), ttl)
			return err
		}},
		"registration": {store.MaxRegistration, func(n int) error {
			_, err := b.Stage(b.ctx, store.Registration{ID: "r", Identity: store.Identity{EKChain: [][]byte{make([]byte, n)}}}, at(0), ttl)
			return err
		}},
		"enrolment": {store.MaxSpec, func(n int) error {
			return b.AddAgent(b.ctx, store.Agent{ID: "enrolment", Spec: store.AgentSpec{Metadata: long(n)}})
		}},
		"verifier id": {store.MaxName, func(n int) error {
			return b.AddAgent(b.ctx, store.Agent{ID: "verifier id", Spec: store.AgentSpec{VerifierID: long(n)}})
		}},
		"status at enrolment": {store.MaxStatus, func(n int) error {
			return b.AddAgent(b.ctx, store.Agent{ID: "status", Status: store.AgentStatus{LastFailure: long(n)}})
		}},
		"policy name": {store.MaxName, func(n int) error { return b.AddPolicy(b.ctx, policy(long(n), "")) }},
		"event message": {store.MaxMessage, func(n int) error {
			r := passed(l, at(0))
			r.Events = []store.Event{{Message: make([]byte, n)}}
			err := b.Commit(b.ctx, l, r, at(0))
			if err == nil {
				l = b.claimOne(at(0))
			}
			return err
		}},
		"keyrings": {store.MaxState, func(n int) error {
			r := passed(l, at(0))
			r.State.PCR10, r.State.Bank = nil, 0
			r.State.Keyrings = map[string]string{"": long(n)}
			err := b.Commit(b.ctx, l, r, at(0))
			if err == nil {
				l = b.claimOne(at(0))
			}
			return err
		}},
	}
	maps.Copy(verbs, b.callLimits())
	for name, v := range verbs {
		if err := v.call(v.limit + 1); err == nil {
			b.Errorf("%s of %d bytes is taken", name, v.limit+1)
		} else {
			b.is(err, store.ErrTooLarge)
		}
		if err := v.call(v.limit); err != nil {
			b.Errorf("%s of %d bytes is refused: %v", name, v.limit, err)
		}
	}
	b.is(store.Policy{Kind: store.RuntimePolicy, Name: "p", Text: make([]byte, store.MaxPolicy+1)}.Check(), store.ErrTooLarge)
	b.ok(store.Policy{Kind: store.RuntimePolicy, Name: "p", Text: make([]byte, store.MaxPolicy)}.Check())
}

func testText(b *rig) {
	b.ok(b.AddAgent(b.ctx, agent("a")))
	l := b.claimOne(at(0))
	before := b.dump()
	r := passed(l, at(1))
	r.Status.LastFailure = "\xff"
	b.is(b.Commit(b.ctx, l, r, at(0)), store.ErrInvalid)
	_, err := b.Stage(b.ctx, store.Registration{ID: "\xff"}, at(0), ttl)
	b.is(err, store.ErrInvalid)
	_, err = b.Stage(b.ctx, store.Registration{ID: ""}, at(0), ttl)
	b.is(err, store.ErrInvalid)
	b.is(b.AddAgent(b.ctx, agent("")), store.ErrInvalid)
	b.is(b.AddAgent(b.ctx, agent("\xff")), store.ErrInvalid)
	b.is(b.AddAgent(b.ctx, store.Agent{ID: "b", Spec: store.AgentSpec{AcceptSign: []string{"\xff"}}}), store.ErrInvalid)
	b.is(b.AddPolicy(b.ctx, policy("", "")), store.ErrInvalid)
	b.is(b.AddPolicy(b.ctx, policy("\xff", "")), store.ErrInvalid)
	b.is(b.AddPolicy(b.ctx, store.Policy{Kind: "other", Name: "p"}), store.ErrInvalid)
	b.refuseCalls(l)
	b.same(b.dump(), before)
	b.ok(b.Commit(b.ctx, l, passed(l, at(1)), at(0))) // the lease survived
}
