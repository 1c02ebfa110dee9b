package differential

import (
	"crypto/sha256"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"keylime/internal/fleet"
	"keylime/tpm"
)

// deviation is a life that the two sides judge differently, as a row of docs/compatibility.md says.
type deviation struct {
	row          string // its subject
	ours, theirs string // event ids of the last round, separated by spaces
	live         func(w *world) *life
}

// allListed is a policy that lists every path of the tests in its first version, and every key of the signers on .ima.
func (w *world) allListed(change func(policy map[string]any)) policies {
	digests := map[string][]string{}
	for _, path := range paths {
		digests[strings.ReplaceAll(path, " ", "_")] = []string{hexOf(content("sha256", path, 0))}
	}
	keys := []string{}
	for _, s := range w.signers {
		keys = append(keys, hexOf(s.load(".ima").digest))
	}
	p := map[string]any{
		"meta": map[string]any{"version": 1, "generator": 2}, "release": 0, "digests": digests, "excludes": []string{},
		"keyrings": map[string]any{".ima": keys}, "ima": map[string]any{"ignored_keyrings": []string{}, "log_hash_alg": "sha1", "dm_policy": nil},
		"ima-buf": map[string]any{}, "verification-keys": "",
	}
	if change != nil {
		change(p)
	}
	return policies{runtime: marshal(w.t, p), tpm: `{"mask": "0x400"}`}
}

// good is a measurement that allListed lists.
func good(path string) entry {
	return entry{template: "ima-ng", alg: "sha256", digest: content("sha256", path, 0), name: path}
}

// evil is one that it does not.
func evil() entry {
	return entry{template: "ima-ng", alg: "sha256", digest: content("sha256", "evil", 0), name: "/usr/bin/evil"}
}

// lifeWith measures entries and attests once.
func (w *world) lifeWith(p policies, entries []entry, forgeries ...forgery) *life {
	l := newLife(w.t, newMachine(w.t, w.source, fleet.Model{Alg: "ecc256"}, tpm.SHA1), p)
	for _, e := range entries {
		l.machine.measure(w.t, e)
	}
	l.round(forgeries...)
	return l
}

var two = []entry{good(paths[1]), good(paths[2])}

func quoteDeviations() []deviation {
	return []deviation{
		{"signature of a quote", "qoute_validation.quote_validation", "pcr_validation.missing_pcr_16", func(w *world) *life {
			return w.lifeWith(w.allListed(nil), two, func(a *answer) { a.quote.Signature[len(a.quote.Signature)-1] ^= 1 })
		}},
		{"PCR selection", "qoute_validation.quote_validation", "", func(w *world) *life {
			return w.lifeWith(w.allListed(nil), two, func(a *answer) { a.mask = a.mask.With(3); a.requote(w.t) })
		}},
		{"required PCRs", "pcr_validation.missing_pcrs", "", func(w *world) *life {
			return w.lifeWith(w.allListed(nil), append(two, evil()), func(a *answer) { a.mask &^= tpm.MaskOf(tpm.PCRIma); a.requote(w.t) })
		}},
		{"algorithms", "qoute_validation.invalid_sign_alg", "", func(w *world) *life {
			l := newLife(w.t, newMachine(w.t, w.source, fleet.Model{Alg: "ecc256"}, tpm.SHA1), w.allListed(nil))
			l.accept = append(l.accept, "rsapss")
			l.round(func(a *answer) { a.signAlg = "rsapss" })
			return l
		}},
		{"attestation key", "qoute_validation.quote_validation", "", func(w *world) *life {
			const unrestricted = fleet.AKAttributes &^ 0x10000
			l := newLife(w.t, newMachine(w.t, w.source, fleet.Model{Alg: "ecc256", Attributes: unrestricted}, tpm.SHA1), w.allListed(nil))
			l.round()
			return l
		}},
		{"TPM clock", "", "qoute_validation.quote_validation", func(w *world) *life {
			l := newLife(w.t, newMachine(w.t, w.source, fleet.Model{Alg: "ecc256"}, tpm.SHA1), w.allListed(nil))
			l.round()
			l.machine.tpm.Restart() // a suspension
			l.round()
			l.machine.reboot()
			l.round()
			return l
		}},
		{"transport key", "ima.validation.ima-ng.not_in_allowlist qoute_validation.no_pubkey", "qoute_validation.no_pubkey", func(w *world) *life {
			return w.lifeWith(w.allListed(nil), []entry{evil()}, func(a *answer) { a.pubkey = "" })
		}},
	}
}

