package attest

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"keylime/internal/fleet"
	"keylime/internal/policy"
	"keylime/tpm"
)

const (
	quoteEvent    = "qoute_validation.quote_validation"
	missingPCRs   = "pcr_validation.missing_pcrs"
	missingPCR16  = "pcr_validation.missing_pcr_16"
	otherBankOnly = `{"0":"abababababababababababababababababababab","mask":"0x401"}` // SHA-1
)

// requote replaces the answer's quote by one over other PCRs, another nonce or another bank.
func (m *machine) requote(t testing.TB, in *Input, nonce []byte, mask tpm.Mask, bank tpm.Hash) {
	t.Helper()
	q, err := m.tpm.Quote(nonce, mask, bank)
	if err != nil {
		t.Fatal(err)
	}
	in.Evidence.Quote = q
}

func TestForgedQuotes(t *testing.T) {
	t.Parallel()
	const full = 0x10400 // PCRs 10 and 16
	for _, c := range []struct {
		name  string
		forge func(t *testing.T, m *machine, in *Input)
		want  string
	}{
		{"NT-20: signed by another key", func(t *testing.T, m *machine, in *Input) {
			other, err := fleet.NewSoftTPM(rand.NewChaCha8([32]byte{9}), "ecc256")
			if err != nil {
				t.Fatal(err)
			}
			if in.Evidence.Quote.Signature, err = other.SignAttest(in.Evidence.Quote.Attest); err != nil {
				t.Fatal(err)
			}
		}, quoteEvent},
		{"NT-22: PCRs 16 and 23 labelled 10 and 16", func(t *testing.T, m *machine, in *Input) {
			want := [][]byte{m.tpm.PCR(tpm.SHA256, 10), m.tpm.PCR(tpm.SHA256, 16)}
			m.requote(t, in, in.Challenge.Nonce, tpm.MaskOf(16, 23), tpm.SHA256)
			in.Evidence.Quote.PCRBlob = tpm.MarshalPCRBlob(tpm.SHA256, full, want)
		}, missingPCRs},
		{"NT-22: PCRs 10, 16 and 23", func(t *testing.T, m *machine, in *Input) {
			m.requote(t, in, in.Challenge.Nonce, tpm.MaskOf(10, 16, 23), tpm.SHA256)
		}, quoteEvent},
		{"NT-22: blob with values of another quote", func(t *testing.T, m *machine, in *Input) {
			zero := make([]byte, 32)
			in.Evidence.Quote.PCRBlob = tpm.MarshalPCRBlob(tpm.SHA256, full, [][]byte{zero, zero})
		}, quoteEvent},
		{"NT-24: PCR 10 is missing", func(t *testing.T, m *machine, in *Input) {
			m.requote(t, in, in.Challenge.Nonce, tpm.MaskOf(16), tpm.SHA256)
		}, missingPCRs},
		{"NT-24: PCR 16 is missing", func(t *testing.T, m *machine, in *Input) {
			m.requote(t, in, in.Challenge.Nonce, tpm.MaskOf(10), tpm.SHA256)
		}, missingPCR16},
		{"NT-24: a PCR of the tpm_policy is missing", func(t *testing.T, m *machine, in *Input) {
			in.Policy = set(t, in.Policy.Runtime, `{"7":"`+strings.Repeat("00", 32)+`","mask":"0x480"}`)
			in.Challenge.Mask = in.Policy.Mask()
		}, missingPCRs},
		{"NT-24: both are missing", func(t *testing.T, m *machine, in *Input) {
			m.requote(t, in, in.Challenge.Nonce, tpm.MaskOf(0), tpm.SHA256)
		}, missingPCR16 + "," + missingPCRs},
		{"NT-25: nonce of another round", func(t *testing.T, m *machine, in *Input) {
			m.requote(t, in, []byte("another"), full, tpm.SHA256)
		}, quoteEvent},
		{"NT-25: nonce in base64", func(t *testing.T, m *machine, in *Input) {
			m.requote(t, in, []byte(base64.StdEncoding.EncodeToString(in.Challenge.Nonce)), full, tpm.SHA256)
		}, quoteEvent},
		{"NT-25: nonce decoded from base64", func(t *testing.T, m *machine, in *Input) {
			in.Challenge.Nonce = []byte("QUJDREVGR0hJSktMTU5P")
			m.requote(t, in, []byte("ABCDEFGHIJKLMNO"), full, tpm.SHA256)
		}, quoteEvent},
		{"NT-25: nonce with a suffix", func(t *testing.T, m *machine, in *Input) {
			m.requote(t, in, append(slices.Clone(in.Challenge.Nonce), 'x'), full, tpm.SHA256)
		}, quoteEvent},
		{"NT-25: part of the nonce", func(t *testing.T, m *machine, in *Input) {
			m.requote(t, in, in.Challenge.Nonce[1:], full, tpm.SHA256)
		}, quoteEvent},
		{"NT-30: another bank", func(t *testing.T, m *machine, in *Input) {
			m.requote(t, in, in.Challenge.Nonce, full, tpm.SHA1)
		}, quoteEvent},
		{"NT-30: name of a hash that the signature does not use", func(t *testing.T, m *machine, in *Input) {
			in.Identity.AcceptHash = []string{"sha256", "sha384"}
			in.Evidence.HashAlg = "sha384"
		}, quoteEvent},
		{"NT-30: hash not accepted", func(t *testing.T, m *machine, in *Input) { in.Evidence.HashAlg = "sha1" }, "qoute_validation.invalid_hash_alg"},
		{"unknown hash", func(t *testing.T, m *machine, in *Input) {
			in.Evidence.HashAlg, in.Identity.AcceptHash = "sm3_256", []string{"sm3_256"}
		}, "qoute_validation.invalid_hash_alg"},
		{"no hash", func(t *testing.T, m *machine, in *Input) { in.Evidence.HashAlg = "" }, "qoute_validation.invalid_hash_alg"},
		{"key type not accepted", func(t *testing.T, m *machine, in *Input) { in.Evidence.EncAlg = "rsa" }, "qoute_validation.invalid_enc_alg"},
		{"key type accepted, but not the AK's", func(t *testing.T, m *machine, in *Input) {
			in.Evidence.EncAlg, in.Identity.AcceptEnc = "rsa", []string{"rsa", "ecc"}
		}, "qoute_validation.invalid_enc_alg"},
		{"scheme not accepted", func(t *testing.T, m *machine, in *Input) { in.Evidence.SignAlg = "rsassa" }, "qoute_validation.invalid_sign_alg"},
		{"scheme accepted, but not the AK's", func(t *testing.T, m *machine, in *Input) {
			in.Evidence.SignAlg, in.Identity.AcceptSign = "ecschnorr", []string{"ecschnorr", "ecdsa"}
		}, "qoute_validation.invalid_sign_alg"},
		{"short name of the key type", func(t *testing.T, m *machine, in *Input) {
			in.Evidence.EncAlg, in.Identity.AcceptEnc = "ecc", []string{"ecc256"}
		}, "pass"},
		{"long name of the key type", func(t *testing.T, m *machine, in *Input) { in.Identity.AcceptEnc = []string{"ecc", "rsa"} }, "pass"},
		{"nothing at all", func(t *testing.T, m *machine, in *Input) { in.Evidence = Evidence{} }, "qoute_validation.invalid_hash_alg"},
		{"no quote", func(t *testing.T, m *machine, in *Input) { in.Evidence.Quote = tpm.Quote{} }, quoteEvent},
		{"PCR has the policy's value", func(t *testing.T, m *machine, in *Input) {
			in.Policy = set(t, in.Policy.Runtime, `{"0":"`+strings.Repeat("00", 32)+`"}`)
			in.Challenge.Mask = in.Policy.Mask()
			m.requote(t, in, in.Challenge.Nonce, tpm.MaskOf(0, 10, 16), tpm.SHA256)
		}, "pass"},
		{"PCR has another value", func(t *testing.T, m *machine, in *Input) {
			in.Policy = set(t, in.Policy.Runtime, `{"0":"`+strings.Repeat("01", 32)+`"}`)
			in.Challenge.Mask = in.Policy.Mask()
			m.requote(t, in, in.Challenge.Nonce, tpm.MaskOf(0, 10, 16), tpm.SHA256)
		}, "pcr_validation.invalid_pcr_0"},
		{"NT-31: digests of another bank only", func(t *testing.T, m *machine, in *Input) {
			in.Policy = set(t, in.Policy.Runtime, otherBankOnly)
			in.Challenge.Mask = in.Policy.Mask()
			m.requote(t, in, in.Challenge.Nonce, tpm.MaskOf(0, 10, 16), tpm.SHA256)
		}, "pcr_validation.invalid_pcr_0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.play(t, "measure(2)")
			in := m.answer(t)
			c.forge(t, m, &in)
			if got := events(m.verify(t, in).Verdict); got != c.want {
				t.Errorf("got %s, want %s\n%+v", got, c.want, m.last.Verdict.Failures)
			}
		})
	}
}

