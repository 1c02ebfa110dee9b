package verifier

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/fleet"
	"keylime/internal/isolated"
	"keylime/store"
	"keylime/tpm"
)

// The hostile agent: what a machine that its owner lost control of may answer, over real connections. Beside each
// hostile one a good agent is attested, whose rounds must not notice.

// NT-45: answers that are none.
func TestAnswersThatAreNone(t *testing.T) {
	t.Parallel()
	const silent, stands = "internal.verifier.not_reachable", "internal.verifier.exception"
	for _, c := range []struct {
		name  string
		reply func(w http.ResponseWriter, r *http.Request)
		event string
		tries int // 0 = does not matter
	}{
		{"HTML", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "<html>hello</html>") }, stands, 1},
		{"empty body", func(http.ResponseWriter, *http.Request) {}, stands, 1},
		{"wrong content type", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "image/png")
			_, _ = w.Write([]byte("\x89PNG\r\n"))
		}, stands, 1},
		{"results null", func(w http.ResponseWriter, _ *http.Request) { replyOK(w, nil) }, stands, 1},
		{"results of another shape", func(w http.ResponseWriter, _ *http.Request) { replyOK(w, []int{1}) }, stands, 1},
		{"numbers as text", func(w http.ResponseWriter, _ *http.Request) {
			replyOK(w, map[string]any{"quote": "r", "ima_measurement_list_entry": "7"})
		}, stands, 1},
		{"negative entry", func(w http.ResponseWriter, _ *http.Request) {
			replyOK(w, map[string]any{"quote": "r", "ima_measurement_list_entry": -1})
		}, stands, 1},
		{"deep nesting", func(w http.ResponseWriter, _ *http.Request) { // NT-41
			_, _ = fmt.Fprint(w, `{"results":`+strings.Repeat("[", 100_000))
		}, stands, 1},
		{"too large by its header", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(1<<40))
		}, stands, 1},
		{"gzip bomb unasked", func(w http.ResponseWriter, _ *http.Request) { // NT-40
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write([]byte("\x1f\x8b\x08"))
		}, stands, 1},
		{"endless body", func(w http.ResponseWriter, r *http.Request) {
			chunk := []byte(strings.Repeat(" ", 1<<10))
			for r.Context().Err() == nil {
				if _, err := w.Write(chunk); err != nil {
					return
				}
				_ = http.NewResponseController(w).Flush()
			}
		}, "", 0}, // whichever of size and time ends it
		{"one byte now and then", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				time.Sleep(50 * time.Millisecond)
			}
		}, silent, 3},
		{"never answers", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, silent, 3},
		{"closes mid-body", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("{"))
			panic(http.ErrAbortHandler)
		}, silent, 3},
		{"closes at once", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, silent, 0},
		{"server error", func(w http.ResponseWriter, _ *http.Request) {
			reply(w, 500, "Unable to retrieve quote", nil)
		}, silent, 3},
		{"unavailable", func(w http.ResponseWriter, _ *http.Request) { reply(w, 503, "busy", nil) }, "internal.verifier.no_quote", 1},
		{"400 that is not JSON", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(400) }, stands, 1},
		{"endless header", func(w http.ResponseWriter, _ *http.Request) {
			for i := range 1000 {
				w.Header().Set("X-"+strconv.Itoa(i), strings.Repeat("x", 1000))
			}
		}, silent, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			hostile, good := startAgent(t, "hostile"), startAgent(t, "good")
			hostile.become(func(w http.ResponseWriter, r *http.Request) bool { c.reply(w, r); return true })
			cfg := fastConfig(t)
			cfg.RequestTimeout = 300 * time.Millisecond
			v := startVerifier(t, cfg, openStore(t))
			v.add(t, hostile, hostile.enrolment(""))
			v.add(t, good, good.enrolment(good.runtimePolicy()))
			st := v.until(t, "hostile", "failure", inState(store.StateFailed))
			if c.event != "" && *st.LastEventID != c.event {
				t.Errorf("event %s, want %s: %s", *st.LastEventID, c.event, st.LastEventContext)
			}
			if n := len(hostile.asked("GET /v2.6/quotes")); c.tries > 0 && n != c.tries {
				t.Errorf("asked %d times, want %d", n, c.tries)
			}
			v.passes(t, "good", 3)
			if n := len(good.notifications()); n > 0 { // never attested: nobody is alarmed
				t.Errorf("%d notifications", n)
			}
		})
	}
}

