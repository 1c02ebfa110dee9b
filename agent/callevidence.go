package agent

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"keylime/internal/api"
	"keylime/tpm"
)

// witness is what this machine can say of itself to a verifier that it calls.
type witness struct {
	attester *attester
	logs     bootLogs
	banks    map[tpm.Hash]tpm.Mask // of the TPM
	boot     boot
	keyName  string // what the AK is called towards verifiers
	uefiForm string // version of the event log's format
}

func (w *witness) certify(ctx context.Context, nonce []byte) (attest, signature []byte, err error) {
	return w.attester.certify(ctx, nonce)
}

// offer lists the evidence that this machine can give. A log that it does not have is offered as an empty one (wire), so
// that a policy which needs it fails the machine instead of never being asked.
func (w *witness) offer() (api.AttestationRequest, error) {
	var lines, none uint64
	var err error
	if w.logs.ima != nil {
		if lines, err = w.logs.ima.complete(); err != nil {
			return api.AttestationRequest{}, err
		}
	}
	bootLog := api.LogCapabilities{EvidenceVersion: w.uefiForm, Formats: []string{api.FormatBootLog}}
	if w.logs.uefi == nil {
		bootLog.EntryCount = &none
	}
	items := []api.EvidenceItem{
		w.quoteOffer(),
		item(api.ClassLog, api.EvidenceBootLog, bootLog),
		item(api.ClassLog, api.EvidenceIMA, api.LogCapabilities{
			EntryCount: &lines, Partial: true, Appendable: true, Formats: []string{api.FormatIMA},
		}),
	}
	return api.AttestationRequest{Supported: items, System: api.SystemInfo{BootTime: w.boot.time.Format(time.RFC3339)}}, nil
}

func item(class, kind string, capabilities any) api.EvidenceItem {
	text, err := json.Marshal(capabilities)
	if err != nil {
		panic("agent: capabilities cannot be encoded: " + err.Error()) // no field of theirs can fail
	}
	return api.EvidenceItem{Class: class, Type: kind, Capabilities: text}
}

// quoteOffer says what this TPM and its AK can do: sign with one scheme and one hash.
func (w *witness) quoteOffer() api.EvidenceItem {
	ak := w.attester.loaded().Public
	scheme, hash := ak.SignAlg(), ak.SchemeHash().String()
	subjects := make(map[string][]int, len(w.banks))
	hashes := make([]string, 0, len(w.banks))
	for bank, mask := range w.banks {
		subjects[bank.String()] = mask.PCRs()
		hashes = append(hashes, bank.String())
	}
	slices.Sort(hashes)
	algorithm, size := keyKind(ak)
	return item(api.ClassCertification, api.EvidenceQuote, quoteCapabilities{QuoteCapabilities: api.QuoteCapabilities{
		ComponentVersion: "2.0", SignatureSchemes: []string{scheme}, HashAlgorithms: hashes, Subjects: subjects,
		Keys: []api.CertificationKey{{
			Class: "asymmetric", Algorithm: algorithm, Size: size,
			ServerIdentifier: w.keyName, LocalIdentifier: hex.EncodeToString(ak.Name()),
			Schemes: []string{scheme}, Hashes: []string{hash},
			Public: base64.StdEncoding.EncodeToString(ak.Bytes()[2:]), // TPMT_PUBLIC: without the size
		}},
	}})
}

// quoteCapabilities leaves out the version that servers show as null: agents send none (wire).
type quoteCapabilities struct {
	api.QuoteCapabilities
	EvidenceVersion *string `json:"evidence_version,omitempty"`
}

// errAskedFor says that a verifier asks for what this machine did not offer.
var errAskedFor = errors.New("the verifier asks for evidence that this machine did not offer")

