package storetest

import (
	"fmt"
	"slices"
	"time"

	"keylime/store"
)

func testParallelOffers(b *rig) {
	for try := range 20 {
		id := fmt.Sprint(try)
		b.ok(b.Offer(b.ctx, offer(id, 0)))
		b.same(wins(b, together(8, func(int) error { return b.TakeOffer(b.ctx, id) }), store.ErrNotFound), 1)
	}
}

// wins counts those that returned no error; all others must have returned that one.
func wins(b *rig, errs []error, other error) int {
	b.Helper()
	n := 0
	for _, err := range errs {
		if err == nil {
			n++
		} else {
			b.is(err, other)
		}
	}
	return n
}

// testParallelLeases also while the agent's rows are written: it is then in other hands than those of the scheduler.
func testParallelLeases(b *rig) {
	b.enrol("a")
	for round := range 20 {
		now := at(2 * round)
		leases := make([]store.Lease, 8)
		errs := together(len(leases)+2, func(i int) (err error) {
			switch {
			case i == len(leases):
				return b.StopAgent(b.ctx, "a") // ends the lease: another one may follow
			case i > len(leases):
				_, err := b.PutPayload(b.ctx, payload("a"))
				return err
			}
			leases[i], err = b.Lease(b.ctx, "a", owner, now, time.Second)
			return err
		})
		b.ok(errs[len(leases)])
		b.ok(errs[len(leases)+1])
		if n := wins(b, errs[:len(leases)], store.ErrConflict); n < 1 || n > 2 {
			b.Fatalf("round %d: %d leases of one agent, want 1, or 2 around the stop", round, n)
		}
		commits := 0
		for i, l := range leases {
			if errs[i] == nil && b.Commit(b.ctx, l, passed(l, at(300)), now) == nil {
				commits++
			}
		}
		if commits > 1 {
			b.Fatalf("round %d: %d leases held at once", round, commits)
		}
	}
}

func testParallelBegins(b *rig) {
	b.enrol("a")
	const callers, each = 8, 10
	indices := slices.Concat(together(callers, func(int) (given []uint64) {
		for range each {
			index, err := b.BeginAttestation(b.ctx, attestation("a"))
			if err == nil {
				given = append(given, index)
			}
		}
		return given
	})...)
	slices.Sort(indices)
	for i, index := range indices {
		b.same(index, uint64(i))
	}
	b.same(len(indices), callers*each)
	b.same(len(b.all("a")), 1) // each replaced the one before
}

// testCallsRace lets an agent call in while it is deleted.
func testCallsRace(b *rig) {
	for range 50 {
		b.enrol("a")
		begun := b.begin(attestation("a"))
		l := b.leaseOne("a", at(0))
		calls := []func() error{
			func() error { return b.DeleteAgent(b.ctx, "a") },
			func() error { return b.OpenSession(b.ctx, session("a")) },
			func() error { _, err := b.PutPayload(b.ctx, payload("a")); return err },
			func() error { _, err := b.BeginAttestation(b.ctx, attestation("a")); return err },
			func() error {
				r := passed(l, at(300))
				r.Attestation, r.Session = judged(begun, store.EvaluationPass), at(600)
				return b.Commit(b.ctx, l, r, at(1))
			},
		}
		errs := together(len(calls), func(i int) error { return calls[i]() })
		b.ok(errs[0])
		for _, err := range errs[1:] {
			if err != nil && sentinel(err) == nil {
				b.Fatal(err)
			}
		}
		b.enrol("a")
		d := b.dump()
		b.same(len(d.Sessions)+len(d.Attestations)+len(d.Payloads), 0)
		b.ok(b.DeleteAgent(b.ctx, "a"))
	}
}
