package verifier

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"keylime/internal/api"
	"keylime/store"
	"keylime/tpm"
)

// Negotiation is pure: what the agent can give and what its policies need, give what it is asked for, or the list of
// reasons why it cannot attest.

// terms is the verifier's side of a negotiation.
type terms struct {
	mask                   tpm.Mask // PCRs that the agent's policies need
	bootLog                bool     // the boot log is needed
	acceptHash, acceptSign []string // in the tenant's order of preference
	ak                     *tpm.Public
	challenge              []byte
	nextEntry              uint64    // first IMA entry that is not proven yet
	provenBoot             time.Time // of the attestation that proved the entries before it
}

// bootJitter is by how much two statements of one boot time differ: the kernel computes it from a clock that is
// corrected now and then. What was rebooted is decided by the TPM's reset count.
const bootJitter = 5 * time.Second

// negotiate chooses the evidence to ask for, in the order quote, boot log, IMA log. None is chosen when the policies
// need none.
func negotiate(c capabilities, t terms) ([]store.EvidenceItem, []api.ErrorItem) {
	n := negotiation{capabilities: c, terms: t, hashes: intersect(t.acceptHash, nil), schemes: intersect(t.acceptSign, nil)}
	n.checkQuotes()
	if t.mask != 0 {
		n.chooseQuote()
		if t.bootLog {
			n.chooseLog(api.EvidenceBootLog)
		}
		if t.mask.Has(tpm.PCRIma) {
			n.chooseLog(api.EvidenceIMA)
		}
	}
	if len(n.errors) > 0 {
		return nil, n.errors
	}
	return n.chosen, nil
}

// negotiation is one under way.
type negotiation struct {
	capabilities
	terms
	form
	hashes, schemes []string // accepted
	chosen          []store.EvidenceItem
}

// intersect returns the elements of list that others has too, each once, in the order of list; nil others has all.
func intersect(list, others []string) []string {
	var both []string
	for _, s := range list {
		if !slices.Contains(both, s) && (others == nil || slices.Contains(others, s)) {
			both = append(both, s)
		}
	}
	return both
}

// checkQuotes holds every TPM that is offered to being one that the agent may use.
func (n *negotiation) checkQuotes() {
	for i, item := range n.items {
		if !item.is(api.ClassCertification, api.EvidenceQuote) {
			continue
		}
		at := fmt.Sprintf("%s/%d/capabilities", evidencePointer, i)
		if !slices.ContainsFunc(item.quote.Keys, func(k api.CertificationKey) bool {
			return slices.ContainsFunc(n.schemes, func(s string) bool { return familyOf(s) == k.Algorithm })
		}) {
			n.refuse(at+"/certification_keys", "must have a key usable with a signature algorithm allowable for agent")
		}
		if !anyBank(item.quote.Subjects, n.hashes) {
			n.refuse(at+"/available_subjects", "must have a PCR bank for a hash algorithm allowable for agent")
		}
	}
}

func anyBank(banks map[string][]int, hashes []string) bool {
	return slices.ContainsFunc(hashes, func(h string) bool { return banks[h] != nil })
}

// chooseQuote takes the first TPM that can give what is needed. The refusal names the first condition that none meets.
func (n *negotiation) chooseQuote() {
	var left []offered
	for _, item := range n.items {
		if item.is(api.ClassCertification, api.EvidenceQuote) {
			left = append(left, item)
		}
	}
	if len(left) == 0 {
		n.refuse(evidencePointer, "must contain a certification item of type 'tpm_quote' per agent policy")
		return
	}
	for _, condition := range []struct {
		hint string
		met  func(q api.QuoteCapabilities) bool
	}{
		{"check 'component_version'", func(q api.QuoteCapabilities) bool { return q.ComponentVersion == "2.0" }},
		{"check 'signature_schemes'", func(q api.QuoteCapabilities) bool { return len(intersect(n.schemes, q.SignatureSchemes)) > 0 }},
		{"check 'hash_algorithms'", func(q api.QuoteCapabilities) bool { return len(intersect(n.hashes, q.HashAlgorithms)) > 0 }},
		{"check PCR banks in 'available_subjects'", func(q api.QuoteCapabilities) bool { return anyBank(q.Subjects, n.hashes) }},
		{"check schemes and algorithms in 'certification_keys'", func(q api.QuoteCapabilities) bool { return len(n.usable(q)) > 0 }},
		{"check the correct numbered PCRs are given for an allowable PCR bank", func(q api.QuoteCapabilities) bool {
			return n.covers(q, n.usable(q)[0].hash)
		}},
	} {
		left = slices.DeleteFunc(left, func(o offered) bool { return !condition.met(o.quote) })
		if len(left) == 0 {
			n.refuse(evidencePointer, "must have 'tpm_quote' with capabilities which are valid and satisfy agent policy ("+condition.hint+")")
			return
		}
	}
	n.ask(left[0], n.parameters(left[0].quote))
}

// useOfKey is a key with the scheme and the hash that it will sign with. The PCR bank is that of the hash.
type useOfKey struct {
	key          api.CertificationKey
	scheme, hash string
	rank         int // in the tenant's order of preference; the lowest is best
}

