package storetest

import (
	"math/rand/v2"
	"strings"
	"time"

	"keylime/store"
)

// testCallRecords: what agents that call in leave behind comes back as it went in, and belongs to the caller.
func testCallRecords(b *rig) {
	const seed, n = 2, 50
	random := rand.New(rand.NewPCG(seed, 0))
	b.enrol("a")
	var want []store.Attestation // newest first
	for range n {
		var a store.Attestation
		fill(random, &a)
		a.AgentID, a.Stage = "a", store.VerificationComplete
		a.Index = must[uint64](b)(b.BeginAttestation(b.ctx, a))
		want = append([]store.Attestation{a}, want...)
	}
	var p store.Payload
	fill(random, &p)
	p.AgentID = "a"
	p.Rev = must[uint64](b)(b.PutPayload(b.ctx, p))
	s, o := session("a"), offer("o", 0)
	b.ok(b.OpenSession(b.ctx, s))
	for range 2 {
		b.same(b.all("a"), want)
		b.same(must[store.Payload](b)(b.Payload(b.ctx, "a")), p)
		b.same(must[store.Session](b)(b.Session(b.ctx, s.ID)), s)
		b.reopen()
	}

	a := judged(b.begin(attestation("a")), store.EvaluationPass)
	b.judge(a, store.Retention{})
	b.ok(b.Offer(b.ctx, o))
	o.Nonce[0], s.TokenHash[0], a.Items[0].Data[0], a.Items[0].Class = 'X', 'X', 'X', "X"
	for range 2 { // neither what went in nor what came out
		latest := must[store.Attestation](b)(b.LatestAttestation(b.ctx, "a"))
		b.same(string(latest.Items[0].Data)[:1]+latest.Items[0].Class, "{certification")
		gotOffer, gotSession := must[store.Offer](b)(b.Offered(b.ctx, "o")), must[store.Session](b)(b.Session(b.ctx, s.ID))
		b.same(string(gotOffer.Nonce), "nonce for o")
		b.same(gotSession.TokenHash[0], byte(7))
		latest.Items[0].Data[0], latest.Items[0].Class, gotOffer.Nonce[0], gotSession.TokenHash[0] = 'X', "X", 'X', 'X'
	}
}

func (b *rig) callLimits() map[string]limited {
	b.enrol("caller")
	long := func(n int) string { return strings.Repeat("x", n) }
	return map[string]limited{
		"session id": {store.MaxName, func(n int) error {
			return b.OpenSession(b.ctx, store.Session{ID: long(n), AgentID: "caller"})
		}},
		"token hash": {store.MaxSecret, func(n int) error {
			return b.OpenSession(b.ctx, store.Session{ID: "s0", AgentID: "caller", TokenHash: make([]byte, n)})
		}},
		"id of an offer": {store.MaxName, func(n int) error { return b.Offer(b.ctx, store.Offer{ID: long(n), AgentID: "caller"}) }},
		"agent of an offer": {store.MaxID, func(n int) error {
			return b.Offer(b.ctx, store.Offer{ID: "s0", AgentID: long(n)})
		}},
		"nonce": {store.MaxSecret, func(n int) error {
			return b.Offer(b.ctx, store.Offer{ID: "s0", AgentID: "caller", Nonce: make([]byte, n)})
		}},
		"attestation": {store.MaxAttestation, func(n int) error {
			_, err := b.BeginAttestation(b.ctx, store.Attestation{AgentID: "caller", Items: []store.EvidenceItem{{Data: make([]byte, n)}}})
			return err
		}},
		"judged attestation": {store.MaxAttestation, func(n int) error {
			a := b.begin(store.Attestation{AgentID: "caller"})
			a.Items = []store.EvidenceItem{{Data: make([]byte, n)}}
			l := b.leaseOne("caller", at(0))
			r := passed(l, at(300))
			r.Attestation = &a
			err := b.Commit(b.ctx, l, r, at(0))
			if err != nil { // the lease still holds
				b.ok(b.Commit(b.ctx, l, passed(l, at(300)), at(0)))
			}
			return err
		}},
		"payload": {store.MaxPayload, func(n int) error {
			_, err := b.PutPayload(b.ctx, store.Payload{AgentID: "caller", Data: make([]byte, n)})
			return err
		}},
	}
}

// refuseCalls offers what no record can hold. l is a lease of the agent "a".
func (b *rig) refuseCalls(l store.Lease) {
	b.Helper()
	b.is(b.Offer(b.ctx, store.Offer{AgentID: "a"}), store.ErrInvalid)
	b.is(b.OpenSession(b.ctx, store.Session{AgentID: "a"}), store.ErrInvalid)
	b.is(b.OpenSession(b.ctx, store.Session{ID: "\xff", AgentID: "a"}), store.ErrInvalid)
	_, err := b.PutPayload(b.ctx, store.Payload{AgentID: "a", Tag: "\xff"})
	b.is(err, store.ErrInvalid)
	for _, a := range []store.Attestation{
		{Extensions: []string{"\xff"}},
		{Items: []store.EvidenceItem{{Class: "\xff"}}},
		{BootTime: time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("west", -3600))},
		{BootTime: time.Date(0, 1, 1, 0, 0, 0, 0, time.FixedZone("east", 3600))},
	} {
		r := passed(l, at(1))
		r.Attestation = &a
		b.is(b.Commit(b.ctx, l, r, at(0)), store.ErrInvalid)
		a.AgentID = "a"
		_, err := b.BeginAttestation(b.ctx, a)
		b.is(err, store.ErrInvalid)
	}
}
