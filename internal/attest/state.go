package attest

import "keylime/tpm"

// State is what one round hands to the next. The zero value belongs to an agent that was never attested.
// It holds no pointers into evidence; copying a State is cheap and copies share nothing that is ever modified.
type State struct {
	Attested  bool              // at least one round passed; Clock is meaningful
	Clock     tpm.Clock         // of the last good quote
	Bank      tpm.Hash          // bank that PCR10 belongs to; 0 = no running value
	NextEntry uint64            // first IMA entry not yet proven
	PCR10     []byte            // running value after NextEntry entries; nil = zeros
	BootTime  int64             // as the attester last claimed
	Keyrings  map[string]string // learned keyrings: name → keyring JSON (spec/policies §2.4)
	// The lag rule of spec/policies §1.4: how far the last list was proven, and how long it was.
	HasProgress bool
	Matched     int
	Length      int
}