// collect gathers the evidence that was asked for, in that order. The quote is made first: the logs are read
// after it, so that they hold all that it covers.
func (w *witness) collect(ctx context.Context, requested []api.EvidenceItem) (*testimony, error) {
	parts := make([]part, len(requested))
	for i, want := range requested {
		if want.Type != api.EvidenceQuote {
			continue
		}
		data, err := w.quote(ctx, want)
		if err != nil {
			return nil, err
		}
		parts[i] = part{class: want.Class, kind: want.Type, head: data}
	}
	for i, want := range requested {
		if want.Type == api.EvidenceQuote {
			continue
		}
		log, err := w.log(want)
		if err != nil {
			return nil, err
		}
		parts[i] = log
	}
	return &testimony{parts}, nil
}

// quote quotes exactly the PCRs that were chosen, in the one bank that the AK signs with.
func (w *witness) quote(ctx context.Context, want api.EvidenceItem) (json.RawMessage, error) {
	var p api.QuoteParameters
	if err := json.Unmarshal(want.Chosen, &p); err != nil {
		return nil, fmt.Errorf("%w: parameters of the quote: %w", errAskedFor, err)
	}
	ak := w.attester.loaded().Public
	bank := ak.SchemeHash()
	if p.Scheme != ak.SignAlg() || p.Hash != bank.String() {
		return nil, fmt.Errorf("%w: signature %.20s with %.20s, but the attestation key signs %s with %v", errAskedFor, p.Scheme, p.Hash, ak.SignAlg(), bank)
	}
	mask := tpm.Mask(0)
	for name, pcrs := range p.Subjects {
		if len(pcrs) > 0 && name != p.Hash {
			return nil, fmt.Errorf("%w: PCRs of bank %.20s beside those of %v", errAskedFor, name, bank)
		}
		for _, pcr := range pcrs {
			if pcr < 0 || !w.banks[bank].Has(pcr) {
				return nil, fmt.Errorf("%w: PCR %d of bank %v", errAskedFor, pcr, bank)
			}
			mask = mask.With(pcr)
		}
	}
	nonce, err := api.DecodeChallenge(p.Challenge)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAskedFor, err)
	}
	quote, err := w.attester.quote(ctx, string(nonce), mask)
	if err != nil {
		return nil, err
	}
	return json.Marshal(api.QuoteData{
		Subjects:  base64.StdEncoding.EncodeToString(quote.PCRBlob),
		Message:   base64.StdEncoding.EncodeToString(quote.Attest),
		Signature: base64.StdEncoding.EncodeToString(quote.Signature),
	})
}

// log takes the part of a log that was asked for.
func (w *witness) log(want api.EvidenceItem) (part, error) {
	var p api.LogParameters
	if err := json.Unmarshal(want.Chosen, &p); err != nil {
		return part{}, fmt.Errorf("%w: parameters of %s: %w", errAskedFor, want.Type, err)
	}
	piece := part{class: want.Class, kind: want.Type}
	switch want.Type {
	case api.EvidenceBootLog:
		piece.binary = true
		if w.logs.uefi != nil {
			piece.text = io.NewSectionReader(w.logs.uefi, 0, maxBootLog)
		} else {
			piece.head = json.RawMessage(`{"entries":""}`)
		}
		return piece, nil
	case api.EvidenceIMA:
		if w.logs.ima == nil {
			piece.head = json.RawMessage(`{"entry_count":0,"entries":""}`)
			return piece, nil
		}
		var offset uint64
		if p.Offset != nil {
			offset = *p.Offset
		}
		window, lines, err := w.logs.ima.entries(offset, p.Count)
		piece.head, piece.text = fmt.Appendf(nil, `{"entry_count":%d}`, lines), window.text
		return piece, err
	}
	return part{}, fmt.Errorf("%w: %.50q", errAskedFor, want.Type)
}

// keyKind is how the wire names a key: its family and its size in bits.
func keyKind(key *tpm.Public) (algorithm string, bits int) {
	algorithm, bits = "rsa", 0
	name := key.EncAlg() // rsa2048, ecc256, …
	if name[:3] == "ecc" {
		algorithm = "ecc"
	}
	_, _ = fmt.Sscanf(name[3:], "%d", &bits)
	return algorithm, bits
}
