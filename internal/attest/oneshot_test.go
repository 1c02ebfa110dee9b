package attest

import (
	"strings"
	"testing"

	"keylime/tpm"
)

// alone makes a round's input stand alone, as evidence that somebody hands in.
func alone(in Input) Input {
	in.Challenge.Mask = in.Challenge.Mask.With(tpm.PCRData)
	in.Challenge.BindData, in.Challenge.OneShot, in.State = false, true, State{}
	in.Evidence.PubKey, in.Evidence.EncAlg = "", in.Identity.AK.EncAlg()
	return in
}

func TestEvidenceThatStandsAlone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(m *machine, in *Input)
		want   string
	}{
		{"good evidence passes", func(*machine, *Input) {}, "pass"},
		{"PCR 10 without a runtime policy is left out of account", func(_ *machine, in *Input) {
			p := *in.Policy
			p.Runtime, p.PCR = nil, set(t, nil, "{}").PCR
			in.Policy, in.Evidence.HasIMA, in.Evidence.IMA = &p, false, nil
		}, "pass"},
		{"another nonce", func(_ *machine, in *Input) { in.Challenge.Nonce = []byte("another") }, EventQuoteValidation},
		{"a list that is cut off", func(_ *machine, in *Input) { in.Evidence.IMA = dropLast(in.Evidence.IMA) }, EventIMAPCRMismatch},
		{"a list that does not begin at the beginning", func(_ *machine, in *Input) { in.Evidence.IMAEntry = 1 }, EventInvalidIMAEntryNb},
		{"no list", func(_ *machine, in *Input) { in.Evidence.HasIMA = false }, EventUnusedPCR + "10"},
	} {
		m := newMachine(t)
		m.step(t, "measure(3)")
		in := alone(m.answer(t))
		c.change(m, &in)
		out, err := Verify(in)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := events(out.Verdict); got != c.want {
			t.Errorf("%s: got %s, want %s\n%+v", c.name, got, c.want, out.Verdict.Failures)
		}
	}
}

// A TPM whose clock is not safe yet may still say what its PCRs are; only a later round would need the clock.
func TestEvidenceThatStandsAloneNeedsNoClock(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	clock := m.tpm.Clock()
	clock.Safe = false
	m.tpm.SetClock(clock)
	in := m.answer(t)
	for oneShot, want := range map[bool]string{true: "pass", false: EventQuoteValidation} {
		judged := in
		if oneShot {
			judged = alone(in)
		}
		out, err := Verify(judged)
		if err != nil {
			t.Fatal(err)
		}
		if got := events(out.Verdict); got != want {
			t.Errorf("one-shot %v: got %s, want %s", oneShot, got, want)
		}
	}
}

func TestEvidenceThatStandsAloneHasNoState(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for name, change := range map[string]func(in *Input){
		"a transport key": func(in *Input) { in.Challenge.BindData = true },
		"a state":         func(in *Input) { in.State = State{Attested: true} },
		"an entry":        func(in *Input) { in.Challenge.Entry, in.State.NextEntry = 4, 4 },
	} {
		in := alone(m.answer(t))
		change(&in)
		if _, err := Verify(in); err == nil || !strings.Contains(err.Error(), "stands alone") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
