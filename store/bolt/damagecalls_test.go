package bolt

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"keylime/store"
)

// furnishCalls adds what agents that call in have, two attestations each, of which the second is to become odd.
func furnishCalls(t *testing.T, path string) {
	t.Helper()
	db := mustOpen(t, path, Options{})
	defer mustClose(t, db)
	for _, id := range []string{odd, "good"} {
		if err := errors.Join(callOnce(db, id), callOnce(db, id)); err != nil {
			t.Fatal(err)
		}
	}
}

// callOnce opens a session, leaves a payload, and passes a round.
func callOnce(db *DB, id string) error {
	ctx := context.Background()
	_, err := db.PutPayload(ctx, store.Payload{AgentID: id, Data: []byte("data")})
	err = errors.Join(err, db.OpenSession(ctx, store.Session{ID: "session of " + id, AgentID: id, TokenHash: []byte{1}, Expires: now}))
	a := store.Attestation{AgentID: id, Stage: store.VerificationComplete}
	index, err2 := db.BeginAttestation(ctx, a)
	l, err3 := db.Lease(ctx, id, "owner", now, time.Minute)
	if err := errors.Join(err, err2, err3); err != nil {
		return err
	}
	a.Index = index
	return db.Commit(ctx, l, store.Round{Status: l.Agent.Status, Next: now, Attestation: &a, Session: now.AddDate(1, 0, 0)}, now)
}

// checkOddCalls checks what the odd row means for the verbs of agents that call in, and returns what mending it came to.
func checkOddCalls(t *testing.T, db *DB, in bucket, isLogged func(string)) error {
	t.Helper()
	ctx := context.Background()
	isDamaged := func(verb string, err error) {
		t.Helper()
		if !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%s: error is %v, want %v", verb, err, store.ErrDamaged)
		}
	}
	has := func(id string, want int) {
		t.Helper()
		if all, err := db.Attestations(ctx, id, math.MaxUint64, 10); err != nil || len(all) != want {
			t.Errorf("%d attestations of %s (%v), want %d", len(all), id, err, want)
		}
	}
	has("good", 2)
	p, err := db.Payload(ctx, "good")
	s, err2 := db.Session(ctx, "session of good")
	if err := errors.Join(err, err2); err != nil || string(p.Data) != "data" || s.AgentID != "good" {
		t.Errorf("of the good one: %+v, %+v (%v)", p, s, err)
	}
	left := 2
	switch in {
	case sessionBucket:
		_, err := db.Session(ctx, "session of "+odd)
		isDamaged("Session", err)
	case payloadBucket:
		_, err := db.PayloadRev(ctx, odd)
		isDamaged("PayloadRev", err)
		_, err = db.Payload(ctx, odd)
		isDamaged("Payload", err)
	case payloadDataBucket:
		_, err := db.Payload(ctx, odd)
		isDamaged("Payload", err)
	case attestationBucket:
		_, err := db.LatestAttestation(ctx, odd)
		isDamaged("LatestAttestation", err)
		left = 1
		has(odd, left)
		isLogged("Attestation left out")
	case historyBucket:
		_, err := db.LatestAttestation(ctx, odd)
		if err != nil {
			t.Errorf("attestation whose row of the history is odd: %v", err)
		}
	}
	err = callOnce(db, odd) // calling in again mends it, or goes on beside it
	has(odd, left+1)
	if last, err := db.LatestAttestation(ctx, odd); err != nil || last.Index != 2 {
		t.Errorf("index %d after a damaged one (%v), want 2", last.Index, err)
	}
	if s, err := db.Session(ctx, "session of "+odd); err != nil || !s.Expires.Equal(now.AddDate(1, 0, 0)) {
		t.Errorf("session until %v (%v)", s.Expires, err)
	}
	return err
}
