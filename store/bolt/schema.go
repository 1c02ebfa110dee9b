package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"keylime/store"
)

// bucket is a collection of the file. Names are part of the file's format.
type bucket string

const (
	metaBucket bucket = "meta" // schemaKey, batchKey

	activeBucket  bucket = "registration"         // agent id → store.Registration
	pendingBucket bucket = "registration-pending" // agent id → store.Registration
	ekBucket      bucket = "registration-by-ek"   // SHA-256 of the EK public area ‖ 'a'ctive or 'p'ending ‖ agent id
	stagedBucket  bucket = "registration-staged"  // time ‖ agent id, of pending registrations

	specBucket  bucket = "agent"       // agent id → store.AgentSpec
	roundBucket bucket = "agent-round" // agent id → round

	policyBucket bucket = "policy"      // kind ‖ name → policyHead
	textBucket   bucket = "policy-text" // kind ‖ name → text, as it is; 'o' ‖ kind ‖ name → the text that it replaces
	usesBucket   bucket = "policy-uses" // kind ‖ sized name ‖ agent id

	eventBucket      bucket = "event"          // event id → store.Event
	eventDueBucket   bucket = "event-due"      // time ‖ event id
	eventAgentBucket bucket = "event-by-agent" // sized agent id ‖ event id, of the agent reported on and the one to tell
	// Since schema 2.
	eventChannelBucket bucket = "event-by-channel" // sized channel ‖ event id

	sessionBucket      bucket = "session"          // session id → store.Session
	sessionAgentBucket bucket = "session-by-agent" // agent id → session id

	attestationBucket bucket = "attestation"         // sized agent id ‖ index → store.Attestation
	historyBucket     bucket = "attestation-history" // sized agent id ‖ index → what the history is thinned out by

	payloadBucket     bucket = "payload"      // agent id → store.Payload without its data
	payloadDataBucket bucket = "payload-data" // agent id → data
)

var (
	schemaKey = []byte("schema") // number of migrations that the file has seen, 32 bits
	batchKey  = []byte("batch")  // number of the last transaction of the writer, 64 bits
)

// migration brings a file from one schema to the next, in one transaction.
type migration struct {
	run func(*bbolt.Tx) error
	// additive: nothing that the file holds is changed, so nobody is asked before. A release that knows the old schema
	// only refuses the file afterwards all the same: it would not maintain what was added.
	additive bool
}

// migrations bring a file from schema n to n+1. Released ones never change.
func migrations() []migration {
	return []migration{
		{run: func(tx *bbolt.Tx) error {
			return createBuckets(tx, metaBucket, activeBucket, pendingBucket, ekBucket, stagedBucket, specBucket,
				roundBucket, policyBucket, textBucket, usesBucket, eventBucket, eventDueBucket, eventAgentBucket)
		}},
		{run: addCalls, additive: true},
	}
}

// addCalls makes room for what belongs to agents that call in.
func addCalls(tx *bbolt.Tx) error {
	err := createBuckets(tx, eventChannelBucket, sessionBucket, sessionAgentBucket, attestationBucket, historyBucket,
		payloadBucket, payloadDataBucket)
	if err != nil {
		return err
	}
	return tx.Bucket([]byte(eventBucket)).ForEach(func(number, record []byte) error {
		var e store.Event
		if decodeRecord(record, &e) != nil || len(e.Channel) > store.MaxID {
			return nil // reported when it is due
		}
		return tx.Bucket([]byte(eventChannelBucket)).Put(append(sizedKey(e.Channel), number...), nil)
	})
}

func createBuckets(tx *bbolt.Tx, names ...bucket) error {
	for _, name := range names {
		if _, err := tx.CreateBucket([]byte(name)); err != nil {
			return fmt.Errorf("create %s: %w", name, err)
		}
	}
	return nil
}

// ErrSchema means that the file's schema is not that of this release.
var ErrSchema = errors.New("schema")

// migrate brings the file to the schema of the last step. A new file needs no permission for that; an old one does,
// unless the steps only add to it.
func migrate(db *bbolt.DB, steps []migration, allowed bool) error {
	current, err := schemaOf(db)
	switch {
	case err != nil:
		return err
	case current > len(steps):
		return fmt.Errorf("%w %d was written by a newer release; this one knows up to %d: upgrade keylime, or restore a backup",
			ErrSchema, current, len(steps))
	case current > 0 && !allowed && slices.ContainsFunc(steps[current:], func(m migration) bool { return !m.additive }):
		return fmt.Errorf("%w %d is of an older release, this one needs %d: back up the file, then allow the migration",
			ErrSchema, current, len(steps))
	}
	for n := current; n < len(steps); n++ {
		err := db.Update(func(tx *bbolt.Tx) error {
			if err := steps[n].run(tx); err != nil {
				return err
			}
			return tx.Bucket([]byte(metaBucket)).Put(schemaKey, binary.BigEndian.AppendUint32(nil, uint32(n+1)))
		})
		if err != nil {
			return fmt.Errorf("migrate to schema %d: %w", n+1, err)
		}
	}
	return nil
}

// schemaOf is 0 for a new file.
func schemaOf(db *bbolt.DB) (schema int, err error) {
	err = db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket([]byte(metaBucket))
		if meta == nil {
			if first, _ := tx.Cursor().First(); first != nil {
				return fmt.Errorf("%w: a bbolt file, but not of keylime: it holds %q", ErrSchema, first)
			}
			return nil
		}
		number := meta.Get(schemaKey)
		if len(number) != 4 {
			return fmt.Errorf("%w: its number is missing", ErrSchema)
		}
		schema = int(binary.BigEndian.Uint32(number))
		return nil
	})
	return schema, err
}
