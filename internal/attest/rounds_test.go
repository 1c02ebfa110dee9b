package attest

import "testing"

func TestRounds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, scenario string }{
		{"an honest machine passes", "round measure(3) round round measure(500) round"},
		{"suspension changes nothing", "measure(3) round suspend measure(1) round"},
		{"the verifier may lose its state", "measure(3) round restart round measure(1) round"},
		{"an unknown file fails, and fails again", "measure(2) round run(/evil) round=ima.validation.ima-ng.not_in_allowlist round=ima.validation.ima-ng.not_in_allowlist"},
		{"an excluded file passes", "run(/tmp/anything) round"},

		{"reboot to a shorter list", "measure(9) round reboot measure(2) round round"},
		{"reboot to a longer list asks again, once", "measure(2) round reboot measure(9) round=again round round"},
		{"reboot to a list as long", "measure(2) round reboot measure(2) round=again round"},
		{"reboot and an unknown file", "measure(2) round reboot measure(9) run(/evil) round=again round=ima.validation.ima-ng.not_in_allowlist"},
		{"two reboots", "measure(2) round reboot measure(9) round=again reboot measure(9) round round"},
		{"reboot before the first round", "reboot measure(2) round"},

		// NT-3A
		{"a quote may lag by one", "measure(3) round log(1) round catchup round"},
		{"a quote may lag by 500", "measure(3) round log(500) round catchup measure(1) round"},
		{"lag must shrink", "measure(3) round log(2) round round=ima.quote_progress"},
		{"lag must shrink though the list grows", "measure(3) log(2) round log(2) round=ima.quote_progress"},
		{"HARDEN 13: shown entries may not disappear", "measure(3) log(2) round round!empty=ima.quote_progress"},
		{"nor when the whole list is sent", "measure(3) log(2) round round!full=ima.quote_progress"},
		{"nor through a failing round", "measure(3) log(2) round round!otherkey=pcr_validation.invalid_pcr_16,ima.quote_progress round!full=ima.quote_progress"},
		{"a reboot excuses them", "measure(3) log(2) round reboot measure(1) round"},
		{"truncated list", "measure(3) round!truncated=ima.pcr_mismatch"},
		{"truncated news", "measure(3) round measure(3) round!truncated=again round!truncated=ima.pcr_mismatch"},
		{"stale list", "measure(3) round measure(3) round!empty=again round!empty=ima.pcr_mismatch"},
		{"a mismatch that a full list explains", "measure(3) round measure(3) round!truncated=again round"},

		// NT-34
		{"more entries than asked for", "measure(3) round!full"},
		{"whole list unasked", "measure(3) round measure(1) round!full round"},
		{"other entry number", "measure(3) round measure(3) round!entry+1=qoute_validation.invalid_ima_entry_nb"},
		{"other entry number at first", "measure(3) round!entry+1=qoute_validation.invalid_ima_entry_nb"},

		// NT-24
		{"no list", "round!nolist=pcr_validation.unused_pcr_10"},
		{"garbage in the list", "measure(2) round!garbage=ima.parser.entry"},
		{"other transport key", "round!otherkey=pcr_validation.invalid_pcr_16"},
		{"no transport key", "round!nokey=qoute_validation.no_pubkey"},
		{"bad signature", "round!badsig=qoute_validation.quote_validation round"},
		{"other nonce", "round!othernonce=qoute_validation.quote_validation"}, // NT-25
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			newMachine(t).play(t, c.scenario)
		})
	}
}
