package bolt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"keylime/store"
)

// standing tells an active registration from a pending one, in the index by EK.
type standing byte

const (
	active  standing = 'a'
	pending standing = 'p'
)

func ekKey(ekTPM []byte, s standing, id string) []byte {
	return append(ekPrefix(ekTPM, s), id...)
}

func ekPrefix(ekTPM []byte, s standing) []byte {
	digest := sha256.Sum256(ekTPM)
	return append(digest[:], byte(s))
}

func stagedKey(staged time.Time, id string) []byte { return append(timeKey(staged), id...) }

func (db *DB) Stage(ctx context.Context, r store.Registration, now time.Time, pendingTTL time.Duration) (rev uint64, err error) {
	if err := r.Check(); err != nil {
		return 0, err
	}
	r.Staged, r.Activated, r.RegCount = store.Time(now), time.Time{}, 1
	err = db.write(ctx, func(b *batch) error {
		switch current, err := registrationOf(b.tx, activeBucket, r.ID); {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return fmt.Errorf("registration of %q: %w", r.ID, err)
		case current.Identity.Conflicts(r.Identity):
			return fmt.Errorf("agent id %q: %w", r.ID, store.ErrIdentity)
		default:
			r.RegCount = current.RegCount + 1
		}
		before, err := registrationOf(b.tx, pendingBucket, r.ID)
		if err == nil && now.Before(before.Staged.Add(pendingTTL)) && before.Identity.Conflicts(r.Identity) {
			return fmt.Errorf("agent id %q, not yet activated: %w", r.ID, store.ErrIdentity)
		}
		b.dropPending(r.ID)
		r.Rev = b.next(pendingBucket)
		rev = r.Rev
		b.put(pendingBucket, []byte(r.ID), encodeRecord(r))
		b.put(stagedBucket, stagedKey(r.Staged, r.ID), nil)
		b.indexEK(r, pending)
		b.applied = append(b.applied, func() { db.pending.Add(1) })
		return nil
	})
	return rev, err
}

// registrationOf returns ErrNotFound or ErrDamaged.
func registrationOf(tx *bbolt.Tx, in bucket, id string) (store.Registration, error) {
	record := get(tx, in, []byte(id))
	if record == nil {
		return store.Registration{}, store.ErrNotFound
	}
	var r store.Registration
	err := decodeRecord(record, &r)
	return r, err
}

func (b *batch) indexEK(r store.Registration, s standing) {
	if len(r.Identity.EKTPM) > 0 {
		b.put(ekBucket, ekKey(r.Identity.EKTPM, s, r.ID), nil)
	}
}

// dropPending removes the id's pending registration, if any, and what leads to it.
func (b *batch) dropPending(id string) {
	if !b.has(pendingBucket, []byte(id)) {
		return
	}
	if r, err := registrationOf(b.tx, pendingBucket, id); err == nil {
		b.delete(stagedBucket, stagedKey(r.Staged, id))
	} else {
		b.deleteSuffix(stagedBucket, func([]byte) int { return 8 }, []byte(id))
	}
	b.drop(pendingBucket, pending, id)
	b.applied = append(b.applied, func() { b.db.pending.Add(-1) })
}

// drop removes one registration of the id, if any, and its row in the index by EK.
func (b *batch) drop(in bucket, s standing, id string) {
	r, err := registrationOf(b.tx, in, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return
	case err != nil:
		b.deleteSuffix(ekBucket, func([]byte) int { return sha256.Size }, append([]byte{byte(s)}, id...))
	case len(r.Identity.EKTPM) > 0:
		b.delete(ekBucket, ekKey(r.Identity.EKTPM, s, id))
	}
	b.delete(in, []byte(id))
}

func (db *DB) Pending(ctx context.Context, id string) (r store.Registration, err error) {
	err = db.view(ctx, func(tx *bbolt.Tx) (err error) {
		r, err = registrationOf(tx, pendingBucket, id)
		return err
	})
	if err != nil {
		return store.Registration{}, fmt.Errorf("pending registration of %q: %w", id, err)
	}
	return r, nil
}

