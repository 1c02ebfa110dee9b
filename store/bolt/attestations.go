package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"keylime/store"
)

func attestationKey(agentID string, index uint64) []byte {
	return append(sizedKey(agentID), numberKey(index)...)
}

// attestationRecord is what the file keeps of an attestation: all of it, and a short row from which the history is
// thinned out without a look at the evidence.
type attestationRecord struct{ record, history []byte }

// encodeAttestation leaves agent and index to the key.
func encodeAttestation(a store.Attestation) *attestationRecord {
	for _, t := range []*time.Time{&a.BootTime, &a.Received, &a.Expires, &a.Evidence, &a.Completed} {
		*t = store.Time(*t)
	}
	return &attestationRecord{sealAttestation(a), encodeHistory(a)}
}

func (b *batch) putAttestation(agentID string, index uint64, r *attestationRecord) {
	key := attestationKey(agentID, index)
	b.put(attestationBucket, key, r.record)
	b.put(historyBucket, key, r.history)
}

func (b *batch) dropAttestation(agentID string, index uint64) {
	key := attestationKey(agentID, index)
	b.delete(attestationBucket, key)
	b.delete(historyBucket, key)
}

func (b *batch) dropAttestations(agentID string) {
	for _, in := range []bucket{attestationBucket, historyBucket} {
		for _, index := range b.keys(in, sizedKey(agentID)) {
			b.delete(in, append(sizedKey(agentID), index...))
		}
	}
}

