package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"keylime/internal/strictjson"
	"keylime/tpm"
)

const pcrCount = 24

// PCR is a compiled tpm_policy: digests that PCRs must have, and the PCRs to ask for. It is immutable.
type PCR struct {
	digest string
	mask   tpm.Mask
	values [pcrCount][][]byte
}

// ParsePCR reads a tpm_policy: a JSON object of PCR number to one hex digest or a list of them, and "mask", a hex
// string. Its error is an *Error.
//
// Digests may be of any bank and in either case, with or without "0x"; those of another bank than the quote's never
// match. A PCR without a digest, PCR 10 (it changes with every measurement) and PCR 16 (it binds the agent's key) are
// refused. Without "mask" the PCRs asked for are those with digests; a mask that lacks one of them is refused.
// Only strings occur, so a peer that reads the text as a Python literal sees the same policy.
func ParsePCR(text string) (*PCR, error) {
	if len(text) > maxPCRBytes {
		return nil, &Error{fmt.Sprintf("tpm_policy of %d bytes exceeds %d", len(text), maxPCRBytes)}
	}
	sum := sha256.Sum256([]byte(text))
	p := PCR{digest: hex.EncodeToString(sum[:])}
	var mask *tpm.Mask
	r := strictjson.NewReader(text, 2)
	err := r.Object(func(name string) error {
		if name == "mask" {
			s, err := r.String()
			if err != nil {
				return err
			}
			m, err := tpm.ParseMask(s)
			mask = &m
			return err
		}
		return p.readPCR(r, name)
	})
	if err == nil {
		err = r.End()
	}
	if err != nil {
		return nil, &Error{"tpm_policy: " + err.Error()}
	}
	p.mask = p.Constrained()
	if mask != nil {
		if missing := p.mask &^ *mask; missing != 0 {
			return nil, &Error{fmt.Sprintf("tpm_policy: mask %v lacks PCRs %v, for which the policy has digests", *mask, missing.PCRs())}
		}
		p.mask = *mask
	}
	return &p, nil
}

// readPCR reads the digests of one PCR.
func (p *PCR) readPCR(r *strictjson.Reader, name string) error {
	pcr, err := strconv.Atoi(name)
	if err != nil || pcr < 0 || pcr >= pcrCount || strconv.Itoa(pcr) != name {
		return &Error{"Invalid tpm policy pcr number: " + name}
	}
	switch pcr {
	case tpm.PCRIma:
		return &Error{"Invalid allowlist PCR number 10, this PCR is used for IMA."}
	case tpm.PCRData:
		return &Error{"Invalid allowlist PCR number 16, keylime uses this PCR to bind data."}
	}
	readDigest := func() error {
		s, err := r.String()
		if err != nil {
			return err
		}
		digest, err := parseDigest(s)
		if err != nil {
			return fmt.Errorf("PCR %d: %w", pcr, err)
		}
		p.values[pcr] = append(p.values[pcr], digest)
		return nil
	}
	if r.Kind() != strictjson.Array {
		return readDigest()
	}
	if err := r.Array(readDigest); err != nil {
		return err
	}
	if len(p.values[pcr]) == 0 {
		return fmt.Errorf("PCR %d: the list of digests is empty; no value could ever match", pcr)
	}
	return nil
}

func parseDigest(s string) ([]byte, error) {
	digest, err := hex.DecodeString(strings.TrimPrefix(s, "0x"))
	if err != nil {
		return nil, fmt.Errorf("digest %q is not hexadecimal", s)
	}
	for _, h := range []tpm.Hash{tpm.SHA1, tpm.SHA256, tpm.SHA384, tpm.SHA512} {
		if len(digest) == h.Size() {
			return digest, nil
		}
	}
	return nil, fmt.Errorf("digest %q has %d bytes; want 20, 32, 48 or 64", s, len(digest))
}

// Digest is the hex SHA-256 of the text.
func (p *PCR) Digest() string { return p.digest }

// Mask is the PCR selection that the policy's text asks for.
func (p *PCR) Mask() tpm.Mask { return p.mask }

// Asking returns the same policy, with more PCRs asked for.
func (p *PCR) Asking(more tpm.Mask) *PCR {
	wider := *p
	wider.mask |= more
	return &wider
}

// Narrowed returns the same policy, which asks for no other PCRs than those that it has digests for.
func (p *PCR) Narrowed() *PCR {
	narrow := *p
	narrow.mask = p.Constrained()
	return &narrow
}

// Constrained is the set of PCRs for which the policy has digests.
func (p *PCR) Constrained() tpm.Mask {
	var m tpm.Mask
	for pcr, digests := range p.values {
		if len(digests) > 0 {
			m = m.With(pcr)
		}
	}
	return m
}

// Allows reports whether the value is one of the PCR's digests.
func (p *PCR) Allows(pcr int, value []byte) bool {
	for _, digest := range p.values[pcr] {
		if bytes.Equal(digest, value) {
			return true
		}
	}
	return false
}

// Digests lists the digests of a PCR in lower-case hex.
func (p *PCR) Digests(pcr int) []string {
	list := make([]string, len(p.values[pcr]))
	for i, digest := range p.values[pcr] {
		list[i] = hex.EncodeToString(digest)
	}
	return list
}