// NT-20 to NT-25, NT-28 and NT-34 over the wire: evidence that is not what was asked for, or not the TPM's.
func TestForgedEvidence(t *testing.T) {
	t.Parallel()
	type forgery func(a *testAgent, q *api.QuoteResults, nonce string, mask tpm.Mask)
	requote := func(q *api.QuoteResults, f func(*tpm.Quote)) {
		quote, err := tpm.ParseQuote(q.Quote)
		if err != nil {
			panic(err)
		}
		f(&quote)
		q.Quote = quote.String()
	}
	text := func(s string) *string { return &s }
	for _, c := range []struct {
		name  string
		forge forgery
		event string
	}{
		{"other nonce", func(a *testAgent, q *api.QuoteResults, nonce string, mask tpm.Mask) {
			other, _ := a.evidence("another nonce altogether", mask, true, 0)
			q.Quote = other.Quote
		}, "qoute_validation.quote_validation"},
		{"nonce with a suffix", func(a *testAgent, q *api.QuoteResults, nonce string, mask tpm.Mask) {
			other, _ := a.evidence(nonce+"A", mask, true, 0)
			q.Quote = other.Quote
		}, "qoute_validation.quote_validation"},
		{"key of another TPM", func(a *testAgent, q *api.QuoteResults, nonce string, mask tpm.Mask) {
			stranger, _ := fleet.NewSoftTPM(zeros{}, "ecc256")
			a.mu.Lock()
			stranger.BindData(a.keyPEM)
			a.mu.Unlock()
			quote, _ := stranger.Quote([]byte(nonce), mask.With(tpm.PCRData), tpm.SHA256)
			q.Quote = quote.String()
		}, "qoute_validation.quote_validation"},
		{"PCR 23 labelled as 10", func(a *testAgent, q *api.QuoteResults, nonce string, _ tpm.Mask) {
			quote, _ := a.tpm.Quote([]byte(nonce), tpm.MaskOf(tpm.PCRData, 23), tpm.SHA256)
			quote.PCRBlob = tpm.MarshalPCRBlob(tpm.SHA256, tpm.MaskOf(tpm.PCRIma, tpm.PCRData),
				[][]byte{a.tpm.PCR(tpm.SHA256, tpm.PCRData), a.tpm.PCR(tpm.SHA256, 23)})
			q.Quote = quote.String()
		}, "pcr_validation.missing_pcrs"},
		{"PCR 10 left out", func(a *testAgent, q *api.QuoteResults, nonce string, _ tpm.Mask) {
			quote, _ := a.tpm.Quote([]byte(nonce), tpm.MaskOf(tpm.PCRData), tpm.SHA256)
			q.Quote = quote.String()
		}, "pcr_validation.missing_pcrs"},
		{"other transport key", func(_ *testAgent, q *api.QuoteResults, _ string, _ tpm.Mask) {
			q.PubKey = text(strings.Replace(*q.PubKey, "A", "B", 1))
		}, "pcr_validation.invalid_pcr_16"},
		{"no transport key", func(_ *testAgent, q *api.QuoteResults, _ string, _ tpm.Mask) { q.PubKey = nil }, "qoute_validation.no_pubkey"},
		{"huge transport key", func(_ *testAgent, q *api.QuoteResults, _ string, _ tpm.Mask) {
			q.PubKey = text(strings.Repeat("A", 1<<16))
		}, "qoute_validation.invalid_data"},
		{"no quote", func(_ *testAgent, q *api.QuoteResults, _ string, _ tpm.Mask) { q.Quote = "" }, "qoute_validation.invalid_data"},
		{"quote of other text", func(_ *testAgent, q *api.QuoteResults, _ string, _ tpm.Mask) { q.Quote = "rAAAA:BBBB" }, "qoute_validation.quote_validation"},
		{"signature changed", func(_ *testAgent, q *api.QuoteResults, _ string, _ tpm.Mask) {
			requote(q, func(quote *tpm.Quote) { quote.Signature[len(quote.Signature)-1] ^= 1 })
		}, "qoute_validation.quote_validation"},
		{"attestation changed", func(_ *testAgent, q *api.QuoteResults, _ string, _ tpm.Mask) {
			requote(q, func(quote *tpm.Quote) { quote.Attest[40] ^= 1 })
		}, "qoute_validation.quote_validation"},
		{"hash that is not accepted", func(_ *testAgent, q *api.QuoteResults, _ string, _ tpm.Mask) { q.HashAlg = "sha1" }, "qoute_validation.invalid_hash_alg"},
		{"entry beyond what was asked for", func(_ *testAgent, q *api.QuoteResults, _ string, _ tpm.Mask) {
			n := uint64(5)
			q.IMAEntry = &n
		}, "qoute_validation.invalid_ima_entry_nb"},
		{"no measurement list", func(_ *testAgent, q *api.QuoteResults, _ string, _ tpm.Mask) {
			q.IMA, q.IMAEntry = nil, nil
		}, "pcr_validation.unused_pcr_10"},
		{"shortened list", func(_ *testAgent, q *api.QuoteResults, _ string, _ tpm.Mask) { q.IMA = text("") }, "ima.pcr_mismatch"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			hostile := startAgent(t, "hostile")
			hostile.become(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/quotes/integrity") {
					return false
				}
				nonce := r.URL.Query().Get("nonce")
				mask, _ := tpm.ParseMask(r.URL.Query().Get("mask"))
				q, err := hostile.evidence(nonce, mask, true, 0)
				if err != nil {
					t.Error(err)
				}
				c.forge(hostile, &q, nonce, mask)
				replyOK(w, q)
				return true
			})
			v := startVerifier(t, fastConfig(t), openStore(t))
			v.add(t, hostile, hostile.enrolment(hostile.runtimePolicy()))
			st := v.until(t, "hostile", "failure", inState(store.StateInvalidQuote))
			if *st.LastEventID != c.event || st.AttestationCount != 0 {
				t.Errorf("event %s after %d good rounds, want %s: %s", *st.LastEventID, st.AttestationCount, c.event, st.LastEventContext)
			}
			eventually(t, func() bool { return len(hostile.notifications()) == 1 }, func() { t.Error("no revocation") })
		})
	}
}

