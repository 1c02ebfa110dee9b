package tenant

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// BenchmarkAdd is a whole `add --verify` over loopback, made beside its reference: what the protocol cannot do without,
// which is a TLS session with each of the three peers, the quote, and the nine requests.
func BenchmarkAdd(b *testing.B) {
	s := newStage(b, "rsa2048")
	o := &options{agent: s.id, file: writeFile(b, "secret", "the secret payload"), runtimePolicy: writeFile(b, "p", goodPolicy), verify: true}
	var ours, reference time.Duration
	for b.Loop() {
		tn := s.tenant(b, io.Discard, nil)
		start := time.Now()
		if _, err := add(b.Context(), tn, o); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(start)

		plain := s.tenant(b, io.Discard, nil)
		start = time.Now()
		s.bareRequests(b, plain)
		reference += time.Since(start)
	}
	b.ReportMetric(float64(ours)/float64(reference), "x-bare-requests")
}

// bareRequests sends as many requests to each peer as `add` does, over one new connection each, and looks at no answer.
func (s *stage) bareRequests(b *testing.B, tn *tenant) {
	registration, err := parseRegistration(s.id, s.record)
	if err != nil {
		b.Fatal(err)
	}
	_, agent, err := tn.agentTransport(registration)
	if err != nil {
		b.Fatal(err)
	}
	settings, err := tn.clientTLS("127.0.0.1")
	if err != nil {
		b.Fatal(err)
	}
	for _, p := range []struct {
		hc    *http.Client
		port  int
		paths []string
	}{
		{tn.httpClient(settings), s.registrar.port(), []string{"/version", "/v2.6/agents/" + s.id}},
		{agent, s.agent.port(), []string{"/version", "/v2.6/quotes/identity?nonce=AAAAAAAAAAAAAAAAAAAA", "/version", "/version"}},
		{tn.httpClient(settings), s.verifier.port(), []string{"/version", "/version", "/version"}},
	} {
		for _, path := range p.paths {
			rsp, err := p.hc.Get(fmt.Sprintf("https://127.0.0.1:%d%s", p.port, path))
			if err != nil {
				b.Fatal(err)
			}
			io.Copy(io.Discard, rsp.Body)
			rsp.Body.Close()
		}
		p.hc.CloseIdleConnections()
	}
}
