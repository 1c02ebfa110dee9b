package bolt

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"keylime/store"
)

func (db *DB) PutPayload(ctx context.Context, p store.Payload) (rev uint64, err error) {
	if err := p.Check(); err != nil {
		return 0, err
	}
	data := seal(appendBlob(nil, p.Data))
	p.Data = nil
	err = db.write(ctx, func(b *batch) error {
		if err := b.isEnrolled(p.AgentID); err != nil {
			return err
		}
		p.Rev = b.next(payloadBucket)
		b.put(payloadBucket, []byte(p.AgentID), encodeRecord(p))
		b.put(payloadDataBucket, []byte(p.AgentID), data)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return p.Rev, nil
}

func (b *batch) dropPayload(agentID string) {
	b.delete(payloadBucket, []byte(agentID))
	b.delete(payloadDataBucket, []byte(agentID))
}

func (db *DB) Payload(ctx context.Context, agentID string) (store.Payload, error) {
	var p store.Payload
	err := db.view(ctx, func(tx *bbolt.Tx) (err error) {
		if p, err = payloadOf(tx, agentID); err != nil {
			return err
		}
		body, err := unseal(get(tx, payloadDataBucket, []byte(agentID)))
		if err != nil {
			return err
		}
		p.Data, body, err = cutBlob(body)
		return errors.Join(err, isEnd(body))
	})
	if err != nil {
		return store.Payload{}, fmt.Errorf("payload of %q: %w", agentID, err)
	}
	return p, nil
}

func (db *DB) PayloadRev(ctx context.Context, agentID string) (uint64, error) {
	var p store.Payload
	err := db.view(ctx, func(tx *bbolt.Tx) (err error) {
		p, err = payloadOf(tx, agentID)
		return err
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("payload of %q: %w", agentID, err)
	}
	return p.Rev, nil
}

// payloadOf returns a payload without its data.
func payloadOf(tx *bbolt.Tx, agentID string) (store.Payload, error) {
	record := get(tx, payloadBucket, []byte(agentID))
	if record == nil {
		return store.Payload{}, store.ErrNotFound
	}
	var p store.Payload
	err := decodeRecord(record, &p)
	return p, err
}
