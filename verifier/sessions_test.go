package verifier

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/store"
	"keylime/store/bolt"
	"keylime/tpm"
)

// sessionCall sends one request about a session.
func sessionCall(t testing.TB, a *callingAgent, method, path string, attributes any) response {
	t.Helper()
	return exchange(t, a.client, "", method, a.base+path, bytes.NewReader(resourceOf(t, api.TypeSession, attributes)))
}

func (a *callingAgent) ask(t testing.TB) response {
	t.Helper()
	return sessionCall(t, a, http.MethodPost, "/v3.0/sessions", api.SessionRequest{AgentID: a.id, Supported: []api.Authentication{possession()}})
}

// challengeOf reads the challenge of an answer to ask.
func challengeOf(t testing.TB, r response) (id string, nonce []byte) {
	t.Helper()
	var d api.Document[api.SessionOffer]
	if err := json.Unmarshal(r.body, &d); err != nil || r.status != 200 || len(d.Data.Attributes.Requested) != 1 {
		t.Fatalf("offer: %v %v", r, err)
	}
	nonce, err := base64.StdEncoding.DecodeString(d.Data.Attributes.Requested[0].Chosen.Challenge)
	if err != nil {
		t.Fatal(err)
	}
	return d.Data.ID, nonce
}

// prove answers a challenge with what the agent's TPM certifies.
func (a *callingAgent) prove(t testing.TB, id string, nonce []byte, change func(attest, signature []byte) ([]byte, []byte)) response {
	t.Helper()
	attest, signature := a.certify(t, nonce)
	if change != nil {
		attest, signature = change(attest, signature)
	}
	return a.answer(t, id, possessionBy(attest, signature))
}

// certify has the agent's AK certify itself.
func (a *callingAgent) certify(t testing.TB, nonce []byte) (attest, signature []byte) {
	t.Helper()
	ak, err := tpm.ParsePublic(a.tpm.AKPublic())
	if err != nil {
		t.Fatal(err)
	}
	attest, signature, err = a.tpm.Certify(nonce, ak)
	if err != nil {
		t.Fatal(err)
	}
	return attest, signature
}

func possessionBy(attest, signature []byte) api.Authentication {
	proof := possession()
	proof.Data = &api.AuthenticationMessage{
		Message: base64.StdEncoding.EncodeToString(attest), Signature: base64.StdEncoding.EncodeToString(signature),
	}
	return proof
}

// answer sends a proof.
func (a *callingAgent) answer(t testing.TB, id string, proof api.Authentication) response {
	t.Helper()
	return sessionCall(t, a, http.MethodPatch, "/v3.0/sessions/"+id, api.SessionProof{AgentID: a.id, Provided: []api.Authentication{proof}})
}

func sessionResult(t testing.TB, r response) api.SessionResult {
	t.Helper()
	var d api.Document[api.SessionResult]
	if err := json.Unmarshal(r.body, &d); err != nil {
		t.Fatalf("%v: %v", r, err)
	}
	return d.Data.Attributes
}

// newCaller is a verifier with an enrolled agent that calls in.
func newCaller(t *testing.T, id string) (*testVerifier, *callingAgent) {
	t.Helper()
	v := newVerifier(t, fastConfig(t), openStore(t))
	base, _ := v.serve(t)
	a := startCalling(t, base, id)
	v.add(t, a.asTenant(), a.enrolment(a.policy()))
	return v, a
}

