package bolt

import (
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"keylime/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fresh is a new file, and the way to open it.
func fresh(t testing.TB) storetest.Opener {
	path := filepath.Join(t.TempDir(), "keylime.db")
	return func(t testing.TB) storetest.Engine { return mustOpen(t, path, Options{}) }
}

func mustOpen(t testing.TB, path string, opts Options) *DB {
	t.Helper()
	db, err := Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func TestContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, fresh)
}

func TestFaults(t *testing.T) { // NT-95
	t.Parallel()
	storetest.Faults(t, func(t testing.TB) (storetest.Opener, func(storetest.Fault)) {
		f := &faults{}
		path := filepath.Join(t.TempDir(), "keylime.db")
		return func(t testing.TB) storetest.Engine { return mustOpen(t, path, Options{commit: f.commit}) }, f.arm
	})
}

// faults lets commits go wrong.
type faults struct {
	mu    sync.Mutex
	next  storetest.Fault
	armed bool
}

func (f *faults) arm(next storetest.Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next, f.armed = next, true
}

func (f *faults) commit(tx *bbolt.Tx) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	armed := f.armed
	f.armed = false
	switch {
	case !armed:
		return tx.Commit()
	case f.next == storetest.Unconfirmed:
		if err := tx.Commit(); err != nil {
			return err
		}
	}
	return errors.New("input/output error")
}

// TestCrash kills the process under load: nothing that it acknowledged is lost, and no deleted agent comes back.
func TestCrash(t *testing.T) {
	storetest.Crash(t, filepath.Join(t.TempDir(), "keylime.db"), func(t testing.TB, path string) storetest.Engine {
		return mustOpen(t, path, Options{})
	})
}

func mustClose(t testing.TB, db *DB) {
	t.Helper()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
