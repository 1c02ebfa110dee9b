package storetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"keylime/store"
)

// model is the contract in its plainest form: maps, scans and one lock. It is what engines are compared with, and an
// engine itself as far as the suite is concerned.
type model struct {
	mu       sync.Mutex
	closed   bool
	active   map[string]store.Registration
	pending  map[string]store.Registration
	agents   map[string]*modelAgent
	policies map[policyRef]store.Policy
	events   map[uint64]store.Event
	offers   map[string]modelOffer
	sessions map[string]store.Session
	number   uint64 // the last revision, epoch or event id
}

type modelAgent struct {
	store.Agent
	lease   store.Lease         // Epoch 0 = none
	history []store.Attestation // in the order of the indices
	begun   uint64              // attestations, in all
	payload *store.Payload
}

type modelOffer struct {
	store.Offer
	number uint64 // grows from one to the next
}

type policyRef struct {
	kind store.PolicyKind
	name string
}

func newModel() *model {
	return &model{
		active:   map[string]store.Registration{},
		pending:  map[string]store.Registration{},
		agents:   map[string]*modelAgent{},
		policies: map[policyRef]store.Policy{},
		events:   map[uint64]store.Event{},
		sessions: map[string]store.Session{},
		offers:   map[string]modelOffer{},
	}
}

func (m *model) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

func (m *model) next() uint64 {
	m.number++
	return m.number
}

// enter locks the model for a verb.
func (m *model) enter(ctx context.Context) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil, store.ErrClosed
	}
	return m.mu.Unlock, nil
}

func (m *model) Stage(ctx context.Context, r store.Registration, now time.Time, pendingTTL time.Duration) (uint64, error) {
	if err := r.Check(); err != nil {
		return 0, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	a := m.active[r.ID]
	p, isPending := m.pending[r.ID]
	if a.Identity.Conflicts(r.Identity) {
		return 0, store.ErrIdentity
	}
	if isPending && now.Sub(p.Staged) < pendingTTL && p.Identity.Conflicts(r.Identity) {
		return 0, store.ErrIdentity
	}
	r.RegCount, r.Rev, r.Staged, r.Activated = a.RegCount+1, m.next(), store.Time(now), time.Time{}
	m.pending[r.ID] = r
	return r.Rev, nil
}

func (m *model) Pending(ctx context.Context, id string) (store.Registration, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return store.Registration{}, err
	}
	defer leave()
	return found(m.pending, id)
}

func found[K comparable, V any](in map[K]V, key K) (V, error) {
	v, ok := in[key]
	if !ok {
		return v, fmt.Errorf("%v: %w", key, store.ErrNotFound)
	}
	return v, nil
}

func (m *model) staged(id string, rev uint64) (store.Registration, error) {
	r, err := found(m.pending, id)
	if err == nil && r.Rev != rev {
		err = store.ErrConflict
	}
	return r, err
}

func (m *model) Activate(ctx context.Context, id string, rev uint64, now time.Time) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	r, err := m.staged(id, rev)
	if err != nil {
		return err
	}
	delete(m.pending, id)
	r.Activated, r.Challenge = store.Time(now), ""
	m.active[id] = r
	return nil
}

func (m *model) DropPending(ctx context.Context, id string, rev uint64) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if _, err := m.staged(id, rev); err != nil {
		return err
	}
	delete(m.pending, id)
	return nil
}

func (m *model) Registered(ctx context.Context, id string) (store.Registration, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return store.Registration{}, err
	}
	defer leave()
	r, err := found(m.active, id)
	if _, isPending := m.pending[id]; err != nil && isPending {
		err = store.ErrInactive
	}
	return r, err
}

// after lists up to max of the keys that come after the given one.
func after[V any](in map[string]V, key string, max int) []string {
	var keys []string
	for _, k := range slices.Sorted(maps.Keys(in)) {
		if k > key && len(keys) < max {
			keys = append(keys, k)
		}
	}
	return keys
}

func (m *model) RegisteredIDs(ctx context.Context, id string, max int) ([]string, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	all := maps.Clone(m.active)
	maps.Copy(all, m.pending)
	return after(all, id, max), nil
}

func (m *model) SameEK(ctx context.Context, id string, ekTPM []byte) ([]string, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	same := map[string]bool{}
	for _, in := range []map[string]store.Registration{m.active, m.pending} {
		for other, r := range in {
			if other != id && len(ekTPM) > 0 && bytes.Equal(r.Identity.EKTPM, ekTPM) {
				same[other] = true
			}
		}
	}
	return after(same, "", store.MaxSameEK), nil
}

func (m *model) Deregister(ctx context.Context, id string) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	_, isActive := m.active[id]
	_, isPending := m.pending[id]
	if !isActive && !isPending {
		return store.ErrNotFound
	}
	delete(m.active, id)
	delete(m.pending, id)
	return nil
}

func (m *model) ExpirePending(ctx context.Context, before time.Time, max int) (int, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	old := slices.SortedFunc(maps.Values(m.pending), func(a, b store.Registration) int { return a.Staged.Compare(b.Staged) })
	expired := 0
	for _, r := range old {
		if r.Staged.Before(store.Time(before)) && expired < max {
			delete(m.pending, r.ID)
			expired++
		}
	}
	return expired, nil
}

func (m *model) CountPending(ctx context.Context) (int, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	return len(m.pending), nil
}