func TestSessionIsOpenedByProofOfPossession(t *testing.T) {
	t.Parallel()
	_, a := newCaller(t, "a1")
	id, nonce := challengeOf(t, a.ask(t))
	r := a.prove(t, id, nonce, nil)
	result := sessionResult(t, r)
	if r.status != 200 || result.Evaluation != "pass" || !strings.HasPrefix(result.Token, id+".") || len(result.Token) != len(id)+44 || result.TokenExpires == "" {
		t.Fatalf("%v", r)
	}
	a.token = result.Token
	if r := a.attest(t); r.status != 202 {
		t.Errorf("attestation with the token: %v", r)
	}
	// NT-84: neither the session's challenge nor its proof is good twice.
	if r := a.prove(t, id, nonce, nil); r.status != 404 || !strings.Contains(string(r.body), textNoSession) {
		t.Errorf("proof replayed: %v", r)
	}
	if r := exchange(t, a.client, a.token, "GET", a.base+"/v2.6/agents/a1", nil); r.status != 200 ||
		!strings.Contains(string(r.body), `"attestation_status":"PASS"`) || strings.Contains(string(r.body), `"v":"`) {
		t.Errorf("own record: %v", r)
	}
	again, nonce := challengeOf(t, a.ask(t))
	next := sessionResult(t, a.prove(t, again, nonce, nil))
	if r := a.call(t, "POST", a.attestations(), nil); r.status != 401 { // NT-86: one session at a time
		t.Errorf("replaced token: %v", r)
	}
	if next.Token == result.Token || next.Token == "" {
		t.Error("the second session has no token of its own")
	}
}

// NT-84: what does not prove possession opens nothing, and says so by the status and the evaluation.
func TestSessionIsRefusedWithoutProof(t *testing.T) {
	t.Parallel()
	v, a := newCaller(t, "a1")
	other := startCalling(t, a.base, "a1")
	flipped := func(attest, signature []byte) ([]byte, []byte) { attest[60] ^= 1; return attest, signature }
	for name, prove := range map[string]func(id string, nonce []byte) response{
		"another nonce": func(id string, nonce []byte) response { return a.prove(t, id, append(nonce[:15:15], 1), nil) },
		"no nonce":      func(id string, _ []byte) response { return a.prove(t, id, nil, nil) },
		"another key":   func(id string, nonce []byte) response { return other.prove(t, id, nonce, nil) },
		"flipped bit":   func(id string, nonce []byte) response { return a.prove(t, id, nonce, flipped) },
		"nothing at all": func(id string, nonce []byte) response {
			return a.prove(t, id, nonce, func(_, _ []byte) ([]byte, []byte) { return nil, nil })
		},
		"quote for a proof": func(id string, nonce []byte) response {
			return a.prove(t, id, nonce, func(_, _ []byte) ([]byte, []byte) {
				q, err := a.tpm.Quote(nonce, tpm.Mask(0).With(0), tpm.SHA256)
				if err != nil {
					t.Error(err)
				}
				return q.Attest, q.Signature
			})
		},
		"text that is not base64": func(id string, _ []byte) response {
			p := possession()
			p.Data = &api.AuthenticationMessage{Message: "!", Signature: "!"}
			return sessionCall(t, a, "PATCH", "/v3.0/sessions/"+id, api.SessionProof{AgentID: "a1", Provided: []api.Authentication{p}})
		},
		"no proof": func(id string, _ []byte) response {
			return sessionCall(t, a, "PATCH", "/v3.0/sessions/"+id, api.SessionProof{AgentID: "a1"})
		},
	} {
		id, nonce := challengeOf(t, a.ask(t))
		r := prove(id, nonce)
		if result := sessionResult(t, r); r.status != 401 || result.Evaluation != "fail" || result.Token != "" {
			t.Errorf("%s: %v", name, r)
		}
		if r := a.prove(t, id, nonce, nil); r.status != 404 {
			t.Errorf("%s: the challenge can be answered again: %v", name, r)
		}
	}
	if s := v.log.String(); strings.Contains(s, "panic") {
		t.Error(s)
	}
}

