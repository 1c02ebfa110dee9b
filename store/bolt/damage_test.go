package bolt

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.etcd.io/bbolt"

	"keylime/store"
)

// odd rows, by what is done to a good one.
func oddities() map[string]func(record []byte) []byte {
	return map[string]func([]byte) []byte{
		"flipped bit":          func(r []byte) []byte { r[len(r)/2] ^= 1; return r },
		"flipped checksum":     func(r []byte) []byte { r[2] ^= 1; return r },
		"newer version":        func(r []byte) []byte { r[0]++; return r },
		"truncated":            func(r []byte) []byte { return r[:len(r)/2] },
		"one byte":             func(r []byte) []byte { return r[:1] },
		"empty":                func(r []byte) []byte { return nil },
		"text":                 func([]byte) []byte { return []byte("b'\\x00\\x01'") },
		"huge text":            func([]byte) []byte { return bytes.Repeat([]byte("odd "), 1<<20) },
		"other JSON":           func([]byte) []byte { return seal([]byte(`{"Unknown":1}`)) },
		"no JSON":              func([]byte) []byte { return seal([]byte(`{`)) },
		"trailing data":        func(r []byte) []byte { return seal(append(slices.Clone(r[recordHead:]), '1')) },
		"length beyond record": func([]byte) []byte { return seal([]byte{0xff, 0xff, 1, '{', '}'}) },
	}
}

// TestOddRowsAreIsolated: NT-14. A row that cannot be read is reported and left out; the others are served; deleting
// it mends it.
func TestOddRowsAreIsolated(t *testing.T) {
	t.Parallel()
	for name, spoil := range oddities() {
		for _, in := range []bucket{specBucket, roundBucket, activeBucket, pendingBucket, policyBucket, eventBucket, sessionBucket,
			attestationBucket, historyBucket, payloadBucket, payloadDataBucket} {
			t.Run(string(in)+"/"+name, func(t *testing.T) {
				t.Parallel()
				path := filepath.Join(t.TempDir(), "keylime.db")
				furnish(t, path)
				furnishCalls(t, path)
				spoilOne(t, path, in, spoil)
				var log bytes.Buffer
				db := mustOpen(t, path, Options{Log: zerolog.New(&log)})
				defer mustClose(t, db)
				checkOthers(t, db)
				checkOdd(t, db, in, &log)
			})
		}
	}
}

const odd = "odd one"

