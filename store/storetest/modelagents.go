package storetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"keylime/internal/attest"
	"keylime/store"
)

func (m *model) AddAgent(ctx context.Context, a store.Agent, create ...store.Policy) error {
	err := a.Check()
	for _, p := range create {
		if err == nil {
			err = p.Check()
		}
	}
	if err != nil {
		return err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if m.agents[a.ID] != nil {
		return fmt.Errorf("%s: %w", a.ID, store.ErrExists)
	}
	policies := maps.Clone(m.policies)
	for _, p := range create {
		if _, exists := policies[policyRef{p.Kind, p.Name}]; exists {
			return fmt.Errorf("%s: %w", p.Name, store.ErrExists)
		}
		policies[policyRef{p.Kind, p.Name}] = m.version(p)
	}
	for _, kind := range store.PolicyKinds() {
		if name := a.Spec.PolicyName(kind); name != "" {
			if _, exists := policies[policyRef{kind, name}]; !exists {
				return store.ErrNotFound
			}
		}
	}
	m.policies = policies
	a.Spec = a.Spec.Clone()
	a.Spec.Enrolled, a.Rev = store.Time(a.Spec.Enrolled), m.next()
	m.agents[a.ID] = &modelAgent{Agent: kept(a)}
	return nil
}

// kept is an agent as stores keep it.
func kept(a store.Agent) store.Agent {
	a.Due = store.Time(a.Due)
	if !a.Status.Operational.Polled() {
		a.Due = time.Time{}
	}
	a.Status.LastQuote, a.Status.LastSuccess = store.Time(a.Status.LastQuote), store.Time(a.Status.LastSuccess)
	return a
}

// seen is an agent as callers get it.
func (a *modelAgent) seen() store.Agent {
	r := a.Agent
	r.Spec = r.Spec.Clone()
	return r
}

func (m *model) Agent(ctx context.Context, id string) (store.Agent, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return store.Agent{}, err
	}
	defer leave()
	a, err := found(m.agents, id)
	if err != nil {
		return store.Agent{}, err
	}
	return a.seen(), nil
}

func (m *model) Agents(ctx context.Context, f store.Filter, id string, max int) ([]store.Agent, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	selected := maps.Clone(m.agents)
	maps.DeleteFunc(selected, func(_ string, a *modelAgent) bool {
		return f.VerifierID != "" && f.VerifierID != a.Spec.VerifierID
	})
	var agents []store.Agent
	for _, id := range after(selected, id, max) {
		agents = append(agents, m.agents[id].seen())
	}
	return agents, nil
}

func (m *model) DeleteAgent(ctx context.Context, id string) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if m.agents[id] == nil {
		return store.ErrNotFound
	}
	delete(m.agents, id)
	maps.DeleteFunc(m.sessions, func(_ string, s store.Session) bool { return s.AgentID == id })
	for _, kind := range store.PolicyKinds() {
		if _, used := m.userOf(kind, id); !used {
			delete(m.policies, policyRef{kind, id})
		}
	}
	maps.DeleteFunc(m.events, func(_ uint64, e store.Event) bool { return e.AgentID == id || e.Target == id })
	return nil
}

func (m *model) userOf(kind store.PolicyKind, name string) (string, bool) {
	for id, a := range m.agents {
		if a.Spec.PolicyName(kind) == name {
			return id, true
		}
	}
	return "", false
}

func (m *model) StopAgent(ctx context.Context, id string) error {
	return m.intervene(ctx, id, func(a *store.Agent) { a.Status.Operational = store.StateTenantFailed })
}

func (m *model) ReactivateAgent(ctx context.Context, id string, now time.Time) error {
	return m.intervene(ctx, id, func(a *store.Agent) {
		a.Status.Operational, a.Status.Retries, a.Status.ProvideV = store.StateStart, 0, a.Spec.V != nil
		a.State, a.Due = attest.State{}, now
		if a.Spec.Push {
			a.Status.Operational, a.Status.ProvideV, a.Due = store.StateGetQuote, false, time.Time{}
			a.Status.Failures, a.Status.TimedOut = 0, false
		}
	})
}

func (m *model) intervene(ctx context.Context, id string, change func(*store.Agent)) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	a, err := found(m.agents, id)
	if err != nil {
		return err
	}
	change(&a.Agent)
	a.Agent, a.Rev, a.lease = kept(a.Agent), m.next(), store.Lease{}
	return nil
}

func (m *model) Claim(ctx context.Context, verifierID, owner string, now time.Time, max int, ttl time.Duration) ([]store.Lease, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	var due []*modelAgent
	for _, id := range slices.Sorted(maps.Keys(m.agents)) {
		a := m.agents[id]
		free := a.lease.Epoch == 0 || !now.Before(a.lease.Expires)
		if a.Spec.VerifierID == verifierID && free && !a.Due.IsZero() && !a.Due.After(now) {
			due = append(due, a)
		}
	}
	slices.SortStableFunc(due, func(a, b *modelAgent) int { return a.Due.Compare(b.Due) })
	var leases []store.Lease
	for _, a := range due[:min(max, len(due))] {
		a.lease = store.Lease{Owner: owner, Epoch: m.next(), Expires: store.Time(now.Add(ttl))}
		l := a.lease
		l.Agent = a.seen()
		leases = append(leases, l)
	}
	return leases, nil
}

func (m *model) Commit(ctx context.Context, l store.Lease, r store.Round, now time.Time) error {
	if err := r.Check(l.Agent.ID); err != nil {
		return err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	a := m.agents[l.Agent.ID]
	if a == nil || a.lease.Epoch == 0 || a.lease.Epoch != l.Epoch || !now.Before(a.lease.Expires) {
		return store.ErrLeaseLost
	}
	if r.Attestation != nil {
		if err := a.judge(*r.Attestation, r.Retention); err != nil {
			return err
		}
	}
	m.extendSession(a.ID, store.Time(r.Session))
	a.Status, a.State, a.Due = r.Status, r.State, r.Next
	a.Agent, a.lease = kept(a.Agent), store.Lease{}
	for _, e := range r.Events {
		e.ID, e.AgentID, e.Lease = m.next(), a.ID, time.Time{}
		e.Created, e.Due, e.Message = store.Time(e.Created), store.Time(e.Due), bytes.Clone(e.Message)
		m.events[e.ID] = e
	}
	return nil
}

func (m *model) NextDue(ctx context.Context, verifierID string) (time.Time, bool, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return time.Time{}, false, err
	}
	defer leave()
	next, any := time.Time{}, false
	for _, a := range m.agents {
		when := a.Due
		if a.lease.Epoch != 0 {
			when = a.lease.Expires
		}
		if a.Spec.VerifierID == verifierID && !a.Due.IsZero() && (!any || when.Before(next)) {
			next, any = when, true
		}
	}
	return next, any, nil
}