func TestSessionRequestsAreChecked(t *testing.T) {
	t.Parallel()
	v, a := newCaller(t, "a1")
	id, nonce := challengeOf(t, a.ask(t))
	for name, c := range map[string]struct {
		method, path string
		attributes   any
		status       int
		want         string
	}{
		"no agent id":        {"POST", "/v3.0/sessions", api.SessionRequest{Supported: []api.Authentication{possession()}}, 400, textNoAgentID},
		"invalid agent id":   {"POST", "/v3.0/sessions", api.SessionRequest{AgentID: "a\n", Supported: []api.Authentication{possession()}}, 400, textNoAgentID},
		"no way to prove it": {"POST", "/v3.0/sessions", api.SessionRequest{AgentID: "a1"}, 400, textNoPossession},
		"unknown session":    {"PATCH", "/v3.0/sessions/x", api.SessionProof{AgentID: "a1"}, 404, textNoSession},
		"another agent's":    {"PATCH", "/v3.0/sessions/" + id, api.SessionProof{AgentID: "a2"}, 400, textOtherSession},
	} {
		if r := sessionCall(t, a, c.method, c.path, c.attributes); r.status != c.status || !strings.Contains(string(r.body), c.want) || !strings.Contains(string(r.body), `"title":`) {
			t.Errorf("%s: %v, want %d %s", name, r, c.status, c.want)
		}
	}
	if r := a.prove(t, id, nonce, nil); r.status != 200 { // the mismatch before did not use it up
		t.Errorf("proof after a mismatch: %v", r)
	}

	stranger := startCalling(t, a.base, "nobody") // enrolled nowhere: no oracle before the proof, and none in the status
	id, nonce = challengeOf(t, stranger.ask(t))
	if r := stranger.prove(t, id, nonce, nil); r.status != 200 || sessionResult(t, r).Evaluation != "fail" {
		t.Errorf("stranger: %v", r)
	}
	asked := startCalling(t, a.base, "a3")
	req := asked.enrolment(asked.policy())
	port := json.RawMessage("9002")
	req.AttestationMode, req.AgentIP, req.AgentPort = new(api.ModePull), new("127.0.0.1"), port
	v.cfg.EnableAgentMTLS = false
	v.add(t, asked.asTenant(), req)
	id, nonce = challengeOf(t, asked.ask(t))
	if r := asked.prove(t, id, nonce, nil); sessionResult(t, r).Evaluation != "fail" || !strings.Contains(v.log.String(), "was added to be asked") {
		t.Errorf("agent of the pull model: %v", r)
	}
}

// NT-82: whoever asks in another's name for sessions is slowed down, and the other's session lives.
func TestSessionRequestsAreLimited(t *testing.T) {
	t.Parallel()
	_, a := newCaller(t, "a1")
	id, nonce := challengeOf(t, a.ask(t))
	a.token = sessionResult(t, a.prove(t, id, nonce, nil)).Token
	limited := 0
	for range 1000 {
		if r := a.ask(t); r.status == http.StatusTooManyRequests {
			limited++
			if r.retry == "" || !strings.Contains(string(r.body), "Rate limit exceeded") {
				t.Fatalf("%v %q", r, r.retry)
			}
		}
	}
	if limited < 950 {
		t.Errorf("%d of 1,000 requests were limited", limited)
	}
	if r := a.attest(t); r.status != 202 {
		t.Errorf("the agent's session is gone: %v", r)
	}
}

