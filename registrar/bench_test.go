package registrar

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"syscall"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/fleet"
	"keylime/internal/web"
)

// BenchmarkRegistration registers and activates agents with RSA-2048 EKs over HTTP and bbolt, several at a time as when
// a rack of machines comes up. The ratio is of processor time, client included, to two bare HTTP exchanges of the same
// size and one RSA-2048 encryption. The TPM's own work is left out: the answer to the challenge is computed from the
// stored one.
func BenchmarkRegistration(b *testing.B) {
	s := start(b, nil)
	s.byAddress, s.byID = web.NewLimiter(time.Nanosecond, 1<<20, 100), web.NewLimiter(time.Nanosecond, 1<<20, 100)
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	defer transport.CloseIdleConnections()
	client := api.NewRegistrar(s.plain, &http.Client{Transport: transport})
	const atOnce = 16
	machines := make(chan *machine, atOnce)
	for i := range atOnce {
		machines <- modelled(b, fmt.Sprintf("agent-%d", i), fleet.Model{Alg: "rsa2048"})
	}
	before := processorTime(b)
	b.ResetTimer()
	b.SetParallelism(atOnce / runtime.GOMAXPROCS(0))
	b.RunParallel(func(pb *testing.PB) {
		m := <-machines
		defer func() { machines <- m }()
		req := m.request()
		for pb.Next() {
			if _, err := client.Register(b.Context(), "2.6", m.id, req); err != nil {
				b.Error(err)
				return
			}
			pending, err := s.db.Pending(b.Context(), m.id)
			if err == nil {
				err = client.Activate(b.Context(), "2.6", m.id, tagOf(pending.Challenge, m.id))
			}
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
	perOp := (processorTime(b) - before) / time.Duration(b.N)
	m := <-machines
	b.ReportMetric(float64(perOp.Nanoseconds()), "cpu-ns/op")
	b.ReportMetric(float64(perOp)/float64(bareExchange(b, m, m.request())), "x-bare-exchange")
}

// bareExchange is the processor time of the reference.
func bareExchange(b *testing.B, m *machine, req api.RegisterRequest) time.Duration {
	b.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"code":200,"status":"Success","results":{"blob":""}}`)
	}))
	defer server.Close()
	client := api.NewRegistrar(server.URL, server.Client())
	key := parse(b, m.EKPublic()).Key().(*rsa.PublicKey)
	secret := make([]byte, challengeLength)
	const runs = 300
	before := processorTime(b)
	for range runs {
		if _, err := client.Register(b.Context(), "2.6", m.id, req); err != nil {
			b.Fatal(err)
		}
		if err := client.Activate(b.Context(), "2.6", m.id, ""); err != nil {
			b.Fatal(err)
		}
		if _, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, key, secret, nil); err != nil {
			b.Fatal(err)
		}
	}
	return (processorTime(b) - before) / runs
}

// processorTime is what this process has used so far.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