func (db *DB) BeginAttestation(ctx context.Context, a store.Attestation) (index uint64, err error) {
	if err := a.Check(); err != nil {
		return 0, err
	}
	r := encodeAttestation(a)
	err = db.write(ctx, func(b *batch) error {
		if err := b.isEnrolled(a.AgentID); err != nil {
			return err
		}
		index = 0
		// The latest one is always kept, so the next index follows from it.
		if last, row := latest(b.tx, a.AgentID); row != nil {
			index = last + 1
			if h, err := decodeHistory(row); err == nil && h.awaits {
				b.dropAttestation(a.AgentID, last)
			}
		}
		b.putAttestation(a.AgentID, index, r)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return index, nil
}

// replaceLatest puts a judged attestation in place of the agent's latest, and drops what need not be kept any more.
func (b *batch) replaceLatest(agentID string, index uint64, judged *attestationRecord, keep store.Retention) error {
	if last, row := latest(b.tx, agentID); row == nil || last != index {
		return fmt.Errorf("agent %q: attestation %d is not the latest: %w", agentID, index, store.ErrConflict)
	}
	b.putAttestation(agentID, index, judged)
	for _, old := range keep.Drop(history(b.tx, agentID)) {
		b.dropAttestation(agentID, old)
	}
	return nil
}

// latest returns the highest index of an agent and its row of the history; nil when there is none.
func latest(tx *bbolt.Tx, agentID string) (index uint64, row []byte) {
	prefix := sizedKey(agentID)
	k, v := seekBefore(tx.Bucket([]byte(historyBucket)).Cursor(), attestationKey(agentID, math.MaxUint64))
	if !bytes.HasPrefix(k, prefix) {
		return 0, nil
	}
	return keyNumber(k[len(prefix):]), v
}

// history lists the agent's attestations, oldest first. One whose row is damaged counts as an old one that did not
// pass: it goes as soon as any goes by its age.
func history(tx *bbolt.Tx, agentID string) []store.Kept {
	prefix := sizedKey(agentID)
	var all []store.Kept
	c := tx.Bucket([]byte(historyBucket)).Cursor()
	for k, row := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, row = c.Next() {
		h, _ := decodeHistory(row)
		h.Index = keyNumber(k[len(prefix):])
		all = append(all, h.Kept)
	}
	return all
}

func (db *DB) Attestation(ctx context.Context, agentID string, index uint64) (store.Attestation, error) {
	var a store.Attestation
	err := db.view(ctx, func(tx *bbolt.Tx) (err error) {
		a, err = attestationOf(tx, agentID, index)
		return err
	})
	return a, err
}

func (db *DB) LatestAttestation(ctx context.Context, agentID string) (store.Attestation, error) {
	var a store.Attestation
	err := db.view(ctx, func(tx *bbolt.Tx) (err error) {
		index, row := latest(tx, agentID)
		if row == nil {
			return fmt.Errorf("attestations of agent %q: %w", agentID, store.ErrNotFound)
		}
		a, err = attestationOf(tx, agentID, index)
		return err
	})
	return a, err
}

func (db *DB) Attestations(ctx context.Context, agentID string, before uint64, max int) ([]store.Attestation, error) {
	var found []store.Attestation
	err := db.view(ctx, func(tx *bbolt.Tx) error {
		prefix := sizedKey(agentID)
		c := tx.Bucket([]byte(historyBucket)).Cursor()
		k, _ := seekBefore(c, attestationKey(agentID, before))
		for ; bytes.HasPrefix(k, prefix) && len(found) < max; k, _ = c.Prev() {
			index := keyNumber(k[len(prefix):])
			a, err := attestationOf(tx, agentID, index)
			if err != nil {
				db.log.Error().Err(err).Msg("Attestation left out: its record cannot be read")
				continue
			}
			found = append(found, a)
		}
		return nil
	})
	return found, err
}

func attestationOf(tx *bbolt.Tx, agentID string, index uint64) (store.Attestation, error) {
	a := store.Attestation{AgentID: agentID, Index: index}
	record := get(tx, attestationBucket, attestationKey(agentID, index))
	if record == nil {
		return store.Attestation{}, fmt.Errorf("%v: %w", a, store.ErrNotFound)
	}
	kept, err := unsealAttestation(record)
	if err != nil {
		return store.Attestation{}, fmt.Errorf("%v: %w", a, err)
	}
	kept.AgentID, kept.Index = agentID, index
	return kept, nil
}

// An attestation's record is the length of its JSON as a varint, the JSON, which has the items without their texts, and
// then these texts, each as a blob.

func sealAttestation(a store.Attestation) []byte {
	a.AgentID, a.Index = "", 0
	items := a.Items
	a.Items = slices.Clone(items)
	for i := range a.Items {
		a.Items[i].Capabilities, a.Items[i].Chosen, a.Items[i].Data = nil, nil, nil
	}
	body := appendBlob(nil, encodeJSON(a))
	for _, i := range items {
		body = appendBlob(appendBlob(appendBlob(body, i.Capabilities), i.Chosen), i.Data)
	}
	return seal(body)
}

func unsealAttestation(record []byte) (store.Attestation, error) {
	body, err := unseal(record)
	if err != nil {
		return store.Attestation{}, err
	}
	text, body, err := cutBlob(body)
	if err != nil {
		return store.Attestation{}, err
	}
	var a store.Attestation
	if err := decodeJSON(text, &a); err != nil {
		return store.Attestation{}, err
	}
	for i := range a.Items {
		item := &a.Items[i]
		for _, text := range []*[]byte{(*[]byte)(&item.Capabilities), (*[]byte)(&item.Chosen), (*[]byte)(&item.Data)} {
			if *text, body, err = cutBlob(body); err != nil {
				return store.Attestation{}, err
			}
		}
	}
	if err := isEnd(body); err != nil {
		return store.Attestation{}, err
	}
	return a, nil
}

// A blob is its length plus one as a varint and its bytes; 0 stands for nil.

func appendBlob(to, data []byte) []byte {
	if data == nil {
		return append(to, 0)
	}
	return append(binary.AppendUvarint(to, uint64(len(data))+1), data...)
}

// cutBlob returns a copy of the blob that body begins with, and what follows it.
func cutBlob(body []byte) (data, rest []byte, err error) {
	size, n := binary.Uvarint(body)
	switch {
	case n <= 0 || size > uint64(len(body)-n)+1:
		return nil, nil, fmt.Errorf("%w (length)", store.ErrDamaged)
	case size == 0:
		return nil, body[n:], nil
	}
	end := n + int(size-1)
	return append([]byte{}, body[n:end]...), body[end:], nil
}

// isEnd refuses what follows the last blob of a record.
func isEnd(rest []byte) error {
	if len(rest) > 0 {
		return fmt.Errorf("%w (trailing data)", store.ErrDamaged)
	}
	return nil
}

// A row of the history is a byte of flags, the time of the boot and the time of the capabilities, as timeKey has them.

type historyRow struct {
	store.Kept // without its index
	awaits     bool
}

const (
	flagPassed = 1 << iota
	flagAwaits
	historyRowSize = 1 + 8 + 8
)

func encodeHistory(a store.Attestation) []byte {
	var flags byte
	if a.Evaluation == store.EvaluationPass {
		flags |= flagPassed
	}
	if a.Stage == store.AwaitingEvidence {
		flags |= flagAwaits
	}
	row := append([]byte{flags}, timeKey(a.BootTime)...)
	return seal(append(row, timeKey(a.Received)...))
}

func decodeHistory(row []byte) (historyRow, error) {
	body, err := unseal(row)
	if err == nil && len(body) != historyRowSize {
		err = fmt.Errorf("%w (%d bytes)", store.ErrDamaged, len(body))
	}
	if err != nil {
		return historyRow{}, err
	}
	h := historyRow{awaits: body[0]&flagAwaits != 0}
	if body[0]&flagPassed != 0 {
		h.Evaluation = store.EvaluationPass
	}
	h.BootTime, h.Received = keyTime(body[1:]), keyTime(body[9:])
	return h, nil
}
