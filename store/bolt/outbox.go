package bolt

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"keylime/store"
)

// mail are the leases of events. Its lock may be held while the file is read, never while the writer is in a
// transaction.
type mail struct {
	mu     sync.Mutex
	leases map[uint64]time.Time
}

func newMail() *mail { return &mail{leases: map[uint64]time.Time{}} }

func (m *mail) release(id uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.leases, id)
}

func (db *DB) ClaimEvents(ctx context.Context, owner string, now time.Time, max int, ttl time.Duration) ([]store.Event, error) {
	// The lock is taken before the file is looked at: an event that is finished meanwhile is then either gone from what
	// is seen, or still leased.
	db.mail.mu.Lock()
	defer db.mail.mu.Unlock()
	expires := store.Time(now.Add(ttl))
	var claimed []store.Event
	err := db.view(ctx, func(tx *bbolt.Tx) error {
		eachKey(tx, eventDueBucket, nil, func(key []byte) bool {
			if string(key[:8]) > string(timeKey(now)) || len(claimed) >= max {
				return false
			}
			id := keyNumber(key[8:])
			if until, leased := db.mail.leases[id]; leased && now.Before(until) {
				return true
			}
			e, err := eventOf(tx, id)
			if err != nil {
				db.log.Error().Err(err).Uint64("event", id).Msg("Revocation event cannot be delivered: its record cannot be read")
				return true
			}
			e.Lease = expires
			claimed = append(claimed, e)
			return true
		})
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, e := range claimed {
		db.mail.leases[e.ID] = expires
	}
	return claimed, nil
}

func (db *DB) Notices(ctx context.Context, channel string, after uint64, max int) ([]store.Event, error) {
	if len(channel) > store.MaxID {
		return nil, db.index.ready(ctx) // no event has such a channel
	}
	var notices []store.Event
	err := db.view(ctx, func(tx *bbolt.Tx) error {
		prefix := sizedKey(channel)
		c := tx.Bucket([]byte(eventChannelBucket)).Cursor()
		k := seekAfter(c, string(prefix)+string(numberKey(after)))
		for ; bytes.HasPrefix(k, prefix) && len(notices) < max; k, _ = c.Next() {
			id := keyNumber(k[len(prefix):])
			e, err := eventOf(tx, id)
			if err != nil {
				db.log.Error().Err(err).Uint64("event", id).Msg("Notice left out: its record cannot be read")
				continue
			}
			notices = append(notices, e)
		}
		return nil
	})
	return notices, err
}

func eventOf(tx *bbolt.Tx, id uint64) (store.Event, error) {
	record := get(tx, eventBucket, numberKey(id))
	if record == nil {
		return store.Event{}, store.ErrNotFound
	}
	var e store.Event
	err := decodeRecord(record, &e)
	return e, err
}

func (db *DB) FinishEvent(ctx context.Context, id uint64) error {
	return db.write(ctx, func(b *batch) error {
		if !b.has(eventBucket, numberKey(id)) {
			return fmt.Errorf("event %d: %w", id, store.ErrNotFound)
		}
		b.dropEvent(id)
		return nil
	})
}

func (db *DB) RetryEvent(ctx context.Context, id uint64, attempts int, next time.Time) error {
	return db.write(ctx, func(b *batch) error {
		e, err := eventOf(b.tx, id)
		if err != nil {
			return fmt.Errorf("event %d: %w", id, err)
		}
		b.delete(eventDueBucket, dueKey(e))
		e.Attempts, e.Due = attempts, store.Time(next)
		b.putEvent(e)
		b.applied = append(b.applied, func() { b.db.mail.release(id) })
		return nil
	})
}

func (b *batch) addEvent(e store.Event) {
	e.ID, e.Lease = b.next(eventBucket), time.Time{}
	e.Created, e.Due = store.Time(e.Created), store.Time(e.Due)
	b.putEvent(e)
	b.put(eventChannelBucket, channelKey(e), nil)
	for _, agentID := range agentsOf(e) {
		b.put(eventAgentBucket, append(sizedKey(agentID), numberKey(e.ID)...), nil)
	}
}

func (b *batch) putEvent(e store.Event) {
	b.put(eventBucket, numberKey(e.ID), encodeRecord(e))
	b.put(eventDueBucket, dueKey(e), nil)
}

func dueKey(e store.Event) []byte { return append(timeKey(e.Due), numberKey(e.ID)...) }

func channelKey(e store.Event) []byte { return append(sizedKey(e.Channel), numberKey(e.ID)...) }

// agentsOf are the agents with which an event goes: without the one it reports on it would be untrue, without the one
// to tell it cannot be delivered.
func agentsOf(e store.Event) []string {
	if e.Target == "" || e.Target == e.AgentID {
		return []string{e.AgentID}
	}
	return []string{e.AgentID, e.Target}
}

func (b *batch) dropEventsOf(agentID string) {
	for _, id := range b.keys(eventAgentBucket, sizedKey(agentID)) {
		b.dropEvent(keyNumber(id))
	}
}

func (b *batch) dropEvent(id uint64) {
	number := numberKey(id)
	if e, err := eventOf(b.tx, id); err == nil {
		b.delete(eventDueBucket, dueKey(e))
		b.delete(eventChannelBucket, channelKey(e))
		for _, agentID := range agentsOf(e) {
			b.delete(eventAgentBucket, append(sizedKey(agentID), number...))
		}
	} else {
		b.deleteSuffix(eventDueBucket, func([]byte) int { return 8 }, number)
		b.deleteSuffix(eventAgentBucket, func(key []byte) int { return 1 + int(key[0]) }, number)
		b.deleteSuffix(eventChannelBucket, func(key []byte) int { return 1 + int(key[0]) }, number)
	}
	b.delete(eventBucket, number)
	b.applied = append(b.applied, func() { b.db.mail.release(id) })
}
