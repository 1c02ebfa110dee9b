// Package storetest is the contract of package store as a test suite that every engine runs.
//
// Run tests each sentence of the contract, also against a model; Faults what happens when a transaction fails, or
// happens and is reported to have failed; Crash what is left after kill -9; Bench and BenchCalls what a round costs.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keylime/internal/attest"
	"keylime/store"
	"keylime/tpm"
)

// Engine is what is tested.
type Engine interface {
	store.Registrar
	store.Verifier
	Close() error
}

// Opener opens the same storage whenever it is called. The caller closes the engine before it opens another.
type Opener func(testing.TB) Engine

// Run tests an engine. fresh makes new, empty storage.
func Run(t *testing.T, fresh func(testing.TB) Opener) {
	groups := []struct {
		name string
		test func(*testing.T, func(testing.TB) Opener)
	}{
		{"Registrar", testRegistrar},
		{"Enrolment", testEnrolment},
		{"Schedule", testSchedule},
		{"Policies", testPolicies},
		{"Outbox", testOutbox},
		{"Sessions", testSessions},
		{"Attestations", testAttestations},
		{"Records", testRecords},
		{"Life", testLife},
		{"Concurrency", testConcurrency},
		{"Model", testModel},
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			g.test(t, fresh)
		})
	}
}

// test is one sentence of the contract.
type test struct {
	name string
	run  func(*rig)
}

func runAll(t *testing.T, fresh func(testing.TB) Opener, tests []test) {
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) { c.run(start(t, fresh)) })
	}
}

// rig is an open engine and what most tests need with it.
type rig struct {
	testing.TB
	Engine
	ctx  context.Context
	open Opener
}

func start(t testing.TB, fresh func(testing.TB) Opener) *rig {
	open := fresh(t)
	b := &rig{TB: t, Engine: open(t), ctx: context.Background(), open: open}
	t.Cleanup(func() { b.ok(b.Engine.Close()) })
	return b
}

// reopen closes the engine and opens its storage again.
func (b *rig) reopen() {
	b.Helper()
	b.ok(b.Engine.Close())
	b.Engine = b.open(b)
}

func (b *rig) ok(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *rig) is(err, want error) {
	b.Helper()
	if !errors.Is(err, want) {
		b.Fatalf("error is %v, want %v", err, want)
	}
}

func (b *rig) same(got, want any) {
	b.Helper()
	if d := cmp.Diff(want, got); d != "" {
		b.Fatalf("not as expected (-want +got):\n%s", d)
	}
}

// must returns the value of a verb that may not fail.
func must[T any](b *rig) func(T, error) T {
	return func(v T, err error) T {
		b.Helper()
		b.ok(err)
		return v
	}
}

// t0 is when tests begin. It has microseconds, which stores keep.
var t0 = time.Date(2026, 2, 3, 4, 5, 6, 789_012_000, time.UTC)

// at is t0 and some seconds.
func at(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }

const (
	verifierID = "verifier-1"
	owner      = "owner-1"
	ttl        = time.Minute
)

// agent is an agent that is due at t0.
func agent(id string) store.Agent {
	return store.Agent{
		ID:     id,
		Spec:   store.AgentSpec{VerifierID: verifierID, IP: "192.0.2.1", Port: 9002, Enrolled: t0},
		Status: store.AgentStatus{Operational: store.StateStart, SeverityRank: -1},
		Due:    t0,
	}
}

func policy(name, text string) store.Policy {
	return store.Policy{Kind: store.RuntimePolicy, Name: name, Text: []byte(text)}
}

// registration is one by a TPM of that name.
func registration(id, tpm string) store.Registration {
	return store.Registration{
		ID:        id,
		Identity:  store.Identity{EKTPM: []byte("ek of " + tpm), AIKTPM: []byte("ak of " + tpm)},
		IP:        "192.0.2.1",
		Port:      9002,
		Challenge: "secret for " + tpm,
	}
}

// passed is the good round after l, of which only the verifier's counters tell.
func passed(l store.Lease, next time.Time) store.Round {
	r := store.Round{Status: l.Agent.Status, State: l.Agent.State, Next: next}
	r.Status.AttestationCount++
	r.State.Attested = true
	r.State.Shown++
	return r
}

// failed is a round after which there are no others, with one event.
func failed(l store.Lease, message string) store.Round {
	r := store.Round{Status: l.Agent.Status, State: l.Agent.State}
	r.Status.Operational = store.StateFailed
	r.Events = []store.Event{{Channel: "webhook", Message: []byte(message), Created: t0, Due: t0}}
	return r
}

