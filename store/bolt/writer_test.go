package bolt

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"keylime/store"
)

var now = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)

// enrol adds an agent that is due, and claims it.
func enrol(t testing.TB, db *DB, id string) store.Lease {
	t.Helper()
	a := store.Agent{ID: id, Spec: store.AgentSpec{VerifierID: "verifier of " + id}, Due: now}
	if err := db.AddAgent(context.Background(), a); err != nil {
		t.Fatal(err)
	}
	return claim(t, db, id)
}

func claim(t testing.TB, db *DB, id string) store.Lease {
	t.Helper()
	leases, err := db.Claim(context.Background(), "verifier of "+id, "owner", now, 1, time.Hour)
	if err != nil || len(leases) != 1 {
		t.Fatalf("%d leases, %v", len(leases), err)
	}
	return leases[0]
}

func pass(db *DB, l store.Lease) error {
	r := store.Round{Status: l.Agent.Status, State: l.Agent.State, Next: now}
	r.Status.AttestationCount++
	return db.Commit(context.Background(), l, r, now)
}

// inFileCount is the number of rounds that the agent has had according to the file.
func inFileCount(t testing.TB, db *DB, id string) int {
	t.Helper()
	var r *round
	err := db.file.View(func(tx *bbolt.Tx) (err error) {
		r, err = decodeRound(get(tx, roundBucket, []byte(id)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.status.AttestationCount
}

func TestConcurrentChangesShareATransaction(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keylime.db")
	synctest.Test(t, func(t *testing.T) {
		var commits atomic.Int32
		release := make(chan struct{})
		db := mustOpen(t, path, Options{commit: func(tx *bbolt.Tx) error {
			commits.Add(1)
			<-release
			return tx.Commit()
		}})
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				if err := db.AddAgent(context.Background(), store.Agent{ID: fmt.Sprint(i)}); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait() // the first is at its commit, the others wait for the writer
		}
		close(release)
		all.Wait()
		if n := commits.Load(); n != 2 {
			t.Errorf("100 changes, of which 99 waited for one, took %d transactions, want 2", n)
		}
		mustClose(t, db)
	})
}

func TestPassingRoundIsDurableWithinASecond(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keylime.db")
	synctest.Test(t, func(t *testing.T) {
		db := mustOpen(t, path, Options{})
		if err := pass(db, enrol(t, db, "a")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := inFileCount(t, db, "a"); n != 0 {
			t.Errorf("the file has %d rounds at once; nothing was saved", n)
		}
		time.Sleep(time.Second)
		if n := inFileCount(t, db, "a"); n != 1 {
			t.Errorf("the file has %d rounds after a second, want 1", n)
		}
		if err := pass(db, claim(t, db, "a")); err != nil {
			t.Fatal(err)
		}
		mustClose(t, db)
		db = mustOpen(t, path, Options{})
		if n := inFileCount(t, db, "a"); n != 2 {
			t.Errorf("the file has %d rounds after Close, want 2", n)
		}
		mustClose(t, db)
	})
}

func TestRoundThatEndsDuringAFlushIsFlushedNext(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keylime.db")
	synctest.Test(t, func(t *testing.T) {
		var hold atomic.Bool
		release := make(chan struct{})
		db := mustOpen(t, path, Options{commit: func(tx *bbolt.Tx) error {
			if hold.Load() {
				<-release
			}
			return tx.Commit()
		}})
		l := enrol(t, db, "a")
		hold.Store(true)
		if err := pass(db, l); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // the flush is at its commit
		if err := pass(db, claim(t, db, "a")); err != nil {
			t.Fatal(err)
		}
		close(release)
		synctest.Wait()
		if n := inFileCount(t, db, "a"); n != 1 {
			t.Errorf("the file has %d rounds, want the one that was flushed", n)
		}
		time.Sleep(time.Second)
		if n := inFileCount(t, db, "a"); n != 2 {
			t.Errorf("the file has %d rounds, want 2", n)
		}
		mustClose(t, db)
	})
}

// A disk that does not take what was acknowledged must not be trusted with more: rounds are then refused, not lost.
func TestRoundsWaitForADiskThatFailed(t *testing.T) { // NT-95
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keylime.db")
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		errDisk := errors.New("input/output error")
		db := mustOpen(t, path, Options{commit: func(tx *bbolt.Tx) error {
			if broken.Load() {
				return errDisk
			}
			return tx.Commit()
		}})
		l := enrol(t, db, "a")
		broken.Store(true)
		if err := pass(db, l); err != nil {
			t.Fatal("nobody knows yet: ", err)
		}
		time.Sleep(2 * time.Second)
		l = claim(t, db, "a")
		if err := pass(db, l); !errors.Is(err, errDisk) {
			t.Fatalf("error is %v, want %v", err, errDisk)
		}
		a, err := db.Agent(context.Background(), "a")
		if err != nil || a.Status.AttestationCount != 1 {
			t.Fatalf("%d rounds (%v), want the one that was acknowledged", a.Status.AttestationCount, err)
		}
		broken.Store(false)
		if err := pass(db, l); err != nil {
			t.Fatal("the lease should have survived: ", err)
		}
		if n := inFileCount(t, db, "a"); n != 2 {
			t.Errorf("the file has %d rounds, want 2", n)
		}
		if err := pass(db, claim(t, db, "a")); err != nil {
			t.Fatal(err)
		}
		broken.Store(true)
		if err := db.Close(); !errors.Is(err, errDisk) {
			t.Errorf("Close says %v, want %v", err, errDisk)
		}
	})
}

func TestCancelledWhileWaitingForTheWriter(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keylime.db")
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		db := mustOpen(t, path, Options{commit: func(tx *bbolt.Tx) error {
			<-release
			return tx.Commit()
		}})
		ctx, cancel := context.WithCancel(context.Background())
		results := map[string]error{}
		var mu sync.Mutex
		var all sync.WaitGroup
		for _, id := range []string{"at its commit", "waiting"} {
			all.Go(func() {
				err := db.AddAgent(ctx, store.Agent{ID: id})
				mu.Lock()
				defer mu.Unlock()
				results[id] = err
			})
			synctest.Wait()
		}
		cancel()
		synctest.Wait()
		close(release)
		all.Wait()
		if err := results["at its commit"]; err != nil {
			t.Errorf("what had begun says %v, but it happened", err)
		}
		if err := results["waiting"]; !errors.Is(err, context.Canceled) {
			t.Errorf("what had not begun says %v, want %v", err, context.Canceled)
		}
		agents, err := db.Agents(context.Background(), store.Filter{}, "", 10)
		if err != nil || len(agents) != 1 || agents[0].ID != "at its commit" {
			t.Errorf("agents are %v (%v)", agents, err)
		}
		mustClose(t, db)
	})
}

// A change that panics must not take the others' process with it.
func TestPanicFailsTheTransaction(t *testing.T) {
	t.Parallel()
	db := mustOpen(t, filepath.Join(t.TempDir(), "keylime.db"), Options{})
	defer mustClose(t, db)
	err := db.write(context.Background(), func(b *batch) error {
		b.put(specBucket, []byte("a"), nil)
		panic("page 7: assertion failed")
	})
	if err == nil {
		t.Fatal("no error")
	}
	enrol(t, db, "a")
}

func TestLeaseDoesNotOutliveTheProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keylime.db")
	db := mustOpen(t, path, Options{})
	old := enrol(t, db, "a")
	mustClose(t, db)
	db = mustOpen(t, path, Options{})
	defer mustClose(t, db)
	anew := claim(t, db, "a")
	if err := pass(db, old); !errors.Is(err, store.ErrLeaseLost) {
		t.Errorf("error is %v, want %v", err, store.ErrLeaseLost)
	}
	if err := pass(db, anew); err != nil {
		t.Error(err)
	}
}
