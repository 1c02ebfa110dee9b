package bolt

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"keylime/store"
)

// Offers that nobody takes go as others come, without anybody who looks after them.
func TestExpiredOffersAreSwept(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	db := fresh(t)(t).(*DB)
	defer mustClose(t, db)
	const lifetime = 60 * time.Second
	offer := func(second int) {
		t.Helper()
		created := now.Add(time.Duration(second) * time.Second)
		o := store.Offer{ID: fmt.Sprint(second), AgentID: "a", Created: created, Expires: created.Add(lifetime)}
		if err := db.Offer(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	for second := range 1000 {
		offer(second)
	}
	if n := len(db.offers.byID); n != 61 { // a minute's worth, and the one that expires now
		t.Errorf("%d offers are kept, want 61", n)
	}
	if n := db.offers.oldest.Len(); n != len(db.offers.byID) {
		t.Errorf("%d offers in line, %d by id", n, len(db.offers.byID))
	}
	if _, err := db.Offered(ctx, "939"); err != nil {
		t.Error(err)
	}
}

// BenchmarkOffer offers and takes, beside as many offers as there may be, and reports what one of them takes in memory.
func BenchmarkOffer(b *testing.B) {
	ctx := context.Background()
	db := fresh(b)(b).(*DB)
	defer mustClose(b, db)
	offer := func(n int) string {
		o := store.Offer{ID: fmt.Sprintf("6c3cbd5b-1d42-4d0e-9d4c-%012d", n), AgentID: fmt.Sprintf("d432fbb3-d2f1-4a97-9ef7-%012d", n),
			Nonce: make([]byte, 32), Created: now, Expires: now.Add(time.Minute)}
		if err := db.Offer(ctx, o); err != nil {
			b.Fatal(err)
		}
		return o.ID
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for n := range store.MaxOffers {
		offer(n)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	n := store.MaxOffers
	for b.Loop() {
		n++
		if err := db.TakeOffer(ctx, offer(n)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/store.MaxOffers, "memory-B/offer")
}
