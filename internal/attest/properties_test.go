package attest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keylime/internal/fleet"
	"keylime/internal/policy"
	"keylime/tpm"
)

// clone copies everything in an input that Verify could modify.
func clone(in Input) Input {
	in.Challenge.Nonce = bytes.Clone(in.Challenge.Nonce)
	in.Evidence.Quote.Attest = bytes.Clone(in.Evidence.Quote.Attest)
	in.Evidence.Quote.Signature = bytes.Clone(in.Evidence.Quote.Signature)
	in.Evidence.Quote.PCRBlob = bytes.Clone(in.Evidence.Quote.PCRBlob)
	in.Evidence.IMA = bytes.Clone(in.Evidence.IMA)
	in.State.PCR10 = bytes.Clone(in.State.PCR10)
	return in
}

// Verify modifies none of its arguments, keeps none of them, and decides the same each time.
func TestVerifyIsAFunction(t *testing.T) {
	t.Parallel()
	for _, scenario := range []string{"measure(3)", "measure(3) round log(2)", "measure(3) round run(/evil)", "measure(2) round reboot measure(5)"} {
		m := newMachine(t)
		m.play(t, scenario)
		in := m.answer(t)
		before := clone(in)
		first, err := Verify(in)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(in, before) {
			t.Errorf("%s: Verify changed its input", scenario)
		}
		again, err := Verify(before)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, again); diff != "" {
			t.Errorf("%s: two outcomes of one input:\n%s", scenario, diff)
		}
		encoded := first.State.Encode()
		clear(in.Evidence.IMA)
		clear(in.Evidence.Quote.PCRBlob)
		clear(in.Evidence.Quote.Attest)
		if !bytes.Equal(first.State.Encode(), encoded) {
			t.Errorf("%s: the state points into evidence", scenario)
		}
	}
}

// Any way to cut the life of an honest machine into rounds, with quotes that lag behind lists, ends in the same state,
// that of one round at its end.
func TestRoundsAddUp(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 0))
		m := newMachine(t)
		for range 1 + random.IntN(6) {
			m.play(t, fmt.Sprintf("measure(%d)", random.IntN(8)))
			if random.IntN(2) == 0 {
				m.play(t, fmt.Sprintf("log(%d)", random.IntN(4)))
			}
			m.play(t, "round catchup")
			if random.IntN(4) == 0 {
				m.play(t, "round!full")
			}
		}
		m.play(t, "round")
		cut := m.state
		m.play(t, "restart round")
		whole := m.state
		cut.Clock, whole.Clock = tpm.Clock{}, tpm.Clock{}
		if diff := cmp.Diff(whole, cut); diff != "" {
			t.Errorf("seed %d (-one round +many):\n%s", seed, diff)
		}
		if whole.NextEntry != uint64(m.list.Len()) || whole.Shown != whole.NextEntry {
			t.Errorf("seed %d: %d entries proven, %d shown of %d", seed, whole.NextEntry, whole.Shown, m.list.Len())
		}
	}
}

// Whatever an agent withholds or replays, it gets no pass for a list that lacks a measured file for good.
func TestHiddenFileIsFound(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 1))
		m := newMachine(t)
		m.play(t, fmt.Sprintf("measure(%d) round measure(%d) run(/evil) measure(%d)", random.IntN(5), random.IntN(5), random.IntN(5)))
		for range 20 {
			in := m.answer(t)
			switch random.IntN(4) {
			case 0:
				in.Evidence.IMA = nil
			case 1:
				in.Evidence.IMA = dropLast(in.Evidence.IMA)
			case 2:
				in.Evidence.IMA, in.Evidence.IMAEntry = m.list.From(0)
			case 3:
				at := bytes.Index(in.Evidence.IMA, []byte("/evil"))
				end := bytes.LastIndexByte(in.Evidence.IMA[:at], '\n') + 1
				in.Evidence.IMA = append(in.Evidence.IMA[:end:end], in.Evidence.IMA[at+len("/evil\n"):]...)
			}
			if out := m.verify(t, in); out.Verdict.Pass() {
				t.Fatalf("seed %d: passes", seed)
			}
		}
	}
}

// NT-35: rounds of different agents leave a policy that they share as it was.
func TestSharedPolicyStaysAsItIs(t *testing.T) {
	t.Parallel()
	shared := scenarioPolicy(t)
	fresh := scenarioPolicy(t)
	var wg sync.WaitGroup
	for i := range 8 {
		m := newMachine(t)
		m.policy = shared
		wg.Go(func() {
			for range 125 {
				m.play(t, "measure(1) round")
				if i%2 == 0 {
					m.play(t, "run(/evil) round="+notListed+" reboot restart")
				}
			}
		})
	}
	wg.Wait()
	if shared.Runtime.Digest() != fresh.Runtime.Digest() || !reflect.DeepEqual(shared, fresh) {
		t.Error("the policy changed")
	}
}

