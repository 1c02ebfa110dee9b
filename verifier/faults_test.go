package verifier

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/policy"
	"keylime/store"
	"keylime/tpm"
)

// NT-94: whoever deletes or stops an agent while a round is under way wins. The hostile agents answer late and badly,
// so that each round in flight would leave a failure and an event behind. 1,000 tries, spread over agents.
func TestDeleteAndStopWinOverRoundsInFlight(t *testing.T) {
	t.Parallel()
	const agents, tries = 20, 50
	v := startVerifier(t, fastConfig(t), openStore(t))
	var wg sync.WaitGroup
	for i := range agents {
		l := &lateAgent{testAgent: startAgent(t, fmt.Sprintf("a%d", i)), asked: make(chan struct{}), release: make(chan struct{})}
		l.become(l.late)
		wg.Go(func() {
			for n := range tries {
				if err := l.try(t, v, n%2 == 0); err != nil {
					t.Errorf("%s, try %d: %v", l.id, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	v.stop()
	if list, err := v.agents(t.Context(), ""); err != nil || len(list.UUIDs) > 0 {
		t.Errorf("deleted agents are back: %v, %v", list, err)
	}
	if events, err := v.store.ClaimEvents(t.Context(), "test", time.Now().Add(time.Hour), 10, time.Minute); err != nil || len(events) > 0 {
		t.Errorf("events after deletion: %v, %v", events, err)
	}
}

// lateAgent says when it is asked, and answers badly when it is told to.
type lateAgent struct {
	*testAgent
	asked, release chan struct{}
}

func (l *lateAgent) late(w http.ResponseWriter, r *http.Request) bool {
	if strings.Contains(r.URL.Path, "/quotes/") {
		l.asked <- struct{}{}
		<-l.release
		replyOK(w, api.QuoteResults{Quote: "r::"})
	}
	return true
}

// try enrols the agent and deletes it while its round is under way, stopping it before the round ends if so wanted.
func (l *lateAgent) try(t *testing.T, v *testVerifier, stop bool) error {
	ctx := t.Context()
	if err := v.enrol(ctx, l.id, encode(t, l.enrolment(""))); err != nil {
		return err
	}
	<-l.asked
	if stop {
		if err := v.stopAgent(ctx, l.id); err != nil {
			return err
		}
		l.release <- struct{}{}
		st, err := v.agent(ctx, l.id, false)
		if err != nil {
			return err
		}
		if st.OperationalState != int(store.StateTenantFailed) || st.LastEventID != nil {
			return fmt.Errorf("stopped agent became %s", encode(t, st))
		}
		return v.deleteAgent(ctx, l.id)
	}
	if err := v.deleteAgent(ctx, l.id); err != nil {
		return err
	}
	l.release <- struct{}{}
	if _, err := v.agent(ctx, l.id, false); err == nil {
		return errors.New("the deleted agent is back")
	}
	return nil
}

// NT-93: a policy that is updated while a round is under way: the round is judged by the version that it began with,
// says so, and the next one is judged by the new version.
func TestPolicyUpdateDuringARound(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	strict, generous := agent.runtimePolicy(), agent.runtimePolicy("/usr/bin/new")
	agent.measure(t, "/usr/bin/new")
	hold, held := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	agent.become(func(http.ResponseWriter, *http.Request) bool {
		if first.CompareAndSwap(false, true) {
			close(held)
			<-hold
		}
		return false
	})
	cfg := fastConfig(t)
	v := startVerifier(t, cfg, openStore(t))
	v.add(t, agent, agent.enrolment(generous))
	<-held
	if err := v.updateRuntimePolicy(t.Context(), "a1", upload(strict)); err != nil {
		t.Fatal(err)
	}
	close(hold)
	v.until(t, "a1", "pass by the version that the round began with", func(a api.VerifierAgent) bool { return a.AttestationCount > 0 })
	// Entries that were proven are not appraised again, so the new policy shows when the next file is measured.
	agent.measure(t, "/usr/bin/other")
	st := v.until(t, "a1", "failure by the new version", inState(store.StateInvalidQuote))
	if st.RuntimePolicyDigest != store.DigestOf([]byte(strict)) {
		t.Errorf("judged by %s, want %s", st.RuntimePolicyDigest, store.DigestOf([]byte(strict)))
	}
}

// upload is the body of a policy upload.
func upload(text string) []byte {
	return []byte(`{"runtime_policy":"` + base64.StdEncoding.EncodeToString([]byte(text)) + `"}`)
}

// faultyStore fails its verbs while broken, or is slow.
type faultyStore struct {
	store.Verifier
	broken atomic.Bool
	delay  atomic.Int64
}

var errBroken = errors.New("no space left on device")

func (s *faultyStore) trouble(ctx context.Context) error {
	if d := time.Duration(s.delay.Load()); d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if s.broken.Load() {
		return errBroken
	}
	return nil
}

func (s *faultyStore) Claim(ctx context.Context, verifierID, owner string, now time.Time, max int, ttl time.Duration) ([]store.Lease, error) {
	if err := s.trouble(ctx); err != nil {
		return nil, err
	}
	return s.Verifier.Claim(ctx, verifierID, owner, now, max, ttl)
}

func (s *faultyStore) Commit(ctx context.Context, l store.Lease, r store.Round, now time.Time) error {
	if err := s.trouble(ctx); err != nil {
		return err
	}
	return s.Verifier.Commit(ctx, l, r, now)
}

func (s *faultyStore) PolicyHead(ctx context.Context, kind store.PolicyKind, name string) (store.Policy, error) {
	if err := s.trouble(ctx); err != nil {
		return store.Policy{}, err
	}
	return s.Verifier.PolicyHead(ctx, kind, name)
}

// NT-95: a store that does not work is the verifier's trouble. Nobody passes, nobody fails, and it goes on after.
func TestBrokenStore(t *testing.T) {
	t.Parallel()
	good, bad := startAgent(t, "good"), startAgent(t, "bad")
	s := &faultyStore{Verifier: openStore(t)}
	cfg := fastConfig(t)
	cfg.RequestTimeout = 100 * time.Millisecond
	v := newVerifier(t, cfg, s)
	v.start(t)
	v.add(t, good, good.enrolment(good.runtimePolicy()))
	v.add(t, bad, bad.enrolment(bad.runtimePolicy()))
	v.passes(t, "good", 2)
	v.passes(t, "bad", 2)

	s.broken.Store(true)
	eventually(t, func() bool { return strings.Contains(v.log.String(), errBroken.Error()) }, func() { t.Error("no trouble") })
	bad.measure(t, "/usr/bin/evil")
	before := v.status(t, "good").AttestationCount
	time.Sleep(300 * time.Millisecond) // for as long as it is broken nothing may change; a moment stands for 60 s
	for _, id := range []string{"good", "bad"} {
		if st := v.status(t, id); st.AttestationStatus != "PASS" || st.LastEventID != nil {
			t.Errorf("%s while the store is broken: %s", id, encode(t, st))
		}
	}
	if after := v.status(t, "good").AttestationCount; after != before {
		t.Errorf("%d good rounds that were not committed", after-before)
	}
	if n := len(good.notifications()) + len(bad.notifications()); n > 0 {
		t.Errorf("%d notifications", n)
	}

	s.delay.Store(int64(5 * time.Millisecond))
	s.broken.Store(false)
	v.until(t, "bad", "failure", inState(store.StateInvalidQuote))
	v.passes(t, "good", 2)
	eventually(t, func() bool { return len(good.notifications()) == 1 }, func() { t.Error("no revocation") })
}

// NT-98: a receiver that does not work is tried again, with the message in the store all the while, and attestation
// does not notice.
func TestWebhookIsRetriedFromTheOutbox(t *testing.T) {
	t.Parallel()
	agent, good := startAgent(t, "bad"), startAgent(t, "good")
	var tries atomic.Int32
	var down atomic.Bool
	down.Store(true)
	received := make(chan struct{}, 10)
	cfg := fastConfig(t)
	cfg.Revocations.Enabled = []string{"webhook"}
	cfg.Revocations.WebhookURL = startWebhook(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n := tries.Add(1); {
		case n == 1:
			w.WriteHeader(500)
		case n == 2:
			http.Redirect(w, r, "https://127.0.0.1:1/", http.StatusTemporaryRedirect)
		case n == 3:
			panic(http.ErrAbortHandler)
		case down.Load():
			w.WriteHeader(503)
		default:
			received <- struct{}{}
		}
	}))
	s := openStore(t)
	v := startVerifier(t, cfg, s)
	v.add(t, good, good.enrolment(""))
	v.add(t, agent, agent.enrolment(agent.runtimePolicy()))
	v.passes(t, "bad", 1)
	agent.measure(t, "/usr/bin/evil")
	v.until(t, "bad", "failure", inState(store.StateInvalidQuote))
	eventually(t, func() bool { return tries.Load() > 4 }, func() { t.Error(tries.Load(), " tries") })
	v.passes(t, "good", 3)

	// A restart does not lose it.
	v.stop()
	down.Store(false)
	after := startVerifier(t, cfg, s)
	select {
	case <-received:
	case <-time.After(15 * time.Second):
		t.Fatalf("not delivered:\n%s%s", v.log, after.log)
	}
	after.stop()
	select {
	case <-received:
		t.Error("delivered twice")
	default:
	}
	if events, err := s.ClaimEvents(t.Context(), "test", time.Now().Add(48*time.Hour), 10, time.Minute); err != nil || len(events) > 0 {
		t.Errorf("left in the outbox: %v, %v", events, err)
	}
}

// NT-98: what cannot be delivered is given up in the end.
func TestUndeliverableMessageIsGivenUp(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "bad")
	v := newVerifier(t, fastConfig(t), openStore(t))
	v.outbox.channels = map[string]channel{"webhook": hopeless{}}
	v.start(t)
	v.add(t, agent, agent.enrolment(agent.runtimePolicy()))
	v.passes(t, "bad", 1)
	agent.measure(t, "/usr/bin/evil")
	eventually(t, func() bool { return strings.Contains(v.log.String(), "Revocation message given up") }, func() { t.Error(v.log) })
	v.stop()
	if events, _ := v.store.ClaimEvents(t.Context(), "test", time.Now().Add(48*time.Hour), 10, time.Minute); len(events) > 0 {
		t.Errorf("left in the outbox: %v", events)
	}
}

type hopeless struct{}

func (hopeless) Send(context.Context, store.Event) error { return errors.New("nobody is there") }
func (hopeless) patience() (int, time.Duration)          { return 3, time.Hour }

// A restarted verifier goes on where the last one was: V is delivered again, and nothing that was proven is asked for
// again.
func TestRestartKeepsWhatWasProven(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	agent.measure(t, "/usr/bin/good")
	s := openStore(t)
	v := startVerifier(t, fastConfig(t), s)
	req := agent.enrolment(agent.runtimePolicy("/usr/bin/good"))
	secret := base64.StdEncoding.EncodeToString(make([]byte, 32))
	req.V = &secret
	v.add(t, agent, req)
	v.passes(t, "a1", 3)
	v.stop()
	before, asked := v.status(t, "a1"), len(agent.asked("GET"))

	v = startVerifier(t, fastConfig(t), s)
	v.passes(t, "a1", 2)
	quotes := agent.asked("GET")[asked:]
	if !strings.Contains(quotes[0], "partial=0&ima_ml_entry=2") {
		t.Errorf("first request after the restart: %s", quotes[0])
	}
	if st := v.status(t, "a1"); st.AttestationCount <= before.AttestationCount {
		t.Errorf("%d good rounds, %d before", st.AttestationCount, before.AttestationCount)
	}
	eventually(t, func() bool { return len(agent.received()) == 2 }, func() { t.Errorf("V received %d times", len(agent.received())) })
}

// A failure that the severity policy calls mild leaves the agent polled, and a good quote ends it.
func TestMildFailureRecovers(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	cfg := fastConfig(t)
	cfg.SeverityPolicy = []config.SeverityRule{{EventID: `pcr_validation\..*`, SeverityLabel: "warning"}}
	v := startVerifier(t, cfg, openStore(t))
	req := agent.enrolment("")
	mask := `{"22": "` + strings.Repeat("ff", 32) + `", "mask": "0x400000"}`
	req.TPMPolicy = &mask
	v.add(t, agent, req)
	v.passes(t, "a1", 2)
	if got := v.status(t, "a1").Appraises; len(got) != 1 || got[0] != "tpm_policy" {
		t.Errorf("appraises %v", got)
	}
	agent.tpm.Reset() // PCR 22 starts with all bits set again after the next reboot
	extend(t, agent, 22)
	st := v.until(t, "a1", "failure", inState(store.StateInvalidQuote))
	if *st.LastEventID != "pcr_validation.invalid_pcr_22" || *st.SeverityLevel != 2 || st.AttestationStatus != "FAIL" {
		t.Errorf("status %s", encode(t, st))
	}
	asked := len(agent.asked("GET"))
	eventually(t, func() bool { return len(agent.asked("GET")) > asked+3 }, func() { t.Error("it is not polled any more") })
	agent.tpm.Reset()
	st = v.until(t, "a1", "recovery", inState(store.StateGetQuote))
	if *st.SeverityLevel != 2 {
		t.Errorf("the severity was forgotten: %s", encode(t, st))
	}
	eventually(t, func() bool { return len(agent.notifications()) == 1 }, func() { t.Errorf("%d notifications, want 1", len(agent.notifications())) })
}

// An agent that cannot be reached any more is reported as that, not as failed.
func TestLostAgentIsACommunicationError(t *testing.T) {
	t.Parallel()
	agent, witness := startAgent(t, "a1"), startAgent(t, "a2")
	v := startVerifier(t, fastConfig(t), openStore(t))
	v.add(t, agent, agent.enrolment(""))
	v.add(t, witness, witness.enrolment(""))
	v.passes(t, "a1", 1)
	agent.become(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
	st := v.until(t, "a1", "failure", inState(store.StateFailed))
	if *st.LastEventID != "internal.verifier.not_reachable" {
		t.Errorf("status %s", encode(t, st))
	}
	eventually(t, func() bool { return len(witness.notifications()) > 0 }, func() { t.Error("nobody was told") })
	var msg api.Revocation
	if err := json.Unmarshal([]byte(witness.notifications()[0].Msg), &msg); err != nil || msg.Type != "comm_error" || msg.AgentID != "a1" {
		t.Errorf("told %s", witness.notifications()[0].Msg)
	}
}

// Rounds under way when the verifier stops end without a verdict.
func TestStoppingIsNotSilenceOfTheAgent(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	held := make(chan struct{})
	var once sync.Once
	agent.become(func(_ http.ResponseWriter, r *http.Request) bool {
		once.Do(func() { close(held) })
		<-r.Context().Done()
		return true
	})
	cfg := fastConfig(t)
	cfg.RequestTimeout = time.Minute
	cfg.ShutdownDrainTimeout = 50 * time.Millisecond
	v := startVerifier(t, cfg, openStore(t))
	v.add(t, agent, agent.enrolment(""))
	<-held
	start := time.Now()
	v.stop()
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("stopping took %v", d)
	}
	a, err := v.store.Agent(t.Context(), "a1")
	if err != nil || a.Status.Operational != store.StateStart || a.Status.Retries != 0 || a.Due.After(time.Now()) {
		t.Errorf("left in %+v, due %v, %v", a.Status, a.Due, err)
	}
}

// Many agents name one policy: it is compiled once, and gone when nobody asks for it any more.
func TestPoliciesAreShared(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	text := []byte(policy.EmptyRuntime)
	for _, name := range []string{"p", "q"} {
		if err := s.AddPolicy(t.Context(), newPolicy(store.RuntimePolicy, name, text)); err != nil {
			t.Fatal(err)
		}
	}
	c := newPolicies(s, policy.BootAcceptAll)
	now := time.Now()
	var got [64]*policy.Runtime
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			p, err := c.runtime(t.Context(), []string{"p", "q"}[i%2], now)
			if err != nil {
				t.Error(err)
			}
			got[i] = p
		})
	}
	wg.Wait()
	for _, p := range got {
		if p != got[0] {
			t.Fatal("the same text was compiled twice")
		}
	}
	changed := []byte(strings.Replace(policy.EmptyRuntime, `"release":0`, `"release":1`, 1))
	if err := s.UpdatePolicy(t.Context(), newPolicy(store.RuntimePolicy, "q", changed)); err != nil {
		t.Fatal(err)
	}
	q, err := c.runtime(t.Context(), "q", now.Add(2*policyIdle))
	if err != nil || q == got[0] || q.Digest() != store.DigestOf(changed) {
		t.Errorf("after the update: %v, %v", q, err)
	}
	if len(c.texts) != 1 {
		t.Errorf("%d texts are kept", len(c.texts))
	}
	if _, err := c.runtime(t.Context(), "nosuch", now); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("error %v", err)
	}
}

// NT-26: nonces are distinct and carry 128 bits and more.
func TestNonces(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	ones, bits := 0, 0
	for range 10_000 {
		n, err := newNonce()
		if err != nil {
			t.Fatal(err)
		}
		if len(n) != nonceLength || seen[n] {
			t.Fatalf("nonce %q", n)
		}
		seen[n] = true
		for _, c := range n { // above or below the middle of the alphabet is one fair bit
			bits++
			if strings.IndexRune(nonceAlphabet, c) >= len(nonceAlphabet)/2 {
				ones++
			}
		}
	}
	if f := float64(ones) / float64(bits); f < 0.49 || f > 0.51 {
		t.Errorf("%.3f of the characters are from the upper half", f)
	}
}

func extend(t *testing.T, a *testAgent, pcr int) {
	t.Helper()
	if err := a.tpm.Extend(pcr, map[tpm.Hash][]byte{tpm.SHA256: fileDigest("boot")}); err != nil {
		t.Fatal(err)
	}
}
