package bolt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"keylime/store"
)

const (
	// flushDelay is how long a round that need not be durable waits for company. With the transaction itself it
	// stays within the second that store.Schedule allows.
	flushDelay = 800 * time.Millisecond
	// maxBatch bounds how many changes share a transaction, and so how long the first of them waits.
	maxBatch = 1024
)

// writer is the one goroutine that changes the file.
type writer struct {
	db       *DB
	raw      *os.File // the file, under bbolt's feet
	ops      chan *op
	dirty    chan struct{} // something waits to be flushed
	stopping chan struct{}
	stopped  chan error
	commit   func(*bbolt.Tx) error
	// failing: the last transaction failed. Rounds are then acknowledged only when they are in the file.
	failing atomic.Bool
	// unsettled: the last transaction happened, but the disk would not confirm it.
	unsettled bool
}

// op is one change. do decides and writes; when it returns an error it has written nothing.
type op struct {
	do   func(*batch) error
	done chan error
}

func newWriter(db *DB, raw *os.File, commit func(*bbolt.Tx) error) *writer {
	if commit == nil {
		commit = (*bbolt.Tx).Commit
	}
	return &writer{
		db:       db,
		raw:      raw,
		ops:      make(chan *op),
		dirty:    make(chan struct{}, 1),
		stopping: make(chan struct{}),
		stopped:  make(chan error, 1),
		commit:   commit,
	}
}

// write runs do in a transaction and returns when that is durable. Until the writer takes it up the context can end it;
// then write waits for the outcome, so that the context's error always means that nothing was written.
func (db *DB) write(ctx context.Context, do func(*batch) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o := &op{do: do, done: make(chan error, 1)}
	select {
	case db.writer.ops <- o:
		return <-o.done
	case <-ctx.Done():
		return ctx.Err()
	case <-db.writer.stopping:
		return store.ErrClosed
	}
}

// flushSoon asks for the rounds in memory to be written.
func (w *writer) flushSoon() {
	select {
	case w.dirty <- struct{}{}:
	default:
	}
}

// stop writes what is left and ends the loop.
func (w *writer) stop() error {
	close(w.stopping)
	return <-w.stopped
}

func (w *writer) loop() {
	var flush <-chan time.Time
	for {
		select {
		case o := <-w.ops:
			w.run(w.collect(o), nil)
		case <-w.dirty:
			if flush == nil {
				flush = time.After(flushDelay)
			}
		case <-flush:
			flush = nil
			if err := w.run(nil, w.db.index.undurable()); err != nil {
				w.flushSoon()
			}
		case <-w.stopping:
			w.stopped <- w.run(nil, w.db.index.undurable())
			return
		}
	}
}

// collect takes the changes that wait already. It waits for none: while one transaction is on its way to the disk,
// those of the next one gather by themselves.
func (w *writer) collect(first *op) []*op {
	ops := []*op{first}
	for len(ops) < maxBatch {
		select {
		case o := <-w.ops:
			ops = append(ops, o)
		default:
			return ops
		}
	}
	return ops
}

// run does the changes, and writes the rounds, in one transaction, and answers the changes.
func (w *writer) run(ops []*op, flush map[string]*round) error {
	b := &batch{db: w.db, changed: map[string]*agent{}}
	refused := make([]error, len(ops))
	happened, err := w.transact(b, func() {
		for i, o := range ops {
			refused[i] = o.do(b)
		}
		b.flush(flush)
	})
	w.db.index.settle(b.changed, b.flushed, happened)
	if happened {
		for _, apply := range b.applied {
			apply()
		}
	}
	if b.writes > 0 || err != nil {
		w.report(err)
	}
	for i, o := range ops {
		if err != nil {
			// Also what was refused: perhaps on the strength of a change that did not happen.
			o.done <- err
		} else {
			o.done <- refused[i]
		}
	}
	return err
}

// transact runs fill in a transaction and commits what it wrote, if anything. happened says whether the file now
// holds it, and may be true together with an error.
func (w *writer) transact(b *batch, fill func()) (happened bool, err error) {
	var number uint64
	err = guard(w.db.log, func() error {
		if err := w.confirm(); err != nil {
			return err
		}
		tx, err := w.db.file.Begin(true)
		if err != nil {
			return err
		}
		defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
		b.tx = tx
		fill()
		if b.writes == 0 {
			return nil
		}
		number = nextBatch(tx)
		b.put(metaBucket, batchKey, numberKey(number))
		if b.failed != nil {
			return b.failed
		}
		return w.commit(tx)
	})
	if err == nil {
		return true, nil
	}
	if number != 0 && w.lastBatch() == number {
		happened, w.unsettled = true, true
		err = errors.Join(err, w.confirm())
	}
	return happened, fmt.Errorf("write store %s: %w", w.db.path, err)
}

