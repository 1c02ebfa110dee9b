package api

import (
	"encoding/json"
	"testing"
)

// FuzzAttestations holds that whatever a verifier shows is read without harm, and that what is read can be shown.
func FuzzAttestations(f *testing.F) {
	const one = `{"type":"attestation","attributes":{"stage":"verification_complete","evaluation":"pass","system_info":{"boot_time":"t"}},"links":{"self":"/3/agents/A/attestations/7"}}`
	for _, text := range []string{
		`{"data":` + one + `}`,
		`{"data":[` + one + `,` + one + `],"links":{"self":"x","next":"/v3.0/agents/A/attestations?page[before]=7"}}`,
		`{"data":[]}`, `{"data":null}`, `{"data":{"type":"agent"}}`, `{"data":[],"links":{"next":"%zz"}}`, `{}`, ``,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, _, err := decodeAttestations(text)
		if err != nil {
			return
		}
		for _, a := range list {
			if _, err := json.Marshal(a); err != nil {
				t.Errorf("%q was read as what cannot be shown: %v", text, err)
			}
		}
	})
}
