package bolt

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"keylime/store"
	"keylime/store/storetest"
)

func BenchmarkCommit(b *testing.B) { storetest.Bench(b, b.TempDir(), fresh) }

func BenchmarkCall(b *testing.B) { storetest.BenchCalls(b, b.TempDir(), fresh) }

// fleet enrols agents of one verifier.
func fleet(b *testing.B, agents int) (path string) {
	b.Helper()
	path = filepath.Join(b.TempDir(), "keylime.db")
	db := mustOpen(b, path, Options{commit: func(tx *bbolt.Tx) error {
		tx.DB().NoSync = true // only to get here sooner
		return tx.Commit()
	}})
	for i := range agents {
		a := storetest.Enrolled(i)
		a.Spec.VerifierID = "verifier"
		if err := db.AddAgent(context.Background(), a); err != nil {
			b.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
	return path
}

// BenchmarkOpen loads 20,000 agents, and reports what one of them takes in memory and in the file.
func BenchmarkOpen(b *testing.B) {
	const agents = 20_000
	path := fleet(b, agents)
	var before, after runtime.MemStats
	for b.Loop() {
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&before)
		b.StartTimer()
		db := mustOpen(b, path, Options{})
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/agents, "memory-B/agent")
	b.ReportMetric(float64(info.Size())/agents, "file-B/agent")
}

// BenchmarkFlush writes the rounds of a second of 20,000 agents at an interval of 10 s: 2,000 that have nothing in
// common. The reference is one fsync of as many bytes as the rounds' records have.
func BenchmarkFlush(b *testing.B) {
	const agents, rounds = 20_000, 2_000
	ctx := context.Background()
	db := mustOpen(b, fleet(b, agents), Options{})
	now := storetest.Enrolled(0).Due
	bytes := 0
	for b.Loop() {
		b.StopTimer()
		leases, err := db.Claim(ctx, "verifier", "owner", now, rounds, time.Minute)
		if err != nil || len(leases) != rounds {
			b.Fatal(len(leases), err)
		}
		for _, l := range leases {
			r := store.Round{Status: l.Agent.Status, State: l.Agent.State, Next: now.Add(time.Microsecond)}
			if done, err := db.index.pass(l, r, now); !done || err != nil {
				b.Fatal(done, err)
			}
		}
		now = now.Add(time.Microsecond)
		written := db.index.undurable()
		bytes = 0
		for _, r := range written {
			bytes += len(encodeRound(r))
		}
		b.StartTimer()
		if err := db.writer.run(nil, written); err != nil {
			b.Fatal(err)
		}
	}
	perOp := b.Elapsed() / time.Duration(b.N)
	b.ReportMetric(float64(perOp)/float64(writeTime(b, bytes)), "write/op")
	b.ReportMetric(float64(bytes)/rounds, "B/round")
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
}

// writeTime is how long writing that many bytes and one fsync take.
func writeTime(b *testing.B, bytes int) time.Duration {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "reference"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const n = 10
	begin := time.Now()
	for range n {
		_, err := f.WriteAt(make([]byte, bytes), 0)
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(begin) / n
}