// usable lists how the keys of a TPM may be used, the best first. Whatever is said of a key, the enrolled AK signs by its
// own scheme and hash only, and nobody else's signature counts. Keys that are said to be the AK go before others.
func (n *negotiation) usable(q api.QuoteCapabilities) []useOfKey {
	schemes, hashes := intersect(n.schemes, q.SignatureSchemes), intersect(n.hashes, q.HashAlgorithms)
	var uses []useOfKey
	for _, k := range q.Keys {
		s := slices.IndexFunc(schemes, func(s string) bool {
			return familyOf(s) == k.Algorithm && allows(k.Schemes, s) && s == n.ak.SignAlg()
		})
		h := slices.IndexFunc(hashes, func(h string) bool {
			return allows(k.Hashes, h) && len(q.Subjects[h]) > 0 && h == n.ak.SchemeHash().String()
		})
		if s >= 0 && h >= 0 {
			uses = append(uses, useOfKey{key: k, scheme: schemes[s], hash: hashes[h], rank: s + h})
		}
	}
	uses = preferring(uses, func(u useOfKey) bool { return n.isAK(u.key) })
	uses = preferring(uses, func(u useOfKey) bool { return u.key.ServerIdentifier == "ak" })
	slices.SortStableFunc(uses, func(a, b useOfKey) int { return cmp.Compare(a.rank, b.rank) })
	return uses
}

// allows reports whether a restriction leaves name; without one everything is allowed.
func allows(restriction []string, name string) bool {
	return restriction == nil || slices.Contains(restriction, name)
}

// preferring returns those that are preferred, or all when none is.
func preferring(uses []useOfKey, preferred func(useOfKey) bool) []useOfKey {
	var some []useOfKey
	for _, u := range uses {
		if preferred(u) {
			some = append(some, u)
		}
	}
	if len(some) == 0 {
		return uses
	}
	return some
}

// isAK reports whether a key is said to be the enrolled AK: by its public area, with or without the size before it, or
// by its name.
func (n *negotiation) isAK(k api.CertificationKey) bool {
	public, ok := decodeBinary(k.Public)
	if ok && len(public) > 0 {
		enrolled := n.ak.Bytes()
		return slices.Equal(public, enrolled) || slices.Equal(public, enrolled[2:])
	}
	return k.LocalIdentifier == hex.EncodeToString(n.ak.Name())
}

// covers reports whether a bank has all PCRs that are needed.
func (n *negotiation) covers(q api.QuoteCapabilities, bank string) bool {
	for _, pcr := range n.mask.PCRs() {
		if !slices.Contains(q.Subjects[bank], pcr) {
			return false
		}
	}
	return true
}

// parameters are what the quote has to be. Banks that are not wanted are null.
func (n *negotiation) parameters(q api.QuoteCapabilities) api.QuoteParameters {
	use := n.usable(q)[0]
	subjects := make(map[string][]int, len(q.Subjects))
	for bank := range q.Subjects {
		subjects[bank] = nil
	}
	subjects[use.hash] = n.mask.PCRs()
	return api.QuoteParameters{
		Challenge: base64.StdEncoding.EncodeToString(n.challenge),
		Scheme:    use.scheme, Hash: use.hash, Subjects: subjects, Key: &use.key,
	}
}

// chooseLog takes the first log of the type that can be had as needed.
func (n *negotiation) chooseLog(kind string) {
	found := false
	for _, item := range n.items {
		if !item.is(api.ClassLog, kind) {
			continue
		}
		found = true
		switch {
		case kind == api.EvidenceBootLog && slices.Contains(item.log.Formats, api.FormatBootLog):
			n.ask(item, api.LogParameters{Format: api.FormatBootLog})
			return
		case kind == api.EvidenceIMA && slices.Contains(item.log.Formats, api.FormatIMA) && item.log.Partial:
			offset := n.offset(item.log)
			n.ask(item, api.LogParameters{Offset: &offset, Format: api.FormatIMA})
			return
		}
	}
	switch {
	case !found:
		n.refuse(evidencePointer, "must contain a log item of type '"+kind+"' per agent policy")
	case kind == api.EvidenceBootLog:
		n.refuse(evidencePointer, "must have 'uefi_log' with format '"+api.FormatBootLog+"'")
	default:
		n.refuse(evidencePointer, "must have 'ima_log' with format '"+api.FormatIMA+"' and which supports partial access")
	}
}

// offset is the first IMA entry to ask for: the first that is not proven, if this may be the boot that it was proven in
// and the log has not become shorter; else all are asked for, and the TPM's reset count says whether that is honest.
func (n *negotiation) offset(log api.LogCapabilities) uint64 {
	if n.provenBoot.IsZero() || n.boot.Sub(n.provenBoot).Abs() > bootJitter {
		return 0
	}
	if log.EntryCount == nil || *log.EntryCount < n.nextEntry {
		return 0
	}
	return n.nextEntry
}

// ask adds an item to what is asked for.
func (n *negotiation) ask(item offered, parameters any) {
	var given any = item.log
	if item.class == api.ClassCertification {
		given = item.quote
	}
	n.chosen = append(n.chosen, store.EvidenceItem{
		Class: item.class, Type: item.kind, Capabilities: encodeJSON(given), Chosen: encodeJSON(parameters),
	})
}

// encodeJSON encodes what is made of texts and numbers, which cannot fail.
func encodeJSON(v any) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil {
		panic("verifier: " + err.Error())
	}
	return text
}