// NT-27
func TestClockMustAdvance(t *testing.T) {
	t.Parallel()
	last := tpm.Clock{Clock: 1000, ResetCount: 5, RestartCount: 2, Safe: true}
	for _, c := range []struct {
		name string
		now  tpm.Clock
		want string
	}{
		{"later", tpm.Clock{Clock: 1001, ResetCount: 5, RestartCount: 2, Safe: true}, "pass"},
		{"same", last, quoteEvent},
		{"earlier", tpm.Clock{Clock: 999, ResetCount: 5, RestartCount: 2, Safe: true}, quoteEvent},
		{"resumed", tpm.Clock{Clock: 1001, ResetCount: 5, RestartCount: 3, Safe: true}, "pass"},
		{"resumed less often", tpm.Clock{Clock: 2000, ResetCount: 5, RestartCount: 1, Safe: true}, quoteEvent},
		{"rebooted", tpm.Clock{Clock: 1500, ResetCount: 6, RestartCount: 0, Safe: true}, "pass"},
		{"rebooted less often", tpm.Clock{Clock: 2000, ResetCount: 4, RestartCount: 9, Safe: true}, quoteEvent},
		{"not safe", tpm.Clock{Clock: 1001, ResetCount: 5, RestartCount: 2}, quoteEvent},
		{"rebooted, not safe", tpm.Clock{Clock: 900, ResetCount: 6}, quoteEvent},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.play(t, "measure(2) round")
			m.state.Clock = last
			before := c.now
			before.Clock -= 2000 + 2 // answer lets two seconds pass, and each of its two commands takes a millisecond
			m.tpm.SetClock(before)
			in := m.answer(t)
			if first := c.now.ResetCount != last.ResetCount; first {
				in.Challenge.Entry, in.Evidence.IMAEntry = 0, 0
				in.Evidence.IMA, _ = m.list.From(0)
			}
			out := m.verify(t, in)
			if got := events(out.Verdict); got != c.want {
				t.Fatalf("got %s, want %s\n%+v", got, c.want, out.Verdict.Failures)
			}
			if got := out.State.Clock; out.Verdict.Pass() && got != c.now || !out.Verdict.Pass() && got != last {
				t.Errorf("state has the clock %v", got)
			}
			for _, f := range out.Verdict.Failures {
				if f.Recoverable == c.now.Safe {
					t.Errorf("recoverable: %v", f.Recoverable)
				}
			}
		})
	}
}

