package bolt

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"

	"keylime/store"
)

// limitFiles makes every write of this process beyond that offset of a file fail, or be cut short, as on a full disk.
func limitFiles(t *testing.T, bytes uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = min(bytes, limit.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
}

const unlimited = ^uint64(0)

// inOwnProcess runs the test that calls it in a process of its own, which may limit itself. It returns false in the
// process that started that one: there is nothing left to do.
func inOwnProcess(t *testing.T) bool {
	const env = "KEYLIME_BOLT_TEST"
	if os.Getenv(env) == t.Name() {
		signal.Ignore(syscall.SIGXFSZ)
		return true
	}
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), env+"="+t.Name())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// TestDiskThatFails lets the disk fail at every half page of the file: nothing can be written at all, a page is written
// in part, the file cannot grow. Each change happens or does not, memory and file agree on which, the file stays sound,
// and once the disk is well again so is the store. NT-95.
func TestDiskThatFails(t *testing.T) {
	if !inOwnProcess(t) {
		return
	}
	path := filepath.Join(t.TempDir(), "keylime.db")
	mustClose(t, mustOpen(t, path, Options{}))
	halfPage := os.Getpagesize() / 2
	happened, failed := 0, 0
	for n := range 40 {
		for range 2 { // bbolt writes its two headers in turn
			if failAt(t, path, uint64(n*halfPage)) {
				happened++
			} else {
				failed++
			}
		}
	}
	if happened == 0 || failed == 0 {
		t.Errorf("%d changes happened and %d did not: the disk was never well, or never failed", happened, failed)
	}
}

// failAt changes the store in the file while the disk fails beyond the offset, and reports whether that happened.
func failAt(t *testing.T, path string, offset uint64) (happened bool) {
	t.Helper()
	db := mustOpen(t, path, Options{})
	before := holds(t, db)
	limitFiles(t, offset)
	err := toggle(db, before)
	after := holds(t, db)
	_ = toggle(db, after)
	limitFiles(t, unlimited)

	if happened = after != before; happened != (err == nil) {
		t.Fatalf("disk fails at %d: the change happened: %v, but the error is %v", offset, happened, err)
	}
	isSound(t, db)
	last := holds(t, db)
	mustClose(t, db)
	db = mustOpen(t, path, Options{})
	if got := holds(t, db); got != last {
		t.Fatalf("disk fails at %d: the file says %v, memory said %v", offset, got, last)
	}
	if err := toggle(db, last); err != nil || holds(t, db) == last {
		t.Fatalf("disk was well again, but: %v", err)
	}
	mustClose(t, db)
	return happened
}

// A transaction that the disk would not confirm is visible, for the file holds it; but nothing may be written on top
// of it before it is confirmed.
func TestUnconfirmedTransactionIsConfirmedFirst(t *testing.T) {
	if !inOwnProcess(t) {
		return
	}
	path := filepath.Join(t.TempDir(), "keylime.db")
	breaks := true
	commits := 0
	db := mustOpen(t, path, Options{commit: func(tx *bbolt.Tx) error {
		commits++
		err := tx.Commit()
		if breaks {
			limitFiles(t, 0)
			err = errors.Join(err, errors.New("input/output error"))
		}
		return err
	}})
	if err := toggle(db, false); err == nil || !holds(t, db) {
		t.Fatalf("error is %v, the agent is there: %v; want an error and the agent", err, holds(t, db))
	}
	if err := toggle(db, true); err == nil || commits != 1 || !holds(t, db) {
		t.Fatalf("error is %v after %d commits; want an error, and no second commit", err, commits)
	}
	limitFiles(t, unlimited)
	breaks = false
	if err := toggle(db, true); err != nil || holds(t, db) {
		t.Fatal(err)
	}
	isSound(t, db)
	mustClose(t, db)
}

// toggle adds an agent or deletes it.
func toggle(db *DB, exists bool) error {
	if exists {
		return db.DeleteAgent(context.Background(), "a")
	}
	// Large enough to make the file grow now and then.
	a := store.Agent{ID: "a", Spec: store.AgentSpec{Metadata: strings.Repeat("m", 20_000)}}
	return db.AddAgent(context.Background(), a)
}

func holds(t *testing.T, db *DB) bool {
	t.Helper()
	_, err := db.Agent(context.Background(), "a")
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

// isSound has bbolt check every page.
func isSound(t *testing.T, db *DB) {
	t.Helper()
	err := db.file.View(func(tx *bbolt.Tx) error {
		var all []error
		for err := range tx.Check() {
			all = append(all, err)
		}
		return errors.Join(all...)
	})
	if err != nil {
		t.Fatal(err)
	}
}
