package verifytool

import (
	"fmt"

	"keylime/internal/api"
	"keylime/internal/evidence"
	"keylime/internal/strictjson"
)

// maxNesting is more than an agent's answer nests.
const maxNesting = 16

// parse reads a request, or what an agent answers to /quotes/integrity: flags give what that lacks.
func parse(body []byte) (evidence.Request, error) {
	var answer struct {
		Type    *string           `json:"type"`
		Results *api.QuoteResults `json:"results"`
	}
	if err := strictjson.Unmarshal(body, maxNesting, &answer); err != nil || answer.Type != nil || answer.Results == nil {
		return evidence.Parse(body) // which says what is wrong
	}
	a := answer.Results
	if a.IMAEntry != nil && *a.IMAEntry != 0 {
		return evidence.Request{}, fmt.Errorf("the answer holds the measurement list from entry %d on; alone it proves nothing: ask for all of it", *a.IMAEntry)
	}
	t := evidence.TPM{Quote: a.Quote, HashAlg: a.HashAlg}
	if a.IMA != nil {
		t.IMA = *a.IMA
	}
	if a.BootLog != nil {
		t.BootLog = *a.BootLog
	}
	return evidence.Request{Kind: evidence.KindTPM, Data: "{}", TPM: t}, nil
}