// NT-81, NT-86: guesses, expired tokens and those of deleted agents are refused alike; a restart changes nothing.
func TestTokensEnd(t *testing.T) {
	t.Parallel()
	v, a := newCaller(t, "a1")
	id, nonce := challengeOf(t, a.ask(t))
	a.token = sessionResult(t, a.prove(t, id, nonce, nil)).Token
	check := func(what, token, detail string) {
		t.Helper()
		r := exchange(t, a.client, token, "POST", a.base+a.attestations(), nil)
		if r.status != 401 || !strings.Contains(string(r.body), detail) {
			t.Errorf("%s: %v, want %s", what, r, detail)
		}
	}
	secret := strings.TrimPrefix(a.token, id+".")
	wrong := "A" + secret[1:]
	if secret[0] == 'A' {
		wrong = "B" + secret[1:]
	}
	check("wrong secret", id+"."+wrong, "Invalid authentication token")
	check("secret of another id", "d075fdc6-50aa-4ea7-9d31-a424ec362fd9."+secret, "Invalid authentication token")
	check("no secret", id, "Invalid authentication token")
	check("endless", id+"."+strings.Repeat("A", 10_000), "Invalid authentication token")

	again := newSessions(v.store, v.cfg.Push, v.Verifier.log) // as after a restart: nothing is in memory
	if agent, err := again.authenticate(t.Context(), a.token); agent != "a1" || err != nil {
		t.Errorf("after a restart: %q %v", agent, err)
	}
	s, err := v.store.Session(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	s.Expires = time.Now().Add(-time.Second)
	if err := v.store.OpenSession(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	check("expired", a.token, "Authentication token expired")
	s.Expires = time.Now().Add(time.Minute)
	if err := v.store.OpenSession(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := v.store.DeleteAgent(t.Context(), "a1"); err != nil {
		t.Fatal(err)
	}
	check("of a deleted agent", a.token, "Invalid authentication token")
	if _, err := v.store.Session(t.Context(), id); err == nil {
		t.Error("the session outlived its agent")
	}
}

// NT-85: neither the log nor the database holds a token, a key share or a challenge in use.
func TestSecretsAreNowhereToBeRead(t *testing.T) {
	t.Parallel()
	database := filepath.Join(t.TempDir(), "verifier.db")
	db, err := bolt.Open(database, bolt.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	v := newVerifier(t, fastConfig(t), db)
	base, _ := v.serve(t)
	a := startCalling(t, base, "a1")
	v.add(t, a.asTenant(), a.enrolment(a.policy()))
	id, nonce := challengeOf(t, a.ask(t))
	a.token = sessionResult(t, a.prove(t, id, nonce, nil)).Token
	if r := a.attest(t); r.status != 202 {
		t.Fatal(r)
	}
	a.ask(t)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	secret := strings.TrimPrefix(a.token, id+".")
	file, err := os.ReadFile(database)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(file, []byte(id)) {
		t.Error("the database does not hold the session at all")
	}
	for what, text := range map[string]string{"log": v.log.String(), "database": string(file)} {
		for _, s := range []string{secret, a.token, base64.StdEncoding.EncodeToString(nonce), string(nonce)} {
			if strings.Contains(text, s) {
				t.Errorf("the %s holds a secret", what)
			}
		}
	}
}

func TestLateProofOpensNothing(t *testing.T) {
	t.Parallel()
	v, a := newCaller(t, "a1")
	past := time.Now().Add(-2 * time.Minute)
	o := store.Offer{ID: "late", AgentID: "a1", Nonce: []byte("0123456789abcdef"), Created: past, Expires: past.Add(time.Minute)}
	if err := v.store.Offer(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	r := a.prove(t, o.ID, o.Nonce, nil)
	if late := r.status == 200 && sessionResult(t, r).Evaluation == "fail"; !late && r.status != 404 {
		t.Errorf("%v", r)
	}
}

func TestDiscovery(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]int{api.ModePull: 200, api.ModePush: 410, modeBoth: 200} {
		cfg := fastConfig(t)
		cfg.Push.Mode = mode
		v := newVerifier(t, cfg, openStore(t))
		base, _ := v.serve(t)
		client := clientWith(t)
		for _, path := range []string{"/version", "/versions"} {
			if status, body := request(t, client, "GET", base+path, ""); status != want || status == 200 && !strings.Contains(body, `"3.0"`) {
				t.Errorf("mode %s: %s: %d %s", mode, path, status, body)
			}
		}
		for path, version := range map[string]string{"/v3.0/": "3.0", "/v3": "3.0", "/v2.6/": "2.6"} {
			if status, body := request(t, client, "GET", base+path, ""); status != 200 || !strings.Contains(body, version) {
				t.Errorf("mode %s: %s: %d %s", mode, path, status, body)
			}
		}
	}
}
