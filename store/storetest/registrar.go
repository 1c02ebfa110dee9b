package storetest

import (
	"fmt"
	"strings"
	"testing"

	"keylime/store"
)

func testRegistrar(t *testing.T, fresh func(testing.TB) Opener) {
	runAll(t, fresh, []test{
		{"a registration is pending until activated", testPending},
		{"an unproven request changes nothing that is active", testUnproven}, // NT-05, NT-09
		{"an older revision does not activate a newer request", testStaleRevision},
		{"an id belongs to the TPM that activated it", testOwner}, // NT-08
		{"a pending identity holds the id for its time", testPendingOwner},
		{"a part of the identity may be added, not changed or left out", testAddedIdentity},
		{"lists are in byte order and paged", testRegisteredIDs},
		{"other ids with the same EK are found", testSameEK}, // NT-1B
		{"pending registrations expire, oldest first", testExpiry},
	})
}

func testPending(b *rig) {
	sent := registration("a", "tpm-1")
	rev := must[uint64](b)(b.Stage(b.ctx, sent, at(0), ttl))

	_, err := b.Registered(b.ctx, "a")
	b.is(err, store.ErrInactive)
	want := sent
	want.RegCount, want.Rev, want.Staged = 1, rev, at(0)
	b.same(must[store.Registration](b)(b.Pending(b.ctx, "a")), want)

	b.is(b.Activate(b.ctx, "a", rev+1, at(1)), store.ErrConflict)
	b.ok(b.Activate(b.ctx, "a", rev, at(1)))
	want.Activated, want.Challenge = at(1), ""
	b.same(must[store.Registration](b)(b.Registered(b.ctx, "a")), want)
	_, err = b.Pending(b.ctx, "a")
	b.is(err, store.ErrNotFound)
	b.is(b.Activate(b.ctx, "a", rev, at(2)), store.ErrNotFound)
}

func testUnproven(b *rig) {
	b.ok(b.Activate(b.ctx, "a", must[uint64](b)(b.Stage(b.ctx, registration("a", "tpm-1"), at(0), ttl)), at(0)))
	before := must[store.Registration](b)(b.Registered(b.ctx, "a"))

	again := registration("a", "tpm-1")
	again.IP = "198.51.100.7"
	rev := must[uint64](b)(b.Stage(b.ctx, again, at(1), ttl))
	b.same(must[store.Registration](b)(b.Registered(b.ctx, "a")), before)
	b.same(must[store.Registration](b)(b.Pending(b.ctx, "a")).RegCount, 2)

	b.is(b.DropPending(b.ctx, "a", rev+1), store.ErrConflict)
	b.ok(b.DropPending(b.ctx, "a", rev))
	b.same(must[store.Registration](b)(b.Registered(b.ctx, "a")), before)
	b.is(b.DropPending(b.ctx, "a", rev), store.ErrNotFound)
	b.is(b.Activate(b.ctx, "a", rev, at(2)), store.ErrNotFound)
}

func testStaleRevision(b *rig) {
	first := must[uint64](b)(b.Stage(b.ctx, registration("a", "tpm-1"), at(0), ttl))
	second := must[uint64](b)(b.Stage(b.ctx, registration("a", "tpm-1"), at(0), ttl))
	b.is(b.Activate(b.ctx, "a", first, at(1)), store.ErrConflict)
	b.ok(b.Activate(b.ctx, "a", second, at(1)))
}

func testOwner(b *rig) {
	b.ok(b.Activate(b.ctx, "a", must[uint64](b)(b.Stage(b.ctx, registration("a", "tpm-1"), at(0), ttl)), at(0)))
	for i := range 2 {
		_, err := b.Stage(b.ctx, registration("a", "tpm-2"), at(1000*i), ttl)
		b.is(err, store.ErrIdentity)
	}
	b.ok(b.Deregister(b.ctx, "a"))
	must[uint64](b)(b.Stage(b.ctx, registration("a", "tpm-2"), at(2000), ttl))
}

func testPendingOwner(b *rig) {
	must[uint64](b)(b.Stage(b.ctx, registration("a", "tpm-1"), at(0), ttl))
	_, err := b.Stage(b.ctx, registration("a", "tpm-2"), at(59), ttl)
	b.is(err, store.ErrIdentity)
	must[uint64](b)(b.Stage(b.ctx, registration("a", "tpm-2"), at(60), ttl))
	b.same(must[store.Registration](b)(b.Pending(b.ctx, "a")).Identity, registration("a", "tpm-2").Identity)
}