// NT-25: the answer of one round is of no use in the next.
func TestReplayedEvidence(t *testing.T) {
	t.Parallel()
	hostile := startAgent(t, "hostile")
	v := startVerifier(t, fastConfig(t), openStore(t))
	var kept atomic.Value
	hostile.become(func(w http.ResponseWriter, r *http.Request) bool {
		old, ok := kept.Load().([]byte)
		if !ok {
			rec := httptest.NewRecorder()
			hostile.quote(rec, r)
			old = rec.Body.Bytes()
			kept.Store(old)
		}
		_, _ = w.Write(old)
		return true
	})
	v.add(t, hostile, hostile.enrolment(""))
	st := v.until(t, "hostile", "failure", inState(store.StateInvalidQuote))
	if st.AttestationCount != 1 || *st.LastEventID != "qoute_validation.quote_validation" {
		t.Errorf("status %s", encode(t, st))
	}
}

// NT-46: a panic while an answer is processed fails that agent and nobody else.
func TestPanicFailsTheAgentAlone(t *testing.T) {
	t.Parallel()
	hostile, good := startAgent(t, "hostile"), startAgent(t, "good")
	v := newVerifier(t, fastConfig(t), openStore(t))
	nonce := v.cycle.nonce
	var armed atomic.Bool
	v.cycle.nonce = func() (string, error) {
		if armed.CompareAndSwap(true, false) {
			panic("made to")
		}
		return nonce()
	}
	v.start(t)
	v.add(t, good, good.enrolment(""))
	v.passes(t, "good", 1)
	if err := v.stopAgent(t.Context(), "good"); err != nil {
		t.Fatal(err)
	}
	armed.Store(true)
	v.add(t, hostile, hostile.enrolment(""))
	st := v.until(t, "hostile", "failure", inState(store.StateFailed))
	if *st.LastEventID != "internal.verifier.exception" || strings.Contains(string(st.LastEventContext), "made to") {
		t.Errorf("status %s", encode(t, st))
	}
	if n := v.cycle.panics.Load(); n != 1 {
		t.Errorf("%d panics counted", n)
	}
	if !strings.Contains(v.log.String(), "made to") {
		t.Error("the log does not hold the panic")
	}
	if err := v.reactivateAgent(t.Context(), "good"); err != nil {
		t.Fatal(err)
	}
	v.passes(t, "good", 2)
}

// NT-47: a redirect is an answer that stands, and is never followed.
func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	if !isolated.Run(t) {
		return
	}
	for _, status := range []int{301, 302, 307, 308} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			t.Parallel()
			var followed atomic.Int32
			elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
			defer elsewhere.Close()
			hostile := startAgent(t, "hostile")
			hostile.become(func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, elsewhere.URL, status)
				return true
			})
			v := startVerifier(t, fastConfig(t), openStore(t))
			v.add(t, hostile, hostile.enrolment(""))
			st := v.until(t, "hostile", "failure", inState(store.StateFailed))
			if *st.LastEventID != "internal.verifier.no_quote" || followed.Load() != 0 {
				t.Errorf("event %s, followed %d times", *st.LastEventID, followed.Load())
			}
		})
	}
}

