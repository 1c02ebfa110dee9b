package differential

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"keylime/internal/policy"
	"keylime/tpm"
)

// policyCase is one upload of a runtime policy.
type policyCase struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
	Key  string `json:"key"` // PEM; signatures are required when there is one
}

// check does with it what a verifier here would do.
func (c policyCase) check() error {
	d, err := policy.OpenDocument([]byte(c.Text))
	if err != nil {
		return err
	}
	if c.Key != "" {
		key, err := policy.ParsePublicKey([]byte(c.Key))
		switch {
		case err != nil:
			return err
		case d.Envelope == nil:
			return errors.New("not signed")
		}
		if _, err := d.Envelope.Verify(key); err != nil {
			return err
		}
	}
	_, err = d.Compile()
	return err
}

// mutated is a policy's text with a fault, or without one after all.
func (w *world) mutated() string {
	var tree any
	text := w.runtimePolicy(tpm.SHA1, 20)
	if err := json.Unmarshal([]byte(text), &tree); err != nil {
		w.t.Fatal(err)
	}
	if w.chance(85) {
		tree = w.mutate(tree, w.random.IntN(5))
	}
	text = marshal(w.t, tree)
	switch w.random.IntN(20) {
	case 0:
		text = text[:w.random.IntN(len(text))]
	case 1:
		text += pick(w, []string{"}", " ", "\n", "x", "{}"})
	}
	return text
}

// mutate changes one value at some depth.
func (w *world) mutate(v any, depth int) any {
	odd := []any{
		nil, true, 0, 1, -1, 2.0, 2.5, 4, 1e3, "", "sha1", "sha256", "sm3_256", strings.Repeat("ab", 20), strings.Repeat("a", 41), strings.Repeat("AB", 20),
		"zz", []any{}, []any{"x"}, []any{strings.Repeat("ab", 32)}, map[string]any{}, map[string]any{"a": []any{}}, `{"keyids": [1], "pubkeys": ["AA=="]}`,
		`{"keyids": []}`, `[]`, `{"keyids": ["1"], "pubkeys": []}`, `{"meta": {"version": 1}, "keyids": [], "pubkeys": []}`, `{"meta": {"version": 0}, "keyids": [], "pubkeys": []}`,
	}
	switch inner := v.(type) {
	case map[string]any:
		if depth == 0 || len(inner) == 0 {
			break
		}
		names := sortedNames(inner)
		name := pick(w, names)
		switch w.random.IntN(6) {
		case 0:
			delete(inner, name)
		case 1:
			inner["x-"+name] = pick(w, odd)
		case 2:
			inner[name] = pick(w, odd)
		default:
			inner[name] = w.mutate(inner[name], depth-1)
		}
		return inner
	case []any:
		if depth == 0 || len(inner) == 0 {
			break
		}
		i := w.random.IntN(len(inner))
		inner[i] = w.mutate(inner[i], depth-1)
		return inner
	}
	return pick(w, odd)
}

func comparePolicies(t *testing.T, p *peer, seed uint64, count int) {
	w := newWorld(t, seed)
	var cases []policyCase
	for range count {
		c := policyCase{Kind: "policy", Text: w.mutated()}
		p.ask(t, c)
		cases = append(cases, c)
	}
	accepted := comparePolicyCases(t, p, cases)
	t.Logf("%d of %d policies accepted", accepted, count)
	if accepted < count/10 || accepted > count*9/10 {
		t.Errorf("%d of %d policies are accepted: the cases say little", accepted, count)
	}
}

func comparePolicyCases(t *testing.T, p *peer, cases []policyCase) (accepted int) {
	for i, c := range cases {
		var refusal string
		p.answer(t, &refusal)
		err := c.check()
		if err == nil {
			accepted++
		}
		// The row "exclude patterns": they are checked with the rest.
		misformedPattern := err != nil && strings.Contains(err.Error(), misformed)
		if (err == nil) != (refusal == "") && !misformedPattern {
			t.Errorf("policy %d: here %v, the peer says %q\nkey %s\n%s", i, err, refusal, c.Key, c.Text)
		}
	}
	return accepted
}

// compareSigned gives envelopes with and without faults to both, each with a key to verify them with.
func compareSigned(t *testing.T, p *peer, seed uint64, count int) {
	w := newWorld(t, seed)
	keys := make([]*ecdsa.PrivateKey, 2)
	pems := make([]string, 2)
	for i, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, w.source)
		if err != nil {
			t.Fatal(err)
		}
		public, err := policy.NewPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		keys[i], pems[i] = key, public.PEM()
	}
	var cases []policyCase
	for range count {
		c := policyCase{Kind: "policy", Text: w.runtimePolicy(tpm.SHA1, 20), Key: pick(w, pems)}
		if w.chance(90) {
			e, err := policy.Sign([]byte(c.Text), pick(w, keys), w.source)
			if err != nil {
				t.Fatal(err)
			}
			switch w.random.IntN(5) {
			case 0:
				e.Payload[w.random.IntN(len(e.Payload))] ^= 1
			case 1:
				e.Signatures[0].Sig[w.random.IntN(len(e.Signatures[0].Sig))] ^= 1
			case 2:
				e.Signatures[0].KeyID = base64.StdEncoding.EncodeToString([]byte("another"))
			}
			c.Text = string(e.Encode())
		}
		p.ask(t, c)
		cases = append(cases, c)
	}
	if accepted := comparePolicyCases(t, p, cases); accepted == 0 || accepted == count {
		t.Errorf("%d of %d signed policies are accepted: the cases say little", accepted, count)
	}
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	return &world{t: t, random: rand.New(source), source: source, signers: newSigners(t)}
}
