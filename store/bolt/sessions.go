package bolt

import (
	"bytes"
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"keylime/store"
)

// offers are the sessions that wait for their proof. They sweep themselves: each new one takes along the oldest that
// had expired when it was made.
type offers struct {
	mu     sync.Mutex
	byID   map[string]*list.Element
	oldest *list.List // of store.Offer, in the order in which they came
}

func newOffers() *offers { return &offers{byID: map[string]*list.Element{}, oldest: list.New()} }

func (f *offers) add(o store.Offer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(f.byID[o.ID])
	for first := f.oldest.Front(); first != nil; first = f.oldest.Front() {
		if expired := first.Value.(store.Offer).Expires.Before(o.Created); !expired && len(f.byID) < store.MaxOffers {
			break
		}
		f.drop(first)
	}
	f.byID[o.ID] = f.oldest.PushBack(o)
}

func (f *offers) get(id string) (store.Offer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.byID[id]
	if e == nil {
		return store.Offer{}, noSession(id)
	}
	o := e.Value.(store.Offer)
	o.Nonce = bytes.Clone(o.Nonce)
	return o, nil
}

func (f *offers) take(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byID[id] == nil {
		return noSession(id)
	}
	f.drop(f.byID[id])
	return nil
}

func (f *offers) drop(e *list.Element) {
	if e != nil {
		delete(f.byID, f.oldest.Remove(e).(store.Offer).ID)
	}
}

func noSession(id string) error { return fmt.Errorf("session %q: %w", id, store.ErrNotFound) }

func (db *DB) Offer(ctx context.Context, o store.Offer) error {
	if err := o.Check(); err != nil {
		return err
	}
	if err := db.index.ready(ctx); err != nil {
		return err
	}
	o.Nonce, o.Created, o.Expires = bytes.Clone(o.Nonce), store.Time(o.Created), store.Time(o.Expires)
	db.offers.add(o)
	return nil
}

func (db *DB) Offered(ctx context.Context, id string) (store.Offer, error) {
	if err := db.index.ready(ctx); err != nil {
		return store.Offer{}, err
	}
	return db.offers.get(id)
}

func (db *DB) TakeOffer(ctx context.Context, id string) error {
	if err := db.index.ready(ctx); err != nil {
		return err
	}
	return db.offers.take(id)
}

func (db *DB) OpenSession(ctx context.Context, s store.Session) error {
	if err := s.Check(); err != nil {
		return err
	}
	s.Expires = store.Time(s.Expires)
	record := encodeRecord(s)
	return db.write(ctx, func(b *batch) error {
		if err := b.isEnrolled(s.AgentID); err != nil {
			return err
		}
		if old := b.get(sessionBucket, []byte(s.ID)); old != nil && string(b.get(sessionAgentBucket, []byte(s.AgentID))) != s.ID {
			return fmt.Errorf("session %q of another agent: %w", s.ID, store.ErrExists)
		}
		b.closeSession(s.AgentID)
		b.put(sessionBucket, []byte(s.ID), record)
		b.put(sessionAgentBucket, []byte(s.AgentID), []byte(s.ID))
		return nil
	})
}

// isEnrolled returns ErrNotFound unless the agent is, damaged or not.
func (b *batch) isEnrolled(id string) error {
	if !b.has(specBucket, []byte(id)) {
		return fmt.Errorf("agent %q: %w", id, store.ErrNotFound)
	}
	return nil
}

func (db *DB) Session(ctx context.Context, id string) (store.Session, error) {
	var s store.Session
	err := db.view(ctx, func(tx *bbolt.Tx) (err error) {
		s, err = sessionOf(tx, id)
		return err
	})
	return s, err
}

func sessionOf(tx *bbolt.Tx, id string) (store.Session, error) {
	record := get(tx, sessionBucket, []byte(id))
	if record == nil {
		return store.Session{}, noSession(id)
	}
	var s store.Session
	if err := decodeRecord(record, &s); err != nil {
		return store.Session{}, fmt.Errorf("session %q: %w", id, err)
	}
	return s, nil
}

// extendSession lets an agent's session, if it has one, last until then at least. One that cannot be read is left to
// whoever presents its token.
func (b *batch) extendSession(agentID string, until time.Time) {
	id := b.get(sessionAgentBucket, []byte(agentID))
	if id == nil {
		return
	}
	s, err := sessionOf(b.tx, string(id))
	if err == nil && s.Expires.Before(until) {
		s.Expires = until
		b.put(sessionBucket, []byte(s.ID), encodeRecord(s))
	}
}

func (b *batch) closeSession(agentID string) {
	if id := bytes.Clone(b.get(sessionAgentBucket, []byte(agentID))); id != nil {
		b.delete(sessionBucket, id)
		b.delete(sessionAgentBucket, []byte(agentID))
	}
}
