package bolt

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// raw opens the file as bbolt does.
func raw(t testing.TB, path string) *bbolt.DB {
	t.Helper()
	file, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}

func updateFile(t testing.TB, file *bbolt.DB, f func(tx *bbolt.Tx) error) {
	t.Helper()
	if err := file.Update(f); err != nil {
		t.Fatal(err)
	}
}

func TestMigrations(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keylime.db")
	mustClose(t, mustOpen(t, path, Options{}))
	file := raw(t, path)

	ran := 0
	older := migrations()
	newer := append(migrations(), migration{run: func(tx *bbolt.Tx) error {
		ran++
		return createBuckets(tx, "from the future")
	}})
	if err := migrate(file, newer, false); !errors.Is(err, ErrSchema) || ran > 0 {
		t.Fatalf("error is %v, want %v: nobody allowed it", err, ErrSchema)
	}
	failing := append(migrations(), migration{run: func(tx *bbolt.Tx) error {
		return errors.Join(createBuckets(tx, "half"), errors.New("out of luck"))
	}})
	if err := migrate(file, failing, true); err == nil {
		t.Fatal("a failing migration succeeds")
	}
	for range 2 { // what failed left nothing behind; what is done is not done again
		if err := migrate(file, newer, true); err != nil {
			t.Fatal(err)
		}
	}
	if schema, err := schemaOf(file); err != nil || schema != len(newer) || ran != 1 {
		t.Fatalf("schema %d (%v) after %d runs, want %d after 1", schema, err, ran, len(newer))
	}
	err := migrate(file, older, true)
	if !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), "newer release") {
		t.Fatalf("error is %v, want that of a newer release", err)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keylime.db")
	mustClose(t, mustOpen(t, path, Options{}))
	file := raw(t, path)
	updateFile(t, file, func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(metaBucket)).Put(schemaKey, []byte{0, 0, 0, 99})
	})
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{Migrate: true}); !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), "99") {
		t.Errorf("error is %v, want one of schema 99", err)
	}
}

func TestFileOfAnotherProgramIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "other.db")
	file := raw(t, path)
	updateFile(t, file, func(tx *bbolt.Tx) error { return createBuckets(tx, "theirs") })
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), "theirs") {
		t.Errorf("error is %v", err)
	}
}
