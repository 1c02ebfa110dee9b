package verifier

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"math/bits"
	"slices"
	"strings"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/recorded"
	"keylime/store"
	"keylime/tpm"
)

// sessionDiffers are the places where our answers about sessions may differ from those recorded, and why.
var sessionDiffers = map[string]string{
	"data.attributes.created_at":           "the time of the request",
	"data.attributes.challenges_expire_at": "follows from it",
	"data.attributes.response_received_at": "the time of the request",
}

// TestRecordedSessions has a recorded agent ask for its sessions again. Ours have the ids and challenges of those
// recorded, so that its proofs verify. The recorded verifier did not know the agent yet.
func TestRecordedSessions(t *testing.T) {
	t.Parallel()
	recorded.Dir(t)
	for _, life := range []string{"push", "mbpush"} {
		t.Run(life, func(t *testing.T) {
			t.Parallel()
			v := newVerifier(t, fastConfig(t), openStore(t))
			base, admin := v.serve(t)
			client := clientWith(t)
			c := &recordedCaller{t: t, v: v}
			asked := recorded.Glob(t, "wire/"+life+"/*-POST-v3.0_sessions.json")
			proved := recorded.Glob(t, "wire/"+life+"/*-PATCH-v3.0_sessions_ID.json")
			if len(asked) == 0 || len(asked) != len(proved) {
				t.Fatalf("%d sessions were asked for, %d proofs given", len(asked), len(proved))
			}
			send := func(e recorded.Exchange) response {
				t.Helper()
				r := exchange(t, client, "", e.Request.Method, base+e.Request.Path, strings.NewReader(e.Request.Body))
				if r.status != e.Response.Status {
					t.Fatalf("%s: answered %v", e.Name, r)
				}
				return r
			}
			for i := range asked {
				v.foresee(t, asked[i])
				c.compare(asked[i], send(asked[i]), sessionDiffers)
				c.compare(proved[i], send(proved[i]), sessionDiffers)
			}

			replay(t, base, admin, recorded.Glob(t, "wire/"+life+"/010-*.json")[0], nil)
			for i := range asked {
				v.foresee(t, asked[i])
				send(asked[i])
				result := sessionResult(t, send(proved[i]))
				if result.Evaluation != "pass" || result.Token == "" {
					t.Errorf("%s, once the agent is enrolled: %+v", proved[i].Name, result)
				}
				if id, err := v.sessions.authenticate(t.Context(), result.Token); id != recordedID || err != nil {
					t.Errorf("its token is %q's, %v", id, err)
				}
			}
		})
	}
}

// foresee has the next session get a recorded id and challenge.
func (tv *testVerifier) foresee(t *testing.T, asked recorded.Exchange) {
	t.Helper()
	var d api.Document[api.SessionOffer]
	if err := json.Unmarshal([]byte(asked.Response.Body), &d); err != nil {
		t.Fatal(err)
	}
	id, err := hex.DecodeString(strings.ReplaceAll(d.Data.ID, "-", ""))
	if err != nil {
		t.Fatal(err)
	}
	nonce, err := base64.StdEncoding.DecodeString(d.Data.Attributes.Requested[0].Chosen.Challenge)
	if err != nil {
		t.Fatal(err)
	}
	tv.sessions.rand = io.MultiReader(bytes.NewReader(slices.Concat(id, nonce)), rand.Reader)
}

// NT-26: challenges, ids and tokens do not repeat.
func TestChallengesAreDistinct(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, fastConfig(t), openStore(t))
	const n = 10_000
	seen := make(map[string]bool, 2*n)
	ones := 0
	for range n {
		o, err := v.sessions.offer(t.Context(), "a1", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		seen[o.ID], seen[string(o.Nonce)] = true, true
		if len(o.Nonce) != 16 {
			t.Fatalf("challenge of %d bytes", len(o.Nonce))
		}
		for _, b := range o.Nonce {
			ones += bits.OnesCount8(b)
		}
	}
	if len(seen) != 2*n {
		t.Errorf("%d different ids and challenges of %d", len(seen), 2*n)
	}
	// Monobit (NIST SP 800-22, 2.1): of 1,280,000 bits half are ones, give or take five standard deviations.
	if half := n * 128 / 2; ones < half-2829 || ones > half+2829 {
		t.Errorf("%d of %d bits are ones", ones, 2*half)
	}
}

// NT-81: how long a guess takes says nothing of how much of it is right.
func TestGuessesTakeTheSameTime(t *testing.T) {
	t.Parallel()
	v, a := newCaller(t, "a1")
	a.login(t)
	id, secret, _ := strings.Cut(a.token, ".")
	near := id + "." + secret[:42] + "!"
	far := id + "." + strings.Repeat("_", 43)
	const n = 20_000
	times := map[string][]time.Duration{near: make([]time.Duration, n), far: make([]time.Duration, n)}
	for i := range n {
		for guess, took := range times {
			start := time.Now()
			if _, err := v.sessions.authenticate(t.Context(), guess); err == nil {
				t.Fatal("a guess is good")
			}
			took[i] = time.Since(start)
		}
	}
	median := func(d []time.Duration) float64 { slices.Sort(d); return float64(d[n/2]) }
	if r := median(times[near]) / median(times[far]); r < 0.9 || r > 1.1 {
		t.Errorf("a guess that is almost right takes %.2f times as long as one that is all wrong", r)
	}
}

// FuzzSessionProof holds that no proof but the agent's own opens a session, and none crashes the verifier.
func FuzzSessionProof(f *testing.F) {
	v := newVerifier(f, fastConfig(f), openStore(f))
	a := startCalling(f, "", "a1")
	v.add(f, a.asTenant(), a.enrolment(a.policy()))
	ak, err := tpm.ParsePublic(a.tpm.AKPublic())
	if err != nil {
		f.Fatal(err)
	}
	now := time.Now()
	o := store.Offer{ID: "s1", AgentID: "a1", Nonce: []byte("0123456789abcdef"), Created: now, Expires: now.Add(time.Hour)}
	own, ownSignature, err := a.tpm.Certify(o.Nonce, ak)
	if err != nil {
		f.Fatal(err)
	}
	proof := possession()
	proof.Data = &api.AuthenticationMessage{
		Message: base64.StdEncoding.EncodeToString(own), Signature: base64.StdEncoding.EncodeToString(ownSignature),
	}
	f.Add(resourceOf(f, api.TypeSession, api.SessionProof{AgentID: "a1", Provided: []api.Authentication{proof}}))
	f.Add([]byte(`{"data":{"type":"session","attributes":{"agent_id":"a1","authentication_provided":[{"authentication_class":"pop","authentication_type":"tpm_pop"}]}}}`))
	f.Add([]byte(`{"data":[{"type":"session","id":"x","attributes":{"agent_id":"a1","authentication_provided":[]}}],"jsonapi":{"version":"1.1"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := parseSession[api.SessionProof](string(body))
		if err != nil {
			return
		}
		attest, signature := decodeProof(proofOf(req.Provided))
		_, _, err = v.sessions.open(t.Context(), o, attest, signature, now)
		same := bytes.Equal(attest, own) && bytes.Equal(signature, ownSignature)
		if same != (err == nil) {
			t.Fatalf("opened: %v, the agent's own proof: %v", err, same)
		}
	})
}