// NT-21: no changed byte passes, and none panics. RSA, for of an ECDSA signature there are two valid forms.
func TestEveryByteOfAQuoteCounts(t *testing.T) {
	t.Parallel()
	m := newMachineOf(t, fleet.Model{Alg: "rsa2048"})
	m.play(t, "measure(2)")
	in := m.answer(t)
	if out, err := Verify(in); err != nil || !out.Verdict.Pass() {
		t.Fatal(out.Verdict, err)
	}
	part := func(name string, bytesOf func(*tpm.Quote) *[]byte) {
		original := *bytesOf(&in.Evidence.Quote)
		for i := range original {
			for _, flip := range []byte{0x01, 0x80} {
				forged := in
				changed := bytes.Clone(original)
				changed[i] ^= flip
				*bytesOf(&forged.Evidence.Quote) = changed
				out, err := Verify(forged)
				if err != nil || out.Verdict.Pass() {
					t.Fatalf("%s, byte %d changed by %#x: %v, %v", name, i, flip, out.Verdict, err)
				}
			}
		}
	}
	part("attest", func(q *tpm.Quote) *[]byte { return &q.Attest })
	part("signature", func(q *tpm.Quote) *[]byte { return &q.Signature })
	part("PCR blob", func(q *tpm.Quote) *[]byte { return &q.PCRBlob })
}

