package bolt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"keylime/store"
)

// TestChurnLeavesNothing: agents and registrations that come and go leave the file and memory as they were. NT-49.
func TestChurnLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "keylime.db")
	db := mustOpen(t, path, Options{commit: func(tx *bbolt.Tx) error {
		tx.DB().NoSync = true // the disk is not what is tested
		return tx.Commit()
	}})
	defer mustClose(t, db)
	churn := func(times int) {
		for i := range times {
			id := fmt.Sprint("agent ", i%7)
			l := enrolWithPolicy(t, db, id)
			r := store.Round{Status: l.Agent.Status, Next: now, Events: []store.Event{{Message: []byte("m"), Target: "other"}}}
			if err := db.Commit(ctx, l, r, now); err != nil {
				t.Fatal(err)
			}
			if err := pass(db, claim(t, db, id)); err != nil {
				t.Fatal(err)
			}
			callIn(t, db, id)
			if _, err := db.ClaimEvents(ctx, "owner", now, 10, time.Hour); err != nil {
				t.Fatal(err)
			}
			if err := db.DeleteAgent(ctx, id); err != nil {
				t.Fatal(err)
			}
			if _, err := db.Stage(ctx, store.Registration{ID: id, Identity: store.Identity{EKTPM: []byte(id)}}, now, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := db.ExpirePending(ctx, now.Add(time.Second), 10); err != nil {
				t.Fatal(err)
			}
		}
	}
	churn(100)
	before := sizeOf(t, path)
	churn(2000)
	if after := sizeOf(t, path); after > before {
		t.Errorf("the file grew from %d to %d bytes", before, after)
	}
	x := db.index
	x.mu.Lock()
	defer x.mu.Unlock()
	if n := len(x.agents) + len(x.ids) + len(x.queues) + len(x.dirty) + len(x.held) + len(db.mail.leases) + len(db.offers.byID); n > 0 {
		t.Errorf("memory holds %d entries of agents that are gone", n)
	}
	err := db.view(ctx, func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
			if n := countKeys(tx, bucket(name)); n > 0 && bucket(name) != metaBucket {
				t.Errorf("%s holds %d rows", name, n)
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// callIn does what an agent that calls in does.
func callIn(t *testing.T, db *DB, id string) {
	t.Helper()
	ctx := context.Background()
	a := store.Attestation{AgentID: id, Items: []store.EvidenceItem{{Data: make([]byte, 10_000)}}}
	r := store.Round{Attestation: &a, Session: now}
	var errs []error
	for n := range 3 {
		index, err := db.BeginAttestation(ctx, a)
		l, err2 := db.Lease(ctx, id, "owner", now, time.Hour)
		a.Index = index
		o := store.Offer{ID: fmt.Sprint("offer ", n), AgentID: id}
		_, err3 := db.PutPayload(ctx, store.Payload{AgentID: id, Data: make([]byte, 10_000)})
		errs = append(errs, err, err2, err3, db.Offer(ctx, o), db.TakeOffer(ctx, o.ID),
			db.OpenSession(ctx, store.Session{ID: fmt.Sprint(id, n), AgentID: id}), db.Commit(ctx, l, r, now))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func enrolWithPolicy(t *testing.T, db *DB, id string) store.Lease {
	t.Helper()
	a := store.Agent{ID: id, Spec: store.AgentSpec{VerifierID: "verifier of " + id, RuntimePolicy: id}, Due: now}
	p := store.Policy{Kind: store.RuntimePolicy, Name: id, Text: []byte(strings.Repeat("x", 10_000))}
	if err := db.AddAgent(context.Background(), a, p); err != nil {
		t.Fatal(err)
	}
	return claim(t, db, id)
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
