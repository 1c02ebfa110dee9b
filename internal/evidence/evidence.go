// Package evidence appraises evidence that somebody hands in: once, without knowing the machine and without keeping
// anything. The request holds the evidence, the key it is signed with, the nonce and the policies; whoever sends it says
// by all of these what the verdict is worth. It is shared by the verifier's route and by `keylime verify`.
package evidence

import (
	"fmt"
	"strings"

	"keylime/internal/strictjson"
)

// The kinds of evidence.
const (
	KindTPM = "tpm" // a quote, with measurement list and event log
	KindTEE = "tee" // a report of a trusted execution environment
)

// maxDepth is deeper than policies nest that are given as JSON objects, not as their text.
const maxDepth = 32

// Request is evidence with all that it is appraised by, read but not believed.
type Request struct {
	Kind string
	// Data is the JSON text of what was handed in: the claims of good evidence of a TPM.
	Data string
	TPM  TPM // of KindTPM
	TEE  TEE // of KindTEE
}

// TPM is what comes with a quote. An empty text is one that was not given.
type TPM struct {
	Quote, Nonce, HashAlg string // the nonce as text: the quote's qualifying data
	EK, AK                string // base64 of TPM2B_PUBLIC; the EK is asked for and of no account: who asks vouches for the AK
	TPMPolicy             string // JSON
	RuntimePolicy         string // JSON, plain or in its envelope
	RuntimePolicyKey      string // base64 of PEM: the key that the runtime policy is signed with
	BootPolicy            string // JSON
	IMA                   string // measurement list (ASCII), from its first entry on
	BootLog               string // base64 of the binary event log
}

// TEE is what comes with a report.
type TEE struct {
	TEE    string // which one: "snp"
	Nonce  string // base64
	X, Y   string // coordinates of the guest's key, base64url without padding
	Report string // base64
	VCEK   string // base64 of DER: the certificate of the processor's key; "": it is looked up

	evidence bool // the object with the report is there
	tee      bool // the object around it, too
}

// RequestError is a request that cannot be appraised at all. Its text is fit to be shown to whoever sent it.
type RequestError struct{ Text string }

func (e *RequestError) Error() string { return e.Text }

func refuse(format string, args ...any) error { return &RequestError{fmt.Sprintf(format, args...)} }

// Parse reads the body of a request: {"type": "tpm" or "tee", "data": {…}}. What is missing within the data is no error
// here, but part of the verdict. The error is a *RequestError.
func Parse(body []byte) (Request, error) {
	var kind, data string
	r := strictjson.NewReader(string(body), maxDepth)
	err := r.Object(func(name string) (err error) {
		switch name {
		case "type":
			kind, err = text(r, name)
		case "data":
			data, err = r.Raw()
		default:
			err = r.Skip()
		}
		return err
	})
	if err == nil {
		err = r.End()
	}
	switch {
	case err != nil:
		return Request{}, refuse("the body is not the JSON of a request: %v", err)
	case kind == "":
		return Request{}, refuse("missing parameter 'type'")
	case data == "" || data == `""` || data == "null":
		return Request{}, refuse("missing parameter 'data'")
	}
	return parseData(kind, data)
}

// ParseAttributes reads a request as the attributes of a resource: {"evidence_type": "tpm" or "tee", "data": {…}}. It is
// Parse, with a name that JSON:API allows attributes to have.
func ParseAttributes(attributes string) (Request, error) {
	var kind, data string
	err := members(attributes, map[string]field{"evidence_type": {&kind, text}, "data": {&data, document}})
	switch {
	case err != nil:
		return Request{}, refuse("attributes: %v", err)
	case kind == "":
		return Request{}, refuse("missing attribute 'evidence_type'")
	case data == "":
		return Request{}, refuse("missing attribute 'data'")
	}
	return parseData(kind, data)
}

// parseData reads a request in its two parts: the kind, and the JSON text of the data.
func parseData(kind, data string) (Request, error) {
	req := Request{Kind: kind, Data: data}
	var err error
	switch kind {
	case KindTPM:
		err = req.TPM.read(data)
	case KindTEE:
		err = req.TEE.read(data)
	default:
		return Request{}, refuse("invalid evidence type")
	}
	if err != nil {
		return Request{}, refuse("data: %v", err)
	}
	return req, nil
}

func (t *TPM) read(data string) error {
	return members(data, map[string]field{
		"quote": {&t.Quote, text}, "nonce": {&t.Nonce, text}, "hash_alg": {&t.HashAlg, text},
		"tpm_ek": {&t.EK, text}, "tpm_ak": {&t.AK, text},
		"tpm_policy": {&t.TPMPolicy, document}, "runtime_policy": {&t.RuntimePolicy, document}, "mb_policy": {&t.BootPolicy, document},
		"runtime_policy_key": {&t.RuntimePolicyKey, text}, "ima_measurement_list": {&t.IMA, text}, "mb_log": {&t.BootLog, text},
	})
}

func (t *TEE) read(data string) error {
	var outer, inner string
	err := members(data, map[string]field{
		"nonce": {&t.Nonce, text}, "tee-pubkey-x-b64": {&t.X, text}, "tee-pubkey-y-b64": {&t.Y, text},
		"tee-evidence": {&outer, document},
	})
	if t.tee = outer != ""; err != nil || !t.tee {
		return err
	}
	if err := members(outer, map[string]field{"tee": {&t.TEE, text}, "evidence": {&inner, document}}); err != nil {
		return fmt.Errorf("tee-evidence: %w", err)
	}
	if t.evidence = inner != ""; !t.evidence {
		return nil
	}
	if err := members(inner, map[string]field{"snp-report": {&t.Report, text}, "vcek": {&t.VCEK, text}}); err != nil {
		return fmt.Errorf("tee-evidence: evidence: %w", err)
	}
	return nil
}

// field is where a member goes, and how it is read.
type field struct {
	into *string
	read func(r *strictjson.Reader, name string) (string, error)
}

// members reads an object's members. Unknown ones are left out of account, those that are nearly a known one refused: a
// policy whose name was misspelt must not be forgotten.
func members(data string, fields map[string]field) error {
	r := strictjson.NewReader(data, maxDepth)
	err := r.Object(func(name string) (err error) {
		f, ok := fields[name]
		if ok {
			*f.into, err = f.read(r, name)
			return err
		}
		for known := range fields {
			if plain(known) == plain(name) {
				return fmt.Errorf("member %q must be spelt %q", name, known)
			}
		}
		return r.Skip()
	})
	if err == nil {
		err = r.End()
	}
	return err
}

func plain(name string) string { return strings.ToLower(strings.ReplaceAll(name, "-", "_")) }

// text reads a text; null stands for none.
func text(r *strictjson.Reader, name string) (string, error) {
	switch r.Kind() {
	case strictjson.String:
		return r.String()
	case strictjson.Null:
		return "", r.Null()
	}
	return "", fmt.Errorf("%s is not a text", name)
}

// document reads a JSON object, as it is or as a text that holds it.
func document(r *strictjson.Reader, name string) (string, error) {
	if r.Kind() == strictjson.Object {
		return r.Raw()
	}
	return text(r, name)
}