func listDeviations() []deviation {
	return []deviation{
		{"measurement violations", "ima.validation.ima_hash", "", func(w *world) *life {
			return w.lifeWith(w.allListed(nil), append(two, evil()), func(a *answer) {
				fields := strings.SplitN(a.list[2], " ", 3)
				a.list[2] = fields[0] + " " + strings.Repeat("f", 40) + " " + fields[2]
			})
		}},
		{"ignore_tomtou_errors", "ima.validation.tomtou", "", func(w *world) *life {
			l := newLife(w.t, newMachine(w.t, w.source, fleet.Model{Alg: "ecc256"}, tpm.SHA1), w.allListed(nil))
			l.set.IgnoreToMToU = false
			l.machine.measure(w.t, entry{template: "ima-ng", alg: "sha256", digest: make([]byte, 32), name: "/var/log/x", violation: true})
			l.round()
			return l
		}},
		{"buffer measurements", "ima.validation.ima_hash", "", func(w *world) *life {
			listed := w.signers[0].load(".ima")
			listed.last = w.signers[1].loaded
			return w.lifeWith(w.allListed(nil), []entry{listed})
		}},
		{"keys that the kernel loads", "ima.validation.ima-ng.not_in_allowlist", "", func(w *world) *life {
			signed := evil()
			signed.template, signed.last = "ima-sig", w.signers[0].sign(w.t, signed.digest)
			p := w.allListed(func(p map[string]any) { p["keyrings"], p["excludes"] = map[string]any{}, []string{`\.evm`} })
			return w.lifeWith(p, []entry{w.signers[0].load(".evm"), signed})
		}},
		{"file signatures", "ima.validator.ima-sig.invalid_signature", "ima.pcr_mismatch ima.validation.ima_hash", func(w *world) *life {
			e := good(paths[1])
			e.template, e.last = "ima-sig", []byte{3, 2, 4, 1, 2, 3, 4, 0, 9, 1}
			return w.lifeWith(w.allListed(nil), []entry{e})
		}},
		{"measurement lines", "ima.parser.entry ima.pcr_mismatch", "", func(w *world) *life {
			e := good(paths[1])
			e.template = "ima-sig"
			return w.lifeWith(w.allListed(nil), append(two, e), func(a *answer) {
				a.list = append(a.list[:2], a.list[2]+"not hexadecimal", a.list[0])
			})
		}},
		{"measurements of other PCRs", "ima.validation.ima_pcr", "ima.pcr_mismatch ima.validation.ima_pcr", func(w *world) *life {
			return w.lifeWith(w.allListed(nil), two, func(a *answer) {
				a.list = slices.Insert(a.list, 1, "11"+strings.TrimPrefix(a.list[0], "10"))
			})
		}},
		{"entries shown and not proven", "ima.quote_progress", "", func(w *world) *life {
			l := newLife(w.t, newMachine(w.t, w.source, fleet.Model{Alg: "ecc256"}, tpm.SHA1), w.allListed(nil))
			l.machine.measure(w.t, good(paths[1]))
			l.machine.show(good(paths[2]))
			l.round()
			l.machine.lines, l.machine.behind = l.machine.lines[:1], nil // the second was never measured
			l.round()
			return l
		}},
		{"list that does not go on", "", "ima.pcr_mismatch", func(w *world) *life {
			l := newLife(w.t, newMachine(w.t, w.source, fleet.Model{Alg: "ecc256"}, tpm.SHA1), w.allListed(nil))
			l.machine.measure(w.t, good(paths[1]))
			l.round()
			l.machine.measure(w.t, good(paths[2]))
			l.round(func(a *answer) { a.list = nil }) // asked for again from the first entry, which must do
			return l
		}},
	}
}

// compareDeviations holds that each row of docs/compatibility.md is as it says, and is there.
func compareDeviations(t *testing.T, p *peer, seed uint64, _ int) {
	w := &world{t: t, source: rand.NewChaCha8(sha256.Sum256([]byte{byte(seed)})), signers: newSigners(t)}
	w.random = rand.New(w.source)
	listed := rows(t)
	for _, d := range slices.Concat(quoteDeviations(), listDeviations(), bootDeviations()) {
		l := d.live(w)
		l.ask(p)
		theirs := l.theirs(p)
		last := func(rounds [][]string) string { return strings.Join(rounds[len(rounds)-1], " ") }
		if last(l.ours) != d.ours || last(theirs) != d.theirs || len(l.ours) != len(theirs) {
			t.Errorf("%s: got %q here and %q at the peer, want %q and %q\n%s", d.row, l.ours, theirs, d.ours, d.theirs, l.describe())
		}
		if !listed[d.row] {
			t.Errorf("docs/compatibility.md has no row %q", d.row)
		}
	}
	for _, row := range []string{"exclude patterns", "policy texts", "measured-boot policies"} { // which other comparisons rely on
		if !listed[row] {
			t.Errorf("docs/compatibility.md has no row %q", row)
		}
	}
}
