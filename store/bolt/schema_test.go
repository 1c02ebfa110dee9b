package bolt

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
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
	after := append(slices.Clone(newer), migration{run: func(*bbolt.Tx) error { return nil }, additive: true})
	if err := migrate(file, after, false); !errors.Is(err, ErrSchema) || ran > 0 {
		t.Fatalf("error is %v, want %v: one of the steps needs to be allowed", err, ErrSchema)
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

// TestOlderSchema opens a file that the release before wrote: what was added since is made without asking, and what the
// file holds is served as before.
func TestOlderSchema(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keylime.db")
	unpack(t, filepath.Join("testdata", "schema1.db.gz"), path)
	var log bytes.Buffer
	for range 2 { // and once more as a file of this release
		db := mustOpen(t, path, Options{Log: zerolog.New(&log)})
		for _, id := range []string{odd, "good"} {
			if err := callOnce(db, id); err != nil {
				t.Errorf("%s cannot call in: %v", id, err)
			}
		}
		checkOthers(t, db)
		mustClose(t, db)
	}
	if log.Len() > 0 {
		t.Errorf("reported: %s", &log)
	}
	db := mustOpen(t, path, Options{})
	defer mustClose(t, db)
	ctx := context.Background()
	notices, err := db.Notices(ctx, "", 0, 10) // the events in that file are of no channel
	if err != nil || len(notices) != 2 {
		t.Fatalf("%d events by channel (%v), want the 2 that the file held", len(notices), err)
	}
	for _, e := range notices {
		if err := db.FinishEvent(ctx, e.ID); err != nil {
			t.Error(err)
		}
	}
	if notices, err := db.Notices(ctx, "", 0, 10); err != nil || len(notices) > 0 {
		t.Errorf("%d events by channel after they are finished (%v)", len(notices), err)
	}
}

func unpack(t *testing.T, from, to string) {
	t.Helper()
	packed, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	z, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