// NT-47: a name that resolves to an address that is no agent's is not connected to, and at once a failure.
func TestResolvedAddressIsChecked(t *testing.T) {
	t.Parallel()
	if !isolated.Run(t) {
		return
	}
	agent := startAgent(t, "a1")
	cfg := fastConfig(t)
	cfg.AllowLoopbackAgents = false
	v := startVerifier(t, cfg, openStore(t))
	req := agent.enrolment("")
	name := "localhost"
	req.AgentIP = &name
	v.add(t, agent, req)
	st := v.until(t, "a1", "failure", inState(store.StateFailed))
	if *st.LastEventID != "internal.verifier.no_quote" || !strings.Contains(string(st.LastEventContext), "allow_loopback_agents") {
		t.Errorf("status %s", encode(t, st))
	}
	if n := len(agent.asked("GET")); n != 0 {
		t.Errorf("it was asked %d times", n)
	}
}

// Another certificate than the enrolled one is a stranger at the agent's address.
func TestAgentCertificateIsPinned(t *testing.T) {
	t.Parallel()
	agent, stranger := startAgent(t, "a1"), startAgent(t, "a1")
	v := startVerifier(t, fastConfig(t), openStore(t))
	req := agent.enrolment("")
	req.AgentPort = json.RawMessage(strconv.Itoa(stranger.port))
	v.add(t, agent, req)
	st := v.until(t, "a1", "failure", inState(store.StateFailed))
	if *st.LastEventID != "internal.verifier.not_reachable" || !strings.Contains(string(st.LastEventContext), "another certificate") {
		t.Errorf("status %s", encode(t, st))
	}
	if n := len(stranger.asked("")); n != 0 {
		t.Errorf("the stranger was sent %d requests", n)
	}
}

// NT-58: API versions.
func TestAPIVersions(t *testing.T) {
	t.Parallel()
	t.Run("enrolled with one that the agent does not speak", func(t *testing.T) {
		t.Parallel()
		agent := startAgent(t, "a1")
		agent.speak("2.1", "2.2")
		v := startVerifier(t, fastConfig(t), openStore(t))
		v.add(t, agent, agent.enrolment(""))
		v.passes(t, "a1", 2)
		if got := agent.asked("GET /v2.2/quotes"); len(got) < 2 {
			t.Errorf("asked %v", agent.asked(""))
		}
	})
	t.Run("agent moves up", func(t *testing.T) {
		t.Parallel()
		agent := startAgent(t, "a1")
		agent.speak("2.1", "2.2")
		v := startVerifier(t, fastConfig(t), openStore(t))
		req := agent.enrolment("")
		old := "2.2"
		req.SupportedVersion = &old
		v.add(t, agent, req)
		v.passes(t, "a1", 2)
		agent.speak("2.5", "2.6")
		v.until(t, "a1", "rounds in 2.6", func(api.VerifierAgent) bool { return len(agent.asked("GET /v2.6/quotes")) > 2 })
		if !strings.Contains(v.log.String(), "Agent API version updated") {
			t.Error("the log does not say so")
		}
	})
	for name, versions := range map[string][]string{
		"agent moves down":                 {"2.1", "2.2"},
		"agent claims one we do not speak": {"99.0"},
		"agent claims nothing":             {""},
		"agent offers what it refuses":     {"2.6"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			agent := startAgent(t, "a1")
			v := startVerifier(t, fastConfig(t), openStore(t))
			v.add(t, agent, agent.enrolment(""))
			v.passes(t, "a1", 2)
			agent.become(func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/version" {
					replyOK(w, api.AgentVersion{Supported: versions[0], List: versions})
				} else {
					reply(w, 400, "API version not supported: v2.6", nil)
				}
				return true
			})
			st := v.until(t, "a1", "failure", inState(store.StateFailed))
			want := "internal.verifier.version_not_supported"
			if name == "agent offers what it refuses" {
				want = "internal.verifier.not_reachable"
			}
			if *st.LastEventID != want {
				t.Errorf("event %s, want %s: %s", *st.LastEventID, want, st.LastEventContext)
			}
			if got := agent.asked("GET /v2.2"); len(got) > 0 {
				t.Errorf("the verifier went down with it: %v", got)
			}
		})
	}
}

// zeros is no randomness at all: what is made with it is somebody's, and nobody's of the other tests.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