func testAddedIdentity(b *rig) {
	r := registration("a", "tpm-1")
	more := registration("a", "tpm-1")
	more.Identity.IAKTPM = []byte("iak")
	for _, next := range []store.Registration{r, more} {
		b.ok(b.Activate(b.ctx, "a", must[uint64](b)(b.Stage(b.ctx, next, at(0), ttl)), at(0)))
	}
	_, err := b.Stage(b.ctx, r, at(1), ttl)
	b.is(err, store.ErrIdentity)
}

func testRegisteredIDs(b *rig) {
	ids := []string{"B", "Z", "a", "a-b", "a.b", "aB", "b", "z", "ä"}
	for i, id := range ids {
		rev := must[uint64](b)(b.Stage(b.ctx, registration(id, id), at(0), ttl))
		if i%3 > 0 {
			b.ok(b.Activate(b.ctx, id, rev, at(0)))
		}
		if i%3 > 1 {
			must[uint64](b)(b.Stage(b.ctx, registration(id, id), at(0), ttl))
		}
	}
	b.same(must[[]string](b)(b.RegisteredIDs(b.ctx, "", 100)), ids)
	var paged []string
	for last := ""; ; last = paged[len(paged)-1] {
		page := must[[]string](b)(b.RegisteredIDs(b.ctx, last, 2))
		if paged = append(paged, page...); len(page) < 2 {
			break
		}
	}
	b.same(paged, ids)
	b.same(must[[]string](b)(b.RegisteredIDs(b.ctx, "aA", 2)), []string{"aB", "b"})
	b.same(len(must[[]string](b)(b.RegisteredIDs(b.ctx, "", 0))), 0)
}

func testSameEK(b *rig) {
	for _, id := range []string{"c", "a", "b"} {
		rev := must[uint64](b)(b.Stage(b.ctx, registration(id, "shared"), at(0), ttl))
		if id != "b" {
			b.ok(b.Activate(b.ctx, id, rev, at(0)))
		}
	}
	must[uint64](b)(b.Stage(b.ctx, registration("c", "shared"), at(0), ttl)) // both active and pending
	must[uint64](b)(b.Stage(b.ctx, registration("d", "own"), at(0), ttl))
	ek := registration("", "shared").Identity.EKTPM
	b.same(must[[]string](b)(b.SameEK(b.ctx, "b", ek)), []string{"a", "c"})
	b.same(must[[]string](b)(b.SameEK(b.ctx, "x", ek)), []string{"a", "b", "c"})
	b.same(len(must[[]string](b)(b.SameEK(b.ctx, "x", []byte("unknown")))), 0)
	b.same(len(must[[]string](b)(b.SameEK(b.ctx, "x", nil))), 0)
	b.ok(b.Deregister(b.ctx, "c"))
	b.same(must[[]string](b)(b.SameEK(b.ctx, "b", ek)), []string{"a"})
	for i := range store.MaxSameEK + 5 {
		must[uint64](b)(b.Stage(b.ctx, registration(fmt.Sprintf("m%03d", i), "shared"), at(0), ttl))
	}
	b.same(len(must[[]string](b)(b.SameEK(b.ctx, "b", ek))), store.MaxSameEK)
}

// NT-49: what is never activated does not stay.
func testExpiry(b *rig) {
	for i := range 10 {
		id := fmt.Sprintf("a%d", 9-i)
		must[uint64](b)(b.Stage(b.ctx, registration(id, id), at(i), ttl))
	}
	b.same(must[int](b)(b.CountPending(b.ctx)), 10)
	b.same(must[int](b)(b.ExpirePending(b.ctx, at(5), 3)), 3)
	b.same(strings.Join(must[[]string](b)(b.RegisteredIDs(b.ctx, "", 100)), " "), "a0 a1 a2 a3 a4 a5 a6")
	b.same(must[int](b)(b.ExpirePending(b.ctx, at(5), 100)), 2) // the one staged at that time stays
	b.same(must[int](b)(b.ExpirePending(b.ctx, at(5), 100)), 0)
	b.same(must[int](b)(b.CountPending(b.ctx)), 5)

	rev := must[store.Registration](b)(b.Pending(b.ctx, "a0")).Rev
	b.ok(b.Activate(b.ctx, "a0", rev, at(20)))
	must[uint64](b)(b.Stage(b.ctx, registration("a1", "a1"), at(100), ttl)) // renewed
	b.same(must[int](b)(b.CountPending(b.ctx)), 4)
	b.reopen()
	b.same(must[int](b)(b.CountPending(b.ctx)), 4)
	b.same(must[int](b)(b.ExpirePending(b.ctx, at(50), 100)), 3)
	b.same(must[[]string](b)(b.RegisteredIDs(b.ctx, "", 100)), []string{"a0", "a1"})
	must[store.Registration](b)(b.Registered(b.ctx, "a0"))
}
