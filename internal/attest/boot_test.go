package attest

import (
	"bytes"
	"strings"
	"testing"

	"keylime/internal/fleet"
	"keylime/internal/policy"
	"keylime/tpm"
)

// measuredMachine boots a chain and is judged by an engine with a reference state. Its runtime policy does not know the
// boot aggregate: the event log has to explain it.
func measuredMachine(t testing.TB, engine, reference string, chain fleet.BootChain) *machine {
	t.Helper()
	m := newMachine(t)
	m.policy = compile(t, `"`+filePath(0)+`":["`+hexOf(fileDigest(filePath(0)))+`"]`, "", "")
	m.judgedBy(t, engine, reference)
	m.boots(t, chain)
	return m
}

func (m *machine) judgedBy(t testing.TB, engine, reference string) {
	t.Helper()
	boot, err := policy.CompileBoot(engine, []byte(reference))
	if err != nil {
		t.Fatal(err)
	}
	set := *m.policy
	set.Boot = boot
	m.policy = &set
}

func (m *machine) boots(t testing.TB, chain fleet.BootChain) {
	t.Helper()
	m.chain = chain.Log(tpm.SHA1, tpm.SHA256)
	m.reboot(t)
}

var chain1, chain2 = fleet.NewBootChain("1"), fleet.NewBootChain("2")

// TestEnginesJudgeBoots runs each engine on good and bad boots, from a state that knows nothing of the agent, as a one-shot
// verification has it (HARDEN 7).
func TestEnginesJudgeBoots(t *testing.T) {
	t.Parallel()
	off := chain1
	off.SecureBootOff = true
	for name, c := range map[string]struct {
		engine, reference string
		chain             fleet.BootChain
		want              string
	}{
		"accept-all":                {policy.BootAcceptAll, `{"any":1}`, chain2, "pass"},
		"reject-all":                {policy.BootRejectAll, `{"any":1}`, chain1, "measured_boot.policy_reject-all"},
		"example":                   {policy.BootExample, chain1.Reference(), chain1, "pass"},
		"example, other kernel":     {policy.BootExample, chain1.Reference(), chain2, "measured_boot.policy_example"},
		"example, secure boot off":  {policy.BootExample, chain1.Reference(), off, "measured_boot.policy_example"},
		"relaxed":                   {policy.BootExampleRelaxed, chain1.Reference(), chain1, "pass"},
		"relaxed, other kernel":     {policy.BootExampleRelaxed, chain1.Reference(), chain2, "measured_boot.policy_example-relaxed"},
		"reject-all, empty policy":  {policy.BootRejectAll, `{}`, chain1, "ima.validation.ima-ng.not_in_allowlist"}, // nothing quoted, nothing judged
		"own rules":                 {policy.BootAcceptAll, `{"keylime_boot_rules":1,"events":[]}`, chain1, "measured_boot.policy_rules"},
		"own rules, but reject-all": {policy.BootRejectAll, `{"keylime_boot_rules":1,"events":[]}`, chain1, "measured_boot.policy_reject-all"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := measuredMachine(t, c.engine, c.reference, c.chain)
			m.play(t, "measure(1)")
			if got := events(m.verify(t, m.answer(t)).Verdict); got != c.want {
				t.Errorf("got %s, want %s\n%+v", got, c.want, m.last.Verdict.Failures)
			}
		})
	}
}

// NT-33: good rounds do not make a later boot good.
func TestBootIsJudgedAgainAfterReboot(t *testing.T) {
	t.Parallel()
	m := measuredMachine(t, policy.BootExample, chain1.Reference(), chain1)
	m.play(t, "measure(1) round round round reboot round")
	m.boots(t, chain2)
	m.play(t, "round=measured_boot.policy_example round=measured_boot.policy_example")
	m.boots(t, chain1)
	m.play(t, "round")
}

// NT-33: neither does a policy that is not the policy any more. The verdict is that of the policy of the round.
func TestBootIsJudgedAgainWhenThePolicyChanges(t *testing.T) {
	t.Parallel()
	m := measuredMachine(t, policy.BootExample, chain1.Reference(), chain1)
	m.play(t, "measure(1) round round")
	m.judgedBy(t, policy.BootExample, chain2.Reference())
	m.play(t, "round=measured_boot.policy_example")
	m.judgedBy(t, policy.BootExample, chain1.Reference())
	m.play(t, "round")
	m.judgedBy(t, policy.BootRejectAll, chain1.Reference())
	m.play(t, "round=measured_boot.policy_reject-all")
}

// A log may grow, as after kexec; what it gained is judged.
func TestBootIsJudgedAgainWhenTheLogChanges(t *testing.T) {
	t.Parallel()
	m := measuredMachine(t, policy.BootExample, chain1.Reference(), chain1)
	m.play(t, "measure(1) round")
	before := bytes.Clone(m.state.Boot)
	m.play(t, "round")
	if len(before) == 0 || !bytes.Equal(before, m.state.Boot) {
		t.Error("the judgement was not remembered")
	}
	text := []byte("kernel_cmdline: init=/bin/sh\x00")
	m.chain.Event(8, 0xD, text, []byte("init=/bin/sh"))
	sum := tpm.SHA256.Crypto().New()
	sum.Write([]byte("init=/bin/sh"))
	if err := m.tpm.Extend(8, map[tpm.Hash][]byte{tpm.SHA256: sum.Sum(nil)}); err != nil {
		t.Fatal(err)
	}
	m.play(t, "round=measured_boot.policy_example")
}

