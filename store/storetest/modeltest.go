package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keylime/store"
)

// testModel calls random verbs on an engine and on the model, and compares what they answer after each step, and all
// that they show now and then. The seed is printed, and fixes the whole run.
func testModel(t *testing.T, fresh func(testing.TB) Opener) {
	runs, steps := 8, 500
	if testing.Short() {
		runs = 2
	}
	for range runs {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			d := newDuel(t, fresh, seed)
			for d.step = range steps {
				d.move()
			}
			d.compareAll()
		})
	}
}

// duel is an engine, the model, and what random verbs choose from.
type duel struct {
	*rig   // the engine
	model  *rig
	random *rand.Rand
	step   int
	now    time.Time
	// Numbers that each side chose for the same thing, e.g. the revision of an agent.
	toEngine, toModel map[numbered]uint64
	leases            []leasePair
}

type numbered struct {
	what   string
	number uint64
}

type leasePair struct{ engine, model store.Lease }

func newDuel(t testing.TB, fresh func(testing.TB) Opener, seed uint64) *duel {
	m := newModel()
	return &duel{
		rig:      start(t, fresh),
		model:    &rig{TB: t, Engine: m, ctx: context.Background()},
		random:   rand.New(rand.NewPCG(seed, 0)),
		now:      t0,
		toEngine: map[numbered]uint64{},
		toModel:  map[numbered]uint64{},
	}
}

// pair notes that both sides chose these numbers for the same thing, and reports whether that can be.
func (d *duel) pair(what string, engine, model uint64) {
	d.Helper()
	if e, known := d.toEngine[numbered{what, model}]; known && e != engine {
		d.Fatalf("step %d: %s %d was %d before", d.step, what, engine, e)
	}
	if m, known := d.toModel[numbered{what, engine}]; known && m != model {
		d.Fatalf("step %d: %s %d was given twice", d.step, what, engine)
	}
	d.toEngine[numbered{what, model}], d.toModel[numbered{what, engine}] = engine, model
}

// agree compares errors, by the sentinel that they wrap, and values.
func (d *duel) agree(verb string, engineErr, modelErr error, engine, model any) {
	d.Helper()
	if engineErr != nil && sentinel(engineErr) == nil {
		d.Fatalf("step %d: %s: %v", d.step, verb, engineErr)
	}
	if e, m := sentinel(engineErr), sentinel(modelErr); e != m {
		d.Fatalf("step %d: %s: error is %v, want %v", d.step, verb, engineErr, modelErr)
	}
	if engineErr == nil {
		if diff := cmp.Diff(model, engine); diff != "" {
			d.Fatalf("step %d: %s: not as the model (-want +got):\n%s", d.step, verb, diff)
		}
	}
}

func (d *duel) compareAll() {
	d.Helper()
	d.agree("dump", nil, nil, d.rig.dump(), d.model.dump())
}

// pick returns one of few ids, so that verbs meet.
func (d *duel) pick(prefix string) string { return fmt.Sprintf("%s%d", prefix, d.random.IntN(5)) }

func (d *duel) later() time.Time { return d.now.Add(time.Duration(d.random.IntN(20)) * time.Second) }

// move lets some time pass and makes one random step.
func (d *duel) move() {
	// A step is odd in microseconds, so that no two agents are due at the same time.
	d.now = d.now.Add(time.Duration(d.random.IntN(5))*time.Second + 7*time.Microsecond)
	moves := []struct {
		weight int
		make   func()
	}{
		{10, d.registrarMove}, {6, d.addAgent}, {8, d.changeAgent}, {20, d.claim}, {20, d.commit}, {8, d.policyMove},
		{8, d.eventMove}, {20, d.callMove}, {6, d.look}, {1, d.compareAll}, {1, d.restart},
	}
	total := 0
	for _, m := range moves {
		total += m.weight
	}
	n := d.random.IntN(total)
	for _, m := range moves {
		if n -= m.weight; n < 0 {
			m.make()
			return
		}
	}
}

// restart reopens the engine. Whether leases and offers survive is the engine's affair, so time passes until no lease is
// left, and offers are taken.
func (d *duel) restart() {
	d.reopen()
	d.now = d.now.Add(2 * ttl)
	for _, id := range sessionIDs {
		_, _ = d.TakeOffer(d.ctx, id), d.model.TakeOffer(d.ctx, id)
	}
	d.compareAll()
}

