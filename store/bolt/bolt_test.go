package bolt

import (
	"path/filepath"
	"testing"

	"keylime/store/storetest"
)

// fresh is a new file, and the way to open it.
func fresh(t testing.TB) storetest.Opener {
	path := filepath.Join(t.TempDir(), "keylime.db")
	return func(t testing.TB) storetest.Engine { return mustOpen(t, path) }
}

func mustOpen(t testing.TB, path string) *DB {
	t.Helper()
	db, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func TestContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, fresh)
}