// NT-32: a log that is not this boot's fails PCR by PCR, and its content is not read.
func TestBootLogMustExplainTheQuote(t *testing.T) {
	t.Parallel()
	allUnused := "pcr_validation.unused_pcr_0,pcr_validation.unused_pcr_1,pcr_validation.unused_pcr_2,pcr_validation.unused_pcr_3," +
		"pcr_validation.unused_pcr_4,pcr_validation.unused_pcr_5,pcr_validation.unused_pcr_6,pcr_validation.unused_pcr_7," +
		"pcr_validation.unused_pcr_8,pcr_validation.unused_pcr_9,pcr_validation.unused_pcr_14,measured_boot.missing_pcrs"
	raw := chain1.Log(tpm.SHA1, tpm.SHA256).Bytes()
	for name, c := range map[string]struct {
		log  []byte
		want string
	}{
		"its own":           {raw, "pass"},
		"another machine's": {chain2.Log(tpm.SHA1, tpm.SHA256).Bytes(), "measured_boot.invalid_pcr_0,measured_boot.invalid_pcr_4,measured_boot.invalid_pcr_8,measured_boot.invalid_pcr_9"},
		"none":              {nil, allUnused},
		"of another bank":   {chain1.Log(tpm.SHA1).Bytes(), "measured_boot.parser.invalid_pcrs_hashes"},
		"cut":               {raw[:len(raw)-1], "measured_boot.parser.tpm2_eventlog.error"},
		"cut by an event":   {raw[:len(raw)-101], "measured_boot.invalid_pcr_5"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := measuredMachine(t, policy.BootExample, chain1.Reference(), chain1)
			m.policy.Runtime = compile(t, `"boot_aggregate":["`+hexOf(m.aggregate())+`"]`, "", "").Runtime
			in := m.answer(t)
			in.Evidence.BootLog = c.log
			if got := events(m.verify(t, in).Verdict); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// aggregate is the digest of the measurement list's first entry.
func (m *machine) aggregate() []byte {
	return fleet.BootMeasurement(func(i int) []byte { return m.tpm.PCR(tpm.SHA256, i) }).Digest
}

// NT-35: boot_aggregate may be what a log explains only if that log explains the quote; and rounds leave the policy, which
// others share, as it was.
func TestBootAggregateNeedsAProvenLog(t *testing.T) {
	t.Parallel()
	const wants = "ima.validation.ima-ng.not_in_allowlist"
	m := measuredMachine(t, policy.BootAcceptAll, `{"any":1}`, chain1)
	m.play(t, "round restart round")
	in := m.answer(t)
	in.State, in.Challenge.Entry, in.Evidence.IMAEntry = State{}, 0, 0
	in.Evidence.IMA, _ = m.list.From(0)
	in.Evidence.BootLog = nil
	if got := events(m.verify(t, in).Verdict); !strings.HasPrefix(got, wants+",pcr_validation.unused_pcr_0,") {
		t.Errorf("without a log: %s", got)
	}
	// A log whose aggregate the list names, but which is not this boot's.
	forged := chain2.Log(tpm.SHA1, tpm.SHA256)
	other := measuredMachine(t, policy.BootAcceptAll, `{"any":1}`, chain2)
	if _, err := m.list.Add(bootAggregate, other.aggregate()); err != nil {
		t.Fatal(err)
	}
	m.state = State{}
	in = m.answer(t)
	in.Evidence.BootLog = forged.Bytes()
	if got := events(m.verify(t, in).Verdict); !strings.HasPrefix(got, wants+",measured_boot.invalid_pcr_0") {
		t.Errorf("with another boot's log: %s", got)
	}
	// Without a measured-boot policy the log is believed as little, and PCRs that were not quoted prove nothing.
	m = newMachine(t)
	m.boots(t, chain1)
	m.play(t, "round="+strings.Replace(wants, "not_in_allowlist", "runtime_policy_hash", 1))
	m.policy = set(t, m.policy.Runtime, `{"mask":"0x7ff"}`)
	m.play(t, "round")
}

// HARDEN 6: what a rule reads must be what was measured. The log replays, for replay reads digests only.
func TestPayloadsMustBeWhatWasMeasured(t *testing.T) {
	t.Parallel()
	off := chain1
	off.SecureBootOff = true
	other := chain1
	other.CommandLine = "/vmlinuz-1 root=/dev/vda1 ro init=/bin/sh"
	for name, c := range map[string]struct {
		booted   fleet.BootChain
		from, to string
	}{
		"secure boot": {off, "t\x00\x00", "t\x00\x01"},
		"kernel_cmdline": {other, "kernel_cmdline: " + other.CommandLine + "\x00",
			"kernel_cmdline: " + chain1.CommandLine + strings.Repeat("\x00", len(other.CommandLine)-len(chain1.CommandLine)+1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := measuredMachine(t, policy.BootExample, chain1.Reference(), c.booted)
			in := m.answer(t)
			forged := bytes.Replace(in.Evidence.BootLog, []byte(c.from), []byte(c.to), 1)
			if bytes.Equal(forged, in.Evidence.BootLog) || len(forged) != len(in.Evidence.BootLog) {
				t.Fatal("nothing was forged")
			}
			in.Evidence.BootLog = forged
			out := m.verify(t, in)
			if got := events(out.Verdict); got != "measured_boot.policy_example" {
				t.Fatalf("got %s", got)
			}
			if context := out.Verdict.Failures[0].Context; !strings.Contains(context, "digest does not match payload") {
				t.Errorf("context %s", context)
			}
		})
	}
}