func (d *duel) registrarMove() {
	id := d.pick("r")
	revOf := func(b *rig) uint64 {
		r, _ := b.Pending(b.ctx, id)
		return r.Rev
	}
	engineRev, modelRev := revOf(d.rig), revOf(d.model)
	if d.random.IntN(4) == 0 {
		engineRev, modelRev = 1<<60, 1<<60
	}
	switch d.random.IntN(8) {
	case 0, 1, 2:
		r := registration(id, d.pick("tpm"))
		e, err := d.Stage(d.ctx, r, d.now, 10*time.Second)
		m, want := d.model.Stage(d.ctx, r, d.now, 10*time.Second)
		if d.agree("Stage", err, want, nil, nil); err == nil {
			d.pair("registration", e, m)
		}
	case 3, 4:
		d.agree("Activate", d.Activate(d.ctx, id, engineRev, d.now), d.model.Activate(d.ctx, id, modelRev, d.now), nil, nil)
	case 5:
		d.agree("DropPending", d.DropPending(d.ctx, id, engineRev), d.model.DropPending(d.ctx, id, modelRev), nil, nil)
	case 6:
		d.agree("Deregister", d.Deregister(d.ctx, id), d.model.Deregister(d.ctx, id), nil, nil)
	case 7:
		before := d.now.Add(-30 * time.Second)
		e, err := d.ExpirePending(d.ctx, before, 2)
		m, want := d.model.ExpirePending(d.ctx, before, 2)
		d.agree("ExpirePending", err, want, e, m)
	}
}

func (d *duel) addAgent() {
	a := store.Agent{ID: d.pick("a")}
	fill(d.random, &a.Spec)
	fill(d.random, &a.Status)
	a.Spec.VerifierID = fmt.Sprint("v", d.random.IntN(2))
	a.Spec.RuntimePolicy, a.Spec.MeasuredBootPolicy, a.Spec.PCRPolicy = "", "", ""
	a.Status.Operational = store.OperationalState(d.random.IntN(11))
	if a.Due = d.later(); d.random.IntN(8) == 0 {
		a.Due = time.Time{}
	}
	if d.random.IntN(2) == 0 {
		a.Spec.RuntimePolicy = d.pick("a")
	}
	var create []store.Policy
	if d.random.IntN(2) == 0 {
		create = append(create, policy(d.pick("a"), d.pick("text")))
	}
	d.agree("AddAgent", d.AddAgent(d.ctx, a, create...), d.model.AddAgent(d.ctx, a, create...), nil, nil)
}

func (d *duel) changeAgent() {
	id := d.pick("a")
	switch d.random.IntN(3) {
	case 0:
		d.agree("DeleteAgent", d.DeleteAgent(d.ctx, id), d.model.DeleteAgent(d.ctx, id), nil, nil)
	case 1:
		d.agree("StopAgent", d.StopAgent(d.ctx, id), d.model.StopAgent(d.ctx, id), nil, nil)
	case 2:
		d.agree("ReactivateAgent", d.ReactivateAgent(d.ctx, id, d.now), d.model.ReactivateAgent(d.ctx, id, d.now), nil, nil)
	}
}

func (d *duel) claim() {
	verifier, max := fmt.Sprint("v", d.random.IntN(2)), 1+d.random.IntN(3)
	e, err := d.Claim(d.ctx, verifier, owner, d.now, max, 15*time.Second)
	m, want := d.model.Claim(d.ctx, verifier, owner, d.now, max, 15*time.Second)
	d.agree("Claim", err, want, len(e), len(m))
	for i := range e {
		d.leases = append(d.leases, leasePair{e[i], m[i]})
		d.pair("lease", e[i].Epoch, m[i].Epoch)
		d.pair("revision", e[i].Agent.Rev, m[i].Agent.Rev)
		e[i].Epoch, e[i].Agent.Rev = m[i].Epoch, m[i].Agent.Rev
	}
	d.agree("Claim", nil, nil, e, m)
}