// NT-93: the outcome depends on the policy of the input alone, so a round is judged by one version.
func TestPolicyOfTheInputDecides(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.play(t, "run(/new)")
	in := m.answer(t)
	if out := m.verify(t, in); out.Verdict.Pass() {
		t.Error("passes under the old policy")
	}
	boot := fmt.Sprintf("%x", digestOf(make([]byte, 320)))
	in.Policy = compile(t, `"boot_aggregate":["`+boot+`"],"/new":["`+hexOf(fileDigest("/new"))+`"]`, "", "")
	if out := m.verify(t, in); !out.Verdict.Pass() {
		t.Errorf("fails under the new policy: %+v", out.Verdict)
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	low, high := policy.Severity{Label: "low"}, policy.Severity{Label: "high", Rank: 1, Highest: true}
	for _, c := range []struct {
		name        string
		verdict     Verdict
		pass, final bool
		worst       string
	}{
		{"nothing failed", Verdict{}, true, false, ""},
		{"undecided is no pass", Verdict{Again: true}, false, false, ""},
		{"soft", Verdict{Failures: []Failure{{EventID: "a", Severity: low, Recoverable: true}}}, false, false, "a"},
		{"irrecoverable", Verdict{Failures: []Failure{{EventID: "a", Severity: low}}}, false, true, "a"},
		{"highest", Verdict{Failures: []Failure{
			{EventID: "a", Severity: low, Recoverable: true}, {EventID: "b", Severity: high, Recoverable: true}, {EventID: "c", Severity: high, Recoverable: true},
		}}, false, true, "b"},
	} {
		worst, any := c.verdict.Worst()
		if c.verdict.Pass() != c.pass || c.verdict.Final() != c.final || worst.EventID != c.worst || any != (c.worst != "") {
			t.Errorf("%s: pass %v, final %v, worst %q", c.name, c.verdict.Pass(), c.verdict.Final(), worst.EventID)
		}
	}
}

// FuzzVerify: no evidence panics or is the verifier's fault, and none passes but what the TPM signed. Keys differ from
// process to process, so that the quote is fuzzed by what is changed in it.
func FuzzVerify(f *testing.F) {
	m := newMachineOf(f, fleet.Model{Alg: "rsa2048"})
	m.play(f, "measure(3) round measure(3)")
	genuine := m.answer(f)
	ev := genuine.Evidence
	all, _ := m.list.From(0)
	f.Add(uint16(0), []byte{}, ev.IMA, ev.IMAEntry, ev.PubKey)
	f.Add(uint16(0), []byte{}, all, uint64(0), ev.PubKey)
	f.Add(uint16(0), []byte{}, append(ev.IMA, "10 00 ima-buf sha256:00 .ima 30\n\n11 ff ima x: \n"...), ev.IMAEntry, "")
	f.Add(uint16(40), []byte{0, 1}, ev.IMA, ev.IMAEntry, ev.PubKey)
	f.Add(uint16(500), []byte{0xff}, ev.IMA, ev.IMAEntry, ev.PubKey)
	f.Fuzz(func(t *testing.T, at uint16, change, list []byte, entry uint64, key string) {
		in := clone(genuine)
		q := &in.Evidence.Quote
		joined := bytes.Join([][]byte{q.Attest, q.Signature, q.PCRBlob}, nil)
		changed := false
		for i, b := range change {
			joined[(int(at)+i)%len(joined)] ^= b
			changed = changed || b != 0
		}
		n := copy(q.Attest, joined)
		n += copy(q.Signature, joined[n:])
		copy(q.PCRBlob, joined[n:])
		in.Evidence.IMA, in.Evidence.IMAEntry, in.Evidence.PubKey = list, entry, key
		out, err := Verify(in)
		if err != nil {
			t.Fatal(err)
		}
		if out.Verdict.Pass() && (changed && len(change) <= len(joined) || key != ev.PubKey || out.State.NextEntry != 7) {
			t.Fatalf("passes: %+v", out)
		}
		if out.Verdict.Again && out.State.NextEntry != 0 {
			t.Fatalf("asks again from entry %d", out.State.NextEntry)
		}
		if _, err := DecodeState(out.State.Encode()); err != nil {
			t.Fatalf("state %+v: %v", out.State, err)
		}
	})
}