// claimOne claims the one agent of the verifier that is due.
func (b *rig) claimOne(now time.Time) store.Lease {
	b.Helper()
	leases := must[[]store.Lease](b)(b.Claim(b.ctx, verifierID, owner, now, 10, ttl))
	if len(leases) != 1 {
		b.Fatalf("claimed %d agents, want 1", len(leases))
	}
	return leases[0]
}

func (b *rig) claimNone(now time.Time) {
	b.Helper()
	b.same(len(must[[]store.Lease](b)(b.Claim(b.ctx, verifierID, owner, now, 10, ttl))), 0)
}

// dump is everything that an engine shows, without the numbers that it is free to choose.
type dump struct {
	Active, Pending map[string]store.Registration
	CountPending    int
	Agents          []store.Agent
	Policies        []store.Policy
	Events          []store.Event
	Sessions        []store.Session
	Attestations    []store.Attestation
	Payloads        []store.Payload
}

func (b *rig) dump() dump {
	b.Helper()
	d := dump{Active: map[string]store.Registration{}, Pending: map[string]store.Registration{}}
	for _, id := range must[[]string](b)(b.RegisteredIDs(b.ctx, "", 1000)) {
		switch r, err := b.Registered(b.ctx, id); {
		case err == nil:
			r.Rev = 0
			d.Active[id] = r
		case !errors.Is(err, store.ErrInactive):
			b.Fatal(err)
		}
		switch r, err := b.Pending(b.ctx, id); {
		case err == nil:
			r.Rev = 0
			d.Pending[id] = r
		case !errors.Is(err, store.ErrNotFound):
			b.Fatal(err)
		}
	}
	d.CountPending = must[int](b)(b.CountPending(b.ctx))
	d.Agents = must[[]store.Agent](b)(b.Agents(b.ctx, store.Filter{}, "", 1000))
	for i := range d.Agents {
		d.Agents[i].Rev = 0
		d.Attestations = append(d.Attestations, b.all(d.Agents[i].ID)...)
	}
	for _, kind := range store.PolicyKinds() {
		for _, name := range must[[]string](b)(b.PolicyNames(b.ctx, kind)) {
			p := must[store.Policy](b)(b.Policy(b.ctx, kind, name))
			p.Rev = 0
			d.Policies = append(d.Policies, p)
		}
	}
	d.Events = b.events()
	for i := range d.Events {
		d.Events[i].ID, d.Events[i].Lease = 0, time.Time{}
	}
	d.Sessions, d.Payloads = b.sessions(d.Agents), b.payloads(d.Agents)
	return d
}

// sessionIDs are ids that tests use, beside those of session.
var sessionIDs = []string{"s0", "s1", "s2", "s3", "s4"}

// sessions are those of the ids that tests use.
func (b *rig) sessions(agents []store.Agent) []store.Session {
	b.Helper()
	ids := slices.Clone(sessionIDs)
	for _, a := range agents {
		ids = append(ids, session(a.ID).ID)
	}
	var sessions []store.Session
	for _, id := range ids {
		switch s, err := b.Session(b.ctx, id); {
		case err == nil:
			sessions = append(sessions, s)
		case !errors.Is(err, store.ErrNotFound):
			b.Fatal(err)
		}
	}
	return sessions
}

func (b *rig) payloads(agents []store.Agent) []store.Payload {
	b.Helper()
	var payloads []store.Payload
	for _, a := range agents {
		switch p, err := b.Payload(b.ctx, a.ID); {
		case err == nil:
			p.Rev = 0
			payloads = append(payloads, p)
		case !errors.Is(err, store.ErrNotFound):
			b.Fatal(err)
		}
	}
	return payloads
}

// events lists the outbox, leased or not. It leaves nothing leased: what it claims at the end of time it claims until
// long ago.
func (b *rig) events() []store.Event {
	b.Helper()
	return must[[]store.Event](b)(b.ClaimEvents(b.ctx, "dump", endOfTime, 1000, t0.Sub(endOfTime)))
}

// endOfTime is after everything that tests write, expiries of leases included.
var endOfTime = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// state is an attestation state with something in every field.
func state(n int) attest.State {
	s := attest.State{Attested: true, Bank: tpm.SHA256, NextEntry: uint64(n), PCR10: make([]byte, 32), Shown: uint64(n)}
	s.Clock.Clock = uint64(n)
	s.PCR10[0] = byte(n)
	s.Keyrings = map[string]string{".ima": fmt.Sprintf(`{"n": %d}`, n)}
	return s
}
