package bolt

import (
	"cmp"
	"container/heap"
	"context"
	"crypto/rand"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"keylime/internal/attest"
	"keylime/store"
)

// keepSpec is the encoded size up to which an enrolment stays in memory. Larger ones are read from the file with each
// claim: what an agent costs in memory has a bound that tenants cannot move.
const keepSpec = 8 << 10

// agent is one enrolled machine. Those in the index change under its lock only; the writer works on copies.
type agent struct {
	id       string
	verifier string
	spec     *store.AgentSpec // never modified; nil when larger than keepSpec
	hasV     bool
	push     bool   // calls in
	last     *round // as last committed
	durable  *round // as last written to the file
	lease    lease

	heap *byTime // where it waits; nil when it has no due time, or is in the writer's hands
	at   time.Time
	pos  int
}

// round is what the last round left. It is never modified.
type round struct {
	status store.AgentStatus
	state  attest.State
	due    time.Time
	rev    uint64
}

// lease is the current lease of an agent; epoch 0 means that there is none.
type lease struct {
	epoch   uint64
	owner   string
	expires time.Time
}

func newAgent(id string, spec store.AgentSpec, encodedSize int, last, durable *round) *agent {
	a := &agent{id: id, verifier: spec.VerifierID, hasV: spec.V != nil, push: spec.Push, last: last, durable: durable}
	if encodedSize <= keepSpec {
		a.spec = &spec
	}
	return a
}

// record returns the agent as callers see it. Its Spec is zero when a.spec is nil.
func (a *agent) record() store.Agent {
	r := store.Agent{ID: a.id, Status: a.last.status, State: a.last.state, Due: a.last.due, Rev: a.last.rev}
	if a.spec != nil {
		r.Spec = a.spec.Clone()
	}
	return r
}

// index holds every readable agent.
type index struct {
	mu     sync.Mutex
	closed bool
	agents map[string]*agent
	ids    []string // sorted
	queues map[string]*queue
	dirty  map[string]struct{} // agents whose last round is not yet in the file
	held   map[string]struct{} // agents in the writer's hands: nobody else changes them
	epoch  uint64              // of the lease given last
}

// queue are the agents of one verifier that have rounds, by when they may be claimed.
type queue struct {
	due, leased byTime
}

// newIndex starts epochs at a random number, so that no lease outlives the process that gave it.
func newIndex() *index {
	var start [8]byte
	rand.Read(start[:]) // never fails
	return &index{
		agents: map[string]*agent{},
		queues: map[string]*queue{},
		dirty:  map[string]struct{}{},
		held:   map[string]struct{}{},
		epoch:  binary.BigEndian.Uint64(start[:]) >> 1,
	}
}

// close makes every later verb fail; false when it was closed already.
func (x *index) close() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	was := x.closed
	x.closed = true
	return !was
}

// ready returns why no verb can be served.
func (x *index) ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return store.ErrClosed
	}
	return nil
}

// load adds an agent; ids come in order.
func (x *index) load(a *agent) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.agents[a.id] = a
	x.ids = append(x.ids, a.id)
	x.place(a)
}

// place queues an agent for when it can be claimed: after its lease, else when it is due. One that is never due waits
// for nothing: its lease is over when it has expired.
func (x *index) place(a *agent) {
	q := x.queues[a.verifier]
	if q == nil {
		q = &queue{}
		x.queues[a.verifier] = q
	}
	switch {
	case a.last.due.IsZero():
		return
	case a.lease.epoch != 0:
		a.heap, a.at = &q.leased, a.lease.expires
	default:
		a.heap, a.at = &q.due, a.last.due
	}
	heap.Push(a.heap, a)
}

func (x *index) unplace(a *agent) {
	if a.heap == nil {
		return
	}
	heap.Remove(a.heap, a.pos)
	a.heap = nil
}

// hold takes an agent into the writer's hands and returns a copy for it to work on; nil when there is none.
func (x *index) hold(id string) *agent {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.held[id] = struct{}{}
	a := x.agents[id]
	if a == nil {
		return nil
	}
	x.unplace(a)
	work := *a
	return &work
}

// settle lets go of the agents in the writer's hands: as they are in changed when the transaction happened (nil =
// deleted), else as they were. flushed are rounds that the transaction wrote for agents that were not held.
func (x *index) settle(changed map[string]*agent, flushed map[string]*round, happened bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for id, work := range changed {
		delete(x.held, id)
		if happened {
			x.replace(id, work)
		} else if a := x.agents[id]; a != nil {
			x.place(a)
		}
	}
	if !happened {
		return
	}
	for id, r := range flushed {
		a := x.agents[id]
		a.durable = r
		if a.last == r {
			delete(x.dirty, id)
		}
	}
}

func (x *index) replace(id string, work *agent) {
	at, known := slices.BinarySearch(x.ids, id)
	switch {
	case work == nil && known:
		x.ids = slices.Delete(x.ids, at, at+1)
	case work != nil && !known:
		x.ids = slices.Insert(x.ids, at, id)
	}
	if work == nil {
		x.forget(id)
		return
	}
	x.agents[id] = work
	if work.last == work.durable {
		delete(x.dirty, id)
	}
	x.place(work)
}

func (x *index) forget(id string) {
	if a := x.agents[id]; a != nil {
		if q := x.queues[a.verifier]; q != nil && len(q.due) == 0 && len(q.leased) == 0 {
			delete(x.queues, a.verifier)
		}
	}
	delete(x.agents, id)
	delete(x.dirty, id)
}

// undurable returns the rounds that are not yet in the file.
func (x *index) undurable() map[string]*round {
	x.mu.Lock()
	defer x.mu.Unlock()
	rounds := make(map[string]*round, len(x.dirty))
	for id := range x.dirty {
		rounds[id] = x.agents[id].last
	}
	return rounds
}

// byTime is a heap of agents by at, then id.
type byTime []*agent

func (h byTime) Len() int { return len(h) }
func (h byTime) Less(i, j int) bool {
	return cmp.Or(h[i].at.Compare(h[j].at), cmp.Compare(h[i].id, h[j].id)) < 0
}
func (h byTime) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i, j
}
func (h *byTime) Push(x any) {
	a := x.(*agent)
	a.pos = len(*h)
	*h = append(*h, a)
}
func (h *byTime) Pop() any {
	old := *h
	a := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return a
}
