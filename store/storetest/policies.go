package storetest

import (
	"strings"
	"testing"

	"keylime/store"
)

func testPolicies(t *testing.T, fresh func(testing.TB) Opener) {
	runAll(t, fresh, []test{
		{"added, updated, deleted", testPolicyLife},
		{"names are nothing but names", testPolicyNames},        // NT-92
		{"not deleted while an agent uses it", testPolicyInUse}, // NT-92
		{"a name that begins like another is not in use", testPolicyPrefix},
		{"replaced in stages", testPolicyStages},
		{"remember their keys", testPolicyKeys},
	})
}

func testPolicyStages(b *rig) {
	b.ok(b.AddPolicy(b.ctx, policy("p", "old")))
	first := must[store.Policy](b)(b.Policy(b.ctx, store.RuntimePolicy, "p"))
	next := policy("p", "new")
	next.Rev, next.Previous = first.Rev, &store.Previous{Text: []byte("old"), Digest: "not its text's", Until: at(60)}
	b.ok(b.UpdatePolicy(b.ctx, next))
	b.is(b.UpdatePolicy(b.ctx, next), store.ErrConflict) // it has another revision now
	for range 2 {
		got := must[store.Policy](b)(b.Policy(b.ctx, store.RuntimePolicy, "p"))
		want := store.Policy{Kind: store.RuntimePolicy, Name: "p", Text: []byte("new"), Digest: store.DigestOf([]byte("new")), Rev: got.Rev,
			Previous: &store.Previous{Text: []byte("old"), Digest: first.Digest, Until: at(60)}}
		b.same(got, want)
		want.Text, want.Previous.Text = nil, nil
		b.same(must[store.Policy](b)(b.PolicyHead(b.ctx, store.RuntimePolicy, "p")), want)
		b.reopen()
	}
	b.same(must[[]string](b)(b.PolicyNames(b.ctx, store.RuntimePolicy)), []string{"p"})
	b.ok(b.UpdatePolicy(b.ctx, policy("p", "newer"))) // all of it: there is no previous text any more
	if got := must[store.Policy](b)(b.Policy(b.ctx, store.RuntimePolicy, "p")); got.Previous != nil {
		b.Errorf("previous text is %+v", got.Previous)
	}
	b.ok(b.DeletePolicy(b.ctx, store.RuntimePolicy, "p"))
}

func testPolicyKeys(b *rig) {
	b.same(len(must[[]string](b)(b.PolicyKeys(b.ctx, store.RuntimePolicy))), 0)
	for name, keys := range map[string]string{"a": "key 1", "b": "", "c": "key 2", "d": "key 1"} {
		p := policy(name, "{}")
		p.Keys = keys
		b.ok(b.AddPolicy(b.ctx, p))
		b.same(must[store.Policy](b)(b.PolicyHead(b.ctx, store.RuntimePolicy, name)).Keys, keys)
	}
	b.same(must[[]string](b)(b.PolicyKeys(b.ctx, store.RuntimePolicy)), []string{"key 1", "key 2"})
	b.same(len(must[[]string](b)(b.PolicyKeys(b.ctx, store.PCRPolicy))), 0)
	b.ok(b.DeletePolicy(b.ctx, store.RuntimePolicy, "c"))
	b.same(must[[]string](b)(b.PolicyKeys(b.ctx, store.RuntimePolicy)), []string{"key 1"})
}

