package verifier

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/fleet"
	"keylime/tpm"
)

// BenchmarkPushRound is a full round of an agent that calls in, with an RSA-2048 AK and nothing new in its measurement
// list: capabilities and evidence over a warm TLS connection on loopback, negotiation, appraisal, commit. The reference is
// that of BenchmarkWarmRound: one bare GET over such a connection, and one RSA-2048 verification. Here too both sides of
// the connection are in the CPU time.
func BenchmarkPushRound(b *testing.B) {
	cfg := fastConfig(b)
	cfg.QuoteInterval = 0
	v := newVerifier(b, cfg, openStore(b))
	v.calls.log, v.cycle.log = zerolog.Nop(), zerolog.Nop()
	base, _ := v.serve(b)
	soft, err := fleet.NewSoftTPM(rand.Reader, "rsa2048")
	if err != nil {
		b.Fatal(err)
	}
	a := &callingAgent{id: "bench", tpm: soft, base: base, client: clientWith(b), booted: time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)}
	a.measures(b)
	a.join(b, v, a.enrolment(a.policy()))
	a.attest(b) // connects, reads the whole list
	a.attest(b)

	prepared := &preparedRounds{agent: a, offer: resourceOf(b, "attestation", a.offer())}
	v.calls.challenge = prepared.challenge
	canned := newCannedAgent(b)
	canned.prepare(b, 1)
	reference := cpuPer(500, canned.bareGet(b, v)) + cpuPer(500, rsaVerify(b))
	b.ReportAllocs()
	var cpu time.Duration
	done := 0
	for b.Loop() {
		if len(prepared.evidence) == 0 {
			b.StopTimer()
			prepared.make(b, 512)
			b.StartTimer()
		}
		before := cpuTime()
		prepared.round(b)
		cpu += cpuTime() - before
		done++
	}
	if st := v.status(b, a.id); st.AttestationCount != done+2 {
		b.Fatalf("%d of %d rounds were good: %s", st.AttestationCount, done+2, encode(b, st))
	}
	per := cpu / time.Duration(done)
	b.ReportMetric(float64(per.Nanoseconds()), "cpu-ns/round")
	b.ReportMetric(float64(reference.Nanoseconds()), "cpu-ns/reference")
	b.ReportMetric(float64(per)/float64(reference), "x-reference")
}

// preparedRounds are made before they are asked for, as signing quotes would cost more than all the rest.
type preparedRounds struct {
	agent      *callingAgent
	offer      []byte
	challenges [][]byte
	evidence   [][]byte
}

func (p *preparedRounds) challenge() ([]byte, error) {
	c := p.challenges[0]
	p.challenges = p.challenges[1:]
	return c, nil
}

// make prepares n rounds.
func (p *preparedRounds) make(b *testing.B, n int) {
	offset := uint64(p.agent.list.Len())
	for range n {
		c, err := newChallenge()
		if err != nil {
			b.Fatal(err)
		}
		q := api.QuoteParameters{Hash: "sha256", Subjects: map[string][]int{"sha256": {tpm.PCRIma}}}
		q.Challenge = base64.StdEncoding.EncodeToString(c)
		p.challenges = append(p.challenges, c)
		p.evidence = append(p.evidence, p.agent.evidence(b, []api.EvidenceItem{
			{Class: api.ClassCertification, Type: api.EvidenceQuote, Chosen: encodeJSON(q)},
			{Class: api.ClassLog, Type: api.EvidenceIMA, Chosen: encodeJSON(api.LogParameters{Offset: &offset, Format: api.FormatIMA})},
		}, nil))
	}
}

// round is one attestation.
func (p *preparedRounds) round(b *testing.B) {
	location := p.send(b, http.MethodPost, p.agent.attestations(), p.offer, http.StatusCreated)
	p.send(b, http.MethodPatch, location, p.evidence[0], http.StatusAccepted)
	p.evidence = p.evidence[1:]
}