func (db *DB) Registered(ctx context.Context, id string) (r store.Registration, err error) {
	err = db.view(ctx, func(tx *bbolt.Tx) (err error) {
		r, err = registrationOf(tx, activeBucket, id)
		if errors.Is(err, store.ErrNotFound) && get(tx, pendingBucket, []byte(id)) != nil {
			return store.ErrInactive
		}
		return err
	})
	if err != nil {
		return store.Registration{}, fmt.Errorf("registration of %q: %w", id, err)
	}
	return r, nil
}

func (db *DB) Activate(ctx context.Context, id string, rev uint64, now time.Time) error {
	return db.write(ctx, func(b *batch) error {
		r, err := b.staged(id, rev)
		if err != nil {
			return err
		}
		b.dropPending(id)
		r.Activated, r.Challenge = store.Time(now), ""
		b.put(activeBucket, []byte(id), encodeRecord(r))
		b.indexEK(r, active)
		return nil
	})
}

func (db *DB) DropPending(ctx context.Context, id string, rev uint64) error {
	return db.write(ctx, func(b *batch) error {
		if _, err := b.staged(id, rev); err != nil {
			return err
		}
		b.dropPending(id)
		return nil
	})
}

// staged returns the id's pending registration if it is of that revision.
func (b *batch) staged(id string, rev uint64) (store.Registration, error) {
	r, err := registrationOf(b.tx, pendingBucket, id)
	if err == nil && r.Rev != rev {
		err = store.ErrConflict
	}
	if err != nil {
		return store.Registration{}, fmt.Errorf("pending registration of %q: %w", id, err)
	}
	return r, nil
}

func (db *DB) RegisteredIDs(ctx context.Context, after string, max int) ([]string, error) {
	var ids []string
	err := db.view(ctx, func(tx *bbolt.Tx) error {
		actives, pendings := tx.Bucket([]byte(activeBucket)).Cursor(), tx.Bucket([]byte(pendingBucket)).Cursor()
		a, p := seekAfter(actives, after), seekAfter(pendings, after)
		for (a != nil || p != nil) && len(ids) < max {
			isActive := p == nil || (a != nil && string(a) <= string(p))
			isPending := a == nil || (p != nil && string(p) <= string(a))
			if isActive {
				ids = append(ids, string(a))
				a, _ = actives.Next()
			} else {
				ids = append(ids, string(p))
			}
			if isPending {
				p, _ = pendings.Next()
			}
		}
		return nil
	})
	return ids, err
}

func (db *DB) SameEK(ctx context.Context, id string, ekTPM []byte) ([]string, error) {
	var ids []string
	err := db.view(ctx, func(tx *bbolt.Tx) error {
		for _, s := range []standing{active, pending} {
			found := 0
			eachKey(tx, ekBucket, ekPrefix(ekTPM, s), func(other []byte) bool {
				if string(other) != id {
					ids = append(ids, string(other))
					found++
				}
				return found < store.MaxSameEK
			})
		}
		return nil
	})
	slices.Sort(ids)
	ids = slices.Compact(ids)
	return ids[:min(len(ids), store.MaxSameEK)], err
}

func (db *DB) Deregister(ctx context.Context, id string) error {
	return db.write(ctx, func(b *batch) error {
		if !b.has(activeBucket, []byte(id)) && !b.has(pendingBucket, []byte(id)) {
			return fmt.Errorf("registration of %q: %w", id, store.ErrNotFound)
		}
		b.dropPending(id)
		b.drop(activeBucket, active, id)
		return nil
	})
}

func (db *DB) ExpirePending(ctx context.Context, before time.Time, max int) (int, error) {
	expired := 0
	err := db.write(ctx, func(b *batch) error {
		end := string(timeKey(before))
		var rows [][]byte
		eachKey(b.tx, stagedBucket, nil, func(key []byte) bool {
			if string(key[:8]) >= end || len(rows) >= max {
				return false
			}
			rows = append(rows, slices.Clone(key))
			return true
		})
		for _, key := range rows {
			b.delete(stagedBucket, key)
			b.dropPending(string(key[8:]))
		}
		expired = len(rows)
		return nil
	})
	return expired, err
}

func (db *DB) CountPending(ctx context.Context) (int, error) {
	err := db.view(ctx, func(*bbolt.Tx) error { return nil })
	return int(db.pending.Load()), err
}
