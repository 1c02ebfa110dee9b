package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"keylime/store"
)

// together runs f n times at once and returns what they returned.
func together[T any](n int, f func(i int) T) []T {
	results := make([]T, n)
	var begin, all sync.WaitGroup
	begin.Add(1)
	for i := range n {
		all.Go(func() {
			begin.Wait()
			results[i] = f(i)
		})
	}
	begin.Done()
	all.Wait()
	return results
}

func testConcurrency(t *testing.T, fresh func(testing.TB) Opener) {
	runAll(t, fresh, []test{
		{"one of many TPMs wins a new id", testFirstRegistration}, // NT-12
		{"a lease is held once", testParallelClaims},
		{"an event is claimed once", testParallelEvents},
		{"one of many commits of a lease wins", testParallelCommits},
		{"no agent is resurrected", testResurrection}, // NT-94
		{"a policy in use is not deleted", testPolicyRace},
		{"an offer is taken once", testParallelOffers}, // NT-84
		{"one agent is leased once", testParallelLeases},
		{"no index is given twice", testParallelBegins},
		{"nothing of a deleted agent that calls in is left", testCallsRace}, // NT-94
		{"everything at once", testEverything},
	})
}

func testFirstRegistration(b *rig) {
	const tpms = 50
	for try := range 3 {
		id := fmt.Sprintf("a%d", try)
		errs := together(tpms, func(i int) error {
			_, err := b.Stage(b.ctx, registration(id, fmt.Sprintf("tpm-%d", i)), at(0), ttl)
			return err
		})
		winner := -1
		for i, err := range errs {
			if err == nil && winner < 0 {
				winner = i
			} else {
				b.is(err, store.ErrIdentity)
			}
		}
		got := must[store.Registration](b)(b.Pending(b.ctx, id))
		want := registration(id, fmt.Sprintf("tpm-%d", winner))
		want.Rev, want.RegCount, want.Staged = got.Rev, 1, at(0)
		b.same(got, want)
	}
}

func testParallelClaims(b *rig) {
	const agents, claimers = 40, 8
	for i := range agents {
		b.ok(b.AddAgent(b.ctx, agent(fmt.Sprintf("a%02d", i))))
	}
	claims := together(claimers, func(i int) []string {
		var ids []string
		for {
			leases, err := b.Claim(b.ctx, verifierID, fmt.Sprint(i), at(0), 3, ttl)
			if err != nil || len(leases) == 0 {
				return ids
			}
			for _, l := range leases {
				ids = append(ids, l.Agent.ID)
			}
		}
	})
	all := slices.Concat(claims...)
	slices.Sort(all)
	if n := len(slices.Compact(slices.Clone(all))); len(all) != agents || n != agents {
		b.Fatalf("%d leases of %d agents, want one of each of %d", len(all), n, agents)
	}
}

func testParallelEvents(b *rig) {
	const events, claimers = 40, 8
	var sent []store.Event
	for i := range events {
		sent = append(sent, event(fmt.Sprint(i), 0))
	}
	b.commitEvents("a", sent...)
	claims := together(claimers, func(i int) (ids []uint64) {
		for {
			claimed, err := b.ClaimEvents(b.ctx, fmt.Sprint(i), at(0), 3, ttl)
			if err != nil || len(claimed) == 0 {
				return ids
			}
			for _, e := range claimed {
				ids = append(ids, e.ID)
				if b.FinishEvent(b.ctx, e.ID) != nil {
					return nil
				}
			}
		}
	})
	all := slices.Concat(claims...)
	slices.Sort(all)
	if n := len(slices.Compact(slices.Clone(all))); len(all) != events || n != events {
		b.Fatalf("%d claims of %d events, want one of each of %d", len(all), n, events)
	}
	b.same(len(b.events()), 0)
}

func testParallelCommits(b *rig) {
	b.ok(b.AddAgent(b.ctx, agent("a")))
	for round := range 20 {
		l := b.claimOne(at(round))
		errs := together(8, func(i int) error {
			r := passed(l, at(round+1))
			r.Status.APIVersion = fmt.Sprint(i)
			r.Durable = i%2 == 0
			return b.Commit(b.ctx, l, r, at(round))
		})
		winner := ""
		for i, err := range errs {
			if err == nil && winner == "" {
				winner = fmt.Sprint(i)
			} else {
				b.is(err, store.ErrLeaseLost)
			}
		}
		a := must[store.Agent](b)(b.Agent(b.ctx, "a"))
		b.same(a.Status.APIVersion, winner)
		b.same(a.Status.AttestationCount, round+1)
	}
}