// send sends a request and reads the answer as an agent does: for the time of the next.
func (p *preparedRounds) send(b *testing.B, method, path string, body []byte, want int) string {
	req, err := http.NewRequest(method, p.agent.base+path, bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Content-Type", api.JSONAPIType)
	req.Header.Set("Authorization", "Bearer "+p.agent.token)
	resp, err := p.agent.client.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode != want || !json.Valid(text) {
		b.Fatalf("%s answered %d %s, %v", method, resp.StatusCode, text, err)
	}
	return resp.Header.Get("Location")
}

// BenchmarkPushRounds is many agents calling at once, each with a P-256 AK that signs its quotes here and now: rounds
// share the commits that a lone agent waits for by itself. Both sides are in the CPU time.
func BenchmarkPushRounds(b *testing.B) {
	cfg := fastConfig(b)
	cfg.QuoteInterval, cfg.Push.SessionsPerAddress.Count = 0, 1_000_000
	v := newVerifier(b, cfg, openStore(b))
	v.calls.log, v.cycle.log = zerolog.Nop(), zerolog.Nop()
	base, _ := v.serve(b)
	agents := make(chan *callingAgent, 64)
	for i := range cap(agents) {
		a := startCalling(b, base, fmt.Sprintf("bench%d", i))
		a.join(b, v, a.enrolment(a.policy()))
		a.attest(b)
		a.attest(b)
		agents <- a
	}
	canned := newCannedAgent(b)
	canned.prepare(b, 1)
	reference := cpuPer(500, canned.bareGet(b, v)) + cpuPer(500, rsaVerify(b))
	before := cpuTime()
	b.SetParallelism(cap(agents) / runtime.GOMAXPROCS(0))
	b.RunParallel(func(pb *testing.PB) {
		a := <-agents
		defer func() { agents <- a }()
		for pb.Next() {
			if r := a.attest(b); r.status != http.StatusAccepted {
				b.Errorf("%v", r)
				return
			}
		}
	})
	per := (cpuTime() - before) / time.Duration(b.N)
	b.ReportMetric(float64(per.Nanoseconds()), "cpu-ns/round")
	b.ReportMetric(float64(per)/float64(reference), "x-reference")
}

// BenchmarkSession is a session from its challenge to its token, proven by an RSA-2048 AK: two requests and one durable
// commit. The reference is that of BenchmarkPushRound; both sides are in the CPU time, the signing is not.
func BenchmarkSession(b *testing.B) {
	cfg := fastConfig(b)
	cfg.Push.SessionsPerAddress.Count, cfg.Push.SessionsPerAgent.Count = 1_000_000, 1_000_000
	v := newVerifier(b, cfg, openStore(b))
	v.sessions.log = zerolog.Nop()
	base, _ := v.serve(b)
	soft, err := fleet.NewSoftTPM(rand.Reader, "rsa2048")
	if err != nil {
		b.Fatal(err)
	}
	a := &callingAgent{id: "bench", tpm: soft, base: base, client: clientWith(b), booted: time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)}
	a.measures(b)
	v.add(b, a.asTenant(), a.enrolment(a.policy()))
	canned := newCannedAgent(b)
	canned.prepare(b, 1)
	reference := cpuPer(500, canned.bareGet(b, v)) + cpuPer(500, rsaVerify(b))
	var cpu time.Duration
	done := 0
	for b.Loop() {
		before := cpuTime()
		id, nonce := challengeOf(b, a.ask(b))
		cpu += cpuTime() - before
		proof := possessionBy(a.certify(b, nonce))
		before = cpuTime()
		if r := a.answer(b, id, proof); r.status != http.StatusOK {
			b.Fatal(r)
		}
		cpu += cpuTime() - before
		done++
	}
	per := cpu / time.Duration(done)
	b.ReportMetric(float64(per.Nanoseconds()), "cpu-ns/session")
	b.ReportMetric(float64(per)/float64(reference), "x-reference")
}
