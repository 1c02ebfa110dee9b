package bolt

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"keylime/internal/attest"
	"keylime/store"
)

func (db *DB) AddAgent(ctx context.Context, a store.Agent, create ...store.Policy) error {
	if err := a.Check(); err != nil {
		return err
	}
	for _, p := range create {
		if err := p.Check(); err != nil {
			return err
		}
	}
	spec := a.Spec.Clone()
	spec.Enrolled = store.Time(spec.Enrolled)
	record := encodeRecord(spec)
	return db.write(ctx, func(b *batch) error {
		if err := b.admits(a.ID, spec, create); err != nil {
			return err
		}
		for _, p := range create {
			b.putPolicy(p)
		}
		b.put(specBucket, []byte(a.ID), record)
		for _, kind := range store.PolicyKinds() {
			if name := spec.PolicyName(kind); name != "" {
				b.put(usesBucket, usesKey(kind, name, a.ID), nil)
			}
		}
		last := newRound(a.Status, a.State, a.Due, b.next(specBucket))
		b.save(newAgent(a.ID, spec, len(record), last, nil))
		return nil
	})
}

// admits returns why an agent cannot be enrolled.
func (b *batch) admits(id string, spec store.AgentSpec, create []store.Policy) error {
	if b.hold(id) != nil {
		return fmt.Errorf("agent %q: %w", id, store.ErrExists)
	}
	if b.isDamaged(id) {
		return fmt.Errorf("agent %q: %w, but its record is damaged: delete it first", id, store.ErrExists)
	}
	created := map[string]bool{}
	for _, p := range create {
		key := policyKey(p.Kind, p.Name)
		if created[string(key)] || b.has(policyBucket, key) {
			return fmt.Errorf("%s policy %q: %w", p.Kind, p.Name, store.ErrExists)
		}
		created[string(key)] = true
	}
	for _, kind := range store.PolicyKinds() {
		name := spec.PolicyName(kind)
		if key := policyKey(kind, name); name != "" && !created[string(key)] && !b.has(policyBucket, key) {
			return fmt.Errorf("agent %q: %s policy %q: %w", id, kind, name, store.ErrNotFound)
		}
	}
	return nil
}

// isDamaged reports whether the file holds an agent that memory does not.
func (b *batch) isDamaged(id string) bool { return inFile(b.tx, id) }

func inFile(tx *bbolt.Tx, id string) bool {
	return get(tx, specBucket, []byte(id)) != nil || get(tx, roundBucket, []byte(id)) != nil
}

func (db *DB) Agent(ctx context.Context, id string) (store.Agent, error) {
	found, err := db.agents(ctx, []string{id})
	switch {
	case err != nil:
		return store.Agent{}, err
	case len(found) == 1:
		return found[0], nil
	}
	return store.Agent{}, db.absent(ctx, id)
}

// absent is the error of an agent that memory does not hold.
func (db *DB) absent(ctx context.Context, id string) error {
	return db.view(ctx, func(tx *bbolt.Tx) error { return absent(tx, id) })
}

// absent tells an agent that is in the file, but not in memory, from one that does not exist.
func absent(tx *bbolt.Tx, id string) error {
	if inFile(tx, id) {
		return fmt.Errorf("agent %q: %w", id, store.ErrDamaged)
	}
	return fmt.Errorf("agent %q: %w", id, store.ErrNotFound)
}

func (db *DB) Agents(ctx context.Context, f store.Filter, after string, max int) ([]store.Agent, error) {
	return db.agents(ctx, db.index.list(f, after, max))
}

// list returns the ids of up to max agents that the filter selects, after the given one.
func (x *index) list(f store.Filter, after string, max int) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	at, found := slices.BinarySearch(x.ids, after)
	if found {
		at++
	}
	var ids []string
	for ; at < len(x.ids) && len(ids) < max; at++ {
		if id := x.ids[at]; f.VerifierID == "" || x.agents[id].verifier == f.VerifierID {
			ids = append(ids, id)
		}
	}
	return ids
}

// agents returns those of the ids that exist.
func (db *DB) agents(ctx context.Context, ids []string) ([]store.Agent, error) {
	found, err := db.index.records(ctx, ids)
	if err != nil {
		return nil, err
	}
	return db.complete(ctx, found)
}

// draft is an agent whose enrolment may still be in the file only.
type draft struct {
	store.Agent
	inFile bool
}

