package storetest

import (
	"strings"
	"testing"
	"time"

	"keylime/internal/attest"
	"keylime/store"
)

func testEnrolment(t *testing.T, fresh func(testing.TB) Opener) {
	runAll(t, fresh, []test{
		{"an agent comes with its policies or not at all", testEnrolWithPolicies},
		{"the error names what exists", testExistsNames},
		{"deleting takes along the policies named like the agent", testDeleteWithPolicies},
		{"lists are in byte order, paged and filtered", testAgentLists},
		{"stopping ends the rounds, reactivating starts them anew", testStop},
	})
}

func testEnrolWithPolicies(b *rig) {
	a := agent("a")
	a.Spec.RuntimePolicy, a.Spec.MeasuredBootPolicy = "a", "boot"
	b.is(b.AddAgent(b.ctx, a, policy("a", "{}")), store.ErrNotFound) // boot is missing
	b.same(len(must[[]string](b)(b.PolicyNames(b.ctx, store.RuntimePolicy))), 0)

	boot := store.Policy{Kind: store.MeasuredBootPolicy, Name: "boot", Text: []byte("{}")}
	b.ok(b.AddAgent(b.ctx, a, policy("a", "{}"), boot))
	other := agent("other")
	other.Spec.RuntimePolicy = "a"
	b.is(b.AddAgent(b.ctx, other, policy("new", "{}"), policy("a", "{}")), store.ErrExists)
	b.is(b.AddAgent(b.ctx, other, policy("new", "{}"), policy("new", "{}")), store.ErrExists)
	b.is(b.AddAgent(b.ctx, a), store.ErrExists)
	b.same(must[[]string](b)(b.PolicyNames(b.ctx, store.RuntimePolicy)), []string{"a"})
	_, err := b.Agent(b.ctx, "other")
	b.is(err, store.ErrNotFound)
}

func testExistsNames(b *rig) {
	b.ok(b.AddAgent(b.ctx, agent("the-agent"), policy("the-policy", "{}")))
	for name, err := range map[string]error{
		"the-agent":  b.AddAgent(b.ctx, agent("the-agent")),
		"the-policy": b.AddAgent(b.ctx, agent("b"), policy("the-policy", "")),
	} {
		if b.is(err, store.ErrExists); !strings.Contains(err.Error(), name) {
			b.Errorf("%q does not name %s", err, name)
		}
	}
}

func testDeleteWithPolicies(b *rig) {
	first, second := agent("first"), agent("second")
	first.Spec.RuntimePolicy, second.Spec.RuntimePolicy = "first", "first"
	b.ok(b.AddAgent(b.ctx, first, policy("first", "{}"), policy("shared", "{}")))
	b.ok(b.AddAgent(b.ctx, second, policy("second", "{}")))
	b.ok(b.DeleteAgent(b.ctx, "first")) // its policy is used by second
	b.same(must[[]string](b)(b.PolicyNames(b.ctx, store.RuntimePolicy)), []string{"first", "second", "shared"})
	b.ok(b.DeleteAgent(b.ctx, "second"))
	b.same(must[[]string](b)(b.PolicyNames(b.ctx, store.RuntimePolicy)), []string{"first", "shared"})
	b.is(b.DeleteAgent(b.ctx, "second"), store.ErrNotFound)
	_, err := b.Agent(b.ctx, "second")
	b.is(err, store.ErrNotFound)
}

func testAgentLists(b *rig) {
	ids := []string{"B", "Z", "a", "a-b", "a.b", "aB", "b", "z", "ä"}
	for i := range ids {
		a := agent(ids[len(ids)-1-i])
		if a.ID < "a" {
			a.Spec.VerifierID = "verifier-2"
		}
		b.ok(b.AddAgent(b.ctx, a))
	}
	list := func(f store.Filter, after string, max int) string {
		var got []string
		for _, a := range must[[]store.Agent](b)(b.Agents(b.ctx, f, after, max)) {
			got = append(got, a.ID)
		}
		return strings.Join(got, " ")
	}
	for range 2 {
		b.same(list(store.Filter{}, "", 100), strings.Join(ids, " "))
		b.same(list(store.Filter{}, "aA", 2), "aB b")
		b.same(list(store.Filter{}, "aB", 2), "b z")
		b.same(list(store.Filter{VerifierID: "verifier-2"}, "", 100), "B Z")
		b.same(list(store.Filter{VerifierID: verifierID}, "", 2), "a a-b")
		b.same(list(store.Filter{VerifierID: "unknown"}, "", 2), "")
		b.same(list(store.Filter{}, "", 0), "")
		b.reopen()
	}
}

func testStop(b *rig) {
	a := agent("a")
	a.Spec.V = []byte("key share")
	a.State = state(7)
	a.Status.Retries, a.Status.LastEventID, a.Status.SeverityRank = 3, "ima.validation", 5
	b.ok(b.AddAgent(b.ctx, a))
	enrolled := must[store.Agent](b)(b.Agent(b.ctx, "a"))

	b.ok(b.StopAgent(b.ctx, "a"))
	stopped := must[store.Agent](b)(b.Agent(b.ctx, "a"))
	want := enrolled
	want.Rev, want.Due, want.Status.Operational = stopped.Rev, time.Time{}, store.StateTenantFailed
	b.same(stopped, want)
	b.claimNone(at(10))

	b.ok(b.ReactivateAgent(b.ctx, "a", at(20)))
	b.claimNone(at(19))
	active := must[store.Agent](b)(b.Agent(b.ctx, "a"))
	want.Rev, want.Due, want.State = active.Rev, at(20), attest.State{}
	want.Status.Operational, want.Status.ProvideV, want.Status.Retries = store.StateStart, true, 0
	b.same(active, want)
	b.claimOne(at(20))

	b.ok(b.DeleteAgent(b.ctx, "a"))
	b.ok(b.AddAgent(b.ctx, a))
	revs := map[uint64]bool{enrolled.Rev: true, stopped.Rev: true, active.Rev: true, must[store.Agent](b)(b.Agent(b.ctx, "a")).Rev: true}
	b.same(len(revs), 4)

	b.is(b.StopAgent(b.ctx, "unknown"), store.ErrNotFound)
	b.is(b.ReactivateAgent(b.ctx, "unknown", at(0)), store.ErrNotFound)
}
