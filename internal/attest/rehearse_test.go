package attest

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"keylime/ima"
	"keylime/internal/policy"
	"keylime/tpm"
)

// rehearsal is the evidence of an answer as a tool would have it that cannot verify quotes.
func rehearsal(t testing.TB, in Input) Rehearsal {
	t.Helper()
	claims, err := tpm.ReadClaims(in.Evidence.Quote)
	if err != nil {
		t.Fatal(err)
	}
	return Rehearsal{Policy: in.Policy, Bank: claims.Bank, PCRs: claims.PCRs, IMA: in.Evidence.IMA, HasIMA: in.Evidence.HasIMA, BootLog: in.Evidence.BootLog}
}

// What a rehearsal says of genuine evidence is what a round says.
func TestRehearsalsSayWhatRoundsSay(t *testing.T) {
	t.Parallel()
	for _, life := range []string{
		"measure(3)",
		"measure(2) run(/usr/bin/evil) run(/tmp/x) measure(1)",
		"measure(2) log(3)",
		"log(1) run(/usr/bin/evil)", // PCR 10 lacks an entry that the list has
	} {
		m := newMachine(t)
		m.play(t, life)
		for _, forgery := range []string{"", "nolist", "empty", "garbage", "truncated"} {
			in := m.answer(t)
			if forgery != "" {
				forgeries[forgery](m, &in)
			}
			want, err := Verify(in)
			if err != nil {
				t.Fatal(err)
			}
			got := Rehearse(rehearsal(t, in))
			if !slices.Equal(got.Failures, want.Verdict.Failures) || got.Entries != want.Stats.Entries || got.Proven != want.Stats.Proven {
				t.Errorf("%s, %s: got %+v, want %+v", life, forgery, got, want)
			}
		}
	}
}

func TestRehearsalOfPCRPolicy(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.policy = set(t, m.policy.Runtime, `{"7": ["`+strings.Repeat("ab", 32)+`"], "mask": "0x480"}`)
	in := m.answer(t)
	want, err := Verify(in)
	if err != nil {
		t.Fatal(err)
	}
	r := rehearsal(t, in)
	if got := Rehearse(r); events(want.Verdict) != "pcr_validation.invalid_pcr_7" || !slices.Equal(got.Failures, want.Verdict.Failures) {
		t.Errorf("got %+v, want %+v", got.Failures, want.Verdict.Failures)
	}
	delete(r.PCRs, 7)
	if got := Rehearse(r); events(Verdict{Failures: got.Failures}) != EventMissingPCRs {
		t.Errorf("without the PCR: got %+v", got.Failures)
	}
}

// Without PCR 10 a rehearsal takes the list's word, says what it comes to, and lists all failures.
func TestRehearsalWithoutQuote(t *testing.T) {
	t.Parallel()
	const evil = MaxFailures + 50
	m := newMachine(t)
	m.play(t, "measure(1)"+strings.Repeat(" run(/usr/bin/evil)", evil))
	list, _ := m.list.From(0)
	lines, blamed := 0, 0
	got := Rehearse(Rehearsal{
		Policy: m.policy, Bank: tpm.SHA1, IMA: list, HasIMA: true,
		Visit: func(e *ima.Entry, err error, failures []Failure) {
			lines++
			if err != nil || (len(failures) == 1) != bytes.Equal(e.Name, []byte("/usr/bin/evil")) {
				t.Errorf("line %d, %s: %+v, %v", e.Line, e.Name, failures, err)
			}
			blamed += len(failures)
		},
	})
	if len(got.Failures) != evil || blamed != evil || lines != evil+2 || got.Entries != lines || got.Proven != lines {
		t.Errorf("%d failures, %d blamed on %d lines, %d entries, %d proven", len(got.Failures), blamed, lines, got.Entries, got.Proven)
	}
	if want := m.tpm.PCR(tpm.SHA1, tpm.PCRIma); !bytes.Equal(got.PCR10, want) {
		t.Errorf("the list comes to %x, want %x", got.PCR10, want)
	}
}

func TestRehearsalsOfBoots(t *testing.T) {
	t.Parallel()
	lost := chain1.Log(tpm.SHA1)
	for name, change := range map[string]func(in *Input){
		"good":       func(*Input) {},
		"no log":     func(in *Input) { in.Evidence.BootLog = nil },
		"other log":  func(in *Input) { in.Evidence.BootLog = chain2.Log(tpm.SHA256).Bytes() },
		"cut log":    func(in *Input) { in.Evidence.BootLog = in.Evidence.BootLog[:100] },
		"other bank": func(in *Input) { in.Evidence.BootLog = lost.Bytes() },
	} {
		for _, engine := range []string{policy.BootExample, policy.BootAcceptAll, policy.BootRejectAll} {
			m := measuredMachine(t, engine, chain1.Reference(), chain1)
			m.play(t, "measure(1)")
			in := m.answer(t)
			change(&in)
			want, err := Verify(in)
			if err != nil {
				t.Fatal(err)
			}
			if got := Rehearse(rehearsal(t, in)); !slices.Equal(got.Failures, want.Verdict.Failures) {
				t.Errorf("%s, %s: got %+v, want %+v", name, engine, got.Failures, want.Verdict.Failures)
			}
		}
	}
}

// Without a quote the log is taken at its word, and the policy judges it.
func TestRehearsalBelievesTheBootLog(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ reference, want string }{
		{chain1.Reference(), "pass"},
		{chain2.Reference(), "measured_boot.policy_example"},
	} {
		m := measuredMachine(t, policy.BootExample, c.reference, chain1)
		list, _ := m.list.From(0)
		got := Rehearse(Rehearsal{Policy: m.policy, Bank: tpm.SHA256, IMA: list, HasIMA: true, BootLog: m.chain.Bytes()})
		if events(Verdict{Failures: got.Failures}) != c.want {
			t.Errorf("got %+v, want %s", got.Failures, c.want)
		}
	}
}
