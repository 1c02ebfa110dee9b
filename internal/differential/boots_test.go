package differential

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"keylime/internal/fleet"
	"keylime/internal/policy"
	"keylime/internal/recorded"
	"keylime/internal/uefi"
	"keylime/tpm"
)

// boot is a machine's event log and what its PCRs became.
type boot struct {
	log     []byte
	measure func(*fleet.SoftTPM) error
}

// generated is the boot of a chain, with additions.
func generated(l *fleet.BootLog) boot { return boot{l.Bytes(), l.Boot} }

// chain is a random one: of two releases, whole or with parts of the other.
func (w *world) chain() fleet.BootChain {
	c := fleet.NewBootChain("1")
	other := fleet.NewBootChain("2")
	for _, part := range []struct{ own, other *string }{
		{&c.Firmware, &other.Firmware}, {&c.Shim, &other.Shim}, {&c.Grub, &other.Grub}, {&c.Kernel, &other.Kernel},
		{&c.Initrd, &other.Initrd}, {&c.CommandLine, &other.CommandLine},
	} {
		if w.chance(4) {
			*part.own = *part.other
		}
	}
	if w.chance(5) {
		c.SecureBootOff = true
	}
	switch w.random.IntN(12) {
	case 0:
		c.Forbidden = append(c.Forbidden, "newer shim")
	case 1:
		c.Forbidden = c.Forbidden[:1]
	}
	return c
}

// additions are events that firmware and boot loaders may add, most of which the engine example does not expect.
func (w *world) additions(l *fleet.BootLog) {
	text := func(pcr int, kind uefi.EventType, s string) { l.Event(pcr, kind, []byte(s), []byte(s)) }
	switch w.random.IntN(24) {
	case 0:
		text(4, uefi.EFIAction, "Returning from EFI Application from Boot Option")
	case 1:
		text(5, uefi.EFIAction, "Exit Boot Services Returned with Success")
	case 2:
		text(5, uefi.EFIAction, "Something else")
	case 3:
		l.Event(4, uefi.BootApplication, make([]byte, 32), []byte(fleet.NewBootChain("1").Kernel)) // the kernel a second time
	case 4:
		l.Event(2, uefi.BootDriver, make([]byte, 32), []byte("driver"))
	case 5:
		l.Event(9, uefi.IPL, []byte("(hd0,gpt2)/loader/entries.srel\x00"), []byte("entry"))
	case 6:
		l.Event(9, uefi.IPL, []byte("(hd0,gpt2)/unheard\x00"), []byte("of"))
	case 7:
		l.Event(8, uefi.IPL, []byte("kernel_cmdline: second\x00"), []byte("second"))
	case 8:
		l.Event(11, uefi.IPL, []byte("x\x00"), []byte("x"))
	}
}

// reference is that of a random chain, at times with a fault.
func (w *world) reference() string {
	text := w.chain().Reference()
	if w.chance(70) {
		return text
	}
	var state map[string]any
	if err := json.Unmarshal([]byte(text), &state); err != nil {
		w.t.Fatal(err)
	}
	name := pick(w, sortedNames(state))
	switch list, isList := state[name].([]any); {
	case isList && len(list) > 0 && w.chance(50):
		state[name] = append(list, list[0])
	case isList && w.chance(60):
		state[name] = []any{}
	case w.chance(30):
		delete(state, name)
	case w.chance(50):
		state[name] = pick(w, []any{nil, 1, "x", []any{"x"}, map[string]any{}})
	default:
		state["more"] = true
	}
	return marshal(w.t, state)
}

// bootLife is one round of a machine after a boot.
func (w *world) bootLife(b boot, reference, engine string) *life {
	m := newMachine(w.t, w.source, fleet.Model{Alg: "ecc256"}, tpm.SHA1)
	if err := b.measure(m.tpm); err != nil {
		w.t.Fatal(err)
	}
	p := w.allListed(nil)
	p.boot, p.engine = reference, engine
	l := newLife(w.t, m, p)
	m.bootLog = b.log
	return l
}

// aggregate measures boot_aggregate, which the policy does not list: the event log has to explain it.
func (w *world) aggregate(m *machine) {
	a := fleet.BootMeasurement(func(i int) []byte { return m.tpm.PCR(tpm.SHA256, i) })
	m.measure(w.t, entry{template: "ima-ng", alg: "sha256", digest: a.Digest, name: a.Path})
}

// contradict changes what the quote or the log says, so that they do not go together.
func (w *world) contradict(l *life) {
	switch w.random.IntN(12) {
	case 0:
		if err := l.machine.tpm.Extend(pick(w, []int{0, 4, 7, 8, 9, 14}), map[tpm.Hash][]byte{tpm.SHA256: make([]byte, 32)}); err != nil {
			w.t.Fatal(err)
		}
	case 1:
		l.machine.bootLog = nil
	case 2:
		l.machine.bootLog = l.machine.bootLog[:len(l.machine.bootLog)-1-w.random.IntN(20)] // within the last event
	}
}

// compareBoots judges event logs by reference states.
func compareBoots(t *testing.T, p *peer, seed uint64, count int) {
	w := newWorld(t, seed)
	var lives []*life
	refused := 0
	for len(lives) < count {
		log := w.chain().Log(tpm.SHA256)
		w.additions(log)
		reference := w.reference()
		if _, err := policy.CompileBoot(policy.BootExample, []byte(reference)); err != nil {
			refused++ // the row "measured-boot policies": what no boot could pass is refused at upload
			continue
		}
		l := w.bootLife(generated(log), reference, pick(w, []string{policy.BootExample, policy.BootExample, policy.BootExample, policy.BootAcceptAll, policy.BootRejectAll}))
		if w.chance(30) {
			w.aggregate(l.machine)
		}
		w.contradict(l)
		l.round()
		l.ask(p)
		lives = append(lives, l)
	}
	t.Logf("%d reference states refused at upload", refused)
	tally := judgeBoots(t, p, lives)
	if tally[""] == 0 || len(tally) < 4 {
		t.Errorf("the generated boots have too few outcomes to compare: %v", tally)
	}
}

