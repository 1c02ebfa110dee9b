package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"keylime/tpm"
)

// State is what one round hands to the next. The zero value belongs to an agent that was never attested.
//
// It holds no pointers into evidence; copying a State is cheap, and copies share nothing that is ever modified.
// Dropping a State only means that the next round starts from entry 0.
type State struct {
	// Attested: at least one round passed, and Clock is that of the last quote believed.
	Attested bool      `json:"attested,omitempty"`
	Clock    tpm.Clock `json:"clock"`

	// NextEntry is the first IMA entry not yet proven; PCR10 the running value in Bank after the entries before it.
	// Bank 0 means that there is no running value.
	Bank      tpm.Hash `json:"bank,omitempty"`
	NextEntry uint64   `json:"nextEntry,omitempty"`
	PCR10     []byte   `json:"pcr10,omitempty"`
	// Shown is the number of IMA entries that the attester has shown since the TPM was last reset, proven or not.
	// The next round must prove them all: an entry once shown cannot be withdrawn.
	Shown uint64 `json:"shown,omitempty"`

	// Keyrings are the keys learned from proven entries: name of the keyring → keyring JSON, as learnedRing has it.
	Keyrings map[string]string `json:"keyrings,omitempty"`

	// Boot names the last good judgement of the boot: a digest of all that it depends on, see round.bootKey.
	Boot []byte `json:"boot,omitempty"` // since version 2

	// DeviceMapper is what came of the proven entries of the device mapper; nil when the policy did not ask.
	DeviceMapper *DeviceMapper `json:"deviceMapper,omitempty"` // since version 2
}

// stateVersion is the first byte of an encoded State. What follows is JSON of that version's fields; a later version has
// those of the earlier ones.
const stateVersion = 2

var errStateVersion = errors.New("attestation state of an unknown version; it was written by a newer release")

// Encode returns the versioned form that DecodeState reads. Equal states have equal encodings.
func (s State) Encode() []byte {
	body, err := json.Marshal(s)
	if err != nil {
		panic("attest: state cannot be encoded: " + err.Error()) // no field of State can fail
	}
	return append([]byte{stateVersion}, body...)
}

// DecodeState reads what Encode wrote. Empty input is the zero State.
func DecodeState(encoded []byte) (State, error) {
	if len(encoded) == 0 {
		return State{}, nil
	}
	if encoded[0] == 0 || encoded[0] > stateVersion {
		return State{}, fmt.Errorf("%w (version %d)", errStateVersion, encoded[0])
	}
	var s State
	d := json.NewDecoder(bytes.NewReader(encoded[1:]))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return State{}, fmt.Errorf("attestation state: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return State{}, errors.New("attestation state: trailing data")
	}
	if (s.Bank != 0 && !s.Bank.Valid()) || len(s.PCR10) != s.Bank.Size() {
		return State{}, fmt.Errorf("attestation state: PCR 10 of %d bytes does not fit bank %v", len(s.PCR10), s.Bank)
	}
	if len(s.Boot) != 0 && (len(s.Boot) != sha256.Size || encoded[0] < 2) {
		return State{}, fmt.Errorf("attestation state: digest of the boot has %d bytes", len(s.Boot))
	}
	if s.DeviceMapper != nil && encoded[0] < 2 {
		return State{}, errors.New("attestation state: devices in a version that has none")
	}
	if s.Bank == 0 && s.NextEntry != 0 {
		return State{}, errors.New("attestation state: entries were proven, but PCR 10 is missing")
	}
	return s, nil
}

// restarted is the state from which the measurement list is read again from its beginning. What is known of the TPM's
// clock stays, and so does Shown: only a reset of the TPM excuses entries from being proven.
func (s State) restarted() State {
	return State{Attested: s.Attested, Clock: s.Clock, Shown: s.Shown}
}
