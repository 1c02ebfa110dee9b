package bolt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keylime/store"
)

func (db *DB) Claim(ctx context.Context, verifierID, owner string, now time.Time, max int, ttl time.Duration) ([]store.Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	drafts, leases, err := db.index.claim(verifierID, owner, now, max, store.Time(now.Add(ttl)))
	if err != nil {
		return nil, err
	}
	agents, err := db.complete(ctx, drafts)
	if err != nil {
		return nil, err // those leases run out
	}
	var claimed []store.Lease
	for _, a := range agents {
		l := leases[a.ID]
		claimed = append(claimed, store.Lease{Agent: a, Owner: owner, Epoch: l.epoch, Expires: l.expires})
	}
	return claimed, nil
}

func (x *index) claim(verifierID, owner string, now time.Time, max int, expires time.Time) ([]draft, map[string]lease, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil, nil, store.ErrClosed
	}
	q := x.queues[verifierID]
	if q == nil {
		return nil, nil, nil
	}
	for len(q.leased) > 0 && !q.leased[0].at.After(now) {
		a := q.leased[0]
		x.unplace(a)
		a.lease = lease{}
		x.place(a)
	}
	var drafts []draft
	leases := map[string]lease{}
	for len(drafts) < max && len(q.due) > 0 && !q.due[0].at.After(now) {
		a := q.due[0]
		x.unplace(a)
		a.lease = lease{x.nextEpoch(), owner, expires}
		x.place(a)
		drafts = append(drafts, draft{a.record(), a.spec == nil})
		leases[a.id] = a.lease
	}
	return drafts, leases, nil
}

func (db *DB) Commit(ctx context.Context, l store.Lease, r store.Round, now time.Time) error {
	if err := r.Check(l.Agent.ID); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// Rounds of agents that call in are durable together with their attestation. What they cost is shared by all that
	// wait for the disk at the same time, and they have waited for it before: when their attestation was begun.
	calledIn := r.Attestation != nil || !r.Session.IsZero()
	if !r.Durable && len(r.Events) == 0 && !calledIn && !db.writer.failing.Load() {
		done, err := db.index.pass(l, r, now)
		if done || err != nil {
			if done {
				db.writer.flushSoon()
			}
			return err
		}
	}
	var judged *attestationRecord
	if r.Attestation != nil {
		judged = encodeAttestation(*r.Attestation)
	}
	return db.write(ctx, func(b *batch) error {
		a := b.hold(l.Agent.ID)
		if err := a.holds(l, now); err != nil {
			return err
		}
		if judged != nil {
			if err := b.replaceLatest(a.id, r.Attestation.Index, judged, r.Retention); err != nil {
				return err
			}
		}
		if !r.Session.IsZero() {
			b.extendSession(a.id, store.Time(r.Session))
		}
		a.last, a.lease = newRound(r.Status, r.State, r.Next, a.last.rev), lease{}
		b.save(a)
		for _, e := range r.Events {
			e.AgentID = a.id
			b.addEvent(e)
		}
		return nil
	})
}

// pass commits a round to memory. It returns false when the round must be durable, or the writer has the agent.
func (x *index) pass(l store.Lease, r store.Round, now time.Time) (bool, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	id := l.Agent.ID
	a := x.agents[id]
	_, held := x.held[id]
	switch {
	case x.closed:
		return false, store.ErrClosed
	case held:
		return false, nil
	}
	if err := a.holds(l, now); err != nil {
		return false, err
	}
	if r.Status.Operational != a.last.status.Operational {
		return false, nil
	}
	x.unplace(a)
	a.last, a.lease = newRound(r.Status, r.State, r.Next, a.last.rev), lease{}
	x.place(a)
	x.dirty[id] = struct{}{}
	return true, nil
}

// holds returns ErrLeaseLost unless the lease is the agent's current one. a may be nil: deleted.
func (a *agent) holds(l store.Lease, now time.Time) error {
	if a == nil || a.lease.epoch == 0 || a.lease.epoch != l.Epoch || !now.Before(a.lease.expires) {
		return fmt.Errorf("agent %q: %w", l.Agent.ID, store.ErrLeaseLost)
	}
	return nil
}

func (db *DB) NextDue(ctx context.Context, verifierID string) (time.Time, bool, error) {
	if err := ctx.Err(); err != nil {
		return time.Time{}, false, err
	}
	x := db.index
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return time.Time{}, false, store.ErrClosed
	}
	next, found := time.Time{}, false
	if q := x.queues[verifierID]; q != nil {
		for _, waiting := range []byTime{q.due, q.leased} {
			if len(waiting) > 0 && (!found || waiting[0].at.Before(next)) {
				next, found = waiting[0].at, true
			}
		}
	}
	return next, found, nil
}

func (db *DB) Lease(ctx context.Context, id, owner string, now time.Time, ttl time.Duration) (store.Lease, error) {
	if err := ctx.Err(); err != nil {
		return store.Lease{}, err
	}
	wanted := lease{owner: owner, expires: store.Time(now.Add(ttl))}
	found, given, err := db.index.lease(id, wanted, now)
	if errors.Is(err, errHeld) {
		// The writer has the agent: it gives the lease as well.
		err = db.write(ctx, func(b *batch) error {
			a := b.hold(id)
			if a == nil {
				return absent(b.tx, id)
			}
			wanted.epoch = db.index.newEpoch()
			if err := a.leaseTo(wanted, now); err != nil {
				return err
			}
			found, given = draft{a.record(), a.spec == nil}, a.lease
			return nil
		})
	}
	if errors.Is(err, store.ErrNotFound) {
		err = db.absent(ctx, id)
	}
	if err != nil {
		return store.Lease{}, err
	}
	agents, err := db.complete(ctx, []draft{found})
	switch {
	case err != nil:
		return store.Lease{}, err // that lease runs out
	case len(agents) == 0:
		return store.Lease{}, db.absent(ctx, id)
	}
	return store.Lease{Agent: agents[0], Owner: owner, Epoch: given.epoch, Expires: given.expires}, nil
}

// errHeld means that an agent is in the writer's hands.
var errHeld = errors.New("held by the writer")

// lease gives the wanted lease of one agent. ErrNotFound also for a damaged one.
func (x *index) lease(id string, wanted lease, now time.Time) (draft, lease, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	a := x.agents[id]
	_, held := x.held[id]
	switch {
	case x.closed:
		return draft{}, lease{}, store.ErrClosed
	case held:
		return draft{}, lease{}, errHeld
	case a == nil:
		return draft{}, lease{}, store.ErrNotFound
	}
	wanted.epoch = x.nextEpoch()
	x.unplace(a)
	err := a.leaseTo(wanted, now)
	x.place(a)
	return draft{a.record(), a.spec == nil}, a.lease, err
}

// leaseTo gives the agent's lease away, unless somebody has it.
func (a *agent) leaseTo(wanted lease, now time.Time) error {
	if a.lease.epoch != 0 && now.Before(a.lease.expires) {
		return fmt.Errorf("agent %q: a round is in flight: %w", a.id, store.ErrConflict)
	}
	a.lease = wanted
	return nil
}

func (x *index) newEpoch() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.nextEpoch()
}

func (x *index) nextEpoch() uint64 {
	x.epoch++
	return x.epoch
}
