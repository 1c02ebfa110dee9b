package storetest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"keylime/store"
)

// version is a policy as it is kept.
func (m *model) version(p store.Policy) store.Policy {
	p = clonePolicy(p)
	p.Digest, p.Rev = store.DigestOf(p.Text), m.next()
	if p.Previous != nil {
		p.Previous.Digest, p.Previous.Until = store.DigestOf(p.Previous.Text), store.Time(p.Previous.Until)
	}
	return p
}

func clonePolicy(p store.Policy) store.Policy {
	p.Text = bytes.Clone(p.Text)
	if p.Previous != nil {
		previous := *p.Previous
		previous.Text = bytes.Clone(previous.Text)
		p.Previous = &previous
	}
	return p
}

func (m *model) Policy(ctx context.Context, kind store.PolicyKind, name string) (store.Policy, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return store.Policy{}, err
	}
	defer leave()
	p, err := found(m.policies, policyRef{kind, name})
	return clonePolicy(p), err
}

func (m *model) PolicyHead(ctx context.Context, kind store.PolicyKind, name string) (store.Policy, error) {
	p, err := m.Policy(ctx, kind, name)
	p.Text = nil
	if p.Previous != nil {
		p.Previous.Text = nil
	}
	return p, err
}

func (m *model) PolicyKeys(ctx context.Context, kind store.PolicyKind) ([]string, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	var keys []string
	for ref, p := range m.policies {
		if ref.kind == kind && p.Keys != "" {
			keys = append(keys, p.Keys)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys), nil
}

func (m *model) PolicyNames(ctx context.Context, kind store.PolicyKind) ([]string, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	var names []string
	for ref := range m.policies {
		if ref.kind == kind {
			names = append(names, ref.name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (m *model) AddPolicy(ctx context.Context, p store.Policy) error {
	return m.setPolicy(ctx, p, false)
}

func (m *model) UpdatePolicy(ctx context.Context, p store.Policy) error {
	return m.setPolicy(ctx, p, true)
}

func (m *model) setPolicy(ctx context.Context, p store.Policy, replace bool) error {
	if err := p.Check(); err != nil {
		return err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	ref := policyRef{p.Kind, p.Name}
	switch old, exists := m.policies[ref]; {
	case exists && !replace:
		return store.ErrExists
	case !exists && replace:
		return store.ErrNotFound
	case replace && p.Rev != 0 && p.Rev != old.Rev:
		return store.ErrConflict
	}
	m.policies[ref] = m.version(p)
	return nil
}

func (m *model) DeletePolicy(ctx context.Context, kind store.PolicyKind, name string) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if _, err := found(m.policies, policyRef{kind, name}); err != nil {
		return err
	}
	if user, used := m.userOf(kind, name); used {
		return fmt.Errorf("%s: %w by %s", name, store.ErrInUse, user)
	}
	delete(m.policies, policyRef{kind, name})
	return nil
}

func (m *model) ClaimEvents(ctx context.Context, owner string, now time.Time, max int, ttl time.Duration) ([]store.Event, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	all := slices.SortedFunc(maps.Values(m.events), func(a, b store.Event) int {
		return cmp.Or(a.Due.Compare(b.Due), cmp.Compare(a.ID, b.ID))
	})
	var claimed []store.Event
	for _, e := range all {
		if e.Due.After(now) || now.Before(e.Lease) || len(claimed) >= max {
			continue
		}
		e.Lease = store.Time(now.Add(ttl))
		m.events[e.ID] = e
		e.Message = bytes.Clone(e.Message)
		claimed = append(claimed, e)
	}
	return claimed, nil
}

func (m *model) FinishEvent(ctx context.Context, id uint64) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if _, err := found(m.events, id); err != nil {
		return err
	}
	delete(m.events, id)
	return nil
}

func (m *model) RetryEvent(ctx context.Context, id uint64, attempts int, next time.Time) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	e, err := found(m.events, id)
	if err != nil {
		return err
	}
	e.Attempts, e.Due, e.Lease = attempts, store.Time(next), time.Time{}
	m.events[id] = e
	return nil
}
