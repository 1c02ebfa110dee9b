package bolt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"

	"keylime/store"
)

// Options tune Open. The zero value is usable.
type Options struct {
	Log zerolog.Logger
	// LockTimeout is how long to wait for another process to let go of the file; 0 means 3 seconds.
	LockTimeout time.Duration
	// Migrate allows a file of an older release to be brought up to this one's schema.
	Migrate bool

	// commit is (*bbolt.Tx).Commit; tests put a failing one in its place.
	commit func(*bbolt.Tx) error
}

// DB is an open store. It implements store.Registrar and store.Verifier.
type DB struct {
	path   string
	log    zerolog.Logger
	file   *bbolt.DB
	index  *index
	mail   *mail
	offers *offers
	// pending counts the pending registrations.
	pending atomic.Int64
	writer  *writer
}

var (
	_ store.Registrar = (*DB)(nil)
	_ store.Verifier  = (*DB)(nil)
)

// Open opens the store in the file, which it creates with mode 0600 when there is none. Records that cannot be read
// are reported to the log, and left out. The caller closes the DB.
func Open(path string, opts Options) (*DB, error) {
	db, err := open(path, opts)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return db, nil
}

func open(path string, opts Options) (_ *DB, err error) {
	log := opts.Log.With().Str("store", path).Logger()
	isNew, err := inspect(path, log)
	if err != nil {
		return nil, err
	}
	file, raw, err := openFile(path, opts.LockTimeout, log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	db := &DB{path: path, log: log, file: file, index: newIndex(), mail: newMail(), offers: newOffers()}
	err = guard(log, func() error {
		if err := checkSize(file, raw); err != nil {
			return err
		}
		if err := migrate(file, migrations(), opts.Migrate); err != nil {
			return err
		}
		return db.load()
	})
	if err != nil {
		return nil, err
	}
	if isNew {
		if err := syncDir(filepath.Dir(path)); err != nil {
			return nil, err
		}
	}
	db.writer = newWriter(db, raw, opts.commit)
	go db.writer.loop()
	return db, nil
}

// inspect reports whether the file is yet to be made, and warns when others than its owner can read it: it holds
// key shares and activation secrets.
func inspect(path string, log zerolog.Logger) (isNew bool, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil:
		return false, err
	case !info.Mode().IsRegular():
		return false, errors.New("not a regular file")
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		log.Warn().Stringer("mode", mode).Msg("The store can be read by others than its owner; set its mode to 0600")
	}
	return info.Size() == 0, nil
}

func openFile(path string, lockTimeout time.Duration, log zerolog.Logger) (file *bbolt.DB, raw *os.File, err error) {
	if lockTimeout == 0 {
		lockTimeout = 3 * time.Second
	}
	err = guard(log, func() error {
		file, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:      lockTimeout,
			FreelistType: bbolt.FreelistMapType,
			NoStatistics: true,
			OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
				raw, err = os.OpenFile(name, flag, mode)
				return raw, err
			},
		})
		return err
	})
	switch {
	case errors.Is(err, bberrors.ErrTimeout):
		return nil, nil, errors.New("another process has it open: most likely a keylime server, verifier or registrar that " +
			"still runs (`fuser` on the file names it); stop that one, or configure another file")
	case errors.Is(err, bberrors.ErrInvalid), errors.Is(err, bberrors.ErrChecksum), errors.Is(err, bberrors.ErrVersionMismatch):
		return nil, nil, fmt.Errorf("not a store, or damaged beyond reading (%w): restore a backup, or move it away to start anew", err)
	case err != nil:
		if raw != nil {
			_ = raw.Close() // bbolt did, unless it panicked
		}
		return nil, nil, err
	}
	return file, raw, nil
}

// checkSize looks for the end of a file that was cut off.
func checkSize(file *bbolt.DB, raw *os.File) error {
	info, err := raw.Stat()
	if err != nil {
		return err
	}
	return file.View(func(tx *bbolt.Tx) error {
		if tx.Size() > info.Size() {
			return fmt.Errorf("file cut off after %d of %d bytes: restore a backup", info.Size(), tx.Size())
		}
		return nil
	})
}

// syncDir makes the file's name as durable as its content.
func syncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// guard turns the panics by which bbolt reports a damaged file, and the faults of reading past the end of a truncated
// one, into an error. The log gets the stack, should it be a bug after all.
func guard(log zerolog.Logger, f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			log.Error().Bytes("stack", debug.Stack()).Msg("Panic while the store was read or written")
			err = fmt.Errorf("file cannot be read, it may be damaged or truncated: restore a backup (%v)", p)
		}
	}()
	return f()
}

// load fills memory from the file.
func (db *DB) load() error {
	return db.file.View(func(tx *bbolt.Tx) error {
		db.pending.Store(int64(countKeys(tx, pendingBucket)))
		specs, rounds := tx.Bucket([]byte(specBucket)), tx.Bucket([]byte(roundBucket))
		err := specs.ForEach(func(id, record []byte) error {
			a, err := loadAgent(string(id), record, rounds.Get(id))
			if err != nil {
				db.log.Warn().Err(err).Bytes("agent", id).
					Msg("Agent is not attested: its record cannot be read; delete it and enrol it again")
				return nil
			}
			db.index.load(a)
			return nil
		})
		if err != nil {
			return err
		}
		return rounds.ForEach(func(id, _ []byte) error {
			if specs.Get(id) == nil {
				db.log.Warn().Bytes("agent", id).Msg("Agent is not attested: its enrolment is missing; delete it and enrol it again")
			}
			return nil
		})
	})
}

func loadAgent(id string, spec, last []byte) (*agent, error) {
	s, err := decodeSpec(spec)
	if err != nil {
		return nil, fmt.Errorf("enrolment: %w", err)
	}
	r, err := decodeRound(last)
	if err != nil {
		return nil, fmt.Errorf("last round: %w", err)
	}
	return newAgent(id, s, len(spec), r, r), nil
}

func decodeSpec(record []byte) (store.AgentSpec, error) {
	var s store.AgentSpec
	err := decodeRecord(record, &s)
	return s, err
}

func countKeys(tx *bbolt.Tx, b bucket) int {
	n := 0
	c := tx.Bucket([]byte(b)).Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		n++
	}
	return n
}

// Close writes what is not yet durable and lets go of the file. Verbs that come later return store.ErrClosed.
func (db *DB) Close() error {
	if !db.index.close() {
		return nil
	}
	err := db.writer.stop()
	if err = errors.Join(err, db.file.Close()); err != nil {
		return fmt.Errorf("close store %s: %w", db.path, err)
	}
	return nil
}

// view reads the file. f takes no lock of the index: a reader that waits for one could keep the writer from growing
// the file while it holds that lock.
func (db *DB) view(ctx context.Context, f func(tx *bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := guard(db.log, func() error { return db.file.View(f) })
	if errors.Is(err, bberrors.ErrDatabaseNotOpen) {
		return store.ErrClosed
	}
	return err
}

// get returns the value of a key, valid during the transaction; nil when there is none.
func get(tx *bbolt.Tx, b bucket, key []byte) []byte { return tx.Bucket([]byte(b)).Get(key) }