// commit ends a round that was claimed at some time, most often one of the last.
func (d *duel) commit() {
	if len(d.leases) == 0 {
		return
	}
	n := len(d.leases) - 1
	if d.random.IntN(3) == 0 {
		n = d.random.IntN(len(d.leases))
	}
	l := d.leases[n]
	r := store.Round{Next: d.later(), Durable: d.random.IntN(4) == 0}
	fill(d.random, &r.Status)
	fill(d.random, &r.State)
	r.Status.Operational = l.model.Agent.Status.Operational
	if d.random.IntN(4) == 0 {
		r.Status.Operational = store.OperationalState(d.random.IntN(11))
	}
	for range max(0, d.random.IntN(8)-5) {
		e := event(d.pick("message"), 0)
		e.Due = d.later()
		if d.random.IntN(2) == 0 {
			e.Channel, e.Target = "agent", d.pick("a")
		}
		r.Events = append(r.Events, e)
	}
	if d.random.IntN(3) == 0 {
		d.judges(l.model.Agent.ID, &r)
	}
	d.agree("Commit", d.Commit(d.ctx, l.engine, r, d.now), d.model.Commit(d.ctx, l.model, r, d.now), nil, nil)
}

func (d *duel) policyMove() {
	p := policy(d.pick("a"), d.pick("text"))
	p.Generator = d.random.IntN(5)
	switch d.random.IntN(3) {
	case 0:
		d.agree("AddPolicy", d.AddPolicy(d.ctx, p), d.model.AddPolicy(d.ctx, p), nil, nil)
	case 1:
		d.agree("UpdatePolicy", d.UpdatePolicy(d.ctx, p), d.model.UpdatePolicy(d.ctx, p), nil, nil)
	case 2:
		d.agree("DeletePolicy", d.DeletePolicy(d.ctx, p.Kind, p.Name), d.model.DeletePolicy(d.ctx, p.Kind, p.Name), nil, nil)
	}
}

func (d *duel) eventMove() {
	max := 1 + d.random.IntN(3)
	e, err := d.ClaimEvents(d.ctx, owner, d.now, max, 15*time.Second)
	m, want := d.model.ClaimEvents(d.ctx, owner, d.now, max, 15*time.Second)
	d.agree("ClaimEvents", err, want, len(e), len(m))
	for i := range e {
		d.pair("event", e[i].ID, m[i].ID)
		engineID, modelID := e[i].ID, m[i].ID
		e[i].ID = modelID
		d.agree("ClaimEvents", nil, nil, e[i], m[i])
		switch next := d.later(); d.random.IntN(3) {
		case 0:
			d.agree("FinishEvent", d.FinishEvent(d.ctx, engineID), d.model.FinishEvent(d.ctx, modelID), nil, nil)
		case 1:
			d.agree("RetryEvent", d.RetryEvent(d.ctx, engineID, i, next), d.model.RetryEvent(d.ctx, modelID, i, next), nil, nil)
		}
	}
}

// look compares what verbs that only read answer.
func (d *duel) look() {
	id := d.pick("a")
	e, err := d.Agent(d.ctx, id)
	m, want := d.model.Agent(d.ctx, id)
	if err == nil && want == nil {
		d.pair("revision", e.Rev, m.Rev)
		e.Rev = m.Rev
	}
	d.agree("Agent", err, want, e, m)

	verifier := fmt.Sprint("v", d.random.IntN(2))
	due := func(b *rig) string {
		next, ok, err := b.NextDue(b.ctx, verifier)
		d.ok(err)
		if next.Before(d.now) {
			next = d.now
		}
		return fmt.Sprint(ok, next)
	}
	d.agree("NextDue", nil, nil, due(d.rig), due(d.model))

	ek := registration("", d.pick("tpm")).Identity.EKTPM
	d.agree("SameEK", nil, nil, must[[]string](d.rig)(d.SameEK(d.ctx, "r0", ek)), must[[]string](d.model)(d.model.SameEK(d.ctx, "r0", ek)))
	head, err := d.PolicyHead(d.ctx, store.RuntimePolicy, id)
	modelHead, want := d.model.PolicyHead(d.ctx, store.RuntimePolicy, id)
	head.Rev, modelHead.Rev = 0, 0
	d.agree("PolicyHead", err, want, head, modelHead)
	d.agree("PolicyKeys", nil, nil, must[[]string](d.rig)(d.PolicyKeys(d.ctx, store.RuntimePolicy)), must[[]string](d.model)(d.model.PolicyKeys(d.ctx, store.RuntimePolicy)))
}
