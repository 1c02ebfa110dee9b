package fleet

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"keylime/internal/api"
	"keylime/tpm"
)

// Capabilities is what it says it can give.
func (a *PushAgent) Capabilities() (api.AttestationRequest, error) {
	ak, err := tpm.ParsePublic(a.TPM.AKPublic())
	if err != nil {
		return api.AttestationRequest{}, err
	}
	offered := []any{quoteCapabilities(ak)}
	kinds := []api.EvidenceItem{{Class: api.ClassCertification, Type: api.EvidenceQuote}}
	if a.Boot != nil {
		offered = append(offered, api.LogCapabilities{EvidenceVersion: "2.1", Formats: []string{api.FormatBootLog}})
		kinds = append(kinds, api.EvidenceItem{Class: api.ClassLog, Type: api.EvidenceBootLog})
	}
	entries := uint64(a.List.Len())
	offered = append(offered, api.LogCapabilities{EntryCount: &entries, Partial: true, Appendable: true, Formats: []string{api.FormatIMA}})
	kinds = append(kinds, api.EvidenceItem{Class: api.ClassLog, Type: api.EvidenceIMA})
	for i := range kinds {
		if kinds[i].Capabilities, err = json.Marshal(offered[i]); err != nil {
			return api.AttestationRequest{}, err
		}
	}
	return api.AttestationRequest{
		Supported: kinds, System: api.SystemInfo{BootTime: a.Booted.Format(time.RFC3339)},
		Extensions: a.Extensions, NoticeSeen: a.NoticeSeen,
	}, nil
}

// quoteCapabilities are those of a SoftTPM with this AK.
func quoteCapabilities(ak *tpm.Public) api.QuoteCapabilities {
	c := api.QuoteCapabilities{
		ComponentVersion: "2.0", SignatureSchemes: []string{ak.SignAlg()}, Subjects: map[string][]int{},
		Keys: []api.CertificationKey{certificationKey(ak)},
	}
	all := make([]int, pcrCount)
	for i := range all {
		all[i] = i
	}
	for _, b := range banks {
		c.HashAlgorithms = append(c.HashAlgorithms, b.String())
		c.Subjects[b.String()] = all
	}
	return c
}

// certificationKey describes an AK, which its wire form names without the size in front.
func certificationKey(ak *tpm.Public) api.CertificationKey {
	family, bits := "rsa", 0
	switch key := ak.Key().(type) {
	case *rsa.PublicKey:
		bits = key.N.BitLen()
	case *ecdsa.PublicKey:
		family, bits = "ecc", key.Params().BitSize
	}
	return api.CertificationKey{
		Class: "asymmetric", Algorithm: family, Size: bits, ServerIdentifier: "ak",
		LocalIdentifier: fmt.Sprintf("%x", ak.Name()), Public: base64.StdEncoding.EncodeToString(ak.Bytes()[2:]),
		Schemes: []string{ak.SignAlg()}, Hashes: []string{ak.SchemeHash().String()},
	}
}

// Collect gathers what is wanted, in its order.
func (a *PushAgent) Collect(requested []api.EvidenceItem) ([]api.EvidenceItem, error) {
	items := make([]api.EvidenceItem, len(requested))
	for i, r := range requested {
		data, err := a.collect(r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.Type, err)
		}
		items[i] = api.EvidenceItem{Class: r.Class, Type: r.Type}
		if items[i].Data, err = json.Marshal(data); err != nil {
			return nil, err
		}
	}
	if a.Forge != nil {
		a.Forge(items)
	}
	return items, nil
}

func (a *PushAgent) collect(item api.EvidenceItem) (any, error) {
	switch item.Type {
	case api.EvidenceQuote:
		var p api.QuoteParameters
		if err := json.Unmarshal(item.Chosen, &p); err != nil {
			return nil, err
		}
		return a.quote(p)
	case api.EvidenceBootLog:
		text := base64.StdEncoding.EncodeToString(a.Boot.Bytes())
		return api.LogData{Entries: &text}, nil
	case api.EvidenceIMA:
		var p api.LogParameters
		if err := json.Unmarshal(item.Chosen, &p); err != nil {
			return nil, err
		}
		return a.entries(p), nil
	}
	return nil, errors.New("no such evidence")
}

func (a *PushAgent) quote(p api.QuoteParameters) (api.QuoteData, error) {
	nonce, err := base64.StdEncoding.DecodeString(p.Challenge)
	if err != nil {
		return api.QuoteData{}, err
	}
	bank, err := tpm.ParseHash(p.Hash)
	if err != nil {
		return api.QuoteData{}, err
	}
	q, err := a.TPM.Quote(nonce, tpm.MaskOf(p.Subjects[p.Hash]...), bank)
	if err != nil {
		return api.QuoteData{}, err
	}
	return QuoteData(q), nil
}

// QuoteData is a quote as the wire of the push model has it.
func QuoteData(q tpm.Quote) api.QuoteData {
	text := base64.StdEncoding.EncodeToString
	return api.QuoteData{Message: text(q.Attest), Signature: text(q.Signature), Subjects: text(q.PCRBlob)}
}

// entries is the measurement list from where it is wanted on.
func (a *PushAgent) entries(p api.LogParameters) api.LogData {
	var from uint64
	if p.Offset != nil {
		from = *p.Offset
	}
	list, _ := a.List.From(from)
	lines := slices.Collect(strings.Lines(string(list)))
	if p.Count != nil && *p.Count < uint64(len(lines)) {
		lines = lines[:*p.Count]
	}
	text, n := strings.Join(lines, ""), uint64(len(lines))
	return api.LogData{EntryCount: &n, Entries: &text}
}
