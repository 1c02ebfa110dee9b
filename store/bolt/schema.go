package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"
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
)

var (
	schemaKey = []byte("schema") // number of migrations that the file has seen, 32 bits
	batchKey  = []byte("batch")  // number of the last transaction of the writer, 64 bits
)

// migrations bring a file from schema n to n+1, each in one transaction. Released ones never change.
func migrations() []func(*bbolt.Tx) error {
	return []func(*bbolt.Tx) error{
		func(tx *bbolt.Tx) error {
			return createBuckets(tx, metaBucket, activeBucket, pendingBucket, ekBucket, stagedBucket, specBucket,
				roundBucket, policyBucket, textBucket, usesBucket, eventBucket, eventDueBucket, eventAgentBucket)
		},
	}
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

// migrate brings the file to the schema of the last step. A new file needs no permission for that, an old one does.
func migrate(db *bbolt.DB, steps []func(*bbolt.Tx) error, allowed bool) error {
	current, err := schemaOf(db)
	switch {
	case err != nil:
		return err
	case current > len(steps):
		return fmt.Errorf("%w %d was written by a newer release; this one knows up to %d: upgrade keylime, or restore a backup",
			ErrSchema, current, len(steps))
	case current < len(steps) && current > 0 && !allowed:
		return fmt.Errorf("%w %d is of an older release, this one needs %d: back up the file, then allow the migration",
			ErrSchema, current, len(steps))
	}
	for n := current; n < len(steps); n++ {
		err := db.Update(func(tx *bbolt.Tx) error {
			if err := steps[n](tx); err != nil {
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