func (x *index) records(ctx context.Context, ids []string) ([]draft, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil, store.ErrClosed
	}
	var found []draft
	for _, id := range ids {
		if a := x.agents[id]; a != nil {
			found = append(found, draft{a.record(), a.spec == nil})
		}
	}
	return found, nil
}

// complete reads the enrolments that memory does not keep. It leaves out agents that were deleted meanwhile, and
// those whose enrolment has been damaged since.
func (db *DB) complete(ctx context.Context, drafts []draft) ([]store.Agent, error) {
	var agents []store.Agent
	if !slices.ContainsFunc(drafts, func(d draft) bool { return d.inFile }) {
		for _, d := range drafts {
			agents = append(agents, d.Agent)
		}
		return agents, nil
	}
	err := db.view(ctx, func(tx *bbolt.Tx) error {
		for _, d := range drafts {
			if d.inFile {
				record := get(tx, specBucket, []byte(d.ID))
				if record == nil {
					continue
				}
				var err error
				if d.Spec, err = decodeSpec(record); err != nil {
					db.log.Error().Err(err).Str("agent", d.ID).Msg("Agent left out: its enrolment cannot be read")
					continue
				}
			}
			agents = append(agents, d.Agent)
		}
		return nil
	})
	return agents, err
}

func (db *DB) DeleteAgent(ctx context.Context, id string) error {
	return db.write(ctx, func(b *batch) error {
		if b.hold(id) == nil && !b.isDamaged(id) {
			return fmt.Errorf("agent %q: %w", id, store.ErrNotFound)
		}
		b.dropUses(id)
		b.dropEventsOf(id)
		b.closeSession(id)
		b.dropAttestations(id)
		b.dropPayload(id)
		b.delete(specBucket, []byte(id))
		b.delete(roundBucket, []byte(id))
		b.changed[id] = nil
		for _, kind := range store.PolicyKinds() {
			if _, used := b.userOf(kind, id); !used && b.has(policyBucket, policyKey(kind, id)) {
				b.deletePolicy(kind, id)
			}
		}
		return nil
	})
}

// dropUses removes an agent's rows from the index of who uses which policy.
func (b *batch) dropUses(id string) {
	spec, err := decodeSpec(b.get(specBucket, []byte(id)))
	if err != nil {
		b.deleteSuffix(usesBucket, func(key []byte) int { return 2 + int(key[1]) }, []byte(id))
		return
	}
	for _, kind := range store.PolicyKinds() {
		if name := spec.PolicyName(kind); name != "" {
			b.delete(usesBucket, usesKey(kind, name, id))
		}
	}
}

func (db *DB) StopAgent(ctx context.Context, id string) error {
	return db.intervene(ctx, id, func(a *agent, rev uint64) *round {
		status := a.last.status
		status.Operational = store.StateTenantFailed
		return newRound(status, a.last.state, time.Time{}, rev)
	})
}

func (db *DB) ReactivateAgent(ctx context.Context, id string, now time.Time) error {
	return db.intervene(ctx, id, func(a *agent, rev uint64) *round {
		status := a.last.status
		status.Operational, status.Retries, status.ProvideV = store.StateStart, 0, a.hasV
		if a.push {
			status.Operational, status.Failures, status.TimedOut, status.ProvideV = store.StateGetQuote, 0, false, false
			return newRound(status, attest.State{}, time.Time{}, rev)
		}
		return newRound(status, attest.State{}, now, rev)
	})
}

// intervene replaces the agent's last round from outside its rounds, and ends its lease.
func (db *DB) intervene(ctx context.Context, id string, change func(a *agent, rev uint64) *round) error {
	return db.write(ctx, func(b *batch) error {
		a := b.hold(id)
		if a == nil {
			return absent(b.tx, id)
		}
		a.last, a.lease = change(a, b.next(specBucket)), lease{}
		b.save(a)
		return nil
	})
}

// newRound returns what is kept of a round.
func newRound(status store.AgentStatus, state attest.State, due time.Time, rev uint64) *round {
	status.LastQuote, status.LastSuccess = store.Time(status.LastQuote), store.Time(status.LastSuccess)
	if !status.Operational.Polled() {
		due = time.Time{}
	}
	return &round{status: status, state: state, due: store.Time(due), rev: rev}
}