func nextBatch(tx *bbolt.Tx) uint64 {
	if last := get(tx, metaBucket, batchKey); len(last) == 8 {
		return keyNumber(last) + 1
	}
	return 1
}

// lastBatch asks the file for the last transaction that it holds; 0 when it cannot say.
func (w *writer) lastBatch() (number uint64) {
	_ = guard(w.db.log, func() error {
		return w.db.file.View(func(tx *bbolt.Tx) error {
			number = nextBatch(tx) - 1
			return nil
		})
	})
	return number
}

// confirm makes sure that a transaction whose last fsync failed is on the disk before another one is begun. bbolt
// counts it as committed and would reuse the pages that it freed, though after a power failure the disk might still
// hold the transaction before, which needs them. The kernel reports a failed fsync once and then takes the pages for
// clean, so the two header pages are written again.
func (w *writer) confirm() error {
	if !w.unsettled {
		return nil
	}
	headers := make([]byte, 2*w.db.file.Info().PageSize)
	if _, err := w.raw.ReadAt(headers, 0); err != nil {
		return err
	}
	if _, err := w.raw.WriteAt(headers, 0); err != nil {
		return err
	}
	if err := w.db.file.Sync(); err != nil {
		return err
	}
	w.unsettled = false
	return nil
}

// report logs when writing begins to fail and when it works again. Each change that failed returns its error; a flush
// has nobody to return it to.
func (w *writer) report(err error) {
	was := w.failing.Swap(err != nil)
	switch {
	case err != nil && !was:
		w.db.log.Error().Err(err).Msg("The store cannot be written; rounds are not acknowledged until it can")
	case err == nil && was:
		w.db.log.Info().Msg("The store can be written again")
	}
}

// batch is the transaction that the writer is in.
type batch struct {
	db      *DB
	tx      *bbolt.Tx
	writes  int
	failed  error             // the first write that failed; the transaction then fails as a whole
	changed map[string]*agent // agents in the writer's hands, as this transaction leaves them; nil = none of that id
	flushed map[string]*round // rounds written for agents that nobody holds
	applied []func()          // what else to do to memory once the transaction has happened
}

func (b *batch) put(in bucket, key, value []byte) {
	b.done(b.tx.Bucket([]byte(in)).Put(key, value))
}

func (b *batch) delete(in bucket, key []byte) {
	b.done(b.tx.Bucket([]byte(in)).Delete(key))
}

func (b *batch) done(err error) {
	b.writes++
	if b.failed == nil {
		b.failed = err
	}
}

func (b *batch) get(in bucket, key []byte) []byte { return get(b.tx, in, key) }

func (b *batch) has(in bucket, key []byte) bool { return b.get(in, key) != nil }

// next returns a number that the bucket never gave before.
func (b *batch) next(in bucket) uint64 {
	n, err := b.tx.Bucket([]byte(in)).NextSequence()
	b.done(err)
	return n
}

// keys returns the keys that begin with the prefix, without it.
func (b *batch) keys(in bucket, prefix []byte) [][]byte {
	var keys [][]byte
	eachKey(b.tx, in, prefix, func(rest []byte) bool {
		keys = append(keys, slices.Clone(rest))
		return true
	})
	return keys
}

// deleteSuffix removes the keys that end in the suffix after a head of that length; slow, for the index rows of
// records that can no longer be read.
func (b *batch) deleteSuffix(in bucket, head func(key []byte) int, suffix []byte) {
	var found [][]byte
	eachKey(b.tx, in, nil, func(key []byte) bool {
		if n := head(key); n <= len(key) && string(key[n:]) == string(suffix) {
			found = append(found, slices.Clone(key))
		}
		return true
	})
	for _, key := range found {
		b.delete(in, key)
	}
}

// hold returns the agent as this transaction has it so far, for the caller to change; nil when there is none.
func (b *batch) hold(id string) *agent {
	a, held := b.changed[id]
	if !held {
		a = b.db.index.hold(id)
		b.changed[id] = a
	}
	return a
}

// save writes the last round of a held agent.
func (b *batch) save(a *agent) {
	b.put(roundBucket, []byte(a.id), encodeRound(a.last))
	a.durable = a.last
	b.changed[a.id] = a
}

// flush writes rounds of agents that nobody holds.
func (b *batch) flush(rounds map[string]*round) {
	for _, id := range slices.Sorted(maps.Keys(rounds)) { // in the order of the pages
		b.put(roundBucket, []byte(id), encodeRound(rounds[id]))
	}
	b.flushed = rounds
}