func TestContextsOfQuoteFailures(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.play(t, "measure(2)")
	in := m.answer(t)
	in.Policy = set(t, in.Policy.Runtime, `{"0":["`+strings.Repeat("AB", 20)+`"]}`)
	in.Challenge.Mask = in.Policy.Mask()
	m.requote(t, &in, in.Challenge.Nonce, tpm.MaskOf(0, 10, 16), tpm.SHA256)
	in.Evidence.PubKey = "other"
	out := m.verify(t, in)
	want := []Failure{
		{
			EventID: "pcr_validation.invalid_pcr_16", Severity: policy.Severity{Label: "emergency", Rank: 6, Highest: true}, Recoverable: true,
			Context: `{"got":"3fabc7e7b8524d09d0894332af963908ff1963a4a848bf90dc24be93c57f0f04","expected":"` + hexOf(tpm.DataPCR(tpm.SHA256, "other")) + `"}`,
		},
		{
			EventID: "pcr_validation.invalid_pcr_0", Severity: policy.Severity{Label: "emergency", Rank: 6, Highest: true}, Recoverable: true,
			Context: `{"context":"PCR value is not in allowlist","got":"` + strings.Repeat("00", 32) + `","expected":["` + strings.Repeat("ab", 20) + `"]}`,
		},
	}
	if !slices.Equal(out.Verdict.Failures, want) {
		t.Errorf("got  %+v\nwant %+v", out.Verdict.Failures, want)
	}

	m.requote(t, &in, in.Challenge.Nonce, tpm.MaskOf(10, 16), tpm.SHA256)
	out = m.verify(t, in)
	if got, want := out.Verdict.Failures[0].Context, `{"context":"PCRs are missing in quote","data":[0]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestVerifyHoldsItsCallerToTheRules(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.play(t, "measure(2) round")
	for _, c := range []struct {
		name  string
		wrong func(*Input)
		want  string
	}{
		{"no AK", func(in *Input) { in.Identity.AK = nil }, "no AK"},
		{"no policy", func(in *Input) { in.Policy = nil }, "policy is incomplete"},
		{"no labels", func(in *Input) { in.Policy = &policy.Set{PCR: in.Policy.PCR} }, "policy is incomplete"},
		{"no nonce", func(in *Input) { in.Challenge.Nonce = nil }, "no nonce"},
		{"PCR 10 not asked for", func(in *Input) { in.Challenge.Mask = 1 }, "the policy needs [10]"},
		{"no runtime policy", func(in *Input) {
			in.Policy = &policy.Set{PCR: in.Policy.PCR, Labels: in.Policy.Labels}
		}, "there is no runtime policy"},
		{"entry", func(in *Input) { in.Challenge.Entry = 1 }, "neither 0 nor the next, 3"},
	} {
		in := m.answer(t)
		c.wrong(&in)
		if _, err := Verify(in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// The empty policy of an agent without one is not asked about: its mask has no PCR 10, and an unasked list is ignored.
func TestEmptyPolicyAsksForNothing(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	runtime, err := policy.CompileRuntime([]byte(policy.EmptyRuntime))
	if err != nil {
		t.Fatal(err)
	}
	m.policy = set(t, runtime, `{"mask":"0x0"}`)
	m.play(t, "run(/evil) round round!garbage round!entry+1")
	if m.state.NextEntry != 0 || m.state.Bank != 0 {
		t.Errorf("the list was believed: %+v", m.state)
	}
}