// judgeBoots compares lives of one round each, which the peer was asked about.
func judgeBoots(t *testing.T, p *peer, lives []*life) (tally map[string]int) {
	tally = map[string]int{}
	for i, l := range lives {
		theirs := l.theirs(p)
		tally[strings.Join(theirs[0], " ")]++
		if !sameBoot(l.ours[0], theirs[0]) {
			t.Errorf("boot %d: events are %q here, %q at the peer\n%s", i, l.ours[0], theirs[0], l.describe())
		}
	}
	t.Logf("%d boots; outcomes: %v", len(lives), tally)
	return tally
}

// sameBoot compares the events of a boot. Of a log that does not explain the quote the peer reads more: the rows "logs that
// do not replay" and "boot_aggregate".
func sameBoot(ours, theirs []string) bool {
	unexplained := func(id string) bool { return strings.HasPrefix(id, "measured_boot.invalid_pcr_") }
	if slices.ContainsFunc(ours, unexplained) {
		reading := func(id string) bool {
			return strings.HasPrefix(id, "measured_boot.policy_") || id == "ima.validation.ima-ng.runtime_policy_hash"
		}
		ours = slices.DeleteFunc(slices.Clone(ours), reading)
		theirs = slices.DeleteFunc(slices.Clone(theirs), reading)
	}
	return slices.Equal(ours, theirs)
}

// compareRecordedBoots judges logs of machines by reference states made from them and from the others.
func compareRecordedBoots(t *testing.T, p *peer, seed uint64, _ int) {
	w := newWorld(t, seed)
	names := []string{"fedora-vm-secureboot.bin", "rhel-secureboot.bin", "vm-no-secureboot.bin"}
	var lives []*life
	for _, name := range names {
		raw := recorded.File(t, "uefi/"+name)
		for _, other := range names {
			l := w.bootLife(boot{raw, extendedBy(t, raw)}, referenceOf(t, recorded.File(t, "uefi/"+other)), policy.BootExample)
			l.round()
			l.ask(p)
			lives = append(lives, l)
		}
	}
	if tally := judgeBoots(t, p, lives); tally[""] != len(names) {
		t.Errorf("%d boots pass, want those that are judged by their own reference states, %d", tally[""], len(names))
	}
}

// referenceOf makes a reference state from a log.
func referenceOf(t *testing.T, raw []byte) string {
	t.Helper()
	log, err := uefi.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	believed, err := uefi.Believe(log, tpm.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	made, err := policy.BootReference(believed, policy.BootReferenceOptions{WithoutSecureBoot: true})
	if err != nil {
		t.Fatal(err)
	}
	return string(made)
}

// extendedBy extends a TPM with the digests of a log.
func extendedBy(t *testing.T, raw []byte) func(*fleet.SoftTPM) error {
	t.Helper()
	log, err := uefi.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return func(soft *fleet.SoftTPM) error {
		for _, e := range log.Events() {
			for _, d := range e.Digests {
				if d.Alg != tpm.SHA256 || e.Type == uefi.NoAction {
					continue
				}
				if err := soft.Extend(e.PCR, map[tpm.Hash][]byte{tpm.SHA256: d.Value}); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// bootDeviations are those of measured boot.
func bootDeviations() []deviation {
	return []deviation{
		{"payloads in event logs", "measured_boot.policy_example", "", func(w *world) *life {
			chain := fleet.NewBootChain("1")
			chain.SecureBootOff = true
			b := generated(chain.Log(tpm.SHA256))
			// The machine booted with secure boot off, and its log says that it was on.
			const name = "S\x00e\x00c\x00u\x00r\x00e\x00B\x00o\x00o\x00t\x00"
			forged := bytes.Replace(b.log, []byte(name+"\x00"), []byte(name+"\x01"), 1)
			if bytes.Equal(forged, b.log) {
				w.t.Fatal("the log has no variable SecureBoot to forge")
			}
			l := w.bootLife(boot{forged, b.measure}, fleet.NewBootChain("1").Reference(), policy.BootExample)
			l.round()
			return l
		}},
		{"logs that do not replay", "measured_boot.invalid_pcr_8", "measured_boot.invalid_pcr_8 measured_boot.policy_example", func(w *world) *life {
			l := w.bootLife(generated(fleet.NewBootChain("2").Log(tpm.SHA256)), fleet.NewBootChain("1").Reference(), policy.BootExample)
			if err := l.machine.tpm.Extend(8, map[tpm.Hash][]byte{tpm.SHA256: make([]byte, 32)}); err != nil {
				w.t.Fatal(err)
			}
			l.round()
			return l
		}},
		{"boot_aggregate", "ima.validation.ima-ng.runtime_policy_hash measured_boot.invalid_pcr_9", "measured_boot.invalid_pcr_9", func(w *world) *life {
			chain := fleet.NewBootChain("1")
			l := w.bootLife(generated(chain.Log(tpm.SHA256)), chain.Reference(), policy.BootExample)
			w.aggregate(l.machine)
			if err := l.machine.tpm.Extend(9, map[tpm.Hash][]byte{tpm.SHA256: make([]byte, 32)}); err != nil {
				w.t.Fatal(err)
			}
			l.round()
			return l
		}},
	}
}