// testResurrection lets a round end while its agent is deleted or stopped.
func testResurrection(b *rig) {
	tries := 1000
	if testing.Short() {
		tries = 100
	}
	const atOnce = 20
	for done := 0; done < tries; done += atOnce {
		for i := range atOnce {
			b.ok(b.AddAgent(b.ctx, agent(fmt.Sprintf("a%d", i))))
		}
		leases := must[[]store.Lease](b)(b.Claim(b.ctx, verifierID, owner, at(0), atOnce, ttl))
		together(2*atOnce, func(i int) error {
			l := leases[i/2]
			switch {
			case i%2 == 0 && i%8 < 4:
				return b.Commit(b.ctx, l, failed(l, "event"), at(1))
			case i%2 == 0:
				return b.Commit(b.ctx, l, passed(l, at(1)), at(1))
			case i%5 == 0:
				return b.StopAgent(b.ctx, l.Agent.ID)
			default:
				return b.DeleteAgent(b.ctx, l.Agent.ID)
			}
		})
		for i, l := range leases {
			a, err := b.Agent(b.ctx, l.Agent.ID)
			if (2*i+1)%5 != 0 {
				b.is(err, store.ErrNotFound)
				continue
			}
			b.ok(err)
			b.same(a.Status.Operational, store.StateTenantFailed)
			b.ok(b.DeleteAgent(b.ctx, a.ID))
		}
		b.same(len(b.events()), 0)
		b.claimNone(at(1e6))
	}
	b.reopen()
	b.same(len(must[[]store.Agent](b)(b.Agents(b.ctx, store.Filter{}, "", 1))), 0)
}

func testPolicyRace(b *rig) {
	for range 50 {
		b.ok(b.AddPolicy(b.ctx, policy("p", "{}")))
		errs := together(2, func(i int) error {
			if i == 0 {
				return b.DeletePolicy(b.ctx, store.RuntimePolicy, "p")
			}
			a := agent("a")
			a.Spec.RuntimePolicy = "p"
			return b.AddAgent(b.ctx, a)
		})
		switch {
		case errs[0] == nil:
			b.is(errs[1], store.ErrNotFound)
		case errs[1] == nil:
			b.is(errs[0], store.ErrInUse)
			b.ok(b.DeleteAgent(b.ctx, "a"))
			b.ok(b.DeletePolicy(b.ctx, store.RuntimePolicy, "p"))
		default:
			b.Fatal("both failed: ", errs)
		}
	}
}

// testEverything calls all verbs on the same few records for a while. Each error must be one of the contract's, and
// what is left must be the same after reopening.
func testEverything(b *rig) {
	prepare(b)
	length := time.Second
	if testing.Short() {
		length = 100 * time.Millisecond
	}
	end := time.Now().Add(length)
	errs := together(8, func(i int) error {
		random := rand.New(rand.NewPCG(uint64(i), 0))
		p := &prepared{rig: b, begun: attestation("caller")}
		calls := verbs()
		for n := 0; time.Now().Before(end); n++ {
			if l, err := b.Claim(b.ctx, verifierID, owner, at(n), 1, time.Second); err == nil && len(l) > 0 {
				p.lease = l[0]
			}
			if r, err := b.Pending(b.ctx, "pending"); err == nil {
				p.rev = r.Rev
			}
			if e, err := b.ClaimEvents(b.ctx, owner, at(n), 1, time.Second); err == nil && len(e) > 0 {
				p.event = e[0].ID
			}
			if l, err := b.Lease(b.ctx, "caller", owner, at(n), time.Second); err == nil {
				p.calls = l
			}
			if a, err := b.LatestAttestation(b.ctx, "caller"); err == nil {
				p.begun = a
			}
			v := calls[random.IntN(len(calls))]
			if err := v.call(b.ctx, p); err != nil && sentinel(err) == nil {
				return fmt.Errorf("%s: %w", v.name, err)
			}
		}
		return nil
	})
	b.ok(errors.Join(errs...))
	before := b.dump()
	b.reopen()
	b.same(b.dump(), before)
}

// sentinel is the error of the contract that err wraps; nil when it is none of them.
func sentinel(err error) error {
	for _, s := range []error{store.ErrNotFound, store.ErrExists, store.ErrConflict, store.ErrLeaseLost, store.ErrInUse,
		store.ErrIdentity, store.ErrInactive, store.ErrInvalid, store.ErrTooLarge, store.ErrDamaged, store.ErrClosed} {
		if errors.Is(err, s) {
			return s
		}
	}
	return nil
}