func testPolicyLife(b *rig) {
	_, err := b.Policy(b.ctx, store.RuntimePolicy, "p")
	b.is(err, store.ErrNotFound)
	_, err = b.PolicyHead(b.ctx, store.RuntimePolicy, "p")
	b.is(err, store.ErrNotFound)
	b.is(b.UpdatePolicy(b.ctx, policy("p", "1")), store.ErrNotFound)
	b.is(b.DeletePolicy(b.ctx, store.RuntimePolicy, "p"), store.ErrNotFound)

	b.ok(b.AddPolicy(b.ctx, policy("p", "1")))
	b.is(b.AddPolicy(b.ctx, policy("p", "2")), store.ErrExists) // NT-92
	first := must[store.Policy](b)(b.Policy(b.ctx, store.RuntimePolicy, "p"))
	b.same(first.Digest, "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b")

	next := policy("p", "2")
	next.Generator, next.Digest = 4, "a digest that is not its text's"
	b.ok(b.UpdatePolicy(b.ctx, next))
	second := must[store.Policy](b)(b.Policy(b.ctx, store.RuntimePolicy, "p"))
	b.same(second, store.Policy{Kind: store.RuntimePolicy, Name: "p", Text: []byte("2"), Digest: store.DigestOf([]byte("2")),
		Generator: 4, Rev: second.Rev})
	if second.Rev <= first.Rev {
		b.Errorf("revision went from %d to %d", first.Rev, second.Rev)
	}
	second.Text = nil
	b.same(must[store.Policy](b)(b.PolicyHead(b.ctx, store.RuntimePolicy, "p")), second)
	b.ok(b.DeletePolicy(b.ctx, store.RuntimePolicy, "p"))
	_, err = b.Policy(b.ctx, store.RuntimePolicy, "p")
	b.is(err, store.ErrNotFound)
}

func testPolicyNames(b *rig) {
	names := []string{"'; DROP TABLE policies; --", "../../etc/passwd", "A", "\\", "a", "a/b", "r", "ä", "日本"}
	for _, kind := range store.PolicyKinds() {
		for i := range names {
			name := names[len(names)-1-i]
			b.ok(b.AddPolicy(b.ctx, store.Policy{Kind: kind, Name: name, Text: []byte(name)}))
		}
	}
	b.ok(b.DeletePolicy(b.ctx, store.RuntimePolicy, "r"))
	b.same(must[[]string](b)(b.PolicyNames(b.ctx, store.MeasuredBootPolicy)), names)
	b.same(len(must[[]string](b)(b.PolicyNames(b.ctx, store.RuntimePolicy))), len(names)-1)
	b.same(len(must[[]string](b)(b.PolicyNames(b.ctx, "no such kind"))), 0)
	for _, name := range names {
		b.same(string(must[store.Policy](b)(b.Policy(b.ctx, store.MeasuredBootPolicy, name)).Text), name)
	}
}

func testPolicyInUse(b *rig) {
	boot := store.Policy{Kind: store.MeasuredBootPolicy, Name: "p", Text: []byte("{}")}
	b.ok(b.AddPolicy(b.ctx, boot)) // of the same name, but not used
	for _, id := range []string{"user-1", "user-2"} {
		a := agent(id)
		a.Spec.RuntimePolicy = "p"
		if id == "user-1" {
			b.ok(b.AddAgent(b.ctx, a, policy("p", "{}")))
		} else {
			b.ok(b.AddAgent(b.ctx, a))
		}
	}
	for i, named := range []string{"user-", "user-2"} {
		err := b.DeletePolicy(b.ctx, store.RuntimePolicy, "p")
		if b.is(err, store.ErrInUse); !strings.Contains(err.Error(), named) {
			b.Errorf("%q does not name %s", err, named)
		}
		b.ok(b.DeleteAgent(b.ctx, []string{"user-1", "user-2"}[i]))
	}
	b.ok(b.DeletePolicy(b.ctx, store.RuntimePolicy, "p"))
	b.ok(b.DeletePolicy(b.ctx, store.MeasuredBootPolicy, "p"))
}

func testPolicyPrefix(b *rig) {
	a := agent("a")
	a.Spec.RuntimePolicy = "policy-1"
	b.ok(b.AddAgent(b.ctx, a, policy("policy-1", ""), policy("policy", ""), policy("policy-12", "")))
	b.ok(b.DeletePolicy(b.ctx, store.RuntimePolicy, "policy"))
	b.ok(b.DeletePolicy(b.ctx, store.RuntimePolicy, "policy-12"))
	b.is(b.DeletePolicy(b.ctx, store.RuntimePolicy, "policy-1"), store.ErrInUse)
}
