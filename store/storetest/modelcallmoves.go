package storetest

import (
	"fmt"
	"slices"
	"time"

	"keylime/store"
)

// callMove makes one random step of an agent that calls in.
func (d *duel) callMove() {
	moves := []func(){d.offerMove, d.sessionMove, d.leaseMove, d.leaseMove, d.attestationMove, d.attestationMove, d.payloadMove, d.noticeMove}
	moves[d.random.IntN(len(moves))]()
}

func (d *duel) offerMove() {
	id := d.pick("s")
	switch d.random.IntN(3) {
	case 0:
		o := store.Offer{ID: id, AgentID: d.pick("a"), Nonce: []byte(d.pick("nonce")), Created: d.now, Expires: endOfTime}
		d.agree("Offer", d.Offer(d.ctx, o), d.model.Offer(d.ctx, o), nil, nil)
	case 1:
		d.agree("TakeOffer", d.TakeOffer(d.ctx, id), d.model.TakeOffer(d.ctx, id), nil, nil)
	}
	e, err := d.Offered(d.ctx, id)
	m, want := d.model.Offered(d.ctx, id)
	d.agree("Offered", err, want, e, m)
}

func (d *duel) sessionMove() {
	s := store.Session{ID: d.pick("s"), AgentID: d.pick("a"), TokenHash: []byte(d.pick("token")), Expires: d.later()}
	d.agree("OpenSession", d.OpenSession(d.ctx, s), d.model.OpenSession(d.ctx, s), nil, nil)
	e, err := d.Session(d.ctx, s.ID)
	m, want := d.model.Session(d.ctx, s.ID)
	d.agree("Session", err, want, e, m)
}

func (d *duel) leaseMove() {
	id := d.pick("a")
	e, err := d.Lease(d.ctx, id, owner, d.now, 15*time.Second)
	m, want := d.model.Lease(d.ctx, id, owner, d.now, 15*time.Second)
	if err == nil && want == nil {
		d.leases = append(d.leases, leasePair{e, m})
		d.pair("lease", e.Epoch, m.Epoch)
		d.pair("revision", e.Agent.Rev, m.Agent.Rev)
		e.Epoch, e.Agent.Rev = m.Epoch, m.Agent.Rev
	}
	d.agree("Lease", err, want, e, m)
}

func (d *duel) attestationMove() {
	a := d.attestation(d.pick("a"))
	e, err := d.BeginAttestation(d.ctx, a)
	m, want := d.model.BeginAttestation(d.ctx, a)
	d.agree("BeginAttestation", err, want, e, m)

	index, max := uint64(d.random.IntN(8)), d.random.IntN(4)
	one, err := d.Attestation(d.ctx, a.AgentID, index)
	modelOne, want := d.model.Attestation(d.ctx, a.AgentID, index)
	d.agree("Attestation", err, want, one, modelOne)
	one, err = d.LatestAttestation(d.ctx, a.AgentID)
	modelOne, want = d.model.LatestAttestation(d.ctx, a.AgentID)
	d.agree("LatestAttestation", err, want, one, modelOne)
	list, err := d.Attestations(d.ctx, a.AgentID, index, max)
	modelList, want := d.model.Attestations(d.ctx, a.AgentID, index, max)
	d.agree("Attestations", err, want, list, modelList)
}

func (d *duel) attestation(agentID string) store.Attestation {
	var a store.Attestation
	fill(d.random, &a)
	a.AgentID, a.Received, a.BootTime = agentID, d.now, at(100*d.random.IntN(2))
	if d.random.IntN(2) == 0 {
		a.Stage = store.AwaitingEvidence
	}
	a.Evaluation = []store.Evaluation{store.EvaluationPending, store.EvaluationPass, store.EvaluationPass, store.EvaluationFail}[d.random.IntN(4)]
	return a
}

// judges lets a round end with the agent's latest attestation, or with another.
func (d *duel) judges(agentID string, r *store.Round) {
	a := d.attestation(agentID)
	if latest, err := d.model.LatestAttestation(d.ctx, agentID); err == nil {
		a.Index = latest.Index
	}
	if d.random.IntN(8) == 0 {
		a.Index++
	}
	r.Attestation, r.Retention.Count = &a, d.random.IntN(5)
	if d.random.IntN(4) == 0 {
		r.Retention.Since = d.now.Add(-10 * time.Second)
	}
	if d.random.IntN(2) == 0 {
		r.Session = d.later()
	}
}

func (d *duel) payloadMove() {
	id := d.pick("a")
	if d.random.IntN(2) == 0 {
		p := payload(id)
		fill(d.random, &p.Data)
		e, err := d.PutPayload(d.ctx, p)
		m, want := d.model.PutPayload(d.ctx, p)
		if d.agree("PutPayload", err, want, nil, nil); err == nil {
			d.pair("payload", e, m)
		}
	}
	e, err := d.Payload(d.ctx, id)
	m, want := d.model.Payload(d.ctx, id)
	if err == nil && want == nil {
		d.pair("payload", e.Rev, m.Rev)
		d.agree("PayloadRev", nil, nil, must[uint64](d.rig)(d.PayloadRev(d.ctx, id)), e.Rev)
		e.Rev = m.Rev
	}
	d.agree("Payload", err, want, e, m)
}

func (d *duel) noticeMove() {
	channel, skip := []string{"webhook", "agent"}[d.random.IntN(2)], d.random.IntN(4)
	read := func(b *rig) []store.Event {
		all := must[[]store.Event](b)(b.Notices(b.ctx, channel, 0, 1000))
		if skip == 0 || skip > len(all) {
			return all
		}
		rest := must[[]store.Event](b)(b.Notices(b.ctx, channel, all[skip-1].ID, 2))
		d.same(len(rest), min(2, len(all)-skip))
		return slices.Concat(all[:skip], rest)
	}
	e, m := read(d.rig), read(d.model)
	d.agree("Notices", nil, nil, fmt.Sprint(len(e)), fmt.Sprint(len(m)))
	for i := range e {
		d.pair("event", e[i].ID, m[i].ID)
		e[i].ID = m[i].ID
	}
	d.agree("Notices", nil, nil, e, m)
}
