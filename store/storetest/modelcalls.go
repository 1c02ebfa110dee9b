package storetest

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"time"

	"keylime/store"
)

func (m *model) Offer(ctx context.Context, o store.Offer) error {
	if err := o.Check(); err != nil {
		return err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	o.Nonce, o.Created, o.Expires = bytes.Clone(o.Nonce), store.Time(o.Created), store.Time(o.Expires)
	m.offers[o.ID] = modelOffer{o, m.next()}
	if len(m.offers) > store.MaxOffers {
		oldest := o.ID
		for id, other := range m.offers {
			if other.number < m.offers[oldest].number {
				oldest = id
			}
		}
		delete(m.offers, oldest)
	}
	return nil
}

func (m *model) Offered(ctx context.Context, id string) (store.Offer, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return store.Offer{}, err
	}
	defer leave()
	o, err := found(m.offers, id)
	o.Nonce = bytes.Clone(o.Nonce)
	return o.Offer, err
}

func (m *model) TakeOffer(ctx context.Context, id string) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	_, err = found(m.offers, id)
	delete(m.offers, id)
	return err
}

func (m *model) OpenSession(ctx context.Context, s store.Session) error {
	if err := s.Check(); err != nil {
		return err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if _, err := found(m.agents, s.AgentID); err != nil {
		return err
	}
	if old, exists := m.sessions[s.ID]; exists && old.AgentID != s.AgentID {
		return store.ErrExists
	}
	maps.DeleteFunc(m.sessions, func(_ string, old store.Session) bool { return old.AgentID == s.AgentID })
	s.TokenHash, s.Expires = bytes.Clone(s.TokenHash), store.Time(s.Expires)
	m.sessions[s.ID] = s
	return nil
}

func (m *model) Session(ctx context.Context, id string) (store.Session, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return store.Session{}, err
	}
	defer leave()
	s, err := found(m.sessions, id)
	s.TokenHash = bytes.Clone(s.TokenHash)
	return s, err
}

func (m *model) extendSession(agentID string, until time.Time) {
	for id, s := range m.sessions {
		if s.AgentID == agentID && s.Expires.Before(until) {
			s.Expires = until
			m.sessions[id] = s
		}
	}
}

func (m *model) Lease(ctx context.Context, id, owner string, now time.Time, ttl time.Duration) (store.Lease, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return store.Lease{}, err
	}
	defer leave()
	a, err := found(m.agents, id)
	if err != nil {
		return store.Lease{}, err
	}
	if a.lease.Epoch != 0 && now.Before(a.lease.Expires) {
		return store.Lease{}, store.ErrConflict
	}
	a.lease = store.Lease{Owner: owner, Epoch: m.next(), Expires: store.Time(now.Add(ttl))}
	l := a.lease
	l.Agent = a.seen()
	return l, nil
}

func (m *model) BeginAttestation(ctx context.Context, a store.Attestation) (uint64, error) {
	if err := a.Check(); err != nil {
		return 0, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	of, err := found(m.agents, a.AgentID)
	if err != nil {
		return 0, err
	}
	if n := len(of.history); n > 0 && of.history[n-1].Stage == store.AwaitingEvidence {
		of.history = of.history[:n-1]
	}
	a.Index = of.begun
	of.begun++
	of.history = append(of.history, keptAttestation(a))
	return a.Index, nil
}

// keptAttestation is an attestation as stores keep it: with times of their precision, and bytes of its own.
func keptAttestation(a store.Attestation) store.Attestation {
	for _, t := range []*time.Time{&a.BootTime, &a.Received, &a.Expires, &a.Evidence, &a.Completed} {
		*t = store.Time(*t)
	}
	a.Extensions, a.Items = slices.Clone(a.Extensions), slices.Clone(a.Items)
	for i := range a.Items {
		item := &a.Items[i]
		item.Capabilities, item.Chosen, item.Data = bytes.Clone(item.Capabilities), bytes.Clone(item.Chosen), bytes.Clone(item.Data)
	}
	return a
}

// judge replaces the latest attestation and thins out the history.
func (a *modelAgent) judge(judged store.Attestation, keep store.Retention) error {
	n := len(a.history)
	if n == 0 || a.history[n-1].Index != judged.Index {
		return store.ErrConflict
	}
	judged.AgentID = a.ID
	a.history[n-1] = keptAttestation(judged)
	var history []store.Kept
	for _, h := range a.history {
		history = append(history, store.Kept{Index: h.Index, Evaluation: h.Evaluation, BootTime: h.BootTime, Received: h.Received})
	}
	drop := keep.Drop(history)
	a.history = slices.DeleteFunc(a.history, func(h store.Attestation) bool { return slices.Contains(drop, h.Index) })
	return nil
}

func (m *model) Attestation(ctx context.Context, agentID string, index uint64) (store.Attestation, error) {
	some, err := m.Attestations(ctx, agentID, index+1, 1)
	if err == nil && (len(some) == 0 || some[0].Index != index) {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Attestation{}, err
	}
	return some[0], nil
}

func (m *model) LatestAttestation(ctx context.Context, agentID string) (store.Attestation, error) {
	some, err := m.Attestations(ctx, agentID, 1<<63, 1)
	if err == nil && len(some) == 0 {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Attestation{}, err
	}
	return some[0], nil
}

func (m *model) Attestations(ctx context.Context, agentID string, before uint64, max int) ([]store.Attestation, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	a := m.agents[agentID]
	if a == nil {
		return nil, nil
	}
	var list []store.Attestation
	for _, h := range slices.Backward(a.history) {
		if h.Index < before && len(list) < max {
			list = append(list, keptAttestation(h))
		}
	}
	return list, nil
}

func (m *model) PutPayload(ctx context.Context, p store.Payload) (uint64, error) {
	if err := p.Check(); err != nil {
		return 0, err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	a, err := found(m.agents, p.AgentID)
	if err != nil {
		return 0, err
	}
	p.SealedU, p.Data, p.Rev = bytes.Clone(p.SealedU), bytes.Clone(p.Data), m.next()
	a.payload = &p
	return p.Rev, nil
}

func (m *model) Payload(ctx context.Context, agentID string) (store.Payload, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return store.Payload{}, err
	}
	defer leave()
	a := m.agents[agentID]
	if a == nil || a.payload == nil {
		return store.Payload{}, store.ErrNotFound
	}
	p := *a.payload
	p.SealedU, p.Data = bytes.Clone(p.SealedU), bytes.Clone(p.Data)
	return p, nil
}

func (m *model) PayloadRev(ctx context.Context, agentID string) (uint64, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	if a := m.agents[agentID]; a != nil && a.payload != nil {
		return a.payload.Rev, nil
	}
	return 0, nil
}

func (m *model) Notices(ctx context.Context, channel string, after uint64, max int) ([]store.Event, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	var notices []store.Event
	for _, id := range slices.Sorted(maps.Keys(m.events)) {
		if e := m.events[id]; e.Channel == channel && id > after && len(notices) < max {
			e.Message, e.Lease = bytes.Clone(e.Message), time.Time{}
			notices = append(notices, e)
		}
	}
	return notices, nil
}