// furnish makes a store with two of everything; the first of each is to become odd.
func furnish(t *testing.T, path string) {
	t.Helper()
	ctx := context.Background()
	db := mustOpen(t, path, Options{})
	defer mustClose(t, db)
	for _, id := range []string{odd, "good"} {
		p := store.Policy{Kind: store.RuntimePolicy, Name: id, Text: []byte("{}")}
		a := store.Agent{ID: id, Due: now, Spec: store.AgentSpec{VerifierID: "verifier of " + id, RuntimePolicy: id}}
		if err := db.AddAgent(ctx, a, p); err != nil {
			t.Fatal(err)
		}
		l := claim(t, db, id)
		r := store.Round{Status: l.Agent.Status, Next: now, Events: []store.Event{{Message: []byte(id)}}}
		if err := db.Commit(ctx, l, r, now); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			reg := store.Registration{ID: id, Identity: store.Identity{EKTPM: []byte("ek")}}
			rev, err := db.Stage(ctx, reg, now, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if reg, err := db.Pending(ctx, id); err == nil && reg.RegCount == 1 {
				if err := db.Activate(ctx, id, rev, now); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

func spoilOne(t *testing.T, path string, in bucket, spoil func([]byte) []byte) {
	t.Helper()
	file := raw(t, path)
	updateFile(t, file, func(tx *bbolt.Tx) error {
		key := []byte(odd)
		switch in {
		case policyBucket:
			key = policyKey(store.RuntimePolicy, odd)
		case eventBucket:
			key = numberKey(1)
		case sessionBucket:
			key = []byte("session of " + odd)
		case attestationBucket, historyBucket:
			key = attestationKey(odd, 1)
		}
		record := slices.Clone(get(tx, in, key))
		if record == nil {
			t.Fatalf("%s holds no %q", in, key)
		}
		return tx.Bucket([]byte(in)).Put(key, spoil(record))
	})
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

func checkOthers(t *testing.T, db *DB) {
	t.Helper()
	ctx := context.Background()
	a, err := db.Agent(ctx, "good")
	_, err2 := db.Registered(ctx, "good")
	_, err3 := db.Pending(ctx, "good")
	_, err4 := db.Policy(ctx, store.RuntimePolicy, "good")
	if err := errors.Join(err, err2, err3, err4); err != nil || a.ID != "good" {
		t.Error(err)
	}
	events, err := db.ClaimEvents(ctx, "owner", now, 10, -time.Hour)
	if err != nil || !slices.ContainsFunc(events, func(e store.Event) bool { return string(e.Message) == "good" }) {
		t.Errorf("events are %v (%v)", events, err)
	}
	claim(t, db, "good")
}

// checkOdd checks what the odd row means for its verbs, and that it can be mended.
func checkOdd(t *testing.T, db *DB, in bucket, log *bytes.Buffer) {
	t.Helper()
	ctx := context.Background()
	isDamaged := func(verb string, err error) {
		t.Helper()
		if !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%s: error is %v, want %v", verb, err, store.ErrDamaged)
		}
	}
	isLogged := func(what string) {
		t.Helper()
		if !strings.Contains(log.String(), what) {
			t.Errorf("%q is not in the log: %s", what, log)
		}
	}
	var mend []error
	switch in {
	case specBucket, roundBucket:
		isLogged(odd)
		_, err := db.Agent(ctx, odd)
		isDamaged("Agent", err)
		isDamaged("StopAgent", db.StopAgent(ctx, odd))
		isDamaged("ReactivateAgent", db.ReactivateAgent(ctx, odd, now))
		a := store.Agent{ID: odd, Due: now, Spec: store.AgentSpec{VerifierID: "verifier of " + odd}}
		if err := db.AddAgent(ctx, a); !errors.Is(err, store.ErrExists) {
			t.Errorf("AddAgent: error is %v, want %v", err, store.ErrExists)
		}
		if leases, err := db.Claim(ctx, a.Spec.VerifierID, "owner", now, 10, time.Hour); err != nil || len(leases) > 0 {
			t.Errorf("%d leases of a damaged agent (%v)", len(leases), err)
		}
		mend = append(mend, db.DeleteAgent(ctx, odd), db.AddAgent(ctx, a), db.StopAgent(ctx, odd))
	case activeBucket:
		_, err := db.Registered(ctx, odd)
		isDamaged("Registered", err)
		_, err = db.Stage(ctx, store.Registration{ID: odd}, now, 0)
		isDamaged("Stage", err)
		mend = append(mend, db.Deregister(ctx, odd))
	case pendingBucket:
		_, err := db.Pending(ctx, odd)
		isDamaged("Pending", err)
		isDamaged("Activate", db.Activate(ctx, odd, 1, now))
		_, err = db.Stage(ctx, store.Registration{ID: odd, Identity: store.Identity{EKTPM: []byte("ek")}}, now, 0)
		mend = append(mend, err)
	case policyBucket:
		_, err := db.Policy(ctx, store.RuntimePolicy, odd)
		isDamaged("Policy", err)
		_, err = db.PolicyHead(ctx, store.RuntimePolicy, odd)
		isDamaged("PolicyHead", err)
		mend = append(mend, db.UpdatePolicy(ctx, store.Policy{Kind: store.RuntimePolicy, Name: odd}))
	case eventBucket:
		isLogged("Revocation event")
		isDamaged("RetryEvent", db.RetryEvent(ctx, 1, 1, now))
		mend = append(mend, db.FinishEvent(ctx, 1))
	default:
		mend = append(mend, checkOddCalls(t, db, in, isLogged))
	}
	if err := errors.Join(mend...); err != nil {
		t.Errorf("mending: %v", err)
	}
	checkNoRowsLeft(t, db, in)
}

// checkNoRowsLeft checks that the indexes of what was mended lead nowhere else.
func checkNoRowsLeft(t *testing.T, db *DB, in bucket) {
	t.Helper()
	ctx := context.Background()
	want := map[bucket]int{
		usesBucket: 2, eventDueBucket: 2, eventAgentBucket: 2, eventChannelBucket: 2, ekBucket: 4, stagedBucket: 2, // as furnished
	}
	switch in {
	case specBucket, roundBucket:
		want[usesBucket], want[eventDueBucket], want[eventAgentBucket], want[eventChannelBucket] = 1, 1, 1, 1
	case activeBucket:
		want[ekBucket], want[stagedBucket] = 2, 1
	case eventBucket:
		want[eventDueBucket], want[eventAgentBucket], want[eventChannelBucket] = 1, 1, 1
	}
	err := db.view(ctx, func(tx *bbolt.Tx) error {
		for b, n := range want {
			if got := countKeys(tx, b); got != n {
				t.Errorf("%s has %d rows, want %d", b, got, n)
			}
		}
		return nil
	})
	n, err2 := db.CountPending(ctx)
	if err := errors.Join(err, err2); err != nil || n != want[stagedBucket] {
		t.Errorf("%d pending registrations (%v), want %d", n, err, want[stagedBucket])
	}
}

func TestPolicyTextIsChecked(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keylime.db")
	furnish(t, path)
	file := raw(t, path)
	updateFile(t, file, func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(textBucket)).Put(policyKey(store.RuntimePolicy, odd), []byte("{ }"))
	})
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	db := mustOpen(t, path, Options{})
	defer mustClose(t, db)
	if _, err := db.Policy(context.Background(), store.RuntimePolicy, odd); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("error is %v, want %v", err, store.ErrDamaged)
	}
}

func TestMissingRowsAreIsolated(t *testing.T) { // NT-14
	t.Parallel()
	for _, in := range []bucket{specBucket, roundBucket} {
		path := filepath.Join(t.TempDir(), "keylime.db")
		furnish(t, path)
		file := raw(t, path)
		updateFile(t, file, func(tx *bbolt.Tx) error { return tx.Bucket([]byte(in)).Delete([]byte(odd)) })
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		db := mustOpen(t, path, Options{Log: zerolog.New(&log)})
		checkOthers(t, db)
		checkOdd(t, db, in, &log)
		mustClose(t, db)
	}
}

// A file that was cut off is refused, also where only the text of a policy is missing that nobody asks for yet.
func TestTruncatedFileIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keylime.db")
	furnish(t, path)
	db := mustOpen(t, path, Options{})
	large := store.Policy{Kind: store.RuntimePolicy, Name: "large", Text: make([]byte, 100*os.Getpagesize())}
	err := db.AddPolicy(context.Background(), large)
	for range 5 { // whatever else the file needs finds room before the policy
		err = errors.Join(err, db.StopAgent(context.Background(), "good"))
	}
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	err = db.file.View(func(tx *bbolt.Tx) error { size = tx.Size(); return nil })
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, db)
	if err := os.Truncate(path, size-10*int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("error is %v, want one of a file that was cut off", err)
	}
}

// TestDamagedFileIsAnError: whatever a file holds, Open returns an error or a store, and the process lives.
func TestDamagedFileIsAnError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "keylime.db")
	furnish(t, path)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	zeroed := slices.Clone(good)
	clear(zeroed[2*page:])
	files := map[string][]byte{
		"text":              []byte(strings.Repeat("not a store\n", 2000)),
		"short":             []byte("x"),
		"headers only":      good[:2*page],
		"truncated":         good[:4*page],
		"pages overwritten": zeroed,
		"headers destroyed": append(bytes.Repeat([]byte{0xff}, 2*page), good[2*page:]...),
	}
	for name, content := range files {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			db, err := Open(path, Options{})
			if err == nil {
				mustClose(t, db)
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "backup") {
				t.Errorf("%q does not say which file, or what to do", err)
			}
		})
	}
}
