package storetest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keylime/store"
)

// BenchCalls measures what an agent that calls in costs from one attestation to the next: BeginAttestation, Lease, and a
// Commit that passes and extends the session, with 1, 64 and 1,024 agents at once, and with a long history. See Bench for
// fsync/op.
func BenchCalls(b *testing.B, dir string, fresh func(testing.TB) Opener) {
	for _, c := range []struct{ inFlight, history int }{{1, 0}, {64, 0}, {1024, 0}, {16, 1000}} {
		b.Run(fmt.Sprintf("in-flight=%d/history=%d", c.inFlight, c.history), func(b *testing.B) {
			e := fresh(b)(b)
			ctx := context.Background()
			errs := together(c.inFlight, func(i int) error { return callFirst(ctx, e, Enrolled(i).ID, c.history) })
			for _, err := range errs {
				if err != nil {
					b.Fatal(err)
				}
			}
			reference := fsyncs(b, dir)
			var left atomic.Int64
			left.Store(int64(b.N))
			var calls sync.WaitGroup
			b.ResetTimer()
			for i := range c.inFlight {
				calls.Go(func() {
					for left.Add(-1) >= 0 {
						if err := call(ctx, e, Enrolled(i).ID, store.EvaluationPass, store.Retention{Count: 1001}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			calls.Wait()
			b.StopTimer()
			reference = append(reference, fsyncs(b, dir)...)
			slices.Sort(reference)
			perOp := b.Elapsed() / time.Duration(b.N)
			b.ReportMetric(float64(perOp)/float64(reference[len(reference)/2]), "fsync/op")
			if err := e.Close(); err != nil {
				b.Error(err)
			}
		})
	}
}

// callFirst enrols an agent that calls in, with so many attestations that failed.
func callFirst(ctx context.Context, e Engine, id string, history int) error {
	a := Enrolled(0)
	a.ID, a.Spec.Push = id, true
	if err := e.AddAgent(ctx, a); err != nil {
		return err
	}
	if err := e.OpenSession(ctx, session(id)); err != nil {
		return err
	}
	for range history {
		if err := call(ctx, e, id, store.EvaluationFail, store.Retention{}); err != nil {
			return err
		}
	}
	return nil
}

// call is one attestation of typical size, from its beginning to its end.
func call(ctx context.Context, e Engine, id string, verdict store.Evaluation, keep store.Retention) error {
	a := attestation(id)
	index, err := e.BeginAttestation(ctx, a)
	if err != nil {
		return err
	}
	l, err := e.Lease(ctx, id, owner, t0, ttl)
	if err != nil {
		return err
	}
	a.Index = index
	r := passed(l, at(300))
	r.Attestation, r.Retention = judged(a, verdict), keep
	r.Attestation.Items[0].Data = json.RawMessage(`{"message":"` + strings.Repeat("q", 1500) + `"}`)
	r.Session = l.Agent.Due.Add(time.Duration(r.Status.AttestationCount) * time.Second)
	return e.Commit(ctx, l, r, t0)
}
