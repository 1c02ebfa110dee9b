package verifier

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/fleet"
	"keylime/tpm"
)

// BenchmarkWarmRound is a full round of an agent with an RSA-2048 AK and nothing new in its measurement list: claim,
// GET over a warm mutual TLS connection on loopback, appraisal, commit. The reference is one bare GET of an answer
// of the same size over such a connection, and one RSA-2048 verification. CPU time is that of the whole process, so
// both sides of the connection are in it, and in the reference too.
func BenchmarkWarmRound(b *testing.B) {
	agent := newCannedAgent(b)
	cfg := fastConfig(b)
	cfg.QuoteInterval = 0
	s := openStore(b)
	v := newVerifier(b, cfg, s)
	v.cycle.log, v.cycle.nonce, v.cycle.store = zerolog.Nop(), agent.nonce, s
	v.add(b, agent.testAgent, agent.enrolment(agent.runtimePolicy()))
	round := func() {
		leases, err := s.Claim(b.Context(), cfg.UUID, "bench", time.Now().UTC(), 1, time.Minute)
		if err != nil || len(leases) != 1 {
			b.Fatal(leases, err)
		}
		v.cycle.do(b.Context(), leases[0])
	}
	agent.prepare(b, 2)
	round() // connects, reads the whole list
	round()

	reference := cpuPer(500, agent.bareGet(b, v)) + cpuPer(500, rsaVerify(b))
	b.ReportAllocs()
	var cpu time.Duration
	done := 0
	for b.Loop() {
		if len(agent.nonces) == 0 {
			b.StopTimer()
			agent.prepare(b, 512)
			b.StartTimer()
		}
		before := cpuTime()
		round()
		cpu += cpuTime() - before
		done++
	}
	if st := v.status(b, agent.id); st.AttestationCount != done+2 {
		b.Fatalf("%d of %d rounds were good: %s", st.AttestationCount, done+2, encode(b, st))
	}
	per := cpu / time.Duration(done)
	b.ReportMetric(float64(per.Nanoseconds()), "cpu-ns/round")
	b.ReportMetric(float64(reference.Nanoseconds()), "cpu-ns/reference")
	b.ReportMetric(float64(per)/float64(reference), "x-reference")
}

// cannedAgent answers with quotes made before they are asked for, as signing them would cost more than all the rest.
type cannedAgent struct {
	*testAgent
	mu      sync.Mutex
	nonces  []string
	answers map[string][]byte
	last    []byte
}

func newCannedAgent(b *testing.B) *cannedAgent {
	b.Helper()
	soft, err := fleet.NewSoftTPM(rand.Reader, "rsa2048")
	if err != nil {
		b.Fatal(err)
	}
	list, err := fleet.NewMeasured(soft)
	if err != nil {
		b.Fatal(err)
	}
	a := &cannedAgent{
		testAgent: &testAgent{id: "bench", tpm: soft, list: list, bank: tpm.SHA256, enc: "rsa2048", sign: "rsassa"},
		answers:   map[string][]byte{},
	}
	a.newKey(0)
	a.serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, nonce, _ := strings.Cut(r.URL.RawQuery, "nonce=")
		nonce, _, _ = strings.Cut(nonce, "&")
		a.mu.Lock()
		body := a.answers[nonce]
		delete(a.answers, nonce)
		if body == nil {
			body = a.last
		}
		a.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	}))
	return a
}

// prepare makes n answers.
func (a *cannedAgent) prepare(b *testing.B, n int) {
	for i := range n {
		nonce, err := newNonce()
		if err != nil {
			b.Fatal(err)
		}
		first := len(a.answers) == 0 && i == 0 && a.last == nil
		entry := uint64(a.list.Len())
		if first {
			entry = 0
		}
		q, err := a.evidence(nonce, tpm.MaskOf(tpm.PCRIma), first, entry)
		if err != nil {
			b.Fatal(err)
		}
		results, err := json.Marshal(q)
		if err != nil {
			b.Fatal(err)
		}
		body, err := json.Marshal(api.Envelope{Code: 200, Status: "Success", Results: results})
		if err != nil {
			b.Fatal(err)
		}
		a.answers[nonce], a.last = body, body
		a.nonces = append(a.nonces, nonce)
	}
}

func (a *cannedAgent) nonce() (string, error) {
	n := a.nonces[0]
	a.nonces = a.nonces[1:]
	return n, nil
}

// bareGet fetches an answer of the size of a quote over a warm connection, and does nothing with it.
func (a *cannedAgent) bareGet(b *testing.B, v *testVerifier) func() {
	transport := &http.Transport{TLSClientConfig: v.pool.base.Clone()}
	transport.TLSClientConfig.InsecureSkipVerify = true // the certificate is the agent's own, and not the subject here
	b.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	url := fmt.Sprintf("https://%s:%d/v2.6/quotes/integrity?nonce=x", a.host, a.port)
	get := func() {
		resp, err := client.Get(url)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	get()
	return get
}

func rsaVerify(b *testing.B) func() {
	key := transportKeys[0]()
	digest := sha256.Sum256([]byte("attestation"))
	sig, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	return func() {
		if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, digest[:], sig); err != nil {
			b.Fatal(err)
		}
	}
}

// cpuPer is the CPU time of one call.
func cpuPer(n int, f func()) time.Duration {
	before := cpuTime()
	for range n {
		f()
	}
	return (cpuTime() - before) / time.Duration(n)
}

// cpuTime is what this process has used so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
