package storetest

import (
	"context"
	"errors"
	"slices"
	"testing"
)

// Fault is how a transaction goes wrong.
type Fault int

const (
	// Lost: the transaction fails, and nothing of it is kept.
	Lost Fault = iota
	// Unconfirmed: the transaction happens, but whoever asked for it is told that it failed.
	Unconfirmed
)

func (f Fault) String() string { return [...]string{"lost", "unconfirmed"}[f] }

// Faults lets each verb that writes meet each fault. fresh makes new storage; arm lets the next transaction that an
// engine of it writes go wrong, once.
func Faults(t *testing.T, fresh func(testing.TB) (open Opener, arm func(Fault))) {
	for _, f := range []Fault{Lost, Unconfirmed} {
		for _, v := range slices.Concat(writes(), callWrites()) {
			t.Run(f.String()+"/"+v.name, func(t *testing.T) {
				t.Parallel()
				testFault(t, fresh, f, v)
			})
		}
	}
}

func testFault(t *testing.T, fresh func(testing.TB) (Opener, func(Fault)), f Fault, v verb) {
	var arm func(Fault)
	start := func() *prepared {
		return prepare(start(t, func(t testing.TB) (open Opener) {
			open, arm = fresh(t)
			return open
		}))
	}
	good := start()
	good.ok(v.call(good.ctx, good))
	after := good.dump()

	p := start()
	before := p.dump()
	arm(f)
	err := v.call(p.ctx, p)
	if err == nil || sentinel(err) != nil || errors.Is(err, context.Canceled) {
		t.Fatalf("error is %v, want one of the engine's own", err)
	}
	if f == Unconfirmed {
		p.same(p.dump(), after)
	} else {
		p.same(p.dump(), before)
		p.ok(v.call(p.ctx, p)) // nothing stands in the way of trying again, not even a lease
		p.same(p.dump(), after)
	}
	p.ok(p.AddAgent(p.ctx, agent("healthy")))
	p.ok(p.DeleteAgent(p.ctx, "healthy"))
	p.reopen()
	p.same(p.dump(), after)
}
