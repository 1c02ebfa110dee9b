package storetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keylime/store"
)

// Bench measures store.Commit with 1, 64 and 1,024 rounds in flight, durable ones and ones that merely passed. Each is
// reported beside one fsync of a small file in dir, which should lie where the engine's files do: fsync/op is what a
// commit costs of it, the median of many before and after.
func Bench(b *testing.B, dir string, fresh func(testing.TB) Opener) {
	for _, durable := range []bool{true, false} {
		for _, inFlight := range []int{1, 64, 1024} {
			kind := map[bool]string{true: "durable", false: "passing"}[durable]
			b.Run(fmt.Sprintf("%s/in-flight=%d", kind, inFlight), func(b *testing.B) {
				reference := fsyncs(b, dir)
				benchCommit(b, fresh(b)(b), inFlight, durable)
				reference = append(reference, fsyncs(b, dir)...)
				slices.Sort(reference)
				perOp := b.Elapsed() / time.Duration(b.N)
				b.ReportMetric(float64(perOp)/float64(reference[len(reference)/2]), "fsync/op")
			})
		}
	}
}

// benchCommit keeps that many rounds in flight, each of another agent.
func benchCommit(b *testing.B, e Engine, inFlight int, durable bool) {
	ctx := context.Background()
	agents := make([]store.Agent, inFlight)
	together(inFlight, func(i int) error {
		agents[i] = Enrolled(i)
		return e.AddAgent(ctx, agents[i])
	})
	var left atomic.Int64
	left.Store(int64(b.N))
	var rounds sync.WaitGroup
	b.ResetTimer()
	for _, a := range agents {
		rounds.Go(func() {
			for left.Add(-1) >= 0 {
				leases, err := e.Claim(ctx, a.Spec.VerifierID, owner, t0, 1, ttl)
				if err != nil || len(leases) != 1 {
					b.Errorf("%d leases (%v)", len(leases), err)
					return
				}
				r := passed(leases[0], t0)
				r.Durable = durable
				if err := e.Commit(ctx, leases[0], r, t0); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	rounds.Wait()
	if !durable { // what they still owe to the disk
		if err := e.Close(); err != nil {
			b.Error(err)
		}
	}
	b.StopTimer()
	if err := e.Close(); err != nil {
		b.Error(err)
	}
}

// Enrolled is an agent of typical size, the only one of its verifier.
func Enrolled(i int) store.Agent {
	a := agent(fmt.Sprintf("d432fbb3-d2f1-4a97-9ef7-%012d", i))
	a.Spec.VerifierID = fmt.Sprint("verifier-", i)
	a.Spec.V, a.Spec.AKTPM = make([]byte, 32), make([]byte, 280)
	a.Spec.MTLSCert = strings.Repeat("c", 1200)
	a.Spec.AcceptHash, a.Spec.AcceptEnc, a.Spec.AcceptSign = []string{"sha512", "sha384", "sha256"}, []string{"ecc", "rsa"}, []string{"ecschnorr", "rsassa"}
	a.Status.PubKey = strings.Repeat("k", 450)
	a.Status.RuntimePolicyDigest = store.DigestOf(nil)
	a.State = state(1)
	a.State.Keyrings = nil
	return a
}

// fsyncs are the times of some fsyncs of a small file that grows.
func fsyncs(b *testing.B, dir string) []time.Duration {
	b.Helper()
	f, err := os.Create(filepath.Join(dir, "reference"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	times := make([]time.Duration, 100)
	for i := range times {
		begin := time.Now()
		_, err := f.Write(make([]byte, 4096))
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			b.Fatal(err)
		}
		times[i] = time.Since(begin)
	}
	return times
}
